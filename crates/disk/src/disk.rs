//! A virtual disk as the guest sees it.

use std::num::NonZeroU64;
use std::sync::Arc;

use serde::Serialize;

use crate::error::Result;
use crate::offset::{FileOffset, GuestOffset};

/// A readable virtual disk of fixed length. Implementations *map* guest bytes to stored bytes; moving them is the
/// copy engine's job.
///
/// # Laws
/// Every implementation keeps these; `testkit::laws` checks them:
/// - a read fills the whole buffer or is an error;
/// - `extent_at(at, limit)` starts exactly at `at`, is 1 to `limit` bytes long and never crosses `disk_len`;
/// - walking extents tiles the disk without gap or overlap;
/// - [`ExtentKind::Zero`] and [`ExtentKind::Hole`] read as zeros;
/// - any number of threads may call any method at once.
pub trait Disk: Send + Sync {
    /// Length of the disk in bytes.
    fn disk_len(&self) -> u64;

    /// Fills all of `buf` from guest byte `at`.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] (`disk.past-end`) when the range leaves the disk; anything the container says
    /// otherwise.
    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()>;

    /// The run of same-kind bytes that starts at `at`.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] (`disk.past-end`) when `at` is not on the disk; anything the container says
    /// otherwise.
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent>;
}

impl<D: Disk + ?Sized> Disk for Arc<D> {
    fn disk_len(&self) -> u64 {
        (**self).disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        (**self).read_guest(at, buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        (**self).extent_at(at, limit)
    }
}

/// A run of guest bytes stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First byte.
    pub start: GuestOffset,
    /// Length in bytes.
    pub len: NonZeroU64,
    /// How the run is stored.
    pub kind: ExtentKind,
}

impl Extent {
    /// The first byte behind the extent.
    #[must_use]
    pub const fn end(&self) -> GuestOffset {
        self.start.saturating_add(self.len.get())
    }
}

/// How a run of guest bytes is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ExtentKind {
    /// Stored as they are, from byte `at` of file `file` of the image (0: the image's own file; 1 and up: its
    /// data file and the files behind it, nearest first).
    Data {
        /// Which file.
        file: u16,
        /// Where in it.
        at: FileOffset,
    },
    /// Stored in another form (compressed, or a raw file's bytes mixed below cluster size).
    Encoded,
    /// Stored as "these are zeros".
    Zero,
    /// Not stored anywhere: reads as zeros.
    Hole,
}

impl ExtentKind {
    /// Whether the run must be read to be known.
    #[must_use]
    pub const fn is_data(self) -> bool {
        matches!(self, Self::Data { .. } | Self::Encoded)
    }
}

/// Checks that `len` bytes from `at` lie on a disk of `disk_len` bytes; for [`Disk::read_guest`].
///
/// # Errors
/// [`crate::Error::Refused`] with code `disk.past-end`.
pub fn check_range(at: GuestOffset, len: usize, disk_len: u64) -> Result<()> {
    let end = u64::try_from(len).ok().and_then(|len| at.get().checked_add(len));
    match end {
        Some(end) if end <= disk_len => Ok(()),
        _ => Err(crate::Error::Refused {
            code: "disk.past-end",
            what: "last byte of the read".to_owned(),
            asked: end.unwrap_or(u64::MAX),
            allowed: disk_len,
            hint: "",
        }),
    }
}

/// Walks a disk's extents from the first byte to the last.
///
/// Neighbouring answers of one kind are not merged; each is at most `limit` bytes. Ends after the first error.
pub fn extents(disk: &dyn Disk, limit: NonZeroU64) -> impl Iterator<Item = Result<Extent>> + '_ {
    let mut at = GuestOffset::ZERO;
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed || at.get() >= disk.disk_len() {
            return None;
        }
        let extent = disk.extent_at(at, limit);
        match &extent {
            Ok(extent) => at = extent.end(),
            Err(_) => failed = true,
        }
        Some(extent)
    })
}
