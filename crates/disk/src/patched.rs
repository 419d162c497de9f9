//! A disk with some bytes changed, in memory: the disk below stays as it is.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use crate::disk::{Disk, Extent, ExtentKind, check_range};
use crate::error::Result;
use crate::offset::GuestOffset;

/// A disk with other bytes in a few places, for whoever has to change a table in a disk that is not his.
pub struct PatchedDisk<'a> {
    disk: Box<dyn Disk + 'a>,
    /// By place; none is empty, none overlap.
    patches: BTreeMap<u64, Vec<u8>>,
}

impl<'a> PatchedDisk<'a> {
    /// `disk` as it is.
    pub fn new(disk: Box<dyn Disk + 'a>) -> Self {
        Self { disk, patches: BTreeMap::new() }
    }

    /// Changes the bytes from `at` on. What an earlier patch says of the same bytes is replaced.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] (`disk.past-end`) for bytes that are not on the disk.
    pub fn patch(&mut self, at: GuestOffset, bytes: &[u8]) -> Result<()> {
        check_range(at, bytes.len(), self.disk.disk_len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        let (start, end) = (at.get(), at.get().saturating_add(length(bytes)));
        let reaches = |from: u64, old: &Vec<u8>| from.saturating_add(length(old)) > start;
        let touched: Vec<u64> = self
            .patches
            .range(..end)
            .filter(|(from, old)| reaches(**from, old))
            .map(|(from, _)| *from)
            .collect();
        for from in touched {
            let Some(old) = self.patches.remove(&from) else { continue };
            let split = |place: u64| usize::try_from(place.saturating_sub(from)).unwrap_or(usize::MAX);
            if let Some(before) = old.get(..split(start)).filter(|before| !before.is_empty() && from < start)
            {
                self.patches.insert(from, before.to_vec());
            }
            if let Some(behind) = old.get(split(end)..).filter(|behind| !behind.is_empty()) {
                self.patches.insert(end, behind.to_vec());
            }
        }
        self.patches.insert(start, bytes.to_vec());
        Ok(())
    }

    /// Bytes that were changed.
    #[must_use]
    pub fn patched_bytes(&self) -> u64 {
        self.patches.values().map(|bytes| length(bytes)).fold(0, u64::saturating_add)
    }
}

fn length(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl Disk for PatchedDisk<'_> {
    fn disk_len(&self) -> u64 {
        self.disk.disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_guest(at, buf)?;
        let (start, end) = (at.get(), at.get().saturating_add(length(buf)));
        for (from, patch) in self.patches.range(..end).rev() {
            let to = from.saturating_add(length(patch));
            if to <= start {
                break;
            }
            let skip = usize::try_from(start.saturating_sub(*from)).unwrap_or(usize::MAX);
            let into = usize::try_from(from.saturating_sub(start)).unwrap_or(usize::MAX);
            let new = patch.get(skip..).unwrap_or_default();
            let old = buf.get_mut(into..).unwrap_or_default();
            let len = new.len().min(old.len());
            if let (Some(old), Some(new)) = (old.get_mut(..len), new.get(..len)) {
                old.copy_from_slice(new);
            }
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len())?;
        if let Some((from, patch)) = self.patches.range(..=at.get()).next_back() {
            let rest = from.saturating_add(length(patch)).saturating_sub(at.get());
            if let Some(rest) = NonZeroU64::new(rest) {
                return Ok(Extent { start: at, len: rest.min(limit), kind: ExtentKind::Encoded });
            }
        }
        let next = self.patches.range(at.get()..).next().map_or(u64::MAX, |(from, _)| *from);
        let clear = NonZeroU64::new(next.saturating_sub(at.get())).unwrap_or(NonZeroU64::MIN);
        self.disk.extent_at(at, limit.min(clear))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::padded::PaddedDisk;

    /// Bytes, all of them data.
    struct Flat(Vec<u8>);

    impl Disk for Flat {
        fn disk_len(&self) -> u64 {
            length(&self.0)
        }

        fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
            check_range(at, buf.len(), self.disk_len())?;
            let start = usize::try_from(at.get()).unwrap();
            buf.copy_from_slice(&self.0[start..start + buf.len()]);
            Ok(())
        }

        fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
            check_range(at, 1, self.disk_len())?;
            let rest = NonZeroU64::new(self.disk_len() - at.get()).unwrap();
            let kind = ExtentKind::Data { file: 0, at: crate::FileOffset::new(at.get()) };
            Ok(Extent { start: at, len: rest.min(limit), kind })
        }
    }

    #[test]
    fn every_read_and_extent_agrees_with_a_vector_that_was_changed_the_same_way() {
        let bytes: Vec<u8> = (0..200_u8).collect();
        let flat = Flat(bytes.clone());
        let mut model = bytes;
        model.resize(300, 0);
        let mut disk = PatchedDisk::new(Box::new(PaddedDisk::new(&flat, 300)));
        let changes: [(u64, &[u8]); 8] = [
            (10, &[201; 20]),
            (15, &[202; 3]),
            (5, &[203; 8]),
            (190, &[204; 20]),
            (299, &[205]),
            (0, &[206]),
            (28, &[207; 10]),
            (100, &[]),
        ];
        for (at, change) in changes {
            disk.patch(GuestOffset::new(at), change).unwrap();
            let at = usize::try_from(at).unwrap();
            model[at..at + change.len()].copy_from_slice(change);
            for start in 0..300_usize {
                for end in [start + 1, start + 7, start + 50, 300] {
                    let end = end.min(300);
                    let mut got = vec![0; end - start];
                    disk.read_guest(GuestOffset::new(start as u64), &mut got).unwrap();
                    assert_eq!(got, model[start..end], "{start}..{end}");
                }
            }
        }
        assert_eq!(disk.patched_bytes(), 1 + 33 + 20 + 1);
        let mut at = 0;
        while at < 300 {
            let extent = disk.extent_at(GuestOffset::new(at), NonZeroU64::new(64).unwrap()).unwrap();
            assert!(extent.start.get() == at && extent.len.get() <= 64 && extent.end().get() <= 300);
            if !extent.kind.is_data() {
                assert!(model[at as usize..extent.end().get() as usize].iter().all(|byte| *byte == 0));
            }
            at = extent.end().get();
        }
        let error = disk.patch(GuestOffset::new(299), &[1, 2]).unwrap_err();
        assert_eq!(error.code(), "disk.past-end");
        assert_eq!(
            disk.extent_at(GuestOffset::new(300), NonZeroU64::MIN).unwrap_err().code(),
            "disk.past-end"
        );
    }
}
