//! One file a command: its words, and what it does with them.

pub(crate) mod accept;
pub(crate) mod audit;
pub(crate) mod bundle;
pub(crate) mod capture;
pub(crate) mod check;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod convert;
pub(crate) mod copy;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod flatten;
pub(crate) mod gc;
pub(crate) mod history;
pub(crate) mod import;
pub(crate) mod inspect;
pub(crate) mod jobs;
pub(crate) mod key;
pub(crate) mod ls;
pub(crate) mod map;
pub(crate) mod measure;
pub(crate) mod prune;
pub(crate) mod rm;
pub(crate) mod set;
pub(crate) mod share;
pub(crate) mod shares;
pub(crate) mod show;
pub(crate) mod sign;
pub(crate) mod store;
pub(crate) mod tag;
pub(crate) mod targets;
pub(crate) mod tree;
pub(crate) mod usage;
pub(crate) mod verify;

pub(crate) mod console;
pub(crate) mod destroy;
pub(crate) mod launch;
pub(crate) mod logs;
pub(crate) mod ps;
pub(crate) mod rebuild;
pub(crate) mod restore;
pub(crate) mod screenshot;
pub(crate) mod ssh;
pub(crate) mod start;
pub(crate) mod stop;
pub(crate) mod wait;

use crate::args::Command;
use crate::error::{Answer, Result};
use crate::session::Session;

/// Runs one command.
pub(crate) fn run(command: Command, session: &mut Session) -> Result<Answer> {
    match command {
        Command::Import(args) => import::run(&args, session),
        Command::Capture(args) => capture::run(&args, session),
        Command::WatchCapture(args) => capture::watch(&args),
        Command::KeepConsole(args) => logs::keep(&args),
        Command::Export(args) => export::run(&args, session),
        Command::Ls(args) => ls::run(&args, session),
        Command::Show(args) => show::run(&args, session),
        Command::Rm(args) => rm::run(&args, session),
        Command::Key(args) => key::run(&args, session),
        Command::Sign(args) => sign::run(&args, session),
        Command::Accept(args) => accept::run(&args, session),
        Command::Audit(args) => audit::run(&args, session),
        Command::Bundle(args) => bundle::run(&args, session),
        Command::Config(args) => config::run(&args, session),
        Command::Copy(args) => copy::run(&args, session),
        Command::Doctor(args) => doctor::run(&args, session),
        Command::Flatten(args) => flatten::run(&args, session),
        Command::Gc(args) => gc::run(&args, session),
        Command::History(args) => history::run(&args, session),
        Command::Jobs(args) => jobs::run(&args, session),
        Command::Prune(args) => prune::run(&args, session),
        Command::Set(args) => set::run(&args, session),
        Command::Share(args) => share::run(&args, session),
        Command::Shares(args) => shares::run(&args, session),
        Command::Tag(args) => tag::run(&args, session),
        Command::Tree(args) => tree::run(&args, session),
        Command::Usage(args) => usage::run(&args, session),
        Command::Resume(args) => jobs::resume(&args, session),
        Command::Cancel(args) => jobs::cancel(&args, session),
        Command::Store(args) => store::run(&args, session),
        Command::Targets(args) => targets::run(&args, session),
        Command::Inspect(args) => inspect::run(&args, session),
        Command::Verify(args) => verify::run(&args, session),
        Command::Check(args) => check::run(&args, session),
        Command::Convert(args) => convert::run(&args, session),
        Command::Map(args) => map::run(&args, session),
        Command::Diff(args) => diff::run(&args, session),
        Command::Measure(args) => measure::run(&args, session),
        Command::Console(args) => console::run(&args, session),
        Command::Destroy(args) => destroy::run(&args, session),
        Command::Launch(args) => launch::run(&args, session),
        Command::Logs(args) => logs::run(&args, session),
        Command::Ps(args) => ps::run(&args, session),
        Command::Rebuild(args) => rebuild::run(&args, session),
        Command::Restore(args) => restore::run(&args, session),
        Command::Screenshot(args) => screenshot::run(&args, session),
        Command::Ssh(args) => ssh::run(&args, session),
        Command::Start(args) => start::run(&args, session),
        Command::Stop(args) => stop::run(&args, session),
        Command::Wait(args) => wait::run(&args, session),
        Command::Completion(args) => completion::run(&args, session),
    }
}
