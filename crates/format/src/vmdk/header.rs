//! The sparse extent header: the first sector of a hosted sparse extent, and again its footer.
//!
//! VMware, "Virtual Disk Format 5.0" (and 1.1), "Hosted Sparse Extents", struct SparseExtentHeader. All numbers
//! are little-endian; positions and lengths are in sectors of 512 bytes.

use super::problem::VmdkProblem;
use crate::wire::{bytes, le16, le32, le64};

/// Unit of every position in the format.
pub(super) const SECTOR: u64 = 512;
/// Length of a header.
pub(super) const HEADER_LEN: usize = 512;
/// The first bytes: SPARSE_MAGICNUMBER 0x564d444b ('V' 'M' 'D' 'K'), little-endian.
pub(super) const MAGIC: &[u8; 4] = b"KDMV";
/// A gdOffset that says "see the footer".
pub(super) const GD_AT_END: u64 = u64::MAX;
/// singleEndLineChar, nonEndLineChar, doubleEndLineChar1 and 2: what a transfer as text changes.
pub(super) const NEWLINES: [u8; 4] = *b"\n \r\n";
/// compressAlgorithm: none, and RFC 1951 in the envelope of RFC 1950.
pub(super) const COMPRESSION_NONE: u16 = 0;
pub(super) const COMPRESSION_DEFLATE: u16 = 1;

/// Largest grain that is read: 1 GiB, as in QEMU.
const MAX_GRAIN: u64 = 1 << 21;
/// Entries of a grain table: the specification's only number, and the most that programs read.
const MAX_GTES: u32 = 512;
/// 2^53 sectors are far more than any program creates and leave room for sums.
const MAX_CAPACITY: u64 = 1 << 53;

/// Bits of `flags`.
pub(super) mod flag {
    /// The newline characters are valid.
    pub(in crate::vmdk) const NEWLINES: u32 = 1;
    /// The redundant grain directory is in use.
    pub(in crate::vmdk) const REDUNDANT: u32 = 1 << 1;
    /// A grain table entry of 1 stands for a grain of zeros (version 2).
    pub(in crate::vmdk) const ZERO_GRAIN: u32 = 1 << 2;
    /// Grains are compressed.
    pub(in crate::vmdk) const COMPRESSED: u32 = 1 << 16;
    /// Markers stand before grains and metadata.
    pub(in crate::vmdk) const MARKERS: u32 = 1 << 17;
    /// All that are known.
    pub(in crate::vmdk) const KNOWN: u32 = NEWLINES | REDUNDANT | ZERO_GRAIN | COMPRESSED | MARKERS;
}

/// A header, decoded. Field names are the specification's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) flags: u32,
    pub(super) capacity: u64,
    pub(super) grain_size: u64,
    pub(super) descriptor_offset: u64,
    pub(super) descriptor_size: u64,
    pub(super) num_gtes_per_gt: u32,
    pub(super) rgd_offset: u64,
    pub(super) gd_offset: u64,
    pub(super) over_head: u64,
    pub(super) unclean_shutdown: u8,
    pub(super) newlines: [u8; 4],
    pub(super) compress_algorithm: u16,
}

impl Header {
    /// Reads a header; `None` when the magic number is missing.
    pub(super) fn read(raw: &[u8; HEADER_LEN]) -> Option<Self> {
        if !raw.starts_with(MAGIC) {
            return None;
        }
        let [unclean_shutdown] = bytes(raw, 72)?;
        Some(Self {
            version: le32(raw, 4)?,
            flags: le32(raw, 8)?,
            capacity: le64(raw, 12)?,
            grain_size: le64(raw, 20)?,
            descriptor_offset: le64(raw, 28)?,
            descriptor_size: le64(raw, 36)?,
            num_gtes_per_gt: le32(raw, 44)?,
            rgd_offset: le64(raw, 48)?,
            gd_offset: le64(raw, 56)?,
            over_head: le64(raw, 64)?,
            unclean_shutdown,
            newlines: bytes(raw, 73)?,
            compress_algorithm: le16(raw, 77)?,
        })
    }

