//! `kiln copy`: an image of one's own, in this store or another one on this host.

use std::path::PathBuf;

use kiln_catalog::{IfTaken, NameTag, Published, Store};
use serde::Serialize;

use crate::error::{Answer, CliError, Result};
use crate::output::Size;
use crate::session::Session;
use crate::subject::{self, as_set};

/// Copy an image into another store, or a shared or public one into an own image
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The copy has an id of its own and a life of its own; where it comes from stays written on it. Between
stores the bytes that arrive are proved to be those that left; an interrupted copy goes on with
kiln resume. Within a store nothing is copied but the record.

Examples:
  kiln copy web:3 --to /mnt/usb/kiln
  kiln copy web:3 --name my-web:1          # makes a shared image one's own")]
pub(crate) struct Args {
    /// Copy this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Copy it into the store in this directory, which is made when it is not there
    #[arg(long, value_name = "STORE")]
    to: Option<PathBuf>,
    /// Call the copy NAME[:TAG] [default: the image's own name]
    #[arg(long, value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Move the tag to the copy when another image there has it
    #[arg(long)]
    replace: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    id: String,
    name: String,
    store: String,
    origin: Option<kiln_catalog::Origin>,
    content_digest: String,
    new_bytes: u64,
    untagged: Option<String>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = subject::find(&args.image, session)?;
    found.permit(kiln_catalog::Action::Copy)?;
    let name: NameTag = match (&args.name, found.manifest.name_tag()) {
        (Some(word), _) => word.parse()?,
        (None, Some(name)) => name,
        (None, None) => {
            return Err(CliError::usage("usage.name", "the image has no tag", "name the copy with --name"));
        }
    };
    let to = match &args.to {
        Some(path) => as_set(Store::open_or_create(path)?, session)?.acting_as(found.store.account().clone()),
        None => found.store.clone(),
    };
    let if_taken = if args.replace { IfTaken::MoveTag } else { IfTaken::Refuse };
    let id = &found.manifest.id;
    let published = found.store.copy_image(id, &to, &name, if_taken, &session.reporter)?;
    session.reporter.clear();
    tell(&published, &to, session)?;
    Ok(Answer::Yes)
}

/// Says what a copy became.
pub(crate) fn tell(published: &Published, store: &Store, session: &mut Session) -> Result<()> {
    let manifest = &published.manifest;
    let record = Record {
        schema: "kiln.copy.v1",
        id: manifest.id.to_string(),
        name: manifest.title(),
        store: store.path().display().to_string(),
        origin: manifest.origin.clone(),
        content_digest: manifest.digests.content.to_string(),
        new_bytes: published.new_bytes,
        untagged: published.untagged.as_ref().map(ToString::to_string),
    };
    session.printer.json(&record)?;
    if let Some(origin) = &record.origin {
        session.printer.field("made from", format!("{} of {}", origin.image, origin.owner));
    }
    session.printer.field("content", &record.content_digest);
    session.printer.field(
        "copied",
        format!("{} {}, {} new in {}", record.id, record.name, Size(record.new_bytes), record.store),
    );
    Ok(())
}
