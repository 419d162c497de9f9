//! Bytes of files: blocks one behind the other, holes, and ends that several files share.

use std::sync::{Arc, Mutex, PoisonError};

use super::super::{FsError, Result};
use super::inode::File;
use super::table::{Cursor, Place, Tables, field};

/// Lengths of blocks that are walked over for one read: 2 TiB in blocks of 128 KiB.
const MAX_WALK: u64 = 1 << 24;
/// Bit of a block's length: stored as it is.
const STORED: u32 = 1 << 24;

/// A block by its place and length as stored.
type Key = (u64, u32);

/// A block that is remembered, unpacked.
type Held = Option<(Key, Arc<Vec<u8>>)>;

/// Where the walk over a file's lengths stands.
#[derive(Debug, Clone, Copy)]
struct Walk {
    /// Whose lengths.
    sizes: Place,
    /// The block that comes next.
    index: u64,
    start: u64,
    place: Place,
}

/// Reads files.
pub(super) struct Files {
    pub(super) block: u32,
    pub(super) fragments: u32,
    /// Where the table of fragments begins.
    pub(super) table: u64,
    walk: Mutex<Option<Walk>>,
    /// The block read last, and the fragment.
    held: [Mutex<Held>; 2],
}

impl Files {
    pub(super) fn new(block: u32, fragments: u32, table: u64) -> Self {
        Self { block, fragments, table, walk: Mutex::default(), held: Default::default() }
    }

    /// Fills `buf` from byte `at`; fewer bytes only at the end.
    pub(super) fn read(&self, tables: &Tables, file: &File, at: u64, buf: &mut [u8]) -> Result<usize> {
        let block = u64::from(self.block);
        let whole = match file.fragment {
            Some(_) => file.len.checked_div(block).unwrap_or(0),
            None => file.len.div_ceil(block),
        };
        let (mut done, mut at) = (0_usize, at);
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty() && at < file.len) {
            let index = at.checked_div(block).unwrap_or(0);
            let inside = at.checked_rem(block).unwrap_or(0);
            let here = file.len.saturating_sub(index.saturating_mul(block)).min(block);
            let len = usize::try_from(here.saturating_sub(inside)).unwrap_or(usize::MAX).min(rest.len());
            let (target, _) = rest.split_at_mut(len);
            match (index < whole, file.fragment) {
                (true, _) => self.block_bytes(tables, file, (index, here), inside, target)?,
                (false, Some((number, offset))) => {
                    let place = u64::from(offset).saturating_add(inside);
                    let bytes = self.fragment(tables, number)?;
                    take(&bytes, place, target, "a fragment is shorter than what lies in it")?;
                }
                (false, None) => break,
            }
            done = done.saturating_add(len);
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        }
        Ok(done)
    }

    /// Bytes of block `index`, which unpacks to `len`.
    fn block_bytes(
        &self,
        tables: &Tables,
        file: &File,
        (index, len): (u64, u64),
        inside: u64,
        target: &mut [u8],
    ) -> Result<()> {
        let (start, size) = self.find(tables, file, index)?;
        if size & (STORED - 1) == 0 {
            // A hole.
            target.fill(0);
            return Ok(());
        }
        let bytes = self.unpacked(tables, (start, size), 0)?;
        if u64::try_from(bytes.len()) != Ok(len) {
            return Err(FsError::Damaged(format!("the block at byte {start} has not the length of a block")));
        }
        take(&bytes, inside, target, "a block is too short")
    }

    /// Where block `index` is stored, and its length with its flag. Only the lengths of those before it tell.
    fn find(&self, tables: &Tables, file: &File, index: u64) -> Result<Key> {
        let known = self.walk.lock().unwrap_or_else(PoisonError::into_inner).take();
        let known = known.filter(|walk| walk.sizes == file.sizes && walk.index <= index);
        let fresh = Walk { sizes: file.sizes, index: 0, start: file.start, place: file.sizes };
        let walk = known.unwrap_or(fresh);
        if index.saturating_sub(walk.index) > MAX_WALK {
            return Err(FsError::Unsupported(
                "a squashfs file of more blocks than are walked over".to_owned(),
            ));
        }
        let (mut cursor, mut start) = (Cursor::new(tables, walk.place), walk.start);
        for _ in walk.index..index {
            start = start.saturating_add(u64::from(cursor.word()? & (STORED - 1)));
        }
        let place = cursor.place();
        let size = cursor.word()?;
        if size & !(STORED | (STORED - 1)) != 0 {
            return Err(FsError::Damaged(format!("a block of a file has the length {size:#x}")));
        }
        let walk = Walk { sizes: file.sizes, index, start, place };
        *self.walk.lock().unwrap_or_else(PoisonError::into_inner) = Some(walk);
        Ok((start, size))
    }

    /// A block of the table of fragments, unpacked.
    fn fragment(&self, tables: &Tables, number: u32) -> Result<Arc<Vec<u8>>> {
        if number >= self.fragments {
            return Err(FsError::Damaged(format!("there is no fragment {number}")));
        }
        let entry: [u8; 16] = tables.entry(self.table, number)?;
        let start = u64::from(field(&entry, 0)) | u64::from(field(&entry, 4)) << 32;
        self.unpacked(tables, (start, field(&entry, 8)), 1)
    }

    fn unpacked(&self, tables: &Tables, (start, size): Key, slot: usize) -> Result<Arc<Vec<u8>>> {
        let held = self.held.get(slot);
        let held = held.map(|held| held.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some((key, bytes)) = held.as_ref().and_then(|held| held.as_ref())
            && *key == (start, size)
        {
            return Ok(Arc::clone(bytes));
        }
        let (len, most) = (size & (STORED - 1), usize::try_from(self.block).unwrap_or(0));
        if len > self.block {
            return Err(FsError::Damaged(format!("the block at byte {start} is longer than a block")));
        }
        let stored = tables.raw(start, usize::try_from(len).unwrap_or(0))?;
        let bytes = if size & STORED != 0 {
            stored
        } else {
            let unpacked = tables.compression.unpack(&stored, most);
            unpacked.map_err(|why| FsError::Damaged(format!("the block at byte {start} {why}")))?
        };
        let bytes = Arc::new(bytes);
        if let Some(mut held) = held {
            *held = Some(((start, size), Arc::clone(&bytes)));
        }
        Ok(bytes)
    }
}

fn take(bytes: &[u8], at: u64, target: &mut [u8], what: &str) -> Result<()> {
    let from = usize::try_from(at).ok();
    let source = from.and_then(|from| bytes.get(from..)?.get(..target.len()));
    target.copy_from_slice(source.ok_or_else(|| FsError::Damaged(what.to_owned()))?);
    Ok(())
}
