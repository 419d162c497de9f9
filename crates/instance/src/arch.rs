//! The machines that can be run, as rows of a table.

use std::path::{Path, PathBuf};

use kiln_catalog::machine::MachineFirmware;

use crate::error::{Failure, Refusal, Result};

/// A kind of machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// Its name in records, as `uname -m` says it.
    pub name: &'static str,
    /// Other names of guests that run on it.
    guests: &'static [&'static str],
    /// QEMU's program.
    pub emulator: &'static str,
    /// Debian's package of it.
    package: &'static str,
    /// QEMU's machine for a BIOS.
    bios: &'static str,
    /// QEMU's machine for UEFI.
    uefi: &'static str,
    /// Code and empty variables of the firmware, in the places of Debian, Fedora, Arch and openSUSE.
    firmware: &'static [(&'static str, &'static str)],
}

/// All of them.
static ALL: [Architecture; 1] = [Architecture {
    name: "x86_64",
    guests: &["amd64", "x86-64", "i386", "i486", "i586", "i686", "x86"],
    emulator: "qemu-system-x86_64",
    package: "qemu-system-x86",
    bios: "pc",
    uefi: "q35",
    firmware: &[
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
        ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
        ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ],
}];

/// The machine for a guest; the first of the table when nothing is known about the guest.
///
/// # Errors
/// [`Refusal::Architecture`].
pub fn find(wanted: Option<&str>) -> Result<&'static Architecture> {
    let [first] = &ALL;
    let Some(wanted) = wanted else { return Ok(first) };
    let found = ALL.iter().find(|row| row.name == wanted || row.guests.contains(&wanted));
    found.ok_or_else(|| {
        Refusal::Architecture {
            asked: wanted.chars().take(40).collect(),
            known: ALL.iter().map(|row| row.name).collect(),
        }
        .into()
    })
}

impl Architecture {
    /// QEMU's machine.
    #[must_use]
    pub fn machine(&self, firmware: MachineFirmware) -> &'static str {
        match firmware {
            MachineFirmware::Bios => self.bios,
            MachineFirmware::Uefi => self.uefi,
        }
    }

    /// UEFI firmware: its code, and variables to begin with.
    ///
    /// # Errors
    /// [`Failure::NoFirmware`].
    pub fn uefi_files(&self) -> Result<(&'static Path, &'static Path)> {
        let found =
            self.firmware.iter().find(|(code, vars)| Path::new(code).is_file() && Path::new(vars).is_file());
        let (code, vars) = found.ok_or(Failure::NoFirmware { architecture: self.name })?;
        Ok((Path::new(code), Path::new(vars)))
    }

    /// The emulator, looked for in the directories of `path`.
    ///
    /// # Errors
    /// [`Failure::NoProgram`].
    pub fn emulator_in(&self, path: Option<&std::ffi::OsStr>) -> Result<PathBuf> {
        let dirs = path.map(std::env::split_paths).into_iter().flatten();
        let mut places = dirs.filter(|dir| dir.is_absolute()).map(|dir| dir.join(self.emulator));
        let found = places.find(|place| place.is_file());
        Ok(found.ok_or(Failure::NoProgram { name: self.emulator, package: self.package })?)
    }
}
