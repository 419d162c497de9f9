//! Every way in which a VHD can be wrong.

use kiln_disk::Problem;

/// What is wrong with a VHD. Offsets travel in [`kiln_disk::Error::Malformed`], values here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VhdProblem {
    /// Neither end of the file has a footer.
    #[error("no footer: neither the first 512 nor the last 512 or 511 bytes start with \"conectix\"")]
    NoFooter,
    /// The last bytes of the file are no footer, though the copy at its start is one.
    #[error("the footer at the end of the file is missing")]
    EndFooterMissing,
    /// A footer's checksum does not fit its bytes.
    #[error("the footer's checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    FooterChecksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// Both footers are in order but describe different disks.
    #[error("the two footers differ in {field}")]
    FootersDiffer {
        /// The first field that differs.
        field: &'static str,
    },
    /// The start says dynamic, the end says fixed: two readers would see two disks.
    #[error("the start of the file is a {front} VHD, its end a {end} one")]
    FooterKindsDiffer {
        /// Kind by the footer at the start.
        front: &'static str,
        /// Kind by the footer at the end.
        end: &'static str,
    },
    /// A disk type that the specification does not define for use.
    #[error("disk type {0} is none of 2 (fixed), 3 (dynamic), 4 (differencing)")]
    DiskType(u32),
    /// The virtual size is zero or not a number of sectors.
    #[error("the disk is {0} bytes long, which is not a positive multiple of 512")]
    DiskSize(u64),
    /// A fixed disk whose file is shorter than the disk.
    #[error("the disk is {disk_len} bytes long, the file holds {stored} of them")]
    FixedTooShort {
        /// Length of the virtual disk.
        disk_len: u64,
        /// Bytes before the footer.
        stored: u64,
    },
    /// The dynamic disk header does not lie inside the file.
    #[error("the dynamic disk header at {at:#x} leaves the file of {file_len} bytes")]
    HeaderPastEnd {
        /// Where it should be.
        at: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// The dynamic disk header does not start with its cookie.
    #[error("the dynamic disk header does not start with \"cxsparse\"")]
    HeaderCookie,
    /// The dynamic disk header's checksum does not fit its bytes.
    #[error("the dynamic disk header's checksum is {stored:#010x}, its bytes give {computed:#010x}")]
    HeaderChecksum {
        /// As stored.
        stored: u32,
        /// As computed.
        computed: u32,
    },
    /// The block size is not a power of two that can be used.
    #[error("block size {0} is not a power of two of at least 512")]
    BlockSize(u32),
    /// The block allocation table has too few entries for the disk.
    #[error("{entries} entries in the block allocation table, the disk needs {needed}")]
    TableTooSmall {
        /// Entries that the header declares.
        entries: u32,
        /// Entries that the disk needs.
        needed: u64,
    },
    /// The block allocation table does not lie inside the file.
    #[error("the block allocation table of {entries} entries at {at:#x} leaves the file of {file_len} bytes")]
    TablePastEnd {
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
    /// A block does not lie inside the file.
    #[error("block {block} is said to be at {at:#x}, which leaves the {limit} bytes before the footer")]
    BlockPastEnd {
        /// Index in the table.
        block: u64,
        /// Where its bitmap should start.
        at: u64,
        /// End of the space for blocks.
        limit: u64,
    },
    /// A block lies on the headers or the table.
    #[error("block {block} is said to be at {at:#x}, on top of the {other}")]
    BlockOnMetadata {
        /// Index in the table.
        block: u64,
        /// Where its bitmap should start.
        at: u64,
        /// What is there.
        other: &'static str,
    },
    /// Two entries of the table use the same bytes of the file.
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
    /// A differencing disk that names no parent at all.
    #[error("a differencing disk that names no parent")]
    NoParentName,
}

impl Problem for VhdProblem {
    fn code(&self) -> &'static str {
        match self {
            Self::NoFooter => "vhd.footer.none",
            Self::EndFooterMissing => "vhd.footer.end-missing",
            Self::FooterChecksum { .. } => "vhd.footer.checksum",
            Self::FootersDiffer { .. } => "vhd.footer.copies-differ",
            Self::FooterKindsDiffer { .. } => "vhd.footer.kinds-differ",
            Self::DiskType(_) => "vhd.footer.disk-type",
            Self::DiskSize(_) => "vhd.footer.size",
            Self::FixedTooShort { .. } => "vhd.fixed.truncated",
            Self::HeaderPastEnd { .. } => "vhd.header.past-end",
            Self::HeaderCookie => "vhd.header.cookie",
            Self::HeaderChecksum { .. } => "vhd.header.checksum",
            Self::BlockSize(_) => "vhd.header.block-size",
            Self::TableTooSmall { .. } => "vhd.bat.too-small",
            Self::TablePastEnd { .. } => "vhd.bat.past-end",
            Self::Overlap { .. } => "vhd.layout.overlap",
            Self::BlockPastEnd { .. } => "vhd.block.past-end",
            Self::BlockOnMetadata { .. } => "vhd.block.on-metadata",
            Self::Aliased { .. } => "vhd.block.aliased",
            Self::WrongParent { .. } => "vhd.parent.wrong",
            Self::NoParentName => "vhd.parent.unnamed",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoFooter => {
                "the file is no VHD, or its end was cut off; get it again and compare its checksum"
            }
            Self::EndFooterMissing | Self::FixedTooShort { .. } | Self::BlockPastEnd { .. } => {
                "the file was cut short or something was appended to it; get it again and compare its checksum"
            }
            Self::FooterKindsDiffer { .. } => {
                "two programs would read two different disks from this file; convert it where it was made"
            }
            Self::WrongParent { .. } => {
                "offer the very file that the disk was made on, not a copy under its name"
            }
            Self::NoParentName => "the parent cannot be asked for; merge the disk where it was made",
            _ => "get the file again and compare its checksum; kiln check lists all that is wrong with it",
        })
    }
}
