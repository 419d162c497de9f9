//! Facts about a Windows: what its files and its registry say, gathered without judging them.

mod policy;
mod registry;
mod start;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use kiln_disk::interned::Word;
use kiln_disk::{Disk, Error, Result};
use serde::{Deserialize, Serialize};

use super::Seen;
use super::os::Os;
use crate::fs::{FileSystem, FsError, Root, open};
use crate::hive::{Hive, Source};
use crate::tree::Tree;
use crate::volume::{Content, Layout};

pub(crate) use policy::servicing;
pub use policy::{Answer, Firewall, Said, Update};
pub use start::{Bcd, Chain};

/// Where Windows keeps its hives.
const CONFIG: &str = "/Windows/System32/config";

/// A hive of the guest.
type File<'a> = Hive<HiveFile<'a>>;

/// Everything known about a Windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Windows {
    /// Index of its volume, drive C.
    pub volume: usize,
    /// Which one it is.
    pub version: Version,
    /// SYSTEM and SOFTWARE.
    pub hives: Vec<HiveFacts>,
    /// The number of the control set that is started.
    pub control_set: Option<u32>,
    /// `PROCESSOR_ARCHITECTURE` of its environment.
    pub processor: Option<String>,
    /// Drivers of disks, buses and network cards that places need.
    pub drivers: Vec<Driver>,
    /// Hardware ids of virtio devices to which a driver is bound.
    pub bound: Vec<String>,
    /// Filter drivers of disks, controllers and volumes.
    pub filters: Vec<Filter>,
    /// The memory of a machine that was not shut down.
    pub hibernated: bool,
    /// `ImageState` of its setup.
    pub image_state: Option<String>,
    /// Its setup is not finished.
    pub in_setup: bool,
    /// An update waits for the next start.
    pub update_pending: bool,
    /// Remote Desktop is refused.
    pub remote_desktop_denied: Option<bool>,
    /// Somebody is logged in at every start, by a password in the registry.
    pub auto_logon: bool,
    /// The hardware clock is taken for UTC.
    pub clock_utc: bool,
    /// Network cards with a fixed address: key and address.
    pub fixed_addresses: Vec<(String, String)>,
    /// Agents that set up a new machine: their services.
    pub agents: Vec<String>,
    /// The updates among those that rules ask for.
    pub updates: Answer<Vec<Update>>,
    /// What was installed waits for a start (`RebootPending`).
    pub reboot_pending: bool,
    /// What keeps devices from being installed.
    pub device_install: Answer<Vec<Said>>,
    /// Virus scanners among its programs.
    pub scanners: Vec<Said>,
    /// Its firewall.
    pub firewall: Answer<Firewall>,
    /// `PagingFiles`: "C:\\pagefile.sys 0 0".
    pub page_files: Answer<Vec<String>>,
    /// The server that it asks for a licence.
    pub licence_server: Option<String>,
    /// How a BIOS starts it.
    pub bios: Option<Chain>,
    /// How UEFI starts it.
    pub uefi: Option<Chain>,
}

/// What SOFTWARE says of the system.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// "Windows Server 2022 Datacenter".
    pub product: String,
    /// "10.0".
    pub number: String,
    /// "20348".
    pub build: String,
    /// Update build revision.
    pub revision: Option<u32>,
    /// "21H2".
    pub display: String,
    /// "ServerDatacenter".
    pub edition: String,
    /// "Server", "Server Core", "Client".
    pub installation: String,
}

impl Version {
    /// The build as a number; 0 when it is not known.
    #[must_use]
    pub fn build_number(&self) -> u32 {
        self.build.parse().unwrap_or(0)
    }

    /// What it calls itself.
    #[must_use]
    pub fn product_or_windows(&self) -> &str {
        if self.product.is_empty() { "Windows" } else { &self.product }
    }

    /// Whether it is a server.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.installation.starts_with("Server") || self.product.contains("Server")
    }
}

/// A hive's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiveFacts {
    /// "SYSTEM".
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub name: Word,
    /// Its path.
    pub path: String,
    /// Why it cannot be read.
    pub fault: Option<String>,
    /// It was being written: its logs hold more than it does.
    pub dirty: bool,
    /// One of its logs is there and not empty.
    pub logs: bool,
}

