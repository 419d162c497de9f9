//! Fuzzes everything that looks at a disk: tables, volumes, file systems, facts, rules. The input is the disk.

#![no_main]

use std::sync::Arc;

use kiln_disk::{Budget, Disk, Limits, MemoryDisk};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes.to_vec()));
    let limits = Limits { nodes: 1 << 20, metadata_bytes: 64 << 20, ..Limits::INSPECT };
    let budget = Arc::new(Budget::new(limits));
    if let Ok(examination) = kiln_guest::examine(&[disk], &budget, kiln_guest::facts::Depth::Full) {
        for place in kiln_guest::rules::PLACES {
            let _ = kiln_guest::judge(&examination, place, &kiln_guest::rules::Options::default());
        }
    }
});
