//! What a check found: data, not text on a terminal.

use serde::{Deserialize, Serialize};

use crate::offset::{FileOffset, GuestOffset};

/// How bad a finding is for whoever owns the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Advice,
    /// Space or speed is lost, no data is.
    Waste,
    /// Some guest bytes are wrong, lost, or not to be trusted.
    Damage,
    /// The file cannot be used as it is.
    Fatal,
}

impl Severity {
    /// Whether the answer to "is it intact?" is no.
    #[must_use]
    pub const fn fails(self) -> bool {
        matches!(self, Self::Damage | Self::Fatal)
    }
}

/// One row of a check table: what can be found, said before anything is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckSpec {
    /// Stable id, never renamed: `qcow2.l2.past-end`.
    pub id: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, in a sentence without details.
    pub summary: &'static str,
    /// What it means for the guest.
    pub effect: &'static str,
    /// What to do about it.
    pub fix: &'static str,
}

impl CheckSpec {
    /// A finding of this row; `detail` gives the numbers.
    #[must_use]
    pub fn found(&'static self, detail: impl Into<String>) -> Finding {
        Finding { check: self, detail: detail.into(), file_at: None, guest: None, count: 1 }
    }
}

/// A run of guest bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GuestRange {
    /// First byte.
    pub start: GuestOffset,
    /// Length in bytes.
    pub len: u64,
}

/// One fact a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The row of the table.
    pub check: &'static CheckSpec,
    /// The numbers: which entry, what value, what was expected.
    pub detail: String,
    /// First byte in the container file to look at.
    pub file_at: Option<FileOffset>,
    /// Guest bytes affected, where they are known.
    pub guest: Option<GuestRange>,
    /// How many places have this fault (a listing may name only the first of them).
    pub count: u64,
}

impl Finding {
    /// Adds the place in the file.
    #[must_use]
    pub fn at(mut self, at: FileOffset) -> Self {
        self.file_at = Some(at);
        self
    }

    /// Adds the guest bytes affected.
    #[must_use]
    pub fn guest(mut self, start: GuestOffset, len: u64) -> Self {
        self.guest = Some(GuestRange { start, len });
        self
    }
}

/// Findings in the order they were made; of each id only the first [`Findings::PER_ID`] are kept, all are counted.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    list: Vec<Finding>,
    counts: Vec<(&'static str, u64)>,
}

impl Findings {
    /// How many findings of one id are kept whole. A hostile file can have millions.
    pub const PER_ID: u64 = 20;

    /// Takes a finding.
    pub fn push(&mut self, finding: Finding) {
        let id = finding.check.id;
        let count = match self.counts.iter_mut().find(|(known, _)| *known == id) {
            Some((_, count)) => count,
            None => {
                self.counts.push((id, 0));
                match self.counts.last_mut() {
                    Some((_, count)) => count,
                    None => return,
                }
            }
        };
        *count = count.saturating_add(finding.count);
        if *count <= Self::PER_ID {
            self.list.push(finding);
        }
    }

    /// The kept findings.
    #[must_use]
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// Moves the places of all findings, for a file that lies inside another; a place without a new one is dropped.
    pub fn move_places(&mut self, to: impl Fn(FileOffset) -> Option<FileOffset>) {
        for finding in &mut self.list {
            finding.file_at = finding.file_at.and_then(&to);
        }
    }

    /// How often each id was found, in order of first appearance.
    #[must_use]
    pub fn counts(&self) -> &[(&'static str, u64)] {
        &self.counts
    }

    /// How often `id` was found.
    #[must_use]
    pub fn count_of(&self, id: &str) -> u64 {
        self.counts.iter().find(|(known, _)| *known == id).map_or(0, |(_, count)| *count)
    }

    /// The worst severity found.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.list.iter().map(|finding| finding.check.severity).max()
    }

    /// Whether any finding says "not intact".
    #[must_use]
    pub fn fails(&self) -> bool {
        self.worst().is_some_and(Severity::fails)
    }

    /// Takes over all findings of `other`.
    pub fn extend(&mut self, other: Self) {
        for (id, count) in other.counts {
            let kept: Vec<_> = other.list.iter().filter(|finding| finding.check.id == id).collect();
            let kept_count: u64 = kept.iter().map(|finding| finding.count).fold(0, u64::saturating_add);
            for finding in kept {
                self.push(finding.clone());
            }
            let missing = count.saturating_sub(kept_count);
            if let Some((_, total)) = self.counts.iter_mut().find(|(known, _)| *known == id) {
                *total = total.saturating_add(missing);
            }
        }
    }
}
