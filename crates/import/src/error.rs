//! The error of import and export.

use kiln_catalog::Family;
use kiln_disk::digest::{Algorithm, ContentDigest, Digest};

use crate::fetch::FetchError;
use crate::signature::SignatureError;
use crate::target::TargetRefusal;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an import or an export did not happen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Files, disks and containers.
    #[error(transparent)]
    Disk(#[from] kiln_disk::Error),
    /// The store.
    #[error(transparent)]
    Catalog(#[from] kiln_catalog::Error),
    /// A rule of import or export said no.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// A server, or the way to it.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A signature that proves nothing.
    #[error(transparent)]
    Signature(#[from] SignatureError),
}

/// One way in which a rule says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The file is not the one that the vendor's checksum stands for.
    #[error("{file} has {found}, the checksum says {expected}")]
    ChecksumDiffers {
        /// The file.
        file: String,
        /// What was given.
        expected: Digest,
        /// What the file has.
        found: Digest,
    },
    /// A bundle does not hold together.
    #[error("the bundle cannot be taken: {problem}")]
    Bundle {
        /// What is wrong with it.
        problem: String,
    },
    /// The checksum file does not list the file.
    #[error("{list} has no checksum for {file:?}")]
    NotListed {
        /// The checksum file.
        list: String,
        /// The base name looked for.
        file: String,
    },
    /// The checksum file lists the file more than once, differently.
    #[error("{list} has different {} digests for {file:?}, in lines {first} and {second}", algorithm.name())]
    ListedTwice {
        /// The checksum file.
        list: String,
        /// The base name looked for.
        file: String,
        /// Of which kind.
        algorithm: Algorithm,
        /// A line, counted from 1.
        first: u64,
        /// The other.
        second: u64,
    },
    /// The checksum file is no such file.
    #[error("{list} is no checksum file: it has {len} bytes, at most {allowed} make sense")]
    ListTooLong {
        /// The checksum file.
        list: String,
        /// Its length.
        len: u64,
        /// The limit.
        allowed: u64,
    },
    /// A checksum file needs a name to look for, and a pipe has none.
    #[error("standard input has no name to look for in {list}")]
    NoName {
        /// The checksum file.
        list: String,
    },
    /// A check found damage.
    #[error("the check of {file} failed: {}", ids.join(", "))]
    Findings {
        /// The file.
        file: String,
        /// Ids of the findings that fail.
        ids: Vec<String>,
    },
    /// The disk is larger than was allowed.
    #[error("the disk would be {disk_bytes} bytes, at most {allowed} are allowed")]
    TooLarge {
        /// Its length.
        disk_bytes: u64,
        /// The limit.
        allowed: u64,
    },
    /// The disk has no bytes.
    #[error("{file} holds a disk of 0 bytes")]
    Empty {
        /// The file.
        file: String,
    },
    /// The image in the store is not what its manifest says.
    #[error("the image in the store has {found}, its manifest says {expected}")]
    ImageDamaged {
        /// What the manifest says.
        expected: ContentDigest,
        /// What was read.
        found: ContentDigest,
    },
    /// A copy of a layer is not the layer.
    #[error("the copy has {found}, the layer is {expected}")]
    CopyDiffers {
        /// The layer.
        expected: String,
        /// The copy.
        found: String,
    },
    /// The image has more layers than this version reads.
    #[error("the image has {layers} layers, this version opens images of one")]
    LayerCount {
        /// How many.
        layers: usize,
    },
    /// The guest is not fit for a place that was asked for.
    #[error("{target}: {severity}: {detail} [{id}]")]
    Guest {
        /// The place.
        target: &'static str,
        /// How bad it is there, in words.
        severity: &'static str,
        /// The rule.
        id: &'static str,
        /// What was found, and where.
        detail: String,
    },
    /// A target's row speaks of a rule that there is not.
    #[error("the target {target} speaks of {id:?}, which is no rule about guests")]
    FindingRule {
        /// The target.
        target: String,
        /// What it calls the rule.
        id: String,
    },
    /// A target does not take it.
    #[error("{0}")]
    Target(Box<TargetRefusal>),
    /// A format of a layer that this version does not know.
    #[error("the layer is of the format {format:?}, which this version does not know")]
    LayerFormat {
        /// Its id.
        format: String,
    },
}

impl Error {
    /// The stable code that scripts branch on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disk(error) => error.code(),
            Self::Catalog(error) => error.code(),
            Self::Refused(refusal) => refusal.code(),
            Self::Fetch(error) => error.code(),
            Self::Signature(error) => error.code(),
        }
    }

    /// What to do next, when there is something better than the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Disk(error) => error.hint().map(str::to_owned),
            Self::Catalog(error) => error.hint(),
            Self::Refused(refusal) => refusal.hint().map(str::to_owned),
            Self::Fetch(error) => Some(error.hint().to_owned()),
            Self::Signature(error) => Some(error.hint().to_owned()),
        }
    }

    /// Who should look at it.
    #[must_use]
    pub fn family(&self) -> Family {
        match self {
            Self::Disk(kiln_disk::Error::Malformed { .. }) => Family::Malformed,
            Self::Disk(kiln_disk::Error::Unsupported { .. }) => Family::Unsupported,
            Self::Disk(kiln_disk::Error::Refused { .. }) => Family::Refused,
            Self::Disk(kiln_disk::Error::Cancelled) => Family::Cancelled,
            Self::Disk(_) => Family::Io,
            Self::Catalog(error) => error.family(),
            Self::Refused(
                Refusal::ImageDamaged { .. } | Refusal::CopyDiffers { .. } | Refusal::Bundle { .. },
            ) => Family::Malformed,
            Self::Refused(Refusal::LayerCount { .. } | Refusal::LayerFormat { .. }) => Family::Unsupported,
            Self::Refused(_) => Family::Refused,
            Self::Fetch(error) => error.family(),
            Self::Signature(error) => error.family(),
        }
    }
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ChecksumDiffers { .. } => "checksum.differs",
            Self::NotListed { .. } => "checksum.not-listed",
            Self::Bundle { .. } => "bundle.damaged",
            Self::ListedTwice { .. } => "checksum.ambiguous",
            Self::ListTooLong { .. } => "checksum.too-long",
            Self::NoName { .. } => "checksum.no-name",
            Self::Findings { .. } => "import.findings",
            Self::TooLarge { .. } => "import.too-large",
            Self::Empty { .. } => "import.empty",
            Self::ImageDamaged { .. } => "image.damaged",
            Self::CopyDiffers { .. } => "output.differs",
            Self::LayerCount { .. } => "store.layers",
            Self::LayerFormat { .. } => "store.layer.format",
            Self::Guest { .. } => "import.guest",
            Self::FindingRule { .. } => "target.finding",
            Self::Target(refusal) => refusal.code(),
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::ChecksumDiffers { .. } => {
                "nothing was imported; fetch the file again, and the checksum from the vendor's own site"
            }
            Self::Bundle { .. } => {
                "nothing was imported; bring the file again, and compare its SHA-256 with the sender's"
            }
            Self::NotListed { .. } => {
                "rename the file as the vendor names it, or give its digest with --sha256"
            }
            Self::ListedTwice { .. } => "give the right digest with --sha256",
            Self::ListTooLong { .. } => "name the vendor's SHA256SUMS, SHA512SUMS, MD5SUMS or CHECKSUM file",
            Self::NoName { .. } => "give the digest with --sha256",
            Self::Findings { .. } => {
                "kiln check FILE tells all; fetch or export the file again, or take it as it is with --force"
            }
            Self::TooLarge { .. } => "raise the limit with --max-size if you expect a disk of this size",
            Self::Empty { .. } => "check that the download or the pipe did not break off at once",
            Self::ImageDamaged { .. } => "kiln verify IMAGE names the damaged blocks",
            Self::CopyDiffers { .. } => "kiln verify IMAGE tells whether the store or the copy is damaged",
            Self::LayerCount { .. } | Self::LayerFormat { .. } => "use a newer kiln",
            Self::Guest { id: "cloudinit.present", .. } => {
                "install cloud-init in the guest, or import it without with --force-no-cloud-init"
            }
            Self::Guest { .. } => {
                "kiln check --for TARGET FILE tells all, with the commands that mend it; --force imports it as it is"
            }
            Self::FindingRule { .. } => {
                "kiln check --explain ID knows the rules; correct the file of targets"
            }
            Self::Target(refusal) => refusal.hint(),
        })
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<TargetRefusal> for Error {
    fn from(refusal: TargetRefusal) -> Self {
        Self::Refused(Refusal::Target(Box::new(refusal)))
    }
}
