//! `kiln doctor`: is this host fit to keep images?

use kiln_catalog::doctor::{Health, Row, examine};
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

pub(crate) fn run(_args: &Args, session: &mut Session) -> Result<Answer> {
    let path = subject::store_path(session)?;
    let rows = examine(&path, std::env::var_os("PATH").as_deref());
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
