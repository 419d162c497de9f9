//! Writing: fixed and dynamic disks of exactly the length asked for.
//!
//! Both kinds of readers see that length. Those that go by the geometry (Virtual PC, old QEMU) find one that is
//! exactly as long as the disk where the specification's algorithm gives such a one, and otherwise its largest,
//! which tells them to look at the size. Everybody else looks at the size to begin with; QEMU does for all
//! creators but `vpc ` and `qemu`, and so for ours, `kiln`. What QEMU calls `force_size` is thus the only way.
//!
//! The same disk gives the same bytes: the time stamp is zero (the first second of 2000), and the unique id comes
//! from the disk's length and the map of its blocks unless the option `uuid` sets it.

use std::sync::Arc;

use kiln_disk::{
    ByteSink, DiskWrite, Encode, Error, FileOffset, GuestOffset, Piece, Result, StoreVerbatim, WriteOrder,
    Written,
};

use super::footer::{self, DiskType, Footer, Geometry, MAX_SECTORS, NOWHERE, SECTOR};
use super::header;
use crate::id::{DerivedId, parse_uuid};
use crate::options::{OptionSpec, Options};

const CREATOR: [u8; 4] = *b"kiln";
const CREATOR_VERSION: u32 = 0x0001_0000;
const CREATOR_OS: [u8; 4] = *b"Wi2k";
/// Bit 1 is reserved and always set.
const FEATURES: u32 = 2;
const HEADER_AT: u64 = 512;
const TABLE_AT: u64 = 1536;
/// The data of each block starts at a multiple of this, as libvhd and newer Windows lay it out: the bitmap takes
/// one sector, and data half a page off would cost every reader a page more.
const ALIGN: u64 = 4096;
/// Granule of a fixed disk: zeros are looked for in this unit.
const FIXED_GRANULE: u64 = 64 * 1024;

/// What `-o` takes.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "subformat",
        default: "dynamic",
        help: "dynamic (only what is not zero takes space) or fixed (flat, as Azure wants it)",
    },
    OptionSpec {
        name: "force_size",
        default: "on",
        help: "on; the disk is never grown to fit a geometry, so there is nothing to turn off",
    },
    OptionSpec { name: "block_size", default: "2M", help: "2M, or 512K for smaller files of scattered data" },
    OptionSpec { name: "uuid", default: "", help: "unique id, 32 hexadecimal digits with or without dashes" },
];

/// A pipe takes fixed disks only: the table of a dynamic disk lies before its blocks and is known after them.
pub(super) fn streams(options: &Options) -> bool {
    options.get("subformat") == "fixed"
}

/// Starts a disk; see [`crate::Create::run`].
pub(super) fn create(
    sink: Arc<dyn ByteSink>,
    disk_len: u64,
    options: &Options,
) -> Result<Box<dyn DiskWrite>> {
    check_len(disk_len)?;
    if !matches!(options.get("force_size"), "on" | "true" | "yes") {
        return Err(options.bad_value("force_size"));
    }
    let unique_id = match options.get("uuid") {
        "" => None,
        text => Some(parse_uuid(text).ok_or_else(|| options.bad_value("uuid"))?),
    };
    let block_size = match options.size("block_size")? {
        size @ (0x20_0000 | 0x8_0000) => size,
        _ => return Err(options.bad_value("block_size")),
    };
    match options.get("subformat") {
        "fixed" => Ok(Box::new(FixedWriter { sink, disk_len, unique_id })),
        "dynamic" if sink.order() == WriteOrder::Ascending => Err(Error::Refused {
            code: "vhd.stream",
            what: "a dynamic VHD on a pipe".to_owned(),
            asked: 0,
            allowed: 0,
            hint: "write it to a file, or use -o subformat=fixed",
        }),
        "dynamic" => Ok(Box::new(DynamicWriter::new(sink, disk_len, block_size, unique_id))),
        _ => Err(options.bad_value("subformat")),
    }
}

fn check_len(disk_len: u64) -> Result<()> {
    let allowed = MAX_SECTORS.saturating_mul(SECTOR);
    let refused = |code, what: &str, allowed, hint| {
        Err(Error::Refused { code, what: what.to_owned(), asked: disk_len, allowed, hint })
    };
    if disk_len > allowed {
        return refused(
            "vhd.create.size",
            "length of a VHD in bytes",
            allowed,
            "the format ends at 2040 GiB; use qcow2, or make the disk smaller first",
        );
    }
    if disk_len == 0 || !disk_len.is_multiple_of(SECTOR) {
        return refused(
            "vhd.create.sectors",
            "length of a VHD that is no positive multiple of 512 bytes",
            disk_len & !(SECTOR - 1),
            "a VHD holds whole sectors; pad the disk to a multiple of 512 first, or use qcow2 or raw",
        );
    }
    Ok(())
}

/// The id of a disk that was given none; tells disks apart that differ in length or in where they are empty.
fn derived_id(kind: DiskType, disk_len: u64, map: &[u32]) -> [u8; 16] {
    let mut id = DerivedId::new();
    id.take(&kind.code().to_be_bytes());
    id.take(&disk_len.to_be_bytes());
    for entry in map {
        id.take(&entry.to_be_bytes());
    }
    id.finish()
}

