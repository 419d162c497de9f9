//! The GUID partition table: its entries, and whether its two copies are sound.

use kiln_disk::{CheckSpec, Disk, Findings, GuestOffset, Result, Severity};

use super::{Layout, Partition, Scheme, names, read};
use crate::wire::{bytes, in_memory, le16, le32, le64};

/// More bytes of entries than any tool writes, and few enough to read at once.
const MAX_ENTRIES_BYTES: u64 = 1 << 20;

/// What [`check`] can find.
pub(crate) static CHECKS: &[CheckSpec] = &[HEADER_CRC, ENTRIES_CRC];

static HEADER_CRC: CheckSpec = CheckSpec {
    id: "disk.gpt.header-crc",
    severity: Severity::Damage,
    summary: "the checksum of a GPT header is wrong",
    effect: "firmware and kernels take this copy of the table for broken",
    fix: "fetch or copy the file again; if the disk is known to be whole, sgdisk -e or its expert menu rewrites it",
};

static ENTRIES_CRC: CheckSpec = CheckSpec {
    id: "disk.gpt.entries-crc",
    severity: Severity::Damage,
    summary: "the checksum of the GPT's partition entries is wrong",
    effect: "firmware and kernels take this copy of the table for broken; where partitions are cannot be trusted",
    fix: "fetch or copy the file again; if the disk is known to be whole, sgdisk rewrites the table",
};

/// A header that was found.
struct Header {
    bytes: Vec<u8>,
    at: u64,
    sector: u64,
}

impl Header {
    fn at(disk: &dyn Disk, at: u64, sector: u64) -> Result<Option<Self>> {
        let found = read(disk, at, sector)?.filter(|found| bytes(found, 0) == Some(*b"EFI PART"));
        Ok(found.map(|bytes| Self { bytes, at, sector }))
    }

    /// The header of the first copy.
    fn first(disk: &dyn Disk) -> Result<Option<Self>> {
        for sector in [512, 4096] {
            if let Some(header) = Self::at(disk, sector, sector)? {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// The header at the end of the disk.
    fn last(disk: &dyn Disk) -> Result<Option<Self>> {
        for sector in [512_u64, 4096] {
            if let Some(at) = disk.disk_len().checked_sub(sector).filter(|at| *at > sector)
                && let Some(header) = Self::at(disk, at, sector)?
            {
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// PartitionEntryLBA, NumberOfPartitionEntries, SizeOfPartitionEntry: place, entry size, all bytes.
    fn entries(&self, disk: &dyn Disk) -> Result<Option<(u64, usize, Vec<u8>)>> {
        let fields = (le64(&self.bytes, 72), le32(&self.bytes, 80), le32(&self.bytes, 84));
        let (Some(lba), Some(count), Some(size)) = fields else { return Ok(None) };
        let len = u64::from(count).saturating_mul(u64::from(size));
        if size < 128 || len > MAX_ENTRIES_BYTES {
            return Ok(None);
        }
        let at = lba.saturating_mul(self.sector);
        Ok(read(disk, at, len)?.map(|entries| (at, in_memory(u64::from(size)), entries)))
    }

    fn layout(&self, disk: &dyn Disk, scheme: Scheme) -> Result<Option<Layout>> {
        let Some((_, size, entries)) = self.entries(disk)? else { return Ok(None) };
        let slots = (1_u32..).zip(entries.chunks_exact(size));
        let partitions = slots.filter_map(|(number, entry)| partition(number, entry, self.sector)).collect();
        let disk_id = bytes(&self.bytes, 56).map(guid_text);
        Ok(Some(Layout { scheme, sector_bytes: self.sector, disk_id, partitions }))
    }
}

/// The partitions of a GPT disk, from the copy that can be read; `None` for any other disk.
pub(super) fn read_layout(disk: &dyn Disk) -> Result<Option<Layout>> {
    if let Some(first) = Header::first(disk)?
        && let Some(layout) = first.layout(disk, Scheme::Gpt)?
    {
        return Ok(Some(layout));
    }
    match Header::last(disk)? {
        Some(last) => last.layout(disk, Scheme::GptBackup),
        None => Ok(None),
    }
}

/// A used entry: type GUID, own GUID, first and last LBA, attributes, 36 characters of UTF-16LE.
fn partition(number: u32, entry: &[u8], sector: u64) -> Option<Partition> {
    let kind = bytes::<16>(entry, 0).filter(|kind| *kind != [0; 16])?;
    let (first, last) = (le64(entry, 32)?, le64(entry, 40)?);
    let sectors = last.checked_sub(first)?.checked_add(1)?;
    let units: Vec<u16> =
        (0..36_usize).map_while(|index| le16(entry, index.checked_mul(2)?.checked_add(56)?)).collect();
    let name = String::from_utf16_lossy(units.split(|unit| *unit == 0).next().unwrap_or_default());
    let type_id = guid_text(kind);
    Some(Partition {
        number,
        start_bytes: first.checked_mul(sector)?,
        length_bytes: sectors.checked_mul(sector)?,
        type_name: names::of_gpt(&type_id),
        type_id,
        name,
        filesystem: None,
    })
}

/// The first three fields are little-endian (UEFI 2.10, appendix A).
fn guid_text(guid: [u8; 16]) -> String {
    let [a, b, c, d, e, f, g, h, rest @ ..] = guid;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    let [i, j, node @ ..] = rest;
    [hex(&[d, c, b, a]), hex(&[f, e]), hex(&[h, g]), hex(&[i, j]), hex(&node)].join("-")
}

/// Compares the checksums of both copies of a GPT with their bytes. A copy that is absent is no finding here:
/// [`crate::completeness`] looks for it.
///
/// # Errors
/// [`kiln_disk::Error::Io`].
pub fn check(disk: &dyn Disk, findings: &mut Findings) -> Result<()> {
    for header in [Header::first(disk)?, Header::last(disk)?].into_iter().flatten() {
        let len = le32(&header.bytes, 12).map_or(0, |len| in_memory(u64::from(len)));
        let (Some(stored), Some(own)) = (le32(&header.bytes, 16), header.bytes.get(..len)) else { continue };
        if len < 92 {
            continue;
        }
        let mut own = own.to_vec();
        if let Some(field) = own.get_mut(16..20) {
            field.fill(0);
        }
        let mut found = |check: &'static CheckSpec, at: u64, len: u64, stored: u32, computed: u32| {
            let detail = format!("stored {stored:#010x}, computed {computed:#010x}");
            let place = GuestOffset::new(at);
            findings.push(crate::completeness::placed(check.found(detail), disk, place).guest(place, len));
        };
        let computed = crc32(&own);
        if stored != computed {
            found(&HEADER_CRC, header.at, header.sector, stored, computed);
        }
        if let (Some(stored), Some((at, _, entries))) = (le32(&header.bytes, 88), header.entries(disk)?) {
            let computed = crc32(&entries);
            if stored != computed {
                found(&ENTRIES_CRC, at, u64::try_from(entries.len()).unwrap_or(0), stored, computed);
            }
        }
    }
    Ok(())
}

/// CRC-32 as UEFI has it (IEEE 802.3).
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}
