//! Writing qcow2: one file, front to back, the same bytes for any number of threads.
//!
//! ```text
//! cluster 0         header (its bytes are written last: an interrupted file is no qcow2)
//! then, in order    data clusters and packed compressed data, in guest order; an L2 table behind the data that it
//!                   maps; a refcount block as soon as all clusters that it counts are settled
//! at the end        L1 table, remaining refcount blocks, refcount table
//! ```
//! Source: QEMU, docs/interop/qcow2.rst. An absent L2 table or entry reads as zeros, so zeros are only
//! written where they hide the disk below.

mod encode;
mod options;
mod refcount;

use std::sync::Arc;

use kiln_disk::digest::ContentDigest;
use kiln_disk::{
    ByteSink, DiskWrite, Encode, Encoding, Error, FileOffset, GuestOffset, Piece, Result, StoreVerbatim,
    Written,
};

use self::encode::Compressed;
use self::options::Settings;
use self::refcount::Refcounts;
use crate::options::Options;
use crate::table::Create;

/// How the table's row writes qcow2.
pub(super) const CREATE: Create = Create { options: options::SPECS, run: create, streams: |_| false };

/// "QCOW_OFLAG_COPIED": the refcount of what the entry points to is exactly one.
const COPIED: u64 = 1 << 63;
/// "QCOW_OFLAG_COMPRESSED".
const COMPRESSED: u64 = 1 << 62;
/// "QCOW_OFLAG_ZERO": the cluster reads as zeros, whatever is below.
const ZERO: u64 = 1;
/// Unit in which the length of compressed data is counted.
const SECTOR: u64 = 512;
/// QEMU opens no image with more bytes of L1 table (QCOW_MAX_L1_SIZE).
const MAX_L1_BYTES: u64 = 32 << 20;

fn create(sink: Arc<dyn ByteSink>, disk_len: u64, options: &Options) -> Result<Box<dyn DiskWrite>> {
    Ok(Box::new(Writer::new(sink, disk_len, Settings::read(options)?)?))
}

struct Writer {
    sink: Arc<dyn ByteSink>,
    disk_len: u64,
    settings: Settings,
    /// Offsets of the L2 tables, [`COPIED`] included; 0 where there is none.
    l1: Vec<u64>,
    /// The L2 table that is being filled.
    l2: L2Table,
    refcounts: Refcounts,
    /// The cluster that compressed data is being packed into: next free byte.
    open: Option<u64>,
    /// Digest of the disk below, of a layer.
    below: Option<[u8; 32]>,
}

/// The L2 table for one range of the disk, as it will be written.
struct L2Table {
    /// Its index in the L1 table; `None` before the first entry.
    index: Option<u64>,
    bytes: Vec<u8>,
}

impl Writer {
    fn new(sink: Arc<dyn ByteSink>, disk_len: u64, settings: Settings) -> Result<Self> {
        let cluster = settings.cluster_size;
        if !disk_len.is_multiple_of(SECTOR) {
            return Err(Error::Refused {
                code: "qcow2.size.sector",
                what: format!(
                    "a qcow2 disk of {disk_len} bytes: readers count in sectors of 512 and would cut it"
                ),
                asked: 0,
                allowed: 0,
                hint: "fill the raw file up to whole sectors first: truncate -s %512 FILE",
            });
        }
        let covered = settings.guest_bytes_per_l2();
        let l1_entries = disk_len.div_ceil(covered);
        let l1_bytes = l1_entries.saturating_mul(8);
        if l1_bytes > MAX_L1_BYTES {
            return Err(Error::Refused {
                code: "qcow2.size.clusters",
                what: "bytes of disk in clusters this small".to_owned(),
                asked: disk_len,
                allowed: covered.saturating_mul(MAX_L1_BYTES / 8),
                hint: "choose a larger cluster_size; the default of 64k is right for nearly all disks",
            });
        }
        let table = usize::try_from(cluster).unwrap_or(usize::MAX);
        let mut refcounts = Refcounts::new(cluster);
        refcounts.allocate(1)?; // the header's
        Ok(Self {
            sink,
            disk_len,
            settings,
            l1: vec![0; usize::try_from(l1_entries).unwrap_or(usize::MAX)],
            l2: L2Table { index: None, bytes: vec![0; table] },
            refcounts,
            open: None,
            below: None,
        })
    }

    /// Maps the guest cluster at `at`; its L2 table becomes the current one.
    fn map(&mut self, at: GuestOffset, entry: u64) -> Result<()> {
        let guest_cluster = at.get().unbounded_shr(self.settings.cluster_bits);
        let table_bits = self.settings.cluster_bits.saturating_sub(3);
        let index = guest_cluster.unbounded_shr(table_bits);
        let slot = guest_cluster & (self.settings.cluster_size / 8).wrapping_sub(1);
        if self.l2.index != Some(index) {
            self.write_l2()?;
            self.l2.index = Some(index);
        }
        let place = usize::try_from(slot.saturating_mul(8))
            .ok()
            .and_then(|start| self.l2.bytes.get_mut(start..)?.first_chunk_mut::<8>());
        if let Some(place) = place {
            *place = entry.to_be_bytes();
        }
        Ok(())
    }

    /// Writes the current L2 table behind its data.
    fn write_l2(&mut self) -> Result<()> {
        let Some(index) = self.l2.index.take() else { return Ok(()) };
        let at = self.refcounts.allocate(1)?;
        self.sink.write_bytes(FileOffset::new(at), &self.l2.bytes)?;
        self.l2.bytes.fill(0);
        if let Some(entry) = usize::try_from(index).ok().and_then(|index| self.l1.get_mut(index)) {
            *entry = at | COPIED;
        }
        self.retire()
    }

