//! A hosted sparse extent: which grain is where, and its bytes.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Error, FileOffset, Result};

use super::codec;
use super::header::{Header, MARKER_LEN, SECTOR, flag, read_marker};
use super::problem::VmdkProblem;
use super::tail::Tail;
use crate::encoded::{DecodedCache, READ_AHEAD, Window};
use crate::pages::Pages;
use crate::wire::{as_bytes, in_memory, le32};

/// A named part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Region {
    pub(super) const fn overlaps(&self, start: u64, len: u64) -> bool {
        start < self.start.saturating_add(self.len) && self.start < start.saturating_add(len)
    }
}

/// How a run of grains is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// Not here: in the parent, or zeros.
    Unallocated,
    /// "These are zeros", whatever the parent has.
    Zero,
    /// As they are, from this byte of the file.
    Plain(u64),
    /// One grain, compressed.
    Compressed {
        /// Its index.
        grain: u64,
        /// Where its marker or its data starts.
        at: u64,
    },
}

/// An opened sparse extent.
pub(super) struct Sparse {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) budget: Arc<Budget>,
    pages: Pages,
    decoded: DecodedCache,
    /// The header at the start of the file.
    pub(super) front: Header,
    /// The one that counts: the footer where there is one.
    pub(super) header: Header,
    pub(super) tail: Option<Tail>,
    /// First byte of the grain directory in use.
    pub(super) directory_at: u64,
    /// Everything with a fixed place that is neither grain nor grain table.
    pub(super) regions: Vec<Region>,
}

/// Most bytes of a grain table.
const MAX_TABLE: usize = 2048;

/// Walks along the entries of grain tables, one table in hand.
struct Cursor {
    table: Option<u64>,
    /// Where the table is; `None` when there is none.
    at: Option<u64>,
    entries: [u8; MAX_TABLE],
    /// Entries before this one were not read.
    from: u64,
}

impl Sparse {
    pub(super) fn new(
        source: Arc<dyn ByteSource>,
        budget: Arc<Budget>,
        front: Header,
        tail: Option<Tail>,
        directory_at: u64,
        regions: Vec<Region>,
    ) -> Self {
        let header = tail.as_ref().map_or_else(|| front.clone(), |tail| tail.footer.clone());
        let pages = Pages::new(Arc::clone(&source), Arc::clone(&budget));
        let decoded = DecodedCache::default();
        Self { source, budget, pages, decoded, front, header, tail, directory_at, regions }
    }

    /// Whether the lengths of compressed grains are known.
    pub(super) const fn has_markers(&self) -> bool {
        self.header.has(flag::MARKERS)
    }

    /// Length of the extent in bytes.
    pub(super) const fn len(&self) -> u64 {
        self.header.capacity.saturating_mul(SECTOR)
    }

    /// Length of a grain in bytes, a power of two.
    pub(super) const fn grain_len(&self) -> u64 {
        self.header.grain_size.saturating_mul(SECTOR)
    }

    /// The length of a grain, to divide by.
    fn grain_unit(&self) -> NonZeroU64 {
        NonZeroU64::new(self.grain_len()).unwrap_or(NonZeroU64::MIN)
    }

    pub(super) fn entries_per_table(&self) -> NonZeroU64 {
        NonZeroU64::new(self.header.num_gtes_per_gt.into()).unwrap_or(NonZeroU64::MIN)
    }

    /// Length of a grain table in bytes.
    pub(super) fn table_len(&self) -> u64 {
        u64::from(self.header.num_gtes_per_gt).saturating_mul(4)
    }

    pub(super) fn grains(&self) -> u64 {
        self.len().div_ceil(self.grain_unit().get())
    }

    pub(super) fn tables(&self) -> u64 {
        self.grains().div_ceil(self.entries_per_table().get())
    }

    /// Guest bytes of a grain that are on the disk.
    pub(super) fn used_len(&self, grain: u64) -> u64 {
        self.len().saturating_sub(grain.saturating_mul(self.grain_len())).min(self.grain_len())
    }

    /// Bytes of the file that must be there for a grain before its data is looked at.
    pub(super) fn least_len(&self, grain: u64) -> u64 {
        if self.header.is_compressed() { as_bytes(MARKER_LEN) } else { self.used_len(grain) }
    }

    /// Where entry `table` of the grain directory is in the file.
    pub(super) fn directory_entry_at(&self, table: u64) -> u64 {
        self.directory_at.saturating_add(table.saturating_mul(4))
    }

