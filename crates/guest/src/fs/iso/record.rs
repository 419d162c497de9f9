//! Directory records (ECMA-119, 9.1) and what they stand for.

use kiln_disk::wire::{le16, le32};

use super::super::Kind;
use super::rock::Rock;
use super::volume;

/// A run of bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) at: u64,
    pub(super) len: u64,
}

/// A file or directory.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) kind: Kind,
    pub(super) first: Run,
    /// The others of a file in several (ECMA-119, 6.5.1).
    pub(super) more: Vec<Run>,
    pub(super) len: u64,
    pub(super) mode: Option<u32>,
    pub(super) uid: Option<u32>,
    pub(super) link: Vec<u8>,
    /// The block of its directory, where it was moved away.
    pub(super) child: Option<u32>,
    /// Why its bytes cannot be given.
    pub(super) closed: Option<&'static str>,
}

/// A directory record (ECMA-119, 9.1).
pub(super) struct Record<'a> {
    pub(super) len: usize,
    /// Blocks of an extended attribute record in front of the data.
    pub(super) attributes: u8,
    pub(super) block: u32,
    pub(super) data_len: u32,
    pub(super) flags: u8,
    pub(super) interleaved: bool,
    pub(super) name: &'a [u8],
    pub(super) system_use: &'a [u8],
}

impl<'a> Record<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        let len = usize::from(*bytes.first()?);
        let record = bytes.get(..len)?;
        let name_len = usize::from(*record.get(32)?);
        let name = record.get(33..)?.get(..name_len).filter(|name| !name.is_empty())?;
        // A pad byte makes the identifier's end even (9.1.12).
        let behind = 33_usize.checked_add(name_len)?.next_multiple_of(2);
        Some(Self {
            len,
            attributes: *record.get(1)?,
            block: le32(record, 2)?,
            data_len: le32(record, 10)?,
            flags: *record.get(25)?,
            interleaved: le16(record, 26)? != 0,
            name,
            system_use: record.get(behind..).unwrap_or_default(),
        })
    }

    pub(super) fn is_directory(&self) -> bool {
        self.flags & 0x2 != 0
    }

    pub(super) fn run(&self, block: u64) -> Run {
        let first = u64::from(self.block).saturating_add(self.attributes.into());
        Run { at: first.saturating_mul(block), len: self.data_len.into() }
    }

    pub(super) fn node(&self, block: u64, rock: Rock) -> Node {
        let first = self.run(block);
        // File types of POSIX in the mode (RRIP 4.1.1).
        let kind = match rock.mode.map(|mode| mode & 0o170_000) {
            _ if self.is_directory() || rock.child.is_some() => Kind::Directory,
            Some(0o120_000) => Kind::Link,
            Some(0o020_000 | 0o060_000 | 0o010_000 | 0o140_000) => Kind::Special,
            _ => Kind::File,
        };
        let len = match (kind, rock.packed) {
            (Kind::File, Some(len)) => len.into(),
            (Kind::File, None) => first.len,
            _ => 0,
        };
        let closed = match () {
            () if self.interleaved => Some("interleaved ISO 9660 files"),
            () if rock.packed.is_some() => Some("zisofs"),
            () if rock.sparse => Some("sparse Rock Ridge files"),
            () => None,
        };
        Node {
            kind,
            first,
            more: Vec::new(),
            len,
            mode: rock.mode.map(|mode| mode & 0o7777),
            uid: rock.uid,
            link: rock.link.unwrap_or_default(),
            child: rock.child,
            closed,
        }
    }
}

/// A name of ISO 9660 as Linux shows it (`fs/isofs/dir.c`, isofs_name_translate).
pub(super) fn plain(identifier: &[u8]) -> Vec<u8> {
    let name = identifier.strip_suffix(b";1").unwrap_or(identifier);
    let name = name.strip_suffix(b".").unwrap_or(name);
    let shown = |byte: &u8| if matches!(byte, b';' | b'/') { b'.' } else { byte.to_ascii_lowercase() };
    name.iter().map(shown).collect()
}

/// A name of Joliet, as UTF-8.
pub(super) fn joliet(identifier: &[u8]) -> Vec<u8> {
    let name = volume::ucs2(identifier).replace('/', ".");
    let name = name.strip_suffix(";1").unwrap_or(&name);
    name.strip_suffix('.').unwrap_or(name).as_bytes().to_vec()
}
