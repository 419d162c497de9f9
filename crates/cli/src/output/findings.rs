//! Findings as JSON records and as lines.

use kiln_disk::{Finding, Findings, GuestRange, Severity};
use kiln_format::partitions::Layout;
use serde::Serialize;

/// A finding in JSON.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct FindingRecord {
    pub(crate) id: String,
    pub(crate) severity: Severity,
    pub(crate) summary: String,
    pub(crate) detail: String,
    /// First byte in the container file to look at.
    pub(crate) offset_bytes: Option<u64>,
    /// Guest bytes concerned.
    pub(crate) guest: Option<RangeRecord>,
    /// Whose bytes these are: "in partition 1 (Linux, ext4)".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partition: Option<String>,
    pub(crate) count: u64,
    pub(crate) effect: String,
    pub(crate) fix: String,
}

/// A range in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RangeRecord {
    pub(crate) start_bytes: u64,
    pub(crate) length_bytes: u64,
    /// Where the range begins in the container file, where it is stored there as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offset_bytes: Option<u64>,
    /// Whose bytes these are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) partition: Option<String>,
}

impl From<GuestRange> for RangeRecord {
    fn from(range: GuestRange) -> Self {
        Self { start_bytes: range.start.get(), length_bytes: range.len, offset_bytes: None, partition: None }
    }
}

impl RangeRecord {
    /// A range with the name of where it is.
    pub(crate) fn placed(range: GuestRange, layout: Option<&Layout>) -> Self {
        Self { partition: layout.and_then(|layout| layout.words(range)), ..range.into() }
    }
}

impl From<&Finding> for FindingRecord {
    fn from(finding: &Finding) -> Self {
        Self {
            id: finding.check.id.to_owned(),
            severity: finding.check.severity,
            summary: finding.check.summary.to_owned(),
            detail: finding.detail.clone(),
            offset_bytes: finding.file_at.map(kiln_disk::FileOffset::get),
            guest: finding.guest.map(Into::into),
            partition: None,
            count: finding.count,
            effect: finding.check.effect.to_owned(),
            fix: finding.check.fix.to_owned(),
        }
    }
}

impl FindingRecord {
    /// All of `findings`, each with the partition that it falls into.
    pub(crate) fn list(findings: &Findings, layout: Option<&Layout>) -> Vec<Self> {
        let named = |finding: &Finding| Self {
            partition: finding.guest.and_then(|range| layout?.words(range)),
            ..finding.into()
        };
        findings.list().iter().map(named).collect()
    }
}

/// Findings for people: worst first, the meaning and the cure of each id once.
pub(crate) fn findings_lines(records: &[FindingRecord], total_of: impl Fn(&str) -> u64) -> Vec<String> {
    let mut sorted: Vec<&FindingRecord> = records.iter().collect();
    sorted.sort_by(|a, b| b.severity.cmp(&a.severity).then(a.id.cmp(&b.id)));
    let mut lines = Vec::new();
    for same in sorted.chunk_by(|a, b| a.id == b.id) {
        let Some(first) = same.first() else { continue };
        for record in same {
            let mut line = format!("{:<7} {:<28} {}", word(record.severity), record.id, text_of(record));
            if let Some(at) = record.offset_bytes {
                line += &format!(" (file byte {at}, {at:#x})");
            }
            if let Some(guest) = &record.guest {
                line += &format!(
                    " [disk bytes {} to {}]",
                    guest.start_bytes,
                    guest.start_bytes.saturating_add(guest.length_bytes)
                );
            }
            if let Some(partition) = &record.partition {
                line += &format!(" {partition}");
            }
            lines.push(line);
        }
        let shown: u64 = same.iter().map(|record| record.count).fold(0, u64::saturating_add);
        let hidden = total_of(&first.id).saturating_sub(shown);
        if hidden > 0 {
            lines.push(format!("        … and {hidden} more of {}", first.id));
        }
        if !first.effect.is_empty() {
            lines.push(format!("        effect: {}", first.effect));
        }
        if !first.fix.is_empty() {
            lines.push(format!("        fix: {}", first.fix));
        }
    }
    lines
}

fn text_of(record: &FindingRecord) -> String {
    match (record.summary.as_str(), record.detail.as_str()) {
        (summary, "") => summary.to_owned(),
        ("", detail) => detail.to_owned(),
        (summary, detail) => format!("{}: {detail}", summary.trim_end_matches('.')),
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Advice => "ADVICE",
        Severity::Waste => "WASTE",
        Severity::Damage => "DAMAGE",
        Severity::Fatal => "FATAL",
    }
}
