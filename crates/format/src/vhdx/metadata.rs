//! The metadata region ([MS-VHDX] 2.6): what the disk is like.

use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Result};

use super::MIB;
use super::parent::{self, Locator};
use super::problem::VhdxProblem;
use super::region::Region;
use crate::id::Guid;
use crate::wire::{bytes, le16, le32, le64};

pub(super) const TABLE_LEN: usize = 64 << 10;
pub(super) const SIGNATURE: &[u8] = b"metadata";
const MAX_ENTRIES: u16 = 2047;
/// The most that an item may have.
const MAX_ITEM: u32 = 1 << 20;
/// 64 TiB.
pub(super) const MAX_DISK: u64 = 64 << 40;

/// Known items.
pub(super) mod item {
    use crate::id::Guid;

    /// CAA16737-FA36-4D43-B3B6-33F0AA44E76B.
    pub(in super::super) const FILE_PARAMETERS: Guid =
        Guid(*b"\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b");
    /// 2FA54224-CD1B-4876-B211-5DBED83BF4B8.
    pub(in super::super) const VIRTUAL_DISK_SIZE: Guid =
        Guid(*b"\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8");
    /// BECA12AB-B2E6-4523-93EF-C309E000C746.
    pub(in super::super) const VIRTUAL_DISK_ID: Guid =
        Guid(*b"\xab\x12\xca\xbe\xe6\xb2\x23\x45\x93\xef\xc3\x09\xe0\x00\xc7\x46");
    /// 8141BF1D-A96F-4709-BA47-F233A8FAAB5F.
    pub(in super::super) const LOGICAL_SECTOR_SIZE: Guid =
        Guid(*b"\x1d\xbf\x41\x81\x6f\xa9\x09\x47\xba\x47\xf2\x33\xa8\xfa\xab\x5f");
    /// CDA348C7-445D-4471-9CC9-E9885251C556.
    pub(in super::super) const PHYSICAL_SECTOR_SIZE: Guid =
        Guid(*b"\xc7\x48\xa3\xcd\x5d\x44\x71\x44\x9c\xc9\xe9\x88\x52\x51\xc5\x56");
    /// A8D35F2D-B30B-454D-ABF7-D3D84834AB0C.
    pub(in super::super) const PARENT_LOCATOR: Guid =
        Guid(*b"\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c");
}

/// What the metadata says, checked.
#[derive(Debug, Clone)]
pub(super) struct Metadata {
    /// A power of two from 1 to 256 MiB.
    pub(super) block_size: u32,
    /// "LeaveBlockAllocated": a fixed disk.
    pub(super) fixed: bool,
    pub(super) has_parent: bool,
    /// Whole logical sectors, at most 64 TiB.
    pub(super) virtual_disk_size: u64,
    pub(super) virtual_disk_id: Guid,
    /// 512 or 4096.
    pub(super) logical_sector_size: u32,
    pub(super) physical_sector_size: Option<u32>,
    pub(super) locator: Option<Locator>,
}

/// An entry of the table.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: Guid,
    /// Place of the entry in the file.
    entry_at: u64,
    /// Place of the item in the file.
    at: u64,
    len: u32,
}

