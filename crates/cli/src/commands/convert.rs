//! `kiln convert`: the same disk in another file.

mod for_target;

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::path::PathBuf;

use kiln_disk::digest::{ContentDigest, Digest};
use kiln_disk::{Durability, Existing, Limits};
use kiln_format::transfer::{FilePlan, Job, Outcome, write_file, write_stream};
use kiln_format::{Image, Tolerance};
use serde::Serialize;

use crate::destination;
use crate::error::{About, Answer, CliError, Result};
use crate::for_target::ForArgs;
use crate::input::spool::default_dir;
use crate::input::{Input, SourceArgs, is_dash};
use crate::output::{FindingRecord, Printer, Size, findings_lines};
use crate::output_format::{OutputArgs, Target};
use crate::session::Session;

/// Write the same disk to another file, in any format
#[derive(Debug, clap::Args)]
#[command(after_long_help = after_help())]
pub(crate) struct Args {
    /// Read this file, or - for standard input
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Write this file, or - for standard output
    #[arg(value_name = "DST")]
    dest: PathBuf,
    #[command(flatten)]
    read: SourceArgs,
    #[command(flatten)]
    write: OutputArgs,
    #[command(flatten)]
    for_target: ForArgs,
    /// Read this internal snapshot in place of the current disk
    #[arg(long, value_name = "NAME")]
    snapshot: Option<String>,
    /// Show progress (accepted as qemu-img has it: bars are on anyway on a terminal)
    #[arg(short = 'p')]
    progress_bar: bool,
    /// Compute the SHA-256 of the flat disk in the same pass
    #[arg(long)]
    raw_digest: bool,
}

fn after_help() -> String {
    format!(
        "\
The output appears under its name whole or not at all: it is written without a name, synced, read
back, and compared block by block with what was read. --no-sync and --no-verify leave those
steps out. A file that is there stays, unless --force. Nothing that SRC names is opened, unless
--allow-backing. The format of DST is the one of -O, else of its ending; there is no default.

With --for, the target says what is written: of the containers that it takes the one that DST ends
with, its options, a length that it takes (a GPT is moved to the new end), its archive, and the
commands that bring the file there. What it refuses is refused before a byte is written.

Examples:
  kiln convert disk.raw disk.qcow2
  kiln convert -O qcow2 -c disk.vhd small.qcow2
  kiln convert -O qcow2 -c -o compression_type=zlib disk.raw old-readers.qcow2
  curl -s https://example.org/disk.qcow2 | kiln convert -O raw - disk.raw
  kiln convert --for gcp disk.qcow2 image.tar.gz
  kiln convert --for vmware --side-files . disk.qcow2 web-1.ova
  kiln convert -O vhd -o subformat=fixed disk.qcow2 - | ssh host 'cat > disk.vhd'

{}",
        crate::output_format::options_help()
    )
}

#[derive(Debug, Serialize)]
struct Record<'a> {
    schema: &'static str,
    dry_run: bool,
    source: &'a str,
    /// Compressed files around the source, the outermost first.
    wrappers: &'a [&'static str],
    source_format: &'static str,
    snapshot: Option<&'a str>,
    destination: &'a str,
    format: &'static str,
    options: serde_json::Map<String, serde_json::Value>,
    disk_bytes: u64,
    replaces: bool,
    synced: bool,
    /// Whether the output was (or would be) read back and compared.
    verified: bool,
    file_bytes: Option<u64>,
    data_bytes: Option<u64>,
    content_digest: Option<ContentDigest>,
    raw_digest: Option<Digest>,
    /// What should be known about the source.
    findings: Vec<FindingRecord>,
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
    let spool_dir = (!to_stdout).then(|| place.parent());
    let mut input = Input::open_or_stdin(&args.source, spool_dir, &session.reporter)?;
    input.unwrap(&args.read, spool_dir, &session.reporter).about(&input.label)?;
    let mut context = input.context(&args.read, Tolerance::Strict, Limits::STANDARD)?;
    context.snapshot.clone_from(&args.snapshot);
    let image = input.image(&args.read, &context)?;
    let outcome = if args.write.dry_run {
        None
    } else {
        Some(write(args, &target, &place, image.as_ref(), &input, &context.budget, session)?)
    };
    session.reporter.clear();
    let digests = outcome.as_ref().and_then(|outcome| outcome.digests.as_ref());
    let record = Record {
        schema: "kiln.convert.v1",
        dry_run: args.write.dry_run,
        source: &input.label,
        wrappers: input.wrappers(),
        source_format: image.format().id,
        snapshot: args.snapshot.as_deref(),
        destination: &place.label,
        format: target.format.id,
        options: target.given.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect(),
        disk_bytes: image.disk_len(),
        replaces: place.exists,
        synced: !to_stdout && !args.write.no_sync,
        verified: !args.write.no_verify && (!to_stdout || !(target.create.streams)(&target.options)),
        file_bytes: outcome.as_ref().map(|outcome| outcome.written.byte_len),
        data_bytes: digests.map(|digests| digests.data_bytes),
        content_digest: digests.map(|digests| digests.content),
        raw_digest: digests.and_then(|digests| digests.raw.clone()),
        findings: FindingRecord::list(&image.remarks(), None),
    };
    session.printer.json(&record)?;
    text(&record, &mut session.printer);
    Ok(Answer::Yes)
}

