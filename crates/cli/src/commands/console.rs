//! `kiln console`: the serial console in this terminal.

use std::io::IsTerminal;

use kiln_instance::console::{self, Left};

use crate::error::{Answer, Result};
use crate::instances;
use crate::output::complain;
use crate::session::Session;

/// Join this terminal to a machine's serial console; Ctrl-] leaves it
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Join this one: name, id, or the start of an id
    #[arg(value_name = "INSTANCE")]
    instance: String,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = instances::find(&args.instance, session)?;
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        complain("note: Ctrl-] leaves the console; Enter may bring a prompt\n");
    }
    let left = console::attach(&found.store, &found.record, std::io::stdin(), std::io::stdout())?;
    if terminal {
        complain(match left {
            Left::HungUp => "\nnote: the machine ended\n",
            Left::Escaped | Left::EndOfInput => "\nnote: left the console, the machine runs on\n",
        });
    }
    Ok(Answer::Yes)
}
