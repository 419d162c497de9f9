//! The table of formats: every format is one row, and whoever needs a format goes through here.

use std::sync::Arc;

use kiln_disk::{ByteSink, ByteSource, CheckSpec, DiskWrite, Result};

use crate::image::{Image, OpenContext};
use crate::options::{OptionSpec, Options};
use crate::{ova, qcow2, raw, tar, vdi, vhd, vhdx, vmdk};

/// What a probe sees: pure bytes, no file.
#[derive(Debug, Clone, Copy)]
pub struct ProbeInput<'a> {
    /// The first bytes of the file, up to [`ProbeInput::HEAD_LEN`].
    pub head: &'a [u8],
    /// The last bytes of the file, up to [`ProbeInput::TAIL_LEN`]; overlaps `head` in a short file.
    pub tail: &'a [u8],
    /// Length of the file.
    pub file_len: u64,
}

impl ProbeInput<'_> {
    /// Enough for every signature, the ISO 9660 descriptor at 32 KiB included.
    pub const HEAD_LEN: usize = 68 * 1024;
    /// Enough for a VHD footer of 512 or 511 bytes.
    pub const TAIL_LEN: usize = 1024;
}

/// Why a probe thinks that the bytes are of its format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// In words: "magic QFI\xfb, version 3".
    pub what: String,
    /// The container's own header is at byte 0 (the guest's first bytes are not).
    pub at_start: bool,
}

/// Starts a container of `disk_len` bytes in an empty sink.
pub type CreateFn =
    fn(sink: Arc<dyn ByteSink>, disk_len: u64, options: &Options) -> Result<Box<dyn DiskWrite>>;

/// Opens a container.
pub type OpenFn = fn(source: Arc<dyn ByteSource>, context: &OpenContext) -> Result<Box<dyn Image>>;

/// How a format is written.
#[derive(Clone, Copy)]
pub struct Create {
    /// Its options.
    pub options: &'static [OptionSpec],
    /// Starts a container of `disk_len` bytes in an empty sink.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Refused`] for a length or an option value that the format cannot hold, before any byte
    /// is written.
    pub run: CreateFn,
    /// Whether the writer, with these options, only ever writes ascending positions, so that a pipe will do.
    pub streams: fn(options: &Options) -> bool,
}

/// One format.
pub struct Format {
    /// Stable id: `qcow2`.
    pub id: &'static str,
    /// Other names that users type: `vpc`.
    pub aliases: &'static [&'static str],
    /// File name endings, without the dot.
    pub extensions: &'static [&'static str],
    /// Where it is specified.
    pub spec: &'static str,
    /// Looks for the format's signature. Pure; never reads more than it is given.
    pub probe: fn(&ProbeInput<'_>) -> Option<Evidence>,
    /// Opens a container.
    ///
    /// # Errors
    /// Everything that [`kiln_disk::Error`] can say.
    pub open: OpenFn,
    /// Writes a container, where Kiln can.
    pub create: Option<Create>,
    /// Everything that the format's check can find.
    pub checks: &'static [CheckSpec],
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Format").field(&self.id).finish()
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Format {}

/// All formats. Raw is last: it has no signature and never matches by itself.
pub static FORMATS: &[&Format] = &[
    &qcow2::FORMAT,
    &vhd::FORMAT,
    &vhdx::FORMAT,
    &vdi::FORMAT,
    &vmdk::FORMAT,
    &ova::FORMAT,
    &ova::OVF,
    &tar::FORMAT,
    &raw::FORMAT,
];

/// The row with this id or alias.
#[must_use]
pub fn by_name(name: &str) -> Option<&'static Format> {
    FORMATS.iter().copied().find(|format| format.id == name || format.aliases.contains(&name))
}
