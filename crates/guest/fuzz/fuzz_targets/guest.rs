//! Fuzzes everything that looks at a disk: tables, volumes, file systems, facts, rules. The input is the disk.

#![no_main]

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Budget, Disk, Extent, ExtentKind, GuestOffset, Limits, Result, check_range};
use libfuzzer_sys::fuzz_target;

struct Bytes(Vec<u8>);

impl Disk for Bytes {
    fn disk_len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        let at = at.get() as usize;
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
        Ok(())
    }
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        Ok(Extent { start: at, len: limit, kind: ExtentKind::Encoded })
    }
}

fuzz_target!(|bytes: &[u8]| {
    let disk: Arc<dyn Disk> = Arc::new(Bytes(bytes.to_vec()));
    let limits = Limits { nodes: 1 << 20, metadata_bytes: 64 << 20, ..Limits::INSPECT };
    let budget = Arc::new(Budget::new(limits));
    if let Ok(examination) = kiln_guest::examine(&[disk], &budget, kiln_guest::facts::Depth::Full) {
        for place in kiln_guest::rules::PLACES {
            let _ = kiln_guest::judge(&examination, place, &kiln_guest::rules::Options::default());
        }
    }
});
