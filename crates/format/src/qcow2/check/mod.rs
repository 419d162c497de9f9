//! What can be wrong with a whole qcow2 file.
//!
//! Three passes over tables, none over guest data: `layout` finds every structure and its place, `count` counts the
//! references to each cluster and compares them with the refcounts, `decode` (on request) decodes what is
//! compressed. Every distinct L2 table is read once per pass, however many L1 entries lead to it, so the cost
//! follows the length of the file and not what its tables claim.

mod count;
mod decode;
mod layout;
mod specs;
mod unfinished;

use kiln_disk::{Error, Finding, Findings, Observer, Result, go_on};

use super::header::incompatible;
use super::open::Qcow2Image;
use crate::image::CheckScope;

pub(super) use specs::CHECKS;

/// Runs the check; see [`crate::Image::check`].
pub(super) fn run(image: &Qcow2Image, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
    go_on(observer)?;
    image.budget.check_time()?;
    let mut report = Report::default();
    for doubt in &image.doubts {
        report.error(doubt);
    }
    if image.header.has(incompatible::DIRTY) {
        report.found(&specs::DIRTY, || "the dirty bit is set".to_owned(), |finding| finding);
    }
    for bitmap in image.bitmaps.iter().filter(|bitmap| bitmap.in_use) {
        report.found(
            &specs::BITMAP_IN_USE,
            || format!("bitmap {:?} was not saved", bitmap.name),
            |finding| finding.at(kiln_disk::FileOffset::new(bitmap.entry_at)),
        );
    }
    let layout = layout::Layout::gather(image, &mut report, observer)?;
    count::run(image, &layout, &mut report, observer)?;
    unfinished::run(image, &layout, &mut report, observer)?;
    if scope.includes_data() {
        decode::run(image, &layout, scope, &mut report, observer)?;
    }
    Ok(report.0)
}

/// Collects findings; a text is only made for those that are kept.
#[derive(Default)]
struct Report(Findings);

impl Report {
    fn found(
        &mut self,
        spec: &'static kiln_disk::CheckSpec,
        detail: impl FnOnce() -> String,
        place: impl FnOnce(Finding) -> Finding,
    ) {
        let kept = self.0.count_of(spec.id) < Findings::PER_ID;
        let finding = spec.found(if kept { detail() } else { String::new() });
        self.0.push(place(finding));
    }

    /// A finding from what an open or a decoder said.
    fn error(&mut self, error: &Error) {
        let finding = finding_of(error);
        self.0.push(finding);
    }
}

fn finding_of(error: &Error) -> Finding {
    let spec = CHECKS.iter().find(|spec| spec.id == error.code()).unwrap_or(&specs::HEADER);
    let detail = match error {
        Error::Malformed { problem, .. } => problem.to_string(),
        other => other.to_string(),
    };
    let finding = spec.found(detail);
    match error.offset() {
        Some(at) => finding.at(at),
        None => finding,
    }
}
