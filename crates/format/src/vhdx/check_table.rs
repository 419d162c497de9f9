//! The rows of the check of a VHDX: what can be found, said before anything is.

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
const DETACH: &str = "attach the disk once where it was used and detach it cleanly, or convert it with kiln";

pub(super) const HEADER_DAMAGED: CheckSpec = row(
    "vhdx.header.damaged",
    Severity::Damage,
    "one of the two headers is damaged",
    "the other one is used; a writer that was cut off leaves such a file, and so does damage",
    CONVERT,
);
pub(super) const HEADER_TWINS: CheckSpec = row(
    "vhdx.header.twins",
    Severity::Advice,
    "both headers are the same",
    "none; Disk2vhd writes such files, and a strict program may refuse them",
    CONVERT,
);
pub(super) const REGION_DAMAGED: CheckSpec = row(
    "vhdx.region.damaged",
    Severity::Damage,
    "one of the two region tables is damaged",
    "the other one is used; programs that read only the damaged one will not open the file",
    CONVERT,
);
pub(super) const REGION_DIFFER: CheckSpec = row(
    "vhdx.region.differ",
    Severity::Damage,
    "the two region tables say different things",
    "two programs may see two different disks",
    FETCH,
);
pub(super) const OVERLAP: CheckSpec = row(
    "vhdx.layout.overlap",
    Severity::Damage,
    "headers, log or regions lie on top of each other",
    "whoever writes the one destroys the other",
    FETCH,
);
pub(super) const REGION_PAST_END: CheckSpec = row(
    "vhdx.region.past-end",
    Severity::Damage,
    "a part of the file lies behind its end",
    "the file was cut short",
    FETCH,
);
pub(super) const LOG_DIRTY: CheckSpec = row(
    "vhdx.log.dirty",
    Severity::Advice,
    "the log is not empty",
    "the disk was not detached cleanly; Kiln replays the log in memory, programs that do not see an older state",
    DETACH,
);
pub(super) const LOG_DAMAGED: CheckSpec = row(
    "vhdx.log.damaged",
    Severity::Damage,
    "the log is not empty and cannot be replayed",
    "the tables may be half changed",
    FETCH,
);
pub(super) const STATE: CheckSpec = row(
    "vhdx.bat.state",
    Severity::Damage,
    "a block is in a state that the specification does not have",
    "nobody can say what its bytes are",
    FETCH,
);
pub(super) const BLOCK_PAST_END: CheckSpec = row(
    "vhdx.block.past-end",
    Severity::Damage,
    "a block leaves the file",
    "its bytes are lost, or those of them that would lie behind the end",
    FETCH,
);
pub(super) const BLOCK_ON_METADATA: CheckSpec = row(
    "vhdx.block.on-metadata",
    Severity::Damage,
    "a block lies on top of headers, log or regions",
    "its bytes are not the guest's",
    FETCH,
);
pub(super) const ALIASED: CheckSpec = row(
    "vhdx.block.aliased",
    Severity::Damage,
    "two blocks use the same bytes of the file",
    "at most one of them shows what the guest wrote",
    "restore the disk from a copy made before the damage",
);
pub(super) const BITMAP_MISSING: CheckSpec = row(
    "vhdx.bitmap.missing",
    Severity::Damage,
    "a block that is partly in this file has no bitmap",
    "nobody can say which of its sectors are the parent's",
    FETCH,
);
pub(super) const CUT_TAIL: CheckSpec = row(
    "vhdx.block.short-last",
    Severity::Advice,
    "the last block ends with the disk, not with a whole block",
    "none for the guest",
    CONVERT,
);
pub(super) const LEAK: CheckSpec = row(
    "vhdx.leak",
    Severity::Waste,
    "space between the blocks belongs to nothing",
    "the file is larger than it has to be",
    CONVERT,
);
pub(super) const PARENT_ABSENT: CheckSpec = row(
    "vhdx.parent.absent",
    Severity::Advice,
    "the parent disk was not at hand",
    "the disk cannot be read without it; only this file was checked",
    "say where the parent is: --allow-backing NAME=PATH",
);
pub(super) const PARENT_WRONG: CheckSpec = row(
    "vhdx.parent.wrong",
    Severity::Damage,
    "the file offered as parent is another disk, or was written to since",
    "merged with it, the disk would be garbage",
    "offer the very file that the disk was made on, as it was then",
);

/// The table of checks.
pub const CHECKS: &[CheckSpec] = &[
    HEADER_DAMAGED,
    HEADER_TWINS,
    REGION_DAMAGED,
    REGION_DIFFER,
    OVERLAP,
    REGION_PAST_END,
    LOG_DIRTY,
    LOG_DAMAGED,
    STATE,
    BLOCK_PAST_END,
    BLOCK_ON_METADATA,
    ALIASED,
    BITMAP_MISSING,
    CUT_TAIL,
    LEAK,
    PARENT_ABSENT,
    PARENT_WRONG,
];
