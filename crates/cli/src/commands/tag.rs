//! `kiln tag`: another name for an image.

use kiln_catalog::{IfTaken, NameTag};
use serde::Serialize;

use crate::error::{Answer, CliError, Result};
use crate::session::Session;
use crate::subject;

/// Give an image another name and tag, or take its tag away
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kiln tag img-7f3a web:4
  kiln tag img-7f3a web:latest --replace
  kiln tag web:1 --none")]
pub(crate) struct Args {
    /// Rename this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Call it NAME[:TAG]; the tag is latest when none is given
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<String>,
    /// Take the tag from the image that has it; that one keeps its id
    #[arg(long)]
    replace: bool,
    /// Take the tag away; the image is found by its id
    #[arg(long, conflicts_with = "name")]
    none: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    id: String,
    name: String,
    tag: Option<String>,
    untagged: Option<String>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let name: Option<NameTag> = args.name.as_deref().map(str::parse).transpose()?;
    if name.is_none() && !args.none {
        return Err(CliError::usage("usage.tag", "which name?", "kiln tag IMAGE NAME[:TAG], or --none"));
    }
    let found = subject::find(&args.image, session)?;
    let id = &found.manifest.id;
    let (image, untagged) = match &name {
        Some(name) => {
            let if_taken = if args.replace { IfTaken::MoveTag } else { IfTaken::Refuse };
            found.store.tag(id, name, if_taken)?
        }
        None => (found.store.untag(id)?, None),
    };
    session.printer.json(&Record {
        schema: "kiln.tag.v1",
        id: id.to_string(),
        name: image.manifest.name.to_string(),
        tag: image.manifest.tag.as_ref().map(ToString::to_string),
        untagged: untagged.as_ref().map(ToString::to_string),
    })?;
    session.printer.field("tagged", format!("{id} {}", image.manifest.title()));
    if let Some(other) = untagged {
        session.printer.field("untagged", format!("{other} had this name; it keeps its id"));
    }
    Ok(Answer::Yes)
}
