//! Metadata: blocks of at most 8 KiB, packed one by one, read when something in them is wanted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::wire::{le16, le32, le64};
use kiln_disk::{Disk, GuestOffset};

use super::super::{FsError, Result};
use super::unpack::Compression;

/// The longest metadata block, unpacked (SQUASHFS_METADATA_SIZE of Linux `fs/squashfs/squashfs_fs.h`).
pub(super) const METADATA: usize = 8192;
/// Metadata blocks that are remembered.
const MAX_HELD: usize = 256;

/// An unpacked metadata block.
pub(super) struct Block {
    bytes: Vec<u8>,
    /// The byte behind it, where the next one begins.
    next: u64,
}

/// Reads what lies between the beginning of a file system and its end.
pub(super) struct Tables {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) compression: Compression,
    /// `bytes_used`.
    pub(super) end: u64,
    held: Mutex<HashMap<u64, Arc<Block>>>,
}

impl Tables {
    pub(super) fn new(disk: &Arc<dyn Disk>, compression: Compression, end: u64) -> Self {
        Self { disk: Arc::clone(disk), compression, end, held: Mutex::default() }
    }

    /// `len` bytes as they are stored.
    pub(super) fn raw(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        let end = u64::try_from(len).ok().and_then(|len| at.checked_add(len));
        if end.is_none_or(|end| end > self.end) {
            return Err(FsError::Damaged(format!(
                "{len} bytes from byte {at} on are not in the file system"
            )));
        }
        let mut buf = vec![0; len];
        self.disk.read_guest(GuestOffset::new(at), &mut buf)?;
        Ok(buf)
    }

    fn block(&self, at: u64) -> Result<Arc<Block>> {
        if let Some(block) = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&at) {
            return Ok(Arc::clone(block));
        }
        let head = le16(&self.raw(at, 2)?, 0).unwrap_or(0);
        // Bit 15: stored as it is.
        let len = usize::from(head & 0x7fff);
        let damaged = |why: &str| FsError::Damaged(format!("the metadata block at byte {at} {why}"));
        if len == 0 || len > METADATA {
            return Err(damaged("has a length that none has"));
        }
        let from = at.checked_add(2).ok_or_else(|| damaged("is nowhere"))?;
        let stored = self.raw(from, len)?;
        let bytes = if head & 0x8000 != 0 {
            stored
        } else {
            self.compression.unpack(&stored, METADATA).map_err(|why| damaged(&why))?
        };
        if bytes.is_empty() {
            return Err(damaged("is empty"));
        }
        let next = from.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        let block = Arc::new(Block { bytes, next });
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.len() >= MAX_HELD {
            held.clear();
        }
        held.insert(at, Arc::clone(&block));
        Ok(block)
    }

    /// Entry `index` of a table of entries of `N` bytes, whose blocks are found by a list of their places at `list`
    /// (the tables of fragments and of ids).
    pub(super) fn entry<const N: usize>(&self, list: u64, index: u32) -> Result<[u8; N]> {
        let per_block = u64::try_from(METADATA.checked_div(N).unwrap_or(1)).unwrap_or(1);
        let block = u64::from(index).checked_div(per_block).unwrap_or(0);
        let pointer = self.raw(list.saturating_add(block.saturating_mul(8)), 8)?;
        let inside = u64::from(index).checked_rem(per_block).and_then(|inside| usize::try_from(inside).ok());
        let offset = inside.unwrap_or(0).saturating_mul(N);
        Cursor::new(self, Place { block: le64(&pointer, 0).unwrap_or(u64::MAX), offset }).take()
    }
}

/// A byte of unpacked metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    /// First byte of its block, as stored.
    pub(super) block: u64,
    /// Its byte in the unpacked block.
    pub(super) offset: usize,
}

/// Reads metadata on and on, over the ends of blocks.
pub(super) struct Cursor<'a> {
    tables: &'a Tables,
    place: Place,
    block: Option<Arc<Block>>,
}

impl<'a> Cursor<'a> {
    pub(super) const fn new(tables: &'a Tables, place: Place) -> Self {
        Self { tables, place, block: None }
    }

    pub(super) const fn place(&self) -> Place {
        self.place
    }

    fn fill(&mut self, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let block = match self.block.take() {
                Some(block) => block,
                None => self.tables.block(self.place.block)?,
            };
            let rest = block.bytes.get(self.place.offset..);
            let rest = rest.ok_or_else(|| {
                let Place { block, offset } = self.place;
                FsError::Damaged(format!("byte {offset} of the metadata block at byte {block} is not in it"))
            })?;
            if rest.is_empty() {
                self.place = Place { block: block.next, offset: 0 };
                continue;
            }
            let len = rest.len().min(buf.len());
            let (Some(source), Some((target, behind))) = (rest.get(..len), buf.split_at_mut_checked(len))
            else {
                break;
            };
            target.copy_from_slice(source);
            buf = behind;
            self.place.offset = self.place.offset.saturating_add(len);
            self.block = Some(block);
        }
        Ok(())
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn word(&mut self) -> Result<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// `len` bytes, at most `limit`.
    pub(super) fn bytes(&mut self, len: u32, limit: usize, what: &str) -> Result<Vec<u8>> {
        let len = usize::try_from(len).ok().filter(|len| *len <= limit);
        let len = len.ok_or_else(|| FsError::Damaged(format!("{what} is longer than any may be")))?;
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// A little-endian field of a structure that was read whole.
pub(super) fn field(structure: &[u8], at: usize) -> u32 {
    le32(structure, at).unwrap_or(0)
}
