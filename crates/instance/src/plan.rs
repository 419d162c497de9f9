//! The plan of a launch: everything that can be known, and refused, before anything is made.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use kiln_catalog::machine::{DiskRole, Forward, Machine, MachineDisk, MachineFirmware, MachineNic, Network};
use kiln_catalog::rights::Action;
use kiln_catalog::{CheckRecord, Image, Manifest, Name, Store};
use serde::Serialize;

use crate::arch::{self, Architecture};
use crate::error::{Refusal, Result};
use crate::firmware;
use crate::identity;
use crate::keys::PublicKeys;
use crate::seed::UserData;

/// The most instances of one launch.
pub const MAX_COUNT: u64 = 1000;
/// The largest disk that an instance may have: 64 TiB, as imports allow.
const MAX_DISK_BYTES: u64 = 64 << 40;
/// Memory of a machine when nothing is said.
pub const DEFAULT_MEMORY: u64 = 1 << 30;
/// Host ports for ssh that nobody asked for come from here, below the range from which Linux takes its own.
const SSH_PORTS: std::ops::Range<u16> = 20_000..30_000;
const SSH: u16 = 22;
/// The name of the seed's file.
pub(crate) const SEED: &str = "seed.img";

/// What a network card should be connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkWish {
    /// QEMU's own network, with these ports led into the guest; one for ssh is added when none is among them.
    User(Vec<Forward>),
    /// A tap device that is there already.
    Tap(String),
    /// Nothing.
    None,
}

/// Which firmware to start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FirmwareWish {
    /// What the image is made for.
    #[default]
    Auto,
    /// This one.
    Given(MachineFirmware),
}

/// A data disk to add.
#[derive(Debug, Clone)]
pub enum DataDiskWish {
    /// An empty one of so many bytes.
    Empty(u64),
    /// One that begins as an image.
    Image(Box<Image>),
}

/// What to do about an image whose checks found damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnsound {
    /// Launch nothing.
    #[default]
    Refuse,
    /// Launch it all the same.
    Force,
}

/// What to launch, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// The image of the root disk.
    pub image: Image,
    /// The name; with several instances its beginning.
    pub name: Option<Name>,
    /// How many instances; more than one get `-1`, `-2`, ... behind the name.
    pub count: u64,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Length of the root disk in bytes; the image's when absent.
    pub disk_bytes: Option<u64>,
    /// Disks beside the root disk.
    pub data_disks: Vec<DataDiskWish>,
    /// Keys that may log in.
    pub ssh_keys: PublicKeys,
    /// What cloud-init is given.
    pub user_data: Option<UserData>,
    /// The network card's connection.
    pub network: NetworkWish,
    /// How it starts.
    pub firmware: FirmwareWish,
    /// Guest architecture; the image's, else `x86_64`.
    pub architecture: Option<String>,
    /// When the image's checks found damage.
    pub on_unsound: OnUnsound,
}

impl Request {
    /// A request with the defaults: one machine of one processor and 1 GiB on QEMU's own network.
    #[must_use]
    pub fn new(image: Image) -> Self {
        Self {
            image,
            name: None,
            count: 1,
            cpus: 1,
            memory_bytes: DEFAULT_MEMORY,
            disk_bytes: None,
            data_disks: Vec::new(),
            ssh_keys: PublicKeys::default(),
            user_data: None,
            network: NetworkWish::User(Vec::new()),
            firmware: FirmwareWish::Auto,
            architecture: None,
            on_unsound: OnUnsound::Refuse,
        }
    }
}

/// An instance that will be made.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// Its name.
    pub name: Option<Name>,
    /// What it will be made of.
    pub machine: Machine,
}

/// A launch that was looked at and may be run.
#[derive(Debug)]
pub struct Plan {
    pub(crate) store: Store,
    pub(crate) image: Manifest,
    pub(crate) architecture: &'static Architecture,
    pub(crate) ssh_keys: PublicKeys,
    pub(crate) user_data: Option<UserData>,
    pub(crate) instances: Vec<Planned>,
}

impl Plan {
    /// What will be made.
    #[must_use]
    pub fn instances(&self) -> &[Planned] {
        &self.instances
    }

    /// The image that they are started from.
    #[must_use]
    pub fn image(&self) -> &Manifest {
        &self.image
    }

    /// How many keys and how many bytes of user data they get: all that is told of either.
    #[must_use]
    pub fn seed_facts(&self) -> (usize, usize) {
        (self.ssh_keys.lines().len(), self.user_data.as_ref().map_or(0, UserData::byte_len))
    }
}

