//! `kiln shares`: what is shared with whom.

use kiln_catalog::{Filter, Relation};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::output::{Align, Table};
use crate::session::Session;
use crate::subject;

/// List what the account shares with others, and what others share with it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// List only this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: Option<String>,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    shares: Vec<ShareRecord>,
}

#[derive(Serialize)]
struct ShareRecord {
    id: String,
    name: String,
    owner: String,
    account: String,
    since: String,
    accepted_at: Option<String>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let store = subject::open_store(session)?;
    let only = args.image.as_deref().map(|word| store.find(word)).transpose()?.map(|image| image.id);
    let mut shares = Vec::new();
    for entry in store.list(&Filter::default())? {
        if only.as_ref().is_some_and(|id| *id != entry.manifest.id) {
            continue;
        }
        let own = entry.relation == Relation::Owner;
        for share in entry.record.shares.iter().filter(|share| own || share.account == *store.account()) {
            shares.push(ShareRecord {
                id: entry.manifest.id.to_string(),
                name: entry.manifest.title(),
                owner: entry.record.owner.to_string(),
                account: share.account.to_string(),
                since: share.since.to_string(),
                accepted_at: share.accepted_at.map(|at| at.to_string()),
            });
        }
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("OWNER", Align::Left),
        ("SHARED WITH", Align::Left),
        ("SINCE", Align::Left),
        ("ACCEPTED", Align::Left),
    ]);
    for share in &shares {
        table.row([
            share.id.clone(),
            share.name.clone(),
            share.owner.clone(),
            share.account.clone(),
            super::ls::second(&share.since),
            share.accepted_at.as_deref().map_or("not yet".to_owned(), super::ls::second),
        ]);
    }
    let none = shares.is_empty();
    session.printer.json(&Record { schema: "kiln.shares.v1", shares })?;
    if none {
        session.printer.line("nothing is shared");
        return Ok(Answer::Yes);
    }
    for line in table.lines() {
        session.printer.data(&line);
    }
    Ok(Answer::Yes)
}
