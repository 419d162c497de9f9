//! `kiln screenshot`: what a machine's screen shows.

use std::io::Write;
use std::path::PathBuf;

use kiln_disk::{Durability, Existing, StagedFile};
use kiln_instance::screenshot;
use serde::Serialize;

use crate::destination;
use crate::error::{Answer, Result};
use crate::input::is_dash;
use crate::instances;
use crate::session::Session;

/// Write a picture of a machine's screen
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of this one: name, id, or the start of an id
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// Write this PNG file; - for standard output
    #[arg(value_name = "FILE.png")]
    file: PathBuf,
    /// Replace the file when it is there
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    id: String,
    file: PathBuf,
    byte_len: usize,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = instances::find(&args.instance, session)?;
    let place = destination::look(&args.file, args.force)?;
    let picture = screenshot::take(&found.store, &found.record)?;
    if is_dash(&args.file) {
        session.printer.bytes(&picture);
        return Ok(Answer::Yes);
    }
    let staged = StagedFile::beside(&place.path)?;
    let mut file = staged.file();
    file.write_all(&picture).map_err(|source| kiln_disk::Error::io("write", &place.label, source))?;
    let existing = if place.exists { Existing::Replace } else { Existing::Keep };
    staged.commit(existing, Durability::Unsynced)?;
    let record = Record {
        schema: "kiln.screenshot.v1",
        id: found.record.id.to_string(),
        file: args.file.clone(),
        byte_len: picture.len(),
    };
    session.printer.json(&record)?;
    session.printer.field("screenshot", format!("{} ({} bytes)", place.label, record.byte_len));
    Ok(Answer::Yes)
}
