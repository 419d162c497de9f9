//! `kiln inspect`: what is it?

pub(crate) mod guest;
mod qemu;

use std::path::PathBuf;
use std::sync::Arc;

use kiln_disk::Limits;
use kiln_format::wrap::peek;
use kiln_format::{
    Detail, DetailValue, ExternalRef, Facts, Identity, SnapshotFacts, Tolerance, whole_sectors,
};
use serde::Serialize;

use crate::error::{About, Answer, CliError, Result};
use crate::input::{Input, SourceArgs};
use crate::output::{Align, OutputForm, Printer, ShortSize, Size, Table};
use crate::session::Session;
use crate::subject::Subject;

/// Say what a disk image is: format, sizes, references, snapshots
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Reads headers only; nothing that the image names is opened. Of a compressed file as much is unpacked
as it takes to find the headers; the answer says what was not looked at. On the disk the guest is looked
at as well: its system, kernels, loader, network. Nothing is mounted.

Examples:
  kiln inspect disk.qcow2
  kiln inspect --json disk.vhd
  kiln inspect --output qemu disk.qcow2    # the keys of qemu-img info --output=json")]
pub(crate) struct Args {
    /// Look at this file or image
    #[arg(value_name = "FILE|IMAGE")]
    subject: PathBuf,
    #[command(flatten)]
    source: SourceArgs,
    /// Write the answer in this form
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "json")]
    output: Option<OutputForm>,
    /// Unpack a compressed file to its end, in place of its beginning
    #[arg(long)]
    full: bool,
    /// Leave out what is on the disk: only the container is looked at
    #[arg(long)]
    no_guest: bool,
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    path: &'a str,
    /// "image" of a known format, "raw", "foreign" (not a disk image as it stands), "polyglot".
    kind: &'static str,
    /// Compressed files around it, the outermost first.
    wrappers: &'a [&'static str],
    /// What of a compressed file was not looked at.
    unseen: Option<&'a str>,
    format: Option<&'static str>,
    evidence: Vec<String>,
    advice: Option<&'static str>,
    file_bytes: u64,
    allocated_bytes: u64,
    variant: Option<&'a str>,
    disk_bytes: Option<u64>,
    unit_bytes: Option<u64>,
    compression: Option<&'static str>,
    references: &'a [ExternalRef],
    snapshots: &'a [SnapshotFacts],
    details: serde_json::Map<String, serde_json::Value>,
    /// What is on the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    guest: Option<&'a kiln_guest::GuestReport>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let (mut input, source) = Subject::resolve(&args.subject, session)?.open(&args.source, session)?;
    let peeked = look(args, &input, &source)?;
    // What is still wrapped has no disk to look at.
    let open_disk = peeked.is_none();
    let Seen { identity, facts, wrappers, unseen } = match peeked {
        Some(seen) => seen,
        None => whole(&mut input, &source, session)?,
    };
    let wanted = open_disk && facts.is_some() && !args.no_guest && args.output != Some(OutputForm::Qemu);
    // A medium is no disk image, and yet somebody wants to know what it is.
    let medium = matches!(&identity, Identity::Foreign(foreign) if foreign.id == "iso9660");
    let guest = match (wanted, medium && open_disk && !args.no_guest) {
        (true, _) => guest::of(&input, &source),
        (false, true) => guest::of_medium(&input, &source),
        (false, false) => None,
    };
    session.reporter.clear();
    let (kind, mut evidence, advice) = match &identity {
        Identity::Container { evidence, .. } => ("image", vec![evidence.what.clone()], None),
        Identity::Raw { evidence } => ("raw", vec![(*evidence).to_owned()], None),
        Identity::Foreign(foreign) => ("foreign", vec![foreign.name.to_owned()], Some(foreign.advice)),
        Identity::Polyglot(all) => ("polyglot", all.iter().map(|name| (*name).to_owned()).collect(), None),
    };
    let opens = source.format.is_some() || source.as_raw.is_some();
    if source.as_raw.is_some() && kind != "raw" {
        evidence.push("read as raw because --as raw says so".to_owned());
    }
    let record = Record {
        schema: "kiln.inspect.v1",
        path: &input.label,
        kind: if source.as_raw.is_some() { "raw" } else { kind },
        wrappers: &wrappers,
        unseen: unseen.as_deref(),
        format: facts.as_ref().map(|facts| facts.format),
        evidence,
        advice,
        file_bytes: kiln_disk::ByteSource::byte_len(input.file.as_ref()),
        allocated_bytes: input.file.allocated_len()?,
        variant: facts.as_ref().map(|facts| facts.variant.as_str()),
        disk_bytes: facts.as_ref().map(|facts| facts.disk_bytes),
        unit_bytes: facts.as_ref().and_then(|facts| facts.unit_bytes),
        compression: facts.as_ref().and_then(|facts| facts.compression),
        references: facts.as_ref().map_or(&[], |facts| &facts.references),
        snapshots: facts.as_ref().map_or(&[], |facts| &facts.snapshots),
        details: facts.as_ref().map(details_json).unwrap_or_default(),
        guest: guest.as_ref(),
    };
    match (args.output, session.printer.is_json()) {
        (Some(OutputForm::Qemu), _) => match &facts {
            Some(facts) => session.printer.json_always(&qemu::info(&input, facts)?)?,
            None => {
                return Err(CliError::cannot(
                    "format.foreign",
                    format!("{} is no disk image as it stands: {}", input.label, record.evidence.join(", ")),
                    advice.unwrap_or(""),
                ));
            }
        },
        (Some(OutputForm::Json), _) | (None, true) => session.printer.json_always(&record)?,
        _ => {
            text(&record, facts.as_ref(), &mut session.printer);
            if let Some(guest) = &guest {
                guest::text(guest, &mut session.printer);
            }
        }
    }
    // Two formats at once is a refusal; a foreign file has been named, which is what was asked.
    Ok(if kind == "polyglot" && !opens { Answer::No } else { Answer::Yes })
}

