//! What every command is given: the way out, the watcher, the store's place.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::output::{Printer, Style, Verbosity};
use crate::progress::{ProgressMode, Reporter};
use crate::signals;

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct GlobalArgs {
    /// Print one JSON object in place of text; errors become one JSON object on stderr
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) json: bool,
    /// Say only what was asked for, and errors
    #[arg(short = 'q', long, global = true, conflicts_with = "verbose", help_heading = "Global options")]
    pub(crate) quiet: bool,
    /// Say also how it was done
    #[arg(short = 'v', long, global = true, help_heading = "Global options")]
    pub(crate) verbose: bool,
    /// Show progress on stderr in this way
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t = ProgressMode::Auto,
        value_name = "HOW",
        help_heading = "Global options"
    )]
    pub(crate) progress: ProgressMode,
    /// Use the image store in this directory [default: $KILN_STORE, else the XDG data directory]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Global options")]
    pub(crate) store: Option<PathBuf>,
    /// Act on behalf of this account [default: $KILN_ACCOUNT, the settings file, else the store's OS user]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Global options")]
    pub(crate) account: Option<String>,
    /// Read settings from this file [default: $KILN_CONFIG, else kiln/config.toml in the XDG config directory]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Global options")]
    pub(crate) config: Option<PathBuf>,
}

/// One run of the program.
pub(crate) struct Session {
    pub(crate) printer: Printer,
    pub(crate) reporter: Reporter,
    pub(crate) store: Option<PathBuf>,
    pub(crate) account: Option<String>,
    pub(crate) config: Option<PathBuf>,
    /// The words of the command line, without the program's name.
    pub(crate) words: Vec<OsString>,
}

impl Session {
    pub(crate) fn new(args: &GlobalArgs, words: Vec<OsString>) -> Self {
        let verbosity = match (args.quiet, args.verbose) {
            (true, _) => Verbosity::Quiet,
            (false, true) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        };
        let style = if args.json { Style::Json } else { Style::Text };
        // Whoever reads JSON, or wants quiet, gets bars only by asking for lines of their own.
        let progress = match args.progress {
            ProgressMode::Auto if args.json || args.quiet => ProgressMode::None,
            mode => mode,
        };
        Self {
            printer: Printer::new(style, verbosity),
            reporter: Reporter::new(progress, verbosity == Verbosity::Verbose, signals::watch()),
            store: args.store.clone(),
            account: args.account.clone(),
            config: args.config.clone(),
            words,
        }
    }
}
