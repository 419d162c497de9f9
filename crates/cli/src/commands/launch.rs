//! `kiln launch`: machines from an image.

use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use kiln_catalog::machine::{Forward, MachineFirmware};
use kiln_catalog::{Image, InstanceRecord, Name, Store};
use kiln_instance::{
    DEFAULT_MEMORY, DataDiskWish, FirmwareWish, Host, Launched, NetworkWish, OnUnsound, Plan, Planned,
    PublicKeys, Refusal, Request, Start, UserData, print,
};
use serde::Serialize;

use crate::error::{Answer, CliError, Result};
use crate::instances::{self, InstanceView};
use crate::output::Size;
use crate::session::Session;
use crate::size;
use crate::subject::{self, StoredImage};

/// Start machines from an image
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Each machine has a copy-on-write disk over the image, a seed for cloud-init, and
addresses of its own. It runs on when kiln ends; kiln ps lists it")]
pub(crate) struct Args {
    /// Start from this image: name, name:tag, id, the start of an id, or a digest
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Call the machine so; several get -1, -2, ... behind it
    #[arg(value_name = "NAME")]
    name: Option<Name>,
    /// Make so many machines
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: u64,
    /// Start so many at a time
    #[arg(long, value_name = "K", default_value = "4")]
    start: NonZeroUsize,
    /// Give each so many processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    cpus: u32,
    /// Give each so much memory [default: 1G]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    memory: Option<u64>,
    /// Make the disk so large [default: as the image's]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    disk: Option<u64>,
    /// Add a data disk: an empty one of this size, or one that begins as this image
    #[arg(long, value_name = "SIZE|IMAGE")]
    data_disk: Vec<String>,
    /// Let the public keys in this file log in
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// Give cloud-init this file
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// Connect the network card to this: user, tap:NAME or none
    #[arg(long, value_name = "user|tap:NAME|none", default_value = "user")]
    network: String,
    /// Lead a port of 127.0.0.1 into the guest; of several machines, each the next port
    #[arg(long, value_name = "HOST:GUEST", value_delimiter = ',', value_parser = forward)]
    forward: Vec<Forward>,
    /// Start with this firmware
    #[arg(long, value_enum, value_name = "auto|bios|uefi", default_value = "auto")]
    firmware: FirmwareWord,
    /// Run a machine of this architecture [default: the image's]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Launch although the image is known to be damaged, or its guest not to start
    #[arg(long)]
    force: bool,
    /// Make the machines and do not start them
    #[arg(long)]
    no_start: bool,
    /// Print what would be done and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not start them, and print how another program does
    #[arg(long, value_enum, value_name = "libvirt|qemu")]
    print: Option<PrintWord>,
    /// Write a systemd unit for each, which starts it with the host
    #[arg(long)]
    systemd: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum FirmwareWord {
    /// What the image is made for
    Auto,
    /// SeaBIOS
    Bios,
    /// OVMF
    Uefi,
}

/// Whose words a machine is printed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum PrintWord {
    /// A domain XML
    Libvirt,
    /// A command line
    Qemu,
}

impl PrintWord {
    pub(crate) fn of(self, store: &Store, record: &InstanceRecord, host: &Host) -> Result<String> {
        Ok(match self {
            Self::Libvirt => print::libvirt(store, record, host)?,
            Self::Qemu => print::qemu(store, record, host)?,
        })
    }
}

#[derive(Serialize)]
struct PlanRecord<'a> {
    schema: &'static str,
    dry_run: bool,
    image: String,
    image_title: String,
    ssh_keys: usize,
    user_data_bytes: usize,
    instances: &'a [Planned],
}

#[derive(Serialize)]
struct Record {
    schema: &'static str,
    image: String,
    image_title: String,
    accelerator: &'static str,
    prepared_ms: f64,
    started_ms: f64,
    instances: Vec<OneRecord>,
}

#[derive(Serialize)]
struct OneRecord {
    #[serde(flatten)]
    view: InstanceView,
    error: Option<String>,
    unit: Option<PathBuf>,
    printed: Option<String>,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let found = subject::find(&args.image, session)?;
    let store = found.store.clone();
    let request = request(args, found, session)?;
    let plan = kiln_instance::plan(&store, request)?;
    if args.dry_run {
        return tell_plan(&plan, session);
    }
    let host = instances::host(&store, session)?;
    let image = (plan.image().id.to_string(), plan.image().title());
    let start = if args.no_start || args.print.is_some() { Start::No } else { Start::AtATime(args.start) };
    let launched = plan.run(start, &host, &session.reporter)?;
    session.reporter.clear();
    tell(args, &store, &host, image, launched, session)
}

fn request(args: &Args, found: StoredImage, session: &Session) -> Result<Request> {
    let image = Image { manifest: found.manifest, record: found.record, relation: found.relation };
    let mut request = Request::new(image);
    request.name.clone_from(&args.name);
    request.count = args.count;
    request.cpus = args.cpus;
    request.memory_bytes = args.memory.unwrap_or(DEFAULT_MEMORY);
    request.disk_bytes = args.disk;
    request.architecture.clone_from(&args.arch);
    request.firmware = match args.firmware {
        FirmwareWord::Auto => FirmwareWish::Auto,
        FirmwareWord::Bios => FirmwareWish::Given(MachineFirmware::Bios),
        FirmwareWord::Uefi => FirmwareWish::Given(MachineFirmware::Uefi),
    };
    request.network = network(args)?;
    request.on_unsound = if args.force { OnUnsound::Force } else { OnUnsound::Refuse };
    for word in &args.data_disk {
        request.data_disks.push(match size::parse(word) {
            Ok(bytes) => DataDiskWish::Empty(bytes),
            Err(_) => {
                let found = subject::find(word, session)?;
                let (manifest, record, relation) = (found.manifest, found.record, found.relation);
                DataDiskWish::Image(Box::new(Image { manifest, record, relation }))
            }
        });
    }
    for path in &args.ssh_key {
        let text = String::from_utf8_lossy(&read(path, 1 << 20)?).into_owned();
        request.ssh_keys.extend(PublicKeys::from_text(&text)?);
    }
    if let Some(path) = &args.user_data {
        let data = UserData::new(read(path, 9 << 20)?);
        request.user_data =
            Some(data.map_err(|problem| kiln_instance::Error::from(Refusal::UserData(problem)))?);
    }
    Ok(request)
}

