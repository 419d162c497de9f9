//! `kiln start`: a machine that rests runs again.

use kiln_instance::process;
use serde::Serialize;

use crate::commands::launch::PrintWord;
use crate::error::{Answer, Result};
use crate::instances::{self, Done, InstanceView};
use crate::session::Session;

/// Start machines that do not run
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Start these: name, id, or the start of an id
    #[arg(value_name = "INSTANCE", required = true)]
    instance: Vec<String>,
    /// Do not start it, and print how another program does
    #[arg(long, value_enum, value_name = "libvirt|qemu")]
    print: Option<PrintWord>,
}

#[derive(Serialize)]
struct Started {
    printed: Option<String>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    for word in &args.instance {
        let found = instances::find(word, session)?;
        let host = instances::host(&found.store, session)?;
        let printed = args.print.map(|word| word.of(&found.store, &found.record, &host)).transpose()?;
        if printed.is_none() {
            process::start(&found.store, &found.record, &host)?;
        }
        let instance = InstanceView::of(&found.store, &found.record)?;
        let done = Done { schema: "kiln.start.v1", more: Started { printed }, instance };
        session.printer.json(&done)?;
        match &done.more.printed {
            Some(text) => text.lines().for_each(|line| session.printer.data(line)),
            None => session
                .printer
                .field("started", format!("{}: {}", done.instance.title(), done.instance.machine())),
        }
    }
    Ok(Answer::Yes)
}
