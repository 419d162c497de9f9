//! The kiln command line: arguments, one file per command, rendering, progress, exit codes. No logic of its own:
//! what a command does is in the libraries below.

mod args;
mod commands;
mod destination;
mod error;
mod for_target;
mod input;
mod instances;
mod judge;
mod output;
mod output_format;
mod progress;
mod session;
mod signals;
mod size;
mod subject;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use kiln_guest::Reader;

use crate::args::Cli;
use crate::error::{Answer, CliError, Result, exit};
use crate::session::Session;

/// The whole command line as clap sees it, for man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs one command line, `args[0]` being the program's name, and answers its exit code.
pub fn main_with(args: impl IntoIterator<Item = impl Into<OsString>>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    // No command: what a command starts to have a stranger's disk read.
    if args.get(1).is_some_and(|word| word == kiln_guest::worker::ARGUMENT) {
        return kiln_guest::worker::run();
    }
    let cli = match command().try_get_matches_from(&args).and_then(|found| Cli::from_arg_matches(&found)) {
        Ok(cli) => cli,
        Err(error) => return refuse_arguments(&error, &args).into(),
    };
    let json = cli.global.json;
    let mut session = Session::new(&cli.global, args.into_iter().skip(1).collect());
    let result = commands::run(cli.command, &mut session);
    session.reporter.clear();
    let result = result.and_then(|answer| session.printer.flush().map(|()| answer));
    code_of(result, json).into()
}

/// Who reads the disks of strangers: another process of this program.
fn guest_reader() -> Reader {
    Reader::Worker(guest_reader_program())
}

fn guest_reader_program() -> PathBuf {
    PathBuf::from("/proc/self/exe")
}

fn code_of(result: Result<Answer>, json: bool) -> u8 {
    match result {
        Ok(Answer::Yes) => exit::YES,
        Ok(Answer::No) => exit::NO,
        Err(error) => {
            tell(&error, json);
            error.exit_code()
        }
    }
}

fn tell(error: &CliError, json: bool) {
    if error.reader_is_gone() {
        return;
    }
    if !json {
        output::complain(&error.text());
    } else if let Ok(line) = serde_json::to_string(&error.record()) {
        output::complain(&format!("{line}\n"));
    }
}

/// Help and version are answers; everything else that clap says is a usage error.
fn refuse_arguments(error: &clap::Error, args: &[OsString]) -> u8 {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => exit::YES,
            Err(source) => code_of(Err(CliError::Output { source }), false),
        };
    }
    if args.iter().any(|arg| arg == "--json") {
        // clap's first line says what is wrong; the usage below it is for people.
        let text = error.to_string();
        let what = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        tell(
            &CliError::usage("usage", what, "kiln help shows the commands, kiln help COMMAND its words"),
            true,
        );
    } else {
        let _ = error.print();
    }
    exit::USAGE
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }

    #[test]
    fn help_is_imperative_without_a_full_stop() {
        fn look(command: &clap::Command) {
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty(), "{} has no help", command.get_name());
            assert!(!about.ends_with('.'), "{}: {about}", command.get_name());
            for argument in command.get_arguments() {
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{} {} has no help", command.get_name(), argument.get_id());
                assert!(!help.ends_with('.'), "{} {}: {help}", command.get_name(), argument.get_id());
            }
            command.get_subcommands().for_each(look);
        }
        look(&super::command());
    }
}
