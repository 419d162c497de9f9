//! Big- and little-endian fields at fixed offsets of a structure that was read whole.
//!
//! A field outside the bytes is `None`, never a panic: callers cut the structure to its specified size first, so
//! `None` means the caller's own mistake and is reported as a short structure.

/// The `N` bytes at `at`.
pub(crate) fn bytes<const N: usize>(structure: &[u8], at: usize) -> Option<[u8; N]> {
    structure.get(at..)?.first_chunk::<N>().copied()
}

/// A big-endian u16 at `at`.
pub(crate) fn be16(structure: &[u8], at: usize) -> Option<u16> {
    bytes(structure, at).map(u16::from_be_bytes)
}

/// A big-endian u32 at `at`.
pub(crate) fn be32(structure: &[u8], at: usize) -> Option<u32> {
    bytes(structure, at).map(u32::from_be_bytes)
}

/// A big-endian u64 at `at`.
pub(crate) fn be64(structure: &[u8], at: usize) -> Option<u64> {
    bytes(structure, at).map(u64::from_be_bytes)
}

/// A little-endian u32 at `at`.
pub(crate) fn le32(structure: &[u8], at: usize) -> Option<u32> {
    bytes(structure, at).map(u32::from_le_bytes)
}

/// A little-endian u64 at `at`.
pub(crate) fn le64(structure: &[u8], at: usize) -> Option<u64> {
    bytes(structure, at).map(u64::from_le_bytes)
}

/// A little-endian u16 at `at`.
pub(crate) fn le16(structure: &[u8], at: usize) -> Option<u16> {
    bytes(structure, at).map(u16::from_le_bytes)
}
