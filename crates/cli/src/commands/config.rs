//! `kiln config`: the settings in force.

use serde::Serialize;

use crate::error::{Answer, Result};
use crate::output::{Align, Table};
use crate::session::Session;
use crate::subject;

/// Show the settings in force
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Show(ShowArgs),
}

/// Show every setting with its value
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Settings come from kiln/config.toml in the XDG config directory (or --config FILE), then from the
environment, then from the command line; the later is the stronger.

Examples:
  kiln config show --origin")]
struct ShowArgs {
    /// Say also where each value comes from
    #[arg(long)]
    origin: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    settings: Vec<SettingRecord>,
}

#[derive(Serialize)]
struct SettingRecord {
    key: &'static str,
    value: String,
    origin: String,
    help: &'static str,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let Verb::Show(args) = &args.verb;
    let settings = subject::settings(session, &[])?;
    let mut records = Vec::new();
    for (setting, key) in settings.list().iter().zip(&kiln_catalog::settings::KEYS) {
        let value = match (setting.key, setting.value.as_str()) {
            ("store", "") => subject::store_path(session)?.display().to_string(),
            ("account", "") => match subject::open_store(session) {
                Ok(store) => store.account().to_string(),
                Err(_) => "the owner of the store's directory".to_owned(),
            },
            (_, value) => value.to_owned(),
        };
        records.push(SettingRecord {
            key: setting.key,
            value,
            origin: setting.from.to_string(),
            help: key.help,
        });
    }
    let columns = [("SETTING", Align::Left), ("VALUE", Align::Left), ("FROM", Align::Left)];
    let mut table = Table::new(if args.origin { &columns } else { &columns[..2] });
    for record in &records {
        let mut cells = vec![record.key.to_owned(), record.value.clone()];
        if args.origin {
            cells.push(record.origin.clone());
        }
        table.row(cells);
    }
    session.printer.json(&Record { schema: "kiln.config.v1", settings: records })?;
    for line in table.lines() {
        session.printer.data(&line);
    }
    Ok(Answer::Yes)
}
