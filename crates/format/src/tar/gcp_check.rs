//! Reading an archive back with the `tar` crate, which had no part in writing it, behind flate2's gzip reader, whose
//! other half did.

use std::io::Read;

use flate2::read::MultiGzDecoder;
use kiln_disk::digest::{Fingerprint, FingerprintBuilder, block_checks};
use kiln_disk::{Error, Event, FileOffset, Observer, Result, go_on};

use crate::transfer::{Likeness, OutputProblem};

/// What is compared at a time: a whole number of the fingerprint's blocks.
const PIECE_LEN: usize = 1 << 20;

/// Reads the first member of an archive of [`super::write_gcp`], and compares its length and its fingerprint.
///
/// # Errors
/// [`Error::Malformed`] with an [`OutputProblem`]; [`Error::Io`] for an archive that cannot be read;
/// [`Error::Cancelled`].
pub fn read_back_gcp(
    archive: impl Read,
    disk_bytes: u64,
    expected: Fingerprint,
    observer: &dyn Observer,
) -> Result<()> {
    let failed = |source| Error::io("read back", "the archive", source);
    let wrong = |problem| Err(Error::malformed("output", FileOffset::ZERO, problem));
    let mut archive = tar::Archive::new(MultiGzDecoder::new(archive));
    let mut entries = archive.entries().map_err(failed)?;
    let Some(entry) = entries.next() else {
        return wrong(OutputProblem::Length { expected: disk_bytes, found: 0 });
    };
    let mut entry = entry.map_err(failed)?;
    let mut fingerprint = FingerprintBuilder::new(disk_bytes);
    let mut buffer = vec![0; PIECE_LEN];
    let mut len = 0_u64;
    observer.event(Event::Started { phase: "compare", total: disk_bytes });
    loop {
        go_on(observer)?;
        let mut filled = 0_usize;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match entry.read(rest).map_err(failed)? {
                0 => break,
                got => filled = filled.saturating_add(got),
            }
        }
        let bytes = buffer.get(..filled).unwrap_or_default();
        if bytes.is_empty() {
            break;
        }
        fingerprint.data(&block_checks(bytes));
        let got = u64::try_from(filled).unwrap_or(u64::MAX);
        len = len.saturating_add(got);
        observer.event(Event::Advanced { bytes: got });
    }
    observer.event(Event::Finished);
    if len != disk_bytes {
        return wrong(OutputProblem::Length { expected: disk_bytes, found: len });
    }
    let (expected, found) = (expected, fingerprint.finish());
    if found != expected {
        let (expected, found) = (Likeness::Fingerprint(expected), Likeness::Fingerprint(found));
        return wrong(OutputProblem::Differs { expected, found });
    }
    Ok(())
}
