//! `kiln jobs`, `kiln resume`, `kiln cancel`: running work, seen from another terminal.

use clap::Parser as _;
use kiln_catalog::{CommandResume, JobView, Resume};
use kiln_disk::Error as DiskError;
use serde::Serialize;

use super::ls::{ago, second};
use crate::args::{Cli, Command};
use crate::error::{Answer, CliError, Result};
use crate::output::{Align, Table};
use crate::session::Session;
use crate::subject;

/// List running work, and interrupted imports and copies that can go on
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Go on with an interrupted import or copy
#[derive(Debug, clap::Args)]
pub(crate) struct ResumeArgs {
    /// Go on with this job of kiln jobs
    #[arg(value_name = "JOB")]
    job: String,
}

/// Stop running work, or forget what was interrupted
#[derive(Debug, clap::Args)]
pub(crate) struct CancelArgs {
    /// Stop this job of kiln jobs
    #[arg(value_name = "JOB")]
    job: String,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    jobs: Vec<JobRecord>,
}

#[derive(Serialize)]
struct JobRecord {
    id: String,
    kind: String,
    what: String,
    running: bool,
    resumable: bool,
    started_at: String,
    phase: Option<String>,
    done_bytes: Option<u64>,
    total_bytes: Option<u64>,
}

pub(crate) fn run(_args: &Args, session: &mut Session) -> Result<Answer> {
    let jobs = subject::open_store(session)?.jobs()?;
    session.printer.json(&Record { schema: "kiln.jobs.v1", jobs: jobs.iter().map(record).collect() })?;
    if jobs.is_empty() {
        session.printer.line("no jobs");
        return Ok(Answer::Yes);
    }
    let mut table = Table::new(&[
        ("JOB", Align::Left),
        ("KIND", Align::Left),
        ("STATE", Align::Left),
        ("DONE", Align::Right),
        ("AGE", Align::Right),
        ("WHAT", Align::Left),
    ]);
    let now = jiff::Timestamp::now();
    for job in &jobs {
        let state = if job.running { "running" } else { "interrupted" };
        let done = job.progress.as_ref().map_or(String::new(), |progress| {
            match progress.done.saturating_mul(100).checked_div(progress.total) {
                Some(percent) => format!("{} {}%", progress.phase, percent.min(100)),
                None => progress.phase.clone(),
            }
        });
        table.row([
            job.id.clone(),
            job.facts.kind.clone(),
            state.to_owned(),
            done,
            ago(now.duration_since(job.facts.started_at)),
            job.facts.what.clone(),
        ]);
    }
    for line in table.lines() {
        session.printer.data(&line);
    }
    Ok(Answer::Yes)
}

fn record(job: &JobView) -> JobRecord {
    JobRecord {
        id: job.id.clone(),
        kind: job.facts.kind.clone(),
        what: job.facts.what.clone(),
        running: job.running,
        resumable: !job.running && job.facts.resume.is_some(),
        started_at: second(&job.facts.started_at.to_string()),
        phase: job.progress.as_ref().map(|progress| progress.phase.clone()),
        done_bytes: job.progress.as_ref().map(|progress| progress.done),
        total_bytes: job.progress.as_ref().map(|progress| progress.total),
    }
}

pub(crate) fn resume(args: &ResumeArgs, session: &mut Session) -> Result<Answer> {
    let store = subject::open_store(session)?;
    match store.how_to_resume(&args.job)? {
        Resume::Copy(_) => {
            let published = store.resume(&args.job, &session.reporter)?;
            session.reporter.clear();
            super::copy::tell(&published, &store, session)?;
            Ok(Answer::Yes)
        }
        Resume::Command(command) => again(&args.job, command, session),
    }
}

/// Gives the command of a job once more, in its folder; the new job takes the place of the old one. How the answer is
/// printed and which store is meant is said by the words of `resume`.
fn again(job: &str, command: CommandResume, session: &mut Session) -> Result<Answer> {
    let program = std::iter::once("kiln".to_owned());
    let parsed = Cli::try_parse_from(program.chain(command.words.clone())).map(|cli| cli.command);
    let Ok(Command::Import(args)) = parsed else {
        let why = format!("the job {job} was begun by another version of kiln");
        return Err(CliError::usage(
            "usage.resume",
            why,
            "give its command again; kiln cancel forgets the job",
        ));
    };
    std::env::set_current_dir(&command.folder)
        .map_err(|error| DiskError::io("go to", command.folder.display().to_string(), error))?;
    session.words = command.words.into_iter().map(Into::into).collect();
    super::import::run(&args, session)
}

#[derive(Serialize)]
struct CancelRecord {
    schema: &'static str,
    id: String,
    /// Whether it was running, and has been asked to stop.
    asked: bool,
}

pub(crate) fn cancel(args: &CancelArgs, session: &mut Session) -> Result<Answer> {
    let job = subject::open_store(session)?.cancel_job(&args.job)?;
    session.printer.json(&CancelRecord {
        schema: "kiln.cancel.v1",
        id: job.id.clone(),
        asked: job.running,
    })?;
    let word = if job.running { "asked to stop" } else { "cleared away" };
    session.printer.field(word, format!("{}: {}", job.id, job.facts.what));
    Ok(Answer::Yes)
}
