//! The check.

use kiln_disk::{CheckSpec, Findings, Observer, Result};

use super::open::Qcow2Image;
use crate::image::CheckScope;

pub(super) static CHECKS: &[CheckSpec] = &[];

pub(super) fn run(_image: &Qcow2Image, _scope: CheckScope, _observer: &dyn Observer) -> Result<Findings> {
    Ok(Findings::default())
}
