//! Volumes: everything on the disks that may hold a file system, from partitions to logical volumes.

mod ext_journal;
mod foreign;
pub mod lvm;
mod probe;
mod xfs_log;

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::partition::{PartitionTable, read_table};
use kiln_disk::{Budget, Disk, Extent, ExtentKind, GuestOffset, check_range};
use serde::{Deserialize, Serialize};

use crate::cache::{Metered, Part};

pub(crate) use probe::read;
pub use probe::{Content, FsState, Probed, Space, probe};

/// Volumes of one disk or set of disks that are looked at.
const MAX_VOLUMES: usize = 512;

/// Where a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "in")]
pub enum Place {
    /// All of a disk.
    Disk {
        /// Its number from 0.
        disk: usize,
    },
    /// A partition.
    Partition {
        /// The disk's number from 0.
        disk: usize,
        /// The partition's.
        number: u32,
        /// First byte on the disk.
        start: u64,
        /// `PARTUUID`.
        part_uuid: String,
        /// `PARTLABEL`.
        part_label: String,
    },
    /// A logical volume.
    Lvm {
        /// The group.
        group: String,
        /// The volume.
        volume: String,
    },
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk { disk: 0 } => f.write_str("the whole disk"),
            Self::Disk { disk } => write!(f, "the whole disk {disk}"),
            Self::Partition { disk: 0, number, .. } => write!(f, "partition {number}"),
            Self::Partition { disk, number, .. } => write!(f, "partition {number} of disk {disk}"),
            Self::Lvm { group, volume } => write!(f, "logical volume {group}/{volume}"),
        }
    }
}

/// The disk of a volume that was read in another process: it has no bytes.
struct Nowhere;

impl Disk for Nowhere {
    fn disk_len(&self) -> u64 {
        0
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
        check_range(at, buf.len(), 0)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> kiln_disk::Result<Extent> {
        check_range(at, 1, 0)?;
        Ok(Extent { start: at, len: limit, kind: ExtentKind::Hole })
    }
}

fn nowhere() -> Arc<dyn Disk> {
    Arc::new(Nowhere)
}

/// A volume and what is on it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Volume {
    /// Where it is.
    pub place: Place,
    /// Length in bytes.
    pub len: u64,
    /// What it holds.
    #[serde(flatten)]
    pub probed: Probed,
    /// Its bytes; none in a report that came from a worker.
    #[serde(skip, default = "nowhere")]
    pub disk: Arc<dyn Disk>,
}

impl Volume {
    /// First byte on the disk, when it is one run of a disk.
    #[must_use]
    pub fn start(&self) -> Option<u64> {
        match self.place {
            Place::Disk { .. } => Some(0),
            Place::Partition { start, .. } => Some(start),
            Place::Lvm { .. } => None,
        }
    }
}

/// The disks of one machine, divided.
pub struct Layout {
    /// The disks; every read is charged.
    pub disks: Vec<Arc<dyn Disk>>,
    /// The table of each disk.
    pub tables: Vec<PartitionTable>,
    /// Everything that may hold a file system.
    pub volumes: Vec<Volume>,
    /// The volume groups.
    pub groups: Vec<lvm::Group>,
    /// Structures that could not be read, in words.
    pub problems: Vec<String>,
}

/// Divides disks into volumes.
///
/// # Errors
/// I/O, and a budget that is used up.
pub fn layout(disks: &[Arc<dyn Disk>], budget: &Arc<Budget>) -> kiln_disk::Result<Layout> {
    let mut found = Layout {
        disks: Vec::new(),
        tables: Vec::new(),
        volumes: Vec::new(),
        groups: Vec::new(),
        problems: Vec::new(),
    };
    for (index, disk) in disks.iter().enumerate() {
        let metered: Arc<dyn Disk> = Arc::new(Metered::new(Arc::clone(disk), Arc::clone(budget)));
        let table = read_table(metered.as_ref())?;
        if table.partitions.is_empty() {
            found.add(Place::Disk { disk: index }, Arc::clone(&metered))?;
        }
        for partition in &table.partitions {
            let place = Place::Partition {
                disk: index,
                number: partition.number,
                start: partition.start,
                part_uuid: partition.part_uuid.clone(),
                part_label: partition.name.clone(),
            };
            let part = Part::new(Arc::clone(&metered), partition.start, partition.len);
            found.add(place, Arc::new(part))?;
        }
        found.tables.push(table);
        found.disks.push(metered);
    }
    let physical: Vec<Arc<dyn Disk>> = found
        .volumes
        .iter()
        .filter(|volume| volume.probed.content == Content::LvmPv)
        .map(|volume| Arc::clone(&volume.disk))
        .collect();
    if !physical.is_empty() {
        let (groups, problems) = lvm::groups(&physical)?;
        found.problems.extend(problems);
        for group in &groups {
            for logical in &group.volumes {
                if let Some(disk) = lvm::LogicalDisk::open(logical) {
                    let place = Place::Lvm { group: group.name.clone(), volume: logical.name.clone() };
                    found.add(place, Arc::new(disk))?;
                }
            }
        }
        found.groups = groups;
    }
    Ok(found)
}

impl Layout {
    fn add(&mut self, place: Place, disk: Arc<dyn Disk>) -> kiln_disk::Result<()> {
        if self.volumes.len() < MAX_VOLUMES {
            let probed = probe(&disk)?;
            self.volumes.push(Volume { place, len: disk.disk_len(), probed, disk });
        }
        Ok(())
    }
}
