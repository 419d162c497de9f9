//! Chores of the workspace: `cargo xtask --help`.

mod bench;
mod boot;
mod committed;
mod damage;
mod failure;
mod fixtures;
mod guest_matrix;
mod man;
mod qemu_samples;
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
    QemuSamples(qemu_samples::Arguments),
    Boot(boot::Arguments),
    GuestMatrix(guest_matrix::Arguments),
    Bench(bench::Arguments),
    Damage(damage::Arguments),
    Man(man::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().chore {
        Chore::Fixtures(arguments) => fixtures::run(&arguments),
        Chore::Committed(arguments) => committed::run(&arguments),
        Chore::QemuSamples(arguments) => qemu_samples::run(&arguments),
        Chore::Boot(arguments) => boot::run(&arguments),
        Chore::GuestMatrix(arguments) => guest_matrix::run(&arguments),
        Chore::Man(arguments) => man::run(&arguments),
        Chore::Bench(arguments) => bench::run(&arguments),
        Chore::Damage(arguments) => damage::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(),
    }
}
