//! Writing: dynamic and static disks of exactly the length asked for.
//!
//! Laid out as VirtualBox does it: map and blocks start at multiples of a mebibyte, blocks are a mebibyte. The map
//! is written page by page as the disk goes by, so that memory does not grow with the disk. The same disk gives
//! the same bytes: unique ids come from the disk's length and the map of its blocks unless the option `uuid` sets
//! the first of them.

use std::sync::Arc;

use kiln_disk::{
    ByteSink, DiskWrite, Encode, Error, FileOffset, GuestOffset, Piece, Result, StoreVerbatim, WriteOrder,
    Written,
};

use super::header::{Header, ImageType, SECTOR};
use super::map::FREE;
use crate::id::{DerivedId, Guid, parse_uuid};
use crate::options::{OptionSpec, Options};

/// QEMU reads no other block size.
const BLOCK: u64 = 1 << 20;
/// `VDI_DATA_ALIGN`.
const ALIGN: u64 = 1 << 20;
const MAP_AT: u64 = ALIGN;
/// `VDI_BLOCKS_IN_IMAGE_MAX` of QEMU; VirtualBox has no limit of its own below it.
const MAX_BLOCKS: u64 = 0x3fff_ffff;
/// The map is written in pieces of this many bytes.
const PAGE: usize = 64 * 1024;

/// What `-o` takes.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "static",
        default: "off",
        help: "off (only what is not zero takes space) or on (all blocks in order, as VirtualBox's fixed size)",
    },
    OptionSpec { name: "uuid", default: "", help: "unique id, 32 hexadecimal digits with or without dashes" },
];

/// A pipe takes static disks only: the map of a dynamic disk lies before its blocks and is known after them.
pub(super) fn streams(options: &Options) -> bool {
    matches!(options.get("static"), "on" | "true" | "yes")
}

/// Starts a disk; see [`crate::Create::run`].
pub(super) fn create(
    sink: Arc<dyn ByteSink>,
    disk_len: u64,
    options: &Options,
) -> Result<Box<dyn DiskWrite>> {
    check_len(disk_len)?;
    let uuid = match options.get("uuid") {
        "" => None,
        text => Some(Guid::from_text_order(parse_uuid(text).ok_or_else(|| options.bad_value("uuid"))?)),
    };
    if streams(options) {
        return Ok(Box::new(StaticWriter::start(sink, disk_len, uuid)?));
    }
    if !matches!(options.get("static"), "off" | "false" | "no") {
        return Err(options.bad_value("static"));
    }
    if sink.order() == WriteOrder::Ascending {
        return Err(Error::Refused {
            code: "vdi.stream",
            what: "a dynamic VDI on a pipe".to_owned(),
            asked: 0,
            allowed: 0,
            hint: "write it to a file, or use -o static=on",
        });
    }
    Ok(Box::new(DynamicWriter::new(sink, disk_len, uuid)))
}

fn check_len(disk_len: u64) -> Result<()> {
    let allowed = MAX_BLOCKS.saturating_mul(BLOCK);
    let refused = |code, what: &str, allowed, hint| {
        Err(Error::Refused { code, what: what.to_owned(), asked: disk_len, allowed, hint })
    };
    if disk_len > allowed {
        return refused(
            "vdi.create.size",
            "length of a VDI in bytes",
            allowed,
            "QEMU reads no longer one; use qcow2, or make the disk smaller first",
        );
    }
    if disk_len == 0 || !disk_len.is_multiple_of(SECTOR) {
        return refused(
            "vdi.create.sectors",
            "length of a VDI that is no positive multiple of 512 bytes",
            disk_len & !(SECTOR - 1),
            "a VDI holds whole sectors; pad the disk to a multiple of 512 first, or use qcow2 or raw",
        );
    }
    Ok(())
}

const fn blocks(disk_len: u64) -> u64 {
    disk_len.div_ceil(BLOCK)
}

const fn data_at(disk_len: u64) -> u64 {
    MAP_AT.saturating_add(blocks(disk_len).saturating_mul(4)).next_multiple_of(ALIGN)
}

fn header(image_type: ImageType, disk_len: u64, allocated: u32, uuid: Option<Guid>, map: [u8; 16]) -> Header {
    let derived = |purpose: &[u8]| {
        let mut id = DerivedId::new();
        id.take(purpose);
        id.take(&image_type.code().to_be_bytes());
        id.take(&disk_len.to_be_bytes());
        id.take(&map);
        Guid::from_text_order(id.finish())
    };
    // All fit: 0x3fffffff blocks, a map of less than 4 GiB, no block of 2^32 bytes.
    let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
    Header {
        file_info: "<<< Kiln VirtualBox Disk Image >>>\n".to_owned(),
        header_size: 400,
        image_type,
        flags: 0,
        comment: String::new(),
        blocks_offset: small(MAP_AT),
        data_offset: small(data_at(disk_len)),
        sector_size: small(SECTOR),
        disk_size: disk_len,
        block_size: small(BLOCK),
        block_extra: 0,
        blocks: small(blocks(disk_len)),
        blocks_allocated: allocated,
        uuid_create: uuid.unwrap_or_else(|| derived(b"create")),
        uuid_modify: derived(b"modify"),
        uuid_linkage: Guid::NIL,
        uuid_parent_modify: Guid::NIL,
    }
}

