//! The 512-byte header: POSIX.1-2017 `pax` "ustar Interchange Format", and GNU tar's variant (its manual, "Basic
//! Tar Format", `struct oldgnu_header`).

use kiln_disk::{Error, FileOffset, Result};

use super::problem::{Checksum, TarProblem};
use crate::wire::bytes;

/// Length of a header and unit of everything in an archive.
pub(super) const BLOCK: usize = 512;
/// [`BLOCK`] as a file length.
pub(super) const BLOCK_LEN: u64 = 512;

/// One block.
pub(super) type Block = [u8; BLOCK];

/// Which of the two layouts a header has; v7 headers count as GNU's, which has no prefix either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Magic {
    /// `ustar\0`: the name has a prefix.
    Posix,
    /// `ustar  \0`.
    Gnu,
    /// Anything else: before POSIX.
    None,
}

/// The fields of a header that decide what is where.
#[derive(Debug, Clone)]
pub(super) struct Header {
    pub(super) magic: Magic,
    /// Type flag; `\0` of old archives is given as `0`.
    pub(super) kind: u8,
    pub(super) size: u64,
    /// Prefix and name.
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
}

/// The bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The part of the block from `at`, `len` bytes long.
fn field(block: &Block, at: usize, len: usize) -> &[u8] {
    at.checked_add(len).and_then(|end| block.get(at..end)).unwrap_or_default()
}

/// A number: octal digits between spaces and NULs, or GNU's base 256 with a first byte of exactly 0x80.
///
/// Readers treat empty fields, signs, other first bytes and digits behind a blank differently, so those are no
/// numbers. Values are at most 2^63 - 1, GNU tar's own limit.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    let value = match field.split_first() {
        Some((0x80, digits)) => digits
            .iter()
            .try_fold(0_u64, |value, digit| value.checked_mul(256)?.checked_add(u64::from(*digit)))?,
        _ => {
            let start = field.iter().position(|byte| *byte != b' ')?;
            let digits = field.get(start..)?;
            let end = digits.iter().position(|byte| !matches!(byte, b'0'..=b'7')).unwrap_or(digits.len());
            let (digits, rest) = digits.split_at_checked(end)?;
            if digits.is_empty() || rest.iter().any(|byte| !matches!(byte, b' ' | 0)) {
                return None;
            }
            digits.iter().try_fold(0_u64, |value, digit| {
                value.checked_mul(8)?.checked_add(u64::from(digit.checked_sub(b'0')?))
            })?
        }
    };
    i64::try_from(value).is_ok().then_some(value)
}

/// Both sums that writers have used: of unsigned and of signed bytes, the field itself counted as spaces.
fn checksums(block: &Block) -> (u64, i64) {
    let counted = |at: usize, byte: u8| if (148..156).contains(&at) { b' ' } else { byte };
    let unsigned = block.iter().enumerate().map(|(at, byte)| u64::from(counted(at, *byte)));
    let signed = block.iter().enumerate().map(|(at, byte)| i64::from(counted(at, *byte).cast_signed()));
    (unsigned.fold(0, u64::saturating_add), signed.fold(0, i64::saturating_add))
}

/// Fields that decide nothing here. Python's reader ends the archive where one of them is garbage.
const OTHER_NUMBERS: [(&str, usize, usize); 6] = [
    ("mode", 100, 8),
    ("uid", 108, 8),
    ("gid", 116, 8),
    ("mtime", 136, 12),
    ("devmajor", 329, 8),
    ("devminor", 337, 8),
];

/// Whether every reader makes something of a number that does not matter: a number of either kind, or nothing.
fn is_passable(field: &[u8]) -> bool {
    matches!(field.first(), Some(0x80 | 0xff))
        || field.iter().all(|byte| matches!(byte, b' ' | 0))
        || number(field).is_some()
}

impl Header {
    /// Reads the header that stands at byte `at`.
    pub(super) fn parse(block: &Block, at: FileOffset) -> Result<Self> {
        let wrong = |field: u64, problem| Error::malformed("tar header", at.saturating_add(field), problem);
        let stored = number(field(block, 148, 8));
        let (unsigned, signed) = checksums(block);
        if stored != Some(unsigned) && stored.and_then(|sum| i64::try_from(sum).ok()) != Some(signed) {
            return Err(wrong(148, TarProblem::Checksum { stored: Checksum(stored), computed: unsigned }));
        }
        let magic = match bytes::<8>(block, 257) {
            Some([b'u', b's', b't', b'a', b'r', 0, ..]) => Magic::Posix,
            Some([b'u', b's', b't', b'a', b'r', b' ', b' ', 0]) => Magic::Gnu,
            _ => Magic::None,
        };
        let kind = match bytes::<1>(block, 156) {
            Some([0]) | None => b'0',
            Some([kind]) => kind,
        };
        let size =
            number(field(block, 124, 12)).ok_or_else(|| wrong(124, TarProblem::Number { field: "size" }))?;
        for (name, at, len) in OTHER_NUMBERS {
            if !is_passable(field(block, at, len)) {
                let at = u64::try_from(at).unwrap_or(0);
                return Err(wrong(at, TarProblem::Number { field: name }));
            }
        }
        let prefix = field(block, 345, 155);
        let mut name = Vec::new();
        if magic == Magic::Posix {
            name.extend(text(prefix));
            if !name.is_empty() {
                name.push(b'/');
            }
        } else if kind != super::walk::SPARSE && prefix.iter().any(|byte| *byte != 0) {
            return Err(wrong(345, TarProblem::Prefix));
        }
        name.extend(text(field(block, 0, 100)));
        Ok(Self { magic, kind, size, name, link: text(field(block, 157, 100)).to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256_and_nothing_else() {
        for (field, value) in [
            (&b"00000001750\0"[..], Some(0o1750)),
            (b"      1750 \0", Some(0o1750)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"0\0\0\0\0\0\0\0\0\0\0\0", Some(0)),
            (&[0x80, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0], Some(1 << 33)),
            (&[0x80, 0, 0, 0, 0x7f, 255, 255, 255, 255, 255, 255, 255], Some(i64::MAX as u64)),
            (&[0x80, 0, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0], None),
            (&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], None),
            (&[0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], None),
            (&[0xff; 12], None),
            (&[0; 12], None),
            (b"            ", None),
            (b"+0000000010\0", None),
            (b"-0000000010\0", None),
            (b"10 20      \0", None),
            (b"0000000018\0\0", None),
            (b"\x00000000010\0", None),
        ] {
            assert_eq!(number(field), value, "{field:?}");
        }
    }
}
