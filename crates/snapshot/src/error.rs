//! The error of captures.

use kiln_catalog::Family;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a capture did not happen. Nothing of it is to be seen then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Files, disks and containers.
    #[error(transparent)]
    Disk(#[from] kiln_disk::Error),
    /// The store.
    #[error(transparent)]
    Catalog(#[from] kiln_catalog::Error),
    /// A running machine, or the way to it.
    #[error(transparent)]
    Qemu(#[from] kiln_qemu::Error),
    /// A rule of captures said no.
    #[error("refused: {0}")]
    Refused(Refusal),
}

/// One way in which a rule says no.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Somebody writes to the disk.
    #[error("{what} is being written by another program: {seen}")]
    InUse {
        /// The file or device.
        what: String,
        /// By what that was seen.
        seen: &'static str,
    },
    /// A disk without bytes.
    #[error("{what} holds a disk of 0 bytes")]
    Empty {
        /// The file.
        what: String,
    },
    /// A check found damage.
    #[error("the check of {what} failed: {}", ids.join(", "))]
    Findings {
        /// The file.
        what: String,
        /// Ids of the findings that fail.
        ids: Vec<String>,
    },
    /// No disk is called so.
    #[error("there is no disk {asked:?}; there are {}", known.join(", "))]
    NoDisk {
        /// What was asked for.
        asked: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// The guest's file systems could not be made to stand still, and had to.
    #[error("the guest cannot be quiesced: {why}")]
    NotQuiesced {
        /// Why not.
        why: String,
    },
    /// No room for what the guest overwrites meanwhile and for the layer.
    #[error("{free} bytes are free in {place}, the capture may need {needed}")]
    Space {
        /// Where.
        place: String,
        /// The need.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// A machine whose block devices are not as a capture needs them.
    #[error("{machine}: {problem}")]
    Machine {
        /// The machine.
        machine: String,
        /// What is wrong.
        problem: String,
    },
    /// The copy of what the guest overwrote could not be kept, so the point in time is lost. The guest went on.
    #[error("the point in time of {disk} was lost: {why}; the machine runs on undisturbed")]
    Lost {
        /// The disk.
        disk: String,
        /// What QEMU says.
        why: String,
    },
    /// The machine did not stop.
    #[error("the machine did not stop within {seconds} s")]
    NotStopped {
        /// How long was waited.
        seconds: u64,
    },
    /// A program that is needed said no, or is not there.
    #[error("{program} failed: {words}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it said.
        words: String,
    },
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Error {
    /// The stable code that scripts branch on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Disk(error) => error.code(),
            Self::Catalog(error) => error.code(),
            Self::Qemu(error) => error.code(),
            Self::Refused(refusal) => refusal.code(),
        }
    }

    /// What to do next, when there is something better than the message.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Disk(error) => error.hint().map(str::to_owned),
            Self::Catalog(error) => error.hint(),
            Self::Qemu(error) if error.is_gone() => {
                Some("the machine has ended, or was not started with this socket".to_owned())
            }
            Self::Qemu(_) => None,
            Self::Refused(refusal) => Some(refusal.hint().to_owned()),
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
            Self::Disk(_) | Self::Qemu(_) => Family::Io,
            Self::Catalog(error) => error.family(),
            Self::Refused(
                Refusal::Space { .. }
                | Refusal::Lost { .. }
                | Refusal::NotStopped { .. }
                | Refusal::Machine { .. }
                | Refusal::Program { .. },
            ) => Family::Io,
            Self::Refused(_) => Family::Refused,
        }
    }
}

impl Refusal {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InUse { .. } => "capture.in-use",
            Self::Empty { .. } => "capture.empty",
            Self::Findings { .. } => "capture.findings",
            Self::NoDisk { .. } => "capture.no-disk",
            Self::NotQuiesced { .. } => "capture.not-quiesced",
            Self::Space { .. } => "capture.space",
            Self::Machine { .. } => "capture.machine",
            Self::Lost { .. } => "capture.lost",
            Self::NotStopped { .. } => "capture.not-stopped",
            Self::Program { .. } => "capture.program",
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::InUse { .. } => {
                "stop the program, or capture the running machine by its socket: kiln capture qmp:SOCKET"
            }
            Self::Empty { .. } => "name the disk itself",
            Self::Findings { .. } => "kiln check lists the damage",
            Self::NoDisk { .. } => "--all-disks takes them all",
            Self::NotQuiesced { .. } => {
                "start qemu-guest-agent in the guest, or use --quiesce auto, which falls back to a crash-consistent image"
            }
            Self::Space { .. } => {
                "make room; --scratch DIR keeps elsewhere what the guest overwrites; a stopped machine needs less (--stop)"
            }
            Self::Machine { .. } => "capture the stopped machine's disk file in place of it",
            Self::Lost { .. } => {
                "make room where the store is, or name a place that has room (--scratch DIR)"
            }
            Self::NotStopped { .. } => "stop it in the guest, or capture it running, without --stop",
            Self::Program { .. } => "try the same command by hand",
        }
    }
}
