//! Downloads that broke off: what has come so far, kept in `staging/` so that the next run goes on from there.
//!
//! ```text
//! staging/<key>.part    the bytes; locked by the process that writes them
//! staging/<key>.json    what whoever downloads wrote about them
//! ```
//! Only files of this name: the sweep of dead jobs takes directories. What is older than [`KEPT`] goes with it.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use kiln_disk::Existing;

use crate::error::{Result, io};
use crate::layout::{FILE_MODE, names_in, remove_file, write_whole};
use crate::lock::{self, Lock, Share};
use crate::store::Store;

/// How long a download that broke off is kept: a week.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The longest note.
const MAX_NOTE: u64 = 64 << 10;

/// A download that is under way, or was.
#[derive(Debug)]
pub struct Partial {
    path: PathBuf,
    note_path: PathBuf,
    file: File,
    note: Option<String>,
    _lock: Lock,
}

impl Store {
    /// The download of this key (letters, digits and dashes), new or as it was left. `None` when another process is
    /// at it.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`].
    pub fn partial(&self, key: &str) -> Result<Option<Partial>> {
        let staging = self.layout.staging();
        let (path, note_path) = (staging.join(format!("{key}.part")), staging.join(format!("{key}.json")));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(FILE_MODE)
            .open(&path)
            .map_err(|source| io("open", &path, source))?;
        let Some(lock) = lock::try_now(&path, Share::Exclusive)? else { return Ok(None) };
        let note = match std::fs::metadata(&note_path) {
            Ok(metadata) if metadata.len() <= MAX_NOTE => std::fs::read_to_string(&note_path).ok(),
            _ => None,
        };
        Ok(Some(Partial { path, note_path, file, note, _lock: lock }))
    }

    /// Removes downloads that nobody went on with. The caller holds the store's exclusive lock.
    pub(crate) fn sweep_partials(&self) -> Result<()> {
        let staging = self.layout.staging();
        for name in names_in(&staging)? {
            let Some(key) = name.strip_suffix(".part") else { continue };
            let path = staging.join(&name);
            let age = match std::fs::symlink_metadata(&path) {
                Ok(metadata) => metadata.modified().ok().and_then(|time| time.elapsed().ok()),
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(source) => return Err(io("stat", &path, source)),
            };
            if age.is_some_and(|age| age > KEPT)
                && let Some(_lock) = lock::try_now(&path, Share::Exclusive)?
            {
                remove_file(&path)?;
                remove_file(&staging.join(format!("{key}.json")))?;
            }
        }
        Ok(())
    }
}

impl Partial {
    /// The bytes so far, readable and writable.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// What was written about them.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Writes about them.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`].
    pub fn set_note(&mut self, text: &str) -> Result<()> {
        write_whole(&self.note_path, text, Existing::Replace)?;
        self.note = Some(text.to_owned());
        Ok(())
    }

    /// Removes them: they are no longer needed, or not worth going on with.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`].
    pub fn discard(self) -> Result<()> {
        remove_file(&self.note_path)?;
        remove_file(&self.path)?;
        Ok(())
    }
}
