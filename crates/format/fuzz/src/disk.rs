//! Everything that is looked at on a disk from a stranger beside its container: partition tables, copies of
//! superblocks, the safety rules. Shared by the fuzz target and the test suite.

use std::sync::Arc;

use kiln_disk::{Findings, MemorySource, Silent};
use kiln_format::deep::{DeepJob, verify};
use kiln_format::partitions::{Layout, check_gpt};
use kiln_format::{Choice, OpenContext, safety};

/// Takes the bytes for a disk and looks at all of it. Answers how many partitions there are.
///
/// Invariants: no panic; partitions have a place; a deep look ends and reads all of a raw disk.
pub(crate) fn disk(bytes: &[u8]) -> usize {
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    let rules = safety::check(source.as_ref()).expect("memory can be read");
    assert!(!rules.rules.is_empty() && !rules.formats.is_empty());
    let context = OpenContext::new();
    let image = kiln_format::open(source.clone(), Choice::AsRaw, &context).expect("anything is raw");
    let layout = Layout::read(image.as_ref()).expect("memory can be read");
    for partition in &layout.partitions {
        assert!(!partition.to_string().is_empty());
        assert!(partition.end() >= partition.start_bytes);
    }
    let mut findings = Findings::default();
    check_gpt(image.as_ref(), &mut findings).expect("memory can be read");
    let job = DeepJob { threads: 1, ..DeepJob::default() };
    let report = verify(source.as_ref(), source.clone(), Choice::AsRaw, &context, job, &Silent);
    let report = report.expect("memory can be read");
    assert!(report.unreadable.is_empty());
    assert_eq!(report.digests.is_none(), report.check.findings.fails());
    layout.partitions.len()
}
