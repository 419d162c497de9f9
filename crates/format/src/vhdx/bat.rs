//! The block allocation table ([MS-VHDX] 2.5): payload blocks, and bitmaps of sectors between them.

use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Result};

use super::MIB;
use super::metadata::Metadata;
use super::problem::VhdxProblem;
use super::region::Region;
use crate::pages::Pages;
use crate::pieces::{Met, Space};

/// Sectors that a bitmap block of a mebibyte covers.
const SECTORS_PER_BITMAP: u64 = 1 << 23;

/// What an entry says of a payload block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payload {
    /// PAYLOAD_BLOCK_NOT_PRESENT: the parent's, or zeros.
    Absent,
    /// PAYLOAD_BLOCK_ZERO; also UNDEFINED and UNMAPPED, for which zeros are as good as anything.
    Zeros,
    /// PAYLOAD_BLOCK_FULLY_PRESENT, from this byte of the file on.
    Full(u64),
    /// PAYLOAD_BLOCK_PARTIALLY_PRESENT: sector by sector here or the parent's.
    Partial(u64),
    /// No state that the specification has.
    Unknown(u64),
}

impl Payload {
    fn of(entry: u64) -> Self {
        let at = entry & !(MIB - 1);
        match entry & 7 {
            0 => Self::Absent,
            // 5 is UNMAPPED in drafts of the specification (QEMU: PAYLOAD_BLOCK_UNMAPPED_v095).
            1 | 2 | 3 | 5 => Self::Zeros,
            6 => Self::Full(at),
            7 => Self::Partial(at),
            state => Self::Unknown(state),
        }
    }
}

/// Table and layout.
pub(super) struct Bat {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) budget: Arc<Budget>,
    pages: Pages,
    pub(super) region: Region,
    pub(super) block_size: u64,
    pub(super) sector_size: u64,
    pub(super) disk_len: u64,
    pub(super) has_parent: bool,
    /// Everything that is no block.
    pub(super) reserved: Vec<Region>,
}

impl Bat {
    pub(super) fn new(
        source: Arc<dyn ByteSource>,
        budget: Arc<Budget>,
        region: Region,
        metadata: &Metadata,
        reserved: Vec<Region>,
    ) -> Self {
        let pages = Pages::new(Arc::clone(&source), Arc::clone(&budget));
        Self {
            source,
            budget,
            pages,
            region,
            block_size: metadata.block_size.into(),
            sector_size: metadata.logical_sector_size.into(),
            disk_len: metadata.virtual_disk_size,
            has_parent: metadata.has_parent,
            reserved,
        }
    }

    /// Payload blocks for each bitmap block: between 16 and 32768.
    pub(super) fn chunk_ratio(&self) -> u64 {
        chunk_ratio(self.sector_size, self.block_size)
    }

    /// Payload blocks of the disk.
    pub(super) fn blocks(&self) -> u64 {
        self.disk_len.div_ceil(self.block_size.max(1))
    }

    /// Entries that the disk needs (2.5).
    pub(super) fn entries(&self) -> u64 {
        entries(self.blocks(), self.chunk_ratio(), self.has_parent)
    }

    /// Index in the table of the entry of payload block `block`.
    pub(super) fn payload_index(&self, block: u64) -> u64 {
        block.saturating_add(block.checked_div(self.chunk_ratio()).unwrap_or(0))
    }

    /// Index in the table of the entry of the bitmap that covers payload block `block`.
    pub(super) fn bitmap_index(&self, block: u64) -> u64 {
        let ratio = self.chunk_ratio();
        let chunk = block.checked_div(ratio).unwrap_or(0);
        chunk.saturating_mul(ratio.saturating_add(1)).saturating_add(ratio)
    }

    /// The payload block of an entry, none for a bitmap's.
    pub(super) fn block_of(&self, index: u64) -> Option<u64> {
        let group = self.chunk_ratio().saturating_add(1);
        let (chunk, within) = (index.checked_div(group)?, index.checked_rem(group)?);
        (within < self.chunk_ratio()).then(|| chunk.saturating_mul(self.chunk_ratio()).saturating_add(within))
    }

