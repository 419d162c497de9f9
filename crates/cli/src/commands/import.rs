//! `kiln import`: an external disk becomes an image of the store.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln_catalog::{CommandResume, DownloadRecord, IfTaken, NameTag, Resume, SignerRecord};
use kiln_disk::digest::{Algorithm, hash_source};
use kiln_disk::{ByteSource, FileSource, Limits, Severity};
use kiln_format::{Siblings, Tolerance};
use kiln_import::{
    Expect, FetchOptions, Input, LayerStyle, OnDamage, Outcome, Passage, Place, PlanFacts, Request,
    SignatureWish, SourceDigest, Trust, import_bundle, is_bundle, plan,
};
use serde::Serialize;

use crate::error::{About, Answer, CliError, Result};
use crate::input::{SourceArgs, is_dash, pipe};
use crate::output::{FindingRecord, Printer, ShortSize, Size, findings_lines};
use crate::session::Session;
use crate::subject::store_to_write;

use super::key;
use super::show::{checksum, signer_line};
use super::verify::sha256_of;

/// Take an external disk image into the store
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The file is identified by its content, the vendor's checksum is compared (of a file before a byte of
it is interpreted, of what comes from a pipe or a server before the image is shown), its structure
is checked, and its disk becomes a layer of the store, read back before the image is shown. An
interrupted import leaves nothing visible; a download that broke off goes on where it was when the
same command is given again. With --for, an image whose guest would not start is not imported: a
file is refused before its disk is copied, what comes from a pipe before the image is shown.

Examples:
  kiln import debian-12.qcow2 --name debian:12 --checksums SHA512SUMS
  kiln import disk.vhd --name web --description 'from the old cluster'
  kiln import https://example.org/disk.raw.xz --name disk --sha256 9f86d0...
  kiln import https://example.org/disk.qcow2 --name disk --checksums https://example.org/SHA256SUMS \
      --signature https://example.org/SHA256SUMS.gpg --keyring vendor.asc
  zstd -dc disk.raw.zst | kiln import - --name disk --source-bytes 20G
  kiln import --dry-run --json appliance.qcow2 --name appliance")]
