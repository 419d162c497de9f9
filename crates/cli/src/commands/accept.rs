//! `kiln accept`: a receiver acknowledges where a shared image comes from.

use serde::Serialize;

use super::show::checksum;
use crate::error::{Answer, Result};
use crate::session::Session;
use crate::subject;

/// Acknowledge the source of a shared image, so that it can be launched and copied
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Shared images are reviewed by nobody but their owner. What is known of the source is printed; kiln verify
proves that the image is the one that was published, and kiln show prints everything.

Examples:
  kiln accept --dry-run web:3
  kiln accept web:3")]
pub(crate) struct Args {
    /// Accept this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Print what is known of the source and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    dry_run: bool,
    id: String,
    name: String,
    owner: String,
    content_digest: String,
    source: &'a kiln_catalog::SourceRecord,
    provenance: &'a kiln_catalog::Provenance,
    checks: &'a kiln_catalog::CheckRecord,
    guest: Option<&'a kiln_catalog::GuestRecord>,
    audits: &'a [kiln_catalog::Audit],
    accepted_at: Option<String>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = subject::find(&args.image, session)?;
    found.permit(kiln_catalog::Action::Accept)?;
    let record =
        if args.dry_run { found.record.clone() } else { found.store.accept(&found.manifest.id)?.record };
    let manifest = &found.manifest;
    let checks = record.screened.as_ref().unwrap_or(&manifest.checks);
    let share = record.share_of(found.store.account());
    session.printer.json(&Record {
        schema: "kiln.accept.v1",
        dry_run: args.dry_run,
        id: manifest.id.to_string(),
        name: manifest.title(),
        owner: record.owner.to_string(),
        content_digest: manifest.digests.content.to_string(),
        source: &manifest.source,
        provenance: &manifest.provenance,
        checks,
        guest: record.guest.as_ref().or(manifest.guest.as_ref()),
        audits: &record.audits,
        accepted_at: share.and_then(|share| share.accepted_at).map(|at| at.to_string()),
    })?;
    let out = &mut session.printer;
    out.field("owner", &record.owner);
    out.field("content", manifest.digests.content);
    let source = &manifest.source;
    out.field("source", format!("{} ({})", source.file_name.as_deref().unwrap_or("a pipe"), source.format));
    for digest in &source.digests {
        out.field("", digest);
    }
    out.field("vendor says", checksum(&manifest.provenance.checksum));
    let forced = if checks.forced { ", imported in spite of damage (--force)" } else { "" };
    out.field(
        "checked",
        format!("rules {}, {} kinds of findings{forced}", checks.rule_set, checks.findings.len()),
    );
    for (word, line) in super::show::guest_lines(record.guest.as_ref().or(manifest.guest.as_ref())) {
        out.field(word, line);
    }
    for audit in &record.audits {
        out.field("audit", format!("{}: {}", audit.account, audit.note));
    }
    let word = if args.dry_run { "would accept" } else { "accepted" };
    out.field(word, format!("{} {}", manifest.id, manifest.title()));
    Ok(Answer::Yes)
}
