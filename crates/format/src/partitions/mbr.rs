//! The master boot record and the chain of logical partitions in its extended one.

use kiln_disk::{Disk, Result};

use super::{Layout, Partition, Scheme, names};
use crate::wire::{bytes, le16, le32};

const SECTOR: u64 = 512;
/// Logical partitions that are followed: more than any system can address.
const MAX_LOGICAL: u32 = 128;

/// An entry of a partition table, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// 1 to 4.
    pub(crate) number: u32,
    /// The type byte.
    pub(crate) kind: u8,
    /// First sector.
    pub(crate) start: u64,
    /// Sectors.
    pub(crate) len: u64,
}

impl Entry {
    /// The first byte behind it. Sector numbers are of 32 bits: no product overflows.
    pub(crate) const fn end_bytes(self) -> u64 {
        self.start.saturating_add(self.len).saturating_mul(SECTOR)
    }
}

/// The primary partitions of an MBR; `None` when the sector is no MBR (a volume's boot sector has the same
/// signature, so the table itself must make sense). The protective entry of a GPT disk is left out.
pub(crate) fn primaries(head: &[u8]) -> Option<Vec<Entry>> {
    if le16(head, 510)? != 0xaa55 || is_volume_boot_sector(head) {
        return None;
    }
    let mut partitions = Vec::new();
    for (number, entry) in (1_u32..).zip(head.get(446..510)?.chunks_exact(16)) {
        let ([status], [kind]) = (bytes::<1>(entry, 0)?, bytes::<1>(entry, 4)?);
        let (start, len) = (u64::from(le32(entry, 8)?), u64::from(le32(entry, 12)?));
        match (status, kind) {
            (0 | 0x80, 0 | 0xee) => {}
            (0 | 0x80, _) if start > 0 && len > 0 => partitions.push(Entry { number, kind, start, len }),
            _ => return None,
        }
    }
    Some(partitions)
}

/// FAT, exFAT and NTFS boot sectors carry their name where an MBR has code.
fn is_volume_boot_sector(head: &[u8]) -> bool {
    let names: [(usize, &[u8]); 4] = [(3, b"NTFS    "), (3, b"EXFAT   "), (54, b"FAT"), (82, b"FAT32")];
    names.iter().any(|(at, name)| head.get(*at..).is_some_and(|rest| rest.starts_with(name)))
}

/// The partitions of an MBR disk; `None` for any other.
pub(super) fn read_table(disk: &dyn Disk, head: &[u8]) -> Result<Option<Layout>> {
    let Some(entries) = primaries(head).filter(|entries| !entries.is_empty()) else { return Ok(None) };
    let mut partitions = Vec::new();
    for entry in entries {
        if is_extended(entry.kind) {
            logical(disk, entry.start, &mut partitions)?;
        } else {
            partitions.push(partition(entry.number, entry.kind, entry.start, entry.len));
        }
    }
    let disk_id = le32(head, 440).filter(|id| *id != 0).map(|id| format!("{id:08x}"));
    Ok(Some(Layout { scheme: Scheme::Mbr, sector_bytes: SECTOR, disk_id, partitions }))
}

pub(super) fn read(disk: &dyn Disk) -> Result<Option<Layout>> {
    match super::read(disk, 0, SECTOR)? {
        Some(head) => read_table(disk, &head),
        None => Ok(None),
    }
}

const fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// Follows the extended boot records: in each, the first entry is a partition (counted from the record), the
/// second leads to the next record (counted from the extended partition).
fn logical(disk: &dyn Disk, base: u64, partitions: &mut Vec<Partition>) -> Result<()> {
    let mut at = base;
    let mut number = 5_u32;
    while number < MAX_LOGICAL {
        let Some(record) = super::read(disk, at.saturating_mul(SECTOR), SECTOR)? else { return Ok(()) };
        if le16(&record, 510) != Some(0xaa55) {
            return Ok(());
        }
        let entry = |from: usize| {
            let slot = record.get(from..)?;
            Some((bytes::<1>(slot, 4)?, u64::from(le32(slot, 8)?), u64::from(le32(slot, 12)?)))
        };
        if let Some(([kind], start, len)) = entry(446).filter(|(_, _, len)| *len > 0) {
            partitions.push(partition(number, kind, at.saturating_add(start), len));
            number = number.saturating_add(1);
        }
        match entry(462) {
            // Records only lead forward: a loop cannot be.
            Some(([kind], next, _)) if is_extended(kind) && base.saturating_add(next) > at => {
                at = base.saturating_add(next);
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn partition(number: u32, kind: u8, start: u64, len: u64) -> Partition {
    Partition {
        number,
        start_bytes: start.saturating_mul(SECTOR),
        length_bytes: len.saturating_mul(SECTOR),
        type_id: format!("{kind:#04x}"),
        type_name: names::of_mbr(kind),
        name: String::new(),
        filesystem: None,
    }
}
