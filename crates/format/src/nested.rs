//! A disk whose file lies inside the file that the user named: the same disk, its places counted in the latter.

use std::num::NonZeroU64;

use kiln_disk::{Disk, Error, Extent, ExtentKind, FileOffset, Findings, GuestOffset, Observer, Result};

use crate::facts::Facts;
use crate::image::{CheckScope, Image};

/// An open disk inside another file.
pub(crate) struct Nested {
    image: Box<dyn Image>,
    /// Where its file begins in the outer one; none when it does not lie there in one piece.
    base: Option<FileOffset>,
    /// Ids of the wrappers around its file, the outermost first.
    wrappers: Vec<&'static str>,
}

/// An error of a file inside another, its place counted in the outer one. A place that is nowhere in it is kept: it
/// is still the best there is.
pub(crate) fn moved(error: Error, base: Option<FileOffset>) -> Error {
    match (error, base) {
        (Error::Malformed { structure, at, problem }, Some(base)) => {
            Error::Malformed { structure, at: base.saturating_add(at.get()), problem }
        }
        (error, _) => error,
    }
}

impl Nested {
    /// Wraps an open disk.
    pub(crate) fn new(image: Box<dyn Image>, base: Option<FileOffset>) -> Self {
        Self { image, base, wrappers: Vec::new() }
    }

    /// Notes the wrappers that its file was in.
    pub(crate) fn packed_in(mut self, wrappers: Vec<&'static str>) -> Self {
        self.wrappers = wrappers;
        self
    }

    /// Ids of the wrappers around its file, the outermost first.
    pub(crate) fn wrappers(&self) -> &[&'static str] {
        &self.wrappers
    }

    /// What its own headers say; places of references count in the outer file.
    pub(crate) fn facts(&self) -> Facts {
        let mut facts = self.image.facts();
        if let Some(base) = self.base {
            for reference in &mut facts.references {
                reference.at = base.saturating_add(reference.at.get());
            }
        }
        facts
    }

    /// Its own check; places count in the outer file.
    pub(crate) fn check(&self, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
        let mut findings = self.image.check(scope, observer).map_err(|error| moved(error, self.base))?;
        findings.move_places(|at| self.base?.checked_add(at.get()));
        Ok(findings)
    }

    /// Id of its format.
    pub(crate) fn format_id(&self) -> &'static str {
        self.image.format().id
    }
}

impl Disk for Nested {
    fn disk_len(&self) -> u64 {
        self.image.disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.image.read_guest(at, buf).map_err(|error| moved(error, self.base))
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        let mut extent = self.image.extent_at(at, limit).map_err(|error| moved(error, self.base))?;
        if let ExtentKind::Data { file, at } = extent.kind {
            extent.kind = match (file, self.base) {
                (0, Some(base)) => ExtentKind::Data { file, at: base.saturating_add(at.get()) },
                _ => ExtentKind::Encoded,
            };
        }
        Ok(extent)
    }
}
