//! Files that come once, from a pipe or a server: decoded as they come where that can be done, else kept first.

use std::io::Read;
use std::sync::Arc;

use kiln_catalog::{DownloadRecord, Job, Store};
use kiln_disk::digest::{Algorithm, Digest};
use kiln_disk::{Error as DiskError, FileSource, Observer};
use kiln_format::transfer::spool_input;
use kiln_format::wrap::{Arriving, Wrapped};
use kiln_format::{Choice, Facts, Identity, ova, qcow2, raw, tar, vmdk};
use serde::Serialize;

use crate::checksum::Expected;
use crate::error::{Error, Refusal, Result};
use crate::evidence::Evidence;
use crate::fetch::{Download, FetchOptions, Limits, Traffic, Url};
use crate::plan::{OnDamage, Rules};
use crate::tap::Tap;

/// How the bytes of a source went into the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Passage {
    /// Whether they were decoded as they came: no copy of the disk beside the layer.
    pub one_pass: bool,
    /// Bytes of temporary files: of the file as it came, and of what was in its wrappers.
    pub scratch_bytes: u64,
    /// Why there were any.
    pub reason: Option<String>,
    /// How the download went.
    pub traffic: Option<Traffic>,
}

impl Passage {
    /// Takes note of a temporary file.
    pub(crate) fn spooled(&mut self, bytes: u64, reason: impl Into<String>) {
        self.one_pass = false;
        self.scratch_bytes = self.scratch_bytes.saturating_add(bytes);
        self.reason.get_or_insert_with(|| reason.into());
    }
}

/// Slack for a container around a disk of the largest size: tables, and data that does not compress.
const CONTAINER_SLACK: u64 = 1 << 30;

/// A file on its way.
pub(crate) struct Arrival {
    pub(crate) tap: Tap,
    pub(crate) label: String,
    byte_len: Option<u64>,
    pub(crate) download: Option<Download>,
}

/// A file that is here: all of its bytes went by.
pub(crate) struct Landed {
    pub(crate) source: Arc<FileSource>,
    pub(crate) digests: Vec<Digest>,
    /// Bytes that were written for it beyond the copy of a download.
    pub(crate) spooled: u64,
}

/// A disk that can be decoded as it comes.
pub(crate) struct Decodable {
    pub(crate) wrapped: Wrapped,
    pub(crate) facts: Facts,
}

/// What to do with a file on its way.
pub(crate) enum Way {
    /// Decode it.
    Decode(Box<Decodable>),
    /// Keep it first, and why.
    Keep(String),
}

impl Arrival {
    /// A pipe.
    pub(crate) fn pipe(
        reader: Box<dyn Read + Send>,
        byte_len: Option<u64>,
        evidence: &Evidence,
    ) -> Result<Self> {
        let label = "standard input".to_owned();
        let tap = Tap::new(reader, label.clone(), &algorithms(&evidence.expected))?;
        Ok(Self { tap, label, byte_len, download: None })
    }

    /// A file on a server.
    pub(crate) fn download(
        store: &Store,
        url: &Url,
        options: &FetchOptions,
        evidence: &Evidence,
        max_disk_bytes: u64,
    ) -> Result<Self> {
        let limits = Limits {
            max_len: max_disk_bytes.saturating_add(CONTAINER_SLACK),
            proved: !evidence.expected.is_empty(),
        };
        let (download, reader) = Download::start(store, url, options, limits)?;
        let label = url.shown();
        let tap = Tap::new(Box::new(reader), label.clone(), &algorithms(&evidence.expected))?;
        if download.copy().is_some() {
            tap.forget();
        }
        Ok(Self { tap, label, byte_len: download.byte_len(), download: Some(download) })
    }

    /// Looks at the beginning, and decides.
    pub(crate) fn way(&self, rules: &Rules, evidence: &Evidence, threads: usize) -> Result<Way> {
        if evidence.over_file.is_some() {
            return Ok(Way::Keep("a signature is over the whole file".to_owned()));
        }
        if rules.choice == Choice::AsRaw {
            return Ok(Way::Keep("it is to be taken as it is".to_owned()));
        }
        let file = Arriving {
            stream: Box::new(self.tap.clone()),
            label: self.label.clone(),
            byte_len: self.byte_len,
            ends: self.download.as_ref().and_then(Download::ends),
        };
        let wrapped = Wrapped::arriving(file, threads)?;
        Ok(match decodable(wrapped, rules)? {
            Ok(decodable) => Way::Decode(Box::new(decodable)),
            Err(why) => Way::Keep(why),
        })
    }

    /// Waits for all of the file and opens it: the copy of the download, or a new file in the job.
    pub(crate) fn land(&self, job: &Job, observer: &dyn Observer) -> Result<Landed> {
        let copy = self.download.as_ref().and_then(Download::copy);
        let (source, spooled) = match copy {
            Some(copy) => {
                self.tap.drain(observer)?;
                let copy =
                    copy.try_clone().map_err(|source| DiskError::io("duplicate", "the download", source))?;
                (FileSource::from_file(copy, self.label.clone())?, 0)
            }
            None => {
                let mut all = self.tap.reader_from_start();
                let source = spool_input(&mut all, job.dir(), u64::MAX, observer)?;
                let len = kiln_disk::ByteSource::byte_len(&source);
                (source, len)
            }
        };
        let (_, digests) = self.tap.digests().ok_or(DiskError::Cancelled)?;
        Ok(Landed { source: Arc::new(source), digests, spooled })
    }

