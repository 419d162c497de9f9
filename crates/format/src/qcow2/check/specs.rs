//! Everything that the check can find, as data.

use kiln_disk::{CheckSpec, Severity};

const REFETCH: &str = "fetch or copy the file again and compare its checksum";
const REPAIR: &str = "run qemu-img check -r all on a copy of the file";
const HOSTILE: &str = "do not use the file: ask whoever made it how it came about";

macro_rules! checks {
    ($($name:ident: $id:literal $severity:ident $summary:literal, $effect:literal, $fix:ident;)*) => {
        $(#[allow(dead_code, reason = "some rows are found by the code of an error")]
        pub(super) const $name: CheckSpec = CheckSpec {
            id: $id, severity: Severity::$severity, summary: $summary, effect: $effect, fix: $fix,
        };)*
        /// The table of findings.
        pub(in crate::qcow2) static CHECKS: &[CheckSpec] = &[$($name),*];
    };
}

checks! {
    HEADER: "qcow2.header" Fatal
        "a header field is wrong",
        "the file cannot be used as it is", REFETCH;
    CORRUPT: "qcow2.corrupt" Damage
        "the image is marked as corrupt",
        "some guest data may be wrong: the program that wrote last met damage", REPAIR;
    DIRTY: "qcow2.dirty" Waste
        "the image was not closed cleanly",
        "guest data is whole; reference counts may lag behind", REPAIR;
    UNFINISHED: "qcow2.unfinished" Damage
        "the disk is empty, and behind the tables lies data that nothing leads to",
        "a conversion was stopped before it wrote its tables: the disk reads as zeros", REFETCH;
    RAW_BIT: "qcow2.data-file.raw-bit" Fatal
        "the raw-external-data bit contradicts the header",
        "where guest data is cannot be known", REFETCH;
    SNAPSHOT_DATA_FILE: "qcow2.snapshots.data-file" Damage
        "internal snapshots beside an external data file",
        "the snapshots do not hold what they held", REFETCH;
    EXT_PAST_END: "qcow2.extension.past-end" Damage
        "a header extension leaves its area",
        "what the extension says is lost", REFETCH;
    EXT_TWICE: "qcow2.extension.twice" Damage
        "a header extension appears twice",
        "which of the two counts cannot be known", REFETCH;
    EXT_LENGTH: "qcow2.extension.length" Damage
        "a header extension has a wrong length",
        "what the extension says is lost", REFETCH;
    L1_TOO_LARGE: "qcow2.l1.too-large" Fatal
        "the L1 table is larger than any real one",
        "the file cannot be used as it is", REFETCH;
    L1_UNALIGNED: "qcow2.l1.unaligned" Fatal
        "the L1 table is not at a cluster boundary",
        "no guest data can be found", REFETCH;
    L1_PAST_END: "qcow2.l1.past-end" Fatal
        "the L1 table lies past the end of the file",
        "no guest data can be found", REFETCH;
    L1_TOO_SMALL: "qcow2.l1.too-small" Fatal
        "the L1 table is too small for the disk",
        "the end of the disk cannot be found", REFETCH;
    L1_RESERVED: "qcow2.l1.reserved-bits" Damage
        "reserved bits of an L1 entry are set",
        "the guest bytes under the entry cannot be read", REFETCH;
    L1_COPIED: "qcow2.l1.copied-flag" Damage
        "the copied flag of an L1 entry contradicts the refcount",
        "a write could change a snapshot, or copy without need", REPAIR;
    L2_UNALIGNED: "qcow2.l2.unaligned" Damage
        "an L2 table is not at a cluster boundary",
        "the guest bytes under it cannot be read", REFETCH;
    L2_PAST_END: "qcow2.l2.past-end" Damage
        "an L2 table lies past the end of the file",
        "the guest bytes under it are lost", REFETCH;
    L2_ALIASED: "qcow2.l2.aliased" Fatal
        "an L2 table is used by several L1 entries",
        "a small file pretends to hold a large disk", HOSTILE;
    L2_RESERVED: "qcow2.l2.reserved-bits" Damage
        "reserved bits of an L2 entry are set",
        "the guest cluster cannot be read", REFETCH;
    L2_COPIED: "qcow2.l2.copied-flag" Damage
        "the copied flag of an L2 entry contradicts the refcount",
        "a write could change a snapshot, or copy without need", REPAIR;
    DATA_UNALIGNED: "qcow2.data.unaligned" Damage
        "a data cluster is not at a cluster boundary",
        "the guest cluster cannot be read", REFETCH;
    DATA_AT_ZERO: "qcow2.data.at-zero" Damage
        "a guest cluster is said to be where the header is",
        "the guest cluster cannot be read", REFETCH;
    DATA_ALIASED: "qcow2.data.aliased" Damage
        "several guest clusters use the same data",
        "a write to one changes the others; a small file pretends to hold a large disk", HOSTILE;
    DATA_PAST_END: "qcow2.data.past-end" Damage
        "guest data lies past the end of the file",
        "the guest bytes are lost: the file is cut short", REFETCH;
    COMPRESSED_BAD: "qcow2.compressed.bad" Damage
        "compressed data does not decode to a whole cluster",
        "the guest cluster is lost", REFETCH;
    COMPRESSED_SKIPPED: "qcow2.compressed.skipped" Damage
        "compressed data was left undecoded: there is more of it than the file has bytes",
        "the clusters overlap, most of them are not what they were", HOSTILE;
    SUBCLUSTER_BOTH: "qcow2.subcluster.both" Damage
        "a subcluster is allocated and zero at once",
        "the guest bytes cannot be known", REFETCH;
    SUBCLUSTER_NOWHERE: "qcow2.subcluster.nowhere" Damage
        "subclusters are allocated without a place",
        "the guest bytes are lost", REFETCH;
    DATA_FILE_COMPRESSED: "qcow2.data-file.compressed" Damage
        "compressed data in an image with a data file",
        "the guest cluster cannot be read", REFETCH;
    DATA_FILE_MOVED: "qcow2.data-file.moved" Damage
        "a cluster of the data file is not where the guest sees it",
        "the guest cluster cannot be trusted", REFETCH;
    OVERLAP: "qcow2.overlap" Damage
        "two structures use the same cluster",
        "one of them destroyed the other", REPAIR;
    REFTABLE_TOO_LARGE: "qcow2.refcount-table.too-large" Damage
        "the refcount table is larger than any real one",
        "guest data can be read; nothing may be written", REPAIR;
    REFTABLE_UNALIGNED: "qcow2.refcount-table.unaligned" Damage
        "the refcount table is not at a cluster boundary",
        "guest data can be read; nothing may be written", REPAIR;
    REFTABLE_PAST_END: "qcow2.refcount-table.past-end" Damage
        "the refcount table lies past the end of the file",
        "guest data can be read; nothing may be written", REPAIR;
    REFTABLE_RESERVED: "qcow2.refcount-table.reserved-bits" Damage
        "reserved bits of a refcount table entry are set",
        "guest data can be read; nothing may be written", REPAIR;
    REFBLOCK_UNALIGNED: "qcow2.refcount-block.unaligned" Damage
        "a refcount block is not at a cluster boundary",
        "guest data can be read; nothing may be written", REPAIR;
    REFBLOCK_PAST_END: "qcow2.refcount-block.past-end" Damage
        "a refcount block lies past the end of the file",
        "guest data can be read; nothing may be written", REPAIR;
    REFCOUNT_LOW: "qcow2.refcount.low" Damage
        "a cluster is used more often than its refcount says",
        "a later write can destroy guest data", REPAIR;
    REFCOUNT_HIGH: "qcow2.refcount.high" Waste
        "a cluster is used less often than its refcount says",
        "writes copy it without need", REPAIR;
    LEAK: "qcow2.refcount.leak" Waste
        "a cluster is counted as used and is not",
        "the space is lost", REPAIR;
    REFCOUNT_PAST_END: "qcow2.refcount.past-end" Waste
        "clusters past the end of the file are counted as used",
        "the space is lost, or the file was cut short behind its data", REPAIR;
    SNAPSHOTS_TOO_MANY: "qcow2.snapshots.too-many" Damage
        "more snapshots than any real image has",
        "the snapshots cannot be used", REFETCH;
    SNAPSHOTS_UNALIGNED: "qcow2.snapshots.unaligned" Damage
        "the snapshot table is not at a cluster boundary",
        "the snapshots cannot be used", REFETCH;
    SNAPSHOTS_PAST_END: "qcow2.snapshots.past-end" Damage
        "the snapshot table lies past the end of the file",
        "the snapshots are lost", REFETCH;
    SNAPSHOTS_ENTRY: "qcow2.snapshots.entry" Damage
        "a snapshot entry is wrong",
        "this snapshot and those behind it are lost", REFETCH;
    SNAPSHOTS_EXTRA: "qcow2.snapshots.extra-short" Damage
        "a snapshot entry lacks the length of its disk",
        "this snapshot and those behind it cannot be used", REPAIR;
    SNAPSHOT_L1_LARGE: "qcow2.snapshot.l1-too-large" Damage
        "the L1 table of a snapshot is larger than any real one",
        "the snapshot cannot be used", REFETCH;
    SNAPSHOT_L1_UNALIGNED: "qcow2.snapshot.l1-unaligned" Damage
        "the L1 table of a snapshot is not at a cluster boundary",
        "the snapshot cannot be used", REFETCH;
    SNAPSHOT_L1_PAST_END: "qcow2.snapshot.l1-past-end" Damage
        "the L1 table of a snapshot lies past the end of the file",
        "the snapshot is lost", REFETCH;
    BITMAPS_ABSENT: "qcow2.bitmaps.absent" Damage
        "the bitmaps bit is set without bitmaps",
        "the next incremental backup must be a full one", REPAIR;
    BITMAPS_UNALIGNED: "qcow2.bitmaps.unaligned" Damage
        "a bitmap structure is not at a cluster boundary",
        "the next incremental backup must be a full one", REPAIR;
    BITMAPS_PAST_END: "qcow2.bitmaps.past-end" Damage
        "a bitmap structure lies past the end of the file",
        "the next incremental backup must be a full one", REPAIR;
    BITMAPS_ENTRY: "qcow2.bitmaps.entry" Damage
        "a bitmap entry is wrong",
        "the next incremental backup must be a full one", REPAIR;
    BITMAPS_DIRECTORY: "qcow2.bitmaps.directory" Damage
        "the bitmap directory does not fit its entries",
        "the next incremental backup must be a full one", REPAIR;
    BITMAPS_TABLE: "qcow2.table.too-large" Damage
        "the bitmap directory is larger than any real one",
        "the next incremental backup must be a full one", REPAIR;
    BITMAP_IN_USE: "qcow2.bitmaps.in-use" Advice
        "a bitmap was in use when the image was last written",
        "it may lack changes: the next backup must be a full one", REPAIR;
}
