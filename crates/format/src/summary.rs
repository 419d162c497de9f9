//! A disk in a few hundred numbers, however many extents it has.

use std::num::NonZeroU64;

use kiln_disk::{Disk, ExtentKind, Observer, Result, extents, go_on};
use serde::Serialize;

/// Bytes of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Tally {
    /// Stored as they are.
    pub data_bytes: u64,
    /// Stored in another form.
    pub encoded_bytes: u64,
    /// Stored as "these are zeros".
    pub zero_bytes: u64,
    /// Not stored.
    pub hole_bytes: u64,
}

impl Tally {
    fn add(&mut self, kind: ExtentKind, bytes: u64) {
        let sum = match kind {
            ExtentKind::Data { .. } => &mut self.data_bytes,
            ExtentKind::Encoded => &mut self.encoded_bytes,
            ExtentKind::Zero => &mut self.zero_bytes,
            ExtentKind::Hole => &mut self.hole_bytes,
        };
        *sum = sum.saturating_add(bytes);
    }

    /// All bytes.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.data_bytes
            .saturating_add(self.encoded_bytes)
            .saturating_add(self.zero_bytes)
            .saturating_add(self.hole_bytes)
    }

    /// Bytes with data in any form.
    #[must_use]
    pub const fn stored(&self) -> u64 {
        self.data_bytes.saturating_add(self.encoded_bytes)
    }
}

/// The disk as a row of equal buckets, and in all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Length of the disk in bytes.
    pub disk_len: u64,
    /// Of the whole disk.
    pub all: Tally,
    /// Extents met.
    pub extents: u64,
    /// Each of [`Summary::bucket_len`] bytes but for the last.
    pub buckets: Vec<Tally>,
    /// Bytes that a bucket stands for.
    pub bucket_len: u64,
}

impl Summary {
    /// Walks the extents once into at most `buckets` buckets.
    ///
    /// # Errors
    /// Whatever mapping the disk says; [`kiln_disk::Error::Cancelled`].
    pub fn of(disk: &dyn Disk, buckets: NonZeroU64, observer: &dyn Observer) -> Result<Self> {
        let disk_len = disk.disk_len();
        let bucket_len = disk_len.div_ceil(buckets.get()).max(1);
        let count = usize::try_from(disk_len.div_ceil(bucket_len)).unwrap_or(0);
        let mut summary = Self {
            disk_len,
            all: Tally::default(),
            extents: 0,
            buckets: vec![Tally::default(); count],
            bucket_len,
        };
        for extent in extents(disk, NonZeroU64::MAX) {
            go_on(observer)?;
            let extent = extent?;
            summary.extents = summary.extents.saturating_add(1);
            summary.all.add(extent.kind, extent.len.get());
            let (mut at, end) = (extent.start.get(), extent.end().get());
            while at < end {
                let number = at.checked_div(bucket_len).unwrap_or(0);
                let bucket_end = number.saturating_add(1).saturating_mul(bucket_len).min(end);
                if let Some(bucket) =
                    usize::try_from(number).ok().and_then(|number| summary.buckets.get_mut(number))
                {
                    bucket.add(extent.kind, bucket_end.saturating_sub(at));
                }
                at = bucket_end.max(at.saturating_add(1));
            }
        }
        Ok(summary)
    }
}
