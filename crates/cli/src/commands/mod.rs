//! One file a command: its words, and what it does with them.

pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod convert;
pub(crate) mod diff;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod key;
pub(crate) mod ls;
pub(crate) mod map;
pub(crate) mod measure;
pub(crate) mod rm;
pub(crate) mod show;
pub(crate) mod sign;
pub(crate) mod store;
pub(crate) mod targets;
pub(crate) mod verify;

use crate::args::Command;
use crate::error::{Answer, Result};
use crate::session::Session;

/// Runs one command.
pub(crate) fn run(command: Command, session: &mut Session) -> Result<Answer> {
    match command {
        Command::Import(args) => import::run(&args, session),
        Command::Export(args) => export::run(&args, session),
        Command::Ls(args) => ls::run(&args, session),
        Command::Show(args) => show::run(&args, session),
        Command::Rm(args) => rm::run(&args, session),
        Command::Key(args) => key::run(&args, session),
        Command::Sign(args) => sign::run(&args, session),
        Command::Store(args) => store::run(&args, session),
        Command::Targets(args) => targets::run(&args, session),
        Command::Inspect(args) => inspect::run(&args, session),
        Command::Verify(args) => verify::run(&args, session),
        Command::Check(args) => check::run(&args, session),
        Command::Convert(args) => convert::run(&args, session),
        Command::Map(args) => map::run(&args, session),
        Command::Diff(args) => diff::run(&args, session),
        Command::Measure(args) => measure::run(&args, session),
        Command::Completion(args) => completion::run(&args, session),
    }
}