    /// Where entry `index` is in the file.
    pub(super) fn entry_at(&self, index: u64) -> FileOffset {
        FileOffset::new(self.region.start.saturating_add(index.saturating_mul(8)))
    }

    /// Guest bytes of a payload block that are on the disk.
    pub(super) fn used_len(&self, block: u64) -> u64 {
        self.disk_len.saturating_sub(block.saturating_mul(self.block_size)).min(self.block_size)
    }

    /// Bytes of the file that the block of entry `index` takes.
    pub(super) fn piece_len(&self, index: u64) -> u64 {
        if self.block_of(index).is_some() { self.block_size } else { MIB }
    }

    pub(super) fn malformed(&self, index: u64, problem: VhdxProblem) -> Error {
        Error::malformed("block allocation table", self.entry_at(index), problem)
    }

    fn raw(&self, index: u64) -> Result<u64> {
        let mut raw = [0; 8];
        self.pages.read(self.entry_at(index).get(), &mut raw)?;
        Ok(u64::from_le_bytes(raw))
    }

    /// Where the block that `entry` at `index` places is: `None` when it places none. A fault is what is wrong.
    pub(super) fn place(&self, index: u64, entry: u64) -> Result<Option<u64>, VhdxProblem> {
        let Some(block) = self.block_of(index) else {
            // Without a parent nobody reads bitmaps, and QEMU before 8.1 left garbage in their entries.
            return match (self.has_parent, entry & 7) {
                (false, _) | (true, 0) => Ok(None),
                (true, 6) => self.fits(index, entry & !(MIB - 1), MIB).map(Some),
                (true, state) => Err(VhdxProblem::State { index, state }),
            };
        };
        match Payload::of(entry) {
            Payload::Absent | Payload::Zeros => Ok(None),
            Payload::Full(at) => self.fits(index, at, self.used_len(block)).map(Some),
            Payload::Partial(at) if self.has_parent => self.fits(index, at, self.used_len(block)).map(Some),
            Payload::Partial(_) => Err(VhdxProblem::State { index, state: 7 }),
            Payload::Unknown(state) => Err(VhdxProblem::State { index, state }),
        }
    }

    fn fits(&self, index: u64, at: u64, len: u64) -> Result<u64, VhdxProblem> {
        let file_len = self.source.byte_len();
        if let Some(other) = self.reserved.iter().find(|region| region.overlaps(at, len)) {
            return Err(VhdxProblem::BlockOnMetadata { index, at, other: other.name });
        }
        match at.checked_add(len) {
            Some(end) if end <= file_len => Ok(at),
            _ => Err(VhdxProblem::BlockPastEnd { index, at, file_len }),
        }
    }

    /// What the table says of payload block `block`; a place is inside the file.
    pub(super) fn payload(&self, block: u64) -> Result<Payload> {
        let index = self.payload_index(block);
        let entry = self.raw(index)?;
        match self.place(index, entry) {
            Ok(_) => Ok(Payload::of(entry)),
            Err(problem) => Err(self.malformed(index, problem)),
        }
    }

    /// How many blocks from `block` on, at most `most`, say the same as `what`, which has no place.
    pub(super) fn run_of(&self, what: Payload, block: u64, most: u64) -> Result<u64> {
        let mut raw = [0; 1024];
        let ratio = self.chunk_ratio();
        let mut run = 0_u64;
        while run < most {
            let next = block.saturating_add(run);
            let in_chunk = ratio.saturating_sub(next.checked_rem(ratio).unwrap_or(0));
            let take = most.saturating_sub(run).min(in_chunk).min(128);
            let len = usize::try_from(take.saturating_mul(8)).unwrap_or(0);
            let bytes = raw.get_mut(..len).unwrap_or_default();
            self.pages.read(self.entry_at(self.payload_index(next)).get(), bytes)?;
            let (entries, _) = bytes.as_chunks::<8>();
            let same = entries.iter().take_while(|entry| Payload::of(u64::from_le_bytes(**entry)) == what);
            let same = same.count();
            run = run.saturating_add(u64::try_from(same).unwrap_or(0));
            if same < entries.len() {
                break;
            }
        }
        Ok(run)
    }

