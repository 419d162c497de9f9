//! An image of the store for a target.

use std::path::Path;

use kiln_catalog::{Manifest, Store};
use kiln_disk::{Disk, Observer};

use super::plan::TargetPlan;
use super::write::{TargetOutcome, TargetWrite};
use crate::error::Result;
use crate::export::{ExportRequest, How, plan_export};

/// Writes an image as planned. Where the layer's file is what the target takes, its blocks are shared or copied.
/// Answers also how it was made, and whether blocks are shared.
///
/// # Errors
/// As [`TargetPlan::to_file`].
pub fn export_target(
    store: &Store,
    manifest: &Manifest,
    plan: &TargetPlan,
    disk: &dyn Disk,
    dest: &Path,
    how: TargetWrite,
    observer: &dyn Observer,
) -> Result<(TargetOutcome, How, bool)> {
    let how = TargetWrite { expected: Some(manifest.digests.content), ..how };
    if plan.is_plain() {
        let mut request = ExportRequest::new(plan.row);
        request.options = plan.options.clone().into_iter().collect();
        request.durability = how.durability;
        request.read_back = how.read_back;
        request.threads = how.threads;
        request.raw_digest = how.raw_digest;
        let export = plan_export(store, manifest, request)?;
        if export.how() == How::Copy {
            let outcome = export.to_file(dest, how.existing, observer)?;
            let (content, cloned) = (outcome.content, outcome.cloned);
            let outcome = TargetOutcome {
                transport: outcome.transport,
                byte_len: outcome.byte_len,
                source_content: content,
                written_content: content,
                raw: outcome.raw,
            };
            return Ok((outcome, How::Copy, cloned));
        }
    }
    Ok((plan.to_file(disk, dest, how, &|| Ok(()), observer)?, How::Convert, false))
}
