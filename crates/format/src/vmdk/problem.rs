//! Every way in which a VMDK can be wrong.

use kiln_disk::Problem;

/// What is wrong with a VMDK. Offsets travel in [`kiln_disk::Error::Malformed`], values here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VmdkProblem {
    /// The file ends inside its header.
    #[error("the file ends inside its header of 512 bytes")]
    HeaderCut,
    /// The characters that show a transfer as text are not those of the specification.
    #[error("the line end characters in the header are {found:02x?}: the file was transferred as text")]
    Newlines {
        /// The four bytes found.
        found: [u8; 4],
    },
    /// The grain size is not a power of two that can be used.
    #[error("a grain of {0} sectors is not a power of two between 1 and 2097152")]
    GrainSize(u64),
    /// A grain table has no entries, or more than any program reads.
    #[error("{0} entries in a grain table; 1 to 512 are possible")]
    TableEntries(u32),
    /// The disk has no sectors, or more than can be counted.
    #[error("a capacity of {0} sectors is not possible")]
    Capacity(u64),
    /// The flag for compression and the algorithm contradict each other.
    #[error("flags {flags:#x} and compression algorithm {algorithm} contradict each other")]
    CompressionFlags {
        /// The header's flags.
        flags: u32,
        /// The header's algorithm.
        algorithm: u16,
    },
    /// The header says that the footer counts, and there is none.
    #[error("the grain directory is named by a footer, and the file does not end with one")]
    FooterMissing,
    /// The footer refers to a footer.
    #[error("the footer says that the grain directory is named by a footer")]
    FooterLoop,
    /// Header and footer describe different disks.
    #[error("header and footer differ in {field}")]
    FooterDiffers {
        /// The first field that differs.
        field: &'static str,
    },
    /// A table does not lie inside the file.
    #[error("the {table} at {start:#x}, {len} bytes long, leaves the file of {file_len} bytes")]
    PastEnd {
        /// Which table.
        table: &'static str,
        /// Where it should start.
        start: u64,
        /// Its length.
        len: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// A grain does not lie inside the file.
    #[error("grain {grain} is said to be at {start:#x}, which leaves the file of {file_len} bytes")]
    GrainPastEnd {
        /// Index of the grain in its extent.
        grain: u64,
        /// Where it should start.
        start: u64,
        /// Length of the file.
        file_len: u64,
    },
    /// Two structures of the file lie on the same bytes.
    #[error("the {one} at {start:#x} overlaps the {other}")]
    Overlap {
        /// One structure.
        one: &'static str,
        /// Where it starts.
        start: u64,
        /// The other.
        other: &'static str,
    },
    /// Two entries of the tables use the same bytes of the file.
    #[error("grains {one} and {other} use the same bytes of the file")]
    Aliased {
        /// Index of one of them.
        one: u64,
        /// Index of the other.
        other: u64,
    },
    /// Two entries of the grain directory name tables that share bytes.
    #[error("grain tables {one} and {other} use the same bytes of the file")]
    TableAliased {
        /// Index of one of them.
        one: u64,
        /// Index of the other.
        other: u64,
    },
    /// A compressed grain's marker names another place of the disk.
    #[error("the marker of grain {grain} names sector {found}, its place is sector {expected}")]
    Marker {
        /// Index of the grain in its extent.
        grain: u64,
        /// Sector that belongs there.
        expected: u64,
        /// Sector that the marker names.
        found: u64,
    },
    /// A compressed grain's marker gives a length that no grain has.
    #[error("the marker of grain {grain} gives {size} bytes of compressed data")]
    MarkerSize {
        /// Index of the grain in its extent.
        grain: u64,
        /// The length.
        size: u32,
    },
    /// Compressed data does not give a grain.
    #[error("grain {grain} does not decode: {why}")]
    Decode {
        /// Index of the grain in its extent.
        grain: u64,
        /// Why not.
        why: &'static str,
    },
    /// The tables at the end of a stream do not tell of the grains that went by.
    #[error("the tables at the end of the stream and its markers differ about grain {grain}")]
    StreamDiffers {
        /// Index of the first grain in question.
        grain: u64,
    },
    /// No descriptor where the header says that there is one.
    #[error("the file has no descriptor, so it is a part of a disk, not a disk")]
    DescriptorMissing,
    /// A descriptor too long to be one.
    #[error("a descriptor of {len} bytes; {allowed} are allowed")]
    DescriptorLong {
        /// Its length.
        len: u64,
        /// The most that is read.
        allowed: u64,
    },
    /// A line of the descriptor that says nothing known.
    #[error("line {line} of the descriptor is {text:?}")]
    DescriptorLine {
        /// Number of the line, from 1.
        line: u32,
        /// The line, cut short.
        text: String,
    },
    /// A descriptor says the same thing twice, differently.
    #[error("the descriptor gives {key} twice")]
    DescriptorTwice {
        /// What it gives twice.
        key: &'static str,
    },
    /// Behind the end of the descriptor's text there is another one.
    #[error("behind the end of the descriptor there is another one")]
    DescriptorHidden,
    /// A line that every descriptor has is not there.
    #[error("the descriptor has no {0}")]
    DescriptorIncomplete(&'static str),
    /// The descriptor's extents contradict its kind, or the file that it is in.
    #[error("a disk of kind {kind:?} with {found}")]
    Extents {
        /// The descriptor's createType.
        kind: String,
        /// What its extents are.
        found: String,
    },
    /// The descriptor's sectors and the header's capacity differ.
    #[error("the descriptor gives the extent {described} sectors, its header {capacity}")]
    ExtentCapacity {
        /// Sectors by the descriptor.
        described: u64,
        /// Sectors by the header.
        capacity: u64,
    },
    /// A flat extent whose file is too short.
    #[error("extent {name:?} needs {wanted} bytes, its file has {found}")]
    ExtentShort {
        /// The name in the descriptor.
        name: String,
        /// Bytes needed, the offset included.
        wanted: u64,
        /// Bytes there.
        found: u64,
    },
    /// Two extents consist of the same bytes of one file.
    #[error("two extents use the same part of {name:?}")]
    ExtentAliased {
        /// The name in the descriptor.
        name: String,
    },
    /// An extent's file is not of the kind that the descriptor says.
    #[error("extent {name:?} is no sparse extent: its file does not start with \"KDMV\"")]
    ExtentMagic {
        /// The name in the descriptor.
        name: String,
    },
    /// A differencing disk that does not name its parent.
    #[error("the disk is made on another one (parentCID {parent_cid:08x}) and does not name it")]
    ParentUnnamed {
        /// The parent's content id.
        parent_cid: u32,
    },
    /// The file offered as parent holds other content.
    #[error("the disk was made on a parent with CID {wanted:08x}, the file offered has {found:08x}")]
    WrongParent {
        /// The content id that the child stores.
        wanted: u32,
        /// The content id of the file offered.
        found: u32,
    },
}

impl Problem for VmdkProblem {
    fn code(&self) -> &'static str {
        match self {
            Self::HeaderCut => "vmdk.header.cut",
            Self::Newlines { .. } => "vmdk.header.newlines",
            Self::GrainSize(_) => "vmdk.header.grain-size",
            Self::TableEntries(_) => "vmdk.header.table-entries",
            Self::Capacity(_) => "vmdk.header.capacity",
            Self::CompressionFlags { .. } => "vmdk.header.compression",
            Self::FooterMissing => "vmdk.footer.missing",
            Self::FooterLoop => "vmdk.footer.loop",
            Self::FooterDiffers { .. } => "vmdk.footer.differs",
            Self::PastEnd { .. } => "vmdk.table.past-end",
            Self::GrainPastEnd { .. } => "vmdk.grain.past-end",
            Self::Overlap { .. } => "vmdk.layout.overlap",
            Self::Aliased { .. } => "vmdk.grain.aliased",
            Self::TableAliased { .. } => "vmdk.table.aliased",
            Self::Marker { .. } => "vmdk.grain.marker",
            Self::MarkerSize { .. } => "vmdk.grain.marker-size",
            Self::Decode { .. } => "vmdk.grain.decode",
            Self::StreamDiffers { .. } => "vmdk.stream.differs",
            Self::DescriptorMissing => "vmdk.descriptor.missing",
            Self::DescriptorLong { .. } => "vmdk.descriptor.long",
            Self::DescriptorLine { .. } => "vmdk.descriptor.line",
            Self::DescriptorTwice { .. } => "vmdk.descriptor.twice",
            Self::DescriptorHidden => "vmdk.descriptor.hidden",
            Self::DescriptorIncomplete(_) => "vmdk.descriptor.incomplete",
            Self::Extents { .. } => "vmdk.descriptor.extents",
            Self::ExtentCapacity { .. } => "vmdk.extent.capacity",
            Self::ExtentShort { .. } => "vmdk.extent.short",
            Self::ExtentAliased { .. } => "vmdk.extent.aliased",
            Self::ExtentMagic { .. } => "vmdk.extent.magic",
            Self::ParentUnnamed { .. } => "vmdk.parent.unnamed",
            Self::WrongParent { .. } => "vmdk.parent.wrong",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Newlines { .. } => {
                "transfer the file again in binary mode; what was changed cannot be put back"
            }
            Self::FooterMissing | Self::GrainPastEnd { .. } | Self::PastEnd { .. } | Self::HeaderCut => {
                "the file was cut short or its writer was stopped; get it again and compare its checksum"
            }
            Self::DescriptorMissing => {
                "name the descriptor instead: the small .vmdk file of the same disk, without -s001 in its name"
            }
            Self::DescriptorHidden
            | Self::DescriptorTwice { .. }
            | Self::Extents { .. }
            | Self::StreamDiffers { .. } => {
                "programs would read different disks from this file; convert it where it was made"
            }
            Self::ExtentShort { .. } => "get the extent again and compare its length with the original's",
            Self::ParentUnnamed { .. } => "merge the disk with its parent where it was made",
            Self::WrongParent { .. } => {
                "offer the very file that the disk was made on, as it was then: its CID changes with its content"
            }
            _ => "get the file again and compare its checksum; kiln check lists all that is wrong with it",
        })
    }
}
