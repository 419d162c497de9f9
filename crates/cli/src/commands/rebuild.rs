//! `kiln rebuild`: a machine begins anew from an image.

use std::time::Duration;

use kiln_catalog::Image;
use kiln_instance::process::{self, Stopped};
use kiln_instance::rebuild::{self, OldDisk};
use kiln_instance::{OnUnsound, Refusal};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::instances::{self, Done, InstanceView};
use crate::session::Session;

/// Put a machine back on its image; its name, addresses and data disks stay
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The disk that the machine had is put aside until kiln wait has seen it boot from
the new one. --undo goes back to it")]
pub(crate) struct Args {
    /// Rebuild this one: name, id, or the start of an id
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// Put it on this image [default: the one that it was started from]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Do not keep the disk that it had
    #[arg(long)]
    discard: bool,
    /// Go back to the disk that was put aside
    #[arg(long, conflicts_with_all = ["image", "discard", "force"])]
    undo: bool,
    /// Use the image although it is known to be damaged, and pull the plug of a guest that does not power down
    #[arg(long)]
    force: bool,
    /// Give the guest so many seconds to power down
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// Do not start it afterwards
    #[arg(long)]
    no_start: bool,
}

#[derive(Serialize)]
struct Rebuilt {
    undone: bool,
    stopped: Stopped,
    old_disk_kept: bool,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = instances::find(&args.instance, session)?;
    let (store, record) = (&found.store, &found.record);
    // Everything that can refuse comes before the machine is stopped.
    let image: Option<Image> = if args.undo {
        if record.machine.aside.is_empty() {
            let name = process::title(record);
            return Err(kiln_instance::Error::from(Refusal::NothingAside { name }).into());
        }
        None
    } else {
        Some(store.image(args.image.as_deref().unwrap_or(record.image.as_str()))?)
    };
    let on_unsound = if args.force { OnUnsound::Force } else { OnUnsound::Refuse };
    if let Some(image) = &image {
        rebuild::may(store, image, on_unsound)?;
    }
    let patience = Duration::from_secs(if args.force { 0 } else { args.timeout });
    let stopped = process::stop(store, record, patience, &session.reporter)?;
    let old = if args.discard { OldDisk::Discard } else { OldDisk::Aside };
    let changed = match &image {
        Some(image) => rebuild::rebuild(store, record, image, old, on_unsound)?,
        None => rebuild::undo(store, record)?,
    };
    if !args.no_start {
        let host = instances::host(store, session)?;
        process::start(store, &changed, &host)?;
    }
    let more = Rebuilt { undone: args.undo, stopped, old_disk_kept: !changed.machine.aside.is_empty() };
    let done = Done { schema: "kiln.rebuild.v1", more, instance: InstanceView::of(store, &changed)? };
    session.printer.json(&done)?;
    let title = done.instance.title();
    let word = if args.undo { "back" } else { "rebuilt" };
    session.printer.field(word, format!("{title} on {}, {}", done.instance.image(), done.instance.state));
    if done.more.old_disk_kept {
        let text =
            format!("kept until kiln wait {title} sees it boot; kiln rebuild --undo {title} goes back");
        session.printer.field("old disk", text);
    }
    Ok(Answer::Yes)
}
