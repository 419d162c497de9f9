//! The block allocation table: where each block of a dynamic or differencing disk is in the file.

use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Result};

use super::footer::SECTOR;
use super::header::{HEADER_LEN, Header};
use super::problem::VhdProblem;
use crate::pages::Pages;
use crate::pieces::{Met, Space};

/// "This block is not in the file."
pub(super) const UNALLOCATED: u32 = u32::MAX;

/// A named part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Region {
    pub(super) const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    pub(super) const fn overlaps(&self, start: u64, len: u64) -> bool {
        start < self.end() && self.start < start.saturating_add(len)
    }
}

/// Table and layout of the blocks.
pub(super) struct Blocks {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) budget: Arc<Budget>,
    pages: Pages,
    pub(super) header: Header,
    pub(super) header_at: u64,
    /// Everything that is no block, in file order of the specification: first footer, header, table.
    pub(super) metadata: [Region; 3],
    /// First byte behind the space for blocks: the footer at the end, or the end of the file.
    pub(super) limit: u64,
    pub(super) disk_len: u64,
}

impl Blocks {
    pub(super) fn new(
        source: Arc<dyn ByteSource>,
        budget: Arc<Budget>,
        header: Header,
        header_at: u64,
        limit: u64,
        disk_len: u64,
    ) -> Self {
        let table_len = u64::from(header.max_table_entries).saturating_mul(4);
        let metadata = [
            Region { name: "footer at the start", start: 0, len: SECTOR },
            Region {
                name: "dynamic disk header",
                start: header_at,
                len: u64::try_from(HEADER_LEN).unwrap_or(u64::MAX),
            },
            Region { name: "block allocation table", start: header.table_offset, len: table_len },
        ];
        let pages = Pages::new(Arc::clone(&source), Arc::clone(&budget));
        Self { source, budget, pages, header, header_at, metadata, limit, disk_len }
    }

    pub(super) fn block_size(&self) -> u64 {
        self.header.block_size.into()
    }

    /// Bytes of the file that a block takes: bitmap and data.
    pub(super) fn unit(&self) -> u64 {
        self.header.bitmap_len().saturating_add(self.block_size())
    }

    /// Entries that the disk's length needs; the header may declare more.
    pub(super) fn needed(&self) -> u64 {
        // The block size is a power of two, so never zero.
        self.disk_len.div_ceil(self.block_size().max(1))
    }

    /// Where entry `block` of the table is in the file.
    pub(super) fn entry_at(&self, block: u64) -> FileOffset {
        FileOffset::new(self.header.table_offset.saturating_add(block.saturating_mul(4)))
    }

    /// Guest bytes of a block that are on the disk.
    pub(super) fn used_len(&self, block: u64) -> u64 {
        self.disk_len.saturating_sub(block.saturating_mul(self.block_size())).min(self.block_size())
    }

    /// What is wrong with a block being at sector `entry`, if anything. Of the last block only the part that is on
    /// the disk must be in the file.
    pub(super) fn fault(&self, block: u64, entry: u64) -> Option<VhdProblem> {
        let at = entry.saturating_mul(SECTOR);
        let len = self.header.bitmap_len().saturating_add(self.used_len(block));
        if let Some(region) = self.metadata.iter().find(|region| region.overlaps(at, len)) {
            return Some(VhdProblem::BlockOnMetadata { block, at, other: region.name });
        }
        (at.saturating_add(len) > self.limit).then_some(VhdProblem::BlockPastEnd {
            block,
            at,
            limit: self.limit,
        })
    }

    /// Where the bitmap of `block` starts; `None` when the block is not in the file.
    pub(super) fn place(&self, block: u64) -> Result<Option<u64>> {
        let mut raw = [0; 4];
        self.pages.read(self.entry_at(block).get(), &mut raw)?;
        match u32::from_be_bytes(raw) {
            UNALLOCATED => Ok(None),
            entry => match self.fault(block, entry.into()) {
                None => Ok(Some(u64::from(entry).saturating_mul(SECTOR))),
                Some(problem) => Err(self.malformed(block, problem)),
            },
        }
    }

    pub(super) fn malformed(&self, block: u64, problem: VhdProblem) -> Error {
        Error::malformed("block allocation table", self.entry_at(block), problem)
    }

    /// How many blocks from `block` on, at most `most`, are not in the file.
    pub(super) fn unallocated_run(&self, block: u64, most: u64) -> Result<u64> {
        let mut raw = [0; 1024];
        let mut run = 0_u64;
        while run < most {
            let take = most.saturating_sub(run).min(256);
            let len = usize::try_from(take.saturating_mul(4)).unwrap_or(0);
            let chunk = raw.get_mut(..len).unwrap_or_default();
            self.pages.read(self.entry_at(block.saturating_add(run)).get(), chunk)?;
            let (entries, _) = chunk.as_chunks::<4>();
            let empty = entries.iter().take_while(|entry| u32::from_be_bytes(**entry) == UNALLOCATED).count();
            run = run.saturating_add(u64::try_from(empty).unwrap_or(0));
            if empty < entries.len() {
                break;
            }
        }
        Ok(run)
    }

    /// Whether `sector` of the block whose bitmap is at `bitmap_at` is marked in it, and for how many sectors, at
    /// most `most`, that holds.
    pub(super) fn bitmap_run(&self, bitmap_at: u64, sector: u64, most: u64) -> Result<(bool, u64)> {
        let mut raw = [0; 512];
        let mut set = None;
        let mut run = 0_u64;
        while run < most {
            let next = sector.saturating_add(run);
            let byte = next / 8;
            let len = most.saturating_sub(run).saturating_add(next % 8).div_ceil(8).min(512);
            let chunk = raw.get_mut(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
            self.pages.read(bitmap_at.saturating_add(byte), chunk)?;
            let skip = usize::try_from(next % 8).unwrap_or(0);
            // The first sector is the highest bit of the first byte.
            for bit in
                chunk.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte & (1 << bit) != 0)).skip(skip)
            {
                if run == most || set.is_some_and(|set| set != bit) {
                    return Ok((set.unwrap_or(false), run));
                }
                set = Some(bit);
                run = run.saturating_add(1);
            }
        }
        Ok((set.unwrap_or(false), run))
    }

    /// Reads the table from its first entry to entry `entries`, in order, without keeping it.
    pub(super) fn for_each(&self, entries: u64, visit: &mut dyn FnMut(u64, u32) -> Result<()>) -> Result<()> {
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
                visit(block, u32::from_be_bytes(*entry))?;
                block = block.saturating_add(1);
            }
        }
        Ok(())
    }
}

impl Blocks {
    /// Meets every allocated entry among the first `entries` once, blocks in the order of the file. The value of a
    /// fault is the entry.
    pub(super) fn walk(&self, entries: u64, met: &mut dyn FnMut(Met) -> Result<()>) -> Result<()> {
        let unit = self.unit();
        let end = self.limit.min(u64::from(UNALLOCATED).saturating_mul(SECTOR));
        let space = Space { budget: &self.budget, slot: unit, end, len_of: &|_| unit };
        space.walk(
            &|visit| {
                self.for_each(entries, &mut |block, entry| match entry {
                    UNALLOCATED => Ok(()),
                    _ if self.fault(block, entry.into()).is_some() => visit(block, Err(entry.into())),
                    _ => visit(block, Ok(u64::from(entry).saturating_mul(SECTOR))),
                })
            },
            met,
        )
    }
}