/// What was looked at, and what it is.
struct Seen {
    identity: Identity,
    facts: Option<Facts>,
    wrappers: Vec<&'static str>,
    unseen: Option<String>,
}

/// Looks into a wrapped file without unpacking it. `None`: it takes all of the file to answer, or it is not wrapped.
fn look(args: &Args, input: &Input, source: &SourceArgs) -> Result<Option<Seen>> {
    if args.full || source.as_raw.is_some() || source.format.is_some() {
        return Ok(None);
    }
    let Some(peeked) = peek(&input.source()).about(&input.label)? else { return Ok(None) };
    let facts = match (&peeked.identity, peeked.claimed_len) {
        (Identity::Container { format, .. }, _) => {
            let context = source.context(Tolerance::Damaged, Limits::INSPECT)?;
            // What cannot be opened from its beginning may have its headers at its end.
            match kiln_format::open_as(format, Arc::clone(&peeked.source), &context) {
                Ok(image) => Some(image.facts()),
                Err(_) => return Ok(None),
            }
        }
        (Identity::Raw { .. }, Some(len)) => {
            Some(Facts { disk_bytes: whole_sectors(len), ..Facts::raw(len) })
        }
        // Nothing tells how long it is.
        (Identity::Raw { .. }, None) => return Ok(None),
        _ => None,
    };
    let unseen = (!peeked.whole).then(|| {
        let seen = ShortSize(peeked.seen());
        let raw = match peeked.identity {
            Identity::Raw { .. } => {
                "; the length is what the wrapper says, and a format with its mark at its end, \
                                     such as a fixed VHD, would look the same"
            }
            _ => "",
        };
        format!("everything behind the first {seen}{raw} (--full unpacks all)")
    });
    Ok(Some(Seen { identity: peeked.identity, facts, wrappers: peeked.layers, unseen }))
}

