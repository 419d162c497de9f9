//! Writing: dynamic and fixed disks of exactly the length asked for.
//!
//! Headers, an empty log, metadata, the table, and blocks in the order of the guest's bytes. Blocks are as large as
//! `qemu-img` makes them for a disk of that length unless the option says otherwise: Hyper-V's own 32 MiB would
//! make a small disk with scattered data as long as a fixed one. Inside a block only the mebibytes that are not
//! zero are written; the rest are holes. The table is written page by page as the disk goes by. The same disk gives
//! the same bytes: ids come from its length and its map.

use std::sync::Arc;

use kiln_disk::{
    ByteSink, DiskWrite, Encode, Error, FileOffset, GuestOffset, Piece, Result, StoreVerbatim, WriteOrder,
    Written,
};

use super::MIB;
use super::bat::{chunk_ratio, entries};
use super::header::{FILE_SIGNATURE, HEADER_AT, Header};
use super::metadata::{self, MAX_DISK, Metadata, REGION_LEN};
use super::region::{self, Region, TABLE_AT};
use crate::id::{DerivedId, Guid};
use crate::options::{OptionSpec, Options};

const SECTOR: u32 = 512;
/// What disks have had for years ("512e"), and what Hyper-V makes.
const PHYSICAL_SECTOR: u32 = 4096;
const LOG: Region = Region { name: "log", start: MIB, len: MIB };
const METADATA: Region = Region { name: "metadata region", start: 2 * MIB, len: REGION_LEN };
const BAT_AT: u64 = 3 * MIB;
/// The table is written in pieces of this many entries: a page.
const PAGE: usize = 512;
const PRESENT: u64 = 6;

/// What `-o` takes.
pub(super) const OPTIONS: &[OptionSpec] = &[
    OptionSpec {
        name: "subformat",
        default: "dynamic",
        help: "dynamic (only what is not zero takes space) or fixed (all blocks in order)",
    },
    OptionSpec {
        name: "block_size",
        default: "auto",
        help: "auto (8 to 64 MiB by the length of the disk), or a power of two from 1M to 256M",
    },
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
    let block_size = match options.get("block_size") {
        "auto" => default_block_size(disk_len),
        _ => options.size("block_size")?,
    };
    if !block_size.is_power_of_two() || !(MIB..=256 * MIB).contains(&block_size) {
        return Err(options.bad_value("block_size"));
    }
    let fixed = match options.get("subformat") {
        "fixed" => true,
        "dynamic" if sink.order() == WriteOrder::Ascending => {
            return Err(Error::Refused {
                code: "vhdx.stream",
                what: "a dynamic VHDX on a pipe".to_owned(),
                asked: 0,
                allowed: 0,
                hint: "write it to a file, or use -o subformat=fixed",
            });
        }
        "dynamic" => false,
        _ => return Err(options.bad_value("subformat")),
    };
    let layout = Layout::new(disk_len, block_size, fixed);
    if fixed {
        return Ok(Box::new(FixedWriter::start(sink, layout)?));
    }
    Ok(Box::new(DynamicWriter {
        table: Table::new(sink),
        layout,
        stored: 0,
        last: None,
        id: DerivedId::new(),
    }))
}

/// QEMU's rule (`vhdx_co_create`): larger disks get larger blocks, so that tables stay short.
const fn default_block_size(disk_len: u64) -> u64 {
    if disk_len > 32 << 40 {
        64 * MIB
    } else if disk_len > 100 << 30 {
        32 * MIB
    } else if disk_len > 1 << 30 {
        16 * MIB
    } else {
        8 * MIB
    }
}

