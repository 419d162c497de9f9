//! Volume descriptors (ECMA-119, 8) and the boot catalogue (El Torito 1.0).

use kiln_disk::interned::Word;
use kiln_disk::wire::{bytes, le16, le32};
use kiln_disk::{Disk, GuestOffset};
use serde::{Deserialize, Serialize};

use super::super::{FsError, Result};
use super::SECTOR;

/// The first descriptor is in sector 16 (ECMA-119, 6.2.1); so many are looked at.
const FIRST: u64 = 16;
const MAX_DESCRIPTORS: u64 = 64;
/// Sectors of a boot catalogue that are looked at: 64 entries each.
const MAX_CATALOGUE: u64 = 4;

/// A primary or supplementary volume descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// Volume identifier: the label.
    pub label: String,
    /// System identifier: for whom the first 16 sectors are.
    pub system: String,
    /// Volume set identifier.
    pub volume_set: String,
    /// Publisher identifier.
    pub publisher: String,
    /// Data preparer identifier.
    pub preparer: String,
    /// Application identifier.
    pub application: String,
    /// When it was made, as `2024-02-10T11:27:00+01:00`.
    pub created: Option<String>,
    /// When it was changed.
    pub modified: Option<String>,
    /// Bytes in a logical block.
    pub block: u64,
    /// Length of the volume in bytes, as it says.
    pub volume_len: u64,
    /// The record of the root directory.
    pub(super) root: [u8; 34],
}

/// What the descriptors say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptors {
    /// The first primary descriptor.
    pub primary: Descriptor,
    /// The supplementary one whose names are UCS-2 (Joliet).
    pub joliet: Option<Descriptor>,
    /// Byte of the boot catalogue.
    pub catalogue: Option<u64>,
}

/// An entry of the boot catalogue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootImage {
    /// What starts it: "BIOS", "UEFI", "PowerPC", "Mac", "unknown".
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub platform: Word,
    /// Whether it is meant to be started.
    pub bootable: bool,
    /// What it is taken for: "none", "floppy", "hard disk", "unknown".
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub emulation: Word,
    /// First sector of 2048 bytes.
    pub sector: u32,
    /// How much of it the firmware loads, in sectors of 512 bytes; UEFI may read on.
    pub load_sectors: u16,
}

/// `len` bytes at `at`, which must be on the disk.
pub(super) fn read(disk: &dyn Disk, at: u64, len: u64, what: &str) -> Result<Vec<u8>> {
    if at.checked_add(len).is_none_or(|end| end > disk.disk_len()) {
        return Err(FsError::Damaged(format!("{what} at byte {at} is not within the volume")));
    }
    let mut buf = vec![0; usize::try_from(len).unwrap_or(0)];
    disk.read_guest(GuestOffset::new(at), &mut buf)?;
    Ok(buf)
}

/// Reads the descriptors up to the terminator.
///
/// # Errors
/// [`FsError::Damaged`] when there is no primary one; I/O.
pub fn descriptors(disk: &dyn Disk) -> Result<Descriptors> {
    let (mut primary, mut joliet, mut catalogue) = (None, None, None);
    for index in 0..MAX_DESCRIPTORS {
        let at = FIRST.saturating_add(index).saturating_mul(SECTOR);
        let sector = match read(disk, at, SECTOR, "a volume descriptor") {
            Ok(sector) => sector,
            Err(FsError::Damaged(_)) => break,
            Err(error) => return Err(error),
        };
        if sector.get(1..6) != Some(b"CD001") {
            break;
        }
        match sector.first() {
            Some(0) if sector.get(7..30) == Some(b"EL TORITO SPECIFICATION") => {
                catalogue = le32(&sector, 71).map(|sector| u64::from(sector).saturating_mul(SECTOR));
            }
            Some(1) if primary.is_none() => primary = descriptor(&sector, ascii),
            Some(2) if joliet.is_none() && is_joliet(&sector) => joliet = descriptor(&sector, ucs2),
            Some(255) => break,
            _ => {}
        }
    }
    let primary =
        primary.ok_or_else(|| FsError::Damaged("there is no usable primary volume descriptor".to_owned()))?;
    Ok(Descriptors { primary, joliet, catalogue })
}

/// The escape sequences of UCS-2 levels 1 to 3 (Joliet specification, "SVD Escape Sequences Field").
fn is_joliet(sector: &[u8]) -> bool {
    matches!(sector.get(88..91), Some(b"%/@" | b"%/C" | b"%/E"))
}

