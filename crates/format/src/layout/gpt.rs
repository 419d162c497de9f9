//! A GUID partition table that has to move: what stands at the end of a disk has to stand at its new end.

use flate2::Crc;
use kiln_disk::{Disk, Error, FileOffset, GuestOffset, PaddedDisk, PatchedDisk, Problem, Result};

use crate::wire::{as_bytes, bytes, in_memory, le16, le32, le64};

/// What is wrong with a table that was to be moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GptProblem {
    /// HeaderSize.
    #[error("HeaderSize is {0}, it must be 92 to the length of a sector")]
    HeaderSize(u32),
    /// HeaderCRC32.
    #[error("HeaderCRC32 is {stored:#010x}, the header has {computed:#010x}")]
    HeaderCrc {
        /// As stored.
        stored: u32,
        /// As it is.
        computed: u32,
    },
    /// MyLBA.
    #[error("MyLBA is {0}, the primary header is at 1")]
    MyLba(u64),
    /// SizeOfPartitionEntry.
    #[error("SizeOfPartitionEntry is {0}, it must be 128 times a power of two, at most 4096")]
    EntrySize(u32),
    /// NumberOfPartitionEntries.
    #[error("NumberOfPartitionEntries is {0}, at most 8192 are taken")]
    EntryCount(u32),
    /// PartitionEntryLBA.
    #[error("PartitionEntryLBA is {0}, which is not on the disk")]
    EntryLba(u64),
    /// PartitionEntryArrayCRC32.
    #[error("PartitionEntryArrayCRC32 is {stored:#010x}, the entries have {computed:#010x}")]
    EntriesCrc {
        /// As stored.
        stored: u32,
        /// As it is.
        computed: u32,
    },
    /// FirstUsableLBA.
    #[error("FirstUsableLBA is {0}, which is not on the disk")]
    FirstUsable(u64),
    /// An entry.
    #[error("partition {number} goes from sector {first} to {last}, which is not on the disk")]
    Entry {
        /// Counted from 1.
        number: u64,
        /// StartingLBA.
        first: u64,
        /// EndingLBA.
        last: u64,
    },
}

impl Problem for GptProblem {
    fn code(&self) -> &'static str {
        match self {
            Self::HeaderSize(_) => "gpt.header-size",
            Self::HeaderCrc { .. } => "gpt.header-crc",
            Self::MyLba(_) => "gpt.my-lba",
            Self::EntrySize(_) => "gpt.entry-size",
            Self::EntryCount(_) => "gpt.entry-count",
            Self::EntryLba(_) => "gpt.entry-lba",
            Self::EntriesCrc { .. } => "gpt.entries-crc",
            Self::FirstUsable(_) => "gpt.first-usable",
            Self::Entry { .. } => "gpt.entry",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some("the table must be whole before its backup can move: convert to raw and repair it with gdisk")
    }
}

const SIGNATURE: [u8; 8] = *b"EFI PART";
/// The fields of the specification; the rest of the sector is reserved.
const LEAST_HEADER: u32 = 92;
const MOST_ENTRIES: u32 = 8192;
const MOST_ENTRY_LEN: u32 = 4096;
/// Type of the entry that protects the disk from programs that know no GPT.
const PROTECTIVE: u8 = 0xee;

/// The sector that a GPT at the start of a disk counts in.
pub(super) fn sector_of(head: &[u8]) -> Option<u64> {
    [512, 4096].into_iter().find(|sector| bytes(head, in_memory(*sector)) == Some(SIGNATURE))
}

/// A whole GPT: header and entries have the checksums that they state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpt {
    sector: u64,
    /// The primary header's sector.
    header: Vec<u8>,
    header_len: usize,
    /// The entries, filled up to whole sectors.
    entries: Vec<u8>,
    /// The sector of the first disk sector's MBR.
    mbr: Vec<u8>,
    /// The first sector behind all partitions.
    partitions_end: u64,
}

