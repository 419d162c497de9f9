//! Files that appear whole or not at all.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::os;

/// What to do when the destination is already there at commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Fail with `io.exists`; the old file stays as it is.
    Keep,
    /// Replace it in one step.
    Replace,
}

/// Whether a commit waits for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// fsync the file and its directory: survives a power cut.
    Synced,
    /// Leave it to the kernel.
    Unsynced,
}

/// A new file that has no name until it is committed.
///
/// Where the file system can, it is an unnamed file (`O_TMPFILE`): a killed process leaves nothing at all.
/// Elsewhere it is a hidden file `.NAME.<number>.partial` in the same directory, removed on drop.
/// The first error of a sync or close is final: the file is given up, never retried.
#[derive(Debug)]
pub struct StagedFile {
    file: File,
    dest: PathBuf,
    named: Option<PathBuf>,
}

impl StagedFile {
    /// Starts a file that will become `dest`, in the same directory.
    ///
    /// # Errors
    /// [`Error::Io`], `io.not-found` when the directory is missing.
    pub fn beside(dest: &Path) -> Result<Self> {
        let dir = parent_of(dest);
        let failed = |source| Error::io("create a file in", dir.display().to_string(), source);
        if let Some(file) = os::unnamed_file(dir).map_err(failed)? {
            return Ok(Self { file, dest: dest.to_owned(), named: None });
        }
        let (file, path) = named_partial(dest).map_err(failed)?;
        Ok(Self { file, dest: dest.to_owned(), named: Some(path) })
    }

    /// The open file, readable and writable.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it will be.
    #[must_use]
    pub fn dest(&self) -> &Path {
        &self.dest
    }

    /// Waits until the bytes are on the device.
    ///
    /// # Errors
    /// [`Error::Io`]; the file must then be given up.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(|source| Error::io("sync", self.dest.display().to_string(), source))
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// [`Error::Io`]; `io.exists` when the name is taken and `existing` says to keep it. Nothing is left behind.
    pub fn commit(mut self, existing: Existing, durability: Durability) -> Result<()> {
        if durability == Durability::Synced {
            self.sync()?;
        }
        let named = self.named.take();
        let result = match (&named, existing) {
            (None, Existing::Keep) => os::link_unnamed(&self.file, &self.dest),
            (None, Existing::Replace) => self.replace_unnamed(),
            (Some(path), Existing::Keep) => os::rename_no_replace(path, &self.dest),
            (Some(path), Existing::Replace) => std::fs::rename(path, &self.dest),
        };
        if let Err(source) = result {
            if let Some(path) = named {
                let _ = std::fs::remove_file(path);
            }
            return Err(Error::io("create", self.dest.display().to_string(), source));
        }
        if durability == Durability::Synced {
            let dir = parent_of(&self.dest);
            os::sync_dir(dir).map_err(|source| Error::io("sync", dir.display().to_string(), source))?;
        }
        Ok(())
    }

    /// linkat cannot replace, so the file gets a temporary name first.
    fn replace_unnamed(&self) -> std::io::Result<()> {
        match os::link_unnamed(&self.file, &self.dest) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
        for path in partial_names(&self.dest) {
            match os::link_unnamed(&self.file, &path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    return std::fs::rename(&path, &self.dest).inspect_err(|_| {
                        let _ = std::fs::remove_file(&path);
                    });
                }
            }
        }
        Err(std::io::ErrorKind::AlreadyExists.into())
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if let Some(path) = self.named.take() {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The directory that holds `path`; `.` for a bare name.
fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

/// Candidate names for a hidden partial file of `dest`.
fn partial_names(dest: &Path) -> impl Iterator<Item = PathBuf> {
    let dir = parent_of(dest).to_owned();
    let name = dest.file_name().map_or_else(|| "image".into(), |name| name.to_string_lossy().into_owned());
    // A full-length name would not leave room for the suffix.
    let name: String = name.chars().take(40).collect();
    let pid = std::process::id();
    (0..100_u32).map(move |n| dir.join(format!(".{name}.{pid}-{n}.partial")))
}

fn named_partial(dest: &Path) -> std::io::Result<(File, PathBuf)> {
    for path in partial_names(dest) {
        match std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(std::io::ErrorKind::AlreadyExists.into())
}
