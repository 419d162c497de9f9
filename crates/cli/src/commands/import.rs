//! `kiln import`: an external disk becomes an image of the store.

use std::path::PathBuf;
use std::sync::Arc;

use kiln_catalog::{IfTaken, NameTag, Store};
use kiln_disk::{Limits, Severity};
use kiln_format::{Siblings, Tolerance};
use kiln_import::{Expect, Input, LayerStyle, OnDamage, Outcome, PlanFacts, Request, SourceDigest, plan};
use serde::Serialize;

use crate::error::{About, Answer, Result};
use crate::input::{SourceArgs, is_dash, pipe};
use crate::output::{FindingRecord, Printer, Size, findings_lines};
use crate::session::Session;
use crate::subject::store_path;

use super::show::checksum;
use super::verify::sha256_of;

/// Take an external disk image into the store
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The file is identified by its content, the vendor's checksum is compared before a byte is
interpreted, its structure is checked, and its disk becomes a layer of the store, read back before
the image is shown. An interrupted import leaves nothing visible.

Examples:
  kiln import debian-12.qcow2 --name debian:12 --checksums SHA512SUMS
  kiln import disk.vhd --name web --description 'from the old cluster'
  curl -s https://example.org/disk.raw | kiln import - --name disk --sha256 9f86d0...
  kiln import --dry-run --json appliance.qcow2 --name appliance")]
pub(crate) struct Args {
    /// Import this file, or - for standard input
    #[arg(value_name = "FILE")]
    source: PathBuf,
    /// Call the image NAME[:TAG]; the tag is latest when none is given
    #[arg(long, value_name = "NAME[:TAG]")]
    name: String,
    #[command(flatten)]
    read: SourceArgs,
    /// Require this SHA-256 of the file as it is
    #[arg(long, value_name = "HEX", conflicts_with = "checksums")]
    sha256: Option<String>,
    /// Require the checksum that this file lists for it (as sha256sum, sha512sum, md5sum write)
    #[arg(long, value_name = "FILE")]
    checksums: Option<PathBuf>,
    /// Look for this name in the checksum file, and record it; for standard input
    #[arg(long, value_name = "NAME")]
    source_name: Option<String>,
    /// Describe the image
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// Move the tag to the new image when another image has it; that one keeps its id
    #[arg(long)]
    replace: bool,
    /// Import what can be read although the check found damage, and record that
    #[arg(long)]
    force: bool,
    /// Store the layer in this style [default: plain]
    #[arg(long, value_name = "plain|zstd")]
    style: Option<LayerStyle>,
    /// Compute the SHA-256 of the file even where the content digest identifies it
    #[arg(long)]
    source_digest: bool,
    /// Compute the SHA-256 of the flat disk as well, and record it
    #[arg(long)]
    raw_digest: bool,
    /// Refuse a disk of more than this many bytes; 20G is 20 GiB [default: 64T]
    #[arg(long, value_name = "SIZE", value_parser = crate::size::parse)]
    max_size: Option<u64>,
    /// Use this many threads [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    #[command(flatten)]
    guest: super::check::guest::ImportArgs,
    /// Judge the file, print what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    dry_run: bool,
    id: Option<String>,
    name: String,
    tag: Option<String>,
    source: SourceRecord<'a>,
    disk_bytes: u64,
    data_bytes: Option<u64>,
    content_digest: Option<String>,
    raw_digest: Option<String>,
    style: &'static str,
    layers: Vec<LayerRecord>,
    /// What the store grew by.
    new_bytes: Option<u64>,
    /// The image that lost the tag to this one.
    untagged: Option<String>,
    /// Damaged layers that this import replaced by good ones.
    healed: Vec<String>,
    forced: bool,
    findings: Vec<FindingRecord>,
    elapsed_ms: Option<u64>,
    /// Where the guest will start, when it was asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    guest: Vec<kiln_guest::Judgement>,
}

#[derive(Serialize)]
struct SourceRecord<'a> {
    file_name: Option<&'a str>,
    /// Compressed files around the container, the outermost first.
    wrappers: &'a [&'static str],
    format: &'static str,
    file_bytes: u64,
    digests: Vec<String>,
    /// Digests that the file was proved to have, as given or listed.
    proved: Vec<String>,
}

