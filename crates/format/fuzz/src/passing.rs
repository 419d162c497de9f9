//! Everything that can be done with a container from a stranger that comes once. Shared by the fuzz target and the
//! test suite.

use std::sync::Arc;

use kiln_disk::digest::{ContentDigest, HashJob, hash_disk};
use kiln_disk::{Budget, Limits, MemorySource, PaddedDisk, Result, Silent};
use kiln_format::wrap::{Arriving, ByteStream, Wrapped};
use kiln_format::{CheckScope, Choice, OpenContext, check, open, whole_sectors};

/// Bytes that come in pieces of at most `step`.
pub(crate) struct Pieces {
    pub(crate) bytes: Arc<Vec<u8>>,
    pub(crate) at: usize,
    pub(crate) step: usize,
}

impl ByteStream for Pieces {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = self.step.min(buf.len()).min(self.bytes.len() - self.at);
        buf[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

/// A disk and what was found on the way to it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) content: ContentDigest,
    /// Ids of findings.
    pub(crate) ids: Vec<&'static str>,
    /// Bytes of a temporary file.
    pub(crate) spilled: u64,
}

/// Longest disk that is looked at: an honest one of this size costs no time.
const MAX_DISK: u64 = 1 << 30;

pub(crate) fn arriving(bytes: &Arc<Vec<u8>>, step: usize) -> Result<Wrapped> {
    let stream = Box::new(Pieces { bytes: Arc::clone(bytes), at: 0, step });
    Wrapped::arriving(Arriving { stream, label: "x".to_owned(), byte_len: None, ends: None }, 1)
}

fn budget() -> Arc<Budget> {
    Arc::new(Budget::new(Limits { non_zero_output: u64::MAX, ..Limits::INSPECT }))
}

/// The disk as it comes; `None` when it is better kept first.
pub(crate) fn passed(bytes: &Arc<Vec<u8>>, step: usize, threads: usize) -> Result<Option<Found>> {
    let wrapped = arriving(bytes, step)?;
    match wrapped.passing() {
        Ok(facts) if facts.disk_bytes <= MAX_DISK => {}
        _ => return Ok(None),
    }
    let passing = wrapped.into_passing(&std::env::temp_dir(), &budget())?;
    // As everybody does who takes it: in whole sectors.
    let whole = PaddedDisk::new(passing.as_ref(), whole_sectors(passing.disk_len()));
    let digests = hash_disk(&whole, HashJob { threads, ..HashJob::default() }, &Silent);
    // Only the end says whether all of it is sound.
    let (_, findings) = passing.finish(&Silent)?;
    let ids = findings.counts().iter().map(|(id, _)| *id).collect();
    Ok(Some(Found { content: digests?.content, ids, spilled: passing.spilled_bytes() }))
}

/// The disk by a read at any place.
pub(crate) fn placed(bytes: &[u8]) -> Result<Found> {
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    let context = OpenContext { budget: budget(), ..OpenContext::new() };
    let image = open(source.clone(), Choice::Detect, &context)?;
    let content = hash_disk(image.as_ref(), HashJob { threads: 1, ..HashJob::default() }, &Silent)?.content;
    let report = check(source, Choice::Detect, &context, CheckScope::Metadata, &Silent)?;
    let ids = report.findings.counts().iter().map(|(id, _)| *id).filter(|id| !is_about_guest(id)).collect();
    Ok(Found { content, ids, spilled: 0 })
}

/// Of a disk on its way these are looked for in what was stored of it.
fn is_about_guest(id: &str) -> bool {
    ["disk.gpt.", "disk.mbr.", "disk.fs."].iter().any(|prefix| id.starts_with(prefix))
}

/// Reads a container both ways. Answers whether the passage gave a disk.
///
/// Invariants: no panic, no hang; what comes by is never another disk than what lies there, and never fewer findings.
pub(crate) fn passing(bytes: &[u8]) -> bool {
    let shared = Arc::new(bytes.to_vec());
    let Ok(Some(found)) = passed(&shared, 8192, 1) else { return false };
    match placed(bytes) {
        Ok(placed) => assert_eq!((found.content, found.ids), (placed.content, placed.ids)),
        // Only a read at any place looks at the end first.
        Err(error) => assert!(!found.ids.is_empty(), "{error} was passed over"),
    }
    true
}
