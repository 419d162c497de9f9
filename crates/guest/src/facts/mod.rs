//! Facts about the guest, gathered without judging them.

pub mod access;
pub mod boot;
pub mod cloud;
pub mod freed;
pub mod fstab;
pub mod kernel;
pub mod loader;
pub mod media;
pub mod network;
pub mod options;
pub mod origin;
pub mod os;
pub mod program;
pub(crate) mod root;
pub mod secrets;
pub mod setuid;
pub mod windows;
mod yaml;

use std::sync::Arc;

use kiln_disk::interned::Word;
use kiln_disk::partition::{GptCopy, PartitionTable, TableFault};
use kiln_disk::{Budget, Disk, Result};
use serde::{Deserialize, Serialize};

use crate::tree::Tree;
use crate::volume::{Content, FsState, Layout, Volume, layout};

/// A place in the guest that a person can look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Seen {
    /// A file of the guest.
    File {
        /// Its path.
        path: String,
        /// Its line, from 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        line: Option<u32>,
    },
    /// A byte of the disk.
    Disk {
        /// Which.
        disk_byte: u64,
    },
    /// A volume, in words.
    Volume {
        /// Which.
        volume: String,
    },
}

impl Seen {
    /// A file.
    #[must_use]
    pub fn file(path: impl Into<String>) -> Self {
        Self::File { path: path.into(), line: None }
    }

    /// A line of a file.
    #[must_use]
    pub fn line(path: impl Into<String>, line: u32) -> Self {
        Self::File { path: path.into(), line: Some(line) }
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File { path, line: None } => f.write_str(path),
            Self::File { path, line: Some(line) } => write!(f, "{path}:{line}"),
            Self::Disk { disk_byte } => write!(f, "disk byte {disk_byte}"),
            Self::Volume { volume } => f.write_str(volume),
        }
    }
}

/// A disk's partition table in the report.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TableFacts {
    /// Length of the disk in bytes.
    pub disk_len: u64,
    /// The scheme, sector and what the first sector says.
    pub scheme: kiln_disk::partition::Scheme,
    /// Bytes in a sector.
    pub sector_len: u64,
    /// The first sector.
    pub mbr: kiln_disk::partition::MbrFacts,
    /// The GPT.
    pub gpt: Option<kiln_disk::partition::GptTable>,
    /// The partitions.
    pub partitions: Vec<kiln_disk::partition::Partition>,
    /// What is wrong with it, in words.
    pub faults: Vec<String>,
    /// The same, typed.
    #[serde(skip)]
    pub typed_faults: Vec<TableFault>,
}

/// A mounted volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountFacts {
    /// Where.
    pub at: String,
    /// Index in `volumes`.
    pub volume: usize,
}

/// Everything known about a guest.
#[derive(Clone, Serialize, Deserialize)]
pub struct GuestReport {
    /// `kiln.guest.v1`.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub schema: Word,
    /// The partition table of each disk.
    pub tables: Vec<TableFacts>,
    /// Everything that may hold a file system.
    pub volumes: Vec<Volume>,
    /// Volume groups of LVM2.
    pub groups: Vec<crate::volume::lvm::Group>,
    /// Volumes that look like the root of a system; the first is the one described.
    pub roots: Vec<usize>,
    /// What was mounted to look at it.
    pub mounts: Vec<MountFacts>,
    /// The system.
    pub os: Option<os::Os>,
    /// How the machine starts.
    pub boot: boot::Boot,
    /// The kernels with their initramfs and modules.
    pub kernels: Vec<kernel::Kernel>,
    /// `/etc/fstab`.
    pub fstab: Vec<fstab::Line>,
    /// `/etc/crypttab`: names of its mappings with their lines.
    pub crypttab: Vec<fstab::Crypt>,
    /// How it gets an address.
    pub network: network::Network,
    /// cloud-init.
    pub cloud_init: Option<cloud::CloudInit>,
    /// Agents and tools of clouds and hypervisors.
    pub agents: Vec<cloud::Agent>,
    /// The SSH server.
    pub ssh: access::Ssh,
    /// Who can log in; no hashes.
    pub accounts: Vec<access::Account>,
    /// Permission bits of `/etc/shadow`.
    pub shadow_mode: Option<u32>,
    /// `SELINUX=`.
    pub selinux: Option<String>,
    /// Whether a relabel of the next boot is asked for.
    pub selinux_relabel: bool,
    /// Things that must not be in an image that others start, by path.
    pub secrets: Vec<secrets::Secret>,
    /// Programs with the rights of root.
    pub set_uid: setuid::SetUid,
    /// What free blocks of the root's file system hold, where it was looked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub freed: Option<freed::Freed>,
    /// The place that rented the system with its licence.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub origin: Option<origin::Origin>,
    /// Packages, where they can be counted.
    pub packages: Option<u64>,
    /// What is known of a Windows; the fields about Linux are empty then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<windows::Windows>,
    /// What the first disk is, where it is a medium: an ISO 9660 image, a squashfs. No system is on it then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media: Option<media::Medium>,
    /// What could not be read, in words.
    pub problems: Vec<String>,
}

