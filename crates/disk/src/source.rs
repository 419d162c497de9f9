//! Where the bytes of a container file come from.

use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::offset::FileOffset;
use crate::os;

/// Whether a run of a source holds bytes or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunKind {
    /// Bytes that must be read to be known.
    Data,
    /// A hole of the file system: reads as zeros, known without reading.
    Hole,
}

/// A run of same-kind bytes of a [`ByteSource`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// What the run is.
    pub kind: RunKind,
    /// Its length in bytes, from the position asked about.
    pub len: NonZeroU64,
}

/// A container file, or anything that can stand for one. Positional, shared, of one fixed length.
pub trait ByteSource: Send + Sync {
    /// Length in bytes; never changes while the source lives.
    fn byte_len(&self) -> u64;

    /// Fills all of `buf` from byte `at`.
    ///
    /// # Errors
    /// [`Error::Io`], with `UnexpectedEof` when the source ends first; `buf` is then unspecified.
    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()>;

    /// The run that starts at `at`: non-empty, inside the source; `None` at and past the end.
    ///
    /// The default knows of no holes. A hole is only reported where reading it is certain to give zeros.
    ///
    /// # Errors
    /// [`Error::Io`].
    fn run_at(&self, at: FileOffset) -> Result<Option<Run>> {
        Ok(self
            .byte_len()
            .checked_sub(at.get())
            .and_then(NonZeroU64::new)
            .map(|len| Run { kind: RunKind::Data, len }))
    }

    /// The name to use in messages.
    fn label(&self) -> &str;
}

/// A file opened once and kept: detection, checks and copies all go through the same descriptor.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    label: String,
    byte_len: u64,
    identity: Identity,
    holes: bool,
}

/// What must not change while a file is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileSource {
    /// Opens a regular file or a block device for reading, without blocking on a FIFO.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Refused`] (`source.kind`) for a directory, FIFO, socket or character device.
    pub fn open(path: &Path) -> Result<Self> {
        let label = path.display().to_string();
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(os::open_flags_nonblock())
            .open(path)
            .map_err(|source| Error::io("open", &label, source))?;
        Self::from_file(file, label)
    }

    /// Takes over an open file; `label` is its name in messages.
    ///
    /// # Errors
    /// As [`FileSource::open`].
    pub fn from_file(file: File, label: impl Into<String>) -> Result<Self> {
        let label = label.into();
        let metadata = file.metadata().map_err(|source| Error::io("stat", &label, source))?;
        let byte_len = if metadata.is_file() {
            metadata.size()
        } else if os::is_block_device(&metadata) {
            os::device_len(&file).map_err(|source| Error::io("measure", &label, source))?
        } else {
            return Err(Error::Refused {
                code: "source.kind",
                what: format!("{label} is neither a regular file nor a block device"),
                asked: 0,
                allowed: 0,
                hint: "name an image file, or use - to read a pipe",
            });
        };
        let holes = metadata.is_file() && os::holes_are_trustworthy(&file);
        Ok(Self { identity: Identity::of(&metadata), file, label, byte_len, holes })
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Confirms that nobody wrote to the file since it was opened.
    ///
    /// # Errors
    /// [`Error::Refused`] (`source.changed`) when size, times or inode differ; [`Error::Io`].
    pub fn confirm_unchanged(&self) -> Result<()> {
        let metadata = self.file.metadata().map_err(|source| Error::io("stat", &self.label, source))?;
        if Identity::of(&metadata) == self.identity {
            return Ok(());
        }
        Err(Error::Refused {
            code: "source.changed",
            what: format!("{} was written to while it was being read", self.label),
            asked: 0,
            allowed: 0,
            hint: "stop whatever writes to the file (a running machine, a download) and try again",
        })
    }

    /// Bytes that the file occupies on its file system, as it counts them; all of a block device.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn allocated_len(&self) -> Result<u64> {
        let metadata = self.file.metadata().map_err(|source| Error::io("stat", &self.label, source))?;
        // st_blocks is in units of 512 bytes whatever the file system's blocks are.
        Ok(if metadata.is_file() { metadata.blocks().saturating_mul(512) } else { self.byte_len })
    }
}

impl Identity {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl ByteSource for FileSource {
    fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, at.get()).map_err(|source| Error::Io {
            operation: "read",
            target: self.label.clone(),
            at: Some(at),
            source,
        })
    }

    fn run_at(&self, at: FileOffset) -> Result<Option<Run>> {
        let Some(rest) = self.byte_len.checked_sub(at.get()).and_then(NonZeroU64::new) else {
            return Ok(None);
        };
        if !self.holes {
            return Ok(Some(Run { kind: RunKind::Data, len: rest }));
        }
        os::run_at(&self.file, at.get(), rest).map(Some).map_err(|source| Error::Io {
            operation: "map",
            target: self.label.clone(),
            at: Some(at),
            source,
        })
    }

    fn label(&self) -> &str {
        &self.label
    }
}

/// Bytes in memory as a source: for headers taken apart in tests, and for fuzzing.
#[derive(Debug, Clone, Default)]
pub struct MemorySource {
    bytes: Vec<u8>,
}

impl MemorySource {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }
}

impl ByteSource for MemorySource {
    fn byte_len(&self) -> u64 {
        u64::try_from(self.bytes.len()).unwrap_or(u64::MAX)
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        let wanted = usize::try_from(at.get())
            .ok()
            .and_then(|start| Some(start..start.checked_add(buf.len())?))
            .and_then(|range| self.bytes.get(range));
        match wanted {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(Error::Io {
                operation: "read",
                target: self.label().to_owned(),
                at: Some(at),
                source: std::io::ErrorKind::UnexpectedEof.into(),
            }),
        }
    }

    fn label(&self) -> &str {
        "memory"
    }
}