/// Looks at all of the file, unpacked where it is wrapped.
fn whole(input: &mut Input, source: &SourceArgs, session: &Session) -> Result<Seen> {
    input.unwrap(source, None, &session.reporter).about(&input.label)?;
    let identity = kiln_format::identify(input.source().as_ref()).about(&input.label)?;
    let opens = source.format.is_some() || source.as_raw.is_some();
    let facts = if opens || matches!(identity, Identity::Container { .. } | Identity::Raw { .. }) {
        let context = input.context(source, Tolerance::Damaged, Limits::INSPECT)?;
        Some(input.image(source, &context)?.facts())
    } else {
        None
    };
    Ok(Seen { identity, facts, wrappers: input.wrappers().to_vec(), unseen: None })
}

fn text(record: &Record<'_>, facts: Option<&Facts>, out: &mut Printer) {
    out.data_field("file", record.path);
    match (facts, record.kind) {
        (Some(facts), _) => {
            let chain: Vec<&str> = record.wrappers.iter().copied().chain([facts.format]).collect();
            out.data_field("format", format!("{}, {}", chain.join(" > "), facts.variant));
        }
        (None, "polyglot") => out.data_field("format", "several at once: refused by every command"),
        (None, _) => out.data_field("format", "none that Kiln reads as it stands"),
    }
    out.data_field("seen", record.evidence.join("; "));
    if let Some(unseen) = record.unseen {
        out.data_field("unseen", unseen);
    }
    if let Some(advice) = record.advice {
        out.data_field("advice", advice);
    }
    if let Some(bytes) = record.disk_bytes {
        out.data_field("disk size", Size(bytes));
    }
    out.data_field("file size", Size(record.file_bytes));
    out.data_field("on disk", Size(record.allocated_bytes));
    if let Some(bytes) = record.unit_bytes {
        out.data_field("unit", Size(bytes));
    }
    if let Some(compression) = record.compression {
        out.data_field("compression", compression);
    }
    for reference in record.references {
        let format = reference.format.as_deref().unwrap_or("not declared");
        out.data_field(reference.role.words(), format!("{} (format {format}; not opened)", reference.name));
    }
    for detail in facts.map_or(&[][..], |facts| &facts.details) {
        out.data_field(&detail.name.replace('_', " "), detail_text(&detail.value));
    }
    if !record.snapshots.is_empty() {
        let mut table = Table::new(&[
            ("SNAPSHOT", Align::Left),
            ("NAME", Align::Left),
            ("DISK", Align::Right),
            ("MACHINE STATE", Align::Right),
            ("TAKEN", Align::Right),
        ]);
        for snapshot in record.snapshots {
            table.row([
                snapshot.id.clone(),
                snapshot.name.clone(),
                snapshot.disk_bytes.to_string(),
                snapshot.vm_state_bytes.to_string(),
                format!("@{}", snapshot.taken_at),
            ]);
        }
        for line in table.lines() {
            out.data(&line);
        }
    }
}

fn detail_text(value: &DetailValue) -> String {
    match value {
        DetailValue::Flag(true) => "yes".to_owned(),
        DetailValue::Flag(false) => "no".to_owned(),
        DetailValue::Number(number) => number.to_string(),
        DetailValue::Text(text) => text.clone(),
        DetailValue::List(list) if list.is_empty() => "none".to_owned(),
        DetailValue::List(list) => list.join(", "),
    }
}

fn details_json(facts: &Facts) -> serde_json::Map<String, serde_json::Value> {
    facts.details.iter().map(|Detail { name, value }| ((*name).to_owned(), value_json(value))).collect()
}

fn value_json(value: &DetailValue) -> serde_json::Value {
    match value {
        DetailValue::Flag(flag) => (*flag).into(),
        DetailValue::Number(number) => (*number).into(),
        DetailValue::Text(text) => text.clone().into(),
        DetailValue::List(list) => list.clone().into(),
    }
}
