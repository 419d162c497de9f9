//! What a disk is: offset types, sources and sinks of bytes, extents, writers, budgets, findings, the content
//! digest and files that appear whole or not at all. Everything else in the workspace stands on this crate.
//!
//! The core is synchronous. Whatever can be called from several threads says so by taking `&self`.

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

mod budget;
mod buffer;
pub mod chunks;
pub mod digest;
mod disk;
mod error;
mod finding;
pub mod interned;
mod memory;
mod observe;
mod offset;
pub mod os;
mod padded;
pub mod partition;
mod patched;
pub mod pipeline;
mod source;
mod stack;
mod staged;
pub mod wire;
mod write;
pub mod zero;

pub use budget::{Budget, Cost, Limits};
pub use buffer::{BufferPool, PageBuffer};
pub use disk::{Disk, Extent, ExtentKind, check_range, extents};
pub use error::{Error, Problem, Result};
pub use finding::{CheckSpec, Finding, Findings, GuestRange, Severity};
pub use memory::MemoryDisk;
pub use observe::{CancelFlag, Event, Observer, Silent, go_on};
pub use offset::{FileOffset, GuestOffset};
pub use padded::PaddedDisk;
pub use patched::PatchedDisk;
pub use source::{ByteSource, FileSource, MemorySource, Run, RunKind};
pub use stack::StackDisk;
pub use staged::{Durability, Existing, StagedFile};
pub use write::{ByteSink, DiskWrite, Encode, Encoding, FileSink, Piece, StoreVerbatim, WriteOrder, Written};
