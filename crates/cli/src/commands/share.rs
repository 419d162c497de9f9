//! `kiln share`: a custom image for other accounts.

use kiln_catalog::Account;
use serde::Serialize;

use crate::error::{Answer, CliError, Result};
use crate::session::Session;
use crate::subject;

/// Share an image with other accounts, or end that
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A receiver sees the image, and may launch and copy it after kiln accept. Nobody but the owner can share
it, and the owner can neither change nor remove it as long as it is shared.

Examples:
  kiln share web:3 --with ops --with dev
  kiln share web:3 --revoke dev")]
pub(crate) struct Args {
    /// Share this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Share it with this account
    #[arg(long = "with", value_name = "ACCOUNT")]
    with: Vec<String>,
    /// Share it no longer with this account
    #[arg(long, value_name = "ACCOUNT")]
    revoke: Vec<String>,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    id: String,
    name: String,
    shares: Vec<kiln_catalog::Share>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    if args.with.is_empty() && args.revoke.is_empty() {
        return Err(CliError::usage(
            "usage.share",
            "with whom?",
            "--with ACCOUNT shares the image, --revoke ACCOUNT ends that; kiln shares lists",
        ));
    }
    let accounts =
        |words: &[String]| words.iter().map(|word| word.parse()).collect::<Result<Vec<Account>, _>>();
    let (with, revoke) = (accounts(&args.with)?, accounts(&args.revoke)?);
    let found = subject::find(&args.image, session)?;
    let id = &found.manifest.id;
    let mut image = found.store.image(id.as_str())?;
    if !with.is_empty() {
        image = found.store.share(id, &with)?;
    }
    if !revoke.is_empty() {
        image = found.store.revoke(id, &revoke)?;
    }
    let record = Record {
        schema: "kiln.share.v1",
        id: id.to_string(),
        name: image.manifest.title(),
        shares: image.record.shares,
    };
    session.printer.json(&record)?;
    for account in &with {
        session.printer.field("shared", format!("{} {} with {account}", record.id, record.name));
    }
    for account in &revoke {
        session.printer.field("revoked", format!("{} {} from {account}", record.id, record.name));
    }
    Ok(Answer::Yes)
}