impl Gpt {
    /// The table of a disk, if it has one.
    ///
    /// # Errors
    /// [`Error::Malformed`] with a [`GptProblem`] at a byte of the *disk*; whatever reading the disk says.
    pub fn read(disk: &dyn Disk) -> Result<Option<Self>> {
        let mut head = vec![0; in_memory(8192.min(disk.disk_len()))];
        disk.read_guest(GuestOffset::ZERO, &mut head)?;
        let Some(sector) = sector_of(&head) else { return Ok(None) };
        let sector_len = in_memory(sector);
        let header =
            head.get(sector_len..).and_then(|rest| rest.get(..sector_len)).unwrap_or_default().to_vec();
        let wrong = |field: u64, problem| {
            Error::malformed("GPT of the disk", FileOffset::new(sector.saturating_add(field)), problem)
        };
        // Reading stops at the end of the bytes: a short disk has no field there.
        let word = |at| le32(&header, at).unwrap_or(0);
        let long = |at| le64(&header, at).unwrap_or(0);
        let header_size = word(12);
        let header_len = in_memory(header_size.into());
        if header_size < LEAST_HEADER || header_len > header.len() {
            return Err(wrong(12, GptProblem::HeaderSize(header_size)));
        }
        let (stored, computed) = (word(16), header_crc(&header, header_len));
        if stored != computed {
            return Err(wrong(16, GptProblem::HeaderCrc { stored, computed }));
        }
        if long(24) != 1 {
            return Err(wrong(24, GptProblem::MyLba(long(24))));
        }
        let (count, size) = (word(80), word(84));
        if !size.is_multiple_of(128) || !size.is_power_of_two() || size > MOST_ENTRY_LEN {
            return Err(wrong(84, GptProblem::EntrySize(size)));
        }
        if count > MOST_ENTRIES {
            return Err(wrong(80, GptProblem::EntryCount(count)));
        }
        let len = u64::from(count).saturating_mul(size.into());
        let at = long(72).saturating_mul(sector);
        if long(72) < 2 || at.checked_add(len).is_none_or(|end| end > disk.disk_len()) {
            return Err(wrong(72, GptProblem::EntryLba(long(72))));
        }
        let mut entries = vec![0; in_memory(len)];
        disk.read_guest(GuestOffset::new(at), &mut entries)?;
        let (stored, computed) = (word(88), crc(&entries));
        if stored != computed {
            return Err(wrong(88, GptProblem::EntriesCrc { stored, computed }));
        }
        let sectors = disk.disk_len().checked_div(sector).unwrap_or(0);
        let mut partitions_end = long(40);
        if partitions_end > sectors {
            return Err(wrong(40, GptProblem::FirstUsable(partitions_end)));
        }
        for (number, entry) in (1_u64..).zip(entries.chunks_exact(in_memory(size.into()))) {
            let fields = (bytes::<16>(entry, 0), le64(entry, 32), le64(entry, 40));
            let (Some(kind), Some(first), Some(last)) = fields else { continue };
            if kind == [0; 16] {
                continue;
            }
            // A disk that lacks a part of a partition is not one to be made longer.
            if first > last || last >= sectors {
                return Err(wrong(72, GptProblem::Entry { number, first, last }));
            }
            partitions_end = partitions_end.max(last.saturating_add(1));
        }
        entries.resize(in_memory(len.next_multiple_of(sector)), 0);
        let mbr = head.get(..512).unwrap_or_default().to_vec();
        Ok(Some(Self { sector, header, header_len, entries, mbr, partitions_end }))
    }

    /// Length of a sector, in bytes: 512 or 4096.
    #[must_use]
    pub fn sector_bytes(&self) -> u64 {
        self.sector
    }

    /// AlternateLBA: the sector of the backup header as the primary one has it.
    #[must_use]
    pub fn alternate_lba(&self) -> u64 {
        le64(&self.header, 32).unwrap_or(0)
    }

    /// Sectors of the backup: entries and header.
    fn backup_sectors(&self) -> u64 {
        as_bytes(self.entries.len()).checked_div(self.sector).unwrap_or(0).saturating_add(1)
    }