fn write(
    args: &Args,
    target: &Target,
    place: &destination::Place,
    image: &dyn Image,
    input: &Input,
    budget: &kiln_disk::Budget,
    session: &Session,
) -> Result<Outcome> {
    let threads = args.write.threads();
    if is_dash(&args.dest) {
        let job = Job {
            disk: image,
            format: target.format,
            options: &target.options,
            threads,
            content_digest: true,
            raw_digest: args.raw_digest,
            fingerprint: false,
            leaves: None,
            budget,
        };
        let outcome = write_stream(job, Box::new(stdout_file()?), &default_dir(), &session.reporter)
            .about(&input.label)?;
        input.file.confirm_unchanged()?;
        return Ok(outcome);
    }
    let plan = FilePlan {
        disk: image,
        format: target.format,
        options: &target.options,
        dest: &place.path,
        existing: if args.write.force { Existing::Replace } else { Existing::Keep },
        durability: if args.write.no_sync { Durability::Unsynced } else { Durability::Synced },
        read_back: !args.write.no_verify,
        threads,
        // Asking for --raw-digest brings it along.
        content_digest: !args.write.no_verify,
        raw_digest: args.raw_digest,
        leaves: None,
        budget,
    };
    write_file(plan, &|| input.file.confirm_unchanged(), &session.reporter).about(&input.label)
}

/// Standard output as a file of its own: no line buffer in between, and errors come back.
pub(super) fn stdout_file() -> Result<File> {
    let copy = std::io::stdout().as_fd().try_clone_to_owned();
    copy.map(File::from).map_err(|source| CliError::Output { source })
}

pub(super) fn refuse_terminal() -> Result<()> {
    if std::io::stdout().is_terminal() {
        return Err(CliError::usage(
            "usage.terminal",
            "standard output is a terminal",
            "redirect it to a file or a pipe, or name a file",
        ));
    }
    Ok(())
}

fn text(record: &Record<'_>, out: &mut Printer) {
    let chain: Vec<&str> = record.wrappers.iter().copied().chain([record.source_format]).collect();
    out.field("from", format!("{} ({})", record.source, chain.join(" > ")));
    for line in findings_lines(&record.findings, |_| 0) {
        out.line(&line);
    }
    out.field("to", format!("{} ({})", record.destination, record.format));
    for (name, value) in &record.options {
        out.field("option", format!("{name}={}", value.as_str().unwrap_or("")));
    }
    out.field("disk size", Size(record.disk_bytes));
    if let Some(bytes) = record.data_bytes {
        out.field("data", Size(bytes));
    }
    if let Some(bytes) = record.file_bytes {
        out.field("file size", Size(bytes));
    }
    if let Some(content) = record.content_digest {
        out.field("content", content);
    }
    if let Some(raw) = &record.raw_digest {
        out.field("raw", raw);
    }
    let done = match (record.dry_run, record.verified) {
        (true, _) if record.replaces => "nothing: this was a dry run (an existing file would be replaced)",
        (true, _) => "nothing: this was a dry run",
        (false, true) => "written, read back, same disk",
        (false, false) => "written, not read back",
    };
    out.field("done", done);
}