/// A report and the means to look further.
pub struct Examination {
    /// The facts.
    pub report: GuestReport,
    /// The guest's tree; empty when no root was found.
    pub tree: Tree,
    /// Trees of the FAT volumes that firmware would look into, with their volumes.
    pub esps: Vec<(usize, Tree)>,
}

/// What to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Depth {
    /// Everything but the insides of an initramfs.
    Quick,
    /// Everything.
    #[default]
    Full,
}

/// Looks at the disks of one machine; the first is the one it starts from.
///
/// # Errors
/// I/O of the disks. What is wrong with the guest is in the report.
pub fn examine(disks: &[Arc<dyn Disk>], budget: &Arc<Budget>, depth: Depth) -> Result<Examination> {
    let layout = layout(disks, budget)?;
    let mut problems = layout.problems.clone();
    let mut found = Started::find(disks, &layout, None, &mut problems)?;
    // Of several systems the one is described that the loader starts.
    if let Some(other) = found.other_root(&layout) {
        problems.clear();
        problems.extend(layout.problems.iter().cloned());
        found = Started::find(disks, &layout, Some(other), &mut problems)?;
    }
    let Started { mut tree, mut roots, fstab, esps, boot } = found;
    let (mut windows, mut os) = (None, os::read(&tree));
    let systems = windows::find(&layout, &mut problems)?;
    if let (true, Some(fs), Some(volume)) = (roots.is_empty(), systems.first, systems.volumes.first()) {
        tree.mount("/", *volume, fs);
        (windows, os) =
            windows::read(disks, &layout, &tree, *volume, &esps).map(|(it, os)| (Some(it), Some(os)))?;
    }
    roots.extend(systems.volumes);
    let kernels = kernel::read(&tree, &esps, &boot, depth);
    let accounts = access::accounts(&tree);
    let linux = roots.first().filter(|_| windows.is_none() && depth == Depth::Full);
    let freed = match linux.and_then(|root| layout.volumes.get(*root)) {
        Some(root) => freed::look(root)?,
        None => None,
    };
    let media = if roots.is_empty() { media::read(&layout)? } else { None };
    let mut report = GuestReport {
        schema: "kiln.guest.v1",
        tables: layout
            .tables
            .iter()
            .zip(disks)
            .map(|(table, disk)| table_facts(table, disk.disk_len()))
            .collect(),
        roots,
        mounts: tree.mounts().map(|(at, volume)| MountFacts { at: crate::text::lossy(at), volume }).collect(),
        os,
        boot,
        kernels,
        crypttab: fstab::crypttab(&tree),
        fstab,
        network: network::read(&tree),
        cloud_init: cloud::read(&tree),
        agents: cloud::agents(&tree),
        ssh: access::ssh(&tree),
        set_uid: setuid::read(&tree, &accounts),
        freed,
        origin: origin::read(&tree),
        accounts,
        shadow_mode: tree.stat("/etc/shadow").ok().and_then(|stat| stat.mode),
        selinux: tree.text("/etc/selinux/config").and_then(|text| crate::text::assigned(&text, "SELINUX")),
        selinux_relabel: tree.exists("/.autorelabel"),
        secrets: secrets::read(&tree),
        packages: os::packages(&tree),
        windows,
        media,
        volumes: layout.volumes,
        groups: layout.groups,
        problems,
    };
    measure(&mut report, &esps);
    Ok(Examination { report, tree, esps })
}

/// A tree, and how it is started.
struct Started {
    tree: Tree,
    roots: Vec<usize>,
    fstab: Vec<fstab::Line>,
    esps: Vec<(usize, Tree)>,
    boot: boot::Boot,
}

