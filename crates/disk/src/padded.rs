//! A disk with zeros behind its end.

use std::num::NonZeroU64;

use crate::disk::{Disk, Extent, ExtentKind, check_range};
use crate::error::Result;
use crate::offset::GuestOffset;

/// A disk made longer by a hole, for whoever takes disks of certain lengths only.
pub struct PaddedDisk<'a> {
    disk: &'a dyn Disk,
    len: u64,
}

impl<'a> PaddedDisk<'a> {
    /// `disk` with `len` bytes; as long as it is when that is longer.
    pub fn new(disk: &'a dyn Disk, len: u64) -> Self {
        Self { disk, len: len.max(disk.disk_len()) }
    }
}

impl Disk for PaddedDisk<'_> {
    fn disk_len(&self) -> u64 {
        self.len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.len)?;
        let inside = self.disk.disk_len().saturating_sub(at.get());
        let inside = usize::try_from(inside).unwrap_or(usize::MAX).min(buf.len());
        let (disk, hole) = buf.split_at_mut_checked(inside).unwrap_or_default();
        hole.fill(0);
        if disk.is_empty() { Ok(()) } else { self.disk.read_guest(at, disk) }
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.len)?;
        if at.get() < self.disk.disk_len() {
            return self.disk.extent_at(at, limit);
        }
        let rest = NonZeroU64::new(self.len.saturating_sub(at.get())).unwrap_or(NonZeroU64::MIN);
        Ok(Extent { start: at, len: rest.min(limit), kind: ExtentKind::Hole })
    }
}