    /// Writes the refcount blocks that nothing can change any more.
    fn retire(&mut self) -> Result<()> {
        let settled = self.open.map_or(u64::MAX, |open| open.unbounded_shr(self.settings.cluster_bits));
        self.refcounts.retire(settled, self.sink.as_ref())
    }

    /// Finds room for `len` bytes of compressed data: in the open cluster, over its end when the next cluster is
    /// free, else in a new one.
    fn pack(&mut self, len: u64) -> Result<u64> {
        let cluster = self.settings.cluster_size;
        let cluster_of = |at: u64| at.unbounded_shr(self.settings.cluster_bits);
        if let Some(open) = self.open.filter(|open| self.refcounts.can_share(cluster_of(*open))) {
            let end_of_cluster = open.next_multiple_of(cluster);
            let end = open.saturating_add(len);
            if end <= end_of_cluster {
                self.refcounts.share(cluster_of(open));
                self.open = Some(end).filter(|end| *end < end_of_cluster);
                return Ok(open);
            }
            if end_of_cluster == self.refcounts.next() {
                self.refcounts.share(cluster_of(open));
                self.refcounts.allocate(1)?;
                self.open = Some(end);
                return Ok(open);
            }
        }
        let at = self.refcounts.allocate(1)?;
        self.open = Some(at.saturating_add(len));
        Ok(at)
    }

    /// The entry for compressed data: host offset in the low bits, then the number of further 512-byte sectors
    /// that it touches ("Compressed Clusters Descriptor").
    fn compressed_entry(&self, at: u64, len: u64) -> Result<u64> {
        let offset_bits = 70_u32.saturating_sub(self.settings.cluster_bits);
        if at.checked_shr(offset_bits).is_none_or(|high| high != 0) {
            return Err(too_long(at, offset_bits));
        }
        let last = at.saturating_add(len).saturating_sub(1);
        let sectors = (last / SECTOR).saturating_sub(at / SECTOR);
        Ok(COMPRESSED | at | sectors.checked_shl(offset_bits).unwrap_or(0))
    }

    fn write_header(&self, l1_at: u64, table_at: u64, table_clusters: u64) -> Result<()> {
        let header = self.settings.header(&options::Tables {
            disk_len: self.disk_len,
            l1_entries: u32::try_from(self.l1.len()).unwrap_or(u32::MAX),
            l1_at,
            refcount_table_at: table_at,
            refcount_table_clusters: u32::try_from(table_clusters).unwrap_or(u32::MAX),
            below: self.below,
        });
        self.sink.write_bytes(FileOffset::ZERO, &header)
    }
}

impl DiskWrite for Writer {
    fn granule(&self) -> u64 {
        self.settings.cluster_size
    }

    fn encoder(&self) -> Arc<dyn Encode> {
        match self.settings.compress {
            Some(codec) => Arc::new(Compressed::new(codec, self.settings.cluster_size)),
            None => Arc::new(StoreVerbatim),
        }
    }

    fn place(&mut self, at: GuestOffset, piece: Piece) -> Result<FileOffset> {
        let len = u64::from(piece.len);
        let to = match piece.encoding {
            Encoding::Verbatim => self.refcounts.allocate(1)?,
            Encoding::Encoded => self.pack(len)?,
        };
        let entry = match piece.encoding {
            Encoding::Verbatim => to | COPIED,
            Encoding::Encoded => self.compressed_entry(to, len)?,
        };
        self.map(at, entry)?;
        Ok(FileOffset::new(to))
    }

    /// Absent clusters are zeros already.
    fn write_zeroes(&mut self, _at: GuestOffset, _len: u64) -> Result<()> {
        Ok(())
    }

    /// Version 2 has no clusters of zeros.
    fn bind(&mut self, below: &ContentDigest) -> Result<()> {
        if self.settings.version < 3 {
            return Err(Error::Unsupported {
                code: "format.no-layers",
                feature: "layers upon other disks, in qcow2 of version 2".to_owned(),
                hint: "write the layer with -o compat=1.1",
            });
        }
        self.below = Some(*below.bytes());
        Ok(())
    }

    fn hide(&mut self, at: GuestOffset, len: u64) -> Result<()> {
        let cluster = self.settings.cluster_size;
        let end = at.get().saturating_add(len);
        let mut here = at.get();
        while here < end {
            self.map(GuestOffset::new(here), ZERO)?;
            here = here.saturating_add(cluster);
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        self.open = None;
        self.write_l2()?;
        let cluster = self.settings.cluster_size;
        let l1: Vec<u8> = self.l1.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        let l1_clusters = u64::try_from(l1.len()).unwrap_or(u64::MAX).div_ceil(cluster).max(1);
        let l1_at = self.refcounts.allocate(l1_clusters)?;
        self.sink.write_bytes(FileOffset::new(l1_at), &l1)?;
        let (table_at, table_clusters) = self.refcounts.finish(self.sink.as_ref())?;
        let byte_len = self.refcounts.next();
        self.sink.set_byte_len(byte_len)?;
        self.write_header(l1_at, table_at, table_clusters)?;
        Ok(Written { byte_len })
    }
}

/// The file outgrew what a field of the format can say.
fn too_long(at: u64, bits: u32) -> Error {
    Error::Refused {
        code: "qcow2.size.file",
        what: "bytes of file".to_owned(),
        asked: at,
        allowed: 1_u64.checked_shl(bits).unwrap_or(u64::MAX),
        hint: "choose a larger cluster_size, or write without -c",
    }
}
