//! The files of an instance.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use kiln_catalog::machine::{Machine, MachineDisk, MachineFirmware};
use kiln_disk::FileSink;
use kiln_format::{Options, by_name};

use crate::arch::Architecture;
use crate::command::VARS;
use crate::error::{Result, io};
use crate::seed::{self, Identity, UserData};

/// Nobody but the owner: a seed holds passwords.
const MODE: u32 = 0o600;

/// Makes all files of a new machine in `dir`, on the device before it answers.
pub(crate) fn make(
    dir: &Path,
    machine: &Machine,
    architecture: &Architecture,
    identity: &Identity,
    user_data: Option<&UserData>,
) -> Result<()> {
    for disk in &machine.disks {
        overlay(dir, disk)?;
    }
    if let Some(name) = &machine.seed {
        let path = dir.join(name);
        let bytes = seed::write(identity, user_data)
            .map_err(|problem| io("write", &path, std::io::Error::other(problem)))?;
        whole(&path, &bytes)?;
    }
    if machine.firmware == MachineFirmware::Uefi {
        let (_, vars) = architecture.uefi_files()?;
        let bytes = std::fs::read(vars).map_err(|source| io("read", vars, source))?;
        whole(&dir.join(VARS), &bytes)?;
    }
    Ok(())
}

/// An empty qcow2 file of the disk's length: all that it does not hold is read from the layers below. It names none of
/// them; QEMU is told on its command line.
pub(crate) fn overlay(dir: &Path, disk: &MachineDisk) -> Result<()> {
    let path = dir.join(&disk.file);
    let file = new(&path)?;
    let writable = file.try_clone().map_err(|source| io("open", &path, source))?;
    let create = by_name("qcow2").and_then(|format| format.create.as_ref());
    let create = create.ok_or_else(|| io("write", &path, std::io::ErrorKind::Unsupported))?;
    let sink = Arc::new(FileSink::new(writable, path.display().to_string()));
    (create.run)(sink, disk.disk_bytes, &Options::defaults(create.options))?.finish()?;
    file.sync_all().map_err(|source| io("sync", &path, source))
}

fn whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = new(path)?;
    file.write_all(bytes).map_err(|source| io("write", path, source))?;
    file.sync_all().map_err(|source| io("sync", path, source))
}

pub(crate) fn new(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create_new(true).mode(MODE).open(path);
    let file = file.map_err(|source| io("create", path, source))?;
    // Whatever the umask.
    file.set_permissions(Permissions::from_mode(MODE))
        .map_err(|source| io("set the mode of", path, source))?;
    Ok(file)
}
