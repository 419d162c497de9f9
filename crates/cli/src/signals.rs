//! Signals become a flag that long work looks at; a second one ends the process at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};

use crate::error::exit;

/// Sets the returned flag on Ctrl-C, SIGTERM and SIGHUP; work then cleans up and the process exits with 130.
/// When another one comes before that, the process exits on the spot: unfinished files have no name where the
/// file system can do that, and what is in a store's staging folder is swept by the next run.
///
/// A signal that whoever started us chose to ignore (`nohup`, a shell's background job) stays ignored.
pub(crate) fn watch() -> Arc<AtomicBool> {
    let flag = Arc::new(AtomicBool::new(false));
    let ignored = ignored_signals();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if ignored & (1 << (signal - 1)) != 0 {
            continue;
        }
        // Registration fails only for signals that cannot be caught, which these are not; without it the
        // default action (to die) still holds.
        let _ = signal_hook::flag::register_conditional_shutdown(
            signal,
            i32::from(exit::INTERRUPTED),
            Arc::clone(&flag),
        );
        let _ = signal_hook::flag::register(signal, Arc::clone(&flag));
    }
    // Past the limit on file sizes a write should fail with an error, like any other, and not kill.
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
    flag
}

/// The mask of ignored signals, bit 0 for signal 1; none where the kernel does not tell.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    mask_of(&status).unwrap_or(0)
}

fn mask_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::mask_of;

    #[test]
    fn the_mask_of_ignored_signals_is_read_from_the_status_file() {
        let status = "Name:\tkiln\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(mask_of(status), Some(0x1001));
        assert_eq!(mask_of("Name:\tkiln\n"), None);
    }
}
