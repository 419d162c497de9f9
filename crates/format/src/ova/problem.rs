//! Every way in which an appliance can be wrong.

use kiln_disk::Problem;

/// What is wrong with an OVF descriptor or with the archive around it. Offsets travel in
/// [`kiln_disk::Error::Malformed`] and count in the file that the user named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OvaProblem {
    /// The descriptor is no well-formed XML.
    #[error("the descriptor is no XML: {0}")]
    Xml(String),
    /// The descriptor has a document type, which could name other files or grow without end.
    #[error("the descriptor has a DOCTYPE")]
    Doctype,
    /// The descriptor is not in UTF-8.
    #[error("the descriptor is not in UTF-8")]
    Encoding,
    /// The descriptor's root is not an OVF envelope.
    #[error("the root element is {found:?}, not Envelope")]
    Root {
        /// Its local name.
        found: String,
    },
    /// An attribute that the specification requires is not there.
    #[error("the element {element} has no {attribute}")]
    Missing {
        /// Local name of the element.
        element: &'static str,
        /// Local name of the attribute.
        attribute: &'static str,
    },
    /// An attribute is no number that can be used.
    #[error("{attribute}={value:?} is no number that can be used")]
    Number {
        /// Local name of the attribute or element.
        attribute: &'static str,
        /// As stored.
        value: String,
    },
    /// Allocation units that are no multiple of bytes.
    #[error("the allocation units {0:?} are no number of bytes")]
    Units(String),
    /// Two elements have one id.
    #[error("two {element} elements have the id {id:?}")]
    SameId {
        /// Local name of the elements.
        element: &'static str,
        /// It.
        id: String,
    },
    /// A file reference that leads out of the appliance.
    #[error("the file reference {href:?} {why}")]
    Href {
        /// As stored.
        href: String,
        /// What it is.
        why: &'static str,
    },
    /// A disk is in a file that the descriptor does not list.
    #[error("the disk {disk:?} is in the file with id {file:?}, which is not among the references")]
    UnknownFile {
        /// Id of the disk.
        disk: String,
        /// Id of the file.
        file: String,
    },
    /// The archive has no descriptor.
    #[error("no member of the archive is an .ovf file")]
    NoDescriptor,
    /// No disk of the descriptor has a file.
    #[error("an appliance without a disk file")]
    NoDisk,
    /// The archive has several descriptors: programs disagree about which counts.
    #[error("the archive has two descriptors, {one:?} and {other:?}")]
    Descriptors {
        /// The first.
        one: String,
        /// Another.
        other: String,
    },
    /// A disk's file is not there.
    #[error("the file {0:?} is not in the appliance")]
    FileMissing(String),
    /// Two members have the name of a file that counts.
    #[error("two members have the name {0:?}")]
    FileTwice(String),
    /// A file that should be a disk of one format has neither that nor another that is known.
    #[error("the disk in {file:?} is declared as {declared:?} and has no signature of any format")]
    DiskFormat {
        /// Name of the file.
        file: String,
        /// As declared.
        declared: String,
    },
}

impl Problem for OvaProblem {
    fn code(&self) -> &'static str {
        match self {
            Self::Xml(_) => "ovf.xml",
            Self::Doctype => "ovf.doctype",
            Self::Encoding => "ovf.encoding",
            Self::Root { .. } => "ovf.root",
            Self::Missing { .. } => "ovf.missing",
            Self::Number { .. } => "ovf.number",
            Self::Units(_) => "ovf.units",
            Self::SameId { .. } => "ovf.same-id",
            Self::Href { .. } => "ovf.href",
            Self::UnknownFile { .. } => "ovf.unknown-file",
            Self::NoDescriptor => "ova.no-descriptor",
            Self::NoDisk => "ova.no-disk",
            Self::Descriptors { .. } => "ova.descriptors",
            Self::FileMissing(_) => "ova.file.missing",
            Self::FileTwice(_) => "ova.file.twice",
            Self::DiskFormat { .. } => "ova.disk.format",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Doctype => {
                "no program needs it in a descriptor; export the appliance again where it was made"
            }
            Self::Href { .. } => {
                "nothing is fetched and nothing outside the appliance is opened; get the file yourself, put it \
                 beside the .ovf and write its plain name there"
            }
            Self::Descriptors { .. } | Self::FileTwice(_) => {
                "programs disagree about which one counts; pack the files again with one of each"
            }
            Self::FileMissing(_) => {
                "the appliance is not whole; get it again, all files of it, and compare its checksum"
            }
            Self::NoDisk => "its disks are made empty when it is installed; there is nothing to read",
            Self::NoDescriptor => "name the disk in it: unpack the archive with tar and import that file",
            Self::DiskFormat { .. } => "if the file is the bytes of a disk, unpack it and use --as raw",
            _ => "get the appliance again and compare its checksum, or export it again where it was made",
        })
    }
}
