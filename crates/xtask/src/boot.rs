//! `cargo xtask boot FILE`: does this disk reach a login prompt?

use std::path::PathBuf;
use std::time::Duration;

use kiln_testkit::boot::{BootError, Firmware, Guest};

use crate::failure::{Failure, Outcome, say};

/// Boot a disk under QEMU (TCG) and wait for its login prompt on the serial console; the file is not changed.
/// Prints the seconds it took. Exit 0: it booted. 1: it did not. 3: QEMU could not be run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The disk image.
    file: PathBuf,
    /// Its format, in QEMU's words: raw, qcow2, vpc, ...
    #[arg(long)]
    format: String,
    /// What starts the machine.
    #[arg(long, value_enum, default_value = "bios")]
    firmware: FirmwareName,
    /// Seconds to wait for the prompt.
    #[arg(long, default_value_t = 300)]
    timeout: u64,
    /// Memory of the guest in MiB.
    #[arg(long, default_value_t = 1024)]
    memory: u32,
    /// Also print the console on standard output.
    #[arg(long)]
    console: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum FirmwareName {
    Bios,
    Uefi,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let mut guest = Guest::new(&arguments.file, &arguments.format);
    guest.memory_mib = arguments.memory;
    guest.timeout = Duration::from_secs(arguments.timeout);
    guest.firmware = match arguments.firmware {
        FirmwareName::Bios => Firmware::Bios,
        FirmwareName::Uefi => Firmware::Uefi,
    };
    match guest.boot_to_login() {
        Ok(booted) => {
            if arguments.console {
                say(&booted.console)?;
            }
            say(&format!("login prompt after {:.1} s", booted.took.as_secs_f64()))
        }
        Err(error @ (BootError::Exited { .. } | BootError::TimedOut { .. })) => {
            Err(Failure::No(error.to_string()))
        }
        Err(error) => Err(error.into()),
    }
}
