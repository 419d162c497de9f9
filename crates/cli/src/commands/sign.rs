//! `kiln sign`: sign the record of an image that is in the store.

use std::path::PathBuf;

use serde::Serialize;

use super::key;
use crate::error::{Answer, Result};
use crate::session::Session;
use crate::subject;

/// Sign an image's record: its id, digests, source and provenance
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The signature is kept beside the image. It covers what never changes: names and tags may move.

Examples:
  kiln key new release
  kiln sign debian:12 --key release
  kiln verify debian:12 --require-signature")]
pub(crate) struct Args {
    /// Sign this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Sign with this key: its name (kiln key ls), or its file
    #[arg(long, value_name = "KEY")]
    key: PathBuf,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    image: String,
    key: String,
    signed_at: String,
    signature: String,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let private = key::private(&args.key)?;
    let found = subject::find(&args.image, session)?;
    let signed = found.store.sign(&found.manifest, &private)?;
    session.printer.json(&Record {
        schema: "kiln.sign.v1",
        image: found.manifest.id.to_string(),
        key: signed.key.to_string(),
        signed_at: signed.signed_at.to_string(),
        signature: signed.signature,
    })?;
    session.printer.field("signed", format!("{} {}", found.manifest.id, found.manifest.title()));
    session.printer.field("by", signed.key);
    Ok(Answer::Yes)
}
