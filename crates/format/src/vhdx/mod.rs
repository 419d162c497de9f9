//! VHDX: fixed, dynamic and differencing disks of Hyper-V.
//!
//! Microsoft, [MS-VHDX] "Virtual Hard Disk v2 (VHDX) File Format". All numbers are little-endian, everything of
//! size lies at multiples of a mebibyte, and a disk ends at 64 TiB. Two headers of which the newer counts, a log
//! of changes to tables that may not have reached them, two copies of a list of regions, metadata, and the block
//! allocation table, in which bitmaps of sectors are mixed with the payload blocks.
//!
//! A log that is not empty is replayed into memory, as the specification asks; the file is never written to.

mod bat;
mod check;
mod check_table;
mod create;
mod header;
mod image;
mod log;
mod metadata;
mod open;
mod overlay;
mod parent;
mod problem;
mod region;

pub use check_table::CHECKS;
pub use problem::VhdxProblem;

use crate::table::{Create, Evidence, Format, ProbeInput};

/// Unit in which regions and blocks are placed.
const MIB: u64 = 1 << 20;

/// The row of VHDX.
pub static FORMAT: Format = Format {
    id: "vhdx",
    aliases: &[],
    extensions: &["vhdx"],
    spec: "[MS-VHDX] Virtual Hard Disk v2 (VHDX) File Format",
    probe,
    open: |source, context| Ok(Box::new(open::open(source, context)?)),
    create: Some(Create { options: create::OPTIONS, run: create::create, streams: create::streams }),
    checks: CHECKS,
};

/// The signature of the file type identifier ([MS-VHDX] 2.2.1).
fn probe(input: &ProbeInput<'_>) -> Option<Evidence> {
    input
        .head
        .starts_with(header::FILE_SIGNATURE)
        .then(|| Evidence { what: "signature \"vhdxfile\" at byte 0".to_owned(), at_start: true })
}