impl Started {
    fn find(
        disks: &[Arc<dyn Disk>],
        layout: &Layout,
        preferred: Option<usize>,
        problems: &mut Vec<String>,
    ) -> Result<Self> {
        let found = root::find(layout, preferred, problems)?;
        let (tree, roots) = (found.tree, found.roots);
        let esps = root::esps(layout, problems);
        let programs = boot::programs(&esps);
        let entries = loader::read(&tree, &esps, layout, &programs.grub_starts(disks, layout, &esps))?;
        let boot = boot::read(disks, layout, &esps, programs, entries)?;
        Ok(Self { fstab: fstab::read(&tree), tree, roots, esps, boot })
    }

    /// The root that the default entry names, when it is another than the one that was taken.
    fn other_root(&self, layout: &Layout) -> Option<usize> {
        let entry = self.boot.entries.iter().find(|entry| entry.default)?;
        let named = volume_named(entry.argument("root")?, layout)?;
        (self.roots.contains(&named) && self.roots.first() != Some(&named)).then_some(named)
    }
}

/// Space that must be counted, and what the superblock does not tell.
fn measure(report: &mut GuestReport, esps: &[(usize, Tree)]) {
    let roots = &report.roots;
    for (index, volume) in report.volumes.iter_mut().enumerate() {
        let mounted = esps.iter().any(|(esp, _)| *esp == index) || roots.contains(&index);
        let counted = volume.probed.space.is_none() && mounted && volume.probed.readable();
        let described = volume.probed.content == Content::Ntfs;
        if counted || described {
            let opened = crate::fs::open(&volume.disk, volume.probed.content, &crate::fs::Root::Default);
            let Ok(fs) = opened else { continue };
            if counted {
                volume.probed.space = fs.space().ok().flatten();
            }
            // What cannot be read there, opening the volume has told.
            let _ = fs.describe(&mut volume.probed);
        }
    }
}

fn table_facts(table: &PartitionTable, disk_len: u64) -> TableFacts {
    TableFacts {
        disk_len,
        scheme: table.scheme,
        sector_len: table.sector_len,
        mbr: table.mbr.clone(),
        gpt: table.gpt.clone(),
        partitions: table.partitions.clone(),
        faults: table.faults.iter().map(fault_words).collect(),
        typed_faults: table.faults.clone(),
    }
}

/// A fault of a partition table in words.
#[must_use]
pub fn fault_words(fault: &TableFault) -> String {
    match fault {
        TableFault::PastEnd { number, end } => {
            format!("partition {number} ends at byte {end}, past the disk")
        }
        TableFault::Overlap { first, second, at } => {
            format!("partitions {first} and {second} share bytes from {at} on")
        }
        TableFault::Chain { at } => format!("the extended partition's chain breaks at byte {at}"),
        TableFault::Gpt { copy, at, fault } => {
            let copy = if *copy == GptCopy::Primary { "primary" } else { "backup" };
            format!("the {copy} GPT at byte {at}: {fault}")
        }
    }
}

impl GuestReport {
    /// The volume of the root.
    #[must_use]
    pub fn root(&self) -> Option<&Volume> {
        self.volumes.get(*self.roots.first()?)
    }

    /// The volume that is mounted there.
    #[must_use]
    pub fn mounted(&self, at: &str) -> Option<&Volume> {
        let mount = self.mounts.iter().find(|mount| mount.at == at)?;
        self.volumes.get(mount.volume)
    }

    /// Whether a volume of the guest was left with changes to be recovered, or worse.
    #[must_use]
    pub fn state_of(&self, volume: usize) -> Option<FsState> {
        self.volumes.get(volume)?.probed.state
    }

    /// What machines made from this disk would share.
    pub fn machine_ids(&self) -> impl Iterator<Item = &Seen> {
        self.secrets
            .iter()
            .filter(|secret| secret.kind == secrets::SecretKind::MachineId)
            .map(|secret| &secret.seen)
    }

    /// Whether cloud-init is started, which by its defaults makes new host keys on a machine with another instance-id
    /// (`ssh_deletekeys`; cloud-init documentation, module "SSH"). It leaves the machine's id alone.
    #[must_use]
    pub fn renews_host_keys(&self) -> bool {
        self.cloud_init.as_ref().is_some_and(|cloud| cloud.enabled && cloud.disabled_by.is_none())
    }

    /// The volume that a device name of the guest means (`UUID=`, `LABEL=`, `PARTUUID=`, `PARTLABEL=`, `/dev/...`).
    #[must_use]
    pub fn device(&self, name: &str) -> Device {
        fstab::device(name, &self.volumes)
    }
}

pub use fstab::Device;

/// A layout's volume by a name of the guest.
fn volume_named(name: &str, layout: &Layout) -> Option<usize> {
    match fstab::device(name, &layout.volumes) {
        Device::Volume(index) => Some(index),
        _ => None,
    }
}
