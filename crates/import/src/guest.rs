//! The policy about the guest: what is wanted at a place, an image for it must have.

use std::sync::Arc;
use std::time::Duration;

use kiln_disk::{Budget, Disk, Limits};
use kiln_guest::facts::Depth;
use kiln_guest::rules::{Impact, Options, Place};
use kiln_guest::{Judgement, examine, judge};

use crate::error::{Refusal, Result};

/// What to do about a guest that will not start at a place that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnfit {
    /// Import nothing.
    #[default]
    Refuse,
    /// Let a missing cloud-init pass, as a forced import of Tencent Cloud does, and nothing else.
    WaiveCloudInit,
    /// Import it all the same.
    Force,
}

/// What looking at a guest may cost.
const LIMITS: Limits = Limits {
    metadata_bytes: 8 << 30,
    memory: 128 << 20,
    nodes: 256 << 20,
    non_zero_output: u64::MAX,
    depth: 4,
    time: Duration::from_secs(120),
};

/// Judges a guest for places before it is imported.
///
/// # Errors
/// [`Refusal::Guest`] for the first place at which the guest would be rejected or would not start, unless that is
/// forced; whatever the disk says.
pub fn admit(
    disk: &Arc<dyn Disk>,
    places: &[&'static Place],
    options: &Options,
    on_unfit: OnUnfit,
) -> Result<Vec<Judgement>> {
    let budget = Arc::new(Budget::new(LIMITS));
    let examination = examine(std::slice::from_ref(disk), &budget, Depth::Full)?;
    let judgements: Vec<Judgement> = places.iter().map(|place| judge(&examination, place, options)).collect();
    if on_unfit == OnUnfit::Force {
        return Ok(judgements);
    }
    for judgement in &judgements {
        let stopping = judgement.findings.iter().find(|finding| {
            let waived = on_unfit == OnUnfit::WaiveCloudInit && finding.id == "cloudinit.present";
            finding.severity >= Impact::WillNotBoot && !waived
        });
        if let Some(finding) = stopping {
            return Err(Refusal::Guest {
                target: judgement.target,
                severity: finding.severity.words(),
                id: finding.id,
                detail: format!("{} ({})", finding.detail, finding.at),
            }
            .into());
        }
    }
    Ok(judgements)
}
