//! The header: pre-header and header of version 1.1 (`VDIPREHEADER`, `VDIHEADER1`, `VDIHEADER1PLUS`).

use super::problem::VdiProblem;
use crate::id::Guid;
use crate::wire::{bytes, le32, le64};

/// `u32Signature`, behind `szFileInfo`.
pub(super) const SIGNATURE: u32 = 0xbeda_107f;
pub(super) const SIGNATURE_AT: usize = 64;
pub(super) const VERSION_1_1: u32 = 0x0001_0001;
/// Bytes from the start of the file to the end of `VDIHEADER1`; all of it is read.
pub(super) const HEADER_END: usize = 72 + 384;
/// The same with `LCHSGeometry`, as VirtualBox writes it since 2.0.
pub(super) const HEADER_PLUS_END: usize = 72 + 400;
/// Least value of `cbHeader`.
const MIN_HEADER: u32 = 384;
pub(super) const SECTOR: u64 = 512;

/// Places of fields, for messages.
pub(super) mod field {
    pub(in super::super) const VERSION: u64 = 0x44;
    pub(in super::super) const HEADER_SIZE: u64 = 0x48;
    pub(in super::super) const IMAGE_TYPE: u64 = 0x4c;
    pub(in super::super) const BLOCKS_OFFSET: u64 = 0x154;
    pub(in super::super) const DATA_OFFSET: u64 = 0x158;
    pub(in super::super) const DISK_SIZE: u64 = 0x170;
    pub(in super::super) const BLOCK_SIZE: u64 = 0x178;
    pub(in super::super) const BLOCK_EXTRA: u64 = 0x17c;
    pub(in super::super) const BLOCKS: u64 = 0x180;
    pub(in super::super) const BLOCKS_ALLOCATED: u64 = 0x184;
    pub(in super::super) const UUID_CREATE: u64 = 0x188;
    pub(in super::super) const UUID_LINKAGE: u64 = 0x1a8;
    pub(in super::super) const UUID_PARENT_MODIFY: u64 = 0x1b8;
}

/// `u32Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ImageType {
    /// Blocks are added as they are written.
    Dynamic,
    /// All blocks are there from the start.
    Static,
    /// Changes against a parent, to be thrown away or merged.
    Undo,
    /// Changes against a parent.
    Differencing,
}

impl ImageType {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Dynamic => "dynamic",
            Self::Static => "static",
            Self::Undo => "undo",
            Self::Differencing => "differencing",
        }
    }

    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Dynamic => 1,
            Self::Static => 2,
            Self::Undo => 3,
            Self::Differencing => 4,
        }
    }

    const fn of(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Dynamic),
            2 => Some(Self::Static),
            3 => Some(Self::Undo),
            4 => Some(Self::Differencing),
            _ => None,
        }
    }

    pub(super) const fn has_parent(self) -> bool {
        matches!(self, Self::Undo | Self::Differencing)
    }
}

/// The header as decoded; field names as in `VDIHEADER1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// `szFileInfo`: who wrote it.
    pub(super) file_info: String,
    /// `cbHeader`.
    pub(super) header_size: u32,
    pub(super) image_type: ImageType,
    /// `fFlags`.
    pub(super) flags: u32,
    /// `szComment`.
    pub(super) comment: String,
    /// `offBlocks`: where the map is.
    pub(super) blocks_offset: u32,
    /// `offData`: where the blocks start.
    pub(super) data_offset: u32,
    /// `cbSector` of the legacy geometry; QEMU wants 512.
    pub(super) sector_size: u32,
    /// `cbDisk`.
    pub(super) disk_size: u64,
    /// `cbBlock`: a power of two, at least 512.
    pub(super) block_size: u32,
    /// `cbBlockExtra`: bytes before the data of each block; 0 or a power of two.
    pub(super) block_extra: u32,
    /// `cBlocks`: entries of the map.
    pub(super) blocks: u32,
    /// `cBlocksAllocated`.
    pub(super) blocks_allocated: u32,
    pub(super) uuid_create: Guid,
    pub(super) uuid_modify: Guid,
    pub(super) uuid_linkage: Guid,
    pub(super) uuid_parent_modify: Guid,
}

/// What is wrong with a header, and the place of the field.
pub(super) type HeaderFault = (u64, VdiProblem);

