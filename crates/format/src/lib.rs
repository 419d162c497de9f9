//! Disk image containers: raw, qcow2, VHD, VHDX, VDI, VMDK. Probe, open, map, check, write, convert.
//!
//! A format is a row of [`FORMATS`] and a folder. Nothing outside this crate matches on a format, and nothing in
//! it opens a file: bytes come from a [`kiln_disk::ByteSource`], a second file only from a [`Resolver`].

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

pub mod completeness;
pub mod deep;
pub mod diff;
mod encoded;
mod facts;
mod foreign;
mod id;
mod identify;
mod image;
pub mod layer;
pub mod layout;
mod nested;
mod options;
mod pages;
mod pieces;
mod resolver;
mod scratch;
mod sectors;
mod siblings;
pub mod summary;
mod table;
#[allow(dead_code, reason = "fields of the formats to come")]
mod wire;

pub mod ova;
pub mod partitions;
pub mod qcow2;
pub mod qemu;
pub mod raw;
pub mod safety;
pub mod tar;
pub mod transfer;
pub mod vdi;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
pub mod wrap;

pub use facts::{Detail, DetailValue, Facts, SnapshotFacts};
pub use foreign::Foreign;
pub use identify::{
    CHECKS, CheckReport, Choice, Identity, check, check_image, identify, is_wrapped, judge, open, open_as,
    select,
};
pub use image::{CheckScope, Image, OpenContext, Tolerance};
pub use options::{OptionSpec, Options};
pub use resolver::{AllowList, DenyAll, ExternalRef, ExternalRole, Resolved, Resolver};
pub use scratch::Scratch;
pub use sectors::{padding, whole_sectors};
pub use siblings::Siblings;
pub use table::{Create, CreateFn, Evidence, FORMATS, Format, OpenFn, ProbeInput, by_name};
