//! Wrappers: compressed files with something else inside. Found by content, never by name.
//!
//! A wrapper is a row of [`WRAPPERS`]. [`Wrapped::open`] looks through up to [`MAX_DEPTH`] of them at the beginning
//! of what is inside, and from there the content goes one of two ways: by [`Wrapped::spool`] into an unnamed file
//! that can be read at any place, or by [`Wrapped::into_disk`] straight into the copy engine, where the content is
//! the bytes of a disk and its length is known.
//!
//! Everything is decoded once, by a thread of its own, and every checksum that a wrapper has is compared.

mod bz2;
mod chain;
mod disk;
mod feed;
mod gzip;
mod input;
mod kept;
mod length;
mod lz4;
mod passing;
mod peek;
mod problem;
mod spool;
mod xz;
mod zst;

use kiln_disk::{ByteSource, Result};

pub use chain::{Arriving, Wrapped};
pub use disk::{Ending, StreamDisk};
pub use input::ByteStream;
pub(crate) use input::Input;
pub(crate) use kept::Kept;
pub use passing::Passing;
pub(crate) use passing::{Coming, WATCHED_HEAD, other_kind};
pub use peek::{Peeked, peek};
pub use problem::WrapProblem;
pub use spool::{Place, Unwrapped, unwrap};

/// How many wrappers may be around each other.
pub const MAX_DEPTH: usize = 3;

/// The most memory that one decoder may take for its dictionary or window, in bytes: `xz -9` takes 65 MiB.
pub const MEMORY: u64 = 80 << 20;

/// Opens a decoder; the number is of threads that it may use.
type OpenFn = fn(Box<dyn ByteStream>, usize) -> Result<Box<dyn ByteStream>>;

/// Finds out how long the content is; `None` where the file does not say.
type LenFn = fn(&dyn ByteSource, &[u8]) -> Result<Option<u64>>;

/// One kind of wrapper.
pub struct Wrapper {
    /// Stable id: `gzip`.
    pub id: &'static str,
    /// Where it is specified.
    pub spec: &'static str,
    /// Whether it begins with these bytes.
    pub(crate) matches: fn(&[u8]) -> bool,
    open: OpenFn,
    /// The length of the content as the file tells it; the bytes are the beginning of the content.
    content_len: LenFn,
}

impl std::fmt::Debug for Wrapper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Wrapper").field(&self.id).finish()
    }
}

/// All wrappers.
pub static WRAPPERS: &[Wrapper] = &[
    Wrapper {
        id: "gzip",
        spec: "RFC 1952",
        matches: |head| head.starts_with(&gzip::MAGIC),
        open: |stream, _| Ok(gzip::open(stream)),
        content_len: length::gzip,
    },
    Wrapper {
        id: "xz",
        spec: "The .xz File Format 1.2.1",
        matches: |head| head.starts_with(&xz::MAGIC),
        open: |stream, threads| Ok(xz::open(stream, threads)),
        content_len: |source, _| length::xz(source),
    },
    Wrapper {
        id: "zstd",
        spec: "RFC 8878",
        matches: zst::matches,
        open: |stream, _| zst::open(stream),
        content_len: |source, _| length::zstd(source),
    },
    Wrapper {
        id: "bzip2",
        spec: "bzip2 1.0.8",
        matches: bz2::matches,
        open: |stream, _| Ok(bz2::open(stream)),
        content_len: |_, _| Ok(None),
    },
    Wrapper {
        id: "lz4",
        spec: "LZ4 Frame Format 1.6.4",
        matches: |head| head.starts_with(&lz4::MAGIC),
        open: |stream, _| Ok(lz4::open(stream)),
        content_len: |source, _| length::lz4(source),
    },
];

/// The row with this id.
pub(crate) fn by_id(id: &str) -> Option<&'static Wrapper> {
    WRAPPERS.iter().find(|wrapper| wrapper.id == id)
}

/// Whether the bytes begin with the wrapper of this id.
pub(crate) fn begins_with(id: &str, head: &[u8]) -> bool {
    by_id(id).is_some_and(|wrapper| (wrapper.matches)(head))
}
