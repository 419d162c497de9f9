//! What a directory looks like after the power failed: a ledger of what was synced, and two ways to lose the rest.
//!
//! POSIX promises of a file what `fsync` of it has put on the disk, and of a name what `fsync` of its directory has.
//! Everything else may be there after a power failure or may not. [`fault::run_on`](crate::fault::run_on) tells the
//! ledger of each sync that a traced program makes; [`Ledger::cut`] then rewrites the directory as one of the worst
//! file systems would leave it. Changes by `mmap` are not seen.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How a power failure treats what was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// All of it is gone, names as well: a new file whose directory was not synced does not exist, a removed one
    /// exists.
    Everything,
    /// Names are as they were left, and the bytes behind them are gone: ext4 and XFS order these two so.
    Bytes,
}

/// One file or directory, whatever its names: number and time of birth, because numbers are used again. Where a file
/// system keeps no time of birth the number has to do.
type Key = (u64, SystemTime);

#[derive(Debug, Clone)]
struct Kept {
    mode: u32,
    modified: SystemTime,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Child {
    File(Key),
    Dir(Key),
}

type Names = BTreeMap<std::ffi::OsString, Child>;

/// What of a directory tree would survive now.
#[derive(Debug)]
pub struct Ledger {
    root: PathBuf,
    top: Key,
    files: BTreeMap<Key, Kept>,
    dirs: BTreeMap<Key, (u32, Names)>,
}

fn key(about: &Metadata) -> Key {
    (about.ino(), about.created().unwrap_or(SystemTime::UNIX_EPOCH))
}

/// SQLite's shared memory: a map of the log beside it, never on a disk.
fn is_volatile(path: &Path) -> bool {
    path.to_string_lossy().ends_with("-shm")
}

impl Ledger {
    /// Of a tree that is on the disk, whole.
    ///
    /// # Panics
    /// When it cannot be read: tests cannot go on then.
    #[must_use]
    pub fn of(root: &Path) -> Self {
        let root = fs::canonicalize(root).unwrap();
        let top = key(&fs::metadata(&root).unwrap());
        let mut ledger = Self { root: root.clone(), top, files: BTreeMap::new(), dirs: BTreeMap::new() };
        let mut open = vec![root];
        while let Some(dir) = open.pop() {
            ledger.dir(&dir);
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { open.push(path) } else { ledger.file(&path, &path) }
            }
        }
        ledger
    }

    /// The file or directory that was at `path`, and can be read at `handle`, is on the disk as it is now.
    pub(crate) fn synced(&mut self, path: &Path, handle: &Path) {
        if !path.starts_with(&self.root) {
            return;
        }
        if handle.is_dir() { self.dir(handle) } else { self.file(path, handle) }
    }

    fn file(&mut self, path: &Path, handle: &Path) {
        let about = fs::metadata(handle).unwrap();
        if about.is_file() && !is_volatile(path) {
            let kept = Kept {
                mode: about.mode() & 0o7777,
                modified: about.modified().unwrap(),
                bytes: fs::read(handle).unwrap(),
            };
            self.files.insert(key(&about), kept);
        }
    }

    fn dir(&mut self, handle: &Path) {
        let about = fs::metadata(handle).unwrap();
        let mut names = Names::new();
        for entry in fs::read_dir(handle).unwrap() {
            let entry = entry.unwrap();
            // Gone between the two looks: a removal that another thread made.
            let Ok(child) = entry.metadata() else { continue };
            let key = key(&child);
            names.insert(entry.file_name(), if child.is_dir() { Child::Dir(key) } else { Child::File(key) });
        }
        self.dirs.insert(key(&about), (about.mode() & 0o7777, names));
    }

    /// Rewrites the tree as the power failure leaves it. Nothing may be at work in it.
    ///
    /// # Panics
    /// When it cannot be written: tests cannot go on then.
    pub fn cut(self, loss: Loss) {
        match loss {
            Loss::Everything => self.lose_names(),
            Loss::Bytes => self.lose_bytes(&self.root),
        }
    }

    fn lose_names(&self) {
        let mode = self.dirs[&self.top].0;
        fs::remove_dir_all(&self.root).unwrap();
        let mut open = vec![(self.root.clone(), self.top, mode)];
        while let Some((path, dir, mode)) = open.pop() {
            fs::DirBuilder::new().mode(mode).create(&path).unwrap();
            let Some((_, names)) = self.dirs.get(&dir) else { continue };
            for (name, child) in names {
                let path = path.join(name);
                match child {
                    Child::File(_) if is_volatile(&path) => {}
                    Child::File(key) => write(&path, self.files.get(key)),
                    Child::Dir(key) => {
                        open.push((path, *key, self.dirs.get(key).map_or(0o700, |(mode, _)| *mode)));
                    }
                }
            }
        }
    }

    fn lose_bytes(&self, dir: &Path) {
        let mut open = vec![dir.to_owned()];
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).unwrap() {
                let path = entry.unwrap().path();
                let about = fs::symlink_metadata(&path).unwrap();
                if about.is_dir() {
                    open.push(path);
                } else if is_volatile(&path) {
                    fs::remove_file(&path).unwrap();
                } else if about.is_file() {
                    write(&path, self.files.get(&key(&about)));
                }
            }
        }
    }
}

/// The file as it was kept; empty when nothing of it was.
fn write(path: &Path, kept: Option<&Kept>) {
    let Some(kept) = kept else {
        fs::write(path, b"").unwrap();
        return;
    };
    fs::write(path, &kept.bytes).unwrap();
    fs::set_permissions(path, Permissions::from_mode(kept.mode)).unwrap();
    File::options().write(true).open(path).unwrap().set_modified(kept.modified).unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree with one durable file, beside it one whose bytes were synced but not its name, one of which nothing
    /// was, and the durable one overwritten.
    fn torn(dir: &Path) -> Ledger {
        fs::write(dir.join("old"), "old").unwrap();
        let mut ledger = Ledger::of(dir);
        fs::write(dir.join("named"), "bytes").unwrap();
        ledger.synced(&dir.join("named"), &dir.join("named"));
        fs::write(dir.join("nothing"), "bytes").unwrap();
        fs::write(dir.join("old"), "new").unwrap();
        ledger
    }

    fn tree(dir: &Path) -> Vec<(String, String)> {
        let mut found: Vec<(String, String)> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        found.sort();
        found
    }

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn names_that_were_not_synced_are_lost_with_what_they_name() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        torn(&dir).cut(Loss::Everything);
        assert_eq!(tree(&dir), pairs(&[("old", "old")]));
    }

    #[test]
    fn bytes_that_were_not_synced_are_lost_behind_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        torn(&dir).cut(Loss::Bytes);
        assert_eq!(tree(&dir), pairs(&[("named", "bytes"), ("nothing", ""), ("old", "old")]));
    }

    #[test]
    fn synced_names_are_kept_and_removed_ones_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let dir = fs::canonicalize(dir.path()).unwrap();
        let mut ledger = torn(&dir);
        ledger.synced(&dir, &dir);
        fs::remove_file(dir.join("named")).unwrap();
        ledger.cut(Loss::Everything);
        assert_eq!(tree(&dir), pairs(&[("named", "bytes"), ("nothing", ""), ("old", "old")]));
    }
}