/// The map on its way into the file, entry by entry.
struct MapWriter {
    sink: Arc<dyn ByteSink>,
    /// Entries not yet written.
    page: Vec<u8>,
    /// Where they go.
    at: u64,
    /// Entries taken.
    taken: u64,
    id: DerivedId,
}

impl MapWriter {
    fn new(sink: Arc<dyn ByteSink>) -> Self {
        Self { sink, page: Vec::with_capacity(PAGE), at: MAP_AT, taken: 0, id: DerivedId::new() }
    }

    fn push(&mut self, entry: u32) -> Result<()> {
        self.page.extend_from_slice(&entry.to_le_bytes());
        self.taken = self.taken.saturating_add(1);
        if self.page.len() >= PAGE { self.flush() } else { Ok(()) }
    }

    fn skip_to(&mut self, block: u64) -> Result<()> {
        while self.taken < block {
            self.push(FREE)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.sink.write_bytes(FileOffset::new(self.at), &self.page)?;
        self.at = self.at.saturating_add(u64::try_from(self.page.len()).unwrap_or(0));
        self.page.clear();
        Ok(())
    }
}

/// Writes blocks in the order of the guest's bytes; the header at the end, to the start.
struct DynamicWriter {
    disk_len: u64,
    uuid: Option<Guid>,
    map: MapWriter,
    allocated: u32,
}

impl DynamicWriter {
    fn new(sink: Arc<dyn ByteSink>, disk_len: u64, uuid: Option<Guid>) -> Self {
        Self { disk_len, uuid, map: MapWriter::new(sink), allocated: 0 }
    }

    fn end(&self) -> u64 {
        data_at(self.disk_len).saturating_add(u64::from(self.allocated).saturating_mul(BLOCK))
    }
}

impl DiskWrite for DynamicWriter {
    fn granule(&self) -> u64 {
        BLOCK
    }

    fn encoder(&self) -> Arc<dyn Encode> {
        Arc::new(StoreVerbatim)
    }

    fn place(&mut self, at: GuestOffset, _piece: Piece) -> Result<FileOffset> {
        let block = at.get() / BLOCK;
        self.map.skip_to(block)?;
        // The map of an empty disk says nothing: the id goes by the blocks that are there.
        self.map.id.take(&block.to_be_bytes());
        self.map.push(self.allocated)?;
        let to = FileOffset::new(self.end());
        self.allocated = self.allocated.saturating_add(1);
        Ok(to)
    }

    fn write_zeroes(&mut self, _at: GuestOffset, _len: u64) -> Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        self.map.skip_to(blocks(self.disk_len))?;
        self.map.flush()?;
        let byte_len = self.end();
        let map = self.map.id.finish();
        let header = header(ImageType::Dynamic, self.disk_len, self.allocated, self.uuid, map);
        self.map.sink.write_bytes(FileOffset::ZERO, &header.encode())?;
        self.map.sink.set_byte_len(byte_len)?;
        Ok(Written { byte_len })
    }
}

/// Writes header and map at once and the guest's bytes behind them; zeros are holes.
struct StaticWriter {
    sink: Arc<dyn ByteSink>,
    disk_len: u64,
}

impl StaticWriter {
    fn start(sink: Arc<dyn ByteSink>, disk_len: u64, uuid: Option<Guid>) -> Result<Self> {
        let count = u32::try_from(blocks(disk_len)).unwrap_or(u32::MAX);
        let map = DerivedId::new().finish();
        let header = header(ImageType::Static, disk_len, count, uuid, map);
        sink.write_bytes(FileOffset::ZERO, &header.encode())?;
        let mut map = MapWriter::new(Arc::clone(&sink));
        for block in 0..count {
            map.push(block)?;
        }
        map.flush()?;
        Ok(Self { sink, disk_len })
    }
}

impl DiskWrite for StaticWriter {
    fn granule(&self) -> u64 {
        BLOCK
    }

    fn encoder(&self) -> Arc<dyn Encode> {
        Arc::new(StoreVerbatim)
    }

    fn place(&mut self, at: GuestOffset, _piece: Piece) -> Result<FileOffset> {
        Ok(FileOffset::new(data_at(self.disk_len).saturating_add(at.get())))
    }

    fn write_zeroes(&mut self, _at: GuestOffset, _len: u64) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        let byte_len = data_at(self.disk_len).saturating_add(blocks(self.disk_len).saturating_mul(BLOCK));
        self.sink.set_byte_len(byte_len)?;
        Ok(Written { byte_len })
    }
}
