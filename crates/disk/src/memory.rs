//! Bytes in memory as a disk.

use std::num::NonZeroU64;

use crate::{
    ByteSource, Disk, Extent, ExtentKind, FileOffset, GuestOffset, MemorySource, Result, check_range,
};

/// A small disk that is held whole: one that lies inside of another, one that a test or a fuzzer makes.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(MemorySource);

impl MemoryDisk {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(MemorySource::new(bytes))
    }
}

impl Disk for MemoryDisk {
    fn disk_len(&self) -> u64 {
        self.0.byte_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        self.0.read_bytes(FileOffset::new(at.get()), buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len())?;
        let len = limit.min(NonZeroU64::new(self.disk_len().saturating_sub(at.get())).unwrap_or(limit));
        Ok(Extent { start: at, len, kind: ExtentKind::Encoded })
    }
}
