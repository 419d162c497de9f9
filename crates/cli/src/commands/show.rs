//! `kiln show`: all that is known about one image.

use kiln_catalog::{ApplianceRecord, Checksum, Image, Manifest, Relation, SignerRecord};
use serde::Serialize;

use crate::error::{Answer, Result};
use crate::output::{Printer, Size};
use crate::session::Session;
use crate::subject;

use super::key::{self, SignatureLine};

/// Show all that is known about an image: digests, source, provenance, layers
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    /// The manifest, with the name and state of today.
    image: &'a Manifest,
    /// To the account that asks: public, custom or shared.
    #[serde(rename = "type")]
    kind: &'static str,
    /// How the account stands to it: owner, receiver, offered or everyone.
    relation: &'static str,
    /// Its life. With whom an image is shared is the owner's to know.
    record: kiln_catalog::Record,
    /// Instances that run from it.
    instances: Vec<String>,
    stored_bytes: u64,
    layer_paths: Vec<String>,
    signatures: Vec<SignatureLine>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = subject::find(&args.image, session)?;
    let layer_paths: Vec<String> = found
        .manifest
        .layers
        .iter()
        .map(|layer| found.store.layer_path(layer).display().to_string())
        .collect();
    let mut life = found.record.clone();
    if found.relation != Relation::Owner {
        life.shares.retain(|share| share.account == *found.store.account());
        life.history.clear();
    }
    let instances = found.store.instances()?.into_iter().filter(|one| one.image == found.manifest.id);
    let seen =
        Image { manifest: found.manifest.clone(), record: found.record.clone(), relation: found.relation };
    let record = Record {
        schema: "kiln.show.v1",
        image: &found.manifest,
        kind: seen.kind().word(),
        relation: found.relation.word(),
        record: life,
        instances: instances.map(|one| one.id.to_string()).collect(),
        stored_bytes: found.manifest.stored_bytes(),
        layer_paths,
        signatures: key::signatures(&found.store, &found.manifest)?,
    };
    session.printer.json(&record)?;
    text(&record, &mut session.printer);
    Ok(Answer::Yes)
}

/// What is known of the guest, in lines with their words in front: where it starts, and where it does not and why.
pub(super) fn guest_lines(guest: Option<&kiln_catalog::GuestRecord>) -> Vec<(&'static str, String)> {
    let Some(guest) = guest else { return vec![("guest", "not judged yet: kiln check IMAGE".to_owned())] };
    let system = guest.system.as_deref().unwrap_or("no system was found on the disk");
    let mut lines = vec![("guest", format!("{system} (rules {})", guest.rule_set))];
    if guest.system.is_none() {
        return lines;
    }
    let mut told: Vec<(&str, Vec<&str>)> = Vec::new();
    for verdict in &guest.verdicts {
        let words = verdict.verdict.words();
        match told.iter_mut().find(|(known, _)| *known == words) {
            Some((_, targets)) => targets.push(&verdict.target),
            None => told.push((words, vec![&verdict.target])),
        }
    }
    lines.extend(told.into_iter().map(|(words, targets)| ("", format!("{words}: {}", targets.join(", ")))));
    if let Some(because) = guest.verdict(kiln_catalog::HERE).and_then(|verdict| verdict.because.as_ref()) {
        lines.push(("", format!("{}: {because}", kiln_catalog::HERE)));
    }
    lines
}

