//! `kiln set`: what changes in an image's life.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kiln_catalog::Attributes;
use serde::Serialize;

use super::ls::age;
use crate::error::{Answer, CliError, Result};
use crate::session::Session;
use crate::subject;

/// Change what is said about an image, who may use it, and how long it stays
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
An image that is shared or public is not changed: end that first. --public needs passed checks and an
audit (kiln audit). An empty text forgets a fact.

Examples:
  kiln set web:3 --description 'nginx 1.28' --label team=shop --family web
  kiln set web:2 --deprecate
  kiln set web:1 --expires 30d
  kiln set web:3 --public")]
pub(crate) struct Args {
    /// Change this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Describe it
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Say which operating system is on it
    #[arg(long, value_name = "TEXT")]
    os: Option<String>,
    /// Say for which architecture it is
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Say how it boots
    #[arg(long, value_name = "bios|uefi")]
    boot: Option<String>,
    /// Put it into a family; none takes it out
    #[arg(long, value_name = "NAME")]
    family: Option<String>,
    /// Write a label on it; without =VALUE the label is taken off
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Let it expire after this time (30d), at this moment (2027-01-31T00:00:00Z), or never
    #[arg(long, value_name = "WHEN")]
    expires: Option<String>,
    /// Say that it is no longer recommended: families pass it over
    #[arg(long, conflicts_with = "undeprecate")]
    deprecate: bool,
    /// Say that it is recommended again
    #[arg(long)]
    undeprecate: bool,
    /// Keep it from removal
    #[arg(long, conflicts_with = "unprotect")]
    protect: bool,
    /// Let it be removed again
    #[arg(long)]
    unprotect: bool,
    /// Let everyone see and use it
    #[arg(long, conflicts_with = "private")]
    public: bool,
    /// Make it its owner's again
    #[arg(long)]
    private: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    id: String,
    name: String,
    record: kiln_catalog::Record,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let wanted = attributes(args)?;
    let any = [args.deprecate, args.undeprecate, args.protect, args.unprotect, args.public, args.private];
    if wanted == Attributes::default() && !any.contains(&true) {
        return Err(CliError::usage(
            "usage.set",
            "nothing to change",
            "kiln set --help lists what can be set",
        ));
    }
    let found = subject::find(&args.image, session)?;
    let (store, id) = (&found.store, &found.manifest.id);
    // What opens the way comes first, what closes it last.
    if args.private {
        store.make_private(id)?;
    }
    if args.unprotect {
        store.set_protected(id, false)?;
    }
    if args.undeprecate {
        store.set_deprecated(id, false)?;
    }
    if wanted != Attributes::default() {
        store.set_attributes(id, &wanted)?;
    }
    if args.deprecate {
        store.set_deprecated(id, true)?;
    }
    if args.protect {
        store.set_protected(id, true)?;
    }
    if args.public {
        store.make_public(id)?;
    }
    let image = store.image(id.as_str())?;
    let title = image.manifest.title();
    session.printer.json(&Record {
        schema: "kiln.set.v1",
        id: id.to_string(),
        name: title.clone(),
        record: image.record,
    })?;
    session.printer.field("set", format!("{id} {title}"));
    Ok(Answer::Yes)
}

fn attributes(args: &Args) -> Result<Attributes> {
    let mut labels = BTreeMap::new();
    for word in &args.label {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        labels.insert(key.to_owned(), value);
    }
    let family = match args.family.as_deref() {
        None => None,
        Some("none" | "") => Some(None),
        Some(name) => Some(Some(name.parse()?)),
    };
    let expires_at = match args.expires.as_deref() {
        None => None,
        Some("never") => Some(None),
        Some(text) => Some(Some(moment(text)?)),
    };
    Ok(Attributes {
        description: args.description.clone(),
        os: args.os.clone(),
        architecture: args.arch.clone(),
        boot_mode: args.boot.clone(),
        family,
        expires_at,
        labels,
    })
}

fn moment(text: &str) -> Result<Timestamp> {
    let wrong = || {
        CliError::usage(
            "usage.when",
            format!("{text:?} is no time"),
            "30d is in thirty days, 2027-01-31T00:00:00Z a moment, never takes the expiry away",
        )
    };
    match age(text) {
        Ok(age) => Timestamp::now().checked_add(age).map_err(|_| wrong()),
        Err(_) => text.parse().map_err(|_| wrong()),
    }
}
