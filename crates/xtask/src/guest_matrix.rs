//! `cargo xtask guest-matrix`: are the verdicts about guests true?

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_testkit::fixtures::Fixture;
use kiln_testkit::guest_matrix::{Case, Outcome as CaseOutcome, cases, run as run_case};

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
    /// So many at a time.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let fixture = Fixture::Debian12.ensure()?;
    let dir = tempfile::tempdir().map_err(|source| Failure::No(format!("no scratch directory: {source}")))?;
    let kiln = std::fs::canonicalize(&arguments.kiln)
        .map_err(|source| Failure::No(format!("{}: {source}; make build", arguments.kiln.display())))?;
    let layouts = Fixture::Layouts.ensure()?;
    let wanted: Vec<&Case> =
        cases().filter(|case| arguments.only.as_ref().is_none_or(|only| case.name.contains(only))).collect();
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<CaseOutcome>> = Mutex::default();
    let work = || {
        while let Some(case) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            let base = case.layout.map_or(fixture.clone(), |(name, _)| layouts.join(format!("{name}.raw")));
            let outcome = run_case(case, &kiln, &base, dir.path(), !arguments.no_start);
            let mut text = outcome.to_string();
            if !outcome.wrong.is_empty() {
                let lines: Vec<&str> = outcome.console.lines().collect();
                for line in &lines[lines.len().saturating_sub(40)..] {
                    text.push('\n');
                    text.push_str(line);
                }
            }
            let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            // A closed output ends the program at its last line, not in the middle of a case.
            let _ = say(&text);
            outcomes.push(outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.max(1) {
            scope.spawn(work);
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
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
