//! `kiln store`: the store as a whole.

use kiln_catalog::FsckOptions;
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::output::{FindingRecord, Size, findings_lines};
use crate::session::Session;
use crate::subject;

/// Check the store, or make its index again
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Fsck(FsckArgs),
    Rebuild(RebuildArgs),
}

/// Check that everything in the store fits together
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
What commands that died left behind is cleared away first. Exits 1 when an image is damaged, lost or
hidden, 0 when at most space is wasted.

Examples:
  kiln store fsck
  kiln store fsck --read-data      # also read every layer: bit rot
  kiln store fsck --repair         # remove layers that belong to no image")]
struct FsckArgs {
    /// Read every layer and compare its bytes with its name
    #[arg(long)]
    read_data: bool,
    /// Remove layers that belong to no image
    #[arg(long)]
    repair: bool,
}

/// Make the index again from the manifests, which are the truth
#[derive(Debug, clap::Args)]
struct RebuildArgs {}

#[derive(Serialize)]
struct FsckRecord<'a> {
    schema: &'static str,
    path: String,
    clean: bool,
    images: u64,
    layers: u64,
    layer_bytes: u64,
    /// Left-overs of dead processes that were cleared away.
    swept: u64,
    findings: &'a [FindingRecord],
    repaired: Vec<RepairedRecord<'a>>,
}

#[derive(Serialize)]
struct RepairedRecord<'a> {
    id: &'static str,
    what: &'a str,
    freed_bytes: u64,
}

#[derive(Serialize)]
struct RebuildRecord {
    schema: &'static str,
    path: String,
    images: u64,
    kept_aside: Option<String>,
    left_out: Vec<LeftOutRecord>,
}

#[derive(Serialize)]
struct LeftOutRecord {
    id: String,
    code: String,
    reason: String,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    match &args.verb {
        Verb::Fsck(args) => fsck(args, session),
        Verb::Rebuild(_) => rebuild(session),
    }
}

fn fsck(args: &FsckArgs, session: &mut Session) -> Result<Answer> {
    let store = subject::open_store(session)?;
    let options = FsckOptions { read_data: args.read_data, repair: args.repair };
    let report = store.fsck(options, &session.reporter)?;
    session.reporter.clear();
    let findings = FindingRecord::list(&report.findings, None);
    let clean = !report.findings.fails();
    let out = &mut session.printer;
    out.json(&FsckRecord {
        schema: "kiln.store-fsck.v1",
        path: store.path().display().to_string(),
        clean,
        images: report.images,
        layers: report.layers,
        layer_bytes: report.layer_bytes,
        swept: report.swept,
        findings: &findings,
        repaired: report
            .repaired
            .iter()
            .map(|done| RepairedRecord { id: done.id, what: &done.what, freed_bytes: done.freed_bytes })
            .collect(),
    })?;
    out.field("store", store.path().display());
    out.field("images", report.images);
    out.field("layers", format!("{}, {}", report.layers, Size(report.layer_bytes)));
    if report.swept > 0 {
        out.field("swept", format!("{} left-overs of interrupted commands", report.swept));
    }
    for line in findings_lines(&findings, |id| report.findings.count_of(id)) {
        out.line(&line);
    }
    for done in &report.repaired {
        out.field("repaired", format!("{}: {}, {} freed", done.id, done.what, Size(done.freed_bytes)));
    }
    out.field(
        "answer",
        match (clean, findings.is_empty()) {
            (true, true) => "clean",
            (true, false) => "clean: no image is harmed",
            (false, _) => "NOT clean: see the findings above",
        },
    );
    Ok(if clean { Answer::Yes } else { Answer::No })
}

fn rebuild(session: &mut Session) -> Result<Answer> {
    let store = subject::open_store(session)?;
    let rebuilt = store.rebuild()?;
    let left_out: Vec<LeftOutRecord> = rebuilt
        .left_out
        .iter()
        .map(|(id, error)| LeftOutRecord {
            id: id.to_string(),
            code: error.code().to_owned(),
            reason: error.to_string(),
        })
        .collect();
    let out = &mut session.printer;
    out.field("store", store.path().display());
    out.field("images", rebuilt.images);
    if let Some(path) = &rebuilt.kept_aside {
        out.field("kept aside", path.display());
    }
    for image in &left_out {
        out.field("LEFT OUT", format!("{}: {} ({})", image.id, image.reason, image.code));
    }
    let answer = if left_out.is_empty() { Answer::Yes } else { Answer::No };
    out.json(&RebuildRecord {
        schema: "kiln.store-rebuild.v1",
        path: store.path().display().to_string(),
        images: rebuilt.images,
        kept_aside: rebuilt.kept_aside.map(|path| path.display().to_string()),
        left_out,
    })?;
    Ok(answer)
}