/// Decodes the first [`HEADER_END`] bytes of a file whose signature and version are known to be right.
pub(super) fn read(raw: &[u8; HEADER_END]) -> Result<Header, HeaderFault> {
    let u32_at = |at: u64| usize::try_from(at).ok().and_then(|at| le32(raw, at)).unwrap_or(0);
    let guid_at = |at: usize| Guid(bytes(raw, at).unwrap_or([0; 16]));
    let text_at = |at: usize, len: usize| {
        let raw = raw.get(at..).and_then(|rest| rest.get(..len)).unwrap_or_default();
        let end = raw.iter().position(|byte| *byte == 0).unwrap_or(raw.len());
        String::from_utf8_lossy(raw.get(..end).unwrap_or_default()).trim_end().to_owned()
    };
    let header_size = u32_at(field::HEADER_SIZE);
    if header_size < MIN_HEADER {
        return Err((field::HEADER_SIZE, VdiProblem::HeaderSize(header_size)));
    }
    let code = u32_at(field::IMAGE_TYPE);
    let image_type = ImageType::of(code).ok_or((field::IMAGE_TYPE, VdiProblem::ImageType(code)))?;
    let block_size = u32_at(field::BLOCK_SIZE);
    if !block_size.is_power_of_two() || u64::from(block_size) < SECTOR {
        return Err((field::BLOCK_SIZE, VdiProblem::BlockSize(block_size)));
    }
    let block_extra = u32_at(field::BLOCK_EXTRA);
    if block_extra != 0 && !block_extra.is_power_of_two() {
        return Err((field::BLOCK_EXTRA, VdiProblem::BlockExtra(block_extra)));
    }
    let disk_size = usize::try_from(field::DISK_SIZE).ok().and_then(|at| le64(raw, at)).unwrap_or(0);
    if disk_size == 0 {
        return Err((field::DISK_SIZE, VdiProblem::DiskSize));
    }
    let blocks = u32_at(field::BLOCKS);
    let needed = disk_size.div_ceil(block_size.into());
    if u64::from(blocks) < needed {
        return Err((field::BLOCKS, VdiProblem::MapTooSmall { entries: blocks, needed }));
    }
    Ok(Header {
        file_info: text_at(0, SIGNATURE_AT),
        header_size,
        image_type,
        flags: u32_at(0x50),
        comment: text_at(0x54, 256),
        blocks_offset: u32_at(field::BLOCKS_OFFSET),
        data_offset: u32_at(field::DATA_OFFSET),
        sector_size: u32_at(0x168),
        disk_size,
        block_size,
        block_extra,
        blocks,
        blocks_allocated: u32_at(field::BLOCKS_ALLOCATED),
        uuid_create: guid_at(0x188),
        uuid_modify: guid_at(0x198),
        uuid_linkage: guid_at(0x1a8),
        uuid_parent_modify: guid_at(0x1b8),
    })
}

impl Header {
    /// What VirtualBox or QEMU would not accept though nothing of it matters for reading.
    pub(super) fn oddities(&self) -> Vec<(u64, String)> {
        let mut odd = Vec::new();
        if self.uuid_create.is_nil() || self.uuid_modify.is_nil() {
            odd.push((
                field::UUID_CREATE,
                "the unique ids are zero; VirtualBox refuses such a disk".to_owned(),
            ));
        }
        if self.blocks_allocated > self.blocks {
            let detail = format!("{} blocks allocated of {}", self.blocks_allocated, self.blocks);
            odd.push((field::BLOCKS_ALLOCATED, detail));
        }
        if self.sector_size != 512 {
            odd.push((0x168, format!("sector size {}, which QEMU refuses", self.sector_size)));
        }
        if self.flags & !0xff != 0 {
            odd.push((0x50, format!("flags {:#x}", self.flags)));
        }
        odd
    }

    /// The header as VirtualBox lays it out, from the first byte of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(HEADER_PLUS_END);
        raw.extend_from_slice(self.file_info.as_bytes());
        raw.resize(SIGNATURE_AT, 0);
        for number in [SIGNATURE, VERSION_1_1, self.header_size, self.image_type.code(), self.flags] {
            raw.extend_from_slice(&number.to_le_bytes());
        }
        raw.extend_from_slice(self.comment.as_bytes());
        raw.resize(0x154, 0);
        for number in [self.blocks_offset, self.data_offset, 0, 0, 0, self.sector_size, 0] {
            raw.extend_from_slice(&number.to_le_bytes());
        }
        raw.extend_from_slice(&self.disk_size.to_le_bytes());
        for number in [self.block_size, self.block_extra, self.blocks, self.blocks_allocated] {
            raw.extend_from_slice(&number.to_le_bytes());
        }
        for id in [self.uuid_create, self.uuid_modify, self.uuid_linkage, self.uuid_parent_modify] {
            raw.extend_from_slice(&id.0);
        }
        for number in [0, 0, 0, self.sector_size] {
            raw.extend_from_slice(&number.to_le_bytes());
        }
        raw
    }
}
