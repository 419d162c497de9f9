//! `kiln check`: is it fit for use?

pub(crate) mod guest;
mod html;

use std::path::{Path, PathBuf};

use kiln_disk::Limits;
use kiln_format::{CheckScope, ExternalRef, Tolerance};
use serde::Serialize;

use crate::error::{About, Answer, Result};
use crate::input::SourceArgs;
use crate::judge::Judgement;
use crate::output::{FindingRecord, Size};
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
  kiln check --explain kmod.virtio")]
pub(crate) struct Args {
    /// Check this file or image
    #[arg(value_name = "FILE|IMAGE", required_unless_present = "explain")]
    subject: Option<PathBuf>,
    #[command(flatten)]
    source: SourceArgs,
    /// Decode every compressed piece as well
    #[arg(long)]
    data: bool,
    #[command(flatten)]
    guest: guest::GuestArgs,
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
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    if let Some(id) = &args.guest.explain {
        guest::explain(id, session)?;
        return Ok(Answer::Yes);
    }
    args.guest.places()?;
    let subject = args.subject.as_deref().unwrap_or(Path::new(""));
    let (mut input, source) = Subject::resolve(subject, session)?.open(&args.source, session)?;
    let opened = input.unwrap(&source, None, &session.reporter);
    let context = input.context(&source, Tolerance::Damaged, Limits::STANDARD)?;
    let scope = if args.data { CheckScope::Data } else { CheckScope::Metadata };
    let judgement = match opened {
        Ok(()) => Judgement::of(&input, &source, &context, scope, &session.reporter)?,
        Err(error) => Judgement::of_error(error).about(&input.label)?,
    };
    let readable = judgement.format.is_some();
    let guest = match readable && !args.guest.targets.is_empty() {
        true => Some(args.guest.judge(&input, &source, session)?),
        false => None,
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
    }
    out.field(
        "answer",
        match (intact, fit, judgement.findings.is_empty()) {
            (true, false, _) => "not fit: it will not start at a place that was asked",
            (true, true, true) if guest.is_none() => "fit: nothing found",
            (true, true, true) => "fit: the file is sound, and nothing keeps the guest from starting",
            (true, true, false) => "fit: no data is damaged",
            (false, ..) => "not fit: see the findings above",
        },
    );
    Ok(if fit { Answer::Yes } else { Answer::No })
}
