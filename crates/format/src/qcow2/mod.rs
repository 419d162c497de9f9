//! qcow2, versions 2 and 3: QEMU's copy-on-write format.
//!
//! Specification: "Qcow2 Image File Format", QEMU, docs/interop/qcow2. Field names in this folder are its field names.
//!
//! - `header`, `extension`, `snapshot`, `bitmap`, `entry`: bytes in, meaning out;
//! - `map`: from guest bytes to table entries, `cache` holds the tables;
//! - `read`, `codec`, `external`: from table entries to bytes;
//! - `passing`: a file that comes once, read as it comes;
//! - `check`: what can be wrong with the whole file;
//! - `write`: a new file, front to back.

mod bitmap;
mod cache;
mod charged;
mod check;
mod codec;
mod entry;
mod extension;
mod external;
mod facts;
mod geometry;
mod header;
mod map;
mod open;
pub(crate) mod passing;
mod problem;
mod read;
mod snapshot;
mod write;

use crate::table::{Evidence, Format, ProbeInput};
use crate::wire::be32;

pub use open::Qcow2Image;
pub use problem::{Qcow2Problem, Table};

/// The row of qcow2.
pub static FORMAT: Format = Format {
    id: "qcow2",
    aliases: &["qcow3"],
    extensions: &["qcow2", "qcow"],
    spec: "QEMU, docs/interop/qcow2: Qcow2 Image File Format",
    probe,
    open: open::open,
    create: Some(write::CREATE),
    checks: check::CHECKS,
};

/// Magic and version. Version 1 has the same magic and is another format.
fn probe(input: &ProbeInput<'_>) -> Option<Evidence> {
    let magic = be32(input.head, 0)?;
    let version = be32(input.head, 4)?;
    (magic == header::MAGIC && matches!(version, 2 | 3))
        .then(|| Evidence { what: format!("magic QFI\\xfb, version {version}"), at_start: true })
}

#[cfg(test)]
mod tests {
    use super::probe;
    use crate::table::ProbeInput;

    fn matches(head: &[u8]) -> Option<String> {
        probe(&ProbeInput { head, tail: &[], file_len: 1 << 20 }).map(|evidence| evidence.what)
    }

    #[test]
    fn only_versions_2_and_3_match() {
        assert_eq!(matches(b"QFI\xfb\0\0\0\x03"), Some("magic QFI\\xfb, version 3".to_owned()));
        assert_eq!(matches(b"QFI\xfb\0\0\0\x02"), Some("magic QFI\\xfb, version 2".to_owned()));
        for other in [b"QFI\xfb\0\0\0\x01", b"QFI\xfb\0\0\0\x04", b"QFI\xfa\0\0\0\x03"] {
            assert_eq!(matches(other), None);
        }
        assert_eq!(matches(b"QFI\xfb\0\0\0"), None);
        assert_eq!(matches(b""), None);
    }
}