/// A driver's service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Driver {
    /// Its key in `Services`.
    pub service: String,
    /// `Start`: 0 boot, 1 system, 2 automatic, 3 on demand, 4 disabled.
    pub start: Option<u32>,
    /// `StartOverride\0`: what Windows 8 and later wrote there because the device was not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_override: Option<u32>,
    /// Its program.
    pub path: String,
    /// What is wrong with the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl Driver {
    /// Whether the loader takes it along.
    #[must_use]
    pub fn starts_at_boot(&self) -> bool {
        self.start == Some(0) && self.start_override.is_none_or(|start| start == 0) && self.fault.is_none()
    }
}

/// A filter driver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// What it filters: "disks".
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub class: Word,
    /// The key that names it.
    pub key: String,
    /// Its service.
    pub service: String,
    /// What is wrong with it.
    pub fault: Option<String>,
}

/// The volumes of all Windows systems, and the file system of the first.
pub(super) fn find(layout: &Layout, problems: &mut Vec<String>) -> Result<Found> {
    let mut found = Found { volumes: Vec::new(), first: None };
    for (index, volume) in layout.volumes.iter().enumerate() {
        if volume.probed.content != Content::Ntfs {
            continue;
        }
        let opened = open(&volume.disk, Content::Ntfs, &Root::Default);
        match opened.and_then(|fs| Ok((is_system(fs.as_ref())?, fs))) {
            Ok((true, fs)) => {
                found.volumes.push(index);
                found.first.get_or_insert(fs);
            }
            Ok(_) => {}
            Err(FsError::Disk(error @ (Error::Io { .. } | Error::Cancelled))) => return Err(error),
            Err(error) => problems.push(format!("{}: {}", volume.place, super::root::told(&error))),
        }
    }
    Ok(found)
}

/// What [`find`] found.
pub(super) struct Found {
    pub(super) volumes: Vec<usize>,
    pub(super) first: Option<Box<dyn FileSystem>>,
}

fn is_system(fs: &dyn FileSystem) -> Result<bool, FsError> {
    for sign in ["/Windows/System32/config", "/Windows/System32/ntoskrnl.exe"] {
        match fs.stat(sign.as_bytes()) {
            Ok(_) => return Ok(true),
            Err(FsError::NotFound) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Reads what is to be known of the Windows in `tree`.
pub(super) fn read(
    disks: &[Arc<dyn Disk>],
    layout: &Layout,
    tree: &Tree,
    volume: usize,
    esps: &[(usize, Tree)],
) -> Result<(Windows, Os)> {
    let mut windows = Windows {
        volume,
        version: Version::default(),
        hives: Vec::new(),
        control_set: None,
        processor: None,
        drivers: Vec::new(),
        bound: Vec::new(),
        filters: Vec::new(),
        hibernated: hibernated(tree),
        image_state: None,
        in_setup: false,
        update_pending: tree.exists("/Windows/WinSxS/pending.xml"),
        remote_desktop_denied: None,
        auto_logon: false,
        clock_utc: false,
        fixed_addresses: Vec::new(),
        agents: Vec::new(),
        updates: Answer::Read(Vec::new()),
        reboot_pending: false,
        device_install: Answer::Read(Vec::new()),
        scanners: Vec::new(),
        firewall: Answer::Unread(String::new()),
        page_files: Answer::Read(Vec::new()),
        licence_server: None,
        bios: start::bios(disks, layout, tree)?,
        uefi: start::uefi(layout, esps, tree),
    };
    let mut host = None;
    let system = hive(tree, "SYSTEM", &mut windows);
    if let Some(system) = &system {
        let read = registry::system(system, tree, &mut windows);
        host = noted(read, "SYSTEM", &mut windows).flatten();
    }
    let software = hive(tree, "SOFTWARE", &mut windows);
    if let Some(software) = &software {
        let read = registry::software(software, &mut windows);
        noted(read, "SOFTWARE", &mut windows);
    }
    policy::read(system.as_ref(), software.as_ref(), &mut windows);
    let program = "/Windows/System32/ntoskrnl.exe";
    let kernel = tree.head(program, 4096).ok().and_then(|head| super::boot::pe(&head));
    // A kernel that is packed is asked for in the registry.
    let said = windows.processor.as_deref().and_then(|word| match word.to_uppercase().as_str() {
        "AMD64" => Some(("x86_64", "SYSTEM")),
        "X86" => Some(("i386", "SYSTEM")),
        "ARM64" => Some(("aarch64", "SYSTEM")),
        _ => None,
    });
    let architecture = kernel.map(|it| (it, program.to_owned()));
    let architecture =
        architecture.or(said.map(|(it, hive)| (it, format!("{CONFIG}/{hive}\\{}", registry::ENVIRONMENT))));
    let os = registry::os(&windows.version, architecture, host);
    Ok((windows, os))
}

/// Opens a hive and notes how it is.
fn hive<'a>(tree: &'a Tree, name: &'static str, windows: &mut Windows) -> Option<File<'a>> {
    let path = format!("{CONFIG}/{name}");
    let logs = ["LOG1", "LOG2", "LOG"]
        .iter()
        .any(|log| tree.stat(&format!("{path}.{log}")).is_ok_and(|stat| stat.len > 0));
    let mut facts = HiveFacts { name, path: path.clone(), fault: None, dirty: false, logs };
    let opened = match tree.stat(&path) {
        Err(FsError::NotFound) => Err("is not there".to_owned()),
        Err(error) => Err(super::root::told(&error)),
        Ok(stat) if stat.len == 0 => Err("is empty".to_owned()),
        Ok(stat) => match tree.head(&path, 1) {
            Err(error) => Err(super::root::told(&error)),
            Ok(_) => Hive::open(HiveFile { tree, path, len: stat.len, blocks: RefCell::default() })
                .map_err(|fault| fault.to_string()),
        },
    };
    let hive = match opened {
        Ok(hive) => {
            facts.dirty = hive.is_dirty();
            Some(hive)
        }
        Err(fault) => {
            facts.fault = Some(fault);
            None
        }
    };
    windows.hives.push(facts);
    hive
}

/// What was read, or a note in the hive's facts of why it was not.
fn noted<T>(read: crate::hive::Result<T>, name: &str, windows: &mut Windows) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(fault) => {
            if let Some(facts) = windows.hives.iter_mut().find(|facts| facts.name == name) {
                facts.fault = Some(fault.to_string());
            }
            None
        }
    }
}

/// Whether `hiberfil.sys` holds a machine's memory: it begins with "HIBR" ("hibr" before Windows 8), with "WAKE" once
/// the machine was woken.
fn hibernated(tree: &Tree) -> bool {
    tree.head("/hiberfil.sys", 4).is_ok_and(|head| head.eq_ignore_ascii_case(b"hibr"))
}

/// Bytes of a hive that are held at a time, and how many of them.
const BLOCK: u64 = 64 << 10;
const BLOCKS: usize = 256;

/// A hive in the guest's tree, read in blocks that are remembered.
pub(super) struct HiveFile<'a> {
    tree: &'a Tree,
    path: String,
    len: u64,
    blocks: RefCell<HashMap<u64, Vec<u8>>>,
}

