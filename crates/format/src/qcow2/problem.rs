//! Every way in which a qcow2 file can contradict its specification or itself.

use kiln_disk::Problem;

/// What is wrong with a qcow2 file. Offsets are bytes in the file unless a field says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Qcow2Problem {
    /// The file ends inside the header.
    #[error("the file has {actual} bytes, its header alone has {expected}")]
    HeaderShort {
        /// Bytes that the header has.
        expected: u64,
        /// Length of the file.
        actual: u64,
    },
    /// The first four bytes are not `QFI\xfb`.
    #[error("magic is {actual:#010x}, expected 0x514649fb")]
    Magic {
        /// What stands there.
        actual: u32,
    },
    /// `cluster_bits` is not 9 to 21.
    #[error("cluster_bits is {actual}, expected 9 to 21")]
    ClusterBits {
        /// What stands there.
        actual: u32,
    },
    /// Extended L2 entries need clusters of 16 KiB or more.
    #[error("cluster_bits is {actual}, extended L2 entries need 14 or more")]
    ClusterBitsExtended {
        /// What stands there.
        actual: u32,
    },
    /// `header_length` is below 104, not a multiple of 8, or more than a cluster.
    #[error("header_length is {actual}, expected a multiple of 8 from 104 to {cluster_len}")]
    HeaderLength {
        /// What stands there.
        actual: u32,
        /// Length of a cluster.
        cluster_len: u64,
    },
    /// `refcount_order` is above 6.
    #[error("refcount_order is {actual}, expected 0 to 6")]
    RefcountOrder {
        /// What stands there.
        actual: u32,
    },
    /// `crypt_method` is no number that the specification knows.
    #[error("crypt_method is {actual}, expected 0 to 2")]
    CryptMethod {
        /// What stands there.
        actual: u32,
    },
    /// The compression type field and its feature bit contradict each other.
    #[error("compression_type is {actual} while its incompatible bit is {bit}")]
    CompressionBit {
        /// The field; 0 where the header is too short for it.
        actual: u8,
        /// The bit.
        bit: bool,
    },
    /// The name of the backing file is empty though its offset is set.
    #[error("backing_file_offset is set, backing_file_size is 0")]
    BackingNameEmpty,
    /// The name of the backing file is longer than 1023 bytes.
    #[error("backing_file_size is {actual}, at most 1023 is allowed")]
    BackingNameLong {
        /// What stands there.
        actual: u32,
    },
    /// The name of the backing file lies on the header or leaves the first cluster or the file.
    #[error(
        "the backing file name is bytes {start:#x} to {end:#x}, expected behind byte {low:#x} and before {high:#x}"
    )]
    BackingNamePlace {
        /// First byte of the name.
        start: u64,
        /// First byte behind it.
        end: u64,
        /// End of the header.
        low: u64,
        /// End of the first cluster or of the file.
        high: u64,
    },
    /// A header extension leaves the extension area.
    #[error("header extension {kind:#010x} has {len} bytes, {room} are left")]
    ExtensionPastEnd {
        /// Its type.
        kind: u32,
        /// Its length.
        len: u32,
        /// Bytes left in the extension area.
        room: u64,
    },
    /// A header extension that may appear once appears again.
    #[error("header extension {kind:#010x} appears twice")]
    ExtensionTwice {
        /// Its type.
        kind: u32,
    },
    /// A header extension has a length that its type does not allow.
    #[error("header extension {kind:#010x} has {len} bytes, expected {expected}")]
    ExtensionLength {
        /// Its type.
        kind: u32,
        /// Its length.
        len: u32,
        /// What its type asks for.
        expected: u32,
    },
    /// The raw external data bit is set without a data file, or together with a backing file.
    #[error("the raw-external-data bit is set {conflict}")]
    RawExternal {
        /// With or without what.
        conflict: &'static str,
    },
    /// The bitmaps bit is set without the bitmaps extension.
    #[error("the bitmaps bit is set, the bitmaps extension is absent")]
    BitmapsAbsent,
    /// A table does not start at a cluster boundary.
    #[error("the {table} starts at {start:#x}, expected a multiple of {cluster_len:#x}")]
    TableUnaligned {
        /// Which table.
        table: Table,
        /// Where it starts.
        start: u64,
        /// Length of a cluster.
        cluster_len: u64,
    },
    /// A table leaves the file.
    #[error("the {table} is bytes {start:#x} to {end:#x}, the file ends at {file_len:#x}")]
    TablePastEnd {
        /// Which table.
        table: Table,
        /// Where it starts.
        start: u64,
        /// First byte behind it.
        end: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// The L1 table has fewer entries than the disk needs.
    #[error("the L1 table has {actual} entries, a disk of {disk_len} bytes needs {expected}")]
    L1Small {
        /// What the disk needs.
        expected: u64,
        /// What there is.
        actual: u64,
        /// Length of the disk.
        disk_len: u64,
    },
    /// Reserved bits of an L1 entry are set.
    #[error("L1 entry {index} is {entry:#018x}: reserved bits are set")]
    L1Reserved {
        /// Which entry.
        index: u64,
        /// Its value.
        entry: u64,
    },
    /// An L2 table is used by more than one entry of the same L1 table.
    #[error("{count} entries of the L1 table lead to L2 tables that other entries lead to, first {first:#x}")]
    L1Aliased {
        /// How many entries too many.
        count: u64,
        /// The first table used twice.
        first: u64,
    },
    /// Reserved bits of an L2 entry are set.
    #[error("L2 entry {entry:#018x}: reserved bits are set")]
    L2Reserved {
        /// Its value.
        entry: u64,
    },
    /// A data cluster does not start at a cluster boundary.
    #[error("L2 entry {entry:#018x}: the data cluster {start:#x} is not a multiple of {cluster_len:#x}")]
    L2Unaligned {
        /// The entry.
        entry: u64,
        /// Where the cluster starts.
        start: u64,
        /// Length of a cluster.
        cluster_len: u64,
    },
    /// The entry claims data at byte 0, where the header is.
    #[error("L2 entry {entry:#018x}: data at byte 0, where the header is")]
    L2Zero {
        /// The entry.
        entry: u64,
    },
    /// A subcluster is allocated and zero at the same time.
    #[error("L2 bitmap {bitmap:#018x}: subclusters are both allocated and zero")]
    SubclusterBoth {
        /// The bitmap.
        bitmap: u64,
    },
    /// Subclusters are allocated in a cluster without a place.
    #[error("L2 bitmap {bitmap:#018x}: subclusters are allocated, the entry names no cluster")]
    SubclusterNowhere {
        /// The bitmap.
        bitmap: u64,
    },
    /// A compressed cluster in an image with an external data file.
    #[error("L2 entry {entry:#018x}: compressed data in an image with an external data file")]
    CompressedExternal {
        /// The entry.
        entry: u64,
    },
    /// The place in the external data file differs from the place on the disk.
    #[error("guest byte {guest:#x} is said to be at byte {start:#x} of the external data file")]
    ExternalMoved {
        /// Place on the disk.
        guest: u64,
        /// Place in the data file.
        start: u64,
    },
    /// One place in the file holds the data of several guest clusters.
    #[error("the data at byte {start:#x} of the file is used by several guest clusters")]
    DataAliased {
        /// Where.
        start: u64,
    },
    /// Guest data lies past the end of the file.
    #[error("guest byte {guest:#x} is stored at byte {start:#x}, the file ends at {file_len:#x}")]
    DataPastEnd {
        /// Place on the disk.
        guest: u64,
        /// Where the data starts.
        start: u64,
        /// Length of the file that should hold it.
        file_len: u64,
    },
    /// Compressed data does not decode to a whole cluster.
    #[error("the compressed data of guest cluster {guest:#x} does not decode to {cluster_len} bytes: {why}")]
    CompressedBad {
        /// Place of the cluster on the disk.
        guest: u64,
        /// Length of a cluster.
        cluster_len: u64,
        /// What the decoder met.
        why: &'static str,
    },
    /// A snapshot entry has impossible lengths.
    #[error("snapshot entry {index}: {what} is {actual}, at most {allowed} is allowed")]
    SnapshotEntry {
        /// Which entry.
        index: u32,
        /// Which field.
        what: &'static str,
        /// Its value.
        actual: u64,
        /// Its limit.
        allowed: u64,
    },
    /// A v3 snapshot entry lacks the disk size.
    #[error("snapshot entry {index} has {actual} bytes of extra data, version 3 needs 16")]
    SnapshotExtraShort {
        /// Which entry.
        index: u32,
        /// What there is.
        actual: u32,
    },
    /// Snapshots in an image with an external data file.
    #[error("{count} internal snapshots in an image with an external data file")]
    SnapshotExternal {
        /// How many.
        count: u32,
    },
    /// A bitmap directory entry is malformed.
    #[error("bitmap directory entry {index}: {what} is {actual}")]
    BitmapEntry {
        /// Which entry.
        index: u32,
        /// Which field.
        what: &'static str,
        /// Its value.
        actual: u64,
    },
    /// The bitmap directory's length differs from the sum of its entries, or it has none.
    #[error("the bitmap directory has {actual} bytes, its {count} entries take {expected}")]
    BitmapDirectory {
        /// Entries said to be in it.
        count: u32,
        /// Bytes of those entries.
        expected: u64,
        /// Bytes of the directory.
        actual: u64,
    },
    /// Reserved bits of a refcount table entry are set.
    #[error("refcount table entry {index} is {entry:#018x}: reserved bits are set")]
    RefcountReserved {
        /// Which entry.
        index: u64,
        /// Its value.
        entry: u64,
    },
}

