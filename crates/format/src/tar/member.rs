//! One member of an archive, and its bytes as a source: a part of the archive's file, never a copy.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{ByteSource, Error, FileOffset, Result, Run};

use super::sparse::{SparseMap, SparseSource};

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberKind {
    /// A file with its content in the archive.
    File,
    /// A directory.
    Directory,
    /// Another name of an earlier member. Named, never followed.
    HardLink,
    /// A symbolic link. Named, never followed.
    SymbolicLink,
    /// A character or block device, or a FIFO.
    Device,
    /// The name of the whole archive.
    Label,
    /// A type that the specification leaves to vendors; its content is passed over.
    Other(u8),
}

impl MemberKind {
    /// In words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::HardLink => "hard link",
            Self::SymbolicLink => "symbolic link",
            Self::Device => "device",
            Self::Label => "volume label",
            Self::Other(_) => "member of unknown type",
        }
    }
}

/// One member of an archive.
#[derive(Clone)]
pub struct Member {
    /// What it is.
    pub kind: MemberKind,
    /// Its name as stored: any bytes. Never a path to open.
    pub raw_name: Vec<u8>,
    /// What a link leads to, as stored; empty for others. Never followed.
    pub raw_link: Vec<u8>,
    /// Where its header is in the archive.
    pub header_at: FileOffset,
    /// Where its content begins in the archive.
    pub data_at: FileOffset,
    /// Bytes of content in the archive.
    pub stored_len: u64,
    pub(super) sparse: Option<Arc<SparseMap>>,
    pub(super) archive: Arc<dyn ByteSource>,
    pub(super) label: Arc<str>,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("kind", &self.kind)
            .field("name", &self.name())
            .field("data_at", &self.data_at)
            .field("len", &self.byte_len())
            .finish()
    }
}

impl Member {
    /// The name for messages, invalid UTF-8 replaced. Whoever prints it escapes control characters.
    #[must_use]
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.raw_name).into_owned()
    }

    /// The name without a leading `./`, when it is one that stays where the archive is: relative, of plain
    /// components, in UTF-8. Whoever looks for a member by name compares this.
    #[must_use]
    pub fn plain_name(&self) -> Option<&str> {
        let mut name = std::str::from_utf8(&self.raw_name).ok()?;
        while let Some(rest) = name.strip_prefix("./") {
            name = rest;
        }
        is_plain_path(name).then_some(name)
    }

    /// Whether it is a file whose content can be read.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.kind == MemberKind::File
    }

    /// Whether only its data is stored, not its holes.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.sparse.is_some()
    }

    /// Length of its content in bytes, holes included.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.sparse.as_ref().map_or(self.stored_len, |map| map.len())
    }

    /// Tells where in the archive the bytes from `start` to `end` of its content are stored: runs, first byte to the
    /// byte behind.
    pub(super) fn each_stored(&self, start: u64, end: u64, mut found: impl FnMut(u64, u64)) {
        let base = self.data_at.get();
        match &self.sparse {
            Some(map) => map.each_stored(start, end, |from, to| {
                found(base.saturating_add(from), base.saturating_add(to));
            }),
            None => found(base.saturating_add(start), base.saturating_add(end)),
        }
    }

    /// Its content; holes of a sparse member are holes of the source. Empty for what is no file.
    #[must_use]
    pub fn source(&self) -> Arc<dyn ByteSource> {
        let stored = Slice {
            source: Arc::clone(&self.archive),
            start: self.data_at,
            len: if self.is_file() { self.stored_len } else { 0 },
            label: Arc::clone(&self.label),
        };
        match &self.sparse {
            Some(map) => Arc::new(SparseSource { stored, map: Arc::clone(map) }),
            None => Arc::new(stored),
        }
    }
}

/// Whether a name from a stranger is relative and made of plain components only: no root, no drive letter, no
/// `.` or `..`, no backslash, no control characters.
pub(crate) fn is_plain_path(name: &str) -> bool {
    let drive = name.as_bytes().get(1) == Some(&b':');
    !drive
        && !name.contains(|c: char| c.is_control() || c == '\\')
        && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// A part of a source as a source of its own.
#[derive(Clone)]
pub(crate) struct Slice {
    pub(crate) source: Arc<dyn ByteSource>,
    pub(crate) start: FileOffset,
    pub(crate) len: u64,
    pub(crate) label: Arc<str>,
}

impl Slice {
    /// Where `at` is in the source below, `None` past the end.
    fn below(&self, at: FileOffset, len: usize) -> Option<FileOffset> {
        let end = at.checked_add(u64::try_from(len).ok()?)?;
        (end.get() <= self.len).then(|| self.start.checked_add(at.get())).flatten()
    }
}

impl ByteSource for Slice {
    fn byte_len(&self) -> u64 {
        self.len
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        let below = self.below(at, buf.len()).ok_or_else(|| Error::Io {
            operation: "read",
            target: self.label.to_string(),
            at: Some(at),
            source: std::io::ErrorKind::UnexpectedEof.into(),
        })?;
        self.source.read_bytes(below, buf)
    }

    fn run_at(&self, at: FileOffset) -> Result<Option<Run>> {
        let Some(rest) = self.len.checked_sub(at.get()).and_then(NonZeroU64::new) else {
            return Ok(None);
        };
        let run = self.source.run_at(self.start.saturating_add(at.get()))?;
        Ok(run.map(|run| Run { kind: run.kind, len: run.len.min(rest) }))
    }

    fn label(&self) -> &str {
        &self.label
    }
}

#[cfg(test)]
mod tests {
    use super::is_plain_path;

    #[test]
    fn only_relative_plain_names_are_plain() {
        for good in ["a", "a/b", "disk 1.vmdk", "a..b", "ü", ".hidden", "a%2fb"] {
            assert!(is_plain_path(good), "{good:?}");
        }
        for bad in
            ["", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", ".", "a/./b", "C:", "c:\\a", "a\\b", "a\nb"]
        {
            assert!(!is_plain_path(bad), "{bad:?}");
        }
    }
}
