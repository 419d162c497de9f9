//! Where things are in a store, and the few ways in which it makes and removes files.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use kiln_disk::{Durability, Existing, StagedFile, os};

use crate::error::{Result, io};
use crate::id::{ImageId, InstanceId, LayerId};

/// Nobody but the owner.
pub(crate) const DIR_MODE: u32 = 0o700;
/// Nobody but the owner.
pub(crate) const FILE_MODE: u32 = 0o600;

/// The paths of one store.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn store_json(&self) -> PathBuf {
        self.root.join("store.json")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("catalog.sqlite")
    }

    pub(crate) fn index_lock(&self) -> PathBuf {
        self.root.join("catalog.lock")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// The folder of a layer: the first two digits of its digest.
    pub(crate) fn layer_dir(&self, id: &LayerId) -> PathBuf {
        self.layers().join(id.hex().get(..2).unwrap_or("00"))
    }

    pub(crate) fn layer(&self, id: &LayerId) -> PathBuf {
        self.layer_dir(id).join(format!("{}.qcow2", id.hex()))
    }

    pub(crate) fn leaves(&self, id: &LayerId) -> PathBuf {
        self.layer_dir(id).join(format!("{}.leaves", id.hex()))
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(crate) fn image(&self, id: &ImageId) -> PathBuf {
        self.images().join(id.as_str())
    }

    pub(crate) fn manifest(&self, id: &ImageId) -> PathBuf {
        self.image(id).join("manifest.json")
    }

    pub(crate) fn record(&self, id: &ImageId) -> PathBuf {
        self.image(id).join("record.json")
    }

    pub(crate) fn instances(&self) -> PathBuf {
        self.root.join("instances")
    }

    /// The folder of an instance. The catalog keeps its record there; the rest is for whoever runs it.
    pub(crate) fn instance(&self, id: &InstanceId) -> PathBuf {
        self.instances().join(id.as_str())
    }

    pub(crate) fn instance_record(&self, id: &InstanceId) -> PathBuf {
        self.instance(id).join("record.json")
    }

    /// Where damaged layers are put aside.
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }
}

/// Makes one directory durably; its being there already is fine.
pub(crate) fn make_dir(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(DIR_MODE).create(path) {
        Ok(()) => sync_dir(path.parent().unwrap_or(Path::new("."))),
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(io("create the directory", path, error)),
    }
}

pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    os::sync_dir(path).map_err(|source| io("sync", path, source))
}

/// A new, empty file that did not exist.
pub(crate) fn create_new(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(FILE_MODE)
        .open(path)
        .map_err(|source| io("create", path, source))
}

/// Writes a small file so that it is there whole and for good, or not at all.
pub(crate) fn write_whole(path: &Path, text: &str, existing: Existing) -> Result<()> {
    let staged = StagedFile::beside(path)?;
    let mut file = staged.file();
    file.set_permissions(Permissions::from_mode(FILE_MODE))
        .and_then(|()| file.write_all(text.as_bytes()))
        .map_err(|source| io("write", path, source))?;
    Ok(staged.commit(existing, Durability::Synced)?)
}

/// Removes a file; its not being there is fine.
pub(crate) fn remove_file(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io("remove", path, error)),
    }
}

/// Removes a directory with all that is in it; its not being there is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io("remove", path, error)),
        _ => Ok(()),
    }
}

/// Names in a directory, sorted; none when it is not there.
pub(crate) fn names_in(path: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io("list", path, error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| io("list", path, source))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
