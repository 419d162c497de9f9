//! What is stored while it comes by.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Disk, Error, Findings, Observer, Result};

use super::input::ByteStream;
use super::{Ending, Kept, Wrapped};
use crate::facts::Facts;
use crate::identify::Identity;
use crate::image::Image;
use crate::{ova, qcow2, tar};

/// Bytes at the beginning of a disk's file that are never let go, for looks at the end.
pub(crate) const WATCHED_HEAD: u64 = 128 << 10;

/// How much longer than twice its disk a file may be: tables of the smallest units, what programs leave unused, other
/// members of an archive.
const SLACK: u64 = 1 << 30;

/// A file on its way: where it comes from, where what has to be kept of it may go, and what reading it may cost.
pub(crate) struct Coming {
    stream: Box<dyn ByteStream>,
    label: String,
    dir: PathBuf,
    pub(crate) budget: Arc<Budget>,
}

impl Coming {
    /// Starts to take in the file of a disk of this length. The two answers are the same bytes.
    pub(crate) fn keep(self, disk_len: u64) -> Result<(Arc<Kept>, Arc<dyn ByteSource>)> {
        let max_len = disk_len.saturating_mul(2).saturating_add(SLACK);
        let kept = Arc::new(Kept::start(self.stream, self.label, self.dir, max_len)?);
        let source: Arc<dyn ByteSource> = Arc::<Kept>::clone(&kept);
        Ok((kept, source))
    }
}

/// `stream.kind`: the file that came, "the archive", is not what its beginning said.
pub(crate) fn other_kind(what: &str) -> Error {
    Error::Refused {
        code: "stream.kind",
        what: format!("{what} is not what its beginning looked like"),
        asked: 0,
        allowed: 0,
        hint: "keep the file first, with --spool",
    }
}

/// A disk in a file on its way that is read by its tables, for [`crate::transfer`]: each byte of it is read once,
/// about in order. Not a disk for anything else, as [`super::StreamDisk`]: a second read of the same bytes may be
/// refused (`stream.layout`).
pub trait Passing: Disk {
    /// Takes in the rest of the file and checks all of its structure: what is found is what a check of the file
    /// finds.
    ///
    /// # Errors
    /// Those of whatever the bytes come from; as [`crate::Image::check`]; [`Error::Refused`] (`stream.kind`) when
    /// the file is not what its beginning looked like.
    fn finish(&self, observer: &dyn Observer) -> Result<(Ending, Findings)>;

    /// The container, to be asked about itself after [`Passing::finish`]; its disk has gone by.
    fn image(&self) -> Option<&dyn Image>;

    /// Bytes that came too early, did not fit into memory, and went to a file.
    fn spilled_bytes(&self) -> u64;
}

/// What the beginning says of the disk that comes.
enum Plan {
    Qcow2(qcow2::passing::Plan),
    Tar(tar::passing::Plan),
    Ova(ova::passing::Plan),
}

impl Wrapped {
    /// The disk, when the content is a container that is read by its tables and may be read as it comes: what it says
    /// of itself. Otherwise why not, where there is a word for it.
    ///
    /// # Errors
    /// As said.
    pub fn passing(&self) -> std::result::Result<Facts, Option<&'static str>> {
        let facts = match self.passing_plan()? {
            Plan::Qcow2(plan) => plan.facts(),
            Plan::Tar(plan) => plan.facts(),
            Plan::Ova(plan) => plan.facts(),
        };
        Ok(Facts { file_bytes: self.outer_len().unwrap_or(0), ..facts })
    }

    fn passing_plan(&self) -> std::result::Result<Plan, Option<&'static str>> {
        match self.identity() {
            Identity::Container { format, .. } if *format == qcow2::FORMAT => {
                qcow2::passing::Plan::read(self.head()).map(Plan::Qcow2)
            }
            Identity::Container { format, .. } if *format == tar::FORMAT => {
                tar::passing::Plan::read(self.head()).map(Plan::Tar)
            }
            Identity::Container { format, .. } if *format == ova::FORMAT => {
                ova::passing::Plan::read(self.head()).map(Plan::Ova)
            }
            _ => Err(None),
        }
    }

    /// The disk of [`Wrapped::passing`]. What has to be kept goes to an unnamed file in `dir`.
    ///
    /// # Errors
    /// As the format's open; [`Error::Unsupported`] (`stream.kind`) for any other content.
    pub fn into_passing(self, dir: &Path, budget: &Arc<Budget>) -> Result<Box<dyn Passing>> {
        let plan = self.passing_plan().map_err(|_| Error::Unsupported {
            code: "stream.kind",
            feature: "reading this container as it comes".to_owned(),
            hint: "keep the file first, with --spool",
        })?;
        let (label, dir, budget) = (self.label().to_owned(), dir.to_owned(), Arc::clone(budget));
        let coming = Coming { stream: self.into_stream(), label, dir, budget };
        Ok(match plan {
            Plan::Qcow2(plan) => Box::new(plan.open(coming)?),
            Plan::Tar(plan) => Box::new(plan.open(coming)?),
            Plan::Ova(plan) => Box::new(plan.open(coming)?),
        })
    }
}
