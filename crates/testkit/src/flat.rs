//! A file whose bytes are those of the disk.

use std::num::NonZeroU64;

use kiln_disk::{
    ByteSource, Disk, Extent, ExtentKind, FileOffset, FileSource, GuestOffset, Result, check_range,
};

/// A raw file as a disk, for crates that know no formats.
pub struct Flat(pub FileSource);

impl Disk for Flat {
    fn disk_len(&self) -> u64 {
        self.0.byte_len()
    }
    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        self.0.read_bytes(FileOffset::new(at.get()), buf)
    }
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        Ok(Extent { start: at, len: limit, kind: ExtentKind::Encoded })
    }
}