fn check_len(disk_len: u64) -> Result<()> {
    let refused = |code, what: &str, allowed, hint| {
        Err(Error::Refused { code, what: what.to_owned(), asked: disk_len, allowed, hint })
    };
    if disk_len > MAX_DISK {
        return refused(
            "vhdx.create.size",
            "length of a VHDX in bytes",
            MAX_DISK,
            "the format ends at 64 TiB; use qcow2, or make the disk smaller first",
        );
    }
    if disk_len == 0 || !disk_len.is_multiple_of(SECTOR.into()) {
        return refused(
            "vhdx.create.sectors",
            "length of a VHDX that is no positive multiple of 512 bytes",
            disk_len & !(u64::from(SECTOR).saturating_sub(1)),
            "a VHDX holds whole sectors; pad the disk to a multiple of 512 first, or use qcow2 or raw",
        );
    }
    Ok(())
}

/// Where everything is.
#[derive(Debug, Clone, Copy)]
struct Layout {
    disk_len: u64,
    block_size: u64,
    fixed: bool,
    blocks: u64,
    ratio: u64,
    bat: Region,
}

impl Layout {
    fn new(disk_len: u64, block_size: u64, fixed: bool) -> Self {
        let blocks = disk_len.div_ceil(block_size.max(1));
        let ratio = chunk_ratio(SECTOR.into(), block_size);
        let len = entries(blocks, ratio, false).saturating_mul(8).next_multiple_of(MIB);
        let bat = Region { name: "block allocation table", start: BAT_AT, len };
        Self { disk_len, block_size, fixed, blocks, ratio, bat }
    }

    /// Where the block that is stored as the `number`th starts.
    const fn data_at(&self, number: u64) -> u64 {
        self.bat.end().saturating_add(number.saturating_mul(self.block_size))
    }

    /// Index in the table of the entry of `block`.
    fn index(&self, block: u64) -> u64 {
        block.saturating_add(block.checked_div(self.ratio).unwrap_or(0))
    }

    /// Writes everything that lies before the table; `map` stands for what the table says.
    fn write_head(&self, sink: &dyn ByteSink, map: [u8; 16]) -> Result<()> {
        let id = |purpose: &[u8]| {
            let mut id = DerivedId::new();
            id.take(purpose);
            id.take(&self.disk_len.to_le_bytes());
            id.take(&self.block_size.to_le_bytes());
            id.take(&[u8::from(self.fixed)]);
            id.take(&map);
            Guid::from_text_order(id.finish())
        };
        let mut identifier = FILE_SIGNATURE.to_vec();
        identifier.extend("kiln".encode_utf16().flat_map(u16::to_le_bytes));
        sink.write_bytes(FileOffset::ZERO, &identifier)?;
        for (at, sequence_number) in HEADER_AT.into_iter().zip(1..) {
            let header = Header {
                sequence_number,
                file_write_guid: id(b"file"),
                data_write_guid: id(b"data"),
                log_guid: Guid::NIL,
                log_version: 0,
                version: 1,
                log_length: u32::try_from(LOG.len).unwrap_or(0),
                log_offset: LOG.start,
            };
            sink.write_bytes(FileOffset::new(at), &header.encode())?;
        }
        let regions = region::encode(&[(region::BAT, self.bat), (region::METADATA, METADATA)]);
        for at in TABLE_AT {
            sink.write_bytes(FileOffset::new(at), &regions)?;
        }
        let metadata = Metadata {
            block_size: u32::try_from(self.block_size).unwrap_or(0),
            fixed: self.fixed,
            has_parent: false,
            virtual_disk_size: self.disk_len,
            virtual_disk_id: id(b"disk"),
            logical_sector_size: SECTOR,
            physical_sector_size: Some(PHYSICAL_SECTOR),
            locator: None,
        };
        sink.write_bytes(FileOffset::new(METADATA.start), &metadata::encode(&metadata))
    }
}

/// The table on its way into the file. Entries come in order; those left out are zero and need no writing.
struct Table {
    sink: Arc<dyn ByteSink>,
    /// The page that the next entry may belong to: its number, its bytes.
    page: (u64, Vec<u8>),
}

