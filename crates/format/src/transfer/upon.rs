//! A disk that is written as a layer upon another.

use std::num::NonZeroU64;

use kiln_disk::digest::{BLOCK_LEN, LeafFile};
use kiln_disk::{Disk, Extent, ExtentKind, GuestOffset, GuestRange, Result, extents};

/// A disk whose runs of zeros are looked up in the block hashes of the disk below: zeros over zeros are a hole, zeros
/// over data have to be written. So terabytes of zeros over nothing cost nothing.
pub(super) struct Above<'a> {
    disk: &'a dyn Disk,
    below: &'a LeafFile,
}

impl<'a> Above<'a> {
    pub(super) fn new(disk: &'a dyn Disk, below: &'a LeafFile) -> Self {
        Self { disk, below }
    }

    /// A disk that ends inside a block that the one below goes on with: that block is another, whoever wrote it.
    fn cut_at(&self) -> Option<u64> {
        let end = self.disk.disk_len();
        let cut = !end.is_multiple_of(BLOCK_LEN) && end < self.below.disk_len();
        cut.then(|| end.saturating_sub(end % BLOCK_LEN))
    }
}

impl Disk for Above<'_> {
    fn disk_len(&self) -> u64 {
        self.disk.disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_guest(at, buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        let mut limit = limit;
        if let Some(cut) = self.cut_at() {
            match NonZeroU64::new(cut.saturating_sub(at.get())) {
                Some(before) => limit = limit.min(before),
                None => return Ok(Extent { kind: ExtentKind::Encoded, ..self.disk.extent_at(at, limit)? }),
            }
        }
        let extent = self.disk.extent_at(at, limit)?;
        if extent.kind != ExtentKind::Zero {
            return Ok(extent);
        }
        let block = at.get() / BLOCK_LEN;
        let data = self.below.next_data(block).unwrap_or(u64::MAX);
        let (kind, end) = if data == block {
            (ExtentKind::Encoded, block.saturating_add(1).saturating_mul(BLOCK_LEN))
        } else {
            (ExtentKind::Hole, data.saturating_mul(BLOCK_LEN))
        };
        let to_there = NonZeroU64::new(end.saturating_sub(at.get())).unwrap_or(NonZeroU64::MIN);
        Ok(Extent { len: extent.len.min(to_there), kind, ..extent })
    }
}

/// Reads those blocks of a chunk that are not all hole, and answers which they are.
pub(super) fn touched(disk: &dyn Disk, start: GuestOffset, bytes: &mut [u8]) -> Result<Vec<bool>> {
    let block = usize::try_from(BLOCK_LEN).unwrap_or(usize::MAX);
    let mut touched = vec![false; bytes.len().div_ceil(block)];
    let end = start.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    let mut at = start;
    while let Some(limit) = end.bytes_since(at).and_then(NonZeroU64::new) {
        let extent = disk.extent_at(at, limit)?;
        if extent.kind != ExtentKind::Hole {
            let index = |place: GuestOffset| {
                let blocks = place.bytes_since(start).unwrap_or(0).div_euclid(BLOCK_LEN);
                usize::try_from(blocks).unwrap_or(usize::MAX)
            };
            // The number of the block behind the extent's last byte.
            let past = index(extent.end().min(end).saturating_add(BLOCK_LEN.saturating_sub(1)));
            for touched in touched.iter_mut().take(past).skip(index(at)) {
                *touched = true;
            }
        }
        at = extent.end();
    }
    let mut from = 0_usize;
    while let Some(first) = touched.get(from..).and_then(|rest| rest.iter().position(|touched| *touched)) {
        let first = from.saturating_add(first);
        let run = touched.get(first..).unwrap_or_default().iter().take_while(|touched| **touched).count();
        let (to, len) = (first.saturating_add(run), bytes.len());
        let range = first.saturating_mul(block)..to.saturating_mul(block).min(len);
        let here = start.saturating_add(u64::try_from(range.start).unwrap_or(u64::MAX));
        disk.read_guest(here, bytes.get_mut(range).unwrap_or_default())?;
        from = to;
    }
    Ok(touched)
}

/// Where a layer has zeros of its own; ascending, merged.
pub(super) fn zero_runs(disk: &dyn Disk) -> Result<Vec<GuestRange>> {
    let mut runs: Vec<GuestRange> = Vec::new();
    for extent in extents(disk, NonZeroU64::MAX) {
        let extent = extent?;
        if extent.kind != ExtentKind::Zero {
            continue;
        }
        match runs.last_mut() {
            Some(last) if last.start.saturating_add(last.len) == extent.start => {
                last.len = last.len.saturating_add(extent.len.get());
            }
            _ => runs.push(GuestRange { start: extent.start, len: extent.len.get() }),
        }
    }
    Ok(runs)
}