/// Looks at a request.
///
/// # Errors
/// [`Refusal`], the rights table's, a taken name; what the image's disk says. Nothing is made.
pub fn plan(store: &Store, request: Request) -> Result<Plan> {
    amount("the number of instances", request.count, 1, MAX_COUNT)?;
    amount("the number of processors", u64::from(request.cpus), 1, 255)?;
    amount("the memory", request.memory_bytes, 16 << 20, 4 << 40)?;
    amount("the number of data disks", count(&request.data_disks), 0, 16)?;
    may_start(store, &request.image, request.on_unsound)?;
    let image = &request.image.manifest;
    let wanted = request.architecture.as_deref().or(image.architecture.as_deref());
    let architecture = arch::find(wanted)?;
    let firmware = match request.firmware {
        FirmwareWish::Given(firmware) => firmware,
        FirmwareWish::Auto => firmware::of_image(store, image)?,
    };
    let mut disks = vec![root_disk(image, request.disk_bytes)?];
    for wish in &request.data_disks {
        let number = disks.len();
        disks.push(match wish {
            DataDiskWish::Empty(bytes) => {
                amount("a data disk", *bytes, 512, MAX_DISK_BYTES)?;
                disk(number, bytes.next_multiple_of(512), None)
            }
            DataDiskWish::Image(image) => {
                may_launch(store, image, request.on_unsound)?;
                disk(number, image.manifest.disk_bytes.next_multiple_of(512), Some(&image.manifest))
            }
        });
    }
    let names = names(request.name.as_ref(), request.count)?;
    store.check_instance_names(names.iter().flatten())?;
    let mut taken = Taken::of(store)?;
    let mut instances = Vec::new();
    for (number, name) in (0_u16..).zip(names) {
        let network = network(&request.network, number, &mut taken)?;
        let mac = taken.fresh_mac()?;
        let uuid = identity::uuid()?;
        instances.push(Planned {
            name,
            machine: Machine {
                architecture: architecture.name.to_owned(),
                cpus: request.cpus,
                memory_bytes: request.memory_bytes,
                firmware,
                // ConfigDrive takes the UUID for the instance-id and compares it with SMBIOS: one identity for all.
                instance_id: uuid.clone(),
                uuid,
                disks: disks.clone(),
                nics: vec![MachineNic { mac, network }],
                seed: Some(SEED.to_owned()),
                aside: std::collections::BTreeMap::new(),
            },
        });
    }
    Ok(Plan {
        store: store.clone(),
        image: request.image.manifest,
        architecture,
        ssh_keys: request.ssh_keys,
        user_data: request.user_data,
        instances,
    })
}

/// The root disk of an instance of an image.
pub(crate) fn root_disk(image: &Manifest, wanted: Option<u64>) -> Result<MachineDisk> {
    let least = image.disk_bytes.next_multiple_of(512);
    let bytes = wanted.unwrap_or(least);
    if bytes < image.disk_bytes {
        return Err(Refusal::Shrink { asked: bytes, image: image.disk_bytes }.into());
    }
    amount("the disk", bytes, 512, MAX_DISK_BYTES)?;
    Ok(disk(0, bytes.next_multiple_of(512), Some(image)))
}

fn disk(number: usize, disk_bytes: u64, image: Option<&Manifest>) -> MachineDisk {
    MachineDisk {
        id: format!("disk{number}"),
        file: format!("disk{number}.qcow2"),
        disk_bytes,
        role: if number == 0 { DiskRole::Root } else { DiskRole::Data },
        image: image.map(|image| image.id.clone()),
        layers: image
            .map_or_else(Vec::new, |image| image.layers.iter().map(|layer| layer.digest.clone()).collect()),
        captured: None,
    }
}

/// The rights table, and what is known about the image.
pub(crate) fn may_launch(store: &Store, image: &Image, on_unsound: OnUnsound) -> Result<()> {
    store.permit(Action::Launch, image)?;
    let checks: &CheckRecord = image.record.screened.as_ref().unwrap_or(&image.manifest.checks);
    let failing = checks.findings.iter().filter(|finding| finding.severity.fails());
    let findings: Vec<String> = failing.map(|finding| finding.id.clone()).collect();
    let damaged = image.record.verified.as_ref().is_some_and(|verified| !verified.intact);
    if on_unsound == OnUnsound::Force || (findings.is_empty() && !damaged) {
        return Ok(());
    }
    let findings = if findings.is_empty() { vec!["the last kiln verify".to_owned()] } else { findings };
    Err(Refusal::Unsound { image: image.manifest.title(), findings }.into())
}

