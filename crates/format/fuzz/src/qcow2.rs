//! Everything that can be done with a qcow2 from a stranger. Shared by the fuzz target and the test suite.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Budget, Error, Limits, MemorySource, Silent};
use kiln_format::{AllowList, CheckScope, Image, OpenContext, Resolved, Tolerance, qcow2 as format};

/// Opens the bytes both ways and as every snapshot, walks, reads and checks what opens. Answers whether anything did.
///
/// Invariants: no panic; the disk keeps its laws; a check of what is in memory ends with findings or by its budget.
pub(crate) fn qcow2(bytes: &[u8]) -> bool {
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    let mut opened = false;
    for tolerance in [Tolerance::Strict, Tolerance::Damaged] {
        // The image is its own backing file: the shortest way to a loop.
        let mut list = AllowList::default();
        list.allow("base", Resolved { source: source.clone(), format: None });
        let context = OpenContext {
            resolver: Arc::new(list),
            budget: Arc::new(Budget::new(Limits::INSPECT)),
            tolerance,
            ..OpenContext::new()
        };
        let Ok(image) = (format::FORMAT.open)(source.clone(), &context) else { continue };
        opened = true;
        let facts = image.facts();
        assert_eq!(facts.disk_bytes, image.disk_len());
        walk(image.as_ref());
        match image.check(CheckScope::Data, &Silent) {
            Ok(_) | Err(Error::Refused { .. }) => {}
            Err(other) => panic!("a check ended with {other}"),
        }
        for snapshot in facts.snapshots.into_iter().take(3) {
            let context = OpenContext { snapshot: Some(snapshot.id), ..context.clone() };
            if let Ok(image) = (format::FORMAT.open)(source.clone(), &context) {
                walk(image.as_ref());
            }
        }
    }
    opened
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