fn network(args: &Args) -> Result<NetworkWish> {
    let word = args.network.as_str();
    let wish = match (word, word.strip_prefix("tap:")) {
        ("user", _) => return Ok(NetworkWish::User(args.forward.clone())),
        ("none", _) => NetworkWish::None,
        (_, Some(name)) => NetworkWish::Tap(name.to_owned()),
        _ => {
            let what = format!("{word:?} is no network");
            return Err(CliError::usage("usage.network", what, "use user, tap:NAME or none"));
        }
    };
    if args.forward.is_empty() {
        return Ok(wish);
    }
    let what = "only QEMU's own network leads ports into the guest";
    Err(CliError::usage("usage.forward", what, "leave --forward out, or use --network user"))
}

fn forward(text: &str) -> Result<Forward, String> {
    let ports =
        text.split_once(':').and_then(|(host, guest)| Some((host.parse().ok()?, guest.parse().ok()?)));
    match ports {
        Some((host, guest)) if host != 0 && guest != 0 => Ok(Forward { host, guest }),
        _ => Err(format!("{text:?} is not HOST:GUEST, two ports from 1 to 65535")),
    }
}

/// A file of the user, not longer than makes sense. Its content is never in an error.
fn read(path: &Path, at_most: u64) -> Result<Vec<u8>> {
    let failed = |source| kiln_disk::Error::io("read", path.display().to_string(), source);
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(at_most).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn tell_plan(plan: &Plan, session: &mut Session) -> Result<Answer> {
    let (ssh_keys, user_data_bytes) = plan.seed_facts();
    session.printer.json(&PlanRecord {
        schema: "kiln.launch.plan.v1",
        dry_run: true,
        image: plan.image().id.to_string(),
        image_title: plan.image().title(),
        ssh_keys,
        user_data_bytes,
        instances: plan.instances(),
    })?;
    for planned in plan.instances() {
        let machine = &planned.machine;
        let name = planned.name.as_ref().map_or_else(|| "(its id)".to_owned(), ToString::to_string);
        let disks: Vec<String> = machine.disks.iter().map(|disk| Size(disk.disk_bytes).to_string()).collect();
        let text = format!(
            "{name}: {} cpu, {} memory, disks {}, {:?}",
            machine.cpus,
            Size(machine.memory_bytes),
            disks.join(" + "),
            machine.firmware
        );
        session.printer.field("would launch", text);
    }
    Ok(Answer::Yes)
}

fn tell(
    args: &Args,
    store: &Store,
    host: &Host,
    image: (String, String),
    launched: Launched,
    session: &mut Session,
) -> Result<Answer> {
    let (mut records, mut first_error) = (Vec::new(), None);
    for (record, started) in launched.instances {
        let unit = if args.systemd { Some(print::write_unit(store, &record, &program()?)?) } else { None };
        let printed = args.print.map(|word| word.of(store, &record, host)).transpose()?;
        let error = started.err();
        records.push(OneRecord {
            view: InstanceView::of(store, &record)?,
            error: error.as_ref().map(ToString::to_string),
            unit,
            printed,
        });
        first_error = first_error.or(error);
    }
    let record = Record {
        schema: "kiln.launch.v1",
        image: image.0,
        image_title: image.1,
        accelerator: host.accelerator().word(),
        prepared_ms: launched.prepared_in.as_secs_f64() * 1000.0,
        started_ms: launched.started_in.as_secs_f64() * 1000.0,
        instances: records,
    };
    session.printer.json(&record)?;
    for one in &record.instances {
        if let Some(text) = &one.printed {
            text.lines().for_each(|line| session.printer.data(line));
            continue;
        }
        let word = if one.view.state == "running" { "launched" } else { "made" };
        let view = &one.view;
        let name = view.name.as_deref().map(|name| format!(" {name}")).unwrap_or_default();
        session.printer.field(word, format!("{}{name}: {}", view.id, view.machine()));
        if let Some(error) = &one.error {
            session.printer.field("", format!("not started: {error}"));
        }
        if let Some(unit) = &one.unit {
            session.printer.field("unit", unit.display());
        }
    }
    if args.print.is_none() {
        let count = record.instances.len();
        let each = record.prepared_ms / f64::from(u32::try_from(count.max(1)).unwrap_or(1));
        let text = format!(
            "{:.0} ms to prepare, {each:.1} ms each; {:.0} ms in all",
            record.prepared_ms, record.started_ms
        );
        session.printer.field("time", text);
    }
    match first_error {
        None => Ok(Answer::Yes),
        Some(error) => {
            // The instances that are there are told before the error is.
            session.printer.flush()?;
            Err(error.into())
        }
    }
}

/// This program, for whoever starts it later.
fn program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|source| kiln_disk::Error::io("find", "kiln itself", source).into())
}
