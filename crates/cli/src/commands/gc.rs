//! `kiln gc`: layers that nobody needs go.

use serde::Serialize;

use crate::error::{Answer, Result};
use crate::output::Size;
use crate::session::Session;
use crate::subject;

/// Remove layers that no image and no instance needs, and what dead commands left
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Print what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    dry_run: bool,
    jobs: Vec<String>,
    layers: Vec<LayerRecord>,
    freed_bytes: u64,
}

#[derive(Serialize)]
struct LayerRecord {
    digest: String,
    file_bytes: u64,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let collected = subject::open_store(session)?.collect(args.dry_run)?;
    let layers = collected
        .layers
        .iter()
        .map(|(digest, file_bytes)| LayerRecord { digest: digest.to_string(), file_bytes: *file_bytes });
    session.printer.json(&Record {
        schema: "kiln.gc.v1",
        dry_run: args.dry_run,
        jobs: collected.jobs.clone(),
        layers: layers.collect(),
        freed_bytes: collected.freed_bytes,
    })?;
    for (digest, len) in &collected.layers {
        session.printer.field("layer", format!("{digest}, {}", Size(*len)));
    }
    let word = if args.dry_run { "would free" } else { "freed" };
    session
        .printer
        .field(word, format!("{}, {} layers", Size(collected.freed_bytes), collected.layers.len()));
    Ok(Answer::Yes)
}
