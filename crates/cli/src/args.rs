//! The words of the command line.

use clap::{Parser, Subcommand};

use crate::commands::{
    accept, audit, bundle, capture, check, completion, config, convert, copy, diff, doctor, export, flatten,
    gc, history, import, inspect, jobs, key, ls, map, measure, prune, rm, set, share, shares, show, sign,
    store, tag, targets, tree, usage, verify,
};
use crate::commands::{
    console, destroy, launch, logs, ps, rebuild, restore, screenshot, ssh, start, stop, wait,
};
use crate::session::GlobalArgs;

/// Import, verify, convert and keep machine images
#[derive(Debug, Parser)]
#[command(name = "kiln", version, max_term_width = 100, subcommand_required = true)]
#[command(arg_required_else_help = true)]
#[command(after_help = "\
Exit codes:
  0    done, or the answer is yes
  1    judged, and the answer is no: damaged, differs, refused by a rule
  2    the command line is wrong
  3    could not be done: I/O, environment, unsupported
  130  interrupted

Sizes are powers of 1024: 20G is 20 GiB. Words with a slash or a dot, and words that
are a file here, are files; other words are images of the store")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Import(import::Args),
    #[command(visible_alias = "snapshot-to-image")]
    Capture(capture::Args),
    #[command(hide = true)]
    WatchCapture(capture::WatchArgs),
    #[command(hide = true)]
    KeepConsole(logs::KeepArgs),
    Inspect(inspect::Args),
    #[command(visible_alias = "checksum")]
    Verify(verify::Args),
    Check(check::Args),
    Convert(convert::Args),
    Map(map::Args),
    Diff(diff::Args),
    Measure(measure::Args),
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    Show(show::Args),
    Set(set::Args),
    Tag(tag::Args),
    History(history::Args),
    Audit(audit::Args),
    Share(share::Args),
    Shares(shares::Args),
    Accept(accept::Args),
    Copy(copy::Args),
    Bundle(bundle::Args),
    Rm(rm::Args),
    Export(export::Args),
    Key(key::Args),
    Sign(sign::Args),
    Prune(prune::Args),
    Gc(gc::Args),
    Usage(usage::Args),
    Tree(tree::Args),
    Flatten(flatten::Args),
    Jobs(jobs::Args),
    Resume(jobs::ResumeArgs),
    Cancel(jobs::CancelArgs),
    Config(config::Args),
    Doctor(doctor::Args),
    Store(store::Args),
    Targets(targets::Args),
    Launch(launch::Args),
    Ps(ps::Args),
    Start(start::Args),
    Stop(stop::Args),
    Wait(wait::Args),
    Console(console::Args),
    Ssh(ssh::Args),
    Logs(logs::Args),
    Screenshot(screenshot::Args),
    Rebuild(rebuild::Args),
    Restore(restore::Args),
    Destroy(destroy::Args),
    Completion(completion::Args),
}
