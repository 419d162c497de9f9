//! A container as a file that appears whole, proved, or not at all.

use std::path::Path;
use std::sync::Arc;

use kiln_disk::digest::{
    ContentDigest, Fingerprint, HashJob, LeafFile, LeafSink, fingerprint_disk, hash_disk,
};
use kiln_disk::{
    Budget, ByteSink, ByteSource, Disk, Durability, Error, Existing, FileOffset, FileSink, FileSource,
    Observer, Problem, Result, StagedFile,
};

use super::engine::{Job, Outcome, write_container, write_layer};
use super::upon::zero_runs;
use crate::image::OpenContext;
use crate::options::Options;
use crate::table::Format;

/// A file to write.
pub struct FilePlan<'a> {
    /// The disk to read.
    pub disk: &'a dyn Disk,
    /// The format to write.
    pub format: &'static Format,
    /// Its options.
    pub options: &'a Options,
    /// Where the file will be.
    pub dest: &'a Path,
    /// Whether it may replace another.
    pub existing: Existing,
    /// Whether to wait for the device.
    pub durability: Durability,
    /// Read the output again with its own reader and compare fingerprints.
    pub read_back: bool,
    /// Threads to use, at least one.
    pub threads: usize,
    /// Compute the content digest.
    pub content_digest: bool,
    /// Also compute the plain SHA-256 of the flat disk.
    pub raw_digest: bool,
    /// Who keeps the leaves of the content digest.
    pub leaves: Option<&'a mut dyn LeafSink>,
    /// Pays for the data produced.
    pub budget: &'a Budget,
}

/// What an output's disk is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    /// The fingerprint of the source, taken while it was written: much cheaper than the other.
    Fingerprint(Fingerprint),
    /// A content digest that is known from another time.
    Content(ContentDigest),
}

impl std::fmt::Display for Likeness {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fingerprint(fingerprint) => fingerprint.fmt(f),
            Self::Content(digest) => digest.fmt(f),
        }
    }
}

/// What can be wrong with an output that was just written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OutputProblem {
    /// It does not hold the disk that was copied.
    #[error("the output holds the disk {found}, the source is {expected}")]
    Differs {
        /// The source's.
        expected: Likeness,
        /// The output's.
        found: Likeness,
    },
    /// The disk inside has another length.
    #[error("the output holds a disk of {found} bytes, the source has {expected}")]
    Length {
        /// The source's length.
        expected: u64,
        /// The output's.
        found: u64,
    },
    /// A layer does not hide what it must, or hides more.
    #[error("the layer hides what is below at {found} places other than it should")]
    Hides {
        /// How many runs differ.
        found: u64,
    },
}

impl Problem for OutputProblem {
    fn code(&self) -> &'static str {
        match self {
            Self::Differs { .. } => "output.differs",
            Self::Length { .. } => "output.length",
            Self::Hides { .. } => "output.hides",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some("nothing was published; look at the memory and the storage of this machine, then try again")
    }
}

/// Writes a container beside `plan.dest`, waits for the device and reads it back as the plan says, asks `confirm`
/// a last time (whether the source is unchanged), and gives the file its name.
///
/// # Errors
/// As [`stage_file`]; `io.exists` when the name is taken and `plan.existing` keeps it. Nothing is left behind.
pub fn write_file(
    plan: FilePlan<'_>,
    confirm: &dyn Fn() -> Result<()>,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let (existing, durability) = (plan.existing, plan.durability);
    let (staged, outcome) = stage_file(plan, observer)?;
    confirm()?;
    staged.commit(existing, durability)?;
    Ok(outcome)
}

/// [`write_file`] without the last step, for who has a publish protocol of its own.
///
/// # Errors
/// As [`write_container`]; [`Error::Malformed`] with an [`OutputProblem`] when the output does not hold the same
/// disk; `io.exists` at once when the name is taken.
pub fn stage_file(plan: FilePlan<'_>, observer: &dyn Observer) -> Result<(StagedFile, Outcome)> {
    stage_upon(plan, None, observer)
}

/// The same for a layer upon a disk whose block hashes are `below`: see [`write_layer`]. Read back, it holds what was
/// found to differ and hides what it must, and nothing else.
///
/// # Errors
/// As [`stage_file`] and [`write_layer`].
pub fn stage_layer(
    plan: FilePlan<'_>,
    below: &LeafFile,
    observer: &dyn Observer,
) -> Result<(StagedFile, Outcome)> {
    stage_upon(plan, Some(below), observer)
}

