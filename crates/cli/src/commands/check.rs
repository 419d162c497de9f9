//! `kiln check`: is it fit for use?

pub(crate) mod guest;
mod html;

use std::path::{Path, PathBuf};

use kiln_catalog::GuestRecord;
use kiln_disk::Limits;
use kiln_format::qemu::{Check, Clusters};
use kiln_format::{CheckScope, ExternalRef, Tolerance};
use serde::Serialize;

use crate::error::{About, Answer, Result};
use crate::input::{Input, SourceArgs};
use crate::judge::Judgement;
use crate::output::{FindingRecord, OutputForm, Size, Style};
use crate::session::Session;
use crate::subject::Subject;

/// Look for everything that is wrong with a disk image, and say where its guest will start
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Reads headers and tables; with --data, also decodes all compressed data. Exits 1 when data is
damaged or lost, 0 when at most space is wasted. Nothing is repaired and nothing is written.
With --for, also looks at the guest: exits 1 when it will not start at a place that was asked.

Examples:
  kiln check disk.qcow2
  kiln check --data --json appliance.vhd
  kiln check --for tencent,aws disk.vmdk
  kiln check --for all --report disk.html disk.qcow2
  kiln check --explain kmod.virtio
  kiln check --safety upload.vmdk          # what OpenStack's format inspector says of it
  kiln check --output qemu disk.qcow2      # the keys of qemu-img check --output=json")]
pub(crate) struct Args {
    /// Check this file or image
    #[arg(value_name = "FILE|IMAGE", required_unless_present = "explain")]
    subject: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    /// Decode every compressed piece as well
    #[arg(long)]
    data: bool,
    /// Give the verdict of OpenStack's format inspector, rule by rule, in place of our own
    #[arg(long, conflicts_with_all = ["data", "output"])]
    safety: bool,
    /// Write the answer in this form
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "json")]
    output: Option<OutputForm>,
    #[command(flatten)]
    guest: guest::GuestArgs,
}

/// What `--safety --json` prints.
#[derive(Debug, Serialize)]
struct SafetyRecord<'a> {
    schema: &'static str,
    path: &'a str,
    /// Whether OpenStack would take it.
    safe: bool,
    formats: &'a [&'static str],
    rules: &'a [kiln_format::safety::Verdict],
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    path: &'a str,
    /// Compressed files around it, the outermost first.
    wrappers: &'a [&'static str],
    format: Option<&'static str>,
    fit: bool,
    disk_bytes: Option<u64>,
    file_bytes: u64,
    /// Other files that the image names. None was opened unless it was allowed.
    references: &'a [ExternalRef],
    findings: &'a [FindingRecord],
    /// Where the guest will start, when it was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<&'a guest::Answers>,
    /// What an image's record says of its guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_guest: Option<&'a GuestRecord>,
}

/// The file is looked at as it is: whoever uploads it, uploads its wrappers with it.
fn safety(input: &Input, session: &mut Session) -> Result<Answer> {
    let found = kiln_format::safety::check(input.file.as_ref()).about(&input.label)?;
    let safe = found.is_safe();
    let out = &mut session.printer;
    out.json(&SafetyRecord {
        schema: "kiln.safety.v1",
        path: &input.label,
        safe,
        formats: &found.formats,
        rules: &found.rules,
    })?;
    out.field("file", &input.label);
    out.field("format", found.formats.join(" and "));
    for rule in &found.rules {
        let word = if rule.safe { "safe" } else { "UNSAFE" };
        let line = format!("{:<24} {} (file byte {})", rule.rule, rule.seen, rule.offset_bytes);
        out.field(word, line);
    }
    let answer = if safe { "safe by OpenStack's rules" } else { "NOT safe by OpenStack's rules" };
    out.field("answer", answer);
    Ok(if safe { Answer::Yes } else { Answer::No })
}

