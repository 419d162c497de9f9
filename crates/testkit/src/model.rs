//! A disk that is a plain vector, with a chosen map: what other disks are compared with.

use std::num::NonZeroU64;

use kiln_disk::{Disk, Error, Extent, ExtentKind, FileOffset, GuestOffset, Result, check_range};

/// Bytes in memory as a disk. Runs of `unit` zero bytes, aligned to `unit`, are holes.
#[derive(Debug, Clone)]
pub struct ModelDisk {
    bytes: Vec<u8>,
    unit: usize,
    fails_at: Option<u64>,
}

impl ModelDisk {
    /// A disk of these bytes whose holes are found in steps of `unit` bytes (at least 1).
    #[must_use]
    pub fn new(bytes: Vec<u8>, unit: usize) -> Self {
        Self { bytes, unit: unit.max(1), fails_at: None }
    }

    /// The same disk, with a read error at guest byte `at`.
    #[must_use]
    pub fn failing_at(mut self, at: u64) -> Self {
        self.fails_at = Some(at);
        self
    }

    /// The flat content.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Disk for ModelDisk {
    fn disk_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        let start = at.get() as usize;
        if let Some(bad) = self.fails_at
            && (start..start + buf.len()).contains(&(bad as usize))
        {
            return Err(Error::Io {
                operation: "read",
                target: "model".to_owned(),
                at: Some(FileOffset::new(bad)),
                source: std::io::Error::other("planted fault"),
            });
        }
        buf.copy_from_slice(&self.bytes[start..start + buf.len()]);
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len())?;
        let start = at.get() as usize;
        let is_hole = |unit: usize| {
            let from = unit * self.unit;
            let to = (from + self.unit).min(self.bytes.len());
            self.bytes[from..to].iter().all(|byte| *byte == 0)
        };
        let first = start / self.unit;
        let units = self.bytes.len().div_ceil(self.unit);
        let hole = is_hole(first);
        let behind = (first + 1..units).find(|unit| is_hole(*unit) != hole).unwrap_or(units);
        let end = (behind * self.unit).min(self.bytes.len());
        let kind =
            if hole { ExtentKind::Hole } else { ExtentKind::Data { file: 0, at: FileOffset::new(at.get()) } };
        let len = NonZeroU64::new((end - start) as u64).unwrap().min(limit);
        Ok(Extent { start: at, len, kind })
    }
}