impl<'a> HiveFile<'a> {
    pub(super) fn new(tree: &'a Tree, path: &str) -> Option<Self> {
        let len = tree.stat(path).ok()?.len;
        Some(Self { tree, path: path.to_owned(), len, blocks: RefCell::default() })
    }
}

impl Source for HiveFile<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let end = at.checked_add(u64::try_from(len).ok()?)?.min(self.len);
        let (mut at, mut bytes) = (at, Vec::new());
        let mut blocks = self.blocks.borrow_mut();
        while at < end {
            let index = at / BLOCK;
            if !blocks.contains_key(&index) {
                if blocks.len() >= BLOCKS {
                    blocks.clear();
                }
                let size = usize::try_from(BLOCK).ok()?;
                let block = self.tree.read_at(&self.path, index.checked_mul(BLOCK)?, size).ok()?;
                blocks.insert(index, block);
            }
            let block = blocks.get(&index)?;
            let from = usize::try_from(at % BLOCK).ok()?;
            let left = usize::try_from(end.saturating_sub(at)).ok()?;
            let part = block
                .get(from..from.saturating_add(left).min(block.len()))
                .filter(|part| !part.is_empty())?;
            bytes.extend_from_slice(part);
            at = at.saturating_add(u64::try_from(part.len()).ok()?);
        }
        Some(bytes)
    }
}

impl Windows {
    /// A driver by its service.
    #[must_use]
    pub fn driver(&self, service: &str) -> Option<&Driver> {
        self.drivers.iter().find(|driver| driver.service.eq_ignore_ascii_case(service))
    }

    /// A hive by its name.
    #[must_use]
    pub fn hive(&self, name: &str) -> Option<&HiveFacts> {
        self.hives.iter().find(|hive| hive.name == name)
    }

    /// Where the registry says something.
    #[must_use]
    pub fn seen(&self, hive: &str, key: &str) -> Seen {
        let set = self.control_set.unwrap_or(1);
        Seen::file(format!("{CONFIG}/{hive}\\{}", key.replace("CURRENT", &format!("ControlSet{set:03}"))))
    }
}
