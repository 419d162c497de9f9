//! monolithicSparse: header, descriptor, both directories with all of their tables, grains.

use std::sync::Arc;

use kiln_disk::{
    ByteSink, DiskWrite, Encode, FileOffset, GuestOffset, Piece, Result, StoreVerbatim, Written,
};

use super::{
    DESCRIPTOR_AT, DESCRIPTOR_SECTORS, DescriptorText, GRAIN_LEN, GRAIN_SECTORS, TABLE_COVERS, TABLE_SECTORS,
    Table, entry, le_bytes,
};
use crate::id::DerivedId;
use crate::vmdk::header::{COMPRESSION_NONE, Header, NEWLINES, SECTOR, flag};

/// Writes grains in the order of the guest's bytes. The tables' places are known from the start, so that one table is
/// in memory at a time; those without grains stay holes of the file.
pub(super) struct SparseWriter {
    sink: Arc<dyn ByteSink>,
    text: DescriptorText,
    /// Made from where the grains are.
    id: DerivedId,
    tables: u64,
    capacity: u64,
    table: Option<Table>,
    /// First free byte of the file.
    free: u64,
}

impl SparseWriter {
    pub(super) fn new(sink: Arc<dyn ByteSink>, disk_len: u64, text: DescriptorText) -> Self {
        let id = text.seed();
        let tables = disk_len.div_ceil(TABLE_COVERS);
        let mut writer = Self { sink, text, id, tables, capacity: disk_len / SECTOR, table: None, free: 0 };
        writer.free = writer.over_head().saturating_mul(SECTOR);
        writer
    }

    /// Sectors of a directory.
    const fn directory_sectors(&self) -> u64 {
        self.tables.saturating_mul(4).div_ceil(SECTOR)
    }

    /// Sectors of a directory and its tables.
    const fn set_sectors(&self) -> u64 {
        self.directory_sectors().saturating_add(self.tables.saturating_mul(TABLE_SECTORS))
    }

    /// First sector of the redundant directory, which comes first, as VMware and QEMU lay it out.
    const fn redundant_at() -> u64 {
        DESCRIPTOR_AT + DESCRIPTOR_SECTORS
    }

    const fn directory_at(&self) -> u64 {
        Self::redundant_at().saturating_add(self.set_sectors())
    }

    fn over_head(&self) -> u64 {
        self.directory_at().saturating_add(self.set_sectors()).next_multiple_of(GRAIN_SECTORS)
    }

    /// First byte of a table of the directory at sector `directory`.
    const fn table_at(&self, directory: u64, index: u64) -> u64 {
        let tables = directory.saturating_add(self.directory_sectors());
        tables.saturating_add(index.saturating_mul(TABLE_SECTORS)).saturating_mul(SECTOR)
    }

    fn end_table(&mut self) -> Result<()> {
        let Some(table) = self.table.take() else { return Ok(()) };
        let bytes = table.bytes();
        self.id.take(&table.index.to_le_bytes());
        self.id.take(&bytes);
        for directory in [Self::redundant_at(), self.directory_at()] {
            let at = self.table_at(directory, table.index);
            self.sink.write_bytes(FileOffset::new(at), &bytes)?;
        }
        Ok(())
    }

    fn header(&self) -> Header {
        Header {
            version: 1,
            flags: flag::NEWLINES | flag::REDUNDANT,
            capacity: self.capacity,
            grain_size: GRAIN_SECTORS,
            descriptor_offset: DESCRIPTOR_AT,
            descriptor_size: DESCRIPTOR_SECTORS,
            num_gtes_per_gt: 512,
            rgd_offset: Self::redundant_at(),
            gd_offset: self.directory_at(),
            over_head: self.over_head(),
            unclean_shutdown: 0,
            newlines: NEWLINES,
            compress_algorithm: COMPRESSION_NONE,
        }
    }
}

impl DiskWrite for SparseWriter {
    fn granule(&self) -> u64 {
        GRAIN_LEN
    }

    fn encoder(&self) -> Arc<dyn Encode> {
        Arc::new(StoreVerbatim)
    }

    fn place(&mut self, at: GuestOffset, _piece: Piece) -> Result<FileOffset> {
        let index = at.get() / TABLE_COVERS;
        if self.table.as_ref().is_some_and(|table| table.index != index) {
            self.end_table()?;
        }
        let here = self.free;
        let value = entry(here)?;
        self.table.get_or_insert_with(|| Table::new(index)).set(at.get(), value);
        // The last grain of a disk is stored whole as well.
        self.free = here.saturating_add(GRAIN_LEN);
        Ok(FileOffset::new(here))
    }

    fn write_zeroes(&mut self, _at: GuestOffset, _len: u64) -> Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        self.end_table()?;
        for directory in [Self::redundant_at(), self.directory_at()] {
            let entries: Vec<u32> = (0..self.tables)
                .map(|index| entry(self.table_at(directory, index)))
                .collect::<Result<_>>()?;
            let at = FileOffset::new(directory.saturating_mul(SECTOR));
            self.sink.write_bytes(at, &le_bytes(&entries))?;
        }
        self.sink.write_bytes(FileOffset::ZERO, &self.header().encode())?;
        let id = std::mem::replace(&mut self.id, DerivedId::new());
        let descriptor_at = FileOffset::new(DESCRIPTOR_AT.saturating_mul(SECTOR));
        self.sink.write_bytes(descriptor_at, &self.text.bytes(id))?;
        self.sink.set_byte_len(self.free)?;
        Ok(Written { byte_len: self.free })
    }
}
