//! streamOptimized: header, descriptor, grains with their tables behind them, directory, footer, end of stream.

use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::{
    ByteSink, DiskWrite, Encode, Encoding, Error, FileOffset, GuestOffset, Piece, Result, Written,
};
use libdeflater::{CompressionLvl, Compressor};

use super::{
    DESCRIPTOR_AT, DESCRIPTOR_SECTORS, DescriptorText, GRAIN_LEN, GRAIN_SECTORS, TABLE_COVERS, Table, entry,
    le_bytes,
};
use crate::vmdk::header::{
    COMPRESSION_DEFLATE, GD_AT_END, Header, MARKER_LEN, NEWLINES, SECTOR, flag, marker,
};
use crate::wire::{as_bytes, in_memory};

/// First sector of the first grain, as in the specification's picture: a whole grain from the start.
const OVER_HEAD: u64 = GRAIN_SECTORS;

/// Writes a stream. Positions only ascend: a grain table goes behind its last grain, when the first grain of another
/// one comes. The engine places a chunk's grains before it stores them, and no chunk reaches over two tables.
pub(super) struct StreamWriter {
    sink: Arc<dyn ByteSink>,
    header: Header,
    level: i32,
    directory: Vec<u32>,
    table: Option<Table>,
    /// First free byte of the file.
    free: u64,
}

impl StreamWriter {
    /// Writes what comes first. The CID cannot depend on the disk's content: that comes later.
    pub(super) fn start(
        sink: Arc<dyn ByteSink>,
        disk_len: u64,
        text: &DescriptorText,
        level: i32,
    ) -> Result<Self> {
        let header = Header {
            version: 3,
            flags: flag::NEWLINES | flag::COMPRESSED | flag::MARKERS,
            capacity: disk_len / SECTOR,
            grain_size: GRAIN_SECTORS,
            descriptor_offset: DESCRIPTOR_AT,
            descriptor_size: DESCRIPTOR_SECTORS,
            num_gtes_per_gt: 512,
            rgd_offset: 0,
            gd_offset: GD_AT_END,
            over_head: OVER_HEAD,
            unclean_shutdown: 0,
            newlines: NEWLINES,
            compress_algorithm: COMPRESSION_DEFLATE,
        };
        sink.write_bytes(FileOffset::ZERO, &header.encode())?;
        let descriptor_at = FileOffset::new(DESCRIPTOR_AT.saturating_mul(SECTOR));
        sink.write_bytes(descriptor_at, &text.bytes(text.seed()))?;
        let tables = in_memory(disk_len.div_ceil(TABLE_COVERS));
        Ok(Self {
            sink,
            header,
            level,
            // At most 2 Mi entries: 62 TiB.
            directory: vec![0; tables],
            table: None,
            free: OVER_HEAD.saturating_mul(SECTOR),
        })
    }

    /// Writes a marker and what it announces, filled up to whole sectors; answers where the latter is.
    fn metadata(&mut self, kind: u32, body: &[u8]) -> Result<u64> {
        let sectors = as_bytes(body.len()).div_ceil(SECTOR);
        let mut bytes = Vec::with_capacity(body.len().saturating_add(1024));
        bytes.extend_from_slice(&sectors.to_le_bytes());
        bytes.extend_from_slice(&0_u32.to_le_bytes());
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.resize(in_memory(SECTOR), 0);
        bytes.extend_from_slice(body);
        bytes.resize(bytes.len().next_multiple_of(in_memory(SECTOR)), 0);
        self.sink.write_bytes(FileOffset::new(self.free), &bytes)?;
        let body_at = self.free.saturating_add(SECTOR);
        self.free = self.free.saturating_add(as_bytes(bytes.len()));
        Ok(body_at)
    }

    fn end_table(&mut self) -> Result<()> {
        let Some(table) = self.table.take() else { return Ok(()) };
        let at = self.metadata(marker::GRAIN_TABLE, &table.bytes())?;
        if let Some(slot) = self.directory.get_mut(in_memory(table.index)) {
            *slot = entry(at)?;
        }
        Ok(())
    }
}

impl DiskWrite for StreamWriter {
    fn granule(&self) -> u64 {
        GRAIN_LEN
    }

    fn encoder(&self) -> Arc<dyn Encode> {
        Arc::new(Grains { level: self.level, idle: Mutex::default() })
    }

    fn place(&mut self, at: GuestOffset, piece: Piece) -> Result<FileOffset> {
        let index = at.get() / TABLE_COVERS;
        if self.table.as_ref().is_some_and(|table| table.index != index) {
            self.end_table()?;
        }
        let here = self.free;
        let value = entry(here)?;
        self.table.get_or_insert_with(|| Table::new(index)).set(at.get(), value);
        self.free = here.saturating_add(piece.len.into());
        Ok(FileOffset::new(here))
    }

    fn write_zeroes(&mut self, _at: GuestOffset, _len: u64) -> Result<()> {
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<Written> {
        self.end_table()?;
        let directory = le_bytes(&self.directory);
        let directory_at = self.metadata(marker::GRAIN_DIRECTORY, &directory)?;
        let footer = Header { gd_offset: entry(directory_at)?.into(), ..self.header.clone() };
        self.metadata(marker::FOOTER, &footer.encode())?;
        self.metadata(marker::END_OF_STREAM, &[])?;
        self.sink.set_byte_len(self.free)?;
        Ok(Written { byte_len: self.free })
    }
}

/// Compresses grains, each by itself, with its marker in front of it.
struct Grains {
    level: i32,
    /// Compressors that no thread is using: their tables are large.
    idle: Mutex<Vec<Compressor>>,
}

impl Encode for Grains {
    fn encode(&self, at: GuestOffset, granule: &[u8], out: &mut Vec<u8>) -> Result<Encoding> {
        // The last grain of a disk may be short; it is compressed whole, as the specification has it.
        let whole: Vec<u8>;
        let grain = if as_bytes(granule.len()) < GRAIN_LEN {
            let mut bytes = granule.to_vec();
            bytes.resize(in_memory(GRAIN_LEN), 0);
            whole = bytes;
            whole.as_slice()
        } else {
            granule
        };
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut compressor = match idle {
            Some(compressor) => compressor,
            None => Compressor::new(CompressionLvl::new(self.level).unwrap_or_default()),
        };
        let start = out.len();
        let data = start.saturating_add(MARKER_LEN);
        out.extend_from_slice(&(at.get() / SECTOR).to_le_bytes());
        out.resize(data.saturating_add(compressor.zlib_compress_bound(grain.len())), 0);
        let room = out.get_mut(data..).unwrap_or_default();
        let len = compressor
            .zlib_compress(grain, room)
            .map_err(|_| Error::io("compress", "a grain", std::io::ErrorKind::WriteZero))?;
        let size = u32::try_from(len).unwrap_or(u32::MAX);
        if let Some(field) = out.get_mut(start.saturating_add(8)..data) {
            field.copy_from_slice(&size.to_le_bytes());
        }
        let stored = MARKER_LEN.saturating_add(len).next_multiple_of(in_memory(SECTOR));
        out.truncate(data.saturating_add(len));
        out.resize(start.saturating_add(stored), 0);
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
        Ok(Encoding::Encoded)
    }
}
