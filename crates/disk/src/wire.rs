//! Little- and big-endian fields at fixed offsets of a structure that was read whole.
//!
//! A field outside the bytes is `None`, never a panic.

/// The `N` bytes at `at`.
#[must_use]
pub fn bytes<const N: usize>(structure: &[u8], at: usize) -> Option<[u8; N]> {
    structure.get(at..)?.first_chunk::<N>().copied()
}

/// A little-endian u16 at `at`.
#[must_use]
pub fn le16(structure: &[u8], at: usize) -> Option<u16> {
    bytes(structure, at).map(u16::from_le_bytes)
}

/// A little-endian u32 at `at`.
#[must_use]
pub fn le32(structure: &[u8], at: usize) -> Option<u32> {
    bytes(structure, at).map(u32::from_le_bytes)
}

/// A little-endian u64 at `at`.
#[must_use]
pub fn le64(structure: &[u8], at: usize) -> Option<u64> {
    bytes(structure, at).map(u64::from_le_bytes)
}

/// A big-endian u16 at `at`.
#[must_use]
pub fn be16(structure: &[u8], at: usize) -> Option<u16> {
    bytes(structure, at).map(u16::from_be_bytes)
}

/// A big-endian u32 at `at`.
#[must_use]
pub fn be32(structure: &[u8], at: usize) -> Option<u32> {
    bytes(structure, at).map(u32::from_be_bytes)
}

/// A big-endian u64 at `at`.
#[must_use]
pub fn be64(structure: &[u8], at: usize) -> Option<u64> {
    bytes(structure, at).map(u64::from_be_bytes)
}

/// The CRC-32 of zlib, GPT and LVM2's seeds: polynomial 0xEDB88320 (reflected), initial value and final xor as given.
#[must_use]
pub fn crc32(data: &[u8], initial: u32, final_xor: u32) -> u32 {
    let step = |crc: u32, byte: &u8| {
        let index = usize::from(crc.to_le_bytes().first().copied().unwrap_or(0) ^ byte);
        (crc >> 8) ^ CRC_TABLE.get(index).copied().unwrap_or(0)
    };
    data.iter().fold(initial, step) ^ final_xor
}

const CRC_TABLE: [u32; 256] = crc_table();

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "evaluated by the compiler, over constants"
)]
const fn crc_table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let mut index = 0_usize;
    while index < 256 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 8 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string_is_the_published_one() {
        assert_eq!(crc32(b"123456789", u32::MAX, u32::MAX), 0xcbf4_3926);
    }

    #[test]
    fn fields_outside_are_none() {
        assert_eq!((le32(&[1, 0, 0, 0], 0), le32(&[1, 0, 0, 0], 1)), (Some(1), None));
        assert_eq!((be16(&[1, 2], 0), be64(&[0; 7], 0), le16(&[], usize::MAX)), (Some(0x102), None, None));
    }
}
