//! A machine's disk as an image of the store: stopped or running, whole or as a layer of what changed.
//!
//! # What a capture is
//! A disk at one point in time, read through [`kiln_disk::Disk`], and a list of the places where it may differ from an
//! image that the store has. Only those are read. What is read is compared with the block hashes of that image: equal
//! blocks are dropped, the rest becomes a layer upon the image's layers. So the list may be too long at the cost of
//! time, and whatever it was made from, the content digest is that of the whole disk, as of a full capture.
//!
//! | source | point in time | places |
//! |---|---|---|
//! | stopped instance | its overlay, locked against QEMU | clusters of the overlay |
//! | running instance | copy-before-write filter, for all disks in one step | a dirty bitmap of this QEMU's life, else the overlay's clusters |
//! | file, block device | locked, and unchanged at the end | everything |
//! | another QEMU, libvirt | copy-before-write filter | everything |
//!
//! # What never happens
//! A running machine is never stopped or given an error because of a capture: what the guest overwrites is copied
//! first, and when that copy cannot be made the capture is given up, not the write. A frozen guest is thawed at once
//! after the point in time; should this process die or stand still meanwhile, the [watchdog](live::watch) thaws it and
//! takes away what was put into QEMU.

mod error;
mod ground;
mod layer;
pub mod live;
mod plan;
mod request;
mod run;
mod state;
mod stopped;
mod view;

pub use error::{Error, Refusal, Result};
pub use plan::{DiskFacts, Plan, PlanFacts, plan};
#[doc(hidden)]
pub use request::Sabotage;
pub use request::{Quiesce, Request, Subject, Which};
pub use run::{Captured, Outcome};
