//! `kiln wait`: until a guest is there.

use std::time::Duration;

use kiln_instance::wait::{self, Event, Seen};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::instances::{self, Done, InstanceView};
use crate::session::Session;

/// Wait until a machine's guest has booted, lets one log in, or is set up
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Wait for this one: name, id, or the start of an id
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// Wait for this
    #[arg(long = "for", value_enum, value_name = "boot|ssh|cloud-init", default_value = "boot")]
    what: What,
    /// Wait so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    timeout: u64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum What {
    /// A login prompt at the serial console, or the guest agent
    Boot,
    /// The ssh server's greeting
    Ssh,
    /// The end of cloud-init
    CloudInit,
}

#[derive(Serialize)]
struct Waited {
    event: Event,
    #[serde(flatten)]
    seen: Seen,
    after_ms: u64,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = instances::find(&args.instance, session)?;
    let event = match args.what {
        What::Boot => Event::Boot,
        What::Ssh => Event::Ssh,
        What::CloudInit => Event::CloudInit,
    };
    let patience = Duration::from_secs(args.timeout);
    let seen = wait::wait(&found.store, &found.record, event, patience, &session.reporter)?;
    let after_ms = u64::try_from(seen.after.as_millis()).unwrap_or(u64::MAX);
    let instance = InstanceView::of(&found.store, &found.record)?;
    let done = Done { schema: "kiln.wait.v1", more: Waited { event, seen, after_ms }, instance };
    session.printer.json(&done)?;
    let what = match event {
        Event::Boot => "booted",
        Event::Ssh => "ssh answers",
        Event::CloudInit => "cloud-init has finished",
    };
    let seconds = f64::from(u32::try_from(after_ms).unwrap_or(u32::MAX)) / 1000.0;
    let text = format!(
        "{}: {what} (seen at the {}, after {seconds:.1} s)",
        done.instance.title(),
        done.more.seen.by
    );
    session.printer.field("there", text);
    Ok(Answer::Yes)
}
