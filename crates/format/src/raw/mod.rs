//! Raw: the guest's bytes, one after the other, nothing else.
//!
//! Any length, odd ones included: [`crate::open`] makes whole sectors of it. Holes of the file system are holes of the disk where the file system's word can
//! be trusted (see `disk::os`).

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{
    ByteSink, ByteSource, Disk, DiskWrite, Encode, Extent, ExtentKind, FileOffset, Findings, GuestOffset,
    Observer, Piece, Result, RunKind, StoreVerbatim, Written, check_range,
};

use crate::facts::Facts;
use crate::image::{CheckScope, Image, OpenContext};
use crate::options::Options;
use crate::table::{Create, Format};

/// The row of raw. It has no signature: [`crate::identify`] falls back to it and says so.
pub static FORMAT: Format = Format {
    id: "raw",
    aliases: &["img"],
    extensions: &["raw", "img"],
    spec: "no structure: byte n of the file is byte n of the disk",
    probe: |_| None,
    open,
    create: Some(Create { options: &[], run: create, streams: |_| true }),
    checks: &[],
};

/// A raw disk.
pub struct RawImage {
    source: Arc<dyn ByteSource>,
}

impl RawImage {
    /// The bytes of `source` as a disk.
    #[must_use]
    pub fn new(source: Arc<dyn ByteSource>) -> Self {
        Self { source }
    }
}

fn open(source: Arc<dyn ByteSource>, _context: &OpenContext) -> Result<Box<dyn Image>> {
    Ok(Box::new(RawImage::new(source)))
}

impl Disk for RawImage {
    fn disk_len(&self) -> u64 {
        self.source.byte_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        self.source.read_bytes(FileOffset::new(at.get()), buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len())?;
        let here = FileOffset::new(at.get());
        let run = self.source.run_at(here)?;
        let rest = NonZeroU64::new(self.disk_len().saturating_sub(at.get())).unwrap_or(NonZeroU64::MIN);
        let (kind, len) = match run {
            Some(run) if run.kind == RunKind::Hole => (ExtentKind::Hole, run.len),
            Some(run) => (ExtentKind::Data { file: 0, at: here }, run.len),
            None => (ExtentKind::Data { file: 0, at: here }, rest),
        };
        Ok(Extent { start: at, len: len.min(limit).min(rest), kind })
    }
}

impl Image for RawImage {
    fn format(&self) -> &'static Format {
        &FORMAT
    }

    fn facts(&self) -> Facts {
        Facts::raw(self.disk_len())
    }

    /// A raw file has no structure of its own; what can be said about its end is in [`crate::completeness`].
    fn check(&self, _scope: CheckScope, _observer: &dyn Observer) -> Result<Findings> {
        Ok(Findings::default())
    }
}

/// Writes raw: every granule at its own place, zeros left out.
struct RawWriter {
    sink: Arc<dyn ByteSink>,
    disk_len: u64,
}

/// Zeros are looked for in this unit, so holes of an output are at least this large.
const GRANULE: u64 = 4096;

fn create(sink: Arc<dyn ByteSink>, disk_len: u64, _options: &Options) -> Result<Box<dyn DiskWrite>> {
    Ok(Box::new(RawWriter { sink, disk_len }))
}

impl DiskWrite for RawWriter {
    fn granule(&self) -> u64 {
        GRANULE
    }

    fn encoder(&self) -> Arc<dyn Encode> {
        Arc::new(StoreVerbatim)
    }

    fn place(&mut self, at: GuestOffset, _piece: Piece) -> Result<FileOffset> {
        Ok(FileOffset::new(at.get()))
    }

    fn write_zeroes(&mut self, _at: GuestOffset, _len: u64) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        self.sink.set_byte_len(self.disk_len)?;
        Ok(Written { byte_len: self.disk_len })
    }
}
