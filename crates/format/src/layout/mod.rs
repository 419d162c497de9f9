//! The partition table of the disk in a container, as far as writing the disk anew has to know it: how it can be
//! started, and what has to move when it becomes longer.
//!
//! Sources: UEFI specification 2.10, 5.2 (MBR) and 5.3 (GPT); GRUB manual, "BIOS installation". Content is judged
//! by `guest`; nothing here looks into a partition.

mod gpt;

use kiln_disk::{Disk, GuestOffset, Result};
use serde::Serialize;

pub use gpt::{Gpt, GptProblem};

use crate::partitions::primaries;
use crate::wire::{bytes, le32, le64};

/// How a disk is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Not at all, or in a way that is neither.
    None,
    /// By a master boot record.
    Mbr,
    /// By a GUID partition table.
    Gpt,
    /// By a GUID partition table with partitions in its MBR as well.
    Hybrid,
}

/// What a partition table says about starting from the disk. A look, not a verdict: checksums are not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Layout {
    /// How the disk is divided.
    pub scheme: Scheme,
    /// The sector that a GPT counts in, 512 or 4096.
    pub sector_bytes: Option<u64>,
    /// Whether there is an EFI system partition.
    pub has_esp: bool,
    /// Whether a BIOS finds something to run in the first sector that leads on.
    pub has_boot_code: bool,
}

/// "EFI System Partition", C12A7328-F81F-11D2-BA4B-00A0C93EC93B as it is stored.
const ESP: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// "BIOS boot partition" of GRUB, 21686148-6449-6E6F-744E-656564454649 as it is stored.
const BIOS_BOOT: [u8; 16] = *b"Hah!IdontNeedEFI";
/// Attribute bit 2 of an entry: "Legacy BIOS Bootable".
const LEGACY_BOOTABLE: u64 = 1 << 2;
/// Type of an EFI system partition in an MBR.
const MBR_ESP: u8 = 0xef;
/// Boot code ends where the disk's signature begins.
const CODE_LEN: usize = 440;
/// More of a table is not looked at: 128 entries are 16 KiB.
const MOST_ENTRIES: u64 = 1 << 20;

impl Layout {
    /// Looks at a disk. A table that cannot be read is none.
    ///
    /// # Errors
    /// [`kiln_disk::Error::Io`].
    pub fn read(disk: &dyn Disk) -> Result<Self> {
        let nothing = Self { scheme: Scheme::None, sector_bytes: None, has_esp: false, has_boot_code: false };
        let Some(head) = read(disk, 0, 8192.min(disk.disk_len()))? else { return Ok(nothing) };
        let code = head.get(..CODE_LEN).unwrap_or_default();
        let has_code = !kiln_disk::zero::is_zero(code);
        let partitions = primaries(&head);
        let Some(sector) = gpt::sector_of(&head) else {
            let Some(partitions) = partitions.filter(|partitions| !partitions.is_empty()) else {
                return Ok(nothing);
            };
            let has_esp = partitions.iter().any(|entry| entry.kind == MBR_ESP);
            return Ok(Self { scheme: Scheme::Mbr, has_esp, has_boot_code: has_code, ..nothing });
        };
        let is_hybrid = partitions.is_some_and(|partitions| !partitions.is_empty());
        let mut layout = Self {
            scheme: if is_hybrid { Scheme::Hybrid } else { Scheme::Gpt },
            sector_bytes: Some(sector),
            ..nothing
        };
        let mut leads_on = is_hybrid || code.windows(4).any(|word| word == b"GRUB");
        for entry in entries(disk, &head, sector)? {
            layout.has_esp |= entry.kind == ESP;
            leads_on |= entry.kind == BIOS_BOOT || entry.attributes & LEGACY_BOOTABLE != 0;
        }
        // Windows leaves code in the first sector of every disk: beside a way for UEFI it has to lead somewhere.
        layout.has_boot_code = has_code && (leads_on || !layout.has_esp);
        Ok(layout)
    }
}

struct Entry {
    kind: [u8; 16],
    attributes: u64,
}

/// The used entries of a GPT ("GPT Partition Entry": type at 0, attributes at 48).
fn entries(disk: &dyn Disk, head: &[u8], sector: u64) -> Result<Vec<Entry>> {
    let header = usize::try_from(sector).ok().and_then(|at| head.get(at..)).unwrap_or_default();
    let fields = (le64(header, 72), le32(header, 80), le32(header, 84));
    let (Some(lba), Some(count), Some(size @ 128..)) = fields else { return Ok(Vec::new()) };
    let len = u64::from(count).saturating_mul(u64::from(size)).min(MOST_ENTRIES);
    let at = lba.saturating_mul(sector);
    let len = len.min(disk.disk_len().saturating_sub(at));
    let Some(table) = read(disk, at, len)? else { return Ok(Vec::new()) };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let entry = |entry: &[u8]| Some(Entry { kind: bytes(entry, 0)?, attributes: le64(entry, 48)? });
    Ok(table.chunks_exact(size).filter_map(entry).filter(|entry| entry.kind != [0; 16]).collect())
}

/// Bytes of the disk; `None` where the container is too damaged to give them.
fn read(disk: &dyn Disk, at: u64, len: u64) -> Result<Option<Vec<u8>>> {
    let mut buf = vec![0; usize::try_from(len).unwrap_or(0)];
    match disk.read_guest(GuestOffset::new(at), &mut buf) {
        Ok(()) => Ok(Some(buf)),
        Err(error @ kiln_disk::Error::Io { .. }) => Err(error),
        Err(_) => Ok(None),
    }
}