    /// The least length of a disk, in bytes, that has room for the backup behind the last partition.
    #[must_use]
    pub fn least_len(&self) -> u64 {
        self.partitions_end.saturating_add(self.backup_sectors()).saturating_mul(self.sector)
    }

    /// The disk with `len` bytes and its table's backup at its new end. Changed are: both headers (AlternateLBA,
    /// LastUsableLBA, checksums), the place of the backup, and SizeInLBA of a protective MBR that has no other
    /// partition. Where the backup was, it stays: nothing leads there.
    ///
    /// # Errors
    /// [`Error::Refused`] (`gpt.grow`) when `len` is no multiple of a sector, shorter than the disk or than
    /// [`Gpt::least_len`].
    pub fn grown<'a>(&self, disk: &'a dyn Disk, len: u64) -> Result<PatchedDisk<'a>> {
        let least = self.least_len().max(disk.disk_len());
        if !len.is_multiple_of(self.sector) || len < least {
            return Err(Error::Refused {
                code: "gpt.grow",
                what: format!("length of a disk whose GPT needs whole sectors and at least {least} bytes"),
                asked: len,
                allowed: least,
                hint: "",
            });
        }
        let last = len.checked_div(self.sector).unwrap_or(0).saturating_sub(1);
        let entries_at = last.saturating_sub(self.backup_sectors()).saturating_add(1);
        let mut primary = self.header.clone();
        put(&mut primary, 32, &last.to_le_bytes());
        put(&mut primary, 48, &entries_at.saturating_sub(1).to_le_bytes());
        let mut backup = primary.clone();
        put(&mut backup, 24, &last.to_le_bytes());
        put(&mut backup, 32, &1_u64.to_le_bytes());
        put(&mut backup, 72, &entries_at.to_le_bytes());
        let mut grown = PatchedDisk::new(Box::new(PaddedDisk::new(disk, len)));
        let place = |lba: u64| GuestOffset::new(lba.saturating_mul(self.sector));
        for header in [&mut primary, &mut backup] {
            let sum = header_crc(header, self.header_len);
            put(header, 16, &sum.to_le_bytes());
        }
        if let Some(mbr) = resized(&self.mbr, last) {
            grown.patch(GuestOffset::ZERO, &mbr)?;
        }
        grown.patch(place(1), &primary)?;
        grown.patch(place(entries_at), &self.entries)?;
        grown.patch(place(last), &backup)?;
        Ok(grown)
    }
}

/// The MBR with the entry that protects the disk as long as the disk, when it is the only one ("Protective MBR
/// Partition Record": SizeInLBA is the size of the disk minus one, or as much as fits).
fn resized(mbr: &[u8], last: u64) -> Option<Vec<u8>> {
    if le16(mbr, 510)? != 0xaa55 {
        return None;
    }
    let used: Vec<usize> = (0..4_usize)
        .map(|number| number.saturating_mul(16).saturating_add(446))
        .filter(|at| mbr.get(at.saturating_add(4)).is_some_and(|kind| *kind != 0))
        .collect();
    let [at] = used.as_slice() else { return None };
    let is_protective = mbr.get(at.saturating_add(4)) == Some(&PROTECTIVE);
    if !is_protective || le32(mbr, at.saturating_add(8))? != 1 {
        return None;
    }
    let mut mbr = mbr.to_vec();
    let size = u32::try_from(last).unwrap_or(u32::MAX);
    put(&mut mbr, at.saturating_add(12), &size.to_le_bytes());
    Some(mbr)
}

/// Puts bytes at a place inside.
fn put(sector: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = sector.get_mut(at..at.saturating_add(bytes.len())) {
        field.copy_from_slice(bytes);
    }
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// HeaderCRC32: of `len` bytes, the checksum itself counted as zeros.
fn header_crc(header: &[u8], len: usize) -> u32 {
    let mut header = header.get(..len).unwrap_or_default().to_vec();
    put(&mut header, 16, &[0; 4]);
    crc(&header)
}
