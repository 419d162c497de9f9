//! Reparse points (MS-FSCC 2.1.2): links, and files whose bytes are kept in another way.

use kiln_disk::wire::{le16, le32};

use super::record::units;

/// What a reparse point makes of its file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reparse {
    /// A link to a place in this volume, as a path with slashes.
    Link(Vec<u8>),
    /// A name for something that is not in this volume.
    Elsewhere,
    /// A file or directory whose content is not stored as it is read.
    Stored(&'static str),
    /// A file or directory like any other.
    Plain,
}

const SYMBOLIC: u32 = 0xa000_000c;
const MOUNT_POINT: u32 = 0xa000_0003;
const LINUX_LINK: u32 = 0xa000_001d;
/// The bit of tags whose files stand for others.
const SURROGATE: u32 = 0x2000_0000;

/// Decodes the value of a `$REPARSE_POINT`.
pub(super) fn reparse(bytes: &[u8]) -> Reparse {
    let Some(tag) = le32(bytes, 0) else { return Reparse::Elsewhere };
    let link = match tag {
        SYMBOLIC => target(bytes, 20, le32(bytes, 16).is_some_and(|flags| flags & 1 != 0)),
        MOUNT_POINT => target(bytes, 16, false),
        LINUX_LINK => bytes.get(12..).map(<[u8]>::to_vec),
        // A link to a program of a package, a socket of Linux and such: nothing is stored.
        0x8000_0017 => return Reparse::Stored("the file is compressed (WOF, as CompactOS does)"),
        0x8000_0013 => return Reparse::Stored("the file is deduplicated"),
        // Cloud files: 0x9000001A and those of its family.
        _ if tag & 0xffff_0fff == 0x9000_001a => return Reparse::Plain,
        _ if tag & SURROGATE == 0 => return Reparse::Plain,
        _ => None,
    };
    link.filter(|target| !target.is_empty()).map_or(Reparse::Elsewhere, Reparse::Link)
}

/// The path in a symbolic link or junction. Windows writes whole paths with the drive's letter; the volume that holds
/// the system is C, so other letters lead out of it.
fn target(bytes: &[u8], names_at: usize, relative: bool) -> Option<Vec<u8>> {
    let (at, len) = (usize::from(le16(bytes, 8)?), usize::from(le16(bytes, 10)?));
    let at = names_at.checked_add(at)?;
    let name = units(bytes.get(at..at.checked_add(len)?)?);
    let text = String::from_utf16(&name).ok()?;
    let path = if relative {
        text
    } else {
        let drive = text.strip_prefix("\\??\\").unwrap_or(&text);
        let rest = drive.strip_prefix("C:").or_else(|| drive.strip_prefix("c:"))?;
        format!("\\{}", rest.trim_start_matches('\\'))
    };
    (!path.contains('\0')).then(|| path.replace('\\', "/").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(tag: u32, flags: Option<u32>, name: &str) -> Vec<u8> {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut bytes = [tag.to_le_bytes(), [0; 4]].concat();
        for word in [0, name.len() as u16, name.len() as u16, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend(flags.map(u32::to_le_bytes).into_iter().flatten());
        bytes.extend_from_slice(&name);
        bytes
    }

    #[test]
    fn links_stay_in_their_volume() {
        let link = |text: &str| Reparse::Link(text.as_bytes().to_vec());
        assert_eq!(reparse(&point(MOUNT_POINT, None, "\\??\\C:\\Users")), link("/Users"));
        assert_eq!(reparse(&point(SYMBOLIC, Some(1), "..\\a\\b")), link("../a/b"));
        assert_eq!(reparse(&point(SYMBOLIC, Some(0), "\\??\\c:\\ProgramData")), link("/ProgramData"));
        for outside in
            ["\\??\\D:\\data", "\\??\\Volume{4c1b02c1}\\", "\\??\\UNC\\server\\share", "\\Device\\x"]
        {
            assert_eq!(reparse(&point(MOUNT_POINT, None, outside)), Reparse::Elsewhere, "{outside}");
        }
        assert_eq!(reparse(&point(SYMBOLIC, Some(1), "a\0b")), Reparse::Elsewhere);
        let mut cut = point(MOUNT_POINT, None, "\\??\\C:\\Users");
        cut[10] = 0xff;
        assert_eq!(reparse(&cut), Reparse::Elsewhere);
        assert_eq!(reparse(&[1, 2]), Reparse::Elsewhere);
        assert!(matches!(reparse(&point(0x8000_0017, None, "x")), Reparse::Stored(_)));
        assert_eq!(reparse(&point(0x8000_001b, None, "x")), Reparse::Plain);
    }
}
