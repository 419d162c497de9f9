//! `kiln ls`: the images of the store.

use kiln_catalog::{Filter, Listed};
use kiln_disk::digest::ContentDigest;
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::output::{Align, ShortSize, Table};
use crate::session::Session;
use crate::subject;

/// List the images of the store
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  kiln ls
  kiln ls 'debian:*'
  kiln ls --json | jq -r '.images[].id'")]
pub(crate) struct Args {
    /// List only images whose name, name:tag or id fits; * stands for any characters, ? for one
    #[arg(value_name = "PATTERN")]
    pattern: Vec<String>,
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    images: Vec<ImageRecord<'a>>,
}

/// One image in a listing.
#[derive(Serialize)]
struct ImageRecord<'a> {
    id: String,
    name: String,
    tag: Option<String>,
    description: &'a str,
    state: &'static str,
    created_at: String,
    disk_bytes: u64,
    /// Bytes of its layers.
    stored_bytes: u64,
    /// Bytes of the layers that no other image has.
    own_bytes: u64,
    content_digest: ContentDigest,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let filter = Filter { patterns: args.pattern.clone() };
    let listed = match subject::open_store(session) {
        Ok(store) => store.list(&filter)?,
        // No store yet is an empty list: the first import makes it.
        Err(error) if error.code() == "store.missing" => Vec::new(),
        Err(error) => return Err(error),
    };
    let images: Vec<ImageRecord<'_>> = listed.iter().map(record).collect();
    session.printer.json(&Record { schema: "kiln.ls.v1", images })?;
    if listed.is_empty() {
        session.printer.line("no images");
        return Ok(Answer::Yes);
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("DISK", Align::Right),
        ("STORED", Align::Right),
        ("OWN", Align::Right),
        ("CREATED", Align::Left),
    ]);
    for Listed { manifest, stored_bytes, own_bytes } in &listed {
        table.row([
            manifest.id.to_string(),
            manifest.title(),
            ShortSize(manifest.disk_bytes).to_string(),
            ShortSize(*stored_bytes).to_string(),
            ShortSize(*own_bytes).to_string(),
            second(&manifest.created_at.to_string()),
        ]);
    }
    for line in table.lines() {
        session.printer.data(&line);
    }
    Ok(Answer::Yes)
}

/// A time without its fraction.
fn second(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

fn record(listed: &Listed) -> ImageRecord<'_> {
    let manifest = &listed.manifest;
    ImageRecord {
        id: manifest.id.to_string(),
        name: manifest.name.to_string(),
        tag: manifest.tag.as_ref().map(ToString::to_string),
        description: &manifest.description,
        state: manifest.state.word(),
        created_at: manifest.created_at.to_string(),
        disk_bytes: manifest.disk_bytes,
        stored_bytes: listed.stored_bytes,
        own_bytes: listed.own_bytes,
        content_digest: manifest.digests.content,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(super::second("2026-11-23T10:11:12.131415Z"), "2026-11-23T10:11:12Z");
        assert_eq!(super::second("2026-11-23T10:11:12Z"), "2026-11-23T10:11:12Z");
    }
}
