//! Files that Kiln knows by sight and does not read as disks: named, with the way out, never taken for raw.

use crate::table::ProbeInput;
use crate::wire::{be32, bytes, le64};
use crate::wrap;

/// A kind of file that is recognised and not read.
pub struct Foreign {
    /// Stable id: `gzip`.
    pub id: &'static str,
    /// In words: "a gzip-compressed file".
    pub name: &'static str,
    /// What to do with it.
    pub advice: &'static str,
    /// A guest's own disk may begin like this too (a file system, an encrypted volume).
    pub(crate) may_be_content: bool,
    pub(crate) matches: fn(&ProbeInput<'_>) -> bool,
}

impl std::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Foreign").field(&self.id).finish()
    }
}

const UNPACK: &str = "unpack it first; the disk image is inside";
const CONVERT: &str = "convert it to qcow2 with the tool that made it, then import that";

const fn row(
    id: &'static str,
    name: &'static str,
    advice: &'static str,
    matches: fn(&ProbeInput<'_>) -> bool,
) -> Foreign {
    Foreign { id, name, advice, may_be_content: false, matches }
}

const fn content(
    id: &'static str,
    name: &'static str,
    advice: &'static str,
    matches: fn(&ProbeInput<'_>) -> bool,
) -> Foreign {
    Foreign { id, name, advice, may_be_content: true, matches }
}

/// All kinds that are recognised. Sources: the magic numbers of each format's own specification.
pub(crate) static FOREIGN: &[Foreign] = &[
    row("gzip", "a gzip-compressed file", UNPACK, |p| wrap::begins_with("gzip", p.head)),
    row("xz", "an xz-compressed file", UNPACK, |p| wrap::begins_with("xz", p.head)),
    row("zstd", "a zstd-compressed file", UNPACK, |p| wrap::begins_with("zstd", p.head)),
    row("bzip2", "a bzip2-compressed file", UNPACK, |p| wrap::begins_with("bzip2", p.head)),
    row("lz4", "an lz4-compressed file", UNPACK, |p| wrap::begins_with("lz4", p.head)),
    row("zip", "a zip archive", UNPACK, |p| p.head.starts_with(b"PK\x03\x04")),
    row("7z", "a 7-Zip archive", UNPACK, |p| p.head.starts_with(b"7z\xbc\xaf\x27\x1c")),
    row("rar", "a RAR archive", UNPACK, |p| p.head.starts_with(b"Rar!\x1a\x07")),
    row("vmdk-cowd", "a VMDK disk of ESX COWD type", CONVERT, |p| p.head.starts_with(b"COWD")),
    row("vmdk-sesparse", "a VMDK disk of SEsparse type", CONVERT, |p| le64(p.head, 0) == Some(0xcafe_babe)),
    row("qcow1", "a qcow disk of version 1", CONVERT, |p| {
        p.head.starts_with(b"QFI\xfb") && be32(p.head, 4) == Some(1)
    }),
    row("qed", "a QED disk", CONVERT, |p| p.head.starts_with(b"QED\0")),
    row("parallels", "a Parallels disk", CONVERT, |p| {
        p.head.starts_with(b"WithoutFreeSpace") || p.head.starts_with(b"WithouFreSpacExt")
    }),
    row("dmg", "an Apple disk image", CONVERT, |p| {
        p.tail.len().checked_sub(512).is_some_and(|at| bytes::<4>(p.tail, at) == Some(*b"koly"))
    }),
    row("cloop", "a cloop-compressed file system", UNPACK, |p| {
        p.head.starts_with(b"#!/bin/sh\n#V2.0 Format\n")
    }),
    row("partclone", "a partclone backup", "restore it to a disk with partclone first", |p| {
        p.head.starts_with(b"partclone-image")
    }),
    content(
        "iso9660",
        "an ISO 9660 image (an installer or live medium)",
        "install from it into a disk, then import that disk",
        |p| bytes::<5>(p.head, 32_769) == Some(*b"CD001"),
    ),
    content("luks", "a LUKS-encrypted volume", "import the disk unlocked, or with --as raw as it is", |p| {
        p.head.starts_with(b"LUKS\xba\xbe")
    }),
];
