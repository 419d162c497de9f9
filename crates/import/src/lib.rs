//! External disk image to catalog image: identify, verify, screen, store; and the way back out.
//!
//! An import is a [`plan`], which judges everything that can be judged without writing, and its
//! [`Plan::run`], which converts the disk into a layer and publishes it. An export is a [`plan_export`] with
//! [`ExportPlan::to_file`] or [`ExportPlan::to_stream`].

mod appliance;
mod arrival;
mod bundle;
mod checksum;
mod error;
mod evidence;
mod export;
mod fetch;
mod flatten;
pub mod guest;
mod open;
mod passing;
mod plan;
mod run;
mod screen;
mod signature;
mod tap;
mod target;

pub use arrival::Passage;
pub use bundle::{Bundled, import_bundle, is_bundle, write_bundle};
pub use checksum::{
    Entry, Expect, Expected, base_name, expected, expected_at, lookup, parse as parse_checksums,
};
pub use error::{Error, Refusal, Result};
pub use export::{ExportOutcome, ExportPlan, ExportRequest, How, plan_export};
pub use fetch::{FetchError, FetchOptions, FetchProblem, Traffic, is_url, shown_url, url_file_name};
pub use flatten::flatten;
pub use kiln_format::layer::{BadStyle, DEFAULT_STYLE, LayerStyle};
pub use open::{FormatReader, open_image, verify_image, verify_part};
pub use plan::{
    HASHED_HOLE_BYTES, Input, MAX_DISK_BYTES, OnDamage, Plan, PlanFacts, RULE_SET, Request, SourceDigest,
    plan,
};
pub use run::{Outcome, Timings};
pub use screen::{Screened, screen_image};
pub use signature::{Place, SignatureError, SignatureProblem, SignatureWish, Trust};
pub use target::{
    GUEST_CHECKS, GptMove, GuestCheck, Machine, PlannedSide, TargetOutcome, TargetPlan, TargetRefusal,
    TargetRequest, TargetWrite, Warning, export_target, machine_name, plan_target,
};

#[cfg(test)]
mod tests;
