//! Putting an instance back on an image: its root disk begins anew, everything else stays.
//!
//! The name, the addresses, the UUID, the instance-id, the data disks and the seed stay, so the machine comes up as
//! the one that it was. The disk that it had is put aside until the machine has booted from the new one.

use std::path::Path;

use kiln_catalog::machine::{Machine, MachineDisk};
use kiln_catalog::{Image, InstanceRecord, Store};

use crate::error::{Refusal, Result, io};
use crate::files;
use crate::plan::{OnUnsound, may_start, root_disk};
use crate::process::title;

/// Where `kiln ssh` keeps the host keys of an instance.
pub const KNOWN_HOSTS: &str = "known_hosts";

/// What becomes of the disk that the instance had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldDisk {
    /// It is kept until the machine has booted from the new one, or is told to go back.
    Aside,
    /// It goes at once.
    Discard,
}

/// Whether an instance may be put on an image, before it is stopped for that.
///
/// # Errors
/// The rights table's, [`Refusal::Unsound`] and [`Refusal::Guest`].
pub fn may(store: &Store, image: &Image, on_unsound: OnUnsound) -> Result<()> {
    may_start(store, image, on_unsound)
}

/// Gives a resting instance a new root disk of an image. A disk that is aside already goes.
///
/// # Errors
/// [`Refusal::Running`]; the rights table's and [`Refusal::Unsound`] for the image; I/O. The instance is then as it was.
pub fn rebuild(
    store: &Store,
    record: &InstanceRecord,
    image: &Image,
    old: OldDisk,
    on_unsound: OnUnsound,
) -> Result<InstanceRecord> {
    may_start(store, image, on_unsound)?;
    let dir = store.instance_dir(&record.id);
    let _resting = rest(store, record)?;
    let before = record.machine.disks.first();
    let mut disk = root_disk(&image.manifest, None)?;
    if let Some(before) = before {
        disk.disk_bytes = disk.disk_bytes.max(before.disk_bytes);
    }
    disk.file = free_name(&dir, &record.machine);
    files::overlay(&dir, &disk)?;
    kiln_disk::os::sync_dir(&dir).map_err(|source| io("sync", &dir, source))?;
    let (new, id) = (disk.clone(), disk.id.clone());
    let changed = store.rebase_instance(&record.id, &image.manifest.id, |machine| {
        let place = machine.disks.first_mut();
        let had = match place {
            Some(place) => Some(std::mem::replace(place, new)),
            None => {
                machine.disks.push(new);
                None
            }
        };
        machine.aside.remove(&id);
        if let (Some(had), OldDisk::Aside) = (had, old) {
            machine.aside.insert(id, had);
        }
    });
    match changed {
        Ok(changed) => {
            sweep(&dir, &changed.machine)?;
            forget_host_keys(&dir)?;
            Ok(changed)
        }
        Err(error) => {
            let _ = std::fs::remove_file(dir.join(&disk.file));
            Err(error.into())
        }
    }
}

/// Goes back to the disk that was put aside; the new one goes.
///
/// # Errors
/// [`Refusal::Running`], [`Refusal::NothingAside`]; I/O.
pub fn undo(store: &Store, record: &InstanceRecord) -> Result<InstanceRecord> {
    let _resting = rest(store, record)?;
    let Some(root) = record.machine.disks.first() else {
        return Err(Refusal::NothingAside { name: title(record) }.into());
    };
    if !record.machine.aside.contains_key(&root.id) {
        return Err(Refusal::NothingAside { name: title(record) }.into());
    }
    let changed = store.update_instance(&record.id, |machine| {
        if let Some(root) = machine.disks.first_mut()
            && let Some(old) = machine.aside.remove(&root.id)
        {
            *root = old;
        }
    })?;
    let dir = store.instance_dir(&record.id);
    sweep(&dir, &changed.machine)?;
    forget_host_keys(&dir)?;
    Ok(changed)
}

/// The host keys that `kiln ssh` has seen: another disk has others.
fn forget_host_keys(dir: &Path) -> Result<()> {
    let path = dir.join(KNOWN_HOSTS);
    match std::fs::remove_file(&path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(io("remove", &path, source)),
        _ => Ok(()),
    }
}

/// Lets the disks go that are aside: the machine has booted without them.
pub(crate) fn let_go(store: &Store, record: &InstanceRecord) -> Result<()> {
    if record.machine.aside.is_empty() {
        return Ok(());
    }
    let changed = store.update_instance(&record.id, |machine| machine.aside.clear())?;
    sweep(&store.instance_dir(&record.id), &changed.machine)
}

/// Keeps the machine from being started meanwhile.
fn rest(store: &Store, record: &InstanceRecord) -> Result<std::fs::File> {
    let lock = store.hold_instance(&record.id)?;
    Ok(lock.ok_or_else(|| Refusal::Running { name: title(record) })?)
}

/// A file name that the root disk did not have yet: `disk0.qcow2`, `disk0-2.qcow2`, ...
fn free_name(dir: &Path, machine: &Machine) -> String {
    let known = |name: &str| all_disks(machine).any(|disk| disk.file == name);
    let mut number = 2_u64;
    loop {
        let name = format!("disk0-{number}.qcow2");
        if !known(&name) && !dir.join(&name).exists() {
            return name;
        }
        number = number.saturating_add(1);
    }
}

fn all_disks(machine: &Machine) -> impl Iterator<Item = &MachineDisk> {
    machine.disks.iter().chain(machine.aside.values())
}

/// Removes overlays that the record does not name any more. Left by whoever died here, the next one takes them.
fn sweep(dir: &Path, machine: &Machine) -> Result<()> {
    let entries = std::fs::read_dir(dir).map_err(|source| io("list", dir, source))?;
    for entry in entries {
        let entry = entry.map_err(|source| io("list", dir, source))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let overlay = name.starts_with("disk") && name.ends_with(".qcow2");
        if overlay && all_disks(machine).all(|disk| disk.file != name) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(|source| io("remove", &path, source))?;
        }
    }
    Ok(())
}
