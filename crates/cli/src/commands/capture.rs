//! `kiln capture`: a machine's disk becomes an image of the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kiln_catalog::{CaptureRecord, CaptureSource, IfTaken, NameTag};
use kiln_disk::Limits;
use kiln_format::{Siblings, Tolerance};
use kiln_import::LayerStyle;
use kiln_snapshot::{Outcome, PlanFacts, Quiesce, Request, Subject, Which, plan};
use serde::Serialize;

use crate::error::{About, Answer, CliError, Result};
use crate::input::SourceArgs;
use crate::output::{Printer, Size};
use crate::session::Session;
use crate::subject::store_to_write;

/// Make an image of a machine's disk, stopped or running
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
An instance's disk becomes a layer upon the image that it came from or was last captured to: only
what changed is read and stored, and the content digest is that of the whole disk. A running machine
goes on: its file systems stand still for the moment in which the point in time is taken, when its
guest agent answers, and what it overwrites afterwards is kept aside until it has been read. When
that cannot be kept, the capture fails and not the machine.

The image records how consistent it is: application (the machine was off, everything unmounted in
order), filesystem (frozen by the agent, and the captured disk shows it), or crash (as after a power
cut).

Examples:
  kiln capture web1 --name web:golden
  kiln capture web1 --name web:golden --quiesce require --all-disks
  kiln capture web1 --name web:golden --stop
  kiln capture /var/lib/libvirt/images/db.qcow2 --name db
  kiln capture qmp:/run/vm/qmp.sock --agent /run/vm/qga.sock --name vm
  kiln capture libvirt:db --name db")]
