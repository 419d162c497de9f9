//! What begins at a place of a disk, by its magic number and nothing else.

use kiln_disk::{Disk, Result};

use crate::wire::{le16, le32};

/// Enough for the magic of btrfs, which is furthest in.
const HEAD_LEN: u64 = 68 << 10;

/// The kind of file system, volume or swap area that begins at `at`.
pub(super) fn look(disk: &dyn Disk, at: u64) -> Result<Option<&'static str>> {
    let left = disk.disk_len().saturating_sub(at);
    let head = match super::read(disk, at, HEAD_LEN.min(left))? {
        Some(head) => head,
        // A damaged container may still have the first bytes.
        None => match super::read(disk, at, left.min(4096))? {
            Some(head) => head,
            None => return Ok(None),
        },
    };
    Ok(kind(&head))
}

fn kind(head: &[u8]) -> Option<&'static str> {
    if let Some(ext) = ext(head) {
        return Some(ext);
    }
    let starts: [(usize, &[u8], &str); 18] = [
        (0, b"XFSB", "XFS"),
        (0, b"LUKS\xba\xbe", "LUKS"),
        (0, b"hsqs", "squashfs"),
        (3, b"NTFS    ", "NTFS"),
        (3, b"EXFAT   ", "exFAT"),
        (3, b"-FVE-FS-", "BitLocker"),
        (3, b"ReFS\0\0\0\0", "ReFS"),
        (32, b"NXSB", "APFS"),
        (54, b"FAT12", "FAT"),
        (54, b"FAT16", "FAT"),
        (82, b"FAT32", "FAT32"),
        (512, b"LABELONE", "LVM2"),
        (1024, b"H+", "HFS+"),
        (4086, b"SWAPSPACE2", "swap"),
        (4086, b"SWAP-SPACE", "swap"),
        (32_769, b"CD001", "ISO 9660"),
        (65_600, b"_BHRfS_M", "btrfs"),
        (65_588, b"ReIsEr2Fs", "ReiserFS"),
    ];
    let found =
        starts.iter().find(|(at, magic, _)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    if let Some((_, _, name)) = found {
        return Some(name);
    }
    match le32(head, 1024) {
        Some(0xf2f5_2010) => Some("F2FS"),
        Some(0xe0f5_e1e2) => Some("EROFS"),
        _ => None,
    }
}

/// ext2, ext3 or ext4 by the features of the superblock: extents, 64bit and flex_bg came with ext4.
fn ext(head: &[u8]) -> Option<&'static str> {
    let superblock = head.get(1024..2048)?;
    if le16(superblock, 0x38)? != 0xef53 {
        return None;
    }
    let (compatible, incompatible) = (le32(superblock, 0x5c)?, le32(superblock, 0x60)?);
    let is_ext4 = incompatible & (0x40 | 0x80 | 0x200) != 0;
    let is_journal = incompatible & 0x8 != 0;
    Some(match (is_journal, is_ext4, compatible & 0x4 != 0) {
        (true, ..) => "ext journal",
        (_, true, _) => "ext4",
        (_, _, true) => "ext3",
        _ => "ext2",
    })
}
