//! The dynamic disk header: where the blocks are, and who the parent is.

use super::footer::checksum;
use super::problem::VhdProblem;
use crate::wire::{be32, be64, bytes};

/// Length of the header.
pub(super) const HEADER_LEN: usize = 1024;
/// The first bytes of the header.
pub(super) const COOKIE: &[u8; 8] = b"cxsparse";
/// Where its checksum is.
pub(super) const CHECKSUM_AT: usize = 36;
/// The version of the header that exists.
pub(super) const HEADER_VERSION: u32 = 0x0001_0000;
/// Below this block size the specification and QEMU disagree on the length of the bitmap (one sector, none).
pub(super) const MIN_BLOCK: u32 = 4096;

const LOCATORS: usize = 8;
const LOCATORS_AT: usize = 576;
const LOCATOR_LEN: usize = 24;
const NAME_AT: usize = 64;
const NAME_LEN: usize = 512;
const RESERVED_AT: usize = 768;

/// Where one spelling of the parent's name is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Locator {
    pub(super) platform_code: [u8; 4],
    pub(super) platform_data_length: u32,
    pub(super) platform_data_offset: u64,
    /// Byte position of the entry inside the header.
    pub(super) entry_at: u64,
}

/// The header, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) table_offset: u64,
    pub(super) header_version: u32,
    pub(super) max_table_entries: u32,
    pub(super) block_size: u32,
    pub(super) parent_unique_id: [u8; 16],
    pub(super) parent_time_stamp: u32,
    pub(super) parent_unicode_name: String,
    pub(super) locators: Vec<Locator>,
    /// The checksum's problem, when there is one.
    pub(super) damage: Option<VhdProblem>,
    /// Whether a byte that must be zero is not.
    pub(super) reserved_used: bool,
}

/// Reads 1024 bytes as a header. A wrong checksum is for the caller to judge.
pub(super) fn read(raw: &[u8; HEADER_LEN]) -> Result<Header, VhdProblem> {
    if !raw.starts_with(COOKIE) {
        return Err(VhdProblem::HeaderCookie);
    }
    decode(raw).unwrap_or(Err(VhdProblem::HeaderCookie))
}

fn decode(raw: &[u8; HEADER_LEN]) -> Option<Result<Header, VhdProblem>> {
    let block_size = be32(raw, 32)?;
    if !block_size.is_power_of_two() || block_size < 512 {
        return Some(Err(VhdProblem::BlockSize(block_size)));
    }
    let stored = be32(raw, CHECKSUM_AT)?;
    let computed = checksum(raw, CHECKSUM_AT);
    let mut locators = Vec::new();
    for (entry, at) in raw
        .get(LOCATORS_AT..)?
        .chunks_exact(LOCATOR_LEN)
        .zip((LOCATORS_AT..).step_by(LOCATOR_LEN))
        .take(LOCATORS)
    {
        let platform_code = bytes(entry, 0)?;
        if platform_code != [0; 4] {
            locators.push(Locator {
                platform_code,
                platform_data_length: be32(entry, 8)?,
                platform_data_offset: be64(entry, 16)?,
                entry_at: u64::try_from(at).ok()?,
            });
        }
    }
    Some(Ok(Header {
        table_offset: be64(raw, 16)?,
        header_version: be32(raw, 24)?,
        max_table_entries: be32(raw, 28)?,
        block_size,
        parent_unique_id: bytes(raw, 40)?,
        parent_time_stamp: be32(raw, 56)?,
        parent_unicode_name: utf16(raw.get(NAME_AT..NAME_AT.checked_add(NAME_LEN)?)?, u16::from_be_bytes),
        locators,
        damage: (stored != computed).then_some(VhdProblem::HeaderChecksum { stored, computed }),
        reserved_used: be32(raw, 60)? != 0 || raw.get(RESERVED_AT..)?.iter().any(|byte| *byte != 0),
    }))
}

impl Header {
    /// Bytes of bitmap before the data of each block: a bit for every sector, in whole sectors.
    pub(super) fn bitmap_len(&self) -> u64 {
        u64::from(self.block_size).div_ceil(512 * 8).next_multiple_of(512)
    }
}

/// Text up to its first NUL; what is no UTF-16 is replaced.
fn utf16(raw: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units: Vec<u16> =
        raw.as_chunks::<2>().0.iter().map(|pair| unit(*pair)).take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units)
}

/// The text of a locator, by its platform; `None` for data that is no text (the alias of classic Mac OS).
pub(super) fn locator_text(platform_code: [u8; 4], raw: &[u8]) -> Option<String> {
    let narrow =
        || String::from_utf8_lossy(raw.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned();
    let text = match &platform_code {
        b"W2ku" | b"W2ru" => utf16(raw, u16::from_le_bytes),
        b"Wi2k" | b"Wi2r" | b"MacX" => narrow(),
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_the_byte_order_of_their_place() {
        assert_eq!(utf16(&[0, b'a', 0x20, 0xac, 0, 0, 0, b'x'], u16::from_be_bytes), "a€");
        assert_eq!(locator_text(*b"W2ru", &[b'.', 0, b'\\', 0, b'p', 0]).as_deref(), Some(".\\p"));
        assert_eq!(
            locator_text(*b"MacX", b"file://localhost/p\0junk").as_deref(),
            Some("file://localhost/p")
        );
        assert_eq!(locator_text(*b"Mac ", b"\0\0\0alias"), None);
        assert_eq!(locator_text(*b"W2ku", &[]), None);
        // A lone surrogate is replaced, not refused.
        assert_eq!(utf16(&[0xd8, 0x00, 0, b'b'], u16::from_be_bytes), "\u{fffd}b");
    }

    #[test]
    fn the_bitmap_is_a_bit_a_sector_in_whole_sectors() {
        let mut raw = [0_u8; HEADER_LEN];
        raw[..8].copy_from_slice(COOKIE);
        for (block, bitmap) in
            [(512_u32, 512), (4096, 512), (2 << 20, 512), (4 << 20, 1024), (1 << 31, 512 << 10)]
        {
            raw[32..36].copy_from_slice(&block.to_be_bytes());
            assert_eq!(read(&raw).unwrap().bitmap_len(), bitmap, "block of {block}");
        }
    }

    #[test]
    fn t_fmt_01_block_size_zero_or_no_power_of_two_is_refused() {
        let mut raw = [0_u8; HEADER_LEN];
        raw[..8].copy_from_slice(COOKIE);
        for block in [0_u32, 1, 256, 511, 513, 0x1f_ffff, 0x20_0001, u32::MAX] {
            raw[32..36].copy_from_slice(&block.to_be_bytes());
            assert_eq!(read(&raw), Err(VhdProblem::BlockSize(block)));
        }
    }
}
