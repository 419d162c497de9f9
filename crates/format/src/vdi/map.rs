//! The block map: which block of the file holds which block of the disk.

use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Result};

use super::header::{HEADER_END, Header};
use super::problem::VdiProblem;
use crate::pages::Pages;
use crate::pieces::{Met, Space};

/// Not in this file: the parent's, or zeros (`VDI_IMAGE_BLOCK_FREE`).
pub(super) const FREE: u32 = u32::MAX;
/// Zeros, whatever the parent has (`VDI_IMAGE_BLOCK_ZERO`).
pub(super) const ZERO: u32 = u32::MAX - 1;

/// What an entry of the map says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Free,
    Zero,
    /// A block of the file.
    Block(u32),
}

impl Entry {
    pub(super) const fn of(raw: u32) -> Self {
        match raw {
            FREE => Self::Free,
            ZERO => Self::Zero,
            block => Self::Block(block),
        }
    }
}

/// Map and layout.
pub(super) struct Map {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) budget: Arc<Budget>,
    pages: Pages,
    pub(super) header: Header,
}

impl Map {
    pub(super) fn new(source: Arc<dyn ByteSource>, budget: Arc<Budget>, header: Header) -> Self {
        let pages = Pages::new(Arc::clone(&source), Arc::clone(&budget));
        Self { source, budget, pages, header }
    }

    pub(super) fn block_size(&self) -> u64 {
        self.header.block_size.into()
    }

    /// Bytes of the file that a block takes: extra bytes and data.
    pub(super) fn unit(&self) -> u64 {
        u64::from(self.header.block_extra).saturating_add(self.block_size())
    }

    /// Entries that the disk's length needs; the header may declare more.
    pub(super) fn needed(&self) -> u64 {
        // The block size is a power of two, so never zero.
        self.header.disk_size.div_ceil(self.block_size().max(1))
    }

    /// First byte behind the map.
    pub(super) fn end(&self) -> u64 {
        self.entry_at(self.header.blocks.into()).get()
    }

    /// Where entry `block` of the map is.
    pub(super) fn entry_at(&self, block: u64) -> FileOffset {
        FileOffset::new(u64::from(self.header.blocks_offset).saturating_add(block.saturating_mul(4)))
    }

    /// Guest bytes of a block that are on the disk.
    pub(super) fn used_len(&self, block: u64) -> u64 {
        self.header.disk_size.saturating_sub(block.saturating_mul(self.block_size())).min(self.block_size())
    }

    /// Where block `number` of the file starts, its extra bytes included.
    pub(super) fn unit_at(&self, number: u64) -> u64 {
        u64::from(self.header.data_offset).saturating_add(number.saturating_mul(self.unit()))
    }

    /// What is wrong with block `block` of the disk being block `number` of the file. Of the last block only the
    /// part that is on the disk must be in the file.
    pub(super) fn fault(&self, block: u64, number: u64) -> Option<VdiProblem> {
        let at = self.unit_at(number);
        let file_len = self.source.byte_len();
        let len = u64::from(self.header.block_extra).saturating_add(self.used_len(block));
        if at.checked_add(len).is_none_or(|end| end > file_len) {
            return Some(VdiProblem::BlockPastEnd { block, at, file_len });
        }
        let header_end = u64::try_from(HEADER_END).unwrap_or(u64::MAX);
        let map = u64::from(self.header.blocks_offset)..self.end();
        let other = if at < header_end {
            "header"
        } else if at < map.end && map.start < at.saturating_add(len) {
            "block map"
        } else {
            return None;
        };
        Some(VdiProblem::BlockOnMetadata { block, at, other })
    }

    /// What the map says of `block`; a block of the file lies inside it.
    pub(super) fn entry(&self, block: u64) -> Result<Entry> {
        let mut raw = [0; 4];
        self.pages.read(self.entry_at(block).get(), &mut raw)?;
        let entry = Entry::of(u32::from_le_bytes(raw));
        match entry {
            Entry::Block(number) => match self.fault(block, number.into()) {
                None => Ok(entry),
                Some(problem) => Err(self.malformed(block, problem)),
            },
            other => Ok(other),
        }
    }

    pub(super) fn malformed(&self, block: u64, problem: VdiProblem) -> Error {
        Error::malformed("block map", self.entry_at(block), problem)
    }

    /// How many blocks from `block` on, at most `most`, have this very entry.
    pub(super) fn run_of(&self, value: u32, block: u64, most: u64) -> Result<u64> {
        let mut raw = [0; 1024];
        let mut run = 0_u64;
        while run < most {
            let take = most.saturating_sub(run).min(256);
            let len = usize::try_from(take.saturating_mul(4)).unwrap_or(0);
            let chunk = raw.get_mut(..len).unwrap_or_default();
            self.pages.read(self.entry_at(block.saturating_add(run)).get(), chunk)?;
            let (entries, _) = chunk.as_chunks::<4>();
            let same = entries.iter().take_while(|entry| u32::from_le_bytes(**entry) == value).count();
            run = run.saturating_add(u64::try_from(same).unwrap_or(0));
            if same < entries.len() {
                break;
            }
        }
        Ok(run)
    }

    /// Reads the first `entries` entries in order, without keeping them.
    pub(super) fn for_each(
        &self,
        entries: u64,
        visit: &mut dyn FnMut(u64, Entry) -> Result<()>,
    ) -> Result<()> {
        const CHUNK: u64 = 16 * 1024;
        let mut raw = vec![0; usize::try_from(CHUNK.min(entries).saturating_mul(4)).unwrap_or(0)];
        let mut block = 0_u64;
        while block < entries {
            let take = entries.saturating_sub(block).min(CHUNK);
            self.budget.check_time()?;
            self.budget.charge(Cost::Nodes, take)?;
            self.budget.charge(Cost::MetadataBytes, take.saturating_mul(4))?;
            let len = usize::try_from(take.saturating_mul(4)).unwrap_or(0);
            let chunk = raw.get_mut(..len).unwrap_or_default();
            self.source.read_bytes(self.entry_at(block), chunk)?;
            for entry in chunk.as_chunks::<4>().0 {
                visit(block, Entry::of(u32::from_le_bytes(*entry)))?;
                block = block.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Meets every block of the file that the first `entries` entries name, in the order of the file. The value of
    /// a fault is the block's number.
    pub(super) fn walk(&self, entries: u64, met: &mut dyn FnMut(Met) -> Result<()>) -> Result<()> {
        let end = self.source.byte_len().min(self.unit_at(ZERO.into()));
        let unit = self.unit();
        let space = Space { budget: &self.budget, slot: unit, end, len_of: &|_| unit };
        space.walk(
            &|visit| {
                self.for_each(entries, &mut |block, entry| match entry {
                    Entry::Block(number) if self.fault(block, number.into()).is_some() => {
                        visit(block, Err(number.into()))
                    }
                    Entry::Block(number) => visit(block, Ok(self.unit_at(number.into()))),
                    _ => Ok(()),
                })
            },
            met,
        )
    }
}
