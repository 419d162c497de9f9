//! Does KVM run guests here? A device node that opens is no proof: nested and emulated KVMs open well and stop at the
//! first instruction that they do not know. So a guest is booted.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_disk::os;

use crate::error::{Result, io};

/// The guest, one sector; its source is `kvm_probe.s`.
const GUEST: &[u8; 512] = include_bytes!("kvm_probe.bin");
/// What QEMU exits with when the guest came to its end.
const GUEST_BOOTED: i32 = 0x63;
const PATIENCE: Duration = Duration::from_secs(15);
/// What QEMU prints when the kernel gives a guest up; it then waits for ever.
const GIVEN_UP: &str = "KVM internal error";

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// A guest booted.
    Works,
    /// There is no KVM.
    Absent,
    /// It is there and does not run guests, for this reason.
    Broken(&'static str),
}

/// Boots the guest with KVM, for 15 s at most. `scratch` is a directory for nameless files.
///
/// # Errors
/// [`kiln_disk::Error::Io`]: the emulator cannot be run, or there is no room for a file.
pub fn probe(emulator: &Path, scratch: &Path) -> Result<Verdict> {
    if !Path::new("/dev/kvm").exists() {
        return Ok(Verdict::Absent);
    }
    if OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Verdict::Broken("this user may not open it"));
    }
    boot(emulator, scratch, "kvm")
}

fn boot(emulator: &Path, scratch: &Path, accelerator: &str) -> Result<Verdict> {
    let failed = |source| io("make a file in", scratch, source);
    let mut disk = os::unnamed(scratch).map_err(failed)?;
    disk.write_all(GUEST).and_then(|()| disk.set_len(64 << 10)).map_err(failed)?;
    let said = os::unnamed(scratch).map_err(failed)?;
    let log = said.try_clone().map_err(failed)?;
    let drive = format!("file=/proc/{}/fd/{},format=raw,if=ide", std::process::id(), disk.as_raw_fd());
    let mut child = Command::new(emulator)
        .args(["-accel", accelerator, "-m", "32", "-display", "none", "-nodefaults", "-no-user-config"])
        .args(["-device", "isa-debug-exit,iobase=0x501,iosize=2", "-drive", &drive])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(|source| io("run", emulator, source))?;
    let began = Instant::now();
    loop {
        match child.try_wait().map_err(|source| io("wait for", emulator, source))? {
            Some(status) if status.code() == Some(GUEST_BOOTED) => return Ok(Verdict::Works),
            Some(_) => return Ok(Verdict::Broken("its probe guest ended early")),
            None => {}
        }
        let given_up = text_of(&said).contains(GIVEN_UP);
        if given_up || began.elapsed() > PATIENCE {
            // It may have ended by itself meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            return Ok(Verdict::Broken(if given_up {
                "a plain probe guest does not run under it"
            } else {
                "its probe guest did not come to its end"
            }));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What QEMU said so far, read without moving the place at which it writes on.
fn text_of(file: &File) -> String {
    let mut text = vec![0; 64 << 10];
    let len = file.read_at(&mut text, 0).unwrap_or(0);
    String::from_utf8_lossy(text.get(..len).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_guest_is_what_its_source_assembles_to() {
        let dir = tempfile::tempdir().unwrap();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/kvm_probe.s");
        for words in [
            vec!["as", "-o", "p.o", source],
            vec!["ld", "-Ttext", "0", "-e", "0", "--oformat", "binary", "-o", "p.bin", "p.o"],
        ] {
            let run = Command::new(words[0]).args(&words[1..]).current_dir(dir.path()).status();
            assert!(run.expect("binutils").success(), "{words:?}");
        }
        assert_eq!(std::fs::read(dir.path().join("p.bin")).unwrap(), GUEST);
    }

    #[test]
    fn the_probe_guest_boots_where_everything_is_translated() {
        let dir = tempfile::tempdir().unwrap();
        let emulator = Path::new("/usr/bin/qemu-system-x86_64");
        assert_eq!(boot(emulator, dir.path(), "tcg").unwrap(), Verdict::Works);
    }
}
