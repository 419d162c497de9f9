//! `kiln destroy`: a machine and its disks go.

use kiln_instance::process;
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::instances;
use crate::session::Session;

/// Remove machines with their disks
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove these: name, id, or the start of an id
    #[arg(value_name = "INSTANCE", required = true)]
    instance: Vec<String>,
    /// Also when it runs
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    destroyed: Vec<One>,
}

#[derive(Serialize)]
struct One {
    id: String,
    name: Option<String>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let mut all = Vec::new();
    for word in &args.instance {
        let found = instances::find(word, session)?;
        // Named twice is meant once.
        if all.iter().all(|other: &instances::Found| other.record.id != found.record.id) {
            all.push(found);
        }
    }
    let mut destroyed = Vec::new();
    for found in all {
        let record = process::destroy(&found.store, &found.record, args.force, &session.reporter)?;
        session.printer.field("destroyed", format!("{} {}", record.id, process::title(&record)));
        destroyed.push(One { id: record.id.to_string(), name: record.name.map(|name| name.to_string()) });
    }
    session.printer.json(&Record { schema: "kiln.destroy.v1", destroyed })?;
    Ok(Answer::Yes)
}
