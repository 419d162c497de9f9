//! `kiln doctor`: is this host fit to keep images?

use kiln_catalog::doctor::{Health, Row, examine};
use kiln_guest::worker::{Confinement, Landlock, probe};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::session::Session;
use crate::subject;

/// Look at the store's place, its locks and its age, the tools, and whether a guest boots under KVM
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    fit: bool,
    rows: Vec<Row>,
}

/// What the process that reads a stranger's disk is kept from here: it is started, and tries.
fn guest_reader() -> Row {
    let row = |health, found, hint| Row { id: "guest-reader", health, found, hint };
    match probe(&crate::guest_reader_program()) {
        Err(error) => {
            row(Health::Bad, error.to_string(), Some("inspect, check and import start /proc/self/exe"))
        }
        Ok(Confinement { cage, could }) => {
            let words = [
                match cage.landlock {
                    Landlock::Full => "Landlock",
                    Landlock::Partial => "Landlock in part",
                    Landlock::None => "no Landlock",
                },
                if cage.seccomp { "seccomp" } else { "no seccomp" },
                if cage.limits { "resource limits" } else { "not all resource limits" },
            ];
            let found = match could.is_empty() {
                true => format!("confined by {}; it could open and start nothing", words.join(", ")),
                false => format!("{}; it could {}", words.join(", "), could.join(", ")),
            };
            match could.is_empty() {
                true => row(Health::Good, found, None),
                false => row(Health::Poor, found, Some("a kernel with Landlock and seccomp: 5.13 or newer")),
            }
        }
    }
}

pub(crate) fn run(_args: &Args, session: &mut Session) -> Result<Answer> {
    let path = subject::store_path(session)?;
    let mut rows = examine(&path, std::env::var_os("PATH").as_deref());
    rows.push(guest_reader());
    let fit = rows.iter().all(|row| row.health != Health::Bad);
    for row in &rows {
        session.printer.data(&format!("{:<8} {:<18} {}", row.health.word(), row.id, row.found));
        if let Some(hint) = row.hint {
            session.printer.line(&format!("{:<27} {hint}", ""));
        }
    }
    session.printer.json(&Record { schema: "kiln.doctor.v1", fit, rows })?;
    Ok(if fit { Answer::Yes } else { Answer::No })
}
