//! `kiln store`: the store as a whole.

use kiln_catalog::{DamagedLayer, FsckOptions, ScrubOptions};
use kiln_disk::digest::Part;
use kiln_import::{RULE_SET, screen_image};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::for_target::TargetsArgs;
use crate::output::{FindingRecord, Size, findings_lines};
use crate::session::Session;
use crate::subject;

/// Check and scrub the store, make its index again, judge its images by today's rules
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Fsck(FsckArgs),
    Rebuild(RebuildArgs),
    Scrub(ScrubArgs),
    Upgrade(UpgradeArgs),
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

/// Read layers, gently, and put damaged ones aside
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exits 1 when a layer is damaged. It is moved to quarantine/ in the store and the images that it hits are
named; importing the same content again brings a sound layer back.

Examples:
  kiln store scrub --rate 50M
  kiln store scrub --subset 3/30      # a thirtieth every day")]
struct ScrubArgs {
    /// Read no more than this a second [default: the setting scrub.rate]
    #[arg(long, value_name = "SIZE")]
    rate: Option<String>,
    /// Read only part N of M of the layers
    #[arg(long, value_name = "N/M", value_parser = crate::size::parse_part)]
    subset: Option<Part>,
    /// Leave damaged layers where they are
    #[arg(long)]
    no_quarantine: bool,
}

/// Judge old images by today's rules
#[derive(Debug, clap::Args)]
struct UpgradeArgs {
    /// Judge all images, also those that today's rules judged already
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    targets: TargetsArgs,
}

#[derive(Serialize)]
struct ScrubRecord {
    schema: &'static str,
    layers: u64,
    layer_bytes: u64,
    /// Images of which all was read.
    images: u64,
    damaged: Vec<DamagedRecord>,
}

#[derive(Serialize)]
struct DamagedRecord {
    digest: String,
    found: Option<String>,
    images: Vec<String>,
    quarantine: Option<String>,
}

#[derive(Serialize)]
struct UpgradeRecord {
    schema: &'static str,
    rule_set: &'static str,
    judged: Vec<JudgedRecord>,
    up_to_date: u64,
}

#[derive(Serialize)]
struct JudgedRecord {
    id: String,
    name: String,
    fails: bool,
    findings: Vec<String>,
    error: Option<String>,
}

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
        Verb::Scrub(args) => scrub(args, session),
        Verb::Upgrade(args) => upgrade(args, session),
    }
}

fn scrub(args: &ScrubArgs, session: &mut Session) -> Result<Answer> {
    let flags: Vec<(&str, String)> = args.rate.iter().map(|rate| ("scrub.rate", rate.clone())).collect();
    let rate = subject::settings(session, &flags)?.scrub_rate();
    let store = subject::open_store(session)?;
    let part = args.subset.unwrap_or(Part::WHOLE);
    let options = ScrubOptions { rate, part, quarantine: !args.no_quarantine };
    let scrubbed = store.scrub(options, &session.reporter)?;
    session.reporter.clear();
    let images = |damage: &DamagedLayer| -> Vec<String> {
        damage.images.iter().map(|(id, title)| format!("{id} {title}")).collect()
    };
    let damaged = scrubbed.damaged.iter().map(|damage| DamagedRecord {
        digest: damage.digest.to_string(),
        found: damage.found.as_ref().map(ToString::to_string),
        images: images(damage),
        quarantine: damage.aside.as_ref().map(|path| path.display().to_string()),
    });
    let out = &mut session.printer;
    out.json(&ScrubRecord {
        schema: "kiln.store-scrub.v1",
        layers: scrubbed.layers,
        layer_bytes: scrubbed.bytes,
        images: scrubbed.images,
        damaged: damaged.collect(),
    })?;
    out.field("read", format!("{} layers, {}", scrubbed.layers, Size(scrubbed.bytes)));
    for damage in &scrubbed.damaged {
        out.field("DAMAGED", &damage.digest);
        for image in images(damage) {
            out.field("", format!("hits {image}"));
        }
        if let Some(path) = &damage.aside {
            out.field("", format!("moved to {}", path.display()));
        }
    }
    let clean = scrubbed.damaged.is_empty();
    out.field("answer", if clean { "sound" } else { "NOT sound: import the same content again to mend it" });
    Ok(if clean { Answer::Yes } else { Answer::No })
}

fn upgrade(args: &UpgradeArgs, session: &mut Session) -> Result<Answer> {
    let store = subject::open_store(session)?;
    let severities = kiln_import::guest::severities(&args.targets.load()?)?;
    let (mut judged, mut up_to_date, mut fails) = (Vec::new(), 0, false);
    for entry in store.everything()? {
        let manifest = &entry.manifest;
        let checks = entry.record.screened.as_ref().unwrap_or(&manifest.checks);
        let guest = entry.guest().is_some_and(|guest| guest.rule_set == kiln_guest::RULE_SET);
        if checks.rule_set == RULE_SET && guest && !args.all {
            up_to_date += 1;
            continue;
        }
        let (id, name) = (manifest.id.to_string(), manifest.title());
        let guest = kiln_import::guest::judge_image(&store, manifest, &severities, &crate::guest_reader());
        let record = match guest.and_then(|_| screen_image(&store, manifest, &session.reporter)) {
            Ok(screened) => {
                store.note_screened(&manifest.id, screened.record.clone())?;
                let findings = screened.record.findings.iter().map(|finding| finding.id.clone()).collect();
                JudgedRecord { id, name, fails: screened.fails, findings, error: None }
            }
            Err(error) => {
                JudgedRecord { id, name, fails: true, findings: Vec::new(), error: Some(error.to_string()) }
            }
        };
        fails |= record.fails;
        judged.push(record);
    }
    session.reporter.clear();
    let out = &mut session.printer;
    for record in &judged {
        let word = match (&record.error, record.fails) {
            (Some(error), _) => error.clone(),
            (None, true) => format!("FAILS: {}", record.findings.join(", ")),
            (None, false) => "passes".to_owned(),
        };
        out.field("judged", format!("{} {}: {word}", record.id, record.name));
    }
    out.field("up to date", up_to_date);
    out.json(&UpgradeRecord { schema: "kiln.store-upgrade.v1", rule_set: RULE_SET, judged, up_to_date })?;
    Ok(if fails { Answer::No } else { Answer::Yes })
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