fn stage_upon(
    plan: FilePlan<'_>,
    below: Option<&LeafFile>,
    observer: &dyn Observer,
) -> Result<(StagedFile, Outcome)> {
    let label = plan.dest.display().to_string();
    if plan.existing == Existing::Keep && plan.dest.symlink_metadata().is_ok() {
        return Err(Error::io("create", label, std::io::ErrorKind::AlreadyExists));
    }
    let staged = StagedFile::beside(plan.dest)?;
    let clone = || staged.file().try_clone().map_err(|source| Error::io("duplicate", &label, source));
    let job = Job {
        disk: plan.disk,
        format: plan.format,
        options: plan.options,
        threads: plan.threads,
        content_digest: plan.content_digest,
        fingerprint: plan.read_back,
        raw_digest: plan.raw_digest,
        leaves: plan.leaves,
        budget: plan.budget,
    };
    let sink = FileSink::new(clone()?, &label);
    let sink: Arc<dyn ByteSink> = match plan.durability {
        Durability::Synced => Arc::new(sink.with_early_write_out()),
        Durability::Unsynced => Arc::new(sink),
    };
    let outcome = match below {
        Some(below) => write_layer(job, below, &sink, observer)?,
        None => write_container(job, &sink, observer)?,
    };
    // The device works while the processor compares.
    std::thread::scope(|scope| {
        let sync = (plan.durability == Durability::Synced).then(|| scope.spawn(|| staged.sync()));
        let compared = match outcome.fingerprint {
            Some(fingerprint) => FileSource::from_file(clone()?, &label).and_then(|source| {
                let likeness = Likeness::Fingerprint(fingerprint);
                let disk_len = plan.disk.disk_len();
                let source: Arc<dyn ByteSource> = Arc::new(source);
                let compared =
                    read_back(Arc::clone(&source), plan.format, disk_len, likeness, plan.threads, observer);
                compared.and_then(|()| match below {
                    Some(_) => hides(source, plan.format, &outcome),
                    None => Ok(()),
                })
            }),
            None => Ok(()),
        };
        let synced = sync.map_or(Ok(()), |sync| sync.join().unwrap_or(Err(Error::Cancelled)));
        compared.and(synced)
    })?;
    Ok((staged, outcome))
}

/// Whether a layer that was just written hides what it must.
fn hides(source: Arc<dyn ByteSource>, format: &'static Format, outcome: &Outcome) -> Result<()> {
    let image = (format.open)(source, &OpenContext::new())?;
    let found = zero_runs(image.as_ref())?;
    if found == outcome.hidden {
        return Ok(());
    }
    let differ = found.iter().zip(&outcome.hidden).filter(|(one, other)| one != other).count();
    let more = found.len().abs_diff(outcome.hidden.len());
    let found = u64::try_from(differ.saturating_add(more)).unwrap_or(u64::MAX);
    Err(Error::malformed("output", FileOffset::ZERO, OutputProblem::Hides { found }))
}

/// Opens a container that was just written, with its own reader and no other file, and compares its content.
///
/// # Errors
/// [`Error::Malformed`] with an [`OutputProblem`]; whatever opening and reading says.
pub fn read_back(
    source: Arc<dyn ByteSource>,
    format: &'static Format,
    disk_len: u64,
    expected: Likeness,
    threads: usize,
    observer: &dyn Observer,
) -> Result<()> {
    let image = (format.open)(source, &OpenContext::new())?;
    let wrong = |problem| Err(Error::malformed("output", FileOffset::ZERO, problem));
    if image.disk_len() != disk_len {
        return wrong(OutputProblem::Length { expected: disk_len, found: image.disk_len() });
    }
    let found = match expected {
        Likeness::Fingerprint(_) => {
            Likeness::Fingerprint(fingerprint_disk(image.as_ref(), threads, observer)?)
        }
        Likeness::Content(_) => {
            let job = HashJob { threads, leaves: None, raw: false };
            Likeness::Content(hash_disk(image.as_ref(), job, observer)?.content)
        }
    };
    if found != expected {
        return wrong(OutputProblem::Differs { expected, found });
    }
    Ok(())
}
