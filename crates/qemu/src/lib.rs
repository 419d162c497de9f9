//! The words that a running QEMU speaks: its machine protocol ([`qmp`]), the guest agent's ([`agent`]), and NBD
//! ([`nbd`]), through which a disk of a running machine is read.
//!
//! The other side is never trusted. A guest speaks through its agent, and a program that calls itself QEMU may be
//! anything: every answer is bounded in length, depth and time, and a wrong one ends the connection with an error
//! that says what was wrong. No answer makes a client allocate more than [`Limits::reply_bytes`].

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::as_conversions,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used
    )
)]

pub mod agent;
mod channel;
mod error;
mod lines;
pub mod nbd;
pub mod qmp;
pub mod socket;

pub use channel::{Channel, Limits, Stream};
pub use error::{Error, Problem, Result};
