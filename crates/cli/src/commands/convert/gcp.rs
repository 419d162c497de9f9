//! `kiln convert --for gcp`: the archive that Google Compute Engine imports.

use std::io::{BufReader, Seek};
use std::sync::Arc;

use kiln_disk::digest::{ContentDigest, HashJob, fingerprint_disk, hash_disk};
use kiln_disk::{
    ByteSink, Durability, Error as DiskError, Existing, FileSink, Limits, PaddedDisk, StagedFile,
};
use kiln_format::tar::{GcpJob, read_back_gcp, write_gcp};
use kiln_format::{Image, Tolerance};
use serde::Serialize;

use super::Args;
use crate::destination::{self, Place};
use crate::error::{About, Answer, CliError, Result};
use crate::input::Input;
use crate::output::{Printer, Size};
use crate::session::Session;

#[derive(Debug, Serialize)]
struct Record<'a> {
    schema: &'static str,
    dry_run: bool,
    source: &'a str,
    source_format: &'static str,
    destination: &'a str,
    target: &'static str,
    /// Of the source; the archive's `disk.raw` is a whole number of GiB.
    disk_bytes: u64,
    archived_bytes: Option<u64>,
    replaces: bool,
    synced: bool,
    verified: bool,
    file_bytes: Option<u64>,
    content_digest: Option<ContentDigest>,
}

const GIB: u64 = 1 << 30;
/// What `tar -z` uses.
const LEVEL: u32 = 6;

pub(super) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    if !args.dest.to_string_lossy().ends_with(".tar.gz") {
        return Err(CliError::usage(
            "usage.gcp-name",
            format!("{:?} does not end with .tar.gz", args.dest.display().to_string()),
            "Google Compute Engine takes archives of that name only",
        ));
    }
    let place = destination::look(&args.dest, args.write.force)?;
    let input = Input::open_or_stdin(&args.source, Some(place.parent()), &session.reporter)?;
    let mut context = input.context(&args.read, Tolerance::Strict, Limits::STANDARD)?;
    context.snapshot.clone_from(&args.snapshot);
    let image = input.image(&args.read, &context)?;
    let archive = if args.write.dry_run {
        None
    } else {
        Some(to_file(args, &place, image.as_ref(), &input, session).about(&input.label)?)
    };
    session.reporter.clear();
    let record = Record {
        schema: "kiln.convert.v1",
        dry_run: args.write.dry_run,
        source: &input.label,
        source_format: image.format().id,
        destination: &place.label,
        target: "gcp",
        disk_bytes: image.disk_len(),
        archived_bytes: archive.as_ref().map(|archive| archive.disk_bytes),
        replaces: place.exists,
        synced: !args.write.no_sync,
        verified: !args.write.no_verify,
        file_bytes: archive.as_ref().map(|archive| archive.byte_len),
        content_digest: archive.as_ref().map(|archive| archive.content),
    };
    session.printer.json(&record)?;
    text(&record, &mut session.printer);
    Ok(Answer::Yes)
}

/// What was written.
struct Archive {
    byte_len: u64,
    disk_bytes: u64,
    content: ContentDigest,
}

/// Whole or not at all: without a name until it is on the device and was read back.
fn to_file(
    args: &Args,
    place: &Place,
    image: &dyn Image,
    input: &Input,
    session: &Session,
) -> kiln_disk::Result<Archive> {
    let failed = |source| DiskError::io("read back", &place.label, source);
    let threads = args.write.threads();
    let disk_bytes = image.disk_len().checked_next_multiple_of(GIB).unwrap_or(u64::MAX).max(GIB);
    let padded = PaddedDisk::new(image, disk_bytes);
    let staged = StagedFile::beside(&place.path)?;
    let mut file = staged.file().try_clone().map_err(failed)?;
    let sink: Arc<dyn ByteSink> =
        Arc::new(FileSink::new(file.try_clone().map_err(failed)?, place.label.as_str()));
    let written = write_gcp(&padded, &sink, GcpJob { threads, level: LEVEL }, &session.reporter)?;
    let durability = if args.write.no_sync { Durability::Unsynced } else { Durability::Synced };
    if durability == Durability::Synced {
        staged.sync()?;
    }
    if !args.write.no_verify {
        let expected = fingerprint_disk(&padded, threads, &session.reporter)?;
        file.rewind().map_err(failed)?;
        let reader = BufReader::with_capacity(256 << 10, file);
        read_back_gcp(reader, disk_bytes, expected, &session.reporter)?;
    }
    let job = HashJob { threads, leaves: None, raw: false };
    let content = hash_disk(image, job, &session.reporter)?.content;
    input.file.confirm_unchanged()?;
    staged.commit(if args.write.force { Existing::Replace } else { Existing::Keep }, durability)?;
    Ok(Archive { byte_len: written.byte_len, disk_bytes, content })
}

fn text(record: &Record<'_>, out: &mut Printer) {
    out.field("from", format!("{} ({})", record.source, record.source_format));
    out.field("to", format!("{} (disk.raw in a tar.gz, for {})", record.destination, record.target));
    out.field("disk size", Size(record.disk_bytes));
    if let Some(bytes) = record.archived_bytes.filter(|bytes| *bytes != record.disk_bytes) {
        out.field("archived as", Size(bytes));
    }
    if let Some(bytes) = record.file_bytes {
        out.field("file size", Size(bytes));
    }
    if let Some(content) = record.content_digest {
        out.field("content", content);
    }
    out.field(
        "done",
        match (record.dry_run, record.verified) {
            (true, _) => "nothing: this was a dry run",
            (false, true) => "written, read back, same disk",
            (false, false) => "written, not read back",
        },
    );
}
