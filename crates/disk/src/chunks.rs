//! A disk cut into chunks for parallel work: aligned pieces of data, whole runs of nothing.

use std::num::NonZeroU64;

use crate::disk::{Disk, Extent};
use crate::error::Result;
use crate::offset::GuestOffset;

/// A piece of a disk. Starts at a multiple of the chunk size; ends at one, or at the end of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// At least a part of it is stored: must be read. At most one chunk size long.
    Data {
        /// First byte.
        start: GuestOffset,
        /// Length in bytes.
        len: usize,
    },
    /// Nothing of it is stored: reads as zeros. Any multiple of the chunk size long.
    Zeros {
        /// First byte.
        start: GuestOffset,
        /// Length in bytes.
        len: u64,
    },
}

impl Chunk {
    /// First byte.
    #[must_use]
    pub const fn start(self) -> GuestOffset {
        match self {
            Self::Data { start, .. } | Self::Zeros { start, .. } => start,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(self) -> u64 {
        match self {
            Self::Data { len, .. } => u64::try_from(len).unwrap_or(u64::MAX),
            Self::Zeros { len, .. } => len,
        }
    }

    /// Whether it is empty; no chunk is.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Length of a piece of data in bytes, 0 for zeros: nothing of them is in memory.
    #[must_use]
    pub const fn byte_count(self) -> usize {
        match self {
            Self::Data { len, .. } => len,
            Self::Zeros { .. } => 0,
        }
    }
}

/// Cuts `disk` into chunks of `chunk_len` bytes (a power of two). Ends after the first error.
pub fn chunks(disk: &dyn Disk, chunk_len: u64) -> Chunks<'_> {
    Chunks { disk, chunk_len: chunk_len.max(1), at: 0, known: None, failed: false }
}

/// See [`chunks`].
pub struct Chunks<'a> {
    disk: &'a dyn Disk,
    chunk_len: u64,
    at: u64,
    /// The last extent asked for, which may reach over many chunks.
    known: Option<Extent>,
    failed: bool,
}

impl Chunks<'_> {
    fn extent_at(&mut self, at: u64) -> Result<Extent> {
        match self.known {
            Some(extent) if extent.start.get() <= at && at < extent.end().get() => Ok(extent),
            _ => {
                let extent = self.disk.extent_at(GuestOffset::new(at), NonZeroU64::MAX)?;
                self.known = Some(extent);
                Ok(extent)
            }
        }
    }

    /// The end of the run of nothing at `at`, over as many extents as it takes.
    fn end_of_nothing(&mut self, at: u64) -> Result<u64> {
        let disk_len = self.disk.disk_len();
        let mut end = at;
        while end < disk_len {
            let extent = self.extent_at(end)?;
            if extent.kind.is_data() {
                break;
            }
            end = extent.end().get();
        }
        Ok(end.min(disk_len))
    }

    fn step(&mut self) -> Result<Chunk> {
        let disk_len = self.disk.disk_len();
        let start = self.at;
        let nothing = self.end_of_nothing(start)?;
        let whole = if nothing >= disk_len {
            disk_len
        } else {
            nothing.saturating_sub(nothing.checked_rem(self.chunk_len).unwrap_or(0))
        };
        if whole > start {
            self.at = whole;
            return Ok(Chunk::Zeros { start: GuestOffset::new(start), len: whole.saturating_sub(start) });
        }
        let end = start.saturating_add(self.chunk_len).min(disk_len);
        self.at = end;
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        Ok(Chunk::Data { start: GuestOffset::new(start), len })
    }
}

impl Iterator for Chunks<'_> {
    type Item = Result<Chunk>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.at >= self.disk.disk_len() {
            return None;
        }
        let chunk = self.step();
        self.failed = chunk.is_err();
        Some(chunk)
    }
}
