//! ext2, ext3 and ext4, by `ext4-view`, which replays the journal in memory.

use std::cell::RefCell;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read, File, FileType, Metadata, PathBuf};
use kiln_disk::Disk;
use kiln_disk::wire::{le16, le32};

use super::guard::guarded;
use super::{Bytes, Entry, Failure, FileSystem, FsError, Kind, Result, Stat, disk_error, short_link};

/// An ext file system.
pub(super) struct Ext {
    fs: Ext4,
    failure: Failure,
    /// The file read last: its reader finds a place only by walking there.
    open: RefCell<Option<(Vec<u8>, File)>>,
}

/// The disk, with or without the superblock's word that its journal is to be replayed.
struct Reader {
    bytes: Bytes,
    without_journal: bool,
}

const SUPERBLOCK_AT: u64 = 1024;
/// The byte of s_feature_incompat that holds RECOVER, 0x4.
const INCOMPAT_AT: u64 = SUPERBLOCK_AT + 0x60;
/// Groups that are opened: 128 TiB in blocks of 4 KiB. The reader holds the descriptors of all.
const MAX_GROUPS: u64 = 1 << 20;

impl Ext4Read for Reader {
    fn read(
        &mut self,
        at: u64,
        buf: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        self.bytes.fill(at, buf)?;
        let flag = INCOMPAT_AT.checked_sub(at).and_then(|at| usize::try_from(at).ok());
        if let (true, Some(byte)) = (self.without_journal, flag.and_then(|flag| buf.get_mut(flag))) {
            *byte &= !0x4;
        }
        Ok(())
    }
}

impl Ext {
    pub(super) fn open(disk: &Arc<dyn Disk>) -> Result<Self> {
        bounded(disk.as_ref())?;
        match Self::load(disk, false) {
            // Journals without checksums (ext3, ext4 of older systems) are not replayed by the reader. What is on the
            // disk itself is then read; `Probed::state` says that the journal holds more.
            Err(FsError::Unsupported(why)) if why.contains("journal") => Self::load(disk, true),
            other => other,
        }
    }

    fn load(disk: &Arc<dyn Disk>, without_journal: bool) -> Result<Self> {
        let (bytes, failure) = Bytes::new(disk);
        let reader = Reader { bytes, without_journal };
        let fs = guarded(|| Ext4::load(Box::new(reader)).map_err(|error| told(error, &failure)))?;
        Ok(Self { fs, failure, open: RefCell::new(None) })
    }

    fn run<T>(&self, work: impl FnOnce() -> std::result::Result<T, Ext4Error>) -> Result<T> {
        guarded(|| work().map_err(|error| told(error, &self.failure)))
    }
}

/// Refuses a superblock by which the reader would need memory that no file system asks for. The kernel refuses what is
/// called damaged here as well (`fs/ext4/super.c`, `ext4_load_super`, `ext4_check_geometry`).
fn bounded(disk: &dyn Disk) -> Result<()> {
    let sb = crate::volume::read(disk, SUPERBLOCK_AT, 1024)?;
    let word = |at| le32(&sb, at).ok_or_else(|| FsError::Damaged("no superblock".to_owned()));
    // s_log_block_size: 1 to 64 KiB.
    if word(0x18)? > 6 {
        return Err(FsError::Damaged(format!("blocks of 2^{} KiB", word(0x18)?)));
    }
    // s_feature_incompat 64BIT, s_desc_size.
    let wide = word(0x60)? & 0x80 != 0;
    if let (true, Some(len @ 1025..)) = (wide, le16(&sb, 0xfe)) {
        return Err(FsError::Damaged(format!("group descriptors of {len} bytes")));
    }
    // s_blocks_count_lo, s_blocks_count_hi, s_blocks_per_group.
    let blocks = u64::from(word(0x150)?) << 32 | u64::from(word(0x4)?);
    let groups = blocks.div_ceil(u64::from(word(0x20)?.max(1)));
    if groups > MAX_GROUPS {
        return Err(FsError::Unsupported(format!("{groups} block groups, more than {MAX_GROUPS}")));
    }
    Ok(())
}

