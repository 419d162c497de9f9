//! A disk that says where it may differ from what is below.

use std::num::NonZeroU64;

use kiln_disk::digest::{BLOCK_LEN, LeafFile};
use kiln_disk::{Disk, Extent, ExtentKind, GuestOffset, GuestRange, Result, check_range};

/// A disk with holes wherever it is known to be what the disk below is. Reading gives the whole disk everywhere.
pub(crate) struct View<'a> {
    disk: &'a dyn Disk,
    /// Where it may differ: ascending, merged, whole blocks.
    places: &'a Places,
}

impl<'a> View<'a> {
    pub(crate) fn new(disk: &'a dyn Disk, places: &'a Places) -> Self {
        Self { disk, places }
    }
}

impl Disk for View<'_> {
    fn disk_len(&self) -> u64 {
        self.disk.disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_guest(at, buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len())?;
        let rest = NonZeroU64::new(self.disk_len() - at.get()).unwrap_or(NonZeroU64::MIN);
        let (inside, end) = self.places.at(at.get());
        let to_end = NonZeroU64::new(end.saturating_sub(at.get())).unwrap_or(NonZeroU64::MIN);
        let limit = limit.min(rest).min(to_end);
        if !inside {
            return Ok(Extent { start: at, len: limit, kind: ExtentKind::Hole });
        }
        let extent = self.disk.extent_at(at, limit)?;
        // A hole of the whole disk is zeros, whatever the disk below has there.
        let kind = if extent.kind == ExtentKind::Hole { ExtentKind::Zero } else { extent.kind };
        Ok(Extent { kind, ..extent })
    }
}

/// Ascending, merged ranges of whole blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Places(Vec<GuestRange>);

impl Places {
    /// Widens ranges to blocks, sorts and merges them.
    pub(crate) fn of(ranges: impl IntoIterator<Item = (u64, u64)>) -> Self {
        let mut blocks: Vec<(u64, u64)> = ranges
            .into_iter()
            .filter(|(_, len)| *len > 0)
            .map(|(start, len)| (start / BLOCK_LEN, start.saturating_add(len).div_ceil(BLOCK_LEN)))
            .collect();
        blocks.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (first, last) in blocks {
            match merged.last_mut() {
                Some(before) if first <= before.1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        let range = |(first, last): (u64, u64)| GuestRange {
            start: GuestOffset::new(first.saturating_mul(BLOCK_LEN)),
            len: (last - first).saturating_mul(BLOCK_LEN),
        };
        Self(merged.into_iter().map(range).collect())
    }

    /// Together with others.
    pub(crate) fn and(self, more: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self::of(self.0.into_iter().map(|range| (range.start.get(), range.len)).chain(more))
    }

    /// Bytes in them on a disk of this length.
    pub(crate) fn bytes(&self, disk_len: u64) -> u64 {
        let inside = |range: &GuestRange| disk_len.saturating_sub(range.start.get()).min(range.len);
        self.0.iter().map(inside).fold(0, u64::saturating_add)
    }

    /// Whether a byte is in one, and where that ends being so.
    fn at(&self, byte: u64) -> (bool, u64) {
        let after = self.0.partition_point(|range| range.start.get() <= byte);
        if let Some(range) = after.checked_sub(1).and_then(|index| self.0.get(index)) {
            let end = range.start.get().saturating_add(range.len);
            if byte < end {
                return (true, end);
            }
        }
        (false, self.0.get(after).map_or(u64::MAX, |range| range.start.get()))
    }
}

/// Everything that a disk has itself: all that is no hole.
pub(crate) fn held(disk: &dyn Disk) -> Result<Vec<(u64, u64)>> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    for extent in kiln_disk::extents(disk, NonZeroU64::MAX) {
        let extent = extent?;
        if extent.kind == ExtentKind::Hole {
            continue;
        }
        match found.last_mut() {
            Some((start, len)) if *start + *len == extent.start.get() => *len += extent.len.get(),
            _ => found.push((extent.start.get(), extent.len.get())),
        }
    }
    Ok(found)
}

/// The blocks in which two disks differ, by their block hashes.
pub(crate) fn differing(one: &LeafFile, other: &LeafFile) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut note = |block: u64| match found.last_mut() {
        Some((start, len)) if *start + *len == block * BLOCK_LEN => *len += BLOCK_LEN,
        _ => found.push((block * BLOCK_LEN, BLOCK_LEN)),
    };
    let (mut left, mut right) = (one.between(0, u64::MAX).peekable(), other.between(0, u64::MAX).peekable());
    loop {
        match (left.peek().copied(), right.peek().copied()) {
            (None, None) => break,
            (Some((a, hash)), Some((b, other))) if a == b => {
                if hash != other {
                    note(a);
                }
                left.next();
                right.next();
            }
            (Some((a, _)), right_block) if right_block.is_none_or(|(b, _)| a < b) => {
                note(a);
                left.next();
            }
            (_, Some((b, _))) => {
                note(b);
                right.next();
            }
            (Some(_), None) => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_whole_blocks_sorted_and_merged() {
        let places = Places::of([(200_000, 1), (0, 10), (65_536, 65_536), (200_001, 0)]);
        assert_eq!(places.at(0), (true, 131_072));
        assert_eq!(places.at(131_071), (true, 131_072));
        assert_eq!(places.at(131_072), (false, 196_608));
        assert_eq!(places.at(262_143), (true, 262_144));
        assert_eq!(places.at(262_144), (false, u64::MAX));
        assert_eq!((places.bytes(u64::MAX), places.bytes(200_000)), (196_608, 131_072 + 3392));
        assert_eq!(places.and([(131_072, 1)]), Places::of([(0, 262_144)]));
    }
}