#[derive(Serialize)]
struct LayerRecord {
    digest: String,
    file_bytes: u64,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let name: NameTag = args.name.parse()?;
    let request = request(args, name.clone())?;
    let label =
        if is_dash(&args.source) { "standard input".into() } else { args.source.display().to_string() };
    let (store, _scratch) = open(args, session)?;
    let plan = plan(&store, request, &session.reporter).about(&label)?;
    let facts = plan.facts().clone();
    let guest = args.guest.admit(&args.source, &args.read, args.force, session)?;
    let disk_bytes = facts.container.disk_bytes;
    let outcome = if args.dry_run { None } else { Some(plan.run(&session.reporter).about(&label)?) };
    // A disk that was decoded as it was stored could only be judged then.
    let facts = outcome.as_ref().map_or(facts, |outcome| outcome.facts.clone());
    let disk_bytes = outcome.as_ref().map_or(disk_bytes, |_| facts.container.disk_bytes);
    session.reporter.clear();
    let record = Record { guest, ..record(&name, &facts, disk_bytes, outcome.as_ref()) };
    session.printer.json(&record)?;
    text(&record, &facts, outcome.as_ref(), &mut session.printer);
    Ok(Answer::Yes)
}

fn request(args: &Args, name: NameTag) -> Result<Request> {
    let input = if is_dash(&args.source) {
        Input::Stream { reader: Box::new(pipe()?), file_name: args.source_name.clone() }
    } else {
        Input::File(args.source.clone())
    };
    let mut request = Request::new(input, name);
    request.choice = args.read.choice()?;
    request.part.clone_from(&args.read.disk);
    let allowed = args.read.context(Tolerance::Strict, Limits::STANDARD)?.resolver;
    request.resolver =
        if is_dash(&args.source) { allowed } else { Arc::new(Siblings::beside(&args.source, allowed)) };
    request.description.clone_from(&args.description);
    request.expect = match (&args.sha256, &args.checksums) {
        (Some(hex), _) => Expect::Digest(sha256_of(hex)?),
        (None, Some(path)) => Expect::List(path.clone()),
        (None, None) => Expect::Nothing,
    };
    if args.replace {
        request.if_taken = IfTaken::MoveTag;
    }
    if args.force {
        request.on_damage = OnDamage::Force;
    }
    if args.source_digest {
        request.source_digest = SourceDigest::Always;
    }
    request.style = args.style.unwrap_or(request.style);
    request.max_disk_bytes = args.max_size.unwrap_or(request.max_disk_bytes);
    request.threads = args.threads.map_or(request.threads, usize::from);
    request.raw_digest = args.raw_digest;
    Ok(request)
}

/// The store. A dry run makes none: where there is none yet it looks at an empty one that goes away again.
fn open(args: &Args, session: &Session) -> Result<(Store, Option<tempfile::TempDir>)> {
    let path = store_path(session)?;
    if !args.dry_run {
        return Ok((Store::open_or_create(&path)?, None));
    }
    match Store::open(&path) {
        Err(error) if error.code() == "store.missing" => {
            let dir = crate::input::spool::default_dir();
            let scratch = tempfile::tempdir_in(&dir).map_err(|source| {
                kiln_disk::Error::io("make a directory in", dir.display().to_string(), source)
            })?;
            Ok((Store::open_or_create(scratch.path())?, Some(scratch)))
        }
        other => Ok((other?, None)),
    }
}

