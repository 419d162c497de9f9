//! `kiln restore`: an image back onto a disk.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;

use kiln_catalog::Image;
use kiln_format::{Format, raw};
use kiln_instance::restore::{self, Place, Plan};
use serde::Serialize;

use crate::error::{About, Answer, CliError, Result};
use crate::input::format_named;
use crate::output::{Size, complain, visible};
use crate::output_format::format_by_ending;
use crate::session::Session;
use crate::subject;

/// Write an image over a disk file or a block device, and read it back to prove it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A file is replaced in one step when the new one is proved. A device is written over;
what lies behind the image's length stays as it is")]
pub(crate) struct Args {
    /// Restore this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Write it here: a file or a block device
    #[arg(value_name = "DISK")]
    disk: PathBuf,
    /// Write a file of this format [default: by the ending of DISK, else raw]
    #[arg(short = 'O', long = "output-format", value_name = "FORMAT")]
    output_format: Option<String>,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    /// Print what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    dry_run: bool,
    image: String,
    image_title: String,
    disk: PathBuf,
    kind: &'static str,
    format: &'static str,
    overwritten_bytes: u64,
    disk_bytes: u64,
    written_bytes: Option<u64>,
    content_digest: Option<String>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = subject::find(&args.image, session)?;
    let image = Image { manifest: found.manifest, record: found.record, relation: found.relation };
    let title = image.manifest.title();
    let plan = restore::plan(&found.store, image, &args.disk, format(args)?).about(&title)?;
    let (kind, overwritten_bytes) = match plan.place() {
        Place::NewFile => ("new-file", 0),
        Place::File { byte_len } => ("file", *byte_len),
        Place::Device { byte_len } => ("device", *byte_len),
    };
    let manifest = &plan.image().manifest;
    let mut record = Record {
        schema: "kiln.restore.v1",
        dry_run: args.dry_run,
        image: manifest.id.to_string(),
        image_title: title,
        disk: args.disk.clone(),
        kind,
        format: plan.format().id,
        overwritten_bytes,
        disk_bytes: manifest.disk_bytes,
        written_bytes: None,
        content_digest: None,
    };
    if !args.dry_run {
        confirm(args, &plan, overwritten_bytes)?;
        let restored = plan.run(&session.reporter)?;
        session.reporter.clear();
        record.written_bytes = Some(restored.written_bytes);
        record.content_digest = Some(restored.content.to_string());
    }
    session.printer.json(&record)?;
    let disk = args.disk.display();
    let size = Size(record.disk_bytes);
    match &record.content_digest {
        None => session.printer.field("would write", format!("{} over {disk}, {size}", record.image_title)),
        Some(digest) => {
            session.printer.field("restored", format!("{} to {disk}, {size}", record.image_title));
            session.printer.field("content", format!("{digest}, read back"));
        }
    }
    Ok(Answer::Yes)
}

fn format(args: &Args) -> Result<&'static Format> {
    match &args.output_format {
        Some(name) => format_named(name),
        None if args.disk.extension().is_some() => Ok(format_by_ending(&args.disk).unwrap_or(&raw::FORMAT)),
        None => Ok(&raw::FORMAT),
    }
}

/// What is overwritten is gone: it wants `--yes`, or the answer "yes" at a terminal.
fn confirm(args: &Args, plan: &Plan, bytes: u64) -> Result<()> {
    if args.yes || *plan.place() == Place::NewFile {
        return Ok(());
    }
    let refuse = |what: &str| {
        Err(CliError::usage("restore.unconfirmed", what.to_owned(), "add --yes when everything on it may go"))
    };
    let disk = visible(&args.disk.display().to_string()).into_owned();
    if !std::io::stdin().is_terminal() {
        return refuse(&format!("{disk} would be overwritten"));
    }
    complain(&format!("{disk} ({}) will be overwritten. Type yes to go on: ", Size(bytes)));
    let mut answer = String::new();
    let read = std::io::stdin().lock().read_line(&mut answer);
    if read.is_ok() && answer.trim() == "yes" { Ok(()) } else { refuse("not confirmed") }
}
