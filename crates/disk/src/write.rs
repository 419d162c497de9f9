//! Writing a container: where bytes go, and the three steps that let several threads write one deterministic file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::ContentDigest;
use crate::error::{Error, Result};
use crate::offset::{FileOffset, GuestOffset};
use crate::os;

/// Whether a sink takes bytes anywhere or only one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOrder {
    /// Any position, from any thread.
    Any,
    /// Only at or behind everything written so far; a gap becomes zeros.
    Ascending,
}

/// Where the bytes of a new container go. Starts empty; bytes never written read as zeros.
pub trait ByteSink: Send + Sync {
    /// Writes all of `bytes` at byte `at`.
    ///
    /// # Errors
    /// [`Error::Io`]; the output is then worthless.
    fn write_bytes(&self, at: FileOffset, bytes: &[u8]) -> Result<()>;

    /// Sets the final length, at or past everything written.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn set_byte_len(&self, len: u64) -> Result<()>;

    /// What order the sink can take.
    fn order(&self) -> WriteOrder;
}

/// The longest write. Measured from 16 KiB to 4 MiB on ext4 in a virtual machine: after a pause of four seconds, 1 GiB
/// took 1.2 s in writes of 1 MiB and 0.4 s in these; without a pause they were no slower. The time went into the
/// copy to the page cache. It is likely, and not proved, that longer writes get larger folios, from memory that the
/// host has taken back meanwhile.
const WRITE_LEN: usize = 256 << 10;

/// An open file as a sink; writes go to their place directly.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    label: String,
    write_out: Option<WriteOut>,
}

/// How much was written, and how much of that the device was told about.
#[derive(Debug, Default)]
struct WriteOut {
    written: AtomicU64,
}

impl WriteOut {
    /// Large enough for long runs on the device, small enough to keep it busy from the beginning.
    const STEP: u64 = 32 << 20;

    /// Counts a write that ended at `end`; whoever fills a step sends everything before it on its way.
    fn count(&self, file: &File, len: u64, end: u64) {
        let before = self.written.fetch_add(len, Ordering::Relaxed);
        let steps = |bytes: u64| bytes.checked_div(Self::STEP);
        if steps(before) != steps(before.saturating_add(len)) {
            // Writers go front to back, but for the threads: what is still in flight goes with the next step.
            let from = end.saturating_sub(Self::STEP.saturating_mul(2));
            os::start_write_out(file, from, end.saturating_sub(from));
        }
    }
}

impl FileSink {
    /// Takes over a new, empty, writable file; `label` is its name in messages.
    pub fn new(file: File, label: impl Into<String>) -> Self {
        Self { file, label: label.into(), write_out: None }
    }

    /// Lets the device work from the first megabytes on. For a file that will be synced: with 1 GiB of data the
    /// conversion to qcow2 took 0.72 s in place of 0.90 s, and to raw 0.63 s in place of 0.76 s (medians of 7).
    #[must_use]
    pub fn with_early_write_out(self) -> Self {
        Self { write_out: Some(WriteOut::default()), ..self }
    }
}

impl ByteSink for FileSink {
    fn write_bytes(&self, at: FileOffset, bytes: &[u8]) -> Result<()> {
        let mut here = at;
        for piece in bytes.chunks(WRITE_LEN) {
            self.file.write_all_at(piece, here.get()).map_err(|source| Error::Io {
                operation: "write",
                target: self.label.clone(),
                at: Some(here),
                source,
            })?;
            here = here.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
        if let Some(write_out) = &self.write_out {
            let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            write_out.count(&self.file, len, at.get().saturating_add(len));
        }
        Ok(())
    }

    fn set_byte_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len).map_err(|source| Error::io("set the length of", &self.label, source))
    }

    fn order(&self) -> WriteOrder {
        WriteOrder::Any
    }
}

/// How one granule is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// The guest bytes themselves.
    Verbatim,
    /// Other bytes that decode to them.
    Encoded,
}

