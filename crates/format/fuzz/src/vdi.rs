//! Everything that can be done with a VDI from a stranger. Shared by the fuzz target and the test suite.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Budget, Error, Limits, MemorySource, Silent};
use kiln_format::{AllowList, CheckScope, Image, OpenContext, Resolved, Tolerance, vdi as format};

/// Opens the bytes both ways, walks, reads and checks what opens. Answers whether anything did.
///
/// Invariants: no panic; the disk keeps its laws; a check ends with findings or by its budget.
pub(crate) fn vdi(bytes: &[u8]) -> bool {
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    let mut opened = false;
    for tolerance in [Tolerance::Strict, Tolerance::Damaged] {
        // A differencing disk whose parent is itself by its id: the shortest way to a loop.
        let mut list = AllowList::default();
        if let Some(id) = bytes.get(0x1a8..0x1b8) {
            list.allow(guid(id), Resolved { source: source.clone(), format: None });
        }
        let context = OpenContext {
            resolver: Arc::new(list),
            budget: Arc::new(Budget::new(Limits::INSPECT)),
            tolerance,
            ..OpenContext::new()
        };
        let Ok(image) = (format::FORMAT.open)(source.clone(), &context) else { continue };
        opened = true;
        assert_eq!(image.facts().disk_bytes, image.disk_len());
        walk(image.as_ref());
        match image.check(CheckScope::Data, &Silent) {
            Ok(_) | Err(Error::Refused { .. }) => {}
            Err(other) => panic!("a check ended with {other}"),
        }
    }
    opened
}

/// The notation of an id as VirtualBox stores it: three little-endian fields, eight bytes.
fn guid(id: &[u8]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let digits: Vec<String> = order.iter().map(|n| format!("{:02x}", id[*n])).collect();
    [&digits[..4], &digits[4..6], &digits[6..8], &digits[8..10], &digits[10..]]
        .map(<[String]>::concat)
        .join("-")
}

/// A bounded walk that holds the disk to its laws.
fn walk(image: &dyn Image) {
    let mut buf = vec![0; 70_000];
    for extent in kiln_disk::extents(image, NonZeroU64::MAX).take(300) {
        let Ok(extent) = extent else { break };
        assert!(extent.end().get() <= image.disk_len());
        let len = usize::try_from(extent.len.get()).unwrap_or(usize::MAX).min(buf.len());
        let read = image.read_guest(extent.start, &mut buf[..len]);
        if !extent.kind.is_data() {
            read.expect("a hole of a known map reads");
            assert!(kiln_disk::zero::is_zero(&buf[..len]), "a hole with data at {}", extent.start);
        }
    }
}