/// A structure of the file that has a place of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Table {
    /// The header's cluster.
    Header,
    /// The active L1 table.
    L1,
    /// The L1 table of a snapshot.
    SnapshotL1,
    /// An L2 table.
    L2,
    /// The refcount table.
    Refcounts,
    /// A refcount block.
    RefcountBlock,
    /// The snapshot table.
    Snapshots,
    /// The bitmap directory.
    Bitmaps,
    /// The table of a bitmap.
    Bitmap,
    /// The data of a bitmap.
    BitmapData,
}

impl Table {
    /// The name in messages.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::L1 => "L1 table",
            Self::SnapshotL1 => "snapshot L1 table",
            Self::L2 => "L2 table",
            Self::Refcounts => "refcount table",
            Self::RefcountBlock => "refcount block",
            Self::Snapshots => "snapshot table",
            Self::Bitmaps => "bitmap directory",
            Self::Bitmap => "bitmap table",
            Self::BitmapData => "bitmap data",
        }
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.words())
    }
}

impl Problem for Qcow2Problem {
    fn code(&self) -> &'static str {
        match self {
            Self::HeaderShort { .. } => "qcow2.header.short",
            Self::Magic { .. } => "qcow2.header.magic",
            Self::ClusterBits { .. } | Self::ClusterBitsExtended { .. } => "qcow2.header.cluster-bits",
            Self::HeaderLength { .. } => "qcow2.header.length",
            Self::RefcountOrder { .. } => "qcow2.header.refcount-order",
            Self::CryptMethod { .. } => "qcow2.header.crypt-method",
            Self::CompressionBit { .. } => "qcow2.header.compression-type",
            Self::BackingNameEmpty => "qcow2.backing.name-empty",
            Self::BackingNameLong { .. } => "qcow2.backing.name-long",
            Self::BackingNamePlace { .. } => "qcow2.backing.name-place",
            Self::ExtensionPastEnd { .. } => "qcow2.extension.past-end",
            Self::ExtensionTwice { .. } => "qcow2.extension.twice",
            Self::ExtensionLength { .. } => "qcow2.extension.length",
            Self::RawExternal { .. } => "qcow2.data-file.raw-bit",
            Self::BitmapsAbsent => "qcow2.bitmaps.absent",
            Self::TableUnaligned { table, .. } => match table {
                Table::Header | Table::L1 => "qcow2.l1.unaligned",
                Table::SnapshotL1 => "qcow2.snapshot.l1-unaligned",
                Table::L2 => "qcow2.l2.unaligned",
                Table::Refcounts => "qcow2.refcount-table.unaligned",
                Table::RefcountBlock => "qcow2.refcount-block.unaligned",
                Table::Snapshots => "qcow2.snapshots.unaligned",
                Table::Bitmaps | Table::Bitmap | Table::BitmapData => "qcow2.bitmaps.unaligned",
            },
            Self::TablePastEnd { table, .. } => match table {
                Table::Header | Table::L1 => "qcow2.l1.past-end",
                Table::SnapshotL1 => "qcow2.snapshot.l1-past-end",
                Table::L2 => "qcow2.l2.past-end",
                Table::Refcounts => "qcow2.refcount-table.past-end",
                Table::RefcountBlock => "qcow2.refcount-block.past-end",
                Table::Snapshots => "qcow2.snapshots.past-end",
                Table::Bitmaps | Table::Bitmap | Table::BitmapData => "qcow2.bitmaps.past-end",
            },
            Self::L1Small { .. } => "qcow2.l1.too-small",
            Self::L1Reserved { .. } => "qcow2.l1.reserved-bits",
            Self::L1Aliased { .. } => "qcow2.l2.aliased",
            Self::L2Reserved { .. } => "qcow2.l2.reserved-bits",
            Self::L2Unaligned { .. } => "qcow2.data.unaligned",
            Self::L2Zero { .. } => "qcow2.data.at-zero",
            Self::SubclusterBoth { .. } => "qcow2.subcluster.both",
            Self::SubclusterNowhere { .. } => "qcow2.subcluster.nowhere",
            Self::CompressedExternal { .. } => "qcow2.data-file.compressed",
            Self::ExternalMoved { .. } => "qcow2.data-file.moved",
            Self::DataAliased { .. } => "qcow2.data.aliased",
            Self::DataPastEnd { .. } => "qcow2.data.past-end",
            Self::CompressedBad { .. } => "qcow2.compressed.bad",
            Self::SnapshotEntry { .. } => "qcow2.snapshots.entry",
            Self::SnapshotExtraShort { .. } => "qcow2.snapshots.extra-short",
            Self::SnapshotExternal { .. } => "qcow2.snapshots.data-file",
            Self::BitmapEntry { .. } => "qcow2.bitmaps.entry",
            Self::BitmapDirectory { .. } => "qcow2.bitmaps.directory",
            Self::RefcountReserved { .. } => "qcow2.refcount-table.reserved-bits",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::HeaderShort { .. }
            | Self::TablePastEnd { .. }
            | Self::DataPastEnd { .. }
            | Self::BackingNamePlace { .. } => {
                "the file may be an incomplete download or copy: fetch it again and compare its checksum"
            }
            Self::L1Aliased { .. } | Self::DataAliased { .. } => {
                "no honest image shares clusters like this: do not use the file; kiln check lists the places"
            }
            Self::CompressedBad { .. } => {
                "the data is damaged: fetch the file again, kiln check lists the places"
            }
            Self::Magic { .. } => "give the format that the file really has",
            _ => "kiln check lists all that is wrong; fetch the file again or ask whoever made it",
        })
    }
}
