//! Every way in which a VHDX can be wrong.

use kiln_disk::Problem;

/// What is wrong with a VHDX. Offsets travel in [`kiln_disk::Error::Malformed`], values here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VhdxProblem {
    /// The file ends before the space for headers does.
    #[error("the file has {0} bytes, the headers alone take a mebibyte")]
    HeaderCut(u64),
    /// A structure does not start with its signature.
    #[error("no signature {0:?}")]
    Signature(&'static str),
    /// A checksum does not fit.
    #[error("the checksum is {stored:#010x}, the bytes give {computed:#010x}")]
    Checksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// Two different headers of which neither is the newer.
    #[error("two different headers with the same sequence number {0}")]
    HeaderTwins(u64),
    /// More entries than a table may have.
    #[error("{count} entries in the {what}, at most 2047 are allowed")]
    TooManyEntries {
        /// Which table.
        what: &'static str,
        /// Entries that it declares.
        count: u32,
    },
    /// A region lies where none may.
    #[error("the {name} has {len} bytes at {start:#x}; both are whole mebibytes behind the first")]
    RegionPlace {
        /// Which region.
        name: &'static str,
        /// Where it starts.
        start: u64,
        /// Its length.
        len: u64,
    },
    /// A region leaves the file.
    #[error("the {name} ends at {end:#x}, the file has {file_len} bytes")]
    RegionPastEnd {
        /// Which region.
        name: &'static str,
        /// First byte behind it.
        end: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// A region is listed twice.
    #[error("the region table lists the {0} twice")]
    RegionTwice(&'static str),
    /// A region is not listed.
    #[error("the region table does not list the {0}")]
    RegionMissing(&'static str),
    /// Two structures of the file lie on the same bytes.
    #[error("the {one} overlaps the {other}")]
    Overlap {
        /// One structure.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A metadata item lies where none may.
    #[error("metadata item {id} has {len} bytes at {offset:#x} of its region")]
    ItemPlace {
        /// Its kind.
        id: String,
        /// Offset in the region.
        offset: u32,
        /// Its length.
        len: u32,
    },
    /// A metadata item is listed twice.
    #[error("metadata item {0} is listed twice")]
    ItemTwice(String),
    /// A metadata item is missing or of the wrong length.
    #[error("no {0} in the metadata, or not of its length")]
    ItemMissing(&'static str),
    /// The block size is none that is allowed.
    #[error("block size {0} is not a power of two from 1 to 256 MiB")]
    BlockSize(u32),
    /// The sector size is none that is allowed.
    #[error("logical sector size {0} is neither 512 nor 4096")]
    SectorSize(u32),
    /// The virtual size is none that is allowed.
    #[error("a disk of {size} bytes in sectors of {sector}: not whole ones, none, or more than 64 TiB")]
    DiskSize {
        /// Length of the disk.
        size: u64,
        /// Logical sector size.
        sector: u32,
    },
    /// The block allocation table has too few entries for the disk.
    #[error("room for {room} entries in the block allocation table, the disk needs {needed}")]
    BatTooSmall {
        /// Entries that the region holds.
        room: u64,
        /// Entries that the disk needs.
        needed: u64,
    },
    /// An entry of the table is in a state that it cannot be in.
    #[error("entry {index} is in state {state}, which it cannot be in")]
    State {
        /// Index in the table.
        index: u64,
        /// The state.
        state: u64,
    },
    /// A block does not lie inside the file.
    #[error("the block of entry {index} is said to be at {at:#x}, which leaves the file of {file_len} bytes")]
    BlockPastEnd {
        /// Index in the table.
        index: u64,
        /// Where it should start.
        at: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// A block lies on the headers, the log or a region.
    #[error("the block of entry {index} is said to be at {at:#x}, on top of the {other}")]
    BlockOnMetadata {
        /// Index in the table.
        index: u64,
        /// Where it should start.
        at: u64,
        /// What is there.
        other: &'static str,
    },
    /// Two entries of the table use the same bytes of the file.
    #[error("entries {one} and {other} use the same bytes of the file")]
    Aliased {
        /// Index of one of them.
        one: u64,
        /// Index of the other.
        other: u64,
    },
    /// A block that is partly here has no bitmap that says which part.
    #[error("payload block {block} is partly in this file, and its bitmap is not")]
    BitmapMissing {
        /// The block.
        block: u64,
    },
    /// The log lies where none may.
    #[error("the log has {len} bytes at {start:#x}, the file has {file_len}")]
    LogPlace {
        /// Where it starts.
        start: u64,
        /// Its length.
        len: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// The log has entries, and no whole sequence of them.
    #[error("the log has entries, and none of them can be replayed")]
    NoSequence,
    /// The log was written when the file was longer.
    #[error("the log was written when the file had {flushed} bytes, it has {file_len}")]
    LogBeyondFile {
        /// "FlushedFileOffset" of the newest entry.
        flushed: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// The parent locator cannot be read.
    #[error("the parent locator {0}")]
    Locator(&'static str),
    /// A differencing disk that names no parent at all.
    #[error("a differencing disk that names no parent")]
    NoParent,
    /// The file offered as parent is another disk, or the disk at another time.
    #[error("the disk was made on data {wanted}, the file offered has data {found}")]
    WrongParent {
        /// Data write GUID that the child stores.
        wanted: String,
        /// Data write GUID of the file offered.
        found: String,
    },
}

impl Problem for VhdxProblem {
    fn code(&self) -> &'static str {
        match self {
            Self::HeaderCut(_) => "vhdx.header.cut",
            Self::Signature(_) => "vhdx.signature",
            Self::Checksum { .. } => "vhdx.checksum",
            Self::HeaderTwins(_) => "vhdx.header.twins",
            Self::TooManyEntries { .. } => "vhdx.table.too-long",
            Self::RegionPlace { .. } => "vhdx.region.place",
            Self::RegionPastEnd { .. } => "vhdx.region.past-end",
            Self::RegionTwice(_) => "vhdx.region.twice",
            Self::RegionMissing(_) => "vhdx.region.missing",
            Self::Overlap { .. } => "vhdx.layout.overlap",
            Self::ItemPlace { .. } => "vhdx.metadata.place",
            Self::ItemTwice(_) => "vhdx.metadata.twice",
            Self::ItemMissing(_) => "vhdx.metadata.missing",
            Self::BlockSize(_) => "vhdx.metadata.block-size",
            Self::SectorSize(_) => "vhdx.metadata.sector-size",
            Self::DiskSize { .. } => "vhdx.metadata.disk-size",
            Self::BatTooSmall { .. } => "vhdx.bat.too-small",
            Self::State { .. } => "vhdx.bat.state",
            Self::BlockPastEnd { .. } => "vhdx.block.past-end",
            Self::BlockOnMetadata { .. } => "vhdx.block.on-metadata",
            Self::Aliased { .. } => "vhdx.block.aliased",
            Self::BitmapMissing { .. } => "vhdx.bitmap.missing",
            Self::LogPlace { .. } => "vhdx.log.place",
            Self::NoSequence => "vhdx.log.damaged",
            Self::LogBeyondFile { .. } => "vhdx.log.file-cut",
            Self::Locator(_) => "vhdx.parent.locator",
            Self::NoParent => "vhdx.parent.unnamed",
            Self::WrongParent { .. } => "vhdx.parent.wrong",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::HeaderCut(_)
            | Self::RegionPastEnd { .. }
            | Self::BlockPastEnd { .. }
            | Self::LogBeyondFile { .. } => "the file was cut short; get it again and compare its checksum",
            Self::WrongParent { .. } => {
                "offer the very file that the disk was made on, as it was then; merged with another it is garbage"
            }
            Self::NoParent => "the parent cannot be asked for; merge the disk where it was made",
            _ => "get the file again and compare its checksum; kiln check lists all that is wrong with it",
        })
    }
}
