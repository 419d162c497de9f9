//! `kiln export`: an image of the store becomes a file.

mod for_target;

use std::path::PathBuf;

use kiln_disk::digest::{ContentDigest, Digest};
use kiln_disk::{Durability, Existing};
use kiln_import::{ExportRequest, How, plan_export};
use serde::Serialize;

use crate::destination;
use crate::error::{Answer, Result};
use crate::for_target::ForArgs;
use crate::input::is_dash;
use crate::input::spool::default_dir;
use crate::output::{Printer, Size};
use crate::output_format::OutputArgs;
use crate::session::Session;
use crate::subject;

use super::convert::{refuse_terminal, stdout_file};

/// Write an image of the store to a file, in any format
#[derive(Debug, clap::Args)]
#[command(after_long_help = after_help())]
pub(crate) struct Args {
    /// Export this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Write this file, or - for standard output
    #[arg(value_name = "DST")]
    dest: PathBuf,
    #[command(flatten)]
    write: OutputArgs,
    #[command(flatten)]
    for_target: ForArgs,
    /// Compute the SHA-256 of the flat disk in the same pass
    #[arg(long)]
    raw_digest: bool,
}

fn after_help() -> String {
    format!(
        "\
The output appears under its name whole or not at all, and only when it holds the disk that was
published. Its digests are printed, so that the receiver can prove what came through.

With --for, the target says what is written; see kiln help convert.

Examples:
  kiln export debian:12 debian.qcow2
  kiln export debian:12 debian.vhd -O vhd -o subformat=fixed
  kiln export debian:12 debian.vhd --for azure
  kiln export debian:12 - -O raw | ssh host 'dd of=/dev/vdb bs=1M'

{}",
        crate::output_format::options_help()
    )
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    dry_run: bool,
    id: String,
    name: String,
    destination: &'a str,
    format: &'static str,
    options: serde_json::Map<String, serde_json::Value>,
    disk_bytes: u64,
    replaces: bool,
    synced: bool,
    verified: bool,
    /// "copy": the layer's file as it is; "convert": written anew.
    how: How,
    /// Whether the copy shares its blocks with the store.
    cloned: Option<bool>,
    file_bytes: Option<u64>,
    file_digest: Option<Digest>,
    content_digest: ContentDigest,
    raw_digest: Option<Digest>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    if let Some(target) = args.for_target.target()? {
        return for_target::run(args, &target, session);
    }
    let target = args.write.target(&args.dest)?;
    let to_stdout = is_dash(&args.dest);
    if to_stdout {
        session.printer.report_on_stderr();
        refuse_terminal()?;
    }
    let place = destination::look(&args.dest, args.write.force)?;
    let found = subject::find(&args.image, session)?;
    let mut request = ExportRequest::new(target.format);
    request.options.clone_from(&target.given);
    request.durability = if args.write.no_sync { Durability::Unsynced } else { Durability::Synced };
    request.read_back = !args.write.no_verify;
    request.threads = args.write.threads();
    request.raw_digest = args.raw_digest;
    let plan = plan_export(&found.store, &found.manifest, request)?;
    let how = if to_stdout { How::Convert } else { plan.how() };
    let outcome = match (args.write.dry_run, to_stdout) {
        (true, _) => None,
        (false, true) => Some(plan.to_stream(Box::new(stdout_file()?), &default_dir(), &session.reporter)?),
        (false, false) => {
            let existing = if args.write.force { Existing::Replace } else { Existing::Keep };
            Some(plan.to_file(&place.path, existing, &session.reporter)?)
        }
    };
    session.reporter.clear();
    let record = Record {
        schema: "kiln.export.v1",
        dry_run: args.write.dry_run,
        id: found.manifest.id.to_string(),
        name: found.manifest.title(),
        destination: &place.label,
        format: target.format.id,
        options: target.given.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect(),
        disk_bytes: found.manifest.disk_bytes,
        replaces: place.exists,
        synced: !to_stdout && !args.write.no_sync,
        verified: !args.write.no_verify && (!to_stdout || !(target.create.streams)(&target.options)),
        how,
        cloned: outcome.as_ref().map(|outcome| outcome.cloned),
        file_bytes: outcome.as_ref().map(|outcome| outcome.byte_len),
        file_digest: outcome.as_ref().map(|outcome| outcome.transport.clone()),
        content_digest: found.manifest.digests.content,
        raw_digest: outcome.and_then(|outcome| outcome.raw),
    };
    session.printer.json(&record)?;
    text(&record, &mut session.printer);
    Ok(Answer::Yes)
}

fn text(record: &Record<'_>, out: &mut Printer) {
    out.field("image", format!("{} {}", record.id, record.name));
    out.field("to", format!("{} ({})", record.destination, record.format));
    for (name, value) in &record.options {
        out.field("option", format!("{name}={}", value.as_str().unwrap_or("")));
    }
    out.field("disk size", Size(record.disk_bytes));
    out.field("content", record.content_digest);
    if let Some(raw) = &record.raw_digest {
        out.field("raw", raw);
    }
    if let Some(bytes) = record.file_bytes {
        out.field("file size", Size(bytes));
    }
    if let Some(digest) = &record.file_digest {
        out.field("file digest", digest);
    }
    let done = match (record.dry_run, record.verified, record.how) {
        (true, ..) if record.replaces => "nothing: this was a dry run (an existing file would be replaced)",
        (true, ..) => "nothing: this was a dry run",
        (false, true, How::Copy) => "copied as it is stored, read back, same disk",
        (false, true, How::Convert) => "written, read back, same disk",
        (false, false, _) => "written, not read back",
    };
    out.field("done", done);
}
