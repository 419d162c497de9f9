//! `kiln stop`: a machine comes to rest.

use std::time::{Duration, Instant};

use kiln_instance::process::{self, Stopped};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::instances::{self, Done, InstanceView};
use crate::session::Session;

/// Power machines down
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The guest is asked to power down, as by the button of a machine, and has the time
of --timeout to do so; then the machine is ended as by a power cut")]
pub(crate) struct Args {
    /// Stop these: name, id, or the start of an id
    #[arg(value_name = "INSTANCE", required = true)]
    instance: Vec<String>,
    /// Wait so many seconds for the guest
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// Do not ask the guest
    #[arg(long, conflicts_with = "timeout")]
    force: bool,
}

#[derive(Serialize)]
struct How {
    how: Stopped,
    took_ms: u64,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    for word in &args.instance {
        let found = instances::find(word, session)?;
        let began = Instant::now();
        let patience = Duration::from_secs(if args.force { 0 } else { args.timeout });
        let how = process::stop(&found.store, &found.record, patience, &session.reporter)?;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let instance = InstanceView::of(&found.store, &found.record)?;
        let done = Done { schema: "kiln.stop.v1", more: How { how, took_ms }, instance };
        session.printer.json(&done)?;
        let text = match how {
            Stopped::WasNotRunning => "it did not run",
            Stopped::PoweredDown => "the guest powered down",
            Stopped::Quit if args.force => "ended as by a power cut",
            Stopped::Quit => "the guest did not power down in time: ended as by a power cut",
            Stopped::Killed => "QEMU did not listen: killed",
        };
        session.printer.field("stopped", format!("{}: {text}", done.instance.title()));
    }
    Ok(Answer::Yes)
}
