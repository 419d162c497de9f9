//! The master boot record and the chain of an extended partition (UEFI 2.10, 5.2.1).

use std::collections::HashSet;

use crate::interned::Word;
use serde::{Deserialize, Serialize};

use super::{Partition, PartitionTable, PartitionType, TableFault, read};
use crate::disk::Disk;
use crate::error::Result;
use crate::wire::{bytes, le16, le32};

/// Links of an extended partition that are followed. Linux numbers partitions up to 255 at most.
const MAX_LOGICAL: u32 = 128;

/// What the first sector says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MbrFacts {
    /// The sector ends with 55 AA.
    pub signed: bool,
    /// The disk's signature, at 440; `PARTUUID` of its partitions begins with it.
    pub disk_signature: u32,
    /// There is code in bytes 0 to 440.
    pub has_code: bool,
    /// Which loader's code it is, when it says so.
    #[serde(deserialize_with = "crate::interned::maybe", default)]
    pub loader: Option<Word>,
    /// An entry of type 0xEE guards a GPT.
    pub protective: bool,
    /// The number of an entry that is marked active.
    pub active: Option<u32>,
}

/// A used entry: its number, and its fields in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u32,
    pub(super) kind: u8,
    pub(super) active: bool,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Entry {
    fn is_extended(self) -> bool {
        matches!(self.kind, 0x05 | 0x0f | 0x85)
    }
}

/// A decoded sector.
pub(super) struct Mbr {
    pub(super) facts: MbrFacts,
    /// Used entries but the protective one; none unless the sector is an MBR.
    pub(super) entries: Vec<Entry>,
}

/// Decodes the first sector of a disk. A volume's boot sector has the same signature, so the table must make sense
/// for entries to be seen.
pub(super) fn decode(sector: &[u8]) -> Mbr {
    let signed = le16(sector, 510) == Some(0xaa55);
    let code = sector.get(..440).unwrap_or_default();
    let all = (1_u32..).zip(sector.get(446..510).unwrap_or_default().chunks_exact(16));
    let entries: Vec<Option<Entry>> = all.map(|(number, entry)| decode_entry(number, entry)).collect();
    let sane = signed && !is_volume_boot_sector(sector) && entries.iter().all(Option::is_some);
    let mut entries: Vec<Entry> =
        entries.into_iter().flatten().filter(|entry| sane && entry.kind != 0).collect();
    let protective = entries.iter().any(|entry| entry.kind == 0xee);
    let active = entries.iter().find(|entry| entry.active).map(|entry| entry.number);
    entries.retain(|entry| entry.kind != 0xee);
    let facts = MbrFacts {
        signed,
        disk_signature: le32(sector, 440).unwrap_or(0),
        has_code: code.iter().any(|byte| *byte != 0),
        loader: loader(code),
        protective,
        active,
    };
    Mbr { facts, entries }
}

/// An entry; kind 0 when it is unused, `None` when no partitioning tool writes such a thing.
fn decode_entry(number: u32, entry: &[u8]) -> Option<Entry> {
    let ([status], [kind]) = (bytes::<1>(entry, 0)?, bytes::<1>(entry, 4)?);
    let (start, len) = (u64::from(le32(entry, 8)?), u64::from(le32(entry, 12)?));
    let used = kind != 0 && len > 0;
    if status & 0x7f != 0 || (used && start == 0) {
        return None;
    }
    Some(Entry { number, kind: if used { kind } else { 0 }, active: status == 0x80, start, len })
}

/// FAT, exFAT and NTFS boot sectors carry their name where an MBR has code.
#[must_use]
pub fn is_volume_boot_sector(sector: &[u8]) -> bool {
    let names: [(usize, &[u8]); 5] =
        [(3, b"NTFS    "), (3, b"EXFAT   "), (3, b"-FVE-FS-"), (54, b"FAT"), (82, b"FAT32")];
    names.iter().any(|(at, name)| sector.get(*at..).is_some_and(|rest| rest.starts_with(name)))
}

/// Names the code by the words in it.
fn loader(code: &[u8]) -> Option<&'static str> {
    let holds = |words: &[u8]| code.windows(words.len()).any(|window| window == words);
    if holds(b"GRUB") {
        // GRUB legacy's stage 1 says the same words; its version field at 0x3e is 3.x (stage1.h).
        return Some(if code.get(0x3e) == Some(&3) { "grub-legacy" } else { "grub2" });
    }
    if holds(b"LILO") {
        return Some("lilo");
    }
    if holds(b"SYSLINUX") || holds(b"isolinux") || holds(b"Missing operating system.\r\n") {
        return Some("syslinux");
    }
    if holds(b"Missing operating system") || holds(b"bootmgr") || holds(b"Invalid partition table") {
        return Some("windows");
    }
    None
}

/// Turns the entries, and the chain of an extended one, into partitions.
pub(super) fn partitions(disk: &dyn Disk, mbr: &Mbr, table: &mut PartitionTable) -> Result<()> {
    let signature = mbr.facts.disk_signature;
    for entry in mbr.entries.iter().filter(|entry| !entry.is_extended()) {
        table.partitions.push(partition(*entry, 0, signature));
    }
    let mut number = 5_u32;
    for extended in mbr.entries.iter().filter(|entry| entry.is_extended()) {
        number = logical(disk, *extended, number, signature, table)?;
    }
    Ok(())
}

/// Walks one chain of extended boot records. Each holds a partition, relative to itself, and the next record,
/// relative to the extended partition.
fn logical(
    disk: &dyn Disk,
    extended: Entry,
    first_number: u32,
    signature: u32,
    table: &mut PartitionTable,
) -> Result<u32> {
    let (mut seen, mut record, mut number) = (HashSet::new(), extended.start, first_number);
    loop {
        let at = record.saturating_mul(512);
        let inside = record >= extended.start && record < extended.start.saturating_add(extended.len);
        if !inside || number.saturating_sub(first_number) >= MAX_LOGICAL || !seen.insert(record) {
            table.faults.push(TableFault::Chain { at });
            return Ok(number);
        }
        let Some(sector) = read(disk, at, 512)?.filter(|sector| le16(sector, 510) == Some(0xaa55)) else {
            table.faults.push(TableFault::Chain { at });
            return Ok(number);
        };
        let (mut own, mut next) = (None, None);
        for (index, raw) in (1_u32..).zip(sector.get(446..478).unwrap_or_default().chunks_exact(16)) {
            match decode_entry(index, raw) {
                None => table.faults.push(TableFault::Chain { at }),
                Some(entry) if entry.kind == 0 => {}
                Some(entry) if entry.is_extended() => next = Some(entry),
                Some(entry) => own = Some(entry),
            }
        }
        if let Some(own) = own {
            table.partitions.push(partition(Entry { number, ..own }, record, signature));
            number = number.saturating_add(1);
        }
        match next {
            Some(next) => record = extended.start.saturating_add(next.start),
            None => return Ok(number),
        }
    }
}

fn partition(entry: Entry, base: u64, signature: u32) -> Partition {
    Partition {
        number: entry.number,
        start: base.saturating_add(entry.start).saturating_mul(512),
        len: entry.len.saturating_mul(512),
        kind: PartitionType::Mbr(entry.kind),
        part_uuid: format!("{signature:08x}-{:02x}", entry.number),
        name: String::new(),
        active: entry.active,
    }
}
