//! What the tests of every check compare.

use kiln_disk::{CheckSpec, FileOffset, Findings};

/// Id, file position, guest range of a finding.
pub(crate) type Seen = (&'static str, Option<u64>, Option<(u64, u64)>);

pub(crate) fn seen(findings: &Findings) -> Vec<Seen> {
    let list = findings.list().iter();
    list.map(|finding| {
        let guest = finding.guest.map(|range| (range.start.get(), range.len));
        (finding.check.id, finding.file_at.map(FileOffset::get), guest)
    })
    .collect()
}

/// Ids are unique and begin so, and every row says what to do.
#[track_caller]
pub(crate) fn assert_table(checks: &[CheckSpec], prefix: &str) {
    let mut ids: Vec<_> = checks.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), checks.len());
    for row in checks {
        assert!(row.id.starts_with(prefix), "{}", row.id);
        assert!(!row.summary.is_empty() && !row.effect.is_empty() && !row.fix.is_empty(), "{}", row.id);
    }
}
