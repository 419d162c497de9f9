//! Judging a file's structure: what `verify` and `check` share.
//!
//! A file that cannot be a disk image as it stands (a gzip stream, an OVA, two formats at once, a broken header) is
//! a *no*, with the place to look at; a file that Kiln merely cannot read (encryption) stays an error.

use kiln_disk::{Error as DiskError, FileOffset, Findings, Severity};
use kiln_format::partitions::Layout;
use kiln_format::{CheckReport, CheckScope, Facts, Format, OpenContext};

use crate::error::{About, Result};
use crate::input::{Input, SourceArgs};
use crate::output::{FindingRecord, findings_lines};
use crate::progress::Reporter;

/// The verdict on a file's structure.
pub(crate) struct Judgement {
    pub(crate) format: Option<&'static Format>,
    pub(crate) facts: Option<Facts>,
    pub(crate) findings: Vec<FindingRecord>,
    /// The partitions of the disk, where they were looked at.
    pub(crate) layout: Option<Layout>,
    totals: Vec<(String, u64)>,
}

impl Judgement {
    /// Runs the format's checks.
    pub(crate) fn of(
        input: &Input,
        args: &SourceArgs,
        context: &OpenContext,
        scope: CheckScope,
        reporter: &Reporter,
    ) -> Result<Self> {
        Self::of_result(input.check(args, context, scope, reporter)?).about(&input.label)
    }

    /// The verdict that a report is, or an error that is about the file.
    pub(crate) fn of_result(result: Result<CheckReport, DiskError>) -> Result<Self, DiskError> {
        match result {
            Ok(report) => Ok(Self::of_report(report)),
            Err(error) => Self::of_error(error),
        }
    }

    /// The verdict that a report is.
    pub(crate) fn of_report(report: CheckReport) -> Self {
        let mut judgement = Self {
            format: report.format,
            facts: report.facts,
            findings: Vec::new(),
            layout: report.layout,
            totals: Vec::new(),
        };
        judgement.add(&report.findings);
        judgement
    }

    fn empty() -> Self {
        Self { format: None, facts: None, findings: Vec::new(), layout: None, totals: Vec::new() }
    }

    /// The verdict on a file that did not even open, when the error is about the file.
    pub(crate) fn of_error(error: DiskError) -> Result<Self, DiskError> {
        let mut judgement = Self::empty();
        judgement.absorb(error)?;
        Ok(judgement)
    }

    /// The verdict on a sound structure whose findings come from elsewhere.
    pub(crate) fn from_findings(findings: &Findings) -> Self {
        let mut judgement = Self::empty();
        judgement.add(findings);
        judgement
    }

    /// Takes findings over.
    pub(crate) fn add(&mut self, findings: &Findings) {
        self.findings.extend(FindingRecord::list(findings, self.layout.as_ref()));
        self.totals.extend(findings.counts().iter().map(|(id, count)| ((*id).to_owned(), *count)));
    }

    /// Takes over an error that says "no" about the file, hands any other back.
    pub(crate) fn absorb(&mut self, error: DiskError) -> Result<(), DiskError> {
        match finding_of(&error) {
            Some(finding) => {
                if !self.findings.iter().any(|known| known.id == finding.id) {
                    self.findings.push(finding);
                }
                Ok(())
            }
            None => Err(error),
        }
    }

    /// This judgement if it says "no", else `other`: a deeper look that found nothing does not undo an error.
    pub(crate) fn or_keep(self, other: Self) -> Self {
        if self.fails() { self } else { other }
    }

    /// Whether a finding says "no".
    pub(crate) fn fails(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity.fails())
    }

    /// The findings for people.
    pub(crate) fn lines(&self) -> Vec<String> {
        findings_lines(&self.findings, |id| {
            self.totals
                .iter()
                .filter(|(known, _)| known == id)
                .map(|(_, count)| *count)
                .fold(0, u64::saturating_add)
        })
    }
}

/// The error as a finding, when it is a judgement of the file.
fn finding_of(error: &DiskError) -> Option<FindingRecord> {
    let judged = match error {
        DiskError::Malformed { .. } => true,
        DiskError::Unsupported { code, .. } => *code == "format.foreign",
        DiskError::Refused { code, .. } => {
            ["format.", "budget.", "wrap."].iter().any(|prefix| code.starts_with(prefix))
        }
        _ => false,
    };
    let cause = std::error::Error::source(error).map(ToString::to_string);
    judged.then(|| FindingRecord {
        id: error.code().to_owned(),
        severity: Severity::Fatal,
        summary: error.to_string(),
        detail: cause.unwrap_or_default(),
        offset_bytes: Some(error.offset().map_or(0, FileOffset::get)),
        guest: None,
        partition: None,
        count: 1,
        effect: "the disk, or a part of it, cannot be read".to_owned(),
        fix: error.hint().unwrap_or_default().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_files_are_a_no_and_encryption_is_an_error() {
        let unsupported =
            |code, feature: &str| DiskError::Unsupported { code, feature: feature.into(), hint: "h" };
        let finding = finding_of(&unsupported("format.foreign", "x is gzip, which")).unwrap();
        assert_eq!(finding.summary, "x is gzip, which is not supported");
        assert_eq!((finding.offset_bytes, finding.severity), (Some(0), Severity::Fatal));
        assert!(finding_of(&unsupported("qcow2.encryption.luks", "LUKS")).is_none());
        assert!(finding_of(&DiskError::Cancelled).is_none());
        let refused = |code| DiskError::Refused { code, what: "x".into(), asked: 0, allowed: 0, hint: "" };
        assert_eq!(finding_of(&refused("format.polyglot")).unwrap().id, "format.polyglot");
        assert!(finding_of(&refused("reference.denied")).is_none());
    }
}
