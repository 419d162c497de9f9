//! What can be wrong with a compressed file.

use kiln_disk::{Error, FileOffset, Problem};

/// A fault of a compressed file. Places are bytes of the stream that is being unpacked: of the file itself for the
/// outermost wrapper, of what the one before gave for those inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WrapProblem {
    /// It ends too early.
    #[error("the {wrapper} data ends before its end is marked")]
    Truncated {
        /// Id of the wrapper.
        wrapper: &'static str,
    },
    /// A header makes no sense.
    #[error("the {wrapper} header {what}")]
    Header {
        /// Id of the wrapper.
        wrapper: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Compressed data that cannot be decoded.
    #[error("the {wrapper} data {what}")]
    Data {
        /// Id of the wrapper.
        wrapper: &'static str,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Decoded data is not what was encoded.
    #[error("the {what} of the {wrapper} data is {computed:#x}, {stored:#x} is stored")]
    Checksum {
        /// Id of the wrapper.
        wrapper: &'static str,
        /// Which checksum.
        what: &'static str,
        /// As stored.
        stored: u32,
        /// Of what was decoded.
        computed: u32,
    },
    /// Decoded data has another length than is stored with it.
    #[error("the {wrapper} data has {found} bytes, {stored} are stored as its length")]
    Length {
        /// Id of the wrapper.
        wrapper: &'static str,
        /// As stored, as far as it is stored.
        stored: u64,
        /// What was decoded.
        found: u64,
    },
    /// Something that is neither a further member nor padding follows.
    #[error("something else follows the {wrapper} data")]
    Trailing {
        /// Id of the wrapper.
        wrapper: &'static str,
    },
}

impl Problem for WrapProblem {
    fn code(&self) -> &'static str {
        match self {
            Self::Truncated { .. } => "wrap.truncated",
            Self::Header { .. } => "wrap.header",
            Self::Data { .. } => "wrap.data",
            Self::Checksum { .. } => "wrap.checksum",
            Self::Length { .. } => "wrap.length",
            Self::Trailing { .. } => "wrap.trailing",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Truncated { .. } => "the download or copy broke off: fetch the file again",
            Self::Trailing { .. } => {
                "two programs may see two different files in it: fetch it again, or cut the end off"
            }
            _ => "fetch the file again and compare its checksum with the vendor's",
        })
    }
}

/// The structure of a wrapper, for messages.
pub(super) const fn structure(wrapper: &'static str) -> &'static str {
    match wrapper.as_bytes() {
        b"gzip" => "gzip member",
        b"xz" => "xz stream",
        b"zstd" => "zstd frame",
        b"bzip2" => "bzip2 stream",
        b"lz4" => "lz4 frame",
        _ => "wrapper",
    }
}

pub(super) fn truncated(wrapper: &'static str, at: FileOffset) -> Error {
    Error::malformed(structure(wrapper), at, WrapProblem::Truncated { wrapper })
}

pub(super) fn bad_header(wrapper: &'static str, at: FileOffset, what: &'static str) -> Error {
    Error::malformed(structure(wrapper), at, WrapProblem::Header { wrapper, what })
}

pub(super) fn bad_data(wrapper: &'static str, at: FileOffset, what: &'static str) -> Error {
    Error::malformed(structure(wrapper), at, WrapProblem::Data { wrapper, what })
}

pub(super) fn bad_checksum(
    wrapper: &'static str,
    at: FileOffset,
    what: &'static str,
    stored: u32,
    computed: u32,
) -> Error {
    let problem = WrapProblem::Checksum { wrapper, what, stored, computed };
    Error::malformed(structure(wrapper), at, problem)
}

pub(super) fn bad_length(wrapper: &'static str, at: FileOffset, stored: u64, found: u64) -> Error {
    Error::malformed(structure(wrapper), at, WrapProblem::Length { wrapper, stored, found })
}

/// A decoder that needs more memory than a wrapper may have.
pub(super) fn too_much_memory(wrapper: &'static str, asked: u64, hint: &'static str) -> Error {
    Error::Refused {
        code: "wrap.memory",
        what: format!("bytes of memory to unpack the {wrapper} data"),
        asked,
        allowed: super::MEMORY,
        hint,
    }
}