impl Metadata {
    /// Reads the region, which lies inside the file.
    pub(super) fn read(source: &Arc<dyn ByteSource>, region: Region, budget: &Budget) -> Result<Self> {
        let bad = |at: u64, problem| Error::malformed("metadata", FileOffset::new(at), problem);
        let mut raw = vec![0; TABLE_LEN];
        budget.charge(Cost::MetadataBytes, TABLE_LEN.try_into().unwrap_or(0))?;
        source.read_bytes(FileOffset::new(region.start), &mut raw)?;
        let items = Items { source: source.as_ref(), list: entries(&raw, region)? };

        let (place, parameters) = items.fixed::<8>(item::FILE_PARAMETERS, "file parameters")?;
        let (block_size, flags) = (le32(&parameters, 0).unwrap_or(0), le32(&parameters, 4).unwrap_or(0));
        if !block_size.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block_size) {
            return Err(bad(place, VhdxProblem::BlockSize(block_size)));
        }
        let (place, sector) = items.fixed::<4>(item::LOGICAL_SECTOR_SIZE, "logical sector size")?;
        let logical_sector_size = u32::from_le_bytes(sector);
        if !matches!(logical_sector_size, 512 | 4096) {
            return Err(bad(place, VhdxProblem::SectorSize(logical_sector_size)));
        }
        let (place, size) = items.fixed::<8>(item::VIRTUAL_DISK_SIZE, "virtual disk size")?;
        let size = le64(&size, 0).unwrap_or(0);
        if size == 0 || size > MAX_DISK || !size.is_multiple_of(logical_sector_size.into()) {
            return Err(bad(place, VhdxProblem::DiskSize { size, sector: logical_sector_size }));
        }
        let has_parent = flags & 2 != 0;
        let locator = match items.find(item::PARENT_LOCATOR) {
            Some(entry) if has_parent => {
                let mut raw = vec![0; usize::try_from(entry.len).unwrap_or(0)];
                budget.charge(Cost::MetadataBytes, entry.len.into())?;
                source.read_bytes(FileOffset::new(entry.at), &mut raw)?;
                Some(parent::read_locator(&raw, entry.at)?)
            }
            _ => None,
        };
        let id = items.optional::<16>(item::VIRTUAL_DISK_ID)?;
        Ok(Self {
            block_size,
            fixed: flags & 1 != 0,
            has_parent,
            virtual_disk_size: size,
            virtual_disk_id: Guid(id.unwrap_or([0; 16])),
            logical_sector_size,
            physical_sector_size: items.optional(item::PHYSICAL_SECTOR_SIZE)?.map(u32::from_le_bytes),
            locator,
        })
    }
}

/// Decodes the table: known items once each, all inside the region, unknown ones only when they may be ignored.
fn entries(raw: &[u8], region: Region) -> Result<Vec<Entry>> {
    let bad = |at: u64, problem| Error::malformed("metadata table", FileOffset::new(at), problem);
    if !raw.starts_with(SIGNATURE) {
        return Err(bad(region.start, VhdxProblem::Signature("metadata")));
    }
    let count = le16(raw, 10).unwrap_or(0);
    if count > MAX_ENTRIES {
        let problem = VhdxProblem::TooManyEntries { what: "metadata table", count: count.into() };
        return Err(bad(region.start, problem));
    }
    let known = [
        item::FILE_PARAMETERS,
        item::VIRTUAL_DISK_SIZE,
        item::VIRTUAL_DISK_ID,
        item::LOGICAL_SECTOR_SIZE,
        item::PHYSICAL_SECTOR_SIZE,
        item::PARENT_LOCATOR,
    ];
    let mut list: Vec<Entry> = Vec::new();
    let rows = (1_u64..).zip(raw.get(32..).unwrap_or_default().chunks_exact(32));
    for (index, row) in rows.take(count.into()) {
        let id = Guid(bytes(row, 0).unwrap_or([0; 16]));
        let (offset, len) = (le32(row, 16).unwrap_or(0), le32(row, 20).unwrap_or(0));
        let flags = le32(row, 24).unwrap_or(0);
        let entry_at = region.start.saturating_add(index.saturating_mul(32));
        // A user's item may have any id.
        if flags & 1 != 0 || !known.contains(&id) {
            if flags & 4 != 0 {
                return Err(Error::Unsupported {
                    code: "vhdx.metadata.required",
                    feature: format!("a VHDX metadata item of kind {id}"),
                    hint: "a newer program wrote the file; convert it there",
                });
            }
            continue;
        }
        let end = u64::from(offset).saturating_add(len.into());
        let table_len = u32::try_from(TABLE_LEN).unwrap_or(u32::MAX);
        if offset < table_len || len > MAX_ITEM || end > region.len {
            return Err(bad(entry_at, VhdxProblem::ItemPlace { id: id.to_string(), offset, len }));
        }
        if list.iter().any(|other| other.id == id) {
            return Err(bad(entry_at, VhdxProblem::ItemTwice(id.to_string())));
        }
        list.push(Entry { id, entry_at, at: region.start.saturating_add(offset.into()), len });
    }
    let by_place = |entry: &Entry| (entry.at, entry.len);
    let mut places: Vec<_> = list.iter().map(|entry| (by_place(entry), entry)).collect();
    places.sort_by_key(|(place, _)| *place);
    for pair in places.windows(2) {
        if let [((at, len), _), ((next, _), second)] = pair
            && at.saturating_add((*len).into()) > *next
        {
            let problem = VhdxProblem::Overlap { one: "metadata item", other: "metadata item" };
            return Err(bad(second.entry_at, problem));
        }
    }
    Ok(list)
}

