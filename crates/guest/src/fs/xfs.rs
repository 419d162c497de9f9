//! XFS, by `lamxfs`, which replays the log in memory.

use std::cell::RefCell;
use std::sync::Arc;

use kiln_disk::Disk;
use lamxfs::{BlockRead, EntryKind, Error, Path, Xfs};

use super::guard::guarded;
use super::{
    Bytes, DiskFailed, Entry, Failure, FileSystem, FsError, Kind, Result, Stat, disk_error, short_link,
};

/// An XFS file system.
pub(super) struct XfsVolume {
    fs: RefCell<Xfs<Bytes>>,
    failure: Failure,
}

impl BlockRead for Bytes {
    type Error = DiskFailed;

    fn read_at(&mut self, at: u64, buf: &mut [u8]) -> Result<(), DiskFailed> {
        self.fill(at, buf)
    }
}

impl XfsVolume {
    pub(super) fn open(disk: &Arc<dyn Disk>) -> Result<Self> {
        let (bytes, failure) = Bytes::new(disk);
        let fs = guarded(|| Xfs::open(bytes, disk.disk_len()).map_err(|error| told(&error, &failure)))?;
        Ok(Self { fs: RefCell::new(fs), failure })
    }

    fn run<T>(&self, work: impl FnOnce(&mut Xfs<Bytes>) -> Result<T, Error>) -> Result<T> {
        guarded(|| {
            let mut fs = self.fs.try_borrow_mut().map_err(|_| FsError::Crashed("it is in use".to_owned()))?;
            work(&mut fs).map_err(|error| told(&error, &self.failure))
        })
    }
}

fn told(error: &Error, failure: &Failure) -> FsError {
    if let Some(error) = disk_error(failure) {
        return error.into();
    }
    match error {
        Error::NotFound { .. } => FsError::NotFound,
        Error::NotARegularFile | Error::NotASymlink => FsError::WrongKind,
        Error::UnsupportedFeature(_) | Error::BadSuperblock(_) => {
            FsError::Unsupported(error.token().to_owned())
        }
        other => FsError::Damaged(other.token().to_owned()),
    }
}

fn kind(kind: EntryKind) -> Kind {
    match kind {
        EntryKind::Regular => Kind::File,
        EntryKind::Directory => Kind::Directory,
        EntryKind::Symlink => Kind::Link,
        EntryKind::Other => Kind::Special,
    }
}

impl FileSystem for XfsVolume {
    fn list(&self, at: &[u8]) -> Result<Vec<Entry>> {
        let entries = self.run(|fs| fs.read_dir(Path::new(at)))?;
        let own = |name: &[u8]| name != b"." && name != b"..";
        Ok(entries
            .into_iter()
            .filter(|entry| own(&entry.name))
            .map(|entry| Entry { kind: kind(entry.kind), name: entry.name })
            .collect())
    }

    fn stat(&self, at: &[u8]) -> Result<Stat> {
        let data = self.run(|fs| {
            let inode = fs.resolve(Path::new(at))?;
            fs.metadata(&inode)
        })?;
        let kind = match () {
            () if data.is_file() => Kind::File,
            () if data.is_dir() => Kind::Directory,
            () if data.is_symlink() => Kind::Link,
            () => Kind::Special,
        };
        Ok(Stat { kind, len: data.size(), mode: Some(data.mode() & 0o7777), uid: None })
    }

    fn read_link(&self, at: &[u8]) -> Result<Vec<u8>> {
        short_link(self.stat(at)?, || self.run(|fs| fs.read_link(Path::new(at))))
    }

    fn read(&self, path: &[u8], at: u64, buf: &mut [u8]) -> Result<usize> {
        self.run(|fs| {
            let inode = fs.resolve(Path::new(path))?;
            let (mut read, mut at) = (0_usize, at);
            while let Some(rest) = buf.get_mut(read..).filter(|rest| !rest.is_empty()) {
                match fs.read_file_at(&inode, at, rest)? {
                    0 => break,
                    more => {
                        read = read.saturating_add(more);
                        at = at.saturating_add(u64::try_from(more).unwrap_or(0));
                    }
                }
            }
            Ok(read)
        })
    }
}