    /// Bytes of the copy that is kept while the file comes.
    pub(crate) fn copied_bytes(&self) -> u64 {
        let copy = self.download.as_ref().and_then(Download::copy);
        copy.and_then(|copy| copy.metadata().ok()).map_or(0, |metadata| metadata.len())
    }

    /// The error to tell: that of the network comes before what it led to.
    pub(crate) fn error(&self, error: Error) -> Error {
        match self.download.as_ref().and_then(Download::take_fault) {
            Some(fault) => fault.into(),
            None => error,
        }
    }

    /// What becomes of the copy of a download after this error: a network that broke is no reason to start again,
    /// a file that was judged is.
    pub(crate) fn give_up(&mut self, error: &Error) {
        let keep = match error {
            Error::Fetch(error) => error.can_go_on(),
            Error::Disk(DiskError::Io { .. } | DiskError::Cancelled) => true,
            // The file is what was promised. Whoever wants it in spite of its guest need not fetch it again.
            Error::Refused(Refusal::Guest { .. }) => true,
            _ => false,
        };
        if let (true, Some(download)) = (keep, self.download.as_mut()) {
            download.keep();
        }
    }

    pub(crate) fn record(&self) -> Option<DownloadRecord> {
        self.download.as_ref().map(Download::record)
    }

    pub(crate) fn traffic(&self) -> Option<Traffic> {
        self.download.as_ref().map(Download::traffic)
    }
}

/// SHA-256, and whatever is compared.
fn algorithms(expected: &[Expected]) -> Vec<Algorithm> {
    let mut algorithms = vec![Algorithm::Sha256];
    for expected in expected {
        if !algorithms.contains(&expected.digest.algorithm()) {
            algorithms.push(expected.digest.algorithm());
        }
    }
    algorithms
}

/// Whether a disk can be decoded front to back, or why not.
///
/// # Errors
/// [`Refusal::TooLarge`], I/O.
pub(crate) fn decodable(wrapped: Wrapped, rules: &Rules) -> Result<Result<Decodable, String>> {
    let wanted = |format: &kiln_format::Format| match rules.choice {
        Choice::Detect => true,
        Choice::Declared(declared) => declared == format,
        Choice::AsRaw => false,
    };
    if rules.part.is_some() {
        return Ok(Err("one disk of a file that may have several is asked for".to_owned()));
    }
    let identity = wrapped.identity();
    match identity {
        Identity::Raw { .. } if wanted(&raw::FORMAT) => {
            // A server that cannot send parts does not tell what is at the end.
            let claim = match wrapped.claimed_len() {
                Ok(claim) => claim,
                Err(DiskError::Cancelled) => return Err(DiskError::Cancelled.into()),
                Err(_) => None,
            };
            Ok(match claim.filter(|len| *len > 0) {
                Some(disk_bytes) if disk_bytes > rules.max_disk_bytes => {
                    return Err(Refusal::TooLarge { disk_bytes, allowed: rules.max_disk_bytes }.into());
                }
                Some(disk_bytes) => Ok(Decodable { wrapped, facts: Facts::raw(disk_bytes) }),
                None => Err("the length of the disk is known only at the end of the file".to_owned()),
            })
        }
        Identity::Container { format, .. }
            if *format == vmdk::FORMAT && wanted(format) && rules.on_damage == OnDamage::Refuse =>
        {
            match wrapped.streamed() {
                Some(facts) if facts.disk_bytes > rules.max_disk_bytes => {
                    let (disk_bytes, allowed) = (facts.disk_bytes, rules.max_disk_bytes);
                    Err(Refusal::TooLarge { disk_bytes, allowed }.into())
                }
                Some(facts) => Ok(Ok(Decodable { wrapped, facts })),
                None => Ok(Err("this VMDK is read by its tables, at any place".to_owned())),
            }
        }
        Identity::Container { format, .. }
            if [&qcow2::FORMAT, &tar::FORMAT, &ova::FORMAT].contains(&format)
                && wanted(format)
                && rules.on_damage == OnDamage::Refuse =>
        {
            match wrapped.passing() {
                Ok(facts) if facts.disk_bytes > rules.max_disk_bytes => {
                    let (disk_bytes, allowed) = (facts.disk_bytes, rules.max_disk_bytes);
                    Err(Refusal::TooLarge { disk_bytes, allowed }.into())
                }
                Ok(facts) if facts.disk_bytes > 0 => Ok(Ok(Decodable { wrapped, facts })),
                Ok(_) | Err(None) => Ok(Err(by_tables(format))),
                Err(Some(why)) => Ok(Err(why.to_owned())),
            }
        }
        Identity::Container { format, .. } => Ok(Err(by_tables(format))),
        _ => Ok(Err("what it is has to be looked at as a whole".to_owned())),
    }
}

/// Why a container cannot be decoded front to back.
pub(crate) fn by_tables(format: &kiln_format::Format) -> String {
    format!("{} is read by its tables, at any place", format.id)
}
