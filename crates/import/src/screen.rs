//! Judging stored images by today's rules.

use kiln_catalog::{CheckRecord, FindingCount, Manifest, Store};
use kiln_disk::{Findings, Observer};
use kiln_format::{CheckScope, completeness};

use crate::error::Result;
use crate::open::{open_image, open_layers};
use crate::plan::RULE_SET;

/// What today's rules say about a stored image.
#[derive(Debug, Clone)]
pub struct Screened {
    /// For the image's record.
    pub record: CheckRecord,
    /// Whether anything fails.
    pub fails: bool,
}

/// Judges an image of the store again: its layers as files, its disk as the guest sees it. The file that it came
/// from is gone; what was found in that stays in the manifest.
///
/// # Errors
/// I/O; a layer that is missing or cannot be opened.
pub fn screen_image(store: &Store, image: &Manifest, observer: &dyn Observer) -> Result<Screened> {
    let mut findings = Findings::default();
    for layer in open_layers(store, image)? {
        for finding in layer.check(CheckScope::Metadata, observer)?.list() {
            findings.push(finding.clone());
        }
    }
    completeness::check(open_image(store, image)?.as_ref(), &mut findings)?;
    let mut counts: Vec<FindingCount> = Vec::new();
    for finding in findings.list() {
        let id = finding.check.id;
        if counts.iter().all(|count| count.id != id) {
            counts.push(FindingCount {
                id: id.to_owned(),
                severity: finding.check.severity,
                count: findings.count_of(id),
            });
        }
    }
    // What was imported in spite of damage stays marked: the disk has not become better.
    let record = CheckRecord {
        rule_set: RULE_SET.to_owned(),
        scope: "metadata".to_owned(),
        forced: image.checks.forced,
        findings: counts,
    };
    Ok(Screened { fails: findings.fails() || record.forced, record })
}