struct Items<'a> {
    source: &'a dyn ByteSource,
    list: Vec<Entry>,
}

impl Items<'_> {
    fn find(&self, id: Guid) -> Option<&Entry> {
        self.list.iter().find(|entry| entry.id == id)
    }

    fn optional<const N: usize>(&self, id: Guid) -> Result<Option<[u8; N]>> {
        let Some(entry) = self.find(id).filter(|entry| usize::try_from(entry.len) == Ok(N)) else {
            return Ok(None);
        };
        let mut raw = [0; N];
        self.source.read_bytes(FileOffset::new(entry.at), &mut raw)?;
        Ok(Some(raw))
    }

    /// The item and its place.
    fn fixed<const N: usize>(&self, id: Guid, name: &'static str) -> Result<(u64, [u8; N])> {
        let raw = self.optional(id)?.ok_or_else(|| {
            let at = self.find(id).map_or(0, |entry| entry.entry_at);
            Error::malformed("metadata table", FileOffset::new(at), VhdxProblem::ItemMissing(name))
        })?;
        Ok((self.find(id).map_or(0, |entry| entry.at), raw))
    }
}

/// The first bytes of a region for a disk without a parent: the table and its five items.
pub(super) fn encode(metadata: &Metadata) -> Vec<u8> {
    let flags = u32::from(metadata.fixed);
    let parameters = [metadata.block_size.to_le_bytes(), flags.to_le_bytes()].concat();
    let physical = metadata.physical_sector_size.unwrap_or(metadata.logical_sector_size);
    // IsRequired is 4, IsVirtualDisk 2 (2.6.1.2, 2.6.2).
    let items: [(Guid, u32, Vec<u8>); 5] = [
        (item::FILE_PARAMETERS, 4, parameters),
        (item::VIRTUAL_DISK_SIZE, 6, metadata.virtual_disk_size.to_le_bytes().to_vec()),
        (item::VIRTUAL_DISK_ID, 6, metadata.virtual_disk_id.0.to_vec()),
        (item::LOGICAL_SECTOR_SIZE, 6, metadata.logical_sector_size.to_le_bytes().to_vec()),
        (item::PHYSICAL_SECTOR_SIZE, 6, physical.to_le_bytes().to_vec()),
    ];
    let mut table = SIGNATURE.to_vec();
    table.extend_from_slice(&[0; 2]);
    table.extend_from_slice(&u16::try_from(items.len()).unwrap_or(0).to_le_bytes());
    table.resize(32, 0);
    let mut data = Vec::new();
    for (id, flags, bytes) in &items {
        let offset = TABLE_LEN.saturating_add(data.len());
        table.extend_from_slice(&id.0);
        for number in [offset, bytes.len()] {
            table.extend_from_slice(&u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes());
        }
        table.extend_from_slice(&flags.to_le_bytes());
        table.extend_from_slice(&[0; 4]);
        data.extend_from_slice(bytes);
    }
    table.resize(TABLE_LEN, 0);
    table.extend_from_slice(&data);
    table
}

/// Length of the region that the writer makes.
pub(super) const REGION_LEN: u64 = MIB;
