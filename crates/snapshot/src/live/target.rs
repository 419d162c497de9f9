//! What there is to capture in a running machine.

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use kiln_catalog::machine::{AGENT_SOCKET, MachineDisk, QMP_SOCKET};
use kiln_catalog::{CaptureSource, InstanceRecord, MachineFacts, Store};
use serde_json::{Value, json};

use super::monitor::{Address, Monitor};
use super::point::{Way, node_name, nodes};
use crate::error::{Refusal, Result};
use crate::plan::{chosen, pick, words};
use crate::request::{Request, Which};
use crate::stopped::machine_of;

/// A running machine and the disks that are asked for.
pub(crate) struct Target {
    /// It, in words.
    pub(crate) words: String,
    pub(crate) qmp: Address,
    pub(crate) agent: Option<Address>,
    pub(crate) disks: Vec<TargetDisk>,
    /// The instance that it is.
    pub(crate) instance: Option<InstanceRecord>,
    pub(crate) machine: MachineFacts,
    /// Keeps other captures of it out.
    _lock: Lock,
}

/// One capture of a machine at a time: each takes away what others left in it.
enum Lock {
    /// A file in the instance's folder.
    File(#[expect(dead_code, reason = "held")] File),
    /// A name that dies with its process, for machines that have no folder of ours.
    Name(#[expect(dead_code, reason = "held")] UnixListener),
}

impl Lock {
    fn by_name(words: &str, machine: &str) -> Result<Self> {
        let mut hasher = std::hash::DefaultHasher::new();
        machine.hash(&mut hasher);
        let name = format!("kiln-capture-{:016x}", hasher.finish());
        let address = SocketAddr::from_abstract_name(name.as_bytes());
        match address.and_then(|address| UnixListener::bind_addr(&address)) {
            Ok(listener) => Ok(Self::Name(listener)),
            Err(_) => Err(Target::refuse(words, "another capture of it is at work".to_owned())),
        }
    }
}

impl Target {
    /// Whether its QEMU has ended.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.qmp.monitor(), Err(crate::Error::Qemu(error)) if error.is_gone())
    }

    fn refuse(words: &str, problem: String) -> crate::Error {
        Refusal::Machine { machine: words.to_owned(), problem }.into()
    }
}

/// A disk of a running machine.
pub(crate) struct TargetDisk {
    pub(crate) id: String,
    pub(crate) len: u64,
    /// The node that is captured.
    pub(crate) node: String,
    pub(crate) way: Way,
    /// Format of the node.
    pub(crate) format: String,
    pub(crate) source: CaptureSource,
    /// What the instance's record says of it.
    pub(crate) record: Option<MachineDisk>,
}

/// A running instance of the store.
pub(crate) fn instance(store: &Store, record: InstanceRecord, request: &Request) -> Result<Target> {
    let dir = store.instance_dir(&record.id);
    let words = words(&record);
    let lock_path = dir.join("capture.lock");
    let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
    let lock =
        lock.map_err(|source| kiln_disk::Error::io("open", lock_path.display().to_string(), source))?;
    if lock.try_lock().is_err() {
        return Err(Target::refuse(&words, "another capture of it is at work".to_owned()));
    }
    let qmp = Address::Socket { dir: dir.clone(), name: QMP_SOCKET.to_owned() };
    let mut monitor = qmp.monitor()?;
    let nodes = nodes(monitor.as_mut())?;
    let mut disks = Vec::new();
    for disk in chosen(&record, &request.which)? {
        let overlay = format!("{}-overlay", disk.id);
        let find = |name: &str, driver: &str| {
            let node = nodes.iter().find(|node| node_name(node) == Some(name));
            node.filter(|node| node.get("drv").and_then(Value::as_str) == Some(driver))
                .ok_or_else(|| Target::refuse(&words, format!("its QEMU has no {driver} node {name:?}")))
        };
        find(&disk.id, "raw")?;
        let len = len_of(find(&overlay, "qcow2")?);
        disks.push(TargetDisk {
            id: disk.id.clone(),
            len: len.unwrap_or(disk.disk_bytes),
            node: overlay,
            way: Way::Raw { node: disk.id.clone() },
            format: "qcow2".to_owned(),
            source: CaptureSource::Instance {
                id: record.id.clone(),
                name: record.name.as_ref().map(ToString::to_string),
                disk: disk.id.clone(),
            },
            record: Some(disk.clone()),
        });
    }
    let machine = MachineFacts { qemu: version(monitor.as_mut())?, ..machine_of(&record) };
    let agent =
        dir.join(AGENT_SOCKET).exists().then(|| Address::Socket { dir, name: AGENT_SOCKET.to_owned() });
    let instance = Some(record);
    Ok(Target { words, qmp, agent, disks, instance, machine, _lock: Lock::File(lock) })
}

/// A QEMU that somebody else started.
pub(crate) fn foreign(socket: &Path, agent: Option<&Path>, request: &Request) -> Result<Target> {
    let qmp = Address::of(socket);
    let words = format!("the machine at {}", socket.display());
    let place = socket.canonicalize().unwrap_or_else(|_| socket.to_owned());
    let lock = Lock::by_name(&words, &place.to_string_lossy())?;
    let mut monitor = qmp.monitor()?;
    let name = monitor.execute("query-name", json!({}))?;
    let name = name.get("name").and_then(Value::as_str).map(printable);
    let source = |disk: &str| CaptureSource::Qemu { name: name.clone(), disk: disk.to_owned() };
    let disks = devices(monitor.as_mut(), &words, &source, &request.which)?;
    let machine = facts(monitor.as_mut())?;
    let agent = agent.map(Address::of);
    Ok(Target { words, qmp, agent, disks, instance: None, machine, _lock: lock })
}

/// A domain of libvirt, through `virsh`.
pub(crate) fn domain(name: &str, request: &Request) -> Result<Target> {
    let qmp = Address::Domain { name: name.to_owned() };
    let words = format!("the domain {name}");
    let lock = Lock::by_name(&words, &format!("libvirt:{name}"))?;
    let mut monitor = qmp.monitor()?;
    let source = |disk: &str| CaptureSource::Libvirt { domain: name.to_owned(), disk: disk.to_owned() };
    let disks = devices(monitor.as_mut(), &words, &source, &request.which)?;
    let machine = facts(monitor.as_mut())?;
    let agent = Some(qmp.clone());
    Ok(Target { words, qmp, agent, disks, instance: None, machine, _lock: lock })
}

/// The writable disks of a machine, in QEMU's order.
fn devices(
    monitor: &mut dyn Monitor,
    words: &str,
    source: &dyn Fn(&str) -> CaptureSource,
    which: &Which,
) -> Result<Vec<TargetDisk>> {
    let listed = monitor.execute("query-block", json!({}))?;
    let mut found = Vec::new();
    for device in listed.as_array().into_iter().flatten() {
        let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let flag = |value: &Value, field: &str| value.get(field).and_then(Value::as_bool).unwrap_or(false);
        let Some(inserted) = device.get("inserted").filter(|_| !flag(device, "removable")) else { continue };
        let (Some(node), Some(path)) = (text(inserted, "node-name"), text(device, "qdev")) else { continue };
        if flag(inserted, "ro") {
            continue;
        }
        // "/machine/peripheral/disk0/virtio-backend", or the id alone.
        let part = path.trim_end_matches("/virtio-backend").rsplit('/').next().unwrap_or(&path);
        let id =
            text(device, "device").filter(|device| !device.is_empty()).unwrap_or_else(|| part.to_owned());
        let id = printable(&id);
        let len = inserted.get("image").and_then(|image| image.get("virtual-size")?.as_u64());
        found.push(TargetDisk {
            len: len.ok_or_else(|| Target::refuse(words, format!("its disk {id} has no size")))?,
            source: source(&id),
            format: text(inserted, "drv").unwrap_or_else(|| "raw".to_owned()),
            id,
            node,
            way: Way::Drive { path },
            record: None,
        });
    }
    let ids: Vec<String> = found.iter().map(|disk| disk.id.clone()).collect();
    let wanted = pick(&ids, which)?;
    Ok(found
        .into_iter()
        .enumerate()
        .filter(|(index, _)| wanted.contains(index))
        .map(|(_, disk)| disk)
        .collect())
}

fn len_of(node: &Value) -> Option<u64> {
    node.get("image")?.get("virtual-size")?.as_u64()
}

fn facts(monitor: &mut dyn Monitor) -> Result<MachineFacts> {
    let target = monitor.execute("query-target", json!({})).ok();
    let cpus = monitor.execute("query-cpus-fast", json!({})).ok();
    let memory = monitor.execute("query-memory-size-summary", json!({})).ok();
    Ok(MachineFacts {
        architecture: target.and_then(|target| Some(printable(target.get("arch")?.as_str()?))),
        cpus: cpus.and_then(|cpus| u32::try_from(cpus.as_array()?.len()).ok()),
        memory_bytes: memory.and_then(|memory| memory.get("base-memory")?.as_u64()),
        firmware: None,
        qemu: version(monitor)?,
    })
}

fn version(monitor: &mut dyn Monitor) -> Result<Option<String>> {
    let version = monitor.execute("query-version", json!({}))?;
    let number = |field: &str| version.get("qemu").and_then(|qemu| qemu.get(field)?.as_u64());
    Ok(match (number("major"), number("minor"), number("micro")) {
        (Some(major), Some(minor), Some(micro)) => Some(format!("{major}.{minor}.{micro}")),
        _ => None,
    })
}

/// Words of a stranger, fit for records and names.
fn printable(text: &str) -> String {
    text.chars().filter(|char| !char.is_control()).take(64).collect()
}