fn told(error: Ext4Error, failure: &Failure) -> FsError {
    if let Some(error) = disk_error(failure) {
        return error.into();
    }
    match error {
        Ext4Error::NotFound => FsError::NotFound,
        Ext4Error::IsADirectory
        | Ext4Error::NotADirectory
        | Ext4Error::NotASymlink
        | Ext4Error::IsASpecialFile => FsError::WrongKind,
        Ext4Error::TooManySymlinks => FsError::Links,
        Ext4Error::Encrypted | Ext4Error::Incompatible(_) => FsError::Unsupported(error.to_string()),
        other => FsError::Damaged(other.to_string()),
    }
}

fn path(bytes: &[u8]) -> Result<PathBuf> {
    PathBuf::try_from(bytes).map_err(|_| FsError::NotFound)
}

fn kind(file_type: FileType) -> Kind {
    match file_type {
        FileType::Regular => Kind::File,
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Link,
        _ => Kind::Special,
    }
}

fn stat_of(data: &Metadata) -> Stat {
    Stat {
        kind: kind(data.file_type()),
        len: data.len(),
        mode: Some(u32::from(data.mode()) & 0o7777),
        uid: Some(data.uid()),
    }
}

impl FileSystem for Ext {
    fn list(&self, at: &[u8]) -> Result<Vec<Entry>> {
        let at = path(at)?;
        self.run(|| {
            let mut entries = Vec::new();
            for entry in self.fs.read_dir(&at)? {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.as_ref();
                if name != b"." && name != b".." {
                    entries.push(Entry { name: name.to_vec(), kind: kind(entry.file_type()?) });
                }
            }
            Ok(entries)
        })
    }

    fn stat(&self, at: &[u8]) -> Result<Stat> {
        let at = path(at)?;
        self.run(|| self.fs.symlink_metadata(&at).map(|data| stat_of(&data)))
    }

    fn list_stat(&self, at: &[u8], limit: usize) -> Result<Vec<(Entry, Stat)>> {
        let at = path(at)?;
        // By the inodes that the entries name: a path would be looked up name by name for each.
        self.run(|| {
            let mut entries = Vec::new();
            for entry in self.fs.read_dir(&at)? {
                let entry = entry?;
                let name = entry.file_name();
                let name = name.as_ref();
                if entries.len() >= limit {
                    break;
                }
                if name != b"." && name != b".." {
                    let stat = stat_of(&entry.metadata()?);
                    entries.push((Entry { name: name.to_vec(), kind: stat.kind }, stat));
                }
            }
            Ok(entries)
        })
    }

    fn read_link(&self, at: &[u8]) -> Result<Vec<u8>> {
        let target = path(at)?;
        short_link(self.stat(at)?, || self.run(|| Ok(self.fs.read_link(&target)?.as_ref().to_vec())))
    }

    fn read(&self, at_path: &[u8], at: u64, buf: &mut [u8]) -> Result<usize> {
        let held = self.open.borrow_mut().take().filter(|(known, _)| known == at_path);
        let target = path(at_path)?;
        let (file, read) = self.run(|| {
            let mut file = match held {
                Some((_, file)) => file,
                None => self.fs.open(&target)?,
            };
            if file.position() != at {
                file.seek_to(at)?;
            }
            let mut read = 0_usize;
            while let Some(rest) = buf.get_mut(read..).filter(|rest| !rest.is_empty()) {
                match file.read_bytes(rest)? {
                    0 => break,
                    more => read = read.saturating_add(more),
                }
            }
            Ok((file, read))
        })?;
        *self.open.borrow_mut() = Some((at_path.to_vec(), file));
        Ok(read)
    }
}
