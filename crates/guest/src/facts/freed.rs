//! Whether free blocks of a file system still hold what was deleted: free blocks are looked at, not guessed.
//!
//! ext2 to ext4 only: their bitmaps lie at places that one table names. Source: Linux `Documentation/filesystems/ext4`
//! (blockgroup, group_descr, bitmaps, super).

use kiln_disk::wire::{le16, le32};
use kiln_disk::{Disk, Error, GuestOffset, Result};
use serde::{Deserialize, Serialize};

use crate::volume::{Content, FsState, Volume};

/// What was found in free blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freed {
    /// Free blocks that were looked at.
    pub looked: u32,
    /// Those with anything but zeros.
    pub filled: u32,
}

/// Groups whose bitmap is read, and free blocks of each that are looked at.
const GROUPS: u64 = 16;
const BLOCKS: usize = 6;

/// Looks into free blocks of a volume; `None` where its bitmaps are not known how to read, or not to be trusted.
///
/// # Errors
/// I/O of the disk, and its budget.
pub(super) fn look(volume: &Volume) -> Result<Option<Freed>> {
    if volume.probed.content != Content::Ext || volume.probed.state != Some(FsState::Clean) {
        return Ok(None);
    }
    match bitmaps(volume.disk.as_ref()) {
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => Err(error),
        // A place outside of the volume: the table is wrong.
        Err(_) => Ok(None),
        found => found,
    }
}

fn bytes(disk: &dyn Disk, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut buf = vec![0; usize::try_from(len).unwrap_or(0)];
    disk.read_guest(GuestOffset::new(at), &mut buf)?;
    Ok(buf)
}

/// The words of the superblock that say where bitmaps are.
struct Geometry {
    block: u64,
    first: u64,
    blocks: u64,
    per_group: u64,
    groups: u64,
    descriptor: u64,
}

fn geometry(sb: &[u8]) -> Option<Geometry> {
    let block = 1024_u64.checked_shl(le32(sb, 0x18)?.min(6))?;
    let incompat = le32(sb, 0x60)?;
    let ro_compat = le32(sb, 0x64)?;
    // Descriptors that lie elsewhere (META_BG) and clusters (BIGALLOC) are not read.
    if incompat & 0x10 != 0 || ro_compat & 0x200 != 0 {
        return None;
    }
    let wide = incompat & 0x80 != 0;
    let high = if wide { u64::from(le32(sb, 0x150)?) << 32 } else { 0 };
    let blocks = u64::from(le32(sb, 4)?) | high;
    let first = u64::from(le32(sb, 0x14)?);
    let per_group = u64::from(le32(sb, 0x20)?);
    let descriptor = if wide { u64::from(le16(sb, 0xfe)?) } else { 32 };
    let sane = per_group > 0 && per_group <= block.checked_mul(8)? && (32..=1024).contains(&descriptor);
    let groups = blocks.checked_sub(first)?.div_ceil(per_group.max(1));
    sane.then_some(Geometry { block, first, blocks, per_group, groups, descriptor })
}

fn bitmaps(disk: &dyn Disk) -> Result<Option<Freed>> {
    let sb = bytes(disk, 1024, 1024)?;
    let Some(geometry) = geometry(&sb).filter(|geometry| geometry.groups > 0) else { return Ok(None) };
    let mut freed = Freed { looked: 0, filled: 0 };
    let step = geometry.groups.div_ceil(GROUPS).max(1);
    let mut group = 0_u64;
    while group < geometry.groups {
        let Some(places) = free_blocks(disk, &geometry, group)? else { return Ok(None) };
        for place in places {
            freed.looked = freed.looked.saturating_add(1);
            freed.filled = freed.filled.saturating_add(u32::from(is_filled(disk, place, geometry.block)?));
        }
        group = group.saturating_add(step);
    }
    Ok((freed.looked > 0).then_some(freed))
}

/// First bytes of some free blocks of a group, evenly spread over those that are free.
fn free_blocks(disk: &dyn Disk, geometry: &Geometry, group: u64) -> Result<Option<Vec<u64>>> {
    let Geometry { block, first, blocks, per_group, descriptor, .. } = *geometry;
    let table = first.saturating_add(1).saturating_mul(block);
    let entry = bytes(disk, table.saturating_add(group.saturating_mul(descriptor)), descriptor)?;
    let word = |at| le32(&entry, at).map_or(0, u64::from);
    let high = if descriptor >= 64 { word(0x20) << 32 } else { 0 };
    let (bitmap, flags) = (word(0) | high, le16(&entry, 0x12).unwrap_or(0));
    let start = first.saturating_add(group.saturating_mul(per_group));
    let len = per_group.min(blocks.saturating_sub(start));
    // BLOCK_UNINIT: the group was never written to.
    if flags & 2 != 0 {
        return Ok(Some(Vec::new()));
    }
    if bitmap < first || bitmap >= blocks {
        return Ok(None);
    }
    let bits = bytes(disk, bitmap.saturating_mul(block), block)?;
    let is_free = |index: &u64| {
        let byte = usize::try_from(*index / 8).ok().and_then(|at| bits.get(at).copied());
        let bit = u32::try_from(*index % 8).unwrap_or(0);
        byte.is_some_and(|byte| byte.checked_shr(bit).is_some_and(|byte| byte & 1 == 0))
    };
    let free: Vec<u64> = (0..len).filter(is_free).collect();
    let step = free.len().div_ceil(BLOCKS).max(1);
    let chosen = free.iter().step_by(step).take(BLOCKS);
    Ok(Some(chosen.map(|index| start.saturating_add(*index).saturating_mul(block)).collect()))
}

fn is_filled(disk: &dyn Disk, at: u64, block: u64) -> Result<bool> {
    Ok(bytes(disk, at, block)?.iter().any(|byte| *byte != 0))
}
