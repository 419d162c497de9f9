//! File systems, read only, behind one trait.
//!
//! Paths are bytes, absolute, and physical: no link and no `..` in them. Following links is the business of
//! [`crate::tree`], so that no reader of a file system can be led anywhere.

mod btrfs;
mod ext;
pub mod fat;
mod guard;
pub mod iso;
pub mod ntfs;
pub mod squashfs;
mod xfs;

use std::sync::Arc;

use kiln_disk::{Disk, GuestOffset};
use serde::{Deserialize, Serialize};

use crate::volume::{Content, Probed, Space};

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Link,
    /// A device, pipe or socket.
    Special,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name: bytes, without a slash, never `.` or `..`.
    pub name: Vec<u8>,
    /// What it stands for.
    pub kind: Kind,
}

/// What is known of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Length in bytes.
    pub len: u64,
    /// Permission bits with set-uid, set-gid and sticky; `None` where the file system or its reader has none.
    pub mode: Option<u32>,
    /// Owner, where known.
    pub uid: Option<u32>,
}

/// Why a file cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FsError {
    /// There is no such name.
    #[error("no such file")]
    NotFound,
    /// A directory where a file was wanted, or the other way round.
    #[error("not the kind of file that was asked for")]
    WrongKind,
    /// Links lead round and round, or on for ever.
    #[error("too many symbolic links")]
    Links,
    /// The file is longer than whoever asked wants to hold.
    #[error("the file has {len} bytes, more than {limit}")]
    TooLong {
        /// Its length.
        len: u64,
        /// The limit.
        limit: u64,
    },
    /// The file system contradicts itself.
    #[error("the file system is damaged: {0}")]
    Damaged(String),
    /// It uses what the reader does not know.
    #[error("the file system cannot be read: {0}")]
    Unsupported(String),
    /// The reader crashed: a fault of ours, brought out by the image.
    #[error("the reader of this file system crashed: {0}")]
    Crashed(String),
    /// The disk below.
    #[error("the disk cannot be read")]
    Disk(#[from] kiln_disk::Error),
}

/// Results of this module.
pub type Result<T, E = FsError> = std::result::Result<T, E>;

/// A file system that can be looked into.
pub trait FileSystem {
    /// The names in a directory, without `.` and `..`.
    ///
    /// # Errors
    /// [`FsError`].
    fn list(&self, path: &[u8]) -> Result<Vec<Entry>>;

    /// What the name itself is: a link is a link.
    ///
    /// # Errors
    /// [`FsError`].
    fn stat(&self, path: &[u8]) -> Result<Stat>;

    /// The names in a directory with what each is, at most `limit` of them.
    ///
    /// # Errors
    /// [`FsError`].
    fn list_stat(&self, path: &[u8], limit: usize) -> Result<Vec<(Entry, Stat)>> {
        let entries = self.list(path)?;
        let base = if path == b"/" { &[] } else { path };
        let named = entries.into_iter().take(limit).map(|entry| {
            let stat = self.stat(&[base, b"/", &entry.name].concat())?;
            Ok((entry, stat))
        });
        named.collect()
    }

    /// What a link says.
    ///
    /// # Errors
    /// [`FsError`].
    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>>;

    /// Fills `buf` from byte `at` of a file; fewer bytes only at its end.
    ///
    /// # Errors
    /// [`FsError`].
    fn read(&self, path: &[u8], at: u64, buf: &mut [u8]) -> Result<usize>;

    /// Space, where it has to be counted and is not in the superblock.
    ///
    /// # Errors
    /// [`FsError`].
    fn space(&self) -> Result<Option<Space>> {
        Ok(None)
    }

    /// Adds what the superblock does not tell: label, state, version.
    ///
    /// # Errors
    /// [`FsError`].
    fn describe(&self, probed: &mut Probed) -> Result<()> {
        let _ = probed;
        Ok(())
    }
}

/// A file system that several look into.
impl<T: FileSystem + ?Sized> FileSystem for Arc<T> {
    fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        self.as_ref().list(path)
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        self.as_ref().stat(path)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.as_ref().read_link(path)
    }

    fn read(&self, path: &[u8], at: u64, buf: &mut [u8]) -> Result<usize> {
        self.as_ref().read(path, at, buf)
    }

    fn list_stat(&self, path: &[u8], limit: usize) -> Result<Vec<(Entry, Stat)>> {
        self.as_ref().list_stat(path, limit)
    }

    fn space(&self) -> Result<Option<Space>> {
        self.as_ref().space()
    }

    fn describe(&self, probed: &mut Probed) -> Result<()> {
        self.as_ref().describe(probed)
    }
}

/// Which part of a file system is its root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Root {
    /// Its own choice.
    #[default]
    Default,
    /// A subvolume of btrfs, by path from the top level.
    Subvolume(Vec<u8>),
    /// The top level of btrfs.
    Top,
}

/// Opens the file system on a volume.
///
/// # Errors
/// [`FsError`]; [`FsError::Unsupported`] for content that no reader here knows.
pub fn open(disk: &Arc<dyn Disk>, content: Content, root: &Root) -> Result<Box<dyn FileSystem>> {
    Ok(match content {
        Content::Ext => Box::new(ext::Ext::open(disk)?),
        Content::Xfs => Box::new(xfs::XfsVolume::open(disk)?),
        Content::Btrfs => Box::new(btrfs::BtrfsVolume::open(disk, root)?),
        Content::Fat => Box::new(fat::Fat::open(disk)?),
        Content::Ntfs => Box::new(ntfs::Ntfs::open(disk)?),
        Content::Iso9660 => Box::new(iso::Iso::open(disk)?),
        Content::Squashfs => Box::new(squashfs::Squashfs::open(disk)?),
        other => return Err(FsError::Unsupported(other.word().to_owned())),
    })
}

/// The longest link: no path is longer (`PATH_MAX`), and no file system here keeps more than one block for it.
const MAX_LINK: u64 = 4096;

/// What a link says, once what it is says that this is short: readers make room for as much as an inode claims.
fn short_link(stat: Stat, read: impl FnOnce() -> Result<Vec<u8>>) -> Result<Vec<u8>> {
    match (stat.kind, stat.len) {
        (Kind::Link, 0..=MAX_LINK) => read(),
        (Kind::Link, len) => Err(FsError::Damaged(format!("a link of {len} bytes"))),
        _ => Err(FsError::WrongKind),
    }
}

/// The disk as the readers of other people want it; keeps the error that they would lose.
pub(crate) struct Bytes {
    disk: Arc<dyn Disk>,
    failure: Arc<std::sync::Mutex<Option<kiln_disk::Error>>>,
}

impl Bytes {
    /// A reader, and the place where its disk's error can be found.
    fn new(disk: &Arc<dyn Disk>) -> (Self, Failure) {
        let failure = Failure::default();
        (Self { disk: Arc::clone(disk), failure: Arc::clone(&failure) }, failure)
    }

    fn fill(&self, at: u64, buf: &mut [u8]) -> std::result::Result<(), DiskFailed> {
        self.disk.read_guest(GuestOffset::new(at), buf).map_err(|error| {
            *self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            DiskFailed
        })
    }
}

/// Where a disk's error waits.
type Failure = Arc<std::sync::Mutex<Option<kiln_disk::Error>>>;

/// The disk's own error, when it is the reason.
fn disk_error(failure: &Failure) -> Option<kiln_disk::Error> {
    failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
}

#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the disk cannot be read")]
pub(crate) struct DiskFailed;
