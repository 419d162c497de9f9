//! `kiln prune`: old images go, by rules.

use jiff::SignedDuration;
use kiln_catalog::{PrunePolicy, Verdict};
use serde::Serialize;

use super::ls::{age, before};
use crate::error::{Answer, Result};
use crate::output::{Align, ShortSize, Size, Table};
use crate::session::Session;
use crate::subject;

/// Remove own images that are expired, too many, too old, or over a budget
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Expired images always go. With rules, other images go as well: those that are not among the newest of
their name (--keep), only old ones (--older), and with --budget no more than needed, the oldest first.
Shared, public, protected, used and busy images stay, and are listed with the reason.

Examples:
  kiln prune --keep 3 --older 30d --dry-run
  kiln prune --budget 50G")]
pub(crate) struct Args {
    /// Keep the newest so many images of each name
    #[arg(long, value_name = "N")]
    keep: Option<usize>,
    /// Remove only images published longer ago: 12h, 30d, 8w
    #[arg(long, value_name = "AGE", value_parser = age)]
    older: Option<SignedDuration>,
    /// Remove the oldest until the account's images take no more than this
    #[arg(long, value_name = "SIZE", value_parser = crate::size::parse)]
    budget: Option<u64>,
    /// Print what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    dry_run: bool,
    images: Vec<ImageRecord>,
    freed_bytes: u64,
}

#[derive(Serialize)]
struct ImageRecord {
    id: String,
    name: String,
    goes: bool,
    why: String,
    freed_bytes: u64,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let store = subject::open_store(session)?;
    let policy =
        PrunePolicy { keep: args.keep, before: args.older.map(before).transpose()?, budget: args.budget };
    let plan = store.plan_prune(&policy)?;
    if !args.dry_run {
        store.prune(&plan)?;
    }
    let freed_bytes = plan.iter().map(|verdict| verdict.frees).fold(0, u64::saturating_add);
    session.printer.json(&Record {
        schema: "kiln.prune.v1",
        dry_run: args.dry_run,
        images: plan.iter().map(record).collect(),
        freed_bytes,
    })?;
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("", Align::Left),
        ("FREES", Align::Right),
        ("WHY", Align::Left),
    ]);
    let goes = if args.dry_run { "would go" } else { "gone" };
    for verdict in &plan {
        table.row([
            verdict.image.id.to_string(),
            verdict.image.title(),
            if verdict.goes { goes } else { "stays" }.to_owned(),
            ShortSize(verdict.frees).to_string(),
            verdict.why.clone(),
        ]);
    }
    for line in table.lines() {
        session.printer.line(&line);
    }
    session.printer.field(if args.dry_run { "would free" } else { "freed" }, Size(freed_bytes));
    Ok(Answer::Yes)
}

fn record(verdict: &Verdict) -> ImageRecord {
    ImageRecord {
        id: verdict.image.id.to_string(),
        name: verdict.image.title(),
        goes: verdict.goes,
        why: verdict.why.clone(),
        freed_bytes: verdict.frees,
    }
}
