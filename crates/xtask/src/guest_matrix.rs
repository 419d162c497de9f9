//! `cargo xtask guest-matrix`: are the verdicts about guests true?

use std::path::PathBuf;

use kiln_testkit::fixtures::Fixture;
use kiln_testkit::guest_matrix::{CASES, Outcome as CaseOutcome, run as run_case};

use crate::failure::{Failure, Outcome, say};

/// Breaks copies of the Debian disk, asks `kiln check` about each, starts each under QEMU, and prints what was
/// predicted against what happened. Exit 0: every prediction held. 1: one did not.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The program to ask.
    #[arg(long, default_value = "target/release/kiln")]
    kiln: PathBuf,
    /// Only cases whose name holds this.
    #[arg(long)]
    only: Option<String>,
    /// Ask only, start nothing.
    #[arg(long)]
    no_start: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let fixture = Fixture::Debian12.ensure()?;
    let dir = tempfile::tempdir().map_err(|source| Failure::No(format!("no scratch directory: {source}")))?;
    let kiln = std::fs::canonicalize(&arguments.kiln)
        .map_err(|source| Failure::No(format!("{}: {source}; make build", arguments.kiln.display())))?;
    let mut outcomes: Vec<CaseOutcome> = Vec::new();
    for case in
        CASES.iter().filter(|case| arguments.only.as_ref().is_none_or(|only| case.name.contains(only)))
    {
        let outcome = run_case(case, &kiln, &fixture, dir.path(), !arguments.no_start);
        say(&outcome.to_string())?;
        if !outcome.wrong.is_empty() {
            let lines: Vec<&str> = outcome.console.lines().collect();
            say(&lines[lines.len().saturating_sub(40)..].join("\n"))?;
        }
        outcomes.push(outcome);
    }
    let count = |said_boots: bool, started: bool| {
        outcomes
            .iter()
            .filter(|outcome| {
                outcome.started == Some(started) && (outcome.verdict != "will_not_boot") == said_boots
            })
            .count()
    };
    say("")?;
    say("| kiln says | login prompt | no login prompt |")?;
    say("|---|---|---|")?;
    say(&format!("| boots, or boots with warnings | {} | {} |", count(true, true), count(true, false)))?;
    say(&format!("| will not boot | {} | {} |", count(false, true), count(false, false)))?;
    let wrong = outcomes.iter().filter(|outcome| !outcome.wrong.is_empty()).count();
    say(&format!("{} cases, {wrong} not as predicted", outcomes.len()))?;
    if wrong > 0 {
        return Err(Failure::No(format!("{wrong} of {} cases are not as predicted", outcomes.len())));
    }
    Ok(())
}
