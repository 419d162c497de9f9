//! The rows of the check of a VMDK: what can be found, said before anything is.

use kiln_disk::{CheckSpec, Severity};

const fn row(
    id: &'static str,
    severity: Severity,
    summary: &'static str,
    effect: &'static str,
    fix: &'static str,
) -> CheckSpec {
    CheckSpec { id, severity, summary, effect, fix }
}

const CONVERT: &str = "kiln convert writes the disk anew, in order";
const FETCH: &str = "get the file again and compare its checksum";
const ANEW: &str = "convert or export the disk again, from its source";

pub(super) const NEWLINES: CheckSpec = row(
    "vmdk.header.newlines",
    Severity::Damage,
    "the file was transferred as text",
    "every byte that looked like a line end may have been changed, all over the disk",
    "transfer the file again in binary mode",
);
pub(super) const COMPRESSION: CheckSpec = row(
    "vmdk.header.compression",
    Severity::Damage,
    "the header contradicts itself about compression",
    "programs disagree whether grains are compressed",
    FETCH,
);
pub(super) const FLAGS: CheckSpec = row(
    "vmdk.header.flags",
    Severity::Advice,
    "the header has flags that the specification does not know",
    "none is known; a strict program may refuse the file",
    CONVERT,
);
pub(super) const UNCLEAN: CheckSpec = row(
    "vmdk.header.unclean",
    Severity::Advice,
    "the disk was in use when it was copied, or its machine was not shut down",
    "the guest sees a disk as after a power cut",
    "shut the machine down and copy the disk again",
);
pub(super) const FOOTER_DIFFERS: CheckSpec = row(
    "vmdk.footer.differs",
    Severity::Damage,
    "header and footer describe different disks",
    "programs that read the one see another disk than those that read the other",
    ANEW,
);
pub(super) const STREAM_END: CheckSpec = row(
    "vmdk.stream.end-missing",
    Severity::Damage,
    "the stream does not end with footer marker, footer and end-of-stream marker",
    "the end of the file was cut off or changed; most programs will not open it",
    FETCH,
);
pub(super) const TRAILING: CheckSpec = row(
    "vmdk.stream.trailing",
    Severity::Advice,
    "zeros follow the end of the stream",
    "programs that look for the footer at the very end will not find it",
    CONVERT,
);
pub(super) const UNFINISHED: CheckSpec = row(
    "vmdk.unfinished",
    Severity::Damage,
    "the program that wrote the file was stopped",
    "everything behind the last grain that was written reads as zeros",
    ANEW,
);
pub(super) const OVERLAP: CheckSpec = row(
    "vmdk.layout.overlap",
    Severity::Damage,
    "two structures of the file lie on the same bytes",
    "one of them is wrong, and with it any part of the disk",
    FETCH,
);
pub(super) const TABLE_PAST_END: CheckSpec = row(
    "vmdk.table.past-end",
    Severity::Damage,
    "a grain table does not lie inside the file",
    "its part of the disk is lost",
    FETCH,
);
pub(super) const TABLE_ALIASED: CheckSpec = row(
    "vmdk.table.aliased",
    Severity::Damage,
    "two grain tables use the same bytes of the file",
    "one part of the disk shows the data of another",
    FETCH,
);
pub(super) const REDUNDANT: CheckSpec = row(
    "vmdk.redundant.differs",
    Severity::Damage,
    "the redundant grain directory leads to other grains than the first",
    "a program that falls back on it sees another disk",
    CONVERT,
);
pub(super) const GRAIN_PAST_END: CheckSpec = row(
    "vmdk.grain.past-end",
    Severity::Damage,
    "a grain does not lie inside the file",
    "its part of the disk is lost: the file was cut short, or never written to its end",
    FETCH,
);
pub(super) const GRAIN_ALIASED: CheckSpec = row(
    "vmdk.grain.aliased",
    Severity::Damage,
    "two grains use the same bytes of the file",
    "one part of the disk shows the data of another",
    FETCH,
);
pub(super) const ON_METADATA: CheckSpec = row(
    "vmdk.grain.on-metadata",
    Severity::Damage,
    "a table or a grain lies on top of headers or tables",
    "the guest sees the file's own structures there, or destroys them when it writes",
    FETCH,
);
pub(super) const MARKER: CheckSpec = row(
    "vmdk.grain.marker",
    Severity::Damage,
    "the marker of a compressed grain does not belong to it",
    "its part of the disk is lost, or shows the data of another",
    FETCH,
);
pub(super) const DECODE: CheckSpec = row(
    "vmdk.grain.decode",
    Severity::Damage,
    "a compressed grain does not decode to a grain",
    "its part of the disk is lost",
    FETCH,
);
pub(super) const LEAK: CheckSpec = row(
    "vmdk.leak",
    Severity::Waste,
    "no table leads to a part of the file",
    "space is lost, no data is",
    CONVERT,
);
pub(super) const DESCRIPTOR: CheckSpec = row(
    "vmdk.descriptor.damaged",
    Severity::Damage,
    "the descriptor inside the file is missing or damaged",
    "most programs will not open the file; whether the disk has a parent is not known",
    FETCH,
);
pub(super) const CAPACITY: CheckSpec = row(
    "vmdk.extent.capacity",
    Severity::Damage,
    "descriptor and header give an extent different lengths",
    "programs disagree about the length of the disk",
    ANEW,
);
pub(super) const EXTENT_SHORT: CheckSpec = row(
    "vmdk.extent.short",
    Severity::Damage,
    "the file of a flat extent is shorter than the extent",
    "the end of the extent is lost",
    FETCH,
);
pub(super) const EXTENT_ALIASED: CheckSpec = row(
    "vmdk.extent.aliased",
    Severity::Damage,
    "two extents use the same part of one file",
    "one part of the disk shows the data of another",
    FETCH,
);
pub(super) const EXTENT_ABSENT: CheckSpec = row(
    "vmdk.extent.absent",
    Severity::Fatal,
    "the file of an extent cannot be used",
    "its part of the disk cannot be read",
    "put all extents beside the descriptor, under the names that it gives them",
);
pub(super) const PARENT_ABSENT: CheckSpec = row(
    "vmdk.parent.absent",
    Severity::Fatal,
    "the disk was made on another one that cannot be used",
    "what the disk does not hold itself cannot be read",
    "say where the parent is with --allow-backing NAME=PATH, or merge the disk where it was made",
);

/// Everything that the check of a VMDK can find.
pub static CHECKS: &[CheckSpec] = &[
    NEWLINES,
    COMPRESSION,
    FLAGS,
    UNCLEAN,
    FOOTER_DIFFERS,
    STREAM_END,
    TRAILING,
    UNFINISHED,
    OVERLAP,
    TABLE_PAST_END,
    TABLE_ALIASED,
    REDUNDANT,
    GRAIN_PAST_END,
    GRAIN_ALIASED,
    ON_METADATA,
    MARKER,
    DECODE,
    LEAK,
    DESCRIPTOR,
    CAPACITY,
    EXTENT_SHORT,
    EXTENT_ALIASED,
    EXTENT_ABSENT,
    PARENT_ABSENT,
];
