//! The error of everything that reads or writes a disk.
//!
//! Four families, because they call for four different people: *I/O* (look at the machine), *malformed* (the
//! file is damaged), *unsupported* (the file may be fine, we cannot read it), *refused* (a limit or a policy said
//! no). Reads through [`crate::Disk`] come back with the problems of whatever container lies below, so the
//! container crates share this type and add their own [`Problem`] enums.

use std::any::Any;
use std::fmt;
use std::io;

use crate::offset::FileOffset;

/// Shorthand for results of this crate and of the container crates.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One stated way in which content is wrong. Each parser has its own enum of them.
///
/// `code` is API: stable, lower-case, dotted (`qcow2.l1.past-end`), never renamed.
pub trait Problem: std::error::Error + Any + Send + Sync {
    /// The stable code of this problem.
    fn code(&self) -> &'static str;

    /// What the user can do next, one line.
    fn hint(&self) -> Option<&'static str> {
        None
    }
}

/// Why an operation on a disk, a container or one of their files did not happen.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The operating system said no.
    Io {
        /// What was tried, as a verb phrase: "read", "fsync", "create".
        operation: &'static str,
        /// The file as the user named it.
        target: String,
        /// Where in the file, when a place is known.
        at: Option<FileOffset>,
        /// The system's answer.
        source: io::Error,
    },
    /// The content contradicts its specification or itself.
    Malformed {
        /// The structure in which the fault was seen, in the words of its specification.
        structure: &'static str,
        /// First byte of the field or structure at fault.
        at: FileOffset,
        /// What is wrong.
        problem: Box<dyn Problem>,
    },
    /// The content asks for something that Kiln does not do.
    Unsupported {
        /// The stable code.
        code: &'static str,
        /// The feature, as users know it.
        feature: String,
        /// The way out.
        hint: &'static str,
    },
    /// A limit or a policy forbids it.
    Refused {
        /// The stable code.
        code: &'static str,
        /// What is limited, with its unit, or what is forbidden.
        what: String,
        /// How much was asked for (0 where the refusal is not about an amount).
        asked: u64,
        /// How much is allowed.
        allowed: u64,
        /// The way out.
        hint: &'static str,
    },
    /// The observer asked to stop.
    Cancelled,
}

impl Error {
    /// An [`Error::Io`] without a position.
    pub fn io(operation: &'static str, target: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { operation, target: target.into(), at: None, source: source.into() }
    }

    /// An [`Error::Malformed`].
    pub fn malformed(structure: &'static str, at: FileOffset, problem: impl Problem) -> Self {
        Self::Malformed { structure, at, problem: Box::new(problem) }
    }

    /// The stable code that scripts branch on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "io.not-found",
                io::ErrorKind::PermissionDenied => "io.permission",
                io::ErrorKind::AlreadyExists => "io.exists",
                io::ErrorKind::StorageFull => "io.no-space",
                io::ErrorKind::UnexpectedEof => "io.short-read",
                _ => "io.failed",
            },
            Self::Malformed { problem, .. } => problem.code(),
            Self::Unsupported { code, .. } | Self::Refused { code, .. } => code,
            Self::Cancelled => "cancelled",
        }
    }

    /// What to do next, when there is something better than "look at the file".
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Malformed { problem, .. } => problem.hint(),
            Self::Unsupported { hint, .. } | Self::Refused { hint, .. } => {
                Some(*hint).filter(|hint| !hint.is_empty())
            }
            Self::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space on that file system and run the same command again")
            }
            Self::Io { .. } | Self::Cancelled => None,
        }
    }

    /// The byte in the file to look at, when there is one.
    #[must_use]
    pub fn offset(&self) -> Option<FileOffset> {
        match self {
            Self::Io { at, .. } => *at,
            Self::Malformed { at, .. } => Some(*at),
            _ => None,
        }
    }

    /// The typed problem of a malformed file, for callers and tests that branch on it.
    #[must_use]
    pub fn problem<P: Problem>(&self) -> Option<&P> {
        match self {
            Self::Malformed { problem, .. } => {
                let any: &dyn Any = problem.as_ref();
                any.downcast_ref()
            }
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { operation, target, at: Some(at), .. } => {
                write!(f, "cannot {operation} {target} at byte {at}")
            }
            Self::Io { operation, target, at: None, .. } => write!(f, "cannot {operation} {target}"),
            Self::Malformed { structure, at, .. } => write!(f, "damaged {structure} at byte {at}"),
            Self::Unsupported { feature, .. } => write!(f, "{feature} is not supported"),
            Self::Refused { what, asked: 0, allowed: 0, .. } => write!(f, "refused: {what}"),
            Self::Refused { what, asked, allowed, .. } => {
                write!(f, "refused: {what} would be {asked}, at most {allowed} is allowed")
            }
            Self::Cancelled => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Malformed { problem, .. } => {
                let problem: &(dyn std::error::Error + 'static) = problem.as_ref();
                Some(problem)
            }
            _ => None,
        }
    }
}
