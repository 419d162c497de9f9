//! The GUID partition table: header and entries, in two copies (UEFI 2.10, 5.3).

use serde::{Deserialize, Serialize};

use super::guid::Guid;
use super::{Partition, PartitionType, TableFault, read};
use crate::disk::Disk;
use crate::error::Result;
use crate::wire::{bytes, crc32, le16, le32, le64};

/// Entries are read up to this many bytes: 64 times what every tool writes.
const MAX_ENTRY_BYTES: u64 = 1 << 20;

/// One of the two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GptCopy {
    /// In sector 1.
    Primary,
    /// In the last sector.
    Backup,
}

/// Why a copy does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "fault")]
pub enum GptFault {
    /// No "EFI PART" there.
    #[error("there is no GPT header")]
    Missing,
    /// HeaderSize is not between 92 and the sector's length.
    #[error("HeaderSize is {size}")]
    HeaderSize {
        /// The field.
        size: u32,
    },
    /// HeaderCRC32.
    #[error("HeaderCRC32 is {stored:#010x}, the header gives {computed:#010x}")]
    HeaderCrc {
        /// The field.
        stored: u32,
        /// The truth.
        computed: u32,
    },
    /// MyLBA names another sector.
    #[error("MyLBA is {stored}, the header is in sector {actual}")]
    MyLba {
        /// The field.
        stored: u64,
        /// The truth.
        actual: u64,
    },
    /// Entry size or count that no tool writes, or entries past the end.
    #[error("{count} entries of {size} bytes in sector {lba} cannot be")]
    Entries {
        /// NumberOfPartitionEntries.
        count: u32,
        /// SizeOfPartitionEntry.
        size: u32,
        /// PartitionEntryLBA.
        lba: u64,
    },
    /// PartitionEntryArrayCRC32.
    #[error("PartitionEntryArrayCRC32 is {stored:#010x}, the entries give {computed:#010x}")]
    EntriesCrc {
        /// The field.
        stored: u32,
        /// The truth.
        computed: u32,
    },
    /// AlternateLBA is not the last sector: the disk grew, or was cut.
    #[error("the backup is in sector {lba}, the disk's last sector is {last}")]
    NotAtEnd {
        /// Where the header says it is.
        lba: u64,
        /// Where it belongs.
        last: u64,
    },
    /// Both copies hold and differ in their entries.
    #[error("its entries differ from the primary's")]
    Differs,
}

/// What the header in use says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GptTable {
    /// Bytes in a sector.
    pub sector_len: u64,
    /// DiskGUID.
    #[serde(serialize_with = "as_text", deserialize_with = "from_text")]
    pub disk_guid: Guid,
    /// The copy that was used.
    pub used: GptCopy,
    /// First byte that partitions may use.
    pub first_usable: u64,
    /// First byte behind what partitions may use.
    pub end_usable: u64,
    /// Byte of the backup header, as the primary says.
    pub backup_at: u64,
}

fn as_text<S: serde::Serializer>(guid: &Guid, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(guid)
}

fn from_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Guid, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

/// A table that was found.
pub(super) struct Found {
    pub(super) table: GptTable,
    pub(super) partitions: Vec<Partition>,
}

/// The fields of a header whose checksum holds.
struct Header {
    my_lba: u64,
    alternate_lba: u64,
    first_usable: u64,
    last_usable: u64,
    disk_guid: Guid,
    entries: Vec<u8>,
    entry_len: usize,
}

/// Looks for a GPT of 512- and of 4096-byte sectors; `None` when no copy is anywhere. Faults of both copies are kept.
pub(super) fn find(disk: &dyn Disk, faults: &mut Vec<TableFault>) -> Result<Option<Found>> {
    for sector_len in [512_u64, 4096] {
        let last = disk.disk_len().checked_div(sector_len).unwrap_or(0).saturating_sub(1);
        if last < 3 {
            continue;
        }
        let primary = header(disk, 1, sector_len)?;
        let told = match &primary {
            Ok(header) => header.alternate_lba,
            Err(_) => last,
        };
        let backup_lba = if told > 1 && told <= last { told } else { last };
        let backup = header(disk, backup_lba, sector_len)?;
        if matches!((&primary, &backup), (Err(GptFault::Missing), Err(GptFault::Missing))) {
            continue;
        }
        let mut fault = |copy, lba: u64, fault| {
            faults.push(TableFault::Gpt { copy, at: lba.saturating_mul(sector_len), fault });
        };
        if let Err(problem) = &primary {
            fault(GptCopy::Primary, 1, *problem);
        }
        match (&primary, &backup) {
            (_, Err(problem)) => fault(GptCopy::Backup, backup_lba, *problem),
            (Ok(primary), Ok(_)) if primary.alternate_lba != last => {
                fault(GptCopy::Backup, backup_lba, GptFault::NotAtEnd { lba: primary.alternate_lba, last });
            }
            (Ok(primary), Ok(backup)) if primary.entries != backup.entries => {
                fault(GptCopy::Backup, backup_lba, GptFault::Differs);
            }
            _ => {}
        }
        let (used, header) = match (primary, backup) {
            (Ok(header), _) => (GptCopy::Primary, header),
            (_, Ok(header)) => (GptCopy::Backup, header),
            // A header that does not hold is named; what its entries say cannot be trusted.
            _ => return Ok(Some(unreadable(sector_len, last))),
        };
        return Ok(Some(found(used, &header, sector_len)));
    }
    Ok(None)
}

