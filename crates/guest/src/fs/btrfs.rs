//! btrfs on one device, by `lambutter`.

use std::cell::RefCell;
use std::sync::Arc;

use kiln_disk::Disk;
use lambutter::{BlockRead, Btrfs, Error, Path};

use super::guard::guarded;
use super::{
    Bytes, DiskFailed, Entry, Failure, FileSystem, FsError, Kind, Result, Root, Stat, disk_error, short_link,
};

/// The id of the top level subvolume.
const TOP: u64 = 5;

/// A btrfs file system, or one subvolume of it.
pub(super) struct BtrfsVolume {
    fs: RefCell<Btrfs<Bytes>>,
    failure: Failure,
}

impl BlockRead for Bytes {
    type Error = DiskFailed;

    fn read_at(&mut self, at: u64, buf: &mut [u8]) -> Result<(), DiskFailed> {
        self.fill(at, buf)
    }
}

impl BtrfsVolume {
    pub(super) fn open(disk: &Arc<dyn Disk>, root: &Root) -> Result<Self> {
        let (bytes, failure) = Bytes::new(disk);
        let len = disk.disk_len();
        let fs = guarded(|| {
            match root {
                Root::Default => Btrfs::open(bytes, len),
                Root::Top => Btrfs::open_subvol_id(bytes, len, TOP),
                Root::Subvolume(path) => {
                    let path = Path::new(path).ok_or(FsError::NotFound)?;
                    Btrfs::open_subvol_path(bytes, len, path)
                }
            }
            .map_err(|error| told(&error, &failure))
        })?;
        Ok(Self { fs: RefCell::new(fs), failure })
    }

    fn run<T>(&self, work: impl FnOnce(&mut Btrfs<Bytes>) -> Result<T, Error>) -> Result<T> {
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
        Error::NotFound | Error::NotASubvolume => FsError::NotFound,
        Error::NotARegularFile | Error::NotASymlink => FsError::WrongKind,
        Error::UnsupportedFeature(what)
        | Error::UnsupportedProfile(what)
        | Error::UnsupportedChecksum(what) => FsError::Unsupported((*what).to_owned()),
        other => FsError::Damaged(format!("{other:?}")),
    }
}

fn path(bytes: &[u8]) -> Result<Path<'_>> {
    Path::new(bytes).ok_or(FsError::NotFound)
}

fn kind_of_mode(mode: u32) -> Kind {
    match mode & 0o170_000 {
        0o100_000 => Kind::File,
        0o040_000 => Kind::Directory,
        0o120_000 => Kind::Link,
        _ => Kind::Special,
    }
}

impl FileSystem for BtrfsVolume {
    fn list(&self, at: &[u8]) -> Result<Vec<Entry>> {
        let at = path(at)?;
        let entries = self.run(|fs| fs.read_dir(at))?;
        // The type byte is that of BTRFS_FT_*: 1 file, 2 directory, 7 link.
        Ok(entries
            .into_iter()
            .map(|entry| Entry {
                kind: match entry.kind_byte {
                    1 => Kind::File,
                    2 => Kind::Directory,
                    7 => Kind::Link,
                    _ => Kind::Special,
                },
                name: entry.name,
            })
            .collect())
    }

    fn stat(&self, at: &[u8]) -> Result<Stat> {
        let at = path(at)?;
        let data = self.run(|fs| {
            let inode = fs.resolve(at)?;
            fs.metadata(&inode)
        })?;
        Ok(Stat {
            kind: kind_of_mode(data.mode),
            len: data.size,
            mode: Some(data.mode & 0o7777),
            uid: Some(data.uid),
        })
    }

    fn read_link(&self, at: &[u8]) -> Result<Vec<u8>> {
        let target = path(at)?;
        short_link(self.stat(at)?, || self.run(|fs| fs.read_link(target)))
    }

    fn read(&self, file: &[u8], at: u64, buf: &mut [u8]) -> Result<usize> {
        let file = path(file)?;
        self.run(|fs| {
            let inode = fs.resolve(file)?;
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
