//! An instance in the words of other programs, for those who run it by them.

mod libvirt;
mod systemd;

use std::path::Path;

use kiln_catalog::machine::{CONSOLE_LOG, MachineFirmware};
use kiln_catalog::{InstanceRecord, Store};

use crate::arch;
use crate::command;
use crate::error::Result;
use crate::host::Host;
use crate::process::title;

pub use libvirt::libvirt;
pub use systemd::{systemd, unit_name, write_unit};

/// QEMU's command line as a shell has it, to be run in the instance's folder.
///
/// # Errors
/// [`crate::Failure::NoProgram`], [`crate::Failure::NoFirmware`].
pub fn qemu(store: &Store, record: &InstanceRecord, host: &Host) -> Result<String> {
    let architecture = arch::find(Some(&record.machine.architecture))?;
    let program = architecture.emulator_in(host.path())?;
    let uefi = match record.machine.firmware {
        MachineFirmware::Uefi => Some(architecture.uefi_files()?.0),
        MachineFirmware::Bios => None,
    };
    let words = command::arguments(
        &record.machine,
        &title(record),
        architecture,
        host.accelerator(),
        uefi,
        CONSOLE_LOG,
    );
    let dir = quoted(&store.instance_dir(&record.id));
    let mut text = format!("cd {dir} &&\n{}", quoted(&program));
    for word in words {
        // A word and its value on a line of their own.
        text.push_str(if word.starts_with('-') { " \\\n  " } else { " " });
        text.push_str(&quoted(Path::new(&word)));
    }
    text.push('\n');
    Ok(text)
}

/// A word for a shell.
fn quoted(word: &Path) -> String {
    let word = word.display().to_string();
    let plain = |char: char| char.is_ascii_alphanumeric() || "-_./,:=@+".contains(char);
    if !word.is_empty() && word.chars().all(plain) {
        word
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}