/// As [`may_launch`], and what is known about the guest: an image that machines are to start from.
pub(crate) fn may_start(store: &Store, image: &Image, on_unsound: OnUnsound) -> Result<()> {
    may_launch(store, image, on_unsound)?;
    match image.guest().and_then(kiln_catalog::GuestRecord::stops_here) {
        Some(verdict) if on_unsound == OnUnsound::Refuse => Err(Refusal::Guest {
            image: image.manifest.title(),
            because: verdict.because.clone().unwrap_or_default(),
        }
        .into()),
        _ => Ok(()),
    }
}

fn amount(what: &'static str, asked: u64, least: u64, most: u64) -> Result<()> {
    if (least..=most).contains(&asked) {
        Ok(())
    } else {
        Err(Refusal::Amount { what, asked, least, most }.into())
    }
}

fn count<T>(things: &[T]) -> u64 {
    u64::try_from(things.len()).unwrap_or(u64::MAX)
}

/// `web`, or `web-1`, `web-2`, ...
fn names(name: Option<&Name>, count: u64) -> Result<Vec<Option<Name>>> {
    let Some(name) = name else { return Ok((0..count).map(|_| None).collect()) };
    if count == 1 {
        return Ok(vec![Some(name.clone())]);
    }
    let numbered = |number| format!("{name}-{number}").parse::<Name>();
    Ok((1..=count).map(|number| numbered(number).map(Some)).collect::<Result<_, _>>()?)
}

/// What other instances have, running or not.
struct Taken {
    macs: BTreeSet<String>,
    ports: BTreeSet<u16>,
}

impl Taken {
    fn of(store: &Store) -> Result<Self> {
        let mut taken = Self { macs: BTreeSet::new(), ports: BTreeSet::new() };
        for record in store.instances()? {
            for nic in record.machine.nics {
                taken.macs.insert(nic.mac);
                if let Network::User { forwards } = nic.network {
                    taken.ports.extend(forwards.iter().map(|forward| forward.host));
                }
            }
        }
        Ok(taken)
    }

    fn fresh_mac(&mut self) -> Result<String> {
        loop {
            let mac = identity::mac()?;
            if self.macs.insert(mac.clone()) {
                return Ok(mac);
            }
        }
    }

    /// A port that was asked for.
    fn take(&mut self, port: u16) -> Result<u16> {
        if !self.ports.insert(port) {
            return Err(Refusal::Port { port, why: "is another instance's" }.into());
        }
        if is_free(port) { Ok(port) } else { Err(Refusal::Port { port, why: "is in use" }.into()) }
    }

    /// Any port for ssh.
    fn ssh_port(&mut self) -> Result<u16> {
        let start = identity::number(SSH_PORTS.end - SSH_PORTS.start)?;
        for step in 0..(SSH_PORTS.end - SSH_PORTS.start) {
            let port = SSH_PORTS.start + (start + step) % (SSH_PORTS.end - SSH_PORTS.start);
            if !self.ports.contains(&port) && is_free(port) {
                self.ports.insert(port);
                return Ok(port);
            }
        }
        Err(Refusal::Port { port: SSH_PORTS.start, why: "and all above it up to 29999 are taken" }.into())
    }
}

/// Whether nobody listens there now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// The connection of the instance `number` of a launch: its host ports are so much higher than the first one's.
fn network(wish: &NetworkWish, number: u16, taken: &mut Taken) -> Result<Network> {
    Ok(match wish {
        NetworkWish::None => Network::None,
        NetworkWish::Tap(name) => {
            let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '.' | '_' | '-');
            if name.is_empty() || name.len() > 15 || !name.chars().all(plain) {
                return Err(
                    Refusal::Network { what: "the name of a tap device has 1 to 15 characters" }.into()
                );
            }
            if number > 0 {
                return Err(Refusal::Network { what: "one tap device serves one instance" }.into());
            }
            Network::Tap { name: name.clone() }
        }
        NetworkWish::User(wishes) => {
            let mut forwards = Vec::new();
            for forward in wishes {
                let host =
                    forward.host.checked_add(number).filter(|_| forward.host != 0 && forward.guest != 0);
                let host = host.ok_or(Refusal::Network { what: "ports are 1 to 65535" })?;
                forwards.push(Forward { host: taken.take(host)?, guest: forward.guest });
            }
            if forwards.iter().all(|forward| forward.guest != SSH) {
                forwards.push(Forward { host: taken.ssh_port()?, guest: SSH });
            }
            Network::User { forwards }
        }
    })
}
