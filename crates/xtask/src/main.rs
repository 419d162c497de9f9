//! Chores of the workspace: `cargo xtask --help`.

mod boot;
mod committed;
mod failure;
mod fixtures;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Chores of the workspace: fixtures, boots, man pages, measurements.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    Fixtures(fixtures::Arguments),
    Committed(committed::Arguments),
    Boot(boot::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Fixtures(arguments) => fixtures::run(&arguments),
        Chore::Committed(arguments) => committed::run(&arguments),
        Chore::Boot(arguments) => boot::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
