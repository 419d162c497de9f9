//! squashfs 4.0 (Linux `fs/squashfs/squashfs_fs.h`). Nothing is read at the opening but the superblock; a path costs the
//! metadata blocks of its directories.

mod file;
mod inode;
mod lzo;
mod table;
mod unpack;

use std::ops::ControlFlow;
use std::sync::Arc;

use kiln_disk::interned::Word;
use kiln_disk::wire::{le16, le32, le64};
use kiln_disk::{Disk, GuestOffset};

use self::file::Files;
use self::inode::{Body, Directory, Inode, MAX_NAME};
use self::table::{Cursor, METADATA, Place, Tables, field};
use self::unpack::Compression;
use super::{Entry, FileSystem, FsError, Kind, Result, Stat};

/// The most names in a directory.
const MAX_ENTRIES: u32 = 1 << 18;
/// Entries behind one header of a directory (SQUASHFS_DIR_COUNT).
const MAX_RUN: u32 = 256;

/// A squashfs.
pub struct Squashfs {
    tables: Tables,
    files: Files,
    root: u64,
    inodes: u64,
    directories: u64,
    ids: u64,
    id_count: u16,
}

/// An entry of a directory as it is stored.
struct Stored<'a> {
    name: &'a [u8],
    /// Block and offset of its inode.
    inode: u64,
    kind: u16,
}

impl Squashfs {
    /// Reads the superblock.
    ///
    /// # Errors
    /// [`FsError`]; [`FsError::Unsupported`] for other versions than 4.0.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<Self> {
        let mut head = [0; 96];
        if disk.disk_len() < 96 {
            return Err(FsError::Damaged("it is shorter than a superblock".to_owned()));
        }
        disk.read_guest(GuestOffset::ZERO, &mut head)?;
        let damaged = |why: &str| FsError::Damaged(format!("the superblock {why}"));
        let (number, wide) = (|at| le16(&head, at).unwrap_or(0), |at| le64(&head, at).unwrap_or(0));
        if !head.starts_with(b"hsqs") {
            return Err(damaged("is not of a squashfs"));
        }
        let (major, minor) = (number(28), number(30));
        if (major, minor) != (4, 0) {
            return Err(FsError::Unsupported(format!("squashfs {major}.{minor}")));
        }
        let block = le32(&head, 12).unwrap_or(0);
        let log = number(22);
        if !(4096..=1 << 20).contains(&block) || 1_u32.checked_shl(log.into()) != Some(block) {
            return Err(damaged("says a length of blocks that none has"));
        }
        let end = wide(40);
        if end > disk.disk_len() {
            let len = disk.disk_len();
            return Err(FsError::Damaged(format!("it has {end} bytes, and {len} are there")));
        }
        let (inodes, directories) = (wide(64), wide(72));
        if inodes >= directories || directories >= end {
            return Err(damaged("says places of tables that are not in it"));
        }
        Ok(Self {
            tables: Tables::new(disk, Compression::of(number(20))?, end),
            files: Files::new(block, le32(&head, 16).unwrap_or(0), wide(80)),
            root: wide(32),
            inodes,
            directories,
            ids: wide(48),
            id_count: number(26),
        })
    }

    /// How its blocks are packed, as mksquashfs calls it.
    pub fn compression(&self) -> Word {
        self.tables.compression.word()
    }

    fn inode(&self, reference: u64) -> Result<Inode> {
        let offset = usize::try_from(reference & 0xffff).unwrap_or(usize::MAX);
        let block = self.inodes.saturating_add(reference >> 16);
        if block >= self.directories || offset >= METADATA {
            return Err(FsError::Damaged(format!("inode {reference:#x} is not in the table of inodes")));
        }
        inode::read(&self.tables, Place { block, offset })
    }

    /// Gives the entries of a directory in their order, from the first one that may have the name `wanted`.
    fn walk<T>(
        &self,
        directory: &Directory,
        wanted: Option<&[u8]>,
        mut work: impl FnMut(&Stored<'_>) -> Result<ControlFlow<T>>,
    ) -> Result<Option<T>> {
        let (mut place, mut at) = self.seek(directory, wanted)?;
        place.block = place.block.saturating_add(self.directories);
        let mut cursor = Cursor::new(&self.tables, place);
        let mut seen = 0_u32;
        while at < directory.len {
            // count - 1, start_block, inode_number
            let head: [u8; 12] = cursor.take()?;
            let count = field(&head, 0).saturating_add(1);
            if count > MAX_RUN {
                return Err(FsError::Damaged(format!("a directory has a run of {count} entries")));
            }
            at = at.saturating_add(12);
            seen = seen.saturating_add(count);
            if seen > MAX_ENTRIES {
                return Err(FsError::Unsupported("a directory with more names than are read".to_owned()));
            }
            for _ in 0..count {
                // offset, inode_number (relative), type, size - 1
                let entry: [u8; 8] = cursor.take()?;
                let part = |at| le16(&entry, at).unwrap_or(0);
                let len = u32::from(part(6)).saturating_add(1);
                let name = cursor.bytes(len, MAX_NAME, "a name")?;
                at = at.saturating_add(len).saturating_add(8);
                let none = matches!(name.as_slice(), b"." | b"..");
                if at > directory.len || none || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
                    return Err(FsError::Damaged("an entry of a directory is none".to_owned()));
                }
                let inode = u64::from(field(&head, 4)) << 16 | u64::from(part(0));
                if let ControlFlow::Break(found) = work(&Stored { name: &name, inode, kind: part(4) })? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }

    /// The place in the table, and the byte of the listing, of the last header whose first name is not behind `wanted`,
    /// by the directory's index.
    fn seek(&self, directory: &Directory, wanted: Option<&[u8]>) -> Result<(Place, u32)> {
        let first = usize::from(directory.offset);
        let mut found = (Place { block: directory.block.into(), offset: first }, 0);
        let (Some(wanted), Some((count, place))) = (wanted, directory.index) else { return Ok(found) };
        let mut cursor = Cursor::new(&self.tables, place);
        for _ in 0..count {
            // index, start_block, size - 1
            let entry: [u8; 12] = cursor.take()?;
            let name = cursor.bytes(field(&entry, 8).saturating_add(1), MAX_NAME, "a name of an index")?;
            if name.as_slice() > wanted {
                break;
            }
            let at = field(&entry, 0);
            let inside = usize::try_from(at).ok().and_then(|at| first.checked_add(at)).unwrap_or(usize::MAX);
            let offset = inside.checked_rem(METADATA).unwrap_or(0);
            found = (Place { block: field(&entry, 4).into(), offset }, at);
        }
        Ok(found)
    }

    fn find(&self, path: &[u8]) -> Result<Inode> {
        let mut inode = self.inode(self.root)?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let Body::Directory(directory) = &inode.body else { return Err(FsError::NotFound) };
            let found = self.walk(directory, Some(name), |entry| {
                Ok(if entry.name == name {
                    ControlFlow::Break(entry.inode)
                } else {
                    ControlFlow::Continue(())
                })
            })?;
            inode = self.inode(found.ok_or(FsError::NotFound)?)?;
        }
        Ok(inode)
    }
}

