//! Partition tables: what a disk says about its own parts.
//!
//! Decoding is pure (`mbr`, `gpt`); the one function that reads is [`read_table`], and what it reads is bounded: a
//! few sectors, at most 128 links of an extended partition, at most 1 MiB of GPT entries. Sources: UEFI specification
//! 2.10, 5.2 (MBR) and 5.3 (GPT).

mod gpt;
mod guid;
mod mbr;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::offset::GuestOffset;

pub use gpt::{GptCopy, GptFault, GptTable};
pub use guid::{Guid, types};
pub use mbr::{MbrFacts, is_volume_boot_sector};

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// No table: the disk is empty, or one file system covers it.
    None,
    /// A master boot record.
    Mbr,
    /// A GUID partition table behind a protective MBR.
    Gpt,
    /// A GUID partition table whose MBR also names real partitions.
    HybridGpt,
}

/// What a table says a partition is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionType {
    /// The byte of an MBR entry.
    Mbr(u8),
    /// The GUID of a GPT entry.
    Gpt(Guid),
}

impl Serialize for PartitionType {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PartitionType {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.strip_prefix("0x") {
            Some(digits) => u8::from_str_radix(digits, 16).map(Self::Mbr).map_err(serde::de::Error::custom),
            None => text.parse().map(Self::Gpt).map_err(serde::de::Error::custom),
        }
    }
}

impl std::fmt::Display for PartitionType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mbr(byte) => write!(f, "{byte:#04x}"),
            Self::Gpt(guid) => write!(f, "{guid}"),
        }
    }
}

/// One partition. Places and lengths are bytes; a partition may reach behind the end of the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// As Linux numbers it: 1 to 4 primary, 5 and up logical; the entry's number in a GPT.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Length.
    pub len: u64,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: PartitionType,
    /// Its own id, as `PARTUUID=` spells it.
    pub part_uuid: String,
    /// The name of a GPT entry.
    pub name: String,
    /// The active flag of an MBR entry, or the legacy-boot attribute of a GPT entry.
    pub active: bool,
}

impl Partition {
    /// The first byte behind it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// What is wrong with a table. The place is a byte of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableFault {
    /// A partition ends behind the disk.
    PastEnd {
        /// Its number.
        number: u32,
        /// The first byte behind it.
        end: u64,
    },
    /// Two partitions share bytes.
    Overlap {
        /// The one that starts first.
        first: u32,
        /// The other.
        second: u32,
        /// The first shared byte.
        at: u64,
    },
    /// A link of an extended partition goes back, out of it, or on for ever.
    Chain {
        /// The boot record with the bad link.
        at: u64,
    },
    /// A GPT header or its entries do not hold.
    Gpt {
        /// Which copy.
        copy: GptCopy,
        /// The header's byte, or where it should be.
        at: u64,
        /// What is wrong.
        fault: GptFault,
    },
}

/// A disk's partition table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTable {
    /// Which kind.
    pub scheme: Scheme,
    /// Bytes in a sector, as the table counts: 512 or 4096.
    pub sector_len: u64,
    /// The first sector, whatever the scheme.
    pub mbr: MbrFacts,
    /// What the GPT says of itself.
    pub gpt: Option<GptTable>,
    /// The partitions, by number.
    pub partitions: Vec<Partition>,
    /// What is wrong.
    pub faults: Vec<TableFault>,
}

/// Reads and decodes the partition table. Whatever is wrong with the table itself is in `faults`; parts of the disk
/// that the container cannot give count as zeros.
///
/// # Errors
/// [`Error::Io`], [`Error::Cancelled`], and a budget that is used up.
pub fn read_table(disk: &dyn Disk) -> Result<PartitionTable> {
    let head = read(disk, 0, 512)?.unwrap_or_default();
    let mbr = mbr::decode(&head);
    let mut table = PartitionTable {
        scheme: Scheme::None,
        sector_len: 512,
        mbr: mbr.facts.clone(),
        gpt: None,
        partitions: Vec::new(),
        faults: Vec::new(),
    };
    if let Some(found) = gpt::find(disk, &mut table.faults)? {
        table.sector_len = found.table.sector_len;
        table.scheme = if mbr.entries.is_empty() { Scheme::Gpt } else { Scheme::HybridGpt };
        table.partitions = found.partitions;
        table.gpt = Some(found.table);
    } else if !mbr.entries.is_empty() {
        table.scheme = Scheme::Mbr;
        mbr::partitions(disk, &mbr, &mut table)?;
    }
    find_misplaced(disk.disk_len(), &mut table);
    Ok(table)
}

/// Partitions that reach past the end or into one another.
fn find_misplaced(disk_len: u64, table: &mut PartitionTable) {
    for partition in &table.partitions {
        if partition.end() > disk_len {
            table.faults.push(TableFault::PastEnd { number: partition.number, end: partition.end() });
        }
    }
    let mut by_start: Vec<&Partition> = table.partitions.iter().collect();
    by_start.sort_by_key(|partition| (partition.start, partition.number));
    let mut reach: Option<&Partition> = None;
    for partition in by_start {
        if let Some(before) = reach.filter(|before| before.end() > partition.start) {
            table.faults.push(TableFault::Overlap {
                first: before.number,
                second: partition.number,
                at: partition.start,
            });
        }
        if reach.is_none_or(|before| partition.end() > before.end()) {
            reach = Some(partition);
        }
    }
}

/// `len` bytes at `at`; `None` past the end of the disk or where the container is damaged.
fn read(disk: &dyn Disk, at: u64, len: u64) -> Result<Option<Vec<u8>>> {
    if at.checked_add(len).is_none_or(|end| end > disk.disk_len()) {
        return Ok(None);
    }
    let mut buf = vec![0; usize::try_from(len).unwrap_or(0)];
    match disk.read_guest(GuestOffset::new(at), &mut buf) {
        Ok(()) => Ok(Some(buf)),
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => Err(error),
        Err(error) if error.code().starts_with("budget.") => Err(error),
        Err(_) => Ok(None),
    }
}
