//! The check of a VMDK: finds all that is wrong, not the first.

mod decode;
mod extent;
mod specs;

pub use specs::CHECKS;

use kiln_disk::{CheckSpec, Error, FileOffset, Finding, Findings, GuestOffset, Observer, Result};

use super::image::{Body, Parent, Part, VmdkImage};
use super::problem::VmdkProblem;
use super::{extents, open};
use crate::image::{CheckScope, Tolerance};

pub(super) fn run(image: &VmdkImage, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
    let mut report = Report { findings: Findings::default(), file: String::new() };
    descriptor(image, &mut report);
    let lines = image.descriptor.as_ref().map_or(&[][..], |descriptor| &descriptor.extents);
    for (index, part) in image.parts.iter().enumerate() {
        let line = lines.get(index);
        report.file = match line {
            Some(line) if part.file > 0 => format!("{}: ", line.name),
            _ => String::new(),
        };
        match &part.body {
            Body::Zeros => {}
            Body::Flat { source, at, .. } => flat(part, source.byte_len(), *at, &mut report),
            Body::Sparse(sparse) => {
                if let Some(Err(error)) = line.map(|line| extents::confirm_capacity(line, sparse)) {
                    report.error(&specs::CAPACITY, &error);
                }
                extent::run(part, sparse, scope, observer, &mut report)?;
            }
            Body::Absent(cause) => {
                let finding = specs::EXTENT_ABSENT.found(format!("{}{}", report.file, words(cause)));
                let finding = finding.guest(GuestOffset::new(part.start), part.len);
                report.findings.push(match line {
                    Some(line) => finding.at(line.at),
                    None => finding,
                });
            }
        }
    }
    if let Parent::Absent(cause) = &image.parent {
        let name = image.descriptor.as_ref().and_then(|found| found.parent_file_name_hint.as_deref());
        let detail = format!("parent {:?}: {}", name.unwrap_or_default(), words(cause));
        let at = image.descriptor.as_ref().map_or(FileOffset::ZERO, |descriptor| descriptor.at);
        report.findings.push(specs::PARENT_ABSENT.found(detail).at(at));
    }
    Ok(report.findings)
}

fn descriptor(image: &VmdkImage, report: &mut Report) {
    match (&image.descriptor, image.parts.first().map(|part| &part.body)) {
        (None, Some(Body::Sparse(sparse))) => {
            if let Err(error) = open::embedded(sparse) {
                report.error(&specs::DESCRIPTOR, &error);
            }
        }
        (Some(descriptor), _) => {
            if let Err(error) = extents::confirm_distinct(descriptor, Tolerance::Strict) {
                report.error(&specs::EXTENT_ALIASED, &error);
            }
        }
        _ => {}
    }
}

fn flat(part: &Part, file_len: u64, at: u64, report: &mut Report) {
    let wanted = at.saturating_add(part.len);
    if file_len < wanted {
        let lost = wanted.saturating_sub(file_len.max(at));
        let start = part.start.saturating_add(part.len.saturating_sub(lost));
        let detail = format!("{}{wanted} bytes needed, {file_len} are there", report.file);
        let finding = specs::EXTENT_SHORT.found(detail).at(FileOffset::new(file_len));
        report.findings.push(finding.guest(GuestOffset::new(start), lost));
    }
}

/// An error and what is behind it, in a line.
fn words(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// What was found so far, and in which file the search goes on.
struct Report {
    findings: Findings,
    /// Put before every detail: which of several files it is about.
    file: String,
}

impl Report {
    /// A finding. A hostile table has millions: words are only made for those kept.
    fn push(
        &mut self,
        row: &'static CheckSpec,
        detail: &dyn Fn() -> String,
        place: impl FnOnce(Finding) -> Finding,
    ) {
        let kept = self.findings.count_of(row.id) < Findings::PER_ID;
        let detail = if kept { format!("{}{}", self.file, detail()) } else { String::new() };
        self.findings.push(place(row.found(detail)));
    }

    fn error(&mut self, row: &'static CheckSpec, error: &Error) {
        let finding = row.found(format!("{}{}", self.file, words(error)));
        self.findings.push(match error.offset() {
            Some(at) => finding.at(at),
            None => finding,
        });
    }
}

/// The row for a table or a grain that is wrong.
fn row_of(problem: &VmdkProblem) -> &'static CheckSpec {
    match problem {
        VmdkProblem::Overlap { .. } => &specs::ON_METADATA,
        VmdkProblem::PastEnd { .. } => &specs::TABLE_PAST_END,
        VmdkProblem::TableAliased { .. } => &specs::TABLE_ALIASED,
        VmdkProblem::Aliased { .. } => &specs::GRAIN_ALIASED,
        VmdkProblem::Marker { .. } | VmdkProblem::MarkerSize { .. } => &specs::MARKER,
        VmdkProblem::Decode { .. } => &specs::DECODE,
        VmdkProblem::Newlines { .. } => &specs::NEWLINES,
        VmdkProblem::CompressionFlags { .. } => &specs::COMPRESSION,
        _ => &specs::GRAIN_PAST_END,
    }
}