impl FileSystem for Squashfs {
    fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let Body::Directory(directory) = self.find(path)?.body else { return Err(FsError::WrongKind) };
        let mut entries = Vec::new();
        self.walk(&directory, None, |entry| {
            let kind = match entry.kind {
                1 => Kind::Directory,
                2 => Kind::File,
                3 => Kind::Link,
                _ => Kind::Special,
            };
            entries.push(Entry { name: entry.name.to_vec(), kind });
            Ok(ControlFlow::<()>::Continue(()))
        })?;
        Ok(entries)
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let inode = self.find(path)?;
        let len = match &inode.body {
            Body::File(file) => file.len,
            Body::Link(target) => u64::try_from(target.len()).unwrap_or(0),
            Body::Directory(_) | Body::Special => 0,
        };
        if inode.owner >= self.id_count {
            return Err(FsError::Damaged(format!("there is no owner {}", inode.owner)));
        }
        let uid = self.tables.entry(self.ids, inode.owner.into()).map(u32::from_le_bytes)?;
        Ok(Stat { kind: inode.kind, len, mode: Some(inode.mode), uid: Some(uid) })
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        match self.find(path)?.body {
            Body::Link(target) => Ok(target),
            _ => Err(FsError::WrongKind),
        }
    }

    fn read(&self, path: &[u8], at: u64, buf: &mut [u8]) -> Result<usize> {
        match self.find(path)?.body {
            Body::File(file) => self.files.read(&self.tables, &file, at, buf),
            _ => Err(FsError::WrongKind),
        }
    }
}