/// The report with QEMU's keys.
fn qemu(args: &Args, input: &Input, source: &SourceArgs, session: &mut Session) -> Result<Answer> {
    let context = input.context(source, Tolerance::Damaged, Limits::STANDARD)?;
    let scope = if args.data { CheckScope::Data } else { CheckScope::Metadata };
    let report = input.check(source, &context, scope, &session.reporter)?.about(&input.label)?;
    let image = input.image(source, &context);
    let clusters = match (&report.facts, image) {
        // A table that is too damaged to be walked has no counts.
        (Some(facts), Ok(image)) => Clusters::of(image.as_ref(), facts, &session.reporter).unwrap_or(None),
        _ => None,
    };
    session.reporter.clear();
    session.printer.json_always(&Check::of(&report, clusters, &input.label))?;
    Ok(if report.findings.fails() { Answer::No } else { Answer::Yes })
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    if let Some(id) = &args.guest.explain {
        guest::explain(id, &args.guest.severities()?, session)?;
        return Ok(Answer::Yes);
    }
    args.guest.places()?;
    let subject = args.subject.as_deref().unwrap_or(Path::new(""));
    let subject = Subject::resolve(subject, session)?;
    let (mut input, source) = subject.open(&args.source, session)?;
    if args.safety {
        return safety(&input, session);
    }
    match args.output {
        Some(OutputForm::Qemu) => {
            input.unwrap(&source, None, &session.reporter).about(&input.label)?;
            return qemu(args, &input, &source, session);
        }
        Some(OutputForm::Json) => session.printer.style = Style::Json,
        Some(OutputForm::Text) | None => {}
    }
    let opened = input.unwrap(&source, None, &session.reporter);
    let context = input.context(&source, Tolerance::Damaged, Limits::STANDARD)?;
    let scope = if args.data { CheckScope::Data } else { CheckScope::Metadata };
    let judgement = match opened {
        Ok(()) => Judgement::of(&input, &source, &context, scope, &session.reporter)?,
        Err(error) => Judgement::of_error(error).about(&input.label)?,
    };
    let readable = judgement.format.is_some();
    let guest = match readable && !args.guest.asked.is_empty() {
        true => {
            let image = match &subject {
                Subject::Image(image) => Some(&**image),
                Subject::File(_) => None,
            };
            Some(args.guest.judge(&input, &source, image, session)?)
        }
        false => None,
    };
    let stored = match &subject {
        Subject::Image(image) if readable => Some(guest::of_image(image, &args.guest, guest.as_ref())?),
        _ => None,
    };
    session.reporter.clear();
    let intact = !judgement.fails();
    let fit = intact && guest.as_ref().is_none_or(guest::Answers::fit);
    let record = Record {
        schema: "kiln.check.v1",
        path: &input.label,
        wrappers: input.wrappers(),
        format: judgement.format.map(|format| format.id),
        fit,
        disk_bytes: judgement.facts.as_ref().map(|facts| facts.disk_bytes),
        file_bytes: kiln_disk::ByteSource::byte_len(input.file.as_ref()),
        references: judgement.facts.as_ref().map_or(&[], |facts| &facts.references),
        findings: &judgement.findings,
        guest: guest.as_ref(),
        stored_guest: stored.as_ref(),
    };
    let out = &mut session.printer;
    out.json(&record)?;
    out.field("file", &input.label);
    if !record.wrappers.is_empty() {
        out.field("inside", record.wrappers.join(" > "));
    }
    out.field("format", record.format.unwrap_or("none that Kiln reads as it stands"));
    if let Some(bytes) = record.disk_bytes {
        out.field("disk size", Size(bytes));
    }
    for reference in record.references {
        out.field(reference.role.words(), format!("{} (the disk is not whole without it)", reference.name));
    }
    for line in judgement.lines() {
        out.line(&line);
    }
    if let Some(guest) = &guest {
        guest.text(out);
    } else if stored.is_some() {
        for (word, line) in super::show::guest_lines(stored.as_ref()) {
            out.field(word, line);
        }
    }
    // A record is no answer to a question that nobody asked, and is not passed over either.
    let elsewhere = guest.is_none() && stored.as_ref().is_some_and(GuestRecord::fails_somewhere);
    out.field(
        "answer",
        match (intact, fit, judgement.findings.is_empty()) {
            (true, false, _) => "not fit: it will not start at a place that was asked",
            (true, true, _) if elsewhere => {
                "fit as a file; its guest will not start at every place, as said above"
            }
            (true, true, true) if guest.is_none() => "fit: nothing found",
            (true, true, true) => "fit: the file is sound, and nothing keeps the guest from starting",
            (true, true, false) => "fit: no data is damaged",
            (false, ..) => "not fit: see the findings above",
        },
    );
    Ok(if fit { Answer::Yes } else { Answer::No })
}