fn record<'a>(
    name: &NameTag,
    facts: &'a PlanFacts,
    disk_bytes: u64,
    outcome: Option<&Outcome>,
) -> Record<'a> {
    let manifest = outcome.map(|outcome| &outcome.manifest);
    let digests = manifest.map_or(&facts.digests, |manifest| &manifest.source.digests);
    Record {
        schema: "kiln.import.v1",
        dry_run: outcome.is_none(),
        id: manifest.map(|manifest| manifest.id.to_string()),
        name: name.name.to_string(),
        tag: Some(name.tag.to_string()),
        source: SourceRecord {
            file_name: facts.file_name.as_deref(),
            wrappers: &facts.wrappers,
            format: facts.format.id,
            file_bytes: facts.byte_len,
            digests: digests.iter().map(ToString::to_string).collect(),
            proved: facts.proved.iter().map(|expected| expected.digest.to_string()).collect(),
        },
        disk_bytes,
        data_bytes: outcome.map(|outcome| outcome.data_bytes),
        content_digest: manifest.map(|manifest| manifest.digests.content.to_string()),
        raw_digest: manifest.and_then(|manifest| manifest.digests.raw.as_ref()).map(ToString::to_string),
        style: facts.style.word(),
        layers: manifest.map_or_else(Vec::new, |manifest| {
            let layer = |layer: &kiln_catalog::LayerRecord| LayerRecord {
                digest: layer.digest.to_string(),
                file_bytes: layer.byte_len,
            };
            manifest.layers.iter().map(layer).collect()
        }),
        new_bytes: outcome.map(|outcome| outcome.new_bytes),
        untagged: outcome.and_then(|outcome| outcome.untagged.as_ref()).map(ToString::to_string),
        healed: outcome
            .map_or_else(Vec::new, |outcome| outcome.healed.iter().map(ToString::to_string).collect()),
        forced: facts.forced,
        findings: FindingRecord::list(&facts.findings),
        elapsed_ms: outcome
            .map(|outcome| u64::try_from(outcome.timings.total.as_millis()).unwrap_or(u64::MAX)),
        guest: Vec::new(),
    }
}

fn text(record: &Record<'_>, facts: &PlanFacts, outcome: Option<&Outcome>, out: &mut Printer) {
    let source = facts.file_name.as_deref().unwrap_or("standard input");
    let chain: Vec<&str> = facts.wrappers.iter().copied().chain([facts.format.id]).collect();
    out.field("source", format!("{source} ({}, {})", chain.join(" > "), facts.container.variant));
    out.field("", Size(facts.byte_len));
    for digest in &record.source.digests {
        out.field("", digest);
    }
    if outcome.is_some() && record.source.digests.is_empty() {
        out.field("", "no SHA-256 of the file, which is mostly holes (--source-digest computes it)");
    }
    if let Some(proved) = facts.proved.first() {
        out.field("vendor says", checksum(&proved.record()));
    } else {
        out.field("vendor says", "nothing: no checksum was given");
    }
    let bad = facts.findings.worst().is_some_and(Severity::fails);
    out.field(
        "check",
        match (facts.findings.list().is_empty(), bad) {
            (true, _) => "nothing found",
            (false, false) => "no data is damaged",
            (false, true) => "DAMAGED, imported in spite of it (--force)",
        },
    );
    for line in findings_lines(&record.findings, |id| facts.findings.count_of(id)) {
        out.line(&line);
    }
    for judgement in &record.guest {
        let because = judgement.because.as_ref().map_or(String::new(), |why| format!(": {why}"));
        out.field(judgement.target, format!("{}{because}", judgement.verdict.words()));
    }
    out.field("disk size", Size(record.disk_bytes));
    let Some(outcome) = outcome else {
        out.field("done", "nothing: this was a dry run");
        return;
    };
    out.field("data", Size(outcome.data_bytes));
    let manifest = &outcome.manifest;
    out.field("content", manifest.digests.content);
    if let Some(raw) = &manifest.digests.raw {
        out.field("raw", raw);
    }
    for layer in &manifest.layers {
        out.field("layer", format!("{} ({}, {})", layer.digest, layer.format, layer.style));
    }
    for layer in &outcome.healed {
        out.field("healed", format!("{layer} was damaged in the store and is good again"));
    }
    if let Some(id) = &outcome.untagged {
        out.field("untagged", format!("{id} had this name; it keeps its id"));
    }
    out.field(
        "stored",
        format!(
            "{} {}, {} new, in {:.1} s",
            manifest.id,
            manifest.title(),
            Size(outcome.new_bytes),
            outcome.timings.total.as_secs_f64()
        ),
    );
}
