//! Disks upon each other: what one does not hold shows the one below.

use std::num::NonZeroU64;

use crate::disk::{Disk, Extent, ExtentKind, check_range};
use crate::error::Result;
use crate::offset::GuestOffset;

/// A stack of disks, base first. Where a disk has a [`ExtentKind::Hole`], the disk below shows; a
/// [`ExtentKind::Zero`] hides it. The stack is as long as its top; what lies behind the end of a disk in it is a
/// hole of the whole stack, whatever is further below, as with a backing file that is shorter than its overlay.
pub struct StackDisk {
    /// Base first.
    layers: Vec<Box<dyn Disk>>,
}

impl StackDisk {
    /// A stack of `layers`, base first. None at all is a disk without bytes.
    #[must_use]
    pub fn new(layers: Vec<Box<dyn Disk>>) -> Self {
        Self { layers }
    }
}

impl Disk for StackDisk {
    fn disk_len(&self) -> u64 {
        self.layers.last().map_or(0, |top| top.disk_len())
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        let (mut at, mut rest) = (at, buf);
        while let Some(limit) = u64::try_from(rest.len()).ok().and_then(NonZeroU64::new) {
            let (level, extent) = self.look(at, limit)?;
            let len = usize::try_from(extent.len.get()).unwrap_or(rest.len()).min(rest.len());
            let (piece, behind) = rest.split_at_mut_checked(len).unwrap_or_default();
            match self.layers.get(level) {
                Some(layer) if extent.kind.is_data() => layer.read_guest(at, piece)?,
                _ => piece.fill(0),
            }
            at = extent.end();
            rest = behind;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len())?;
        let (level, extent) = self.look(at, limit)?;
        let ExtentKind::Data { file, at: place } = extent.kind else { return Ok(extent) };
        // Files are counted from the top's own.
        let above = self.layers.len().saturating_sub(level.saturating_add(1));
        let file = file.saturating_add(u16::try_from(above).unwrap_or(u16::MAX));
        Ok(Extent { kind: ExtentKind::Data { file, at: place }, ..extent })
    }
}

impl StackDisk {
    /// The run at `at`, and which disk has it. `at` lies on the stack.
    fn look(&self, at: GuestOffset, limit: NonZeroU64) -> Result<(usize, Extent)> {
        let rest = NonZeroU64::new(self.disk_len().saturating_sub(at.get())).unwrap_or(NonZeroU64::MIN);
        let mut limit = limit.min(rest);
        for (level, layer) in self.layers.iter().enumerate().rev() {
            if at.get() >= layer.disk_len() {
                break;
            }
            let extent = layer.extent_at(at, limit)?;
            if extent.kind != ExtentKind::Hole {
                return Ok((level, extent));
            }
            limit = limit.min(extent.len);
        }
        Ok((0, Extent { start: at, len: limit, kind: ExtentKind::Hole }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::offset::FileOffset;

    /// A disk of 4 KiB cells: `.` a hole, `0` zeros, a letter data of that letter.
    struct Cells(&'static [u8]);
    const CELL: u64 = 4096;

    impl Disk for Cells {
        fn disk_len(&self) -> u64 {
            self.0.len() as u64 * CELL
        }
        fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
            check_range(at, buf.len(), self.disk_len())?;
            for (index, byte) in buf.iter_mut().enumerate() {
                let cell = self.0[((at.get() + index as u64) / CELL) as usize];
                *byte = if cell.is_ascii_alphabetic() { cell } else { 0 };
            }
            Ok(())
        }
        fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
            check_range(at, 1, self.disk_len())?;
            let left = NonZeroU64::new(CELL - at.get() % CELL).unwrap();
            let kind = match self.0[(at.get() / CELL) as usize] {
                b'.' => ExtentKind::Hole,
                b'0' => ExtentKind::Zero,
                _ => ExtentKind::Data { file: 0, at: FileOffset::new(at.get()) },
            };
            Ok(Extent { start: at, len: left.min(limit), kind })
        }
    }

    fn stack(layers: &[&'static [u8]]) -> StackDisk {
        StackDisk::new(layers.iter().map(|cells| Box::new(Cells(cells)) as Box<dyn Disk>).collect())
    }

    fn cells(disk: &StackDisk) -> String {
        let mut bytes = vec![1; usize::try_from(disk.disk_len()).unwrap()];
        disk.read_guest(GuestOffset::ZERO, &mut bytes).unwrap();
        bytes.chunks(CELL as usize).map(|cell| if cell[0] == 0 { '-' } else { char::from(cell[0]) }).collect()
    }

    #[test]
    fn holes_show_what_is_below_and_zeros_hide_it() {
        assert_eq!(cells(&stack(&[b"aaaaaa", b".b0...", b"..c.0d"])), "abca-d");
    }

    #[test]
    fn behind_the_end_of_a_shorter_disk_there_is_nothing() {
        assert_eq!(cells(&stack(&[b"aaaaaa", b"...", b"......"])), "aaa---");
        assert_eq!(cells(&stack(&[b"aaaaaa", b"..."])), "aaa");
    }

    #[test]
    fn extents_tile_the_stack_and_count_files_from_the_top() {
        let disk = stack(&[b"aaa.", b".b..", b"..c."]);
        let found: Vec<_> = crate::disk::extents(&disk, NonZeroU64::MAX).map(Result::unwrap).collect();
        let files: Vec<_> = found
            .iter()
            .map(|extent| match extent.kind {
                ExtentKind::Data { file, .. } => i32::from(file),
                _ => -1,
            })
            .collect();
        assert_eq!(files, [2, 1, 0, -1]);
        assert_eq!(found.last().unwrap().end().get(), disk.disk_len());
    }

    #[test]
    fn reads_past_the_end_are_refused() {
        let disk = stack(&[b"a", b"."]);
        let error = disk.read_guest(GuestOffset::new(CELL), &mut [0]).unwrap_err();
        assert!(matches!(error, Error::Refused { code: "disk.past-end", .. }));
        assert_eq!(stack(&[]).disk_len(), 0);
    }
}
