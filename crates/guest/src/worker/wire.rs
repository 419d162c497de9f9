//! What is said between the two processes: JSON behind its length (u32, little-endian); the bytes of a disk follow
//! their announcement as they are.

use std::fmt;
use std::io::{self, Read, Write};

use kiln_disk::interned::Word;
use kiln_disk::{Error, FileOffset, Problem};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::cage::Confinement;
use crate::look::{Look, Question};

/// The longest read that is asked for at once, in bytes.
pub(super) const MAX_READ: u32 = 1 << 20;

/// The longest message, in bytes: a report of a guest with every list at its limit is a tenth of that.
const MAX_MESSAGE: u32 = 64 << 20;

/// The first that the worker hears.
#[derive(Serialize, Deserialize)]
pub(super) enum Task {
    /// Look at disks of these lengths.
    Look {
        /// In bytes.
        disks: Vec<u64>,
        /// What for.
        question: Question,
    },
    /// Say what this process cannot do.
    Probe,
}

/// What the worker says.
#[derive(Serialize, Deserialize)]
pub(super) enum Said {
    /// It wants bytes of a disk.
    Read {
        /// Which.
        disk: u16,
        /// From where.
        at: u64,
        /// 1 to [`MAX_READ`].
        len: u32,
    },
    /// It has looked.
    Looked(Box<Look>),
    /// It could not look.
    Failed(Relayed),
    /// It has tried what it must not be able to do.
    Probed(Confinement),
}

/// What the worker hears of a disk.
#[derive(Serialize, Deserialize)]
pub(super) enum Heard {
    /// The bytes follow.
    Bytes,
    /// They are all zeros, and do not follow.
    Zeros,
    /// They could not be read.
    Failed(Relayed),
}

/// An error on its way from one process to the other.
#[derive(Serialize, Deserialize)]
pub(super) enum Relayed {
    /// [`Error::Io`].
    Io {
        #[serde(deserialize_with = "kiln_disk::interned::one")]
        operation: Word,
        target: String,
        at: Option<u64>,
        /// The system's number.
        number: Option<i32>,
        /// Its words, where it has no number.
        words: String,
    },
    /// [`Error::Malformed`].
    Malformed {
        #[serde(deserialize_with = "kiln_disk::interned::one")]
        structure: Word,
        at: u64,
        problem: Stated,
    },
    /// [`Error::Unsupported`].
    Unsupported {
        #[serde(deserialize_with = "kiln_disk::interned::one")]
        code: Word,
        feature: String,
        #[serde(deserialize_with = "kiln_disk::interned::one")]
        hint: Word,
    },
    /// [`Error::Refused`].
    Refused {
        #[serde(deserialize_with = "kiln_disk::interned::one")]
        code: Word,
        what: String,
        asked: u64,
        allowed: u64,
        #[serde(deserialize_with = "kiln_disk::interned::one")]
        hint: Word,
    },
    /// [`Error::Cancelled`].
    Cancelled,
}

/// A [`Problem`] of the other process.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stated {
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub(super) code: Word,
    pub(super) words: String,
    #[serde(deserialize_with = "kiln_disk::interned::maybe", default)]
    pub(super) hint: Option<Word>,
}

impl fmt::Display for Stated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

impl std::error::Error for Stated {}

impl Problem for Stated {
    fn code(&self) -> &'static str {
        self.code
    }

    fn hint(&self) -> Option<&'static str> {
        self.hint
    }
}

impl From<Error> for Relayed {
    fn from(error: Error) -> Self {
        match error {
            Error::Io { operation, target, at, source } => Self::Io {
                operation,
                target,
                at: at.map(FileOffset::get),
                number: source.raw_os_error(),
                words: source.to_string(),
            },
            Error::Malformed { structure, at, problem } => {
                let (code, words, hint) = (problem.code(), problem.to_string(), problem.hint());
                Self::Malformed { structure, at: at.get(), problem: Stated { code, words, hint } }
            }
            Error::Unsupported { code, feature, hint } => Self::Unsupported { code, feature, hint },
            Error::Refused { code, what, asked, allowed, hint } => {
                Self::Refused { code, what, asked, allowed, hint }
            }
            Error::Cancelled => Self::Cancelled,
            // The enum may grow in its own crate only.
            other => Self::Unsupported { code: other.code(), feature: other.to_string(), hint: "" },
        }
    }
}

impl From<Relayed> for Error {
    fn from(relayed: Relayed) -> Self {
        match relayed {
            Relayed::Io { operation, target, at, number, words } => {
                let source = number.map_or_else(|| io::Error::other(words), io::Error::from_raw_os_error);
                Self::Io { operation, target, at: at.map(FileOffset::new), source }
            }
            Relayed::Malformed { structure, at, problem } => {
                Self::malformed(structure, FileOffset::new(at), problem)
            }
            Relayed::Unsupported { code, feature, hint } => Self::Unsupported { code, feature, hint },
            Relayed::Refused { code, what, asked, allowed, hint } => {
                Self::Refused { code, what, asked, allowed, hint }
            }
            Relayed::Cancelled => Self::Cancelled,
        }
    }
}

/// Writes a message.
pub(super) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    send_before(to, message, &[])
}

/// Writes a message and the bytes that it announces, at once: each write to a pipe wakes the other side.
pub(super) fn send_before(to: &mut impl Write, message: &impl Serialize, behind: &[u8]) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let len = u32::try_from(bytes.len().saturating_sub(4)).ok().filter(|len| *len <= MAX_MESSAGE);
    let len = len.ok_or_else(|| io::Error::other("a message is longer than any may be"))?;
    if let Some(head) = bytes.first_chunk_mut() {
        *head = len.to_le_bytes();
    }
    bytes.extend_from_slice(behind);
    to.write_all(&bytes)?;
    to.flush()
}

/// Reads a message.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut head = [0; 4];
    from.read_exact(&mut head)?;
    let len = u32::from_le_bytes(head);
    if len > MAX_MESSAGE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is longer than any may be"));
    }
    // What is announced is not what comes: memory follows the bytes.
    let mut bytes = Vec::new();
    if from.take(len.into()).read_to_end(&mut bytes)? != usize::try_from(len).unwrap_or(usize::MAX) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
