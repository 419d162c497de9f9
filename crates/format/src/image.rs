//! An opened container.

use std::sync::Arc;

use kiln_disk::{Budget, Disk, Findings, Observer, Result};

use crate::facts::Facts;
use crate::ova::Appliance;
use crate::resolver::{DenyAll, Resolver};
use crate::scratch::Scratch;
use crate::table::Format;

/// How much damage an open may pass over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tolerance {
    /// Refuse whatever makes the data doubtful (a corrupt bit, tables past the end). For convert and import.
    #[default]
    Strict,
    /// Open whatever can be looked at safely; the check says what is wrong. For inspect and check.
    Damaged,
}

/// What an open may use.
#[derive(Clone)]
pub struct OpenContext {
    /// The only way to another file.
    pub resolver: Arc<dyn Resolver>,
    /// Pays for tables and nodes; shared along a backing chain.
    pub budget: Arc<Budget>,
    /// How many files lie above this one in its chain; 0 for the file the user named.
    pub depth: u8,
    /// Read this internal snapshot (name, else id) in place of the active disk.
    pub snapshot: Option<String>,
    /// How much damage to pass over.
    pub tolerance: Tolerance,
    /// Which disk of an appliance: its number from 1, its id or the name of its file.
    pub part: Option<String>,
    /// Where parts that are compressed by themselves may be unpacked; nowhere by default.
    pub scratch: Option<Arc<Scratch>>,
}

impl OpenContext {
    /// For a file from a stranger: no other file is opened, standard limits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            resolver: Arc::new(DenyAll),
            budget: Arc::new(Budget::default()),
            depth: 0,
            snapshot: None,
            tolerance: Tolerance::Strict,
            part: None,
            scratch: None,
        }
    }

    /// The same, one file further down the chain.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Refused`] (`budget.depth`).
    pub fn deeper(&self) -> Result<Self> {
        let depth = self.depth.saturating_add(1);
        self.budget.check_depth(depth)?;
        Ok(Self { depth, snapshot: None, part: None, ..self.clone() })
    }
}

impl Default for OpenContext {
    fn default() -> Self {
        Self::new()
    }
}

/// How far a check goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckScope {
    /// Headers and tables.
    Metadata,
    /// Also decode every piece of encoded data.
    Data,
    /// As [`CheckScope::Data`], without decoding what a read of the whole disk decodes: for whoever reads all of it
    /// as well. Complete only when that read succeeds.
    BesideReading,
}

impl CheckScope {
    /// Whether data is looked at too.
    #[must_use]
    pub const fn includes_data(self) -> bool {
        !matches!(self, Self::Metadata)
    }
}

/// A container opened for reading: a disk that can tell about itself.
///
/// Opening costs headers and top-level tables only; the answer to "what is it?" does not depend on its size.
pub trait Image: Disk {
    /// The row of the table that opened it.
    fn format(&self) -> &'static Format;

    /// What its headers say. Opens and reads nothing more.
    fn facts(&self) -> Facts;

    /// Looks for everything in the format's check table and answers all that it finds, not the first.
    /// Time and memory are bounded by the file's length, whatever its tables say.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`], `Cancelled`, or `Refused` by the budget; damage is a finding, not an error.
    fn check(&self, scope: CheckScope, observer: &dyn Observer) -> Result<Findings>;

    /// Whether the file may hold several disks, of which [`OpenContext::part`] chooses one.
    fn has_parts(&self) -> bool {
        self.appliance().is_some()
    }

    /// What the opening has shown and whoever uses the disk should be told, damaged or not; part of what
    /// [`Image::check`] finds. Costs nothing.
    fn remarks(&self) -> Findings {
        Findings::default()
    }

    /// The machine that the disk belongs to, where the file describes one.
    fn appliance(&self) -> Option<&Appliance> {
        None
    }
}