    /// The bytes of the header.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(HEADER_LEN);
        raw.extend_from_slice(MAGIC);
        raw.extend_from_slice(&self.version.to_le_bytes());
        raw.extend_from_slice(&self.flags.to_le_bytes());
        for field in [self.capacity, self.grain_size, self.descriptor_offset, self.descriptor_size] {
            raw.extend_from_slice(&field.to_le_bytes());
        }
        raw.extend_from_slice(&self.num_gtes_per_gt.to_le_bytes());
        for field in [self.rgd_offset, self.gd_offset, self.over_head] {
            raw.extend_from_slice(&field.to_le_bytes());
        }
        raw.push(self.unclean_shutdown);
        raw.extend_from_slice(&self.newlines);
        raw.extend_from_slice(&self.compress_algorithm.to_le_bytes());
        raw.resize(HEADER_LEN, 0);
        raw
    }

    pub(super) const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(super) const fn is_compressed(&self) -> bool {
        self.compress_algorithm == COMPRESSION_DEFLATE
    }

    /// What makes the header useless: numbers that no layout follows from.
    pub(super) const fn fault(&self) -> Option<VmdkProblem> {
        if self.grain_size == 0 || self.grain_size > MAX_GRAIN || !self.grain_size.is_power_of_two() {
            return Some(VmdkProblem::GrainSize(self.grain_size));
        }
        if self.num_gtes_per_gt == 0 || self.num_gtes_per_gt > MAX_GTES {
            return Some(VmdkProblem::TableEntries(self.num_gtes_per_gt));
        }
        if self.capacity == 0 || self.capacity > MAX_CAPACITY {
            return Some(VmdkProblem::Capacity(self.capacity));
        }
        None
    }

    /// What makes the data doubtful, though it can be looked at.
    pub(super) const fn doubt(&self) -> Option<VmdkProblem> {
        if self.has(flag::NEWLINES) && !matches!(self.newlines, NEWLINES) {
            return Some(VmdkProblem::Newlines { found: self.newlines });
        }
        if self.has(flag::COMPRESSED) != (self.compress_algorithm != COMPRESSION_NONE) {
            return Some(VmdkProblem::CompressionFlags {
                flags: self.flags,
                algorithm: self.compress_algorithm,
            });
        }
        None
    }

    /// The first field that a footer must share with its header and does not.
    pub(super) fn differs_from(&self, footer: &Self) -> Option<&'static str> {
        let pairs = [
            ("version", u64::from(self.version), u64::from(footer.version)),
            ("flags", self.flags.into(), footer.flags.into()),
            ("capacity", self.capacity, footer.capacity),
            ("grainSize", self.grain_size, footer.grain_size),
            ("descriptorOffset", self.descriptor_offset, footer.descriptor_offset),
            ("descriptorSize", self.descriptor_size, footer.descriptor_size),
            ("numGTEsPerGT", self.num_gtes_per_gt.into(), footer.num_gtes_per_gt.into()),
            ("compressAlgorithm", self.compress_algorithm.into(), footer.compress_algorithm.into()),
        ];
        pairs.into_iter().find(|(_, one, other)| one != other).map(|(name, ..)| name)
    }
}

/// The types of a metadata marker, which has a size of 0.
pub(super) mod marker {
    pub(in crate::vmdk) const END_OF_STREAM: u32 = 0;
    pub(in crate::vmdk) const GRAIN_TABLE: u32 = 1;
    pub(in crate::vmdk) const GRAIN_DIRECTORY: u32 = 2;
    pub(in crate::vmdk) const FOOTER: u32 = 3;
}

/// Length of the fields of a marker that come before a grain's compressed data: sector and size.
pub(super) const MARKER_LEN: usize = 12;

/// "Sector number or count" and "size" of a marker.
pub(super) fn read_marker(raw: &[u8]) -> Option<(u64, u32)> {
    Some((le64(raw, 0)?, le32(raw, 8)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_the_way_to_the_file_and_back() {
        let header = Header {
            version: 3,
            flags: flag::KNOWN,
            capacity: 0x0102_0304_0506,
            grain_size: 128,
            descriptor_offset: 1,
            descriptor_size: 20,
            num_gtes_per_gt: 512,
            rgd_offset: 21,
            gd_offset: GD_AT_END,
            over_head: 128,
            unclean_shutdown: 1,
            newlines: NEWLINES,
            compress_algorithm: 1,
        };
        let raw: [u8; HEADER_LEN] = header.encode().try_into().unwrap();
        assert_eq!(&raw[72..79], b"\x01\n \r\n\x01\x00");
        assert_eq!(Header::read(&raw), Some(header));
    }
}