    /// Whether sector `sector` of payload block `block` is in this file, and for how many sectors, at most `most`,
    /// that holds. The first sector of a chunk is the lowest bit of the first byte of its bitmap (2.5.2).
    pub(super) fn bitmap_run(&self, block: u64, sector: u64, most: u64) -> Result<(bool, u64)> {
        let index = self.bitmap_index(block);
        let entry = self.raw(index)?;
        let at = match self.place(index, entry) {
            Ok(Some(at)) => at,
            Ok(None) => return Err(self.malformed(index, VhdxProblem::BitmapMissing { block })),
            Err(problem) => return Err(self.malformed(index, problem)),
        };
        let in_chunk = block.checked_rem(self.chunk_ratio()).unwrap_or(0);
        let per_block = self.block_size.checked_div(self.sector_size).unwrap_or(0);
        let first = in_chunk.saturating_mul(per_block).saturating_add(sector);
        let mut raw = [0; 512];
        let (mut set, mut run) = (None, 0_u64);
        while run < most {
            let next = first.saturating_add(run);
            let len = most.saturating_sub(run).saturating_add(next % 8).div_ceil(8).min(512);
            let bytes = raw.get_mut(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
            self.pages.read(at.saturating_add(next / 8), bytes)?;
            let skip = usize::try_from(next % 8).unwrap_or(0);
            for bit in bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte & (1 << bit) != 0)).skip(skip)
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

    /// Reads all entries that the disk needs in order, without keeping them.
    pub(super) fn for_each(&self, visit: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        const CHUNK: u64 = 8 * 1024;
        let entries = self.entries();
        let mut raw = vec![0; usize::try_from(CHUNK.min(entries).saturating_mul(8)).unwrap_or(0)];
        let mut index = 0_u64;
        while index < entries {
            let take = entries.saturating_sub(index).min(CHUNK);
            self.budget.check_time()?;
            self.budget.charge(Cost::Nodes, take)?;
            self.budget.charge(Cost::MetadataBytes, take.saturating_mul(8))?;
            let len = usize::try_from(take.saturating_mul(8)).unwrap_or(0);
            let bytes = raw.get_mut(..len).unwrap_or_default();
            self.source.read_bytes(self.entry_at(index), bytes)?;
            for entry in bytes.as_chunks::<8>().0 {
                visit(index, u64::from_le_bytes(*entry))?;
                index = index.saturating_add(1);
            }
        }
        Ok(())
    }

    /// Meets every block in the order of the file, by index in the table; the value of a fault is the entry.
    pub(super) fn walk(&self, met: &mut dyn FnMut(Met) -> Result<()>) -> Result<()> {
        let space = Space {
            budget: &self.budget,
            // All begin at multiples of a mebibyte and are at least as long.
            slot: MIB,
            end: self.source.byte_len(),
            len_of: &|index| self.piece_len(index),
        };
        space.walk(
            &|visit| {
                self.for_each(&mut |index, entry| match self.place(index, entry) {
                    Ok(None) => Ok(()),
                    Ok(Some(at)) => visit(index, Ok(at)),
                    Err(_) => visit(index, Err(entry)),
                })
            },
            met,
        )
    }
}

/// Payload blocks for each bitmap block (2.5).
pub(super) const fn chunk_ratio(sector_size: u64, block_size: u64) -> u64 {
    match SECTORS_PER_BITMAP.saturating_mul(sector_size).checked_div(block_size) {
        Some(ratio) if ratio > 0 => ratio,
        _ => 1,
    }
}

/// Entries of the table of a disk of `blocks` payload blocks (2.5): the bitmap behind the last blocks is left out
/// where there are none.
pub(super) const fn entries(blocks: u64, ratio: u64, has_parent: bool) -> u64 {
    if has_parent {
        blocks.div_ceil(ratio).saturating_mul(ratio.saturating_add(1))
    } else {
        match blocks.saturating_sub(1).checked_div(ratio) {
            Some(bitmaps) => blocks.saturating_add(bitmaps),
            None => blocks,
        }
    }
}
