//! `kiln rm`: images leave the store.

use kiln_catalog::Removal;
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::output::Size;
use crate::session::Session;
use crate::subject;

/// Remove images, and the layers that only they have
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
All images are looked up before the first is removed: a name that is not there removes nothing.

Examples:
  kiln rm debian:12
  kiln rm --dry-run img-7f3a img-b20c")]
pub(crate) struct Args {
    /// Remove these images: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE", required = true)]
    image: Vec<String>,
    /// Print what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    dry_run: bool,
    removed: Vec<RemovedRecord>,
    freed_bytes: u64,
}

#[derive(Serialize)]
struct RemovedRecord {
    id: String,
    name: String,
    tag: Option<String>,
    freed_bytes: u64,
    layers_removed: Vec<String>,
    layers_kept: Vec<String>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let store = subject::open_store(session)?;
    let mut images = Vec::new();
    for word in &args.image {
        let id = store.find(word)?.id;
        if !images.contains(&id) {
            images.push(id);
        }
    }
    let mut removals = Vec::new();
    for id in &images {
        removals.push(if args.dry_run { store.plan_removal(id)? } else { store.remove(id)? });
    }
    let removed: Vec<RemovedRecord> = removals.iter().map(record).collect();
    let freed_bytes = removals.iter().map(|removal| removal.freed_bytes).fold(0, u64::saturating_add);
    session.printer.json(&Record { schema: "kiln.rm.v1", dry_run: args.dry_run, removed, freed_bytes })?;
    let word = if args.dry_run { "would remove" } else { "removed" };
    for removal in &removals {
        let image = &removal.image;
        session
            .printer
            .field(word, format!("{} {}, {} freed", image.id, image.title(), Size(removal.freed_bytes)));
    }
    Ok(Answer::Yes)
}

fn record(removal: &Removal) -> RemovedRecord {
    let image = &removal.image;
    RemovedRecord {
        id: image.id.to_string(),
        name: image.name.to_string(),
        tag: image.tag.as_ref().map(ToString::to_string),
        freed_bytes: removal.freed_bytes,
        layers_removed: removal.frees.iter().map(|layer| layer.digest.to_string()).collect(),
        layers_kept: removal.keeps.iter().map(|layer| layer.digest.to_string()).collect(),
    }
}
