//! VDI: the disks of VirtualBox, dynamic, static, undo and differencing.
//!
//! There is no specification but the sources: VirtualBox, `src/VBox/Storage/VDICore.h` and `VDI.cpp`; QEMU reads
//! a subset (`block/vdi.c`). All numbers are little-endian. A header, a map with one number a block, and blocks of
//! one size behind them, in any order. A differencing disk knows its parent by unique id only, never by name.

mod check;
mod check_table;
mod create;
mod header;
mod image;
mod map;
mod open;
mod problem;

pub use check_table::CHECKS;
pub use problem::VdiProblem;

use crate::table::{Create, Evidence, Format, ProbeInput};
use crate::wire::le32;

/// The row of VDI.
pub static FORMAT: Format = Format {
    id: "vdi",
    aliases: &[],
    extensions: &["vdi"],
    spec: "VirtualBox, src/VBox/Storage/VDICore.h (header version 1.1)",
    probe,
    open: |source, context| Ok(Box::new(open::open(source, context)?)),
    create: Some(Create { options: create::OPTIONS, run: create::create, streams: create::streams }),
    checks: CHECKS,
};

/// The signature behind the 64 bytes of text, which every program words differently.
fn probe(input: &ProbeInput<'_>) -> Option<Evidence> {
    (le32(input.head, header::SIGNATURE_AT) == Some(header::SIGNATURE))
        .then(|| Evidence { what: "signature 0xbeda107f at byte 64".to_owned(), at_start: true })
}
