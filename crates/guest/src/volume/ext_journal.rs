//! Whether the journal of an ext3 or ext4 is where it must be: without it the kernel does not mount the file system, and
//! e2fsck does not repair it unasked.
//!
//! Source: Linux `fs/ext4/ext4.h`, `ext4_get_journal_inode` of `fs/ext4/super.c`, `include/linux/jbd2.h`.

use kiln_disk::wire::{be32, le16, le32};
use kiln_disk::{Disk, Result};

use super::probe::read;

/// `JBD2_MAGIC_NUMBER`.
const MAGIC: u32 = 0xc03b_3998;
/// `JBD2_SUPERBLOCK_V1` and `_V2`, of h_blocktype.
const SUPERBLOCKS: [u32; 2] = [3, 4];
/// `EXT4_EXTENTS_FL` of i_flags.
const EXTENTS: u32 = 0x8_0000;
/// `EXT4_EXT_MAGIC` of eh_magic.
const EXTENT_MAGIC: u16 = 0xf30a;

/// Whether it is gone; not where there is none, where it is on another device, and where it cannot be followed.
///
/// # Errors
/// I/O, and a budget that is used up.
pub(super) fn is_gone(disk: &dyn Disk, superblock: &[u8]) -> Result<bool> {
    let Some(at) = inode_at(disk, superblock)? else { return Ok(false) };
    let inode = read(disk, at, 128)?;
    // i_mode, i_links_count, i_flags, i_block.
    let words = (le16(&inode, 0), le16(&inode, 0x1a), le32(&inode, 0x20), inode.get(0x28..0x64));
    let (Some(mode), Some(links), Some(flags), Some(blocks)) = words else { return Ok(false) };
    if mode & 0xf000 != 0x8000 || links == 0 {
        return Ok(true);
    }
    let block = match flags & EXTENTS != 0 {
        // eh_magic, eh_entries, eh_depth; ee_start_hi and ee_start_lo of the first extent.
        true if le16(blocks, 0) != Some(EXTENT_MAGIC) || le16(blocks, 2) == Some(0) => {
            return Ok(true);
        }
        true if le16(blocks, 6) != Some(0) => return Ok(false),
        true => {
            le32(blocks, 20).zip(le16(blocks, 18)).map(|(low, high)| u64::from(high) << 32 | u64::from(low))
        }
        false => le32(blocks, 0).map(u64::from),
    };
    let Some((block, len)) = block.zip(block_len(superblock)) else { return Ok(false) };
    // h_magic, h_blocktype.
    let head = read(disk, block.saturating_mul(len), 8)?;
    let (Some(magic), Some(kind)) = (be32(&head, 0), be32(&head, 4)) else { return Ok(false) };
    Ok(magic != MAGIC || !SUPERBLOCKS.contains(&kind))
}

fn block_len(sb: &[u8]) -> Option<u64> {
    1024_u64.checked_shl(le32(sb, 0x18)?).filter(|len| *len <= 64 << 10)
}

/// The byte of the journal's inode, which lies in the first group.
fn inode_at(disk: &dyn Disk, sb: &[u8]) -> Result<Option<u64>> {
    // s_feature_compat HAS_JOURNAL, s_journal_inum, s_inodes_per_group, s_inode_size, s_first_data_block, 64BIT.
    let fields =
        (le32(sb, 0x5c), le32(sb, 0xe0), le32(sb, 0x28), le16(sb, 0x58), le32(sb, 0x14), le32(sb, 0x60));
    let (Some(compat), Some(number), Some(each), Some(size), Some(first), Some(incompat)) = fields else {
        return Ok(None);
    };
    let Some(len) = block_len(sb) else { return Ok(None) };
    let Some(index) = number.checked_sub(1).filter(|index| compat & 4 != 0 && *index < each) else {
        return Ok(None);
    };
    // bg_inode_table_lo, bg_inode_table_hi. With META_BG the first descriptor is there as well.
    let group = read(disk, u64::from(first).saturating_add(1).saturating_mul(len), 64)?;
    let high = if incompat & 0x80 != 0 { le32(&group, 0x28) } else { Some(0) };
    let table = le32(&group, 8).zip(high).map(|(low, high)| u64::from(high) << 32 | u64::from(low));
    let Some(table) = table.filter(|table| *table != 0) else { return Ok(None) };
    let inside = u64::from(index).saturating_mul(u64::from(if size == 0 { 128 } else { size }));
    Ok(Some(table.saturating_mul(len).saturating_add(inside)))
}
