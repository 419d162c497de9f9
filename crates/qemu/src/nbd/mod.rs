//! A client for the Network Block Device protocol (<https://github.com/NetworkBlockDevice/nbd>, `doc/proto.md`):
//! fixed newstyle negotiation, structured replies, metadata contexts. It only reads.

mod client;
mod disk;
mod handshake;

pub use client::{BASE_ALLOCATION, Client, Span};
pub use disk::NbdDisk;

/// The context in which QEMU tells what a dirty bitmap holds: flag 1 where it is set.
#[must_use]
pub fn bitmap_context(name: &str) -> String {
    format!("qemu:dirty-bitmap:{name}")
}