fn footer(kind: DiskType, disk_len: u64, unique_id: [u8; 16]) -> Footer {
    let sectors = disk_len / SECTOR;
    let exact = Some(Geometry::of(sectors)).filter(|geometry| geometry.total() == sectors);
    Footer {
        features: FEATURES,
        file_format_version: footer::format_version(),
        data_offset: if kind == DiskType::Fixed { NOWHERE } else { HEADER_AT },
        time_stamp: 0,
        creator_application: CREATOR,
        creator_version: CREATOR_VERSION,
        creator_host_os: CREATOR_OS,
        original_size: disk_len,
        current_size: disk_len,
        geometry: exact.unwrap_or(Geometry::MAX),
        disk_type: kind,
        unique_id,
        saved_state: 0,
    }
}

/// Writes the guest's bytes and a footer.
struct FixedWriter {
    sink: Arc<dyn ByteSink>,
    disk_len: u64,
    unique_id: Option<[u8; 16]>,
}

impl DiskWrite for FixedWriter {
    fn granule(&self) -> u64 {
        FIXED_GRANULE
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
        let id = self.unique_id.unwrap_or_else(|| derived_id(DiskType::Fixed, self.disk_len, &[]));
        let footer = footer(DiskType::Fixed, self.disk_len, id).encode();
        self.sink.write_bytes(FileOffset::new(self.disk_len), &footer)?;
        let byte_len = self.disk_len.saturating_add(SECTOR);
        self.sink.set_byte_len(byte_len)?;
        Ok(Written { byte_len })
    }
}

/// Writes blocks in the order of the guest's bytes; headers and table at the end, to the start.
struct DynamicWriter {
    sink: Arc<dyn ByteSink>,
    disk_len: u64,
    block_size: u64,
    unique_id: Option<[u8; 16]>,
    table: Vec<u32>,
    /// First free byte of the file.
    free: u64,
}

impl DynamicWriter {
    fn new(sink: Arc<dyn ByteSink>, disk_len: u64, block_size: u64, unique_id: Option<[u8; 16]>) -> Self {
        let entries = disk_len.div_ceil(block_size.max(1));
        let table_len = entries.saturating_mul(4).next_multiple_of(SECTOR);
        Self {
            sink,
            disk_len,
            block_size,
            unique_id,
            // At most 4 Mi entries: 2040 GiB in blocks of 512 KiB.
            table: vec![super::blocks::UNALLOCATED; usize::try_from(entries).unwrap_or(0)],
            free: TABLE_AT.saturating_add(table_len),
        }
    }

    fn header(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(header::HEADER_LEN);
        raw.extend_from_slice(header::COOKIE);
        // The specification asks for 32 set bits here; Microsoft's own programs want all 64.
        raw.extend_from_slice(&NOWHERE.to_be_bytes());
        raw.extend_from_slice(&TABLE_AT.to_be_bytes());
        raw.extend_from_slice(&header::HEADER_VERSION.to_be_bytes());
        raw.extend_from_slice(&u32::try_from(self.table.len()).unwrap_or(u32::MAX).to_be_bytes());
        raw.extend_from_slice(&u32::try_from(self.block_size).unwrap_or(u32::MAX).to_be_bytes());
        raw.resize(header::HEADER_LEN, 0);
        footer::seal(&mut raw, header::CHECKSUM_AT);
        raw
    }
}

impl DiskWrite for DynamicWriter {
    fn granule(&self) -> u64 {
        self.block_size
    }

    fn encoder(&self) -> Arc<dyn Encode> {
        Arc::new(StoreVerbatim)
    }

    fn place(&mut self, at: GuestOffset, _piece: Piece) -> Result<FileOffset> {
        let data_at = self.free.saturating_add(SECTOR).next_multiple_of(ALIGN);
        let bitmap_at = data_at.saturating_sub(SECTOR);
        // 2040 GiB of blocks with their bitmaps stay below 2^32 sectors.
        let sector = u32::try_from(bitmap_at / SECTOR).unwrap_or(super::blocks::UNALLOCATED);
        let block = at.get().checked_div(self.block_size).and_then(|block| usize::try_from(block).ok());
        match block.and_then(|block| self.table.get_mut(block)) {
            Some(entry) => *entry = sector,
            None => kiln_disk::check_range(at, 1, self.disk_len)?,
        }
        // Every sector of the block counts as written, also those behind the end of the disk.
        self.sink.write_bytes(FileOffset::new(bitmap_at), &[0xff; 512])?;
        self.free = data_at.saturating_add(self.block_size);
        Ok(FileOffset::new(data_at))
    }

    fn write_zeroes(&mut self, _at: GuestOffset, _len: u64) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        let id = self.unique_id.unwrap_or_else(|| derived_id(DiskType::Dynamic, self.disk_len, &self.table));
        let footer = footer(DiskType::Dynamic, self.disk_len, id).encode();
        let mut table: Vec<u8> = self.table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        table.resize(table.len().next_multiple_of(512), 0xff);
        self.sink.write_bytes(FileOffset::ZERO, &footer)?;
        self.sink.write_bytes(FileOffset::new(HEADER_AT), &self.header())?;
        self.sink.write_bytes(FileOffset::new(TABLE_AT), &table)?;
        self.sink.write_bytes(FileOffset::new(self.free), &footer)?;
        let byte_len = self.free.saturating_add(SECTOR);
        self.sink.set_byte_len(byte_len)?;
        Ok(Written { byte_len })
    }
}
