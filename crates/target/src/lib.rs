//! The places where an image should run, as data: what each accepts, its limits, how its machines start, where
//! that is written and when. No logic: who writes images looks here, and no command knows a target by name.
//!
//! The rows are compiled in (`rows/*.toml`). A file of the user may change them or add to them, in the same words.

#![cfg_attr(
    not(test),
    deny(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

mod error;
mod guest;
mod locate;
mod row;
mod size;
mod table;
mod template;

pub use error::{Error, Result};
pub use guest::{Impact, Verdict};
pub use locate::{Places, TargetsFile, locate};
pub use row::{
    Escape, FindingRule, Firmware, FirmwareRule, FirmwareWords, GuestRule, Limits, Naming, Note, Output,
    Pack, Severity, SideFile, SizeRule, Target,
};
pub use size::ByteSize;
pub use table::{MAX_FILE_LEN, Targets};
pub use template::{Values, fill};
