//! Why a conversation did not come to its end.

use std::io;
use std::time::Duration;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a conversation with QEMU, a guest agent or an NBD server did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system said no, or the other side hung up.
    #[error("cannot {operation} {peer}")]
    Io {
        /// What was tried, as a verb: "connect to", "read from", "write to".
        operation: &'static str,
        /// The other side.
        peer: String,
        /// The system's answer.
        source: io::Error,
    },
    /// Nothing, or not enough, came in time.
    #[error("no answer from {peer} within {} s", allowed.as_secs_f64())]
    TimedOut {
        /// The other side.
        peer: String,
        /// How long was waited.
        allowed: Duration,
    },
    /// What came is not in the protocol.
    #[error("{peer} does not keep to the protocol at byte {at} of what it sent")]
    Malformed {
        /// The other side.
        peer: String,
        /// Bytes that it had sent before the piece at fault.
        at: u64,
        /// What is wrong.
        #[source]
        problem: Problem,
    },
    /// The other side understood, and refuses.
    #[error("{peer} refuses {command}: {}", shown(description))]
    Refused {
        /// The other side.
        peer: String,
        /// The command.
        command: String,
        /// QMP's class of the error (`GenericError`, `DeviceNotFound`, ...), or NBD's name of it.
        class: String,
        /// Its own words.
        description: String,
    },
    /// The other side cannot do it.
    #[error("{peer} has no {feature}")]
    Unsupported {
        /// The other side.
        peer: String,
        /// What it would have to have.
        feature: String,
    },
}

/// One way in which an answer is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// An answer is longer than we read.
    #[error("an answer of more than {allowed} bytes")]
    TooLong {
        /// The limit.
        allowed: u64,
    },
    /// A line is no JSON object.
    #[error("a line that is not one JSON object")]
    NotJson,
    /// The first line is not QMP's.
    #[error("a greeting without the member QMP")]
    NoGreeting,
    /// A field is absent or of another type.
    #[error("an answer without a usable {field}")]
    Field {
        /// Its name.
        field: &'static str,
    },
    /// A number that must be there is another one.
    #[error("{field} is {found:#x}, expected {expected:#x}")]
    Value {
        /// What the number is, in the words of the protocol.
        field: &'static str,
        /// What was sent.
        found: u64,
        /// What the protocol has there.
        expected: u64,
    },
    /// A length or range that does not fit what was asked for.
    #[error("{field} of {found} bytes where {allowed} were possible")]
    Range {
        /// What the range is, in the words of the protocol.
        field: &'static str,
        /// What was sent.
        found: u64,
        /// What was possible.
        allowed: u64,
    },
}

impl Error {
    /// The stable code that scripts branch on.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => "qemu.no-socket",
                io::ErrorKind::ConnectionRefused => "qemu.not-listening",
                io::ErrorKind::PermissionDenied => "io.permission",
                io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                    "qemu.hung-up"
                }
                _ => "qemu.io",
            },
            Self::TimedOut { .. } => "qemu.timeout",
            Self::Malformed { .. } => "qemu.protocol",
            Self::Refused { .. } => "qemu.refused",
            Self::Unsupported { .. } => "qemu.unsupported",
        }
    }

    /// Whether the other side has gone: its process has ended, or nobody listens.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        matches!(self.code(), "qemu.no-socket" | "qemu.not-listening" | "qemu.hung-up")
    }
}

impl From<Error> for kiln_disk::Error {
    /// For disks that are read through a conversation.
    fn from(error: Error) -> Self {
        match error {
            Error::Io { operation, peer, source } => Self::io(operation, peer, source),
            other => {
                let kind = match &other {
                    Error::TimedOut { .. } => io::ErrorKind::TimedOut,
                    Error::Malformed { .. } => io::ErrorKind::InvalidData,
                    Error::Unsupported { .. } => io::ErrorKind::Unsupported,
                    _ => io::ErrorKind::Other,
                };
                Self::io("read", "the running machine's disk", io::Error::new(kind, other))
            }
        }
    }
}

/// The other side's words on one line, without control characters, at most 300 of them.
fn shown(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { ' ' } else { char }).take(300).collect()
}
