//! `kiln audit`: somebody looked at an image.

use serde::Serialize;

use crate::error::{Answer, Result};
use crate::session::Session;
use crate::subject;

/// Write down that you looked at an image, and what you say
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kiln audit web:3 --note 'no secrets, boots, CVE scan of 2026-11-20 clean'")]
pub(crate) struct Args {
    /// Audit this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Say this about it
    #[arg(long, value_name = "TEXT")]
    note: String,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    id: String,
    name: String,
    audits: Vec<kiln_catalog::Audit>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = subject::find(&args.image, session)?;
    let image = found.store.audit(&found.manifest.id, &args.note)?;
    let (id, name) = (image.manifest.id.to_string(), image.manifest.title());
    session.printer.field("audited", format!("{id} {name} by {}", found.store.account()));
    session.printer.json(&Record { schema: "kiln.audit.v1", id, name, audits: image.record.audits })?;
    Ok(Answer::Yes)
}
