//! Every way in which a tar archive can be wrong.

use kiln_disk::Problem;

/// What is wrong with a tar archive. Offsets travel in [`kiln_disk::Error::Malformed`], values here.
///
/// Most of these are places where two programs would read two different archives from the same bytes. None is
/// guessed at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarProblem {
    /// The bytes at a place where a header should be have the wrong checksum.
    #[error("the header's checksum is {stored}, its bytes give {computed}")]
    Checksum {
        /// As stored; none when the field is no number.
        stored: Checksum,
        /// As computed.
        computed: u64,
    },
    /// A numeric field holds no number that all readers agree on.
    #[error("the field {field} holds no number that all programs agree on")]
    Number {
        /// Its name in the specification.
        field: &'static str,
    },
    /// The archive ends inside a header or a member.
    #[error("the archive ends {missing} bytes too early")]
    Truncated {
        /// How many bytes are missing.
        missing: u64,
    },
    /// The header and the pax record give two sizes.
    #[error("the header says {header} bytes, the pax record before it {pax}")]
    SizesDiffer {
        /// By the header.
        header: u64,
        /// By the pax record.
        pax: u64,
    },
    /// A directory, link or device with content.
    #[error("a member of type {kind:?} has {size} bytes of content")]
    SizeOfNoFile {
        /// Its type flag.
        kind: char,
        /// Its size field.
        size: u64,
    },
    /// An extension header that is followed by no member.
    #[error("an extension header (type {kind:?}) is not followed by the member it describes")]
    Dangling {
        /// Its type flag.
        kind: char,
    },
    /// Two extension headers give the same property of one member.
    #[error("two extension headers before one member give its {what}")]
    Twice {
        /// The property.
        what: &'static str,
    },
    /// A pax extended header that does not follow its grammar.
    #[error("record {record} of the pax header {what}")]
    Pax {
        /// Counted from 1.
        record: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A global pax header with a property that only one member can have.
    #[error("a global pax header sets {key}, which would apply to every member")]
    GlobalKey {
        /// The keyword.
        key: String,
    },
    /// A header that is not of the POSIX kind and has bytes where that has the prefix of the name.
    #[error("a header without POSIX magic has bytes in the place of the name's prefix")]
    Prefix,
    /// A name that is empty or has a NUL byte in a place where it is text of known length.
    #[error("the member's name {0}")]
    Name(&'static str),
    /// A sparse map that does not describe a file.
    #[error("the sparse map {what} (entry {entry})")]
    Sparse {
        /// Counted from 0.
        entry: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A sparse map whose data is not the member's data.
    #[error("the sparse map has {mapped} bytes of data, the member {stored}")]
    SparseSum {
        /// Sum of the map's lengths.
        mapped: u64,
        /// What the member stores.
        stored: u64,
    },
}

/// A checksum field as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checksum(pub Option<u64>);

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(number) => write!(f, "{number}"),
            None => f.write_str("no number"),
        }
    }
}

impl Problem for TarProblem {
    fn code(&self) -> &'static str {
        match self {
            Self::Checksum { .. } => "tar.header.checksum",
            Self::Number { .. } => "tar.header.number",
            Self::Truncated { .. } => "tar.truncated",
            Self::SizesDiffer { .. } => "tar.size.differs",
            Self::SizeOfNoFile { .. } => "tar.size.no-file",
            Self::Dangling { .. } => "tar.extension.dangling",
            Self::Twice { .. } => "tar.extension.twice",
            Self::Pax { .. } => "tar.pax.record",
            Self::GlobalKey { .. } => "tar.pax.global",
            Self::Prefix => "tar.header.prefix",
            Self::Name(_) => "tar.header.name",
            Self::Sparse { .. } | Self::SparseSum { .. } => "tar.sparse.map",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Truncated { .. } => {
                "the file was cut short; get it again and compare its length and checksum"
            }
            Self::Checksum { .. } => "the archive is damaged here; get it again and compare its checksum",
            _ => {
                "programs disagree about what such an archive holds, so none of it is used; pack the files \
                 again with: tar --format=ustar -cf NEW.tar FILES"
            }
        })
    }
}
