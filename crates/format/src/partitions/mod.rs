//! Where the partitions of a disk are, so that whatever is said of a range of bytes can say whose bytes they are.
//!
//! Beyond the tables this looks at one thing of a guest: the magic number at the beginning of each partition.
//! Sources: UEFI specification 2.10, 5.2.3 (MBR), 5.3.2 and 5.3.3 (GPT header and entries); UAPI Discoverable
//! Partitions Specification (type GUIDs).

mod gpt;
mod magic;
mod mbr;
mod names;

use std::fmt;

use kiln_disk::{Disk, GuestOffset, GuestRange, Result};
use serde::Serialize;

use crate::wire::in_memory;

pub(crate) use gpt::CHECKS as GPT_CHECKS;
pub use gpt::check as check_gpt;
pub(crate) use mbr::{Entry, primaries};

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// GUID partition table, read from its first header.
    Gpt,
    /// GUID partition table of which only the backup at the end of the disk can be read.
    GptBackup,
    /// Master boot record, with the logical partitions in its extended one.
    Mbr,
    /// Not at all: a file system begins at byte 0.
    Volume,
    /// Nothing that is known.
    None,
}

impl Scheme {
    /// The word for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Gpt => "GPT",
            Self::GptBackup => "GPT (from its backup)",
            Self::Mbr => "MBR",
            Self::Volume => "no table, one volume",
            Self::None => "no partition table",
        }
    }
}

/// A range of the disk with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its number as Linux counts, from 1; 0 for a volume without a table around it.
    pub number: u32,
    /// First byte on the disk.
    pub start_bytes: u64,
    /// Length in bytes, as the table says: it may reach behind the end of the disk.
    pub length_bytes: u64,
    /// Type as stored: a GUID, or `0x83`.
    pub type_id: String,
    /// Type in words, where it is known.
    pub type_name: Option<&'static str>,
    /// Name in the table (GPT). A stranger's words.
    pub name: String,
    /// What begins in it, by its magic number: "ext4", "NTFS".
    pub filesystem: Option<&'static str>,
}

impl Partition {
    /// The first byte behind it.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start_bytes.saturating_add(self.length_bytes)
    }

    const fn meets(&self, range: GuestRange) -> bool {
        let start = range.start.get();
        self.start_bytes < start.saturating_add(range.len) && start < self.end()
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Some(self.name.as_str()).filter(|name| !name.is_empty());
        let quoted = name.map(|name| format!("{name:?}"));
        let known = [self.type_name, self.filesystem].into_iter().flatten().map(str::to_owned);
        let words: Vec<String> = known.chain(quoted).collect();
        match (self.number, words.is_empty()) {
            (0, _) => write!(f, "the volume ({})", self.filesystem.unwrap_or("unknown")),
            (number, true) => write!(f, "partition {number} (type {})", self.type_id),
            (number, false) => write!(f, "partition {number} ({})", words.join(", ")),
        }
    }
}

/// The partitions of a disk, ascending by their first byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// How the disk is divided.
    pub scheme: Scheme,
    /// Unit of the table, in bytes.
    pub sector_bytes: u64,
    /// The disk's own identifier in the table: a GUID, or eight hex digits.
    pub disk_id: Option<String>,
    /// The ranges.
    pub partitions: Vec<Partition>,
}

/// Partitions whose first bytes are looked at; a table may have thousands.
const LOOKED_AT: usize = 256;

impl Layout {
    /// Reads the tables of a disk and the beginning of each partition: at most a few MiB. What cannot be read is
    /// passed over; the format's own check has named it.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`].
    pub fn read(disk: &dyn Disk) -> Result<Self> {
        let mut layout = match gpt::read_layout(disk)? {
            Some(layout) => layout,
            None => match mbr::read(disk)? {
                Some(layout) => layout,
                None => Self::volume(disk),
            },
        };
        for partition in layout.partitions.iter_mut().take(LOOKED_AT) {
            partition.filesystem = magic::look(disk, partition.start_bytes)?;
        }
        if layout.scheme == Scheme::Volume
            && layout.partitions.first().is_none_or(|volume| volume.filesystem.is_none())
        {
            layout.scheme = Scheme::None;
            layout.partitions.clear();
        }
        layout.partitions.sort_by_key(|partition| (partition.start_bytes, partition.number));
        Ok(layout)
    }

    fn volume(disk: &dyn Disk) -> Self {
        let whole = Partition {
            number: 0,
            start_bytes: 0,
            length_bytes: disk.disk_len(),
            type_id: String::new(),
            type_name: None,
            name: String::new(),
            filesystem: None,
        };
        Self { scheme: Scheme::Volume, sector_bytes: 512, disk_id: None, partitions: vec![whole] }
    }

    /// Whose bytes a range has: "in partition 1 (Linux, ext4)". `None` where nothing is known of the disk's
    /// division.
    #[must_use]
    pub fn words(&self, range: GuestRange) -> Option<String> {
        /// More than these are counted.
        const NAMED: usize = 4;
        if self.scheme == Scheme::None {
            return None;
        }
        let range = GuestRange { len: range.len.max(1), ..range };
        let met: Vec<&Partition> = self.partitions.iter().filter(|one| one.meets(range)).collect();
        if met.is_empty() {
            return Some(format!("outside the partitions ({})", self.place(range)));
        }
        let mut words: Vec<String> = met.iter().take(NAMED).map(ToString::to_string).collect();
        if let Some(more) = met.len().checked_sub(NAMED).filter(|more| *more > 0) {
            words.push(format!("{more} more"));
        }
        Some(format!("in {}", words.join(", ")))
    }

    /// What is where no partition is.
    fn place(&self, range: GuestRange) -> &'static str {
        let start = range.start.get();
        let first = self.partitions.first().map_or(0, |one| one.start_bytes);
        let last = self.partitions.iter().map(Partition::end).max().unwrap_or(0);
        match self.scheme {
            _ if self.partitions.is_empty() => "there are none",
            Scheme::Gpt | Scheme::GptBackup if start < first => "where the GPT and the boot code are",
            Scheme::Gpt | Scheme::GptBackup if start >= last => "where the backup of the GPT is",
            Scheme::Mbr if start < first => "where the MBR and the boot code are",
            _ => "unused by the table",
        }
    }
}

/// Bytes of the disk; `None` where they are not on it, or where the container is too damaged to give them.
pub(crate) fn read(disk: &dyn Disk, at: u64, len: u64) -> Result<Option<Vec<u8>>> {
    if at.checked_add(len).is_none_or(|end| end > disk.disk_len()) {
        return Ok(None);
    }
    let mut buf = vec![0; in_memory(len)];
    match disk.read_guest(GuestOffset::new(at), &mut buf) {
        Ok(()) => Ok(Some(buf)),
        Err(error @ kiln_disk::Error::Io { .. }) => Err(error),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
