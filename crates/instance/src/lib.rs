//! Image to running machine, and back to rest.
//!
//! ```text
//! instances/<id>/record.json     what the machine is made of (the catalog's)
//!                disk0.qcow2     its disk: only what differs from the layers of its image
//!                seed.img        what cloud-init reads
//!                vars.fd         UEFI variables
//!                running         locked by its process, as long as that lives
//!                qmp.sock control.sock agent.sock console.sock
//!                console.log     what its serial console printed in this run; console.log.old: before that was begun
//!                                anew for its length; console.log.1, console.log.1.old: in the run before
//!                qemu.log        what QEMU itself said
//! ```
//!
//! A launch is a [`plan()`] first, then [`Plan::run`]: files in staging, records of all instances in one commit, then
//! the processes. What is not told here is in [`kiln_catalog::machine`].

pub mod arch;
pub mod command;
pub mod console;
mod error;
mod files;
mod firmware;
mod host;
mod identity;
mod keys;
mod launch;
mod layers;
pub mod log;
mod plan;
pub mod print;
pub mod process;
pub mod rebuild;
pub mod restore;
pub mod screenshot;
mod seed;
pub mod wait;

pub use error::{Error, Failure, Refusal, Result};
pub use host::{Host, PROBE_FILE};
pub use keys::PublicKeys;
pub use launch::{Launched, Start};
pub use plan::{
    DEFAULT_MEMORY, DataDiskWish, FirmwareWish, MAX_COUNT, NetworkWish, OnUnsound, Plan, Planned, Request,
    plan,
};
pub use seed::{Identity, SeedNic, UserData, UserDataProblem};

#[cfg(test)]
mod tests;
