//! What is on a disk, read from the file: partitions, volumes, file systems, and then the guest: its system, kernels,
//! loader, network, agents, accounts. Facts first ([`examine`]), judgement second ([`judge`]).
//!
//! The disk is a stranger's. Nothing is mounted, no path of the host is opened, a link inside the image leads to a
//! place inside the image, and everything that is read is charged to a budget.

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

mod cache;
pub mod facts;
pub mod fs;
pub mod grub;
pub mod hive;
pub mod initramfs;
mod look;
pub mod rules;
mod text;
pub mod tree;
pub mod volume;
pub mod worker;

pub use cache::Part;
pub use facts::{Examination, GuestReport, examine};
pub use look::{Asked, Look, Question, Reader};
pub use rules::{Judgement, RULE_SET, judge};