/// The pure, parallel step of a writer: guest bytes in, stored bytes out. Same input, same output, on any thread.
pub trait Encode: Send + Sync {
    /// Encodes the granule that starts at `at` (short only at the end of the disk) by *appending* to `out`, or
    /// answers [`Encoding::Verbatim`] and leaves `out` as it was. Formats whose stored form names its place on the
    /// disk need `at`; the others leave it alone.
    ///
    /// # Errors
    /// Whatever the codec says; none is expected.
    fn encode(&self, at: GuestOffset, granule: &[u8], out: &mut Vec<u8>) -> Result<Encoding>;
}

/// An [`Encode`] that stores everything as it is.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreVerbatim;

impl Encode for StoreVerbatim {
    fn encode(&self, _at: GuestOffset, _granule: &[u8], _out: &mut Vec<u8>) -> Result<Encoding> {
        Ok(Encoding::Verbatim)
    }
}

/// A granule that is about to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Stored length in bytes.
    pub len: u32,
    /// Its form.
    pub encoding: Encoding,
}

/// A container being written, once, front to back.
///
/// A granule goes through three steps: [`Encode::encode`] (pure, on any thread), [`DiskWrite::place`] (in guest
/// order, one at a time: decides the position and writes what tables became full) and the storing of its bytes at
/// that position (by the engine, on any thread). Positions depend only on the order of the guest's bytes, so the
/// file is the same for any number of threads.
pub trait DiskWrite: Send {
    /// Unit of allocation in bytes, a power of two of 512 or more. Pieces start at its multiples.
    fn granule(&self) -> u64;

    /// The parallel step.
    fn encoder(&self) -> Arc<dyn Encode>;

    /// Where the pieces are stored, when not in the sink that the container was started in: a writer that has to see
    /// its own bytes in order, to hash them, puts a sink of its own between.
    fn sink(&self) -> Option<Arc<dyn ByteSink>> {
        None
    }

    /// Decides where the granule at `at` is stored. `at` grows from call to call (`write_zeroes` included);
    /// what is skipped is zero.
    ///
    /// # Errors
    /// Limits of the format, and [`Error::Io`] from writing its tables.
    fn place(&mut self, at: GuestOffset, piece: Piece) -> Result<FileOffset>;

    /// Says that `len` bytes from `at` are zeros. Writers for which absent already means zero do nothing.
    ///
    /// # Errors
    /// As [`DiskWrite::place`].
    fn write_zeroes(&mut self, at: GuestOffset, len: u64) -> Result<()>;

    /// Makes a layer of it, upon the disk with this digest; called once, before anything is placed. The digest becomes
    /// part of the file: the same change to two disks is two layers, as each has block hashes of its own.
    ///
    /// # Errors
    /// `format.no-layers`.
    fn bind(&mut self, below: &ContentDigest) -> Result<()> {
        let _ = below;
        Err(no_layers())
    }

    /// Says that `len` bytes from `at`, whole granules or the rest of the disk, are zeros that hide what the disk below
    /// has there: for a container that is written as a layer upon another. Called in guest order with `place`.
    ///
    /// # Errors
    /// `format.no-layers` where absent and zero are the same; otherwise as [`DiskWrite::place`].
    fn hide(&mut self, at: GuestOffset, len: u64) -> Result<()> {
        let _ = (at, len);
        Err(no_layers())
    }

    /// Writes the remaining tables and the final length.
    ///
    /// # Errors
    /// As [`DiskWrite::place`].
    fn finish(self: Box<Self>) -> Result<Written>;
}

fn no_layers() -> Error {
    Error::Unsupported {
        code: "format.no-layers",
        feature: "layers upon other disks in this format".to_owned(),
        hint: "write the layer as qcow2 of version 3",
    }
}

/// What a finished container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Length of the container file in bytes.
    pub byte_len: u64,
}