    /// Where the grain table `table` starts; `None` when there is none. Not checked against the file.
    pub(super) fn table_entry(&self, table: u64) -> Result<Option<u64>> {
        let mut raw = [0; 4];
        self.pages.read(self.directory_entry_at(table), &mut raw)?;
        let sector = u32::from_le_bytes(raw);
        Ok((sector != 0).then(|| u64::from(sector).saturating_mul(SECTOR)))
    }

    /// What is wrong with a grain table being at `at`, if anything.
    pub(super) fn table_fault(&self, at: u64) -> Option<VmdkProblem> {
        let (len, file_len) = (self.table_len(), self.source.byte_len());
        if let Some(region) = self.regions.iter().find(|region| region.overlaps(at, len)) {
            return Some(VmdkProblem::Overlap { one: "grain table", start: at, other: region.name });
        }
        (at.saturating_add(len) > file_len).then_some(VmdkProblem::PastEnd {
            table: "grain table",
            start: at,
            len,
            file_len,
        })
    }

    /// What is wrong with a grain being at `at`, if anything.
    pub(super) fn grain_fault(&self, grain: u64, at: u64) -> Option<VmdkProblem> {
        let (len, file_len) = (self.least_len(grain), self.source.byte_len());
        if let Some(region) = self.regions.iter().find(|region| region.overlaps(at, len)) {
            return Some(VmdkProblem::Overlap { one: "grain", start: at, other: region.name });
        }
        (at.saturating_add(len) > file_len).then_some(VmdkProblem::GrainPastEnd {
            grain,
            start: at,
            file_len,
        })
    }

    /// Where the entry of a grain is in the file: that of its table in the directory when it has no table.
    pub(super) fn entry_at(&self, grain: u64) -> FileOffset {
        let per_table = self.entries_per_table();
        let (table, index) = (grain / per_table, grain % per_table);
        let at = match self.table_entry(table) {
            Ok(Some(table_at)) => table_at.saturating_add(index.saturating_mul(4)),
            _ => self.directory_entry_at(table),
        };
        FileOffset::new(at)
    }

    pub(super) fn malformed(&self, grain: u64, problem: VmdkProblem) -> Error {
        Error::malformed("grain table", self.entry_at(grain), problem)
    }

    /// What an entry of a grain table says; `Ok(None)` for "this grain is not here".
    pub(super) fn meaning(&self, entry: u32) -> Stored {
        match entry {
            0 => Stored::Unallocated,
            1 if self.header.has(flag::ZERO_GRAIN) => Stored::Zero,
            sector => Stored::Plain(u64::from(sector).saturating_mul(SECTOR)),
        }
    }

    fn stored(&self, cursor: &mut Cursor, grain: u64) -> Result<Stored> {
        let per_table = self.entries_per_table();
        let (table, index) = (grain / per_table, grain % per_table);
        if cursor.table != Some(table) || index < cursor.from {
            self.load(cursor, table, index)?;
        }
        if cursor.at.is_none() {
            return Ok(Stored::Unallocated);
        }
        let entry = le32(&cursor.entries, in_memory(index.saturating_mul(4))).unwrap_or(0);
        match self.meaning(entry) {
            Stored::Plain(at) => match self.grain_fault(grain, at) {
                Some(problem) => Err(self.malformed(grain, problem)),
                None if self.header.is_compressed() => Ok(Stored::Compressed { grain, at }),
                None => Ok(Stored::Plain(at)),
            },
            other => Ok(other),
        }
    }

    fn load(&self, cursor: &mut Cursor, table: u64, index: u64) -> Result<()> {
        cursor.table = None;
        cursor.at = self.table_entry(table)?;
        if let Some(at) = cursor.at {
            if let Some(problem) = self.table_fault(at) {
                let entry_at = FileOffset::new(self.directory_entry_at(table));
                return Err(Error::malformed("grain directory", entry_at, problem));
            }
            let skip = in_memory(index.saturating_mul(4));
            let wanted = cursor.entries.get_mut(skip..in_memory(self.table_len())).unwrap_or_default();
            self.pages.read(at.saturating_add(as_bytes(skip)), wanted)?;
        }
        cursor.table = Some(table);
        cursor.from = index;
        Ok(())
    }

