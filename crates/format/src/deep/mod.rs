//! The deep look at a file: everything that a check can find, the disk read to its last byte, and both digests.
//!
//! Three things happen beside each other on one file that was opened once: its bytes are hashed front to back, its
//! tables are checked, and its disk is hashed, which decodes everything encoded on it. They meet in the page cache;
//! nothing paces them, so a device is read once only while the cache holds what lies between them. A part of the disk
//! that cannot be read does not end the look: what is encoded is then decoded piece by piece to find all that is
//! damaged, the bytes that are lost are named, and the rest is read.

mod copies;
mod unreadable;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_disk::digest::{Algorithm, Digest, DiskDigests, HashJob, LeafSink, hash_disk, hash_source};
use kiln_disk::pipeline::default_threads;
use kiln_disk::{ByteSource, CheckSpec, Error, Event, GuestRange, Observer, Result};

use crate::identify::{CheckReport, Choice, check_image, open_checked};
use crate::image::{CheckScope, Image, OpenContext};
use crate::partitions::{Layout, check_gpt};

/// What only this look can find.
pub fn checks() -> impl Iterator<Item = &'static CheckSpec> {
    copies::CHECKS.iter().chain(unreadable::CHECKS).chain(crate::partitions::GPT_CHECKS)
}

/// What to compute on the way.
pub struct DeepJob<'a> {
    /// Digests of the file as it is.
    pub algorithms: &'a [Algorithm],
    /// Threads to hash the disk with, at least one.
    pub threads: usize,
    /// Also the plain SHA-256 of the flat disk.
    pub raw: bool,
    /// Who keeps the leaves of the content digest.
    pub leaves: Option<&'a mut dyn LeafSink>,
}

impl Default for DeepJob<'_> {
    fn default() -> Self {
        Self { algorithms: &[], threads: default_threads(), raw: false, leaves: None }
    }
}

/// What the look came to.
#[derive(Debug)]
pub struct DeepReport {
    /// Format, facts and findings. The layout is there whenever the disk could be opened.
    pub check: CheckReport,
    /// Digests of the disk; absent when a finding says that it is not what it was.
    pub digests: Option<DiskDigests>,
    /// Digests of the file, in the order asked for.
    pub transport: Vec<Digest>,
    /// Parts of the disk that cannot be read, ascending.
    pub unreadable: Vec<GuestRange>,
}

/// Looks at a file. `file` is what the transport digests are of: `source` itself, or the wrapped file around it.
///
/// # Errors
/// As [`crate::check`].
pub fn verify(
    file: &dyn ByteSource,
    source: Arc<dyn ByteSource>,
    choice: Choice,
    context: &OpenContext,
    job: DeepJob<'_>,
    observer: &dyn Observer,
) -> Result<DeepReport> {
    let quiet = Quiet { observer, stopped: AtomicBool::new(false) };
    std::thread::scope(|scope| {
        let algorithms = job.algorithms;
        let hasher = (!algorithms.is_empty()).then(|| scope.spawn(|| hash_source(file, algorithms, &quiet)));
        let looked = look(source, choice, context, job, observer);
        if looked.is_err() {
            quiet.stopped.store(true, Ordering::Relaxed);
        }
        let transport = match hasher.map(std::thread::ScopedJoinHandle::join) {
            Some(Ok(hashed)) => hashed,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Ok(Vec::new()),
        };
        let report = looked?;
        Ok(DeepReport { transport: transport?, ..report })
    })
}

fn look(
    source: Arc<dyn ByteSource>,
    choice: Choice,
    context: &OpenContext,
    job: DeepJob<'_>,
    observer: &dyn Observer,
) -> Result<DeepReport> {
    let beside = CheckScope::BesideReading;
    let (check, image) = open_checked(Arc::clone(&source), choice, context, beside, observer)?;
    let again = || open_checked(source, choice, context, CheckScope::Data, observer).map(|(check, _)| check);
    match image {
        Some(image) => look_at(image.as_ref(), check, again, job, observer),
        None => Ok(DeepReport { check, digests: None, transport: Vec::new(), unreadable: Vec::new() }),
    }
}

/// Looks at an image that is open already: one that consists of several files, for instance. Its files as such are
/// not hashed.
///
/// # Errors
/// As [`crate::check_image`].
pub fn verify_image(image: &dyn Image, job: DeepJob<'_>, observer: &dyn Observer) -> Result<DeepReport> {
    let check = check_image(image, CheckScope::BesideReading, observer)?;
    let again = || check_image(image, CheckScope::Data, observer);
    look_at(image, check, again, job, observer)
}

/// `check` has left out what the read of the disk decodes; `again` makes it complete where that read fails.
fn look_at(
    image: &dyn Image,
    check: CheckReport,
    again: impl FnOnce() -> Result<CheckReport>,
    job: DeepJob<'_>,
    observer: &dyn Observer,
) -> Result<DeepReport> {
    let mut report = DeepReport { check, digests: None, transport: Vec::new(), unreadable: Vec::new() };
    let layout = Layout::read(image)?;
    let guest = |check: &mut CheckReport| -> Result<()> {
        check_gpt(image, &mut check.findings)?;
        copies::check(image, &layout, &mut check.findings)?;
        check.layout = Some(layout.clone());
        Ok(())
    };
    guest(&mut report.check)?;
    let hash = HashJob { threads: job.threads, leaves: job.leaves, raw: job.raw };
    match hash_disk(image, hash, observer) {
        Ok(digests) => {
            report.digests = Some(digests).filter(|_| !report.check.findings.fails());
        }
        Err(error @ (Error::Io { .. } | Error::Cancelled)) if !is_about_content(&error) => return Err(error),
        Err(_) => {
            report.check = again()?;
            guest(&mut report.check)?;
            report.unreadable = survey(image, &mut report.check, observer)?;
        }
    }
    Ok(report)
}

/// A read past the end of the file: tables that were read say so, not the device.
fn is_about_content(error: &Error) -> bool {
    error.code() == "io.short-read"
}

fn survey(image: &dyn Image, check: &mut CheckReport, observer: &dyn Observer) -> Result<Vec<GuestRange>> {
    let lost = unreadable::survey(image, observer)?;
    for part in &lost {
        check.findings.push(part.finding());
    }
    Ok(lost.into_iter().map(|part| part.range).collect())
}

/// Hands on a wish to stop and nothing else: two jobs cannot both tell of their progress.
struct Quiet<'a> {
    observer: &'a dyn Observer,
    stopped: AtomicBool,
}

impl Observer for Quiet<'_> {
    fn event(&self, _event: Event<'_>) {}

    fn is_cancelled(&self) -> bool {
        self.stopped.load(Ordering::Relaxed) || self.observer.is_cancelled()
    }
}
