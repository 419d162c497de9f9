//! `kiln history`: what happened to an image.

use serde::Serialize;

use super::ls::second;
use crate::error::{Answer, Result};
use crate::output::{Align, Table};
use crate::session::Session;
use crate::subject;

/// Show what happened to an image, oldest first
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    id: String,
    name: String,
    events: &'a [kiln_catalog::LifeEvent],
    forgotten_events: u64,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = subject::find(&args.image, session)?;
    // With whom an owner shares is not a receiver's business.
    let mut events = found.record.history.clone();
    if found.relation != kiln_catalog::Relation::Owner {
        events.retain(|event| {
            event.account == *found.store.account() || event.what == kiln_catalog::What::Published
        });
    }
    session.printer.json(&Record {
        schema: "kiln.history.v1",
        id: found.manifest.id.to_string(),
        name: found.manifest.title(),
        events: &events,
        forgotten_events: found.record.forgotten_events,
    })?;
    let mut table =
        Table::new(&[("WHEN", Align::Left), ("WHO", Align::Left), ("WHAT", Align::Left), ("", Align::Left)]);
    for event in &events {
        table.row([
            second(&event.at.to_string()),
            event.account.to_string(),
            event.what.word().to_owned(),
            event.detail.clone(),
        ]);
    }
    for line in table.lines() {
        session.printer.data(&line);
    }
    Ok(Answer::Yes)
}
