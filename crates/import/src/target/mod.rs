//! Writing a disk for a target: what it accepts is in [`kiln_target`], here it is done.
//!
//! [`plan_target`] chooses container and options, judges sizes and partition table, and says how the disk has to be
//! padded; nothing is written before all of that is known. [`TargetPlan::write`] does it. A conversion runs the plan
//! on any disk, an export ([`export_target`]) on an image of the store.

mod choose;
mod export;
mod guest;
mod plan;
mod refusal;
mod texts;
mod write;

pub use export::export_target;
pub use guest::{GUEST_CHECKS, GuestCheck};
pub use plan::{GptMove, Machine, TargetPlan, TargetRequest, Warning, machine_name, plan_target};
pub use refusal::TargetRefusal;
pub use texts::PlannedSide;
pub use write::{TargetOutcome, TargetWrite};
