//! The rows of the check of a VDI: what can be found, said before anything is.

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

pub(super) const HEADER_ODD: CheckSpec = row(
    "vdi.header.odd",
    Severity::Advice,
    "a field of the header has a value that some program refuses",
    "none for the data",
    CONVERT,
);
pub(super) const SECTORS: CheckSpec = row(
    "vdi.size.sectors",
    Severity::Advice,
    "the length of the disk is not a whole number of sectors",
    "QEMU shows a disk that is rounded up, VirtualBox one that is rounded down",
    CONVERT,
);
pub(super) const LINKED_BASE: CheckSpec = row(
    "vdi.header.linked-base",
    Severity::Damage,
    "a disk that is no differencing one names a parent",
    "programs do not agree whether the parent's bytes count",
    "clone the disk with VBoxManage clonemedium",
);
pub(super) const OVERLAP: CheckSpec = row(
    "vdi.layout.overlap",
    Severity::Damage,
    "header, map or blocks lie on top of each other",
    "whoever writes the one destroys the other",
    FETCH,
);
pub(super) const MAP_SPARE: CheckSpec =
    row("vdi.map.spare", Severity::Advice, "the block map is longer than the disk needs", "none", CONVERT);
pub(super) const BEYOND_DISK: CheckSpec = row(
    "vdi.map.beyond-disk",
    Severity::Waste,
    "blocks behind the end of the disk are allocated",
    "their space is never used",
    CONVERT,
);
pub(super) const BLOCK_PAST_END: CheckSpec = row(
    "vdi.block.past-end",
    Severity::Damage,
    "a block leaves the file",
    "its bytes are lost, or those of them that would lie behind the end; qemu-img reads zeros and says nothing",
    FETCH,
);
pub(super) const BLOCK_ON_METADATA: CheckSpec = row(
    "vdi.block.on-metadata",
    Severity::Damage,
    "a block lies on top of header or map",
    "its bytes are not the guest's",
    FETCH,
);
pub(super) const ALIASED: CheckSpec = row(
    "vdi.block.aliased",
    Severity::Damage,
    "two entries of the map name the same block",
    "at most one of them shows what the guest wrote",
    "restore the disk from a copy made before the damage",
);
pub(super) const CUT_TAIL: CheckSpec = row(
    "vdi.block.short-last",
    Severity::Advice,
    "the last block ends with the disk, not with a whole block",
    "none for the guest",
    CONVERT,
);
pub(super) const COUNT: CheckSpec = row(
    "vdi.blocks.count",
    Severity::Damage,
    "the header counts other blocks than the map has",
    "a program that writes to the disk puts its next block by this number, perhaps on top of one in use",
    CONVERT,
);
pub(super) const LEAK: CheckSpec = row(
    "vdi.leak",
    Severity::Waste,
    "blocks of the file belong to nothing",
    "the file is larger than it has to be",
    CONVERT,
);
pub(super) const UNFINISHED: CheckSpec = row(
    "vdi.unfinished",
    Severity::Damage,
    "there is data behind the last block that the header counts",
    "whoever wrote the file was stopped before the map named that block; what should have followed is missing",
    "convert or copy the disk again",
);
pub(super) const PARENT_ABSENT: CheckSpec = row(
    "vdi.parent.absent",
    Severity::Advice,
    "the parent disk was not at hand",
    "the disk cannot be read without it; only this file was checked",
    "say where the parent is: --allow-backing NAME=PATH, with its unique id as NAME",
);
pub(super) const PARENT_WRONG: CheckSpec = row(
    "vdi.parent.wrong",
    Severity::Damage,
    "the file offered as parent is another disk",
    "merged with it, the disk would be garbage",
    "offer the very file that the disk was made on",
);
pub(super) const PARENT_MODIFIED: CheckSpec = row(
    "vdi.parent.modified",
    Severity::Damage,
    "the parent was written to after the disk was made on it",
    "merged, the two are a disk that never existed",
    "restore the parent as it was, or merge the disks where they were made",
);

/// The table of checks.
pub const CHECKS: &[CheckSpec] = &[
    HEADER_ODD,
    SECTORS,
    LINKED_BASE,
    OVERLAP,
    MAP_SPARE,
    BEYOND_DISK,
    BLOCK_PAST_END,
    BLOCK_ON_METADATA,
    ALIASED,
    CUT_TAIL,
    COUNT,
    LEAK,
    UNFINISHED,
    PARENT_ABSENT,
    PARENT_WRONG,
    PARENT_MODIFIED,
];
