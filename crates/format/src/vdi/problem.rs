//! Every way in which a VDI can be wrong.

use kiln_disk::Problem;

/// What is wrong with a VDI. Offsets travel in [`kiln_disk::Error::Malformed`], values here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VdiProblem {
    /// The file ends inside the header.
    #[error("the file has {0} bytes, the header alone takes 456")]
    HeaderCut(u64),
    /// The signature is not there.
    #[error("no signature 0xbeda107f at byte 64")]
    Signature,
    /// The header is said to be shorter than it can be.
    #[error("the header is said to have {0} bytes, version 1.1 has at least 384")]
    HeaderSize(u32),
    /// An image type that does not exist.
    #[error("image type {0} is none of 1 (dynamic), 2 (static), 3 (undo), 4 (differencing)")]
    ImageType(u32),
    /// The block size is not a power of two that can be used.
    #[error("block size {0} is not a power of two of at least 512")]
    BlockSize(u32),
    /// The extra bytes of a block are of an impossible number.
    #[error("{0} extra bytes before each block: neither none nor a power of two")]
    BlockExtra(u32),
    /// A disk of no bytes.
    #[error("the disk is 0 bytes long")]
    DiskSize,
    /// The map has too few entries for the disk.
    #[error("{entries} entries in the block map, the disk needs {needed}")]
    MapTooSmall {
        /// Entries that the header declares.
        entries: u32,
        /// Entries that the disk needs.
        needed: u64,
    },
    /// The map does not lie inside the file.
    #[error("the block map of {entries} entries at {at:#x} leaves the file of {file_len} bytes")]
    MapPastEnd {
        /// Where it starts.
        at: u64,
        /// Entries that the header declares.
        entries: u32,
        /// Length of the file.
        file_len: u64,
    },
    /// Two structures of the file lie on the same bytes.
    #[error("the {one} overlaps the {other}")]
    Overlap {
        /// One structure.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A base disk that names a parent.
    #[error("a {kind} disk that names a parent, {parent}")]
    LinkedBase {
        /// The kind by the header.
        kind: &'static str,
        /// The unique id of the parent.
        parent: String,
    },
    /// A block does not lie inside the file.
    #[error("block {block} is said to be at {at:#x}, which leaves the file of {file_len} bytes")]
    BlockPastEnd {
        /// Index in the map.
        block: u64,
        /// Where it should start.
        at: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// A block lies on the header or the map.
    #[error("block {block} is said to be at {at:#x}, on top of the {other}")]
    BlockOnMetadata {
        /// Index in the map.
        block: u64,
        /// Where it should start.
        at: u64,
        /// What is there.
        other: &'static str,
    },
    /// Two entries of the map use the same block of the file.
    #[error("blocks {one} and {other} use the same bytes of the file")]
    Aliased {
        /// Index of one of them.
        one: u64,
        /// Index of the other.
        other: u64,
    },
    /// The file offered as parent is another disk.
    #[error("the disk was made on parent {wanted}, the file offered is {found}")]
    WrongParent {
        /// Unique id that the child stores.
        wanted: String,
        /// Unique id of the file offered.
        found: String,
    },
    /// The parent was written to after the child was made.
    #[error("the disk was made on state {wanted} of its parent, which is now in state {found}")]
    ParentModified {
        /// Modification id that the child stores.
        wanted: String,
        /// Modification id of the file offered.
        found: String,
    },
    /// A child that names no parent.
    #[error("a {0} disk that names no parent")]
    NoParent(&'static str),
}

impl Problem for VdiProblem {
    fn code(&self) -> &'static str {
        match self {
            Self::HeaderCut(_) => "vdi.header.cut",
            Self::Signature => "vdi.header.signature",
            Self::HeaderSize(_) => "vdi.header.length",
            Self::ImageType(_) => "vdi.header.type",
            Self::BlockSize(_) => "vdi.header.block-size",
            Self::BlockExtra(_) => "vdi.header.block-extra",
            Self::DiskSize => "vdi.header.size",
            Self::MapTooSmall { .. } => "vdi.map.too-small",
            Self::MapPastEnd { .. } => "vdi.map.past-end",
            Self::Overlap { .. } => "vdi.layout.overlap",
            Self::LinkedBase { .. } => "vdi.header.linked-base",
            Self::BlockPastEnd { .. } => "vdi.block.past-end",
            Self::BlockOnMetadata { .. } => "vdi.block.on-metadata",
            Self::Aliased { .. } => "vdi.block.aliased",
            Self::WrongParent { .. } => "vdi.parent.wrong",
            Self::ParentModified { .. } => "vdi.parent.modified",
            Self::NoParent(_) => "vdi.parent.unnamed",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::HeaderCut(_) | Self::MapPastEnd { .. } | Self::BlockPastEnd { .. } => {
                "the file was cut short; get it again and compare its checksum"
            }
            Self::WrongParent { .. } => "offer the very file that the disk was made on",
            Self::ParentModified { .. } => {
                "merged, the two would be inconsistent; restore the parent as it was, or merge where it was made"
            }
            Self::NoParent(_) => "the parent cannot be asked for; merge the disk where it was made",
            Self::LinkedBase { .. } => {
                "programs do not agree whether the parent counts; clone the disk with VBoxManage clonemedium"
            }
            _ => "get the file again and compare its checksum; kiln check lists all that is wrong with it",
        })
    }
}