fn descriptor(sector: &[u8], text: fn(&[u8]) -> String) -> Option<Descriptor> {
    let part = |from: usize, to: usize| sector.get(from..to).map(text).unwrap_or_default();
    let block = u64::from(le16(sector, 128)?);
    if !matches!(block, 512 | 1024 | 2048) {
        return None;
    }
    Some(Descriptor {
        system: part(8, 40),
        label: part(40, 72),
        volume_set: part(190, 318),
        publisher: part(318, 446),
        preparer: part(446, 574),
        application: part(574, 702),
        created: bytes(sector, 813).and_then(date),
        modified: bytes(sector, 830).and_then(date),
        block,
        volume_len: u64::from(le32(sector, 80)?).saturating_mul(block),
        root: bytes(sector, 156)?,
    })
}

fn ascii(bytes: &[u8]) -> String {
    crate::text::label(bytes)
}

/// UCS-2 in big-endian order.
pub(super) fn ucs2(bytes: &[u8]) -> String {
    let units = bytes.chunks_exact(2).filter_map(|pair| pair.first_chunk().copied().map(u16::from_be_bytes));
    let units: Vec<u16> = units.take_while(|unit| *unit != 0).collect();
    String::from_utf16_lossy(&units).trim_end().to_owned()
}

/// A date and time of 17 bytes (ECMA-119, 8.4.26.1): 16 digits, and the offset from GMT in quarters of an hour.
fn date(bytes: [u8; 17]) -> Option<String> {
    let (offset, digits) = bytes.split_last()?;
    let digits = std::str::from_utf8(digits).ok()?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || digits.bytes().all(|byte| byte == b'0') {
        return None;
    }
    let part = |from: usize, to: usize| digits.get(from..to).unwrap_or_default();
    let quarters = i8::from_le_bytes([*offset]);
    let zone = match (quarters, quarters.unsigned_abs()) {
        (0, _) => "Z".to_owned(),
        (_, size) => {
            let sign = if quarters < 0 { '-' } else { '+' };
            format!("{sign}{:02}:{:02}", size / 4, (size % 4).saturating_mul(15))
        }
    };
    let (date, time) = ((part(0, 4), part(4, 6), part(6, 8)), (part(8, 10), part(10, 12), part(12, 14)));
    Some(format!("{}-{}-{}T{}:{}:{}{zone}", date.0, date.1, date.2, time.0, time.1, time.2))
}

/// Reads a boot catalogue (El Torito 1.0, 2.0 to 2.4).
///
/// # Errors
/// [`FsError::Damaged`] when it is none; I/O.
pub fn boot_images(disk: &dyn Disk, at: u64) -> Result<Vec<BootImage>> {
    let len = MAX_CATALOGUE.saturating_mul(SECTOR).min(disk.disk_len().saturating_sub(at));
    let table = read(disk, at, len.max(64), "the boot catalogue")?;
    let mut entries = table.chunks_exact(32);
    let validation = entries.next().unwrap_or_default();
    let words = validation.chunks_exact(2).filter_map(|pair| pair.first_chunk().copied());
    let sum = words.fold(0_u16, |sum, word| sum.wrapping_add(u16::from_le_bytes(word)));
    if validation.first() != Some(&1) || validation.get(30..32) != Some(b"\x55\xaa") || sum != 0 {
        return Err(FsError::Damaged(format!("the boot catalogue at byte {at} has no validation entry")));
    }
    let mut platform = validation.get(1).copied().unwrap_or(0);
    let mut found: Vec<BootImage> =
        entries.next().and_then(|entry| boot_image(entry, platform)).into_iter().collect();
    // Section headers announce how many entries follow; extensions of an entry (0x44) are passed over.
    let (mut left, mut last) = (0_u16, false);
    for entry in entries {
        match entry.first() {
            Some(0x90 | 0x91) if left == 0 && !last => {
                last = entry.first() == Some(&0x91);
                platform = entry.get(1).copied().unwrap_or(0);
                left = le16(entry, 2).unwrap_or(0);
            }
            Some(0x44) => {}
            _ if left > 0 => {
                left = left.saturating_sub(1);
                found.extend(boot_image(entry, platform));
            }
            _ => break,
        }
    }
    Ok(found)
}

fn boot_image(entry: &[u8], platform: u8) -> Option<BootImage> {
    let indicator = *entry.first()?;
    if !matches!(indicator, 0 | 0x88) {
        return None;
    }
    Some(BootImage {
        platform: match platform {
            0 => "BIOS",
            1 => "PowerPC",
            2 => "Mac",
            0xef => "UEFI",
            _ => "unknown",
        },
        bootable: indicator == 0x88,
        emulation: match entry.get(1)? & 0xf {
            0 => "none",
            1..=3 => "floppy",
            4 => "hard disk",
            _ => "unknown",
        },
        sector: le32(entry, 8)?,
        load_sectors: le16(entry, 6)?,
    })
}
