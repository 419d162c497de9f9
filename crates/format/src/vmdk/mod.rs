//! VMDK: the disks of VMware, in all the forms that leave a host, and of everybody who exports to it.
//!
//! VMware, "Virtual Disk Format 5.0" and "Virtual Disk Format 1.1". A disk is a list of extents, written down in a
//! text called the descriptor. A *hosted sparse* extent is a header, a grain directory, grain tables and grains;
//! its disk may be only this extent, with the descriptor inside (monolithicSparse, and streamOptimized with
//! compressed grains). Otherwise the descriptor is a file of its own and its extents lie beside it: sparse or flat,
//! and stretches of zeros. All numbers are little-endian, all positions sectors of 512 bytes, in 32 bits where a
//! grain is meant: an extent's file ends at 2 TiB.

mod check;
mod codec;
mod descriptor;
mod extents;
mod facts;
mod header;
mod image;
mod layout;
mod open;
mod problem;
mod sparse;
pub(crate) mod streamed;
mod tail;
mod write;

pub use check::CHECKS;
pub use problem::VmdkProblem;

use crate::table::{Create, Evidence, Format, ProbeInput};

/// The row of VMDK.
pub static FORMAT: Format = Format {
    id: "vmdk",
    aliases: &[],
    extensions: &["vmdk"],
    spec: "VMware Virtual Disk Format 5.0 and 1.1",
    probe,
    open: |source, context| Ok(Box::new(open::open(source, context)?)),
    create: Some(Create { options: write::OPTIONS, run: write::create, streams: write::streams }),
    checks: CHECKS,
};

/// A sparse extent's magic number, or a descriptor's first lines.
fn probe(input: &ProbeInput<'_>) -> Option<Evidence> {
    let what = if input.head.starts_with(header::MAGIC) {
        "magic \"KDMV\" of a sparse extent"
    } else if is_descriptor(input.head) {
        "a descriptor's first lines"
    } else {
        return None;
    };
    Some(Evidence { what: what.to_owned(), at_start: true })
}

/// Comments and empty lines, then `version=`: what QEMU takes for a descriptor as well. The usual first comment
/// alone is enough, so that a damaged descriptor is named as one.
fn is_descriptor(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let first = head.get(..21).unwrap_or_default();
    if first.eq_ignore_ascii_case(b"# Disk DescriptorFile") {
        return true;
    }
    let lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let mut lines = lines.skip_while(|line| line.is_empty() || line.starts_with(b"#"));
    matches!(lines.next(), Some(b"version=1" | b"version=2" | b"version=3"))
}
