//! What the tests of every writer do: a format's options, its job, what is put on a disk.

use std::fs::File;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_disk::{
    Budget, ByteSink, Disk, Extent, ExtentKind, FileSink, FileSource, GuestOffset, Result, Silent,
};
use kiln_format::transfer::{Job, write_container};
use kiln_format::{Choice, Format, Image, OpenContext, Options};
use kiln_testkit::laws::Random;
use kiln_testkit::oracle::text;
use tempfile::TempDir;

/// The writer of a format.
pub(crate) struct Writer(pub(crate) &'static Format);

impl Writer {
    pub(crate) fn options(&self, pairs: &[(&str, &str)]) -> Options {
        let given = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Options::new(self.0.create.unwrap().options, given).unwrap()
    }

    /// A job without digests.
    pub(crate) fn job<'a>(
        &self,
        disk: &'a dyn Disk,
        options: &'a Options,
        threads: usize,
        budget: &'a Budget,
    ) -> Job<'a> {
        Job {
            disk,
            format: self.0,
            options,
            threads,
            content_digest: false,
            raw_digest: false,
            fingerprint: false,
            leaves: None,
            budget,
        }
    }

    /// Writes a file anew. Answers its length in bytes.
    pub(crate) fn write(
        &self,
        disk: &dyn Disk,
        path: &Path,
        pairs: &[(&str, &str)],
        threads: usize,
    ) -> Result<u64> {
        let sink: Arc<dyn ByteSink> = Arc::new(FileSink::new(File::create(path).unwrap(), text(path)));
        let (options, budget) = (self.options(pairs), Budget::default());
        let outcome = write_container(self.job(disk, &options, threads, &budget), &sink, &Silent)?;
        Ok(outcome.written.byte_len)
    }
}

pub(crate) fn open(path: &Path) -> Box<dyn Image> {
    let source = Arc::new(FileSource::open(path).unwrap());
    kiln_format::open(source, Choice::Detect, &OpenContext::new()).unwrap()
}

/// Noise in some places.
pub(crate) fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; len];
    for _ in 0..random.below(12) {
        let at = random.below(len as u64) as usize;
        let end = len.min(at + 1 + random.below(3 << 20) as usize);
        bytes[at..end].iter_mut().for_each(|byte| *byte = random.number() as u8);
    }
    bytes
}

/// What can be compressed, what cannot, and zeros over what was there.
pub(crate) fn mixed_content(sectors: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; sectors * 512];
    for _ in 0..random.below(20) {
        let at = random.below(bytes.len() as u64) as usize;
        let end = bytes.len().min(at + 1 + random.below(400_000) as usize);
        match random.below(3) {
            0 => bytes[at..end].iter_mut().enumerate().for_each(|(n, byte)| *byte = (n / 100) as u8),
            1 => bytes[at..end].iter_mut().for_each(|byte| *byte = random.number() as u8),
            _ => bytes[at..end].fill(0),
        }
    }
    bytes
}

pub(crate) fn raw_file(dir: &TempDir, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join("disk.raw");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A disk of zeros of any length.
pub(crate) struct Empty(pub(crate) u64);

impl Disk for Empty {
    fn disk_len(&self) -> u64 {
        self.0
    }

    fn read_guest(&self, _at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        buf.fill(0);
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        let rest = NonZeroU64::new(self.0 - at.get()).unwrap();
        Ok(Extent { start: at, len: rest.min(limit), kind: ExtentKind::Hole })
    }
}