fn text(record: &Record<'_>, out: &mut Printer) {
    let image = record.image;
    out.data_field("id", &image.id);
    out.data_field("name", image.title());
    if !image.description.is_empty() {
        out.data_field("description", &image.description);
    }
    let life = &record.record;
    out.data_field("type", format!("{}, owner {}", record.kind, life.owner));
    out.data_field("state", image.state.word());
    if record.relation == "offered" {
        out.data_field("", format!("not accepted: kiln accept {} acknowledges its source", image.id));
    }
    if life.protected {
        out.data_field("", "protected");
    }
    if let Some(at) = life.expires_at {
        out.data_field("expires", at);
    }
    if let Some(family) = &life.family {
        out.data_field("family", family);
    }
    for (key, value) in &life.labels {
        out.data_field("label", format!("{key}={value}"));
    }
    for share in life.shares.iter().filter(|_| record.relation == "owner") {
        let word = if share.accepted_at.is_some() { "accepted" } else { "not accepted yet" };
        out.data_field("shared with", format!("{}, {word}", share.account));
    }
    for audit in &life.audits {
        out.data_field(
            "audit",
            format!("{} {}: {}", audit.at.strftime("%Y-%m-%d"), audit.account, audit.note),
        );
    }
    match &life.verified {
        None => out.data_field("verified", "never since its publication"),
        Some(verified) => {
            let word = if verified.intact { "intact" } else { "DAMAGED" };
            out.data_field("verified", format!("{}, {word}", verified.at));
        }
    }
    for (word, line) in guest_lines(life.guest.as_ref().or(image.guest.as_ref())) {
        out.data_field(word, line);
    }
    if let Some(origin) = &image.origin {
        out.data_field("made from", format!("{} of {}, {}", origin.image, origin.owner, origin.manifest));
    }
    for instance in &record.instances {
        out.data_field("instance", instance);
    }
    out.data_field("created", image.created_at);
    out.data_field("disk size", Size(image.disk_bytes));
    out.data_field("stored", Size(record.stored_bytes));
    for (name, value) in [("arch", &image.architecture), ("os", &image.os), ("boot", &image.boot_mode)] {
        if let Some(value) = value {
            out.data_field(name, value);
        }
    }
    out.data_field("content", image.digests.content);
    if let Some(raw) = &image.digests.raw {
        out.data_field("raw", raw);
    }
    let source = &image.source;
    let name = source.file_name.as_deref().unwrap_or("a pipe");
    out.data_field("source", format!("{name} ({}), {}", source.format, Size(source.byte_len)));
    for digest in &source.digests {
        out.data_field("", digest);
    }
    if image.provenance.capture.is_none() {
        out.data_field("vendor says", checksum(&image.provenance.checksum));
    }
    if let Some(signer) = &image.provenance.signer {
        out.data_field("signature", signer_line(signer));
        out.data_field("", format!("keys {}", signer.keys));
    }
    if let Some(download) = &image.provenance.download {
        out.data_field("from", &download.url);
        if let Some(url) = &download.final_url {
            out.data_field("", format!("found at {url}"));
        }
        if let Some(version) = download.etag.as_ref().or(download.last_modified.as_ref()) {
            out.data_field("", format!("version {version}"));
        }
    }
    match &image.provenance.capture {
        None => out.data_field("imported by", &image.provenance.tool),
        Some(capture) => {
            out.data_field("captured by", &image.provenance.tool);
            super::capture::record_lines(capture, &mut |name, value| out.data_field(name, value));
        }
    }
    if let Some(appliance) = &image.provenance.appliance {
        out.data_field("appliance", format!("disk {} of {}", appliance.disk, appliance.descriptor));
        out.data_field("", machine(appliance));
    }
    for signature in &record.signatures {
        out.data_field("signed by", signature.words());
    }
    let checks = &image.checks;
    let forced = if checks.forced { ", imported in spite of findings (--force)" } else { "" };
    out.data_field("checked", format!("rules {}, {}{forced}", checks.rule_set, checks.scope));
    for finding in &checks.findings {
        out.data_field("", format!("{} x {}", finding.count, finding.id));
    }
    for (layer, path) in image.layers.iter().zip(&record.layer_paths) {
        out.data_field("layer", format!("{} ({}, {})", layer.digest, layer.format, layer.style));
        out.data_field("", format!("{}, {path}", Size(layer.byte_len)));
    }
}

/// The machine that the disk was part of, in words.
fn machine(appliance: &ApplianceRecord) -> String {
    let mut words: Vec<String> = Vec::new();
    words.extend(appliance.os_description.clone().or_else(|| appliance.os_type.clone()));
    words.extend(appliance.family.clone());
    words.extend(appliance.firmware.clone());
    words.extend(appliance.cpus.map(|cpus| format!("{cpus} CPUs")));
    words.extend(appliance.memory_bytes.map(|bytes| format!("{} MiB of memory", bytes >> 20)));
    words.extend(appliance.disk_bus.as_ref().map(|bus| {
        format!("disk on {bus} {}", appliance.disk_controller.as_deref().unwrap_or("")).trim_end().to_owned()
    }));
    words.extend(appliance.networks.iter().map(|card| format!("network {card}")));
    words.join(", ")
}

/// Who vouches for the source, in words.
pub(crate) fn signer_line(signer: &SignerRecord) -> String {
    let facts = &signer.signature;
    let name = facts.name.as_ref().map_or_else(String::new, |name| format!(" {name:?}"));
    let when = facts.signed_at.map_or_else(String::new, |time| format!(", {time}"));
    format!("{} by {}{name} over {} ({}{when})", facts.scheme, facts.key, signer.signed, facts.algorithm)
}

/// What became of the vendor's checksum, in words.
pub(crate) fn checksum(checksum: &Checksum) -> String {
    match checksum {
        Checksum::Unverified => "nothing: no checksum was given".to_owned(),
        Checksum::Given { digest } => format!("{digest} (given), matches"),
        Checksum::Listed { digest, file, line } => format!("{digest} ({file} line {line}), matches"),
    }
}
