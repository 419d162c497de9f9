//! `kiln bundle`: one file with all of an image, for another site.

use std::path::PathBuf;

use kiln_catalog::Image;
use kiln_disk::Existing;
use serde::Serialize;

use crate::error::{About, Answer, Result};
use crate::output::Size;
use crate::session::Session;
use crate::subject;

/// Write an image with all that is known about it into one file, for kiln import on another host
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A bundle is a plain tar archive. kiln import FILE --name NAME takes it in, and proves every file of it and
the disk that they give before the image is shown.

Examples:
  kiln bundle web:3 web-3.kiln
  kiln import web-3.kiln --name web:3")]
pub(crate) struct Args {
    /// Bundle this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Write this file
    #[arg(value_name = "FILE")]
    dest: PathBuf,
    /// Replace the file when it is there
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    id: String,
    name: String,
    destination: String,
    file_bytes: u64,
    file_digest: String,
    content_digest: String,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = subject::find(&args.image, session)?;
    let image =
        Image { manifest: found.manifest.clone(), record: found.record.clone(), relation: found.relation };
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    let bundled = kiln_import::write_bundle(&found.store, &image, &args.dest, existing, &session.reporter)
        .about(&args.image)?;
    session.reporter.clear();
    let record = Record {
        schema: "kiln.bundle-written.v1",
        id: found.manifest.id.to_string(),
        name: found.manifest.title(),
        destination: bundled.path.display().to_string(),
        file_bytes: bundled.byte_len,
        file_digest: bundled.digest.to_string(),
        content_digest: found.manifest.digests.content.to_string(),
    };
    session.printer.json(&record)?;
    session.printer.field("content", &record.content_digest);
    session.printer.field("file", &record.file_digest);
    let text =
        format!("{} {} in {}, {}", record.id, record.name, record.destination, Size(record.file_bytes));
    session.printer.field("bundled", text);
    Ok(Answer::Yes)
}
