//! Big- and little-endian fields at fixed offsets of a structure that was read whole.
//!
//! A field outside the bytes is `None`, never a panic: callers cut the structure to its specified size first, so
//! `None` means the caller's own mistake and is reported as a short structure. Lengths in memory and in files change
//! into one another here as well.

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

/// A number of bytes as a length in memory. The targets of Kiln have 64-bit addresses; elsewhere the read of an
/// impossible length fails.
pub(crate) fn in_memory(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

/// A length in memory as a number of bytes.
pub(crate) fn as_bytes(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}
