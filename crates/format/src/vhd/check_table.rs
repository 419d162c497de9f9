//! The rows of the check of a VHD: what can be found, said before anything is.

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

pub(super) const FRONT_MISSING: CheckSpec = row(
    "vhd.footer.front-missing",
    Severity::Damage,
    "the copy of the footer at the start of the file is missing",
    "most programs start reading there and will not open the file",
    CONVERT,
);
pub(super) const FRONT_DAMAGED: CheckSpec = row(
    "vhd.footer.front-damaged",
    Severity::Damage,
    "the copy of the footer at the start of the file is damaged",
    "most programs start reading there and will not open the file",
    CONVERT,
);
pub(super) const END_MISSING: CheckSpec = row(
    "vhd.footer.end-missing",
    Severity::Damage,
    "the footer at the end of the file is missing",
    "the file was cut short, its writer was stopped, or something was appended; blocks may be lost",
    FETCH,
);
pub(super) const END_DAMAGED: CheckSpec = row(
    "vhd.footer.end-damaged",
    Severity::Damage,
    "the footer at the end of the file is damaged",
    "the bytes before it may be damaged as well",
    FETCH,
);
pub(super) const COPIES_DIFFER: CheckSpec = row(
    "vhd.footer.copies-differ",
    Severity::Damage,
    "the two footers describe different disks",
    "programs that read the one see another disk than those that read the other",
    "convert the file with the program that wrote it last",
);
pub(super) const FOOTER_ODD: CheckSpec = row(
    "vhd.footer.reserved",
    Severity::Advice,
    "a field that the specification fixes has another value",
    "none; a strict program may refuse the file",
    CONVERT,
);
pub(super) const SHORT_FOOTER: CheckSpec = row(
    "vhd.footer.short",
    Severity::Advice,
    "the footer is 511 bytes long, as Virtual PC wrote it before 2004",
    "none; newer programs do not look for it",
    CONVERT,
);
pub(super) const SAVED_STATE: CheckSpec = row(
    "vhd.footer.saved-state",
    Severity::Advice,
    "the machine that used the disk was suspended, not shut down",
    "its file systems are as after a power cut",
    "start and shut down the machine where it was suspended, then export again",
);
pub(super) const TRAILING: CheckSpec = row(
    "vhd.trailing",
    Severity::Waste,
    "there are bytes behind the last footer",
    "programs that look for a footer in the last 512 bytes do not find it",
    CONVERT,
);
pub(super) const HEADER_DAMAGED: CheckSpec = row(
    "vhd.header.damaged",
    Severity::Damage,
    "the checksum of the dynamic disk header is wrong",
    "block size and table may be wrong, and with them every byte of the disk",
    FETCH,
);
pub(super) const HEADER_ODD: CheckSpec = row(
    "vhd.header.reserved",
    Severity::Advice,
    "a reserved field of the dynamic disk header is not zero",
    "none; a strict program may refuse the file",
    CONVERT,
);
pub(super) const OVERLAP: CheckSpec = row(
    "vhd.layout.overlap",
    Severity::Damage,
    "headers or table lie on top of each other",
    "whoever writes the one destroys the other",
    FETCH,
);
pub(super) const GEOMETRY: CheckSpec = row(
    "vhd.size.geometry",
    Severity::Advice,
    "geometry and current size disagree on the length of the disk",
    "programs that go by the geometry show another length than those that go by the size",
    CONVERT,
);
pub(super) const FIXED_SHORT: CheckSpec = row(
    "vhd.fixed.truncated",
    Severity::Damage,
    "the file holds less than the disk",
    "the end of the disk is lost",
    FETCH,
);
pub(super) const FIXED_SLACK: CheckSpec = row(
    "vhd.fixed.slack",
    Severity::Waste,
    "the file holds more than the disk",
    "bytes between the end of the disk and the footer are never seen by the guest",
    CONVERT,
);
pub(super) const TABLE_SPARE: CheckSpec = row(
    "vhd.bat.spare",
    Severity::Advice,
    "the block allocation table is longer than the disk needs",
    "none",
    CONVERT,
);
pub(super) const BEYOND_DISK: CheckSpec = row(
    "vhd.bat.beyond-disk",
    Severity::Waste,
    "blocks behind the end of the disk are allocated",
    "their space is never used",
    CONVERT,
);
pub(super) const BLOCK_PAST_END: CheckSpec = row(
    "vhd.block.past-end",
    Severity::Damage,
    "a block leaves the file",
    "its bytes are lost, or those of them that would lie behind the end",
    FETCH,
);
pub(super) const BLOCK_ON_METADATA: CheckSpec = row(
    "vhd.block.on-metadata",
    Severity::Damage,
    "a block lies on top of headers or table",
    "its bytes are not the guest's",
    FETCH,
);
pub(super) const ALIASED: CheckSpec = row(
    "vhd.block.aliased",
    Severity::Damage,
    "two blocks use the same bytes of the file",
    "at most one of them shows what the guest wrote",
    "restore the disk from a copy made before the damage",
);
pub(super) const CUT_TAIL: CheckSpec = row(
    "vhd.block.short-last",
    Severity::Advice,
    "the last block ends with the disk, not with a whole block",
    "none for the guest; QEMU calls such a file truncated",
    CONVERT,
);
pub(super) const LEAK: CheckSpec = row(
    "vhd.leak",
    Severity::Waste,
    "space between the blocks belongs to nothing",
    "the file is larger than it has to be",
    CONVERT,
);
pub(super) const BITMAP: CheckSpec = row(
    "vhd.bitmap.unwritten-data",
    Severity::Damage,
    "sectors that the bitmap calls never written are not zero",
    "programs that honour the bitmap read zeros, QEMU and Kiln read the bytes",
    "convert the file with the program that wrote it",
);
pub(super) const PARENT_ABSENT: CheckSpec = row(
    "vhd.parent.absent",
    Severity::Advice,
    "the parent disk was not at hand",
    "the disk cannot be read without it; only this file was checked",
    "say where the parent is: --allow-backing NAME=PATH",
);
pub(super) const PARENT_WRONG: CheckSpec = row(
    "vhd.parent.wrong",
    Severity::Damage,
    "the file offered as parent is another disk",
    "merged with it, the disk would be garbage",
    "offer the very file that the disk was made on",
);
pub(super) const PARENT_TIME: CheckSpec = row(
    "vhd.parent.time-stamp",
    Severity::Advice,
    "the parent's time stamp is not the one that the disk remembers",
    "if the parent was written to after the disk was made, the merged disk is inconsistent; copying it also changes the stamp",
    "make sure that nobody used the parent since",
);
pub(super) const LOCATOR: CheckSpec = row(
    "vhd.locator.past-end",
    Severity::Damage,
    "a name of the parent lies outside the file",
    "programs that know the parent by this name do not find it",
    CONVERT,
);

/// The table of checks.
pub const CHECKS: &[CheckSpec] = &[
    FRONT_MISSING,
    FRONT_DAMAGED,
    END_MISSING,
    END_DAMAGED,
    COPIES_DIFFER,
    FOOTER_ODD,
    SHORT_FOOTER,
    SAVED_STATE,
    TRAILING,
    HEADER_DAMAGED,
    HEADER_ODD,
    OVERLAP,
    GEOMETRY,
    FIXED_SHORT,
    FIXED_SLACK,
    TABLE_SPARE,
    BEYOND_DISK,
    BLOCK_PAST_END,
    BLOCK_ON_METADATA,
    ALIASED,
    CUT_TAIL,
    LEAK,
    BITMAP,
    PARENT_ABSENT,
    PARENT_WRONG,
    PARENT_TIME,
    LOCATOR,
];
