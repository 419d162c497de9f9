//! `kiln ps`: the machines.

use jiff::{Timestamp, Unit};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::instances::InstanceView;
use crate::output::{Align, ShortSize, Table};
use crate::session::Session;
use crate::subject;

/// List machines
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Also those that do not run
    #[arg(short, long)]
    all: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    instances: Vec<InstanceView>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let store = subject::open_store(session)?;
    let mut views = Vec::new();
    for record in store.instances()?.into_iter().filter(|record| record.account == *store.account()) {
        let view = InstanceView::of(&store, &record)?;
        if args.all || view.state == "running" {
            views.push(view);
        }
    }
    let record = Record { schema: "kiln.ps.v1", instances: views };
    session.printer.json(&record)?;
    if record.instances.is_empty() {
        let text = if args.all { "no machines" } else { "no machine runs; --all lists those that do not" };
        session.printer.line(text);
        return Ok(Answer::Yes);
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("IMAGE", Align::Left),
        ("STATE", Align::Left),
        ("UP", Align::Right),
        ("CPUS", Align::Right),
        ("MEMORY", Align::Right),
        ("SSH", Align::Right),
    ]);
    for view in &record.instances {
        table.row(vec![
            view.id.clone(),
            view.name.clone().unwrap_or_default(),
            view.image().to_owned(),
            view.state.to_owned(),
            view.started_at().map(up).unwrap_or_default(),
            view.cpus().to_string(),
            ShortSize(view.memory_bytes()).to_string(),
            view.ssh_port.map(|port| port.to_string()).unwrap_or_default(),
        ]);
    }
    for line in table.lines() {
        session.printer.data(&line);
    }
    Ok(Answer::Yes)
}

/// How long ago, in one unit.
fn up(since: Timestamp) -> String {
    let seconds = Timestamp::now().since((Unit::Second, since)).map_or(0, |span| span.get_seconds());
    match seconds.max(0) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}
