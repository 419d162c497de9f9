//! The only way from one file to another.

use std::sync::Arc;

use kiln_disk::{ByteSource, Error, FileOffset, Result};
use serde::Serialize;

use crate::table::Format;

/// What a container wants another file for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ExternalRole {
    /// qcow2 backing file.
    Backing,
    /// qcow2 external data file.
    DataFile,
    /// Parent of a differencing disk.
    Parent,
    /// A part of the disk's own data, in a file beside the one that describes it (VMDK).
    Extent,
}

impl ExternalRole {
    /// The word for messages.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Backing => "backing file",
            Self::DataFile => "external data file",
            Self::Parent => "parent disk",
            Self::Extent => "extent",
        }
    }
}

/// Another file as a container names it. A stranger's words: never a path to open.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ExternalRef {
    /// What it is for.
    pub role: ExternalRole,
    /// The name as stored, invalid UTF-8 replaced. Whoever prints it escapes control characters.
    pub name: String,
    /// The format that the container declares for it.
    pub format: Option<String>,
    /// Byte of the container that makes it need the file: of the name, where it has a place of its own.
    pub at: FileOffset,
}

/// What a reference leads to.
#[derive(Clone)]
pub struct Resolved {
    /// The bytes.
    pub source: Arc<dyn ByteSource>,
    /// Their format, when the resolver's owner said so; else the format that the container declares counts. It is
    /// never guessed.
    pub format: Option<&'static Format>,
}

/// Decides which other files a container may have.
pub trait Resolver: Send + Sync {
    /// Finds the file behind a reference.
    ///
    /// # Errors
    /// [`Error::Refused`] with code `reference.denied` for what is not allowed.
    fn resolve(&self, reference: &ExternalRef) -> Result<Resolved>;
}

/// Allows nothing: the default.
#[derive(Debug, Clone, Copy, Default)]
pub struct DenyAll;

impl Resolver for DenyAll {
    fn resolve(&self, reference: &ExternalRef) -> Result<Resolved> {
        Err(denied(reference))
    }
}

/// Allows what its owner listed by name, nothing else.
#[derive(Clone, Default)]
pub struct AllowList {
    entries: Vec<(String, Resolved)>,
}

impl AllowList {
    /// Allows the reference that is spelled `name` in the container to be `resolved`.
    pub fn allow(&mut self, name: impl Into<String>, resolved: Resolved) {
        self.entries.push((name.into(), resolved));
    }
}

impl Resolver for AllowList {
    fn resolve(&self, reference: &ExternalRef) -> Result<Resolved> {
        self.entries
            .iter()
            .find(|(name, _)| *name == reference.name)
            .map(|(_, resolved)| resolved.clone())
            .ok_or_else(|| denied(reference))
    }
}

pub(crate) fn denied(reference: &ExternalRef) -> Error {
    Error::Refused {
        code: "reference.denied",
        what: format!("the image names a {} {:?}", reference.role.words(), reference.name),
        asked: 0,
        allowed: 0,
        hint: "if you trust it, say where it is: --allow-backing NAME=PATH, with NAME as the image spells it",
    }
}
