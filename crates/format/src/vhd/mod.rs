//! VHD: fixed, dynamic and differencing disks of Virtual PC, Hyper-V, Azure and everybody who talks to them.
//!
//! Microsoft, "Virtual Hard Disk Image Format Specification", version 1.0 (October 11, 2006). All numbers are
//! big-endian, all positions bytes or sectors of 512 bytes, and a disk ends at 2040 GiB.
//!
//! A fixed disk is the guest's bytes with a footer behind them. A dynamic disk starts with a copy of its footer, a
//! header and a block allocation table; each block is a bitmap of its sectors and its data, anywhere behind them.
//! A differencing disk is a dynamic disk whose missing sectors are in its parent.

mod blocks;
mod check;
mod check_table;
mod create;
mod footer;
mod header;
mod image;
mod open;
mod problem;

pub use check_table::CHECKS;
pub use problem::VhdProblem;

use crate::table::{Create, Evidence, Format, ProbeInput};

/// The row of VHD.
pub static FORMAT: Format = Format {
    id: "vhd",
    aliases: &["vpc"],
    extensions: &["vhd", "vpc"],
    spec: "Microsoft Virtual Hard Disk Image Format Specification 1.0 (2006-10-11)",
    probe,
    open: |source, context| Ok(Box::new(open::open(source, context)?)),
    create: Some(Create { options: create::OPTIONS, run: create::create, streams: create::streams }),
    checks: CHECKS,
};

/// A footer at the start, or one of 512 or 511 bytes at the end.
///
/// The cookie alone decides at the start, as everywhere. At the end it also takes a disk type of the
/// specification: any raw disk may happen to hold those eight bytes in its last sector.
fn probe(input: &ProbeInput<'_>) -> Option<Evidence> {
    if input.head.starts_with(footer::COOKIE) {
        return Some(Evidence {
            what: "footer \"conectix\" in the first 512 bytes".to_owned(),
            at_start: true,
        });
    }
    [footer::FOOTER_LEN, footer::SHORT_FOOTER_LEN].into_iter().find_map(|len| {
        let found = input.tail.get(input.tail.len().checked_sub(len)?..)?;
        let mut raw = [0; footer::FOOTER_LEN];
        raw.get_mut(..len)?.copy_from_slice(found);
        let reading = footer::read(&raw);
        let kind = reading.any()?.disk_type.word();
        Some(Evidence {
            what: format!("{kind} disk footer \"conectix\" in the last {len} bytes"),
            at_start: false,
        })
    })
}
