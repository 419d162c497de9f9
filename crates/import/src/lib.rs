//! External disk image to catalog image: identify, verify, screen, store; and the way back out.
//!
//! An import is a [`plan`], which judges everything that can be judged without writing, and its
//! [`Plan::run`], which converts the disk into a layer and publishes it. An export is a [`plan_export`] with
//! [`ExportPlan::to_file`] or [`ExportPlan::to_stream`].

mod appliance;
mod checksum;
mod error;
mod export;
pub mod guest;
mod open;
mod plan;
mod run;
mod style;

pub use checksum::{Entry, Expect, Expected, base_name, expected, lookup, parse as parse_checksums};
pub use error::{Error, Refusal, Result};
pub use export::{ExportOutcome, ExportPlan, ExportRequest, How, plan_export};
pub use open::{FormatReader, only_layer, open_image, verify_image};
pub use plan::{
    HASHED_HOLE_BYTES, Input, MAX_DISK_BYTES, OnDamage, Plan, PlanFacts, RULE_SET, Request, SourceDigest,
    plan,
};
pub use run::{Outcome, Timings};
pub use style::{BadStyle, DEFAULT_STYLE, LayerStyle};

#[cfg(test)]
mod tests;