pub(crate) struct Args {
    /// Capture this: an instance, a disk file or block device, a QEMU by its socket, a domain of libvirt
    #[arg(value_name = "INSTANCE|DISK|qmp:SOCKET|libvirt:DOMAIN")]
    subject: String,
    /// Call the image NAME[:TAG]; the tag is latest when none is given
    #[arg(long, value_name = "NAME[:TAG]")]
    name: String,
    /// Describe the image
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// Move the tag to the new image when another image has it; that one keeps its id
    #[arg(long)]
    replace: bool,
    /// Make the guest's file systems stand still: when its agent answers, always or not at all, never
    #[arg(long, value_enum, default_value_t = QuiesceArg::Auto, value_name = "WHEN")]
    quiesce: QuiesceArg,
    /// Shut the machine down first; it stays off
    #[arg(long)]
    stop: bool,
    /// Capture all disks of the machine at one point in time, each as an image of its own
    #[arg(long, conflicts_with = "disk")]
    all_disks: bool,
    /// Capture this disk: its id (disk1), or its number from 0 [default: the one that the machine starts from]
    #[arg(long, value_name = "DISK")]
    disk: Option<String>,
    /// Let the guest stand still for at most this many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
    /// Wait at most this many seconds for the machine to shut down
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    stop_timeout: u64,
    /// Speak to the guest's agent over this socket; for qmp:SOCKET
    #[arg(long, value_name = "SOCKET")]
    agent: Option<PathBuf>,
    /// Require this format of a disk file; anything else is refused
    #[arg(short = 'f', long = "format", value_name = "FORMAT")]
    format: Option<String>,
    /// Take the file's bytes as the disk, whatever they look like
    #[arg(long = "as", value_name = "FORM", conflicts_with = "format")]
    as_raw: Option<crate::input::TakenAs>,
    /// Allow a disk file to use another file: NAME as the file spells it, PATH where it is
    #[arg(long, value_name = "NAME=PATH")]
    allow_backing: Vec<String>,
    /// Store the layer in this style [default: as the layer below, else plain]
    #[arg(long, value_name = "plain|zstd")]
    style: Option<LayerStyle>,
    /// Keep what a running machine overwrites meanwhile in this folder [default: where the store is]
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Use this many threads [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
    /// Look at the machine, print what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// Watch over a capture: thaw the guest and clear up should it die
#[derive(Debug, clap::Args)]
pub(crate) struct WatchArgs {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum QuiesceArg {
    /// When the agent answers
    Auto,
    /// Else no capture
    Require,
    /// Never
    None,
}

#[derive(Serialize)]
struct Record<'a> {
    schema: &'static str,
    dry_run: bool,
    plan: &'a PlanFacts,
    quiesce: Quiesce,
    images: Vec<ImageRecord<'a>>,
    consistency: Option<&'static str>,
    frozen_ms: Option<u128>,
    elapsed_ms: Option<u128>,
}

#[derive(Serialize)]
struct ImageRecord<'a> {
    id: String,
    name: String,
    disk_bytes: u64,
    content_digest: String,
    layers: usize,
    /// What the store grew by.
    new_bytes: u64,
    /// The image that lost the tag to this one.
    untagged: Option<String>,
    capture: Option<&'a CaptureRecord>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let name: NameTag = args.name.parse()?;
    let (store, _scratch) = store_to_write(args.dry_run, session)?;
    let (subject, file) = match args.subject.split_once(':') {
        Some(("qmp", socket)) => (Subject::Qmp { socket: socket.into(), agent: args.agent.clone() }, None),
        Some(("libvirt", domain)) => (Subject::Libvirt { domain: domain_name(domain)? }, None),
        _ => match store.instance(&args.subject) {
            Ok(_) if Path::new(&args.subject).exists() => return Err(ambiguous(&args.subject)),
            Ok(record) => (Subject::Instance(Box::new(record)), None),
            Err(error) => {
                let path = PathBuf::from(&args.subject);
                if !path.exists() && !args.subject.contains(['/', '.']) {
                    return Err(error.into());
                }
                let choice = source_args(args).choice()?;
                (Subject::Path { path: path.clone(), choice }, Some(path))
            }
        },
    };
    let request = request(args, name, file.as_deref())?;
    let quiesce = request.quiesce;
    let plan = plan(&store, subject, request, &session.reporter).about(&args.subject)?;
    let facts = plan.facts().clone();
    let outcome = if args.dry_run { None } else { Some(plan.run(&session.reporter).about(&args.subject)?) };
    session.reporter.clear();
    let record = record(&facts, quiesce, outcome.as_ref());
    session.printer.json(&record)?;
    text(&record, outcome.as_ref(), &mut session.printer);
    Ok(Answer::Yes)
}

/// The watchdog's work: see [`kiln_snapshot::live::watch`].
pub(crate) fn watch(_: &WatchArgs) -> Result<Answer> {
    kiln_snapshot::live::watch(std::io::stdin())?;
    Ok(Answer::Yes)
}

fn ambiguous(word: &str) -> CliError {
    CliError::cannot(
        "name.ambiguous",
        format!("{word:?} is a file here, and an instance"),
        format!("write ./{word} for the file, or the instance's id"),
    )
}

/// The name of a domain is a word of another program's command line.
fn domain_name(name: &str) -> Result<String> {
    if name.is_empty() || name.starts_with('-') || name.chars().any(char::is_control) {
        return Err(CliError::usage(
            "usage.domain",
            format!("{name:?} names no domain"),
            "virsh list shows them",
        ));
    }
    Ok(name.to_owned())
}

fn source_args(args: &Args) -> SourceArgs {
    SourceArgs {
        format: args.format.clone(),
        as_raw: args.as_raw,
        allow_backing: args.allow_backing.clone(),
        disk: None,
    }
}

fn request(args: &Args, name: NameTag, file: Option<&Path>) -> Result<Request> {
    let mut request = Request::new(name);
    if let Some(file) = file {
        let allowed = source_args(args).context(Tolerance::Strict, Limits::STANDARD)?.resolver;
        request.resolver = Arc::new(Siblings::beside(file, allowed));
    }
    request.description.clone_from(&args.description);
    request.if_taken = if args.replace { IfTaken::MoveTag } else { IfTaken::Refuse };
    request.style = args.style;
    request.threads = args.threads.map_or(request.threads, usize::from);
    request.quiesce = match args.quiesce {
        QuiesceArg::Auto => Quiesce::Auto,
        QuiesceArg::Require => Quiesce::Require,
        QuiesceArg::None => Quiesce::None,
    };
    request.scratch.clone_from(&args.scratch);
    request.stop = args.stop;
    request.freeze_limit = Duration::from_secs(args.timeout);
    request.patience = Duration::from_secs(args.stop_timeout);
    request.which = match (&args.disk, args.all_disks) {
        (Some(disk), _) => Which::One(disk.clone()),
        (None, true) => Which::All,
        (None, false) => Which::Root,
    };
    let program =
        std::env::current_exe().map_err(|source| kiln_disk::Error::io("find", "this program", source))?;
    request.reader = crate::guest_reader();
    request.watchdog = Some(vec![program.display().to_string(), "watch-capture".to_owned()]);
    Ok(request)
}

fn record<'a>(facts: &'a PlanFacts, quiesce: Quiesce, outcome: Option<&'a Outcome>) -> Record<'a> {
    let images = outcome.map(|outcome| outcome.images.as_slice()).unwrap_or_default();
    Record {
        schema: "kiln.capture.v1",
        dry_run: outcome.is_none(),
        plan: facts,
        quiesce,
        images: images
            .iter()
            .map(|image| ImageRecord {
                id: image.manifest.id.to_string(),
                name: image.manifest.title(),
                disk_bytes: image.manifest.disk_bytes,
                content_digest: image.manifest.digests.content.to_string(),
                layers: image.manifest.layers.len(),
                new_bytes: image.new_bytes,
                untagged: image.untagged.as_ref().map(ToString::to_string),
                capture: image.manifest.provenance.capture.as_ref(),
            })
            .collect(),
        consistency: outcome.map(|outcome| outcome.consistency.word()),
        frozen_ms: outcome.and_then(|outcome| outcome.frozen).map(|frozen| frozen.as_millis()),
        elapsed_ms: outcome.map(|outcome| outcome.elapsed.as_millis()),
    }
}

fn text(record: &Record<'_>, outcome: Option<&Outcome>, out: &mut Printer) {
    let Some(outcome) = outcome else {
        let running = match (record.plan.running, record.plan.stop) {
            (false, _) => "stopped",
            (true, true) => "running, to be shut down first",
            (true, false) => "running",
        };
        out.field("would capture", format!("{}, {running}", record.plan.source));
        for disk in &record.plan.disks {
            let parent = match (&disk.parent, disk.layers_below) {
                (Some(parent), _) => format!("a layer upon {parent}"),
                (None, 0) => format!("everything: {}", disk.why_full.unwrap_or("nothing is below")),
                (None, layers) => format!("a layer upon {layers} others"),
            };
            out.field("disk", format!("{} ({}) to {}, {parent}", disk.id, Size(disk.disk_bytes), disk.name));
            if let Some(bytes) = disk.compare_bytes {
                out.field("to read", format!("{}, by {}", Size(bytes), disk.found_by.word()));
            }
        }
        return;
    };
    for image in &outcome.images {
        let manifest = &image.manifest;
        out.field("captured", format!("{} {}", manifest.id, manifest.title()));
        if let Some(capture) = &manifest.provenance.capture {
            record_lines(capture, &mut |name, value| out.field(name, value));
        }
        out.field("content", manifest.digests.content);
        out.field(
            "stored",
            format!(
                "{} in layer {} of {}",
                Size(image.new_bytes),
                manifest.layers.len(),
                manifest.layers.len()
            ),
        );
        if let Some(untagged) = &image.untagged {
            out.field("", format!("{untagged} lost the tag"));
        }
    }
    out.field("took", format!("{:.2} s", outcome.elapsed.as_secs_f64()));
}

/// What of the machine's identity an image carries, and what becomes of it.
fn carried(capture: &CaptureRecord) -> Vec<(String, &'static str)> {
    let of = |kind: &'static str| capture.identity.iter().filter(move |one| one.kind == kind);
    let ids = of("machine-id").map(|one| {
        let advice =
            "all machines made from it have the same; empty the file in the machine before a capture";
        (one.path.clone(), advice)
    });
    let mut lines: Vec<_> = ids.collect();
    let keys = of("ssh-host-key").count();
    if keys > 0 {
        let advice = match of("ssh-host-key").all(|one| one.renewed_by.is_some()) {
            true => "cloud-init makes new ones on each machine",
            false => "all machines made from it have the same; delete them in the machine before a capture",
        };
        lines.push((format!("{keys} SSH host keys"), advice));
    }
    lines
}

/// How an image was captured, line by line.
pub(crate) fn record_lines(capture: &CaptureRecord, line: &mut dyn FnMut(&str, String)) {
    let source = match &capture.source {
        CaptureSource::Instance { id, name, disk } => {
            format!("{disk} of {}{id}", name.as_ref().map_or_else(String::new, |name| format!("{name}, ")))
        }
        CaptureSource::File { name, format } => format!("{name} ({format})"),
        CaptureSource::Device { name } => format!("the device {name}"),
        CaptureSource::Qemu { name, disk } => {
            format!("{disk} of the QEMU {}", name.as_deref().unwrap_or("without a name"))
        }
        CaptureSource::Libvirt { domain, disk } => format!("{disk} of the domain {domain}"),
    };
    let running = if capture.running { "running" } else { "stopped" };
    let others = if capture.disks > 1 { format!(", one of {} disks", capture.disks) } else { String::new() };
    line("of", format!("{source}, {running}, {}{others}", capture.point));
    line("consistent", format!("{}: {}", capture.consistency.word(), capture.because));
    if let Some(freeze) = &capture.freeze {
        line("", format!("frozen for {} ms by agent {}", freeze.milliseconds, freeze.agent));
    }
    for one in &capture.file_systems {
        line("", format!("{} on {}: {}", one.kind, one.place, one.state.replace('_', " ")));
    }
    for (value, what) in carried(capture) {
        line("carries", format!("{value}: {what}"));
    }
    let parent = capture.parent.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
    line(
        "changed",
        format!(
            "{} of data and {} of zeros since {parent}, found by {}; {} were the same",
            Size(capture.changed_bytes),
            Size(capture.zeroed_bytes),
            capture.found_by.word(),
            Size(capture.same_bytes)
        ),
    );
    if let Some(machine) = &capture.machine {
        let mut words: Vec<String> = machine.architecture.iter().cloned().collect();
        words.extend(machine.cpus.map(|cpus| format!("{cpus} CPUs")));
        words.extend(machine.memory_bytes.map(|bytes| format!("{} MiB of memory", bytes >> 20)));
        words.extend(machine.firmware.clone());
        words.extend(machine.qemu.as_ref().map(|version| format!("QEMU {version}")));
        line("machine", words.join(", "));
    }
}