impl Table {
    fn new(sink: Arc<dyn ByteSink>) -> Self {
        Self { sink, page: (0, Vec::new()) }
    }

    fn put(&mut self, index: u64, entry: u64) -> Result<()> {
        let per_page = u64::try_from(PAGE).unwrap_or(u64::MAX);
        let page = index.checked_div(per_page).unwrap_or(0);
        if self.page.0 != page {
            self.flush()?;
            self.page.0 = page;
        }
        let within = usize::try_from(index.checked_rem(per_page).unwrap_or(0)).unwrap_or(0);
        self.page.1.resize(within.saturating_mul(8), 0);
        self.page.1.extend_from_slice(&entry.to_le_bytes());
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.page.1.is_empty() {
            return Ok(());
        }
        let per_page = u64::try_from(PAGE).unwrap_or(u64::MAX).saturating_mul(8);
        let at = BAT_AT.saturating_add(self.page.0.saturating_mul(per_page));
        self.sink.write_bytes(FileOffset::new(at), &self.page.1)?;
        self.page.1.clear();
        Ok(())
    }
}

/// Writes blocks in the order of the guest's bytes; what lies before the table at the end.
struct DynamicWriter {
    table: Table,
    layout: Layout,
    /// Blocks stored so far.
    stored: u64,
    /// The block that was stored last.
    last: Option<u64>,
    id: DerivedId,
}

impl DiskWrite for DynamicWriter {
    fn granule(&self) -> u64 {
        MIB
    }

    fn encoder(&self) -> Arc<dyn Encode> {
        Arc::new(StoreVerbatim)
    }

    fn place(&mut self, at: GuestOffset, _piece: Piece) -> Result<FileOffset> {
        let block = at.get().checked_div(self.layout.block_size).unwrap_or(0);
        if self.last != Some(block) {
            let start = self.layout.data_at(self.stored);
            self.table.put(self.layout.index(block), start | PRESENT)?;
            self.id.take(&block.to_le_bytes());
            self.stored = self.stored.saturating_add(1);
            self.last = Some(block);
        }
        let within = at.get() & self.layout.block_size.saturating_sub(1);
        let start = self.layout.data_at(self.stored.saturating_sub(1));
        Ok(FileOffset::new(start.saturating_add(within)))
    }

    fn write_zeroes(&mut self, _at: GuestOffset, _len: u64) -> Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        self.table.flush()?;
        self.layout.write_head(self.table.sink.as_ref(), self.id.finish())?;
        let byte_len = self.layout.data_at(self.stored);
        self.table.sink.set_byte_len(byte_len)?;
        Ok(Written { byte_len })
    }
}

/// Writes everything before the blocks at once and the guest's bytes behind it; zeros are holes.
struct FixedWriter {
    sink: Arc<dyn ByteSink>,
    layout: Layout,
}

impl FixedWriter {
    fn start(sink: Arc<dyn ByteSink>, layout: Layout) -> Result<Self> {
        layout.write_head(sink.as_ref(), DerivedId::new().finish())?;
        let mut table = Table::new(Arc::clone(&sink));
        for block in 0..layout.blocks {
            table.put(layout.index(block), layout.data_at(block) | PRESENT)?;
        }
        table.flush()?;
        Ok(Self { sink, layout })
    }
}

impl DiskWrite for FixedWriter {
    fn granule(&self) -> u64 {
        MIB
    }

    fn encoder(&self) -> Arc<dyn Encode> {
        Arc::new(StoreVerbatim)
    }

    fn place(&mut self, at: GuestOffset, _piece: Piece) -> Result<FileOffset> {
        Ok(FileOffset::new(self.layout.data_at(0).saturating_add(at.get())))
    }

    fn write_zeroes(&mut self, _at: GuestOffset, _len: u64) -> Result<()> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Written> {
        let byte_len = self.layout.data_at(self.layout.blocks);
        self.sink.set_byte_len(byte_len)?;
        Ok(Written { byte_len })
    }
}