    /// The run of bytes stored in one way that starts at byte `at` of the extent: its length is at least 1 and at
    /// most `most`. Looks at no more than about `patience` entries.
    pub(super) fn run_at(&self, at: u64, most: u64, patience: u64) -> Result<(Stored, u64)> {
        let (unit, grain_len) = (self.grain_unit(), self.grain_len());
        let (first, within) = (at / unit, at % unit);
        let last = at.saturating_add(most.saturating_sub(1)) / unit;
        let mut cursor = Cursor { table: None, at: None, entries: [0; MAX_TABLE], from: 0 };
        let stored = self.stored(&mut cursor, first)?;
        let mut grains = 1_u64;
        let mut looked = 0_u64;
        while !matches!(stored, Stored::Compressed { .. }) && looked < patience {
            let next = first.saturating_add(grains);
            if next > last {
                break;
            }
            looked = looked.saturating_add(1);
            let expected = match stored {
                Stored::Plain(start) => Stored::Plain(start.saturating_add(grains.saturating_mul(grain_len))),
                other => other,
            };
            // An entry that is wrong ends the run; whoever asks for its bytes hears why.
            match self.stored(&mut cursor, next) {
                Ok(found) if found == expected => {}
                _ => break,
            }
            let per_table = self.entries_per_table();
            let step = if cursor.at.is_none() { per_table.get().saturating_sub(next % per_table) } else { 1 };
            grains = grains.saturating_add(step);
        }
        let start = match stored {
            Stored::Plain(start) => Stored::Plain(start.saturating_add(within)),
            other => other,
        };
        Ok((start, grains.saturating_mul(grain_len).saturating_sub(within).min(most)))
    }

    /// Reads `part` of the compressed grain, from byte `within` of it on. `wanted` is how many bytes the whole read
    /// still wants, which is worth a larger read of the file.
    pub(super) fn read_compressed(
        &self,
        grain: u64,
        at: u64,
        within: u64,
        part: &mut [u8],
        wanted: u64,
        window: &mut Window,
    ) -> Result<()> {
        let grain_len = in_memory(self.grain_len());
        if part.len() == grain_len {
            return self.decode(grain, at, part, wanted, window);
        }
        let decoded = match self.decoded.get(at) {
            Some(decoded) => decoded,
            None => {
                let mut whole = vec![0; grain_len];
                self.decode(grain, at, &mut whole, wanted, window)?;
                let whole = Arc::from(whole);
                self.decoded.put(at, &whole);
                whole
            }
        };
        let from = in_memory(within);
        if let Some(there) = from.checked_add(part.len()).and_then(|end| decoded.get(from..end)) {
            part.copy_from_slice(there);
        }
        Ok(())
    }

    /// Decodes a whole grain into `out`, which has the length of one.
    pub(super) fn decode(
        &self,
        grain: u64,
        at: u64,
        out: &mut [u8],
        wanted: u64,
        window: &mut Window,
    ) -> Result<()> {
        let ahead = wanted.clamp(READ_AHEAD / 4, READ_AHEAD);
        let len = self.compressed_len(grain, at, ahead, window)?;
        let bytes = window.bytes(self.source.as_ref(), at, len, ahead)?;
        let skip = if self.has_markers() { MARKER_LEN } else { 0 };
        let decoded = codec::decode(bytes.get(skip..).unwrap_or_default(), out)
            .map_err(|why| Self::bad(at, VmdkProblem::Decode { grain, why }))?;
        // QEMU compresses of the last grain only what is on the disk.
        if as_bytes(decoded) < self.used_len(grain) {
            let why = "it gives less than a grain";
            return Err(Self::bad(at, VmdkProblem::Decode { grain, why }));
        }
        out.get_mut(decoded..).unwrap_or_default().fill(0);
        Ok(())
    }

    /// Bytes of the file that hold a compressed grain, its marker included. Where there are no markers nobody knows;
    /// then it is as much as a grain can take.
    pub(super) fn compressed_len(&self, grain: u64, at: u64, ahead: u64, window: &mut Window) -> Result<u64> {
        let file_len = self.source.byte_len();
        let there = file_len.saturating_sub(at);
        // Deflate never needs more: it can store bytes as they are, at five bytes for each 64 KiB.
        let most = self.grain_len().saturating_mul(2).saturating_add(SECTOR);
        if !self.has_markers() {
            return Ok(most.min(there));
        }
        let head = window.bytes(self.source.as_ref(), at, as_bytes(MARKER_LEN).min(there), ahead)?;
        let past_end = || VmdkProblem::GrainPastEnd { grain, start: at, file_len };
        let (found, size) = read_marker(head).ok_or_else(|| self.malformed(grain, past_end()))?;
        let expected = grain.saturating_mul(self.header.grain_size);
        if found != expected {
            return Err(Self::bad(at, VmdkProblem::Marker { grain, expected, found }));
        }
        let len = u64::from(size).saturating_add(as_bytes(MARKER_LEN));
        if size == 0 || len > most {
            return Err(Self::bad(at, VmdkProblem::MarkerSize { grain, size }));
        }
        if len > there { Err(self.malformed(grain, past_end())) } else { Ok(len) }
    }

    fn bad(at: u64, problem: VmdkProblem) -> Error {
        Error::malformed("compressed grain", FileOffset::new(at), problem)
    }
}