pub(crate) struct Args {
    /// Import this file, the file at this http or https URL, or - for standard input
    #[arg(value_name = "FILE|URL")]
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
    #[arg(long, value_name = "FILE|URL")]
    checksums: Option<PathBuf>,
    #[command(flatten)]
    receive: ReceiveArgs,
    /// Sign the image's record with this key: its name (kiln key ls), or its file
    #[arg(long, value_name = "KEY")]
    sign: Option<PathBuf>,
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

/// About what comes from elsewhere, and who vouches for it.
#[derive(Debug, clap::Args)]
struct ReceiveArgs {
    /// Require this signature: over the checksum file, or over the image when there is none
    #[arg(long, value_name = "FILE|URL")]
    signature: Option<PathBuf>,
    /// Require a signature by one of the OpenPGP keys in this file
    #[arg(long, value_name = "FILE", conflicts_with = "minisign_key")]
    keyring: Option<PathBuf>,
    /// Require a signature by this minisign key: itself, or the file that it is in
    #[arg(long, value_name = "KEY|FILE", requires = "signature")]
    minisign_key: Option<String>,
    /// Take a file from a https server although nothing proves it
    #[arg(long)]
    insecure_no_digest: bool,
    /// Look for this name in the checksum file, and record it; for standard input and URLs
    #[arg(long, value_name = "NAME")]
    source_name: Option<String>,
    /// Say how long standard input is: a raw disk is then stored as it comes
    #[arg(long, value_name = "SIZE", value_parser = crate::size::parse)]
    source_bytes: Option<u64>,
    /// Keep what comes from a pipe or a server in a file first, even if it could be decoded as it comes
    #[arg(long)]
    spool: bool,
    /// Keep no copy of a download while it comes; a run that is killed then begins again
    #[arg(long)]
    no_resume: bool,
    /// Trust the servers' certificates in this PEM file, and no others [default: Mozilla's list]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Try again when a server is silent for this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Try again when a server brings fewer bytes a second than this; 0 takes any
    #[arg(long, value_name = "SIZE", default_value = "1K", value_parser = crate::size::parse)]
    min_rate: u64,
}

impl ReceiveArgs {
    fn signature(&self) -> Result<Option<SignatureWish>> {
        let trust = match (&self.keyring, &self.minisign_key) {
            (Some(path), _) => Trust::Keyring(path.clone()),
            (None, Some(key)) => Trust::Minisign(key.clone()),
            (None, None) if self.signature.is_some() => {
                return Err(CliError::usage(
                    "usage.signature",
                    "--signature does not say whose signature it must be",
                    "add --keyring FILE for OpenPGP, or --minisign-key KEY|FILE",
                ));
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(SignatureWish { signature: self.signature.as_deref().map(Place::of), trust }))
    }
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
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    guest: &'a [kiln_guest::Judgement],
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
    /// How its bytes went into the store.
    passage: &'a Passage,
    /// The server that it came from.
    download: Option<&'a DownloadRecord>,
    /// Who signed it, or the list that it is in.
    signer: Option<&'a SignerRecord>,
}

#[derive(Serialize)]
struct LayerRecord {
    digest: String,
    file_bytes: u64,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let name: NameTag = args.name.parse()?;
    if let Some(source) = bundle(args)? {
        return take_bundle(args, &source, &name, session);
    }
    let mut request = request(args, name.clone())?;
    request.resume = resume(args, &session.words);
    request.guest = args.guest.policy(args.force)?;
    let label = match url(args) {
        Some(url) => kiln_import::shown_url(url),
        None if is_dash(&args.source) => "standard input".to_owned(),
        None => args.source.display().to_string(),
    };
    let (store, _scratch) = store_to_write(args.dry_run, session)?;
    let plan = plan(&store, request, &session.reporter).about(&label)?;
    let facts = plan.facts().clone();
    let disk_bytes = facts.container.disk_bytes;
    let outcome = if args.dry_run { None } else { Some(plan.run(&session.reporter).about(&label)?) };
    // A disk that was decoded as it was stored could only be judged then.
    let facts = outcome.as_ref().map_or(facts, |outcome| outcome.facts.clone());
    let disk_bytes = outcome.as_ref().map_or(disk_bytes, |_| facts.container.disk_bytes);
    session.reporter.clear();
    let record = record(&name, &facts, disk_bytes, outcome.as_ref());
    let unseen = args.guest.is_asked() && facts.guest.is_empty();
    let signed = args.sign.is_some() && outcome.is_some();
    session.printer.json(&record)?;
    text(&record, &facts, outcome.as_ref(), &mut session.printer);
    if unseen {
        session.printer.field("guest", "not judged: this disk can be looked at only when it is stored");
    }
    if let (true, Some(word)) = (signed, &args.sign) {
        session.printer.field("signed by", key::private(word)?.public());
    }
    Ok(Answer::Yes)
}

/// The URL, when the source is one.
fn url(args: &Args) -> Option<&str> {
    args.source.to_str().filter(|text| kiln_import::is_url(text))
}

/// How to go on when this process dies: by the same command, unless it reads a pipe or a URL in it holds a secret.
fn resume(args: &Args, words: &[OsString]) -> Option<Resume> {
    let words: Vec<String> =
        words.iter().map(|word| word.to_str().map(str::to_owned)).collect::<Option<_>>()?;
    let tells = |word: &String| {
        let value = word.strip_prefix("--").and_then(|option| option.split_once('='));
        let value = value.map_or(word.as_str(), |(_, value)| value);
        kiln_import::is_url(value) && kiln_import::shown_url(value) != value
    };
    if args.dry_run || is_dash(&args.source) || words.iter().any(tells) {
        return None;
    }
    Some(Resume::Command(CommandResume { folder: std::env::current_dir().ok()?, words }))
}

/// The file, when it begins as a bundle does and nothing else was said of it.
fn bundle(args: &Args) -> Result<Option<Arc<dyn ByteSource>>> {
    if is_dash(&args.source)
        || url(args).is_some()
        || args.read.format.is_some()
        || args.read.as_raw.is_some()
    {
        return Ok(None);
    }
    let source = match FileSource::open(&args.source) {
        Ok(source) => source,
        // Told where the file is opened for good.
        Err(_) => return Ok(None),
    };
    Ok(if is_bundle(&source)? { Some(Arc::new(source)) } else { None })
}

fn take_bundle(
    args: &Args,
    source: &Arc<dyn ByteSource>,
    name: &NameTag,
    session: &mut Session,
) -> Result<Answer> {
    if args.dry_run {
        return Err(CliError::usage(
            "usage.bundle",
            "a bundle is judged as it is taken in",
            "leave --dry-run out",
        ));
    }
    if let Some(hex) = &args.sha256 {
        let wanted = sha256_of(hex)?;
        let found = hash_source(source.as_ref(), &[Algorithm::Sha256], &session.reporter)?;
        if found.first() != Some(&wanted) {
            let file = args.source.display().to_string();
            let found = found.first().map(ToString::to_string).unwrap_or_default();
            let problem = format!("{file} has {found}, not {wanted}");
            return Err(kiln_import::Error::from(kiln_import::Refusal::Bundle { problem }).into());
        }
    }
    let (store, _) = store_to_write(args.dry_run, session)?;
    let if_taken = if args.replace { IfTaken::MoveTag } else { IfTaken::Refuse };
    let label = args.source.display().to_string();
    let published = import_bundle(&store, source, name, if_taken, &session.reporter).about(&label)?;
    session.reporter.clear();
    super::copy::tell(&published, &store, session)?;
    Ok(Answer::Yes)
}

fn request(args: &Args, name: NameTag) -> Result<Request> {
    let receive = &args.receive;
    let file_name = receive.source_name.clone();
    let input = if let Some(url) = url(args) {
        Input::Url { url: url.to_owned(), file_name }
    } else if is_dash(&args.source) {
        Input::Stream { reader: Box::new(pipe()?), file_name, byte_len: receive.source_bytes }
    } else {
        Input::File(args.source.clone())
    };
    let is_file = matches!(input, Input::File(_));
    let mut request = Request::new(input, name);
    request.choice = args.read.choice()?;
    request.part.clone_from(&args.read.disk);
    let allowed = args.read.context(Tolerance::Strict, Limits::STANDARD)?.resolver;
    request.resolver = if is_file { Arc::new(Siblings::beside(&args.source, allowed)) } else { allowed };
    request.description.clone_from(&args.description);
    request.expect = match (&args.sha256, &args.checksums) {
        (Some(hex), _) => Expect::Digest(sha256_of(hex)?),
        (None, Some(path)) => Expect::ListAt(Place::of(path)),
        (None, None) => Expect::Nothing,
    };
    request.signature = receive.signature()?;
    request.unproved = receive.insecure_no_digest;
    request.spool = receive.spool;
    request.fetch = FetchOptions {
        ca_file: receive.ca_file.clone(),
        patience: Duration::from_secs(receive.timeout),
        min_rate: receive.min_rate,
        resumable: !receive.no_resume && !args.dry_run,
    };
    request.signer = args.sign.as_deref().map(key::private).transpose()?;
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

fn record<'a>(
    name: &NameTag,
    facts: &'a PlanFacts,
    disk_bytes: u64,
    outcome: Option<&'a Outcome>,
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
            passage: &facts.passage,
            download: manifest.and_then(|manifest| manifest.provenance.download.as_ref()),
            signer: manifest.and_then(|manifest| manifest.provenance.signer.as_ref()),
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
        findings: FindingRecord::list(&facts.findings, None),
        elapsed_ms: outcome
            .map(|outcome| u64::try_from(outcome.timings.total.as_millis()).unwrap_or(u64::MAX)),
        guest: &facts.guest,
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
    if let Some(signer) = &record.source.signer {
        out.field("signature", signer_line(signer));
    }
    out.field("passage", passage_line(&facts.passage));
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
    for judgement in record.guest {
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
    if record.guest.is_empty() && manifest.guest.as_ref().is_some_and(|guest| guest.system.is_some()) {
        for (word, line) in super::show::guest_lines(manifest.guest.as_ref()) {
            out.field(word, line);
        }
    }
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

/// How the bytes went into the store, in words.
fn passage_line(passage: &Passage) -> String {
    let mut words = match (passage.one_pass, passage.scratch_bytes, &passage.reason) {
        (true, 0, _) => "one pass, 0 B scratch".to_owned(),
        (true, bytes, reason) => {
            format!("one pass, {} kept: {}", ShortSize(bytes), reason.as_deref().unwrap_or("asked for"))
        }
        (false, bytes, reason) => {
            format!("spooled {}: {}", ShortSize(bytes), reason.as_deref().unwrap_or("asked for"))
        }
    };
    if let Some(traffic) = &passage.traffic {
        words += &format!("; {} received", ShortSize(traffic.received_bytes));
        if traffic.resumed_bytes > 0 {
            words += &format!(", went on behind {}", ShortSize(traffic.resumed_bytes));
        }
        if traffic.reconnects > 0 {
            words += &format!(", {} reconnects", traffic.reconnects);
        }
    }
    words
}
