//! The laws of `Disk`, asserted on any disk against a plain vector.

use std::num::NonZeroU64;

use kiln_disk::{Disk, Extent, ExtentKind, GuestOffset, extents};

/// Asserts every law of [`Disk`] on `disk`, whose content must be `model`.
///
/// Reads of many lengths at many places are exact; reads past the end are refused; extents start where they were
/// asked, are 1 to `limit` bytes long, stay on the disk and tile it; zeros and holes read as zeros; eight threads
/// at once see the same bytes.
///
/// # Panics
/// When a law is broken; the message names it and the place.
#[track_caller]
pub fn check_disk(disk: &dyn Disk, model: &[u8]) {
    let len = model.len() as u64;
    assert_eq!(disk.disk_len(), len, "length of the disk");
    reads(disk, model);
    refusals(disk, len);
    for limit in [1 << 40, 1 << 20, 65_536, 4096 + 512, 777] {
        // Small steps over a large disk would only take long.
        if len / limit < 20_000 {
            tiling(disk, model, limit);
        }
    }
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            scope.spawn(move || {
                let mut random = Random(thread + 1);
                for _ in 0..32 {
                    one_read(disk, model, random.below(len), random.below(100_000));
                    one_extent(disk, model, random.below(len), 1 + random.below(1 << 20));
                }
            });
        }
    });
}

/// A small deterministic generator (xorshift): tests that use it fail the same way twice.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn number(&mut self) -> u64 {
        // Zero would stay zero.
        let mut x = self.0 | (u64::from(self.0 == 0) * 0x9e37_79b9_7f4a_7c15);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0 = x;
        x
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end.max(1)
    }
}

fn reads(disk: &dyn Disk, model: &[u8]) {
    let len = model.len() as u64;
    one_read(disk, model, 0, 0);
    one_read(disk, model, len, 0);
    one_read(disk, model, 0, len.min(64 << 20));
    for at in
        [0, 1, 511, 512, 513, 4095, 65_535, 65_536, len / 2, len.saturating_sub(513), len.saturating_sub(1)]
    {
        for want in [1, 2, 511, 512, 513, 4096, 65_537, 3 << 20] {
            one_read(disk, model, at.min(len), want);
        }
    }
}

fn one_read(disk: &dyn Disk, model: &[u8], at: u64, want: u64) {
    let want = want.min(model.len() as u64 - at) as usize;
    // A byte that the disk does not write shows.
    let mut buf = vec![0xa5; want];
    disk.read_guest(GuestOffset::new(at), &mut buf)
        .unwrap_or_else(|error| panic!("read of {want} bytes at {at:#x}: {error}"));
    let expected = &model[at as usize..at as usize + want];
    // Compared as a whole: byte by byte, without optimisation, is most of what a law costs.
    if buf != expected {
        let wrong = (0..want).find(|n| buf[*n] != expected[*n]).expect("a byte that differs");
        panic!(
            "read of {want} bytes at {at:#x}: byte {:#x} is {:#04x}, not {:#04x}",
            at + wrong as u64,
            buf[wrong],
            expected[wrong]
        );
    }
}

fn refusals(disk: &dyn Disk, len: u64) {
    let mut buf = [0; 2];
    for at in [len.saturating_sub(1), len, len + 1, u64::MAX - 1, u64::MAX] {
        if at.saturating_add(2) > len {
            let error = disk.read_guest(GuestOffset::new(at), &mut buf).expect_err("a read past the end");
            assert_eq!(error.code(), "disk.past-end", "read at {at:#x}");
        }
    }
    for at in [len, len + 1, u64::MAX] {
        let error =
            disk.extent_at(GuestOffset::new(at), NonZeroU64::MIN).expect_err("an extent past the end");
        assert_eq!(error.code(), "disk.past-end", "extent at {at:#x}");
    }
}

fn one_extent(disk: &dyn Disk, model: &[u8], at: u64, limit: u64) {
    if at < model.len() as u64 {
        let extent = disk
            .extent_at(GuestOffset::new(at), NonZeroU64::new(limit).expect("a positive limit"))
            .unwrap_or_else(|error| panic!("extent at {at:#x}: {error}"));
        judge(&extent, model, at, limit);
    }
}

fn judge(extent: &Extent, model: &[u8], at: u64, limit: u64) {
    assert_eq!(extent.start.get(), at, "an extent starts where it was asked");
    assert!(extent.len.get() <= limit, "extent at {at:#x} is {} bytes, the limit {limit}", extent.len);
    assert!(extent.end().get() <= model.len() as u64, "extent at {at:#x} leaves the disk");
    if matches!(extent.kind, ExtentKind::Zero | ExtentKind::Hole) {
        let bytes = &model[at as usize..extent.end().get() as usize];
        assert!(kiln_disk::zero::is_zero(bytes), "{:?} at {at:#x}, but the disk has data", extent.kind);
    }
}

fn tiling(disk: &dyn Disk, model: &[u8], limit: u64) {
    let mut at = 0;
    for extent in extents(disk, NonZeroU64::new(limit).expect("a positive limit")) {
        let extent = extent.unwrap_or_else(|error| panic!("extent at {at:#x}: {error}"));
        judge(&extent, model, at, limit);
        at = extent.end().get();
    }
    assert_eq!(at, model.len() as u64, "extents tile the disk");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelDisk;

    #[test]
    fn a_model_keeps_the_laws_and_a_wrong_byte_is_caught() {
        let mut bytes = vec![0; 200_001];
        bytes[70_000..90_000].fill(3);
        check_disk(&ModelDisk::new(bytes.clone(), 512), &bytes);
        let mut other = bytes.clone();
        other[80_000] = 4;
        let caught = std::panic::catch_unwind(|| check_disk(&ModelDisk::new(other, 512), &bytes));
        assert!(caught.is_err());
    }
}