fn unreadable(sector_len: u64, last: u64) -> Found {
    let table = GptTable {
        sector_len,
        disk_guid: Guid([0; 16]),
        used: GptCopy::Primary,
        first_usable: 0,
        end_usable: 0,
        backup_at: last.saturating_mul(sector_len),
    };
    Found { table, partitions: Vec::new() }
}

fn found(used: GptCopy, header: &Header, sector_len: u64) -> Found {
    let partitions = (1_u32..)
        .zip(header.entries.chunks_exact(header.entry_len))
        .filter_map(|(number, entry)| partition(number, entry, sector_len))
        .collect();
    let backup = if used == GptCopy::Primary { header.alternate_lba } else { header.my_lba };
    let table = GptTable {
        sector_len,
        disk_guid: header.disk_guid,
        used,
        first_usable: header.first_usable.saturating_mul(sector_len),
        end_usable: header.last_usable.saturating_add(1).saturating_mul(sector_len),
        backup_at: backup.saturating_mul(sector_len),
    };
    Found { table, partitions }
}

/// Reads and checks the copy in sector `lba`, with its entries.
fn header(disk: &dyn Disk, lba: u64, sector_len: u64) -> Result<Result<Header, GptFault>> {
    let Some(sector) = read(disk, lba.saturating_mul(sector_len), sector_len)? else {
        return Ok(Err(GptFault::Missing));
    };
    if !sector.starts_with(b"EFI PART") {
        return Ok(Err(GptFault::Missing));
    }
    let word = |at| le32(&sector, at).unwrap_or(0);
    let long = |at| le64(&sector, at).unwrap_or(0);
    let size = word(12);
    let covered = usize::try_from(size).ok().filter(|size| *size >= 92).and_then(|size| sector.get(..size));
    let Some(covered) = covered else { return Ok(Err(GptFault::HeaderSize { size })) };
    let mut zeroed = covered.to_vec();
    if let Some(field) = zeroed.get_mut(16..20) {
        field.fill(0);
    }
    let (stored, computed) = (word(16), crc32(&zeroed, u32::MAX, u32::MAX));
    if stored != computed {
        return Ok(Err(GptFault::HeaderCrc { stored, computed }));
    }
    if long(24) != lba {
        return Ok(Err(GptFault::MyLba { stored: long(24), actual: lba }));
    }
    let (entry_lba, count, size) = (long(72), word(80), word(84));
    let impossible = GptFault::Entries { count, size, lba: entry_lba };
    let len = u64::from(count).saturating_mul(u64::from(size));
    let (Ok(entry_len), true, true) =
        (usize::try_from(size), size >= 128 && size.is_power_of_two(), len > 0 && len <= MAX_ENTRY_BYTES)
    else {
        return Ok(Err(impossible));
    };
    let Some(entries) = read(disk, entry_lba.saturating_mul(sector_len), len)? else {
        return Ok(Err(impossible));
    };
    let (stored, computed) = (word(88), crc32(&entries, u32::MAX, u32::MAX));
    if stored != computed {
        return Ok(Err(GptFault::EntriesCrc { stored, computed }));
    }
    Ok(Ok(Header {
        my_lba: lba,
        alternate_lba: long(32),
        first_usable: long(40),
        last_usable: long(48),
        disk_guid: Guid(bytes(&sector, 56).unwrap_or_default()),
        entries,
        entry_len,
    }))
}

/// An entry; `None` when it is unused or ends before it starts.
fn partition(number: u32, entry: &[u8], sector_len: u64) -> Option<Partition> {
    let kind = Guid(bytes(entry, 0)?);
    if kind.is_nil() {
        return None;
    }
    let (first, last) = (le64(entry, 32)?, le64(entry, 40)?);
    let sectors = last.checked_sub(first)?.checked_add(1)?;
    let units: Vec<u16> = entry
        .get(56..128)?
        .chunks_exact(2)
        .filter_map(|unit| le16(unit, 0))
        .take_while(|unit| *unit != 0)
        .collect();
    Some(Partition {
        number,
        start: first.checked_mul(sector_len)?,
        len: sectors.checked_mul(sector_len)?,
        kind: PartitionType::Gpt(kind),
        part_uuid: Guid(bytes(entry, 16)?).to_string(),
        name: String::from_utf16_lossy(&units),
        // Attribute bit 2: legacy BIOS bootable.
        active: le64(entry, 48)? & 4 != 0,
    })
}
