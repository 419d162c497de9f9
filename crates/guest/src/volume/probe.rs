//! What a volume holds, by its superblock: kind, id, label, state, space.
//!
//! Sources: Linux `fs/ext4/ext4.h`, XFS Algorithms and Data Structures, btrfs on-disk format, Microsoft FAT
//! specification, ECMA-119, LUKS1/LUKS2 on-disk format, `mdp_superblock_1` of Linux `md_p.h`, libblkid.

use std::sync::Arc;

use kiln_disk::interned::Word;
use kiln_disk::wire::{be16, be32, be64, bytes, le16, le32, le64};
use kiln_disk::{Disk, Error, GuestOffset, Result};
use serde::{Deserialize, Serialize};

use super::{ext_journal, foreign, xfs_log};
use crate::fs::FsError;
use crate::text::{label, uuid};

/// Kinds of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// ext2, ext3 or ext4.
    Ext,
    /// XFS.
    Xfs,
    /// btrfs.
    Btrfs,
    /// FAT12, FAT16 or FAT32.
    Fat,
    /// exFAT.
    ExFat,
    /// NTFS.
    Ntfs,
    /// ISO 9660.
    Iso9660,
    /// squashfs.
    Squashfs,
    /// EROFS.
    Erofs,
    /// F2FS.
    F2fs,
    /// Swap space.
    Swap,
    /// A physical volume of LVM2.
    LvmPv,
    /// A member of a software RAID.
    MdRaid,
    /// LUKS, version 1 or 2.
    Luks,
    /// BitLocker.
    BitLocker,
    /// Another file system or container that is known by name only; [`Probed::kind`] is its word.
    Foreign,
    /// GRUB's core, in a BIOS boot partition.
    GrubCore,
    /// Only zeros in its first bytes.
    Empty,
    /// Something else.
    Unknown,
}

impl Content {
    /// As `blkid` calls it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ext => "ext",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Fat => "vfat",
            Self::ExFat => "exfat",
            Self::Ntfs => "ntfs",
            Self::Iso9660 => "iso9660",
            Self::Squashfs => "squashfs",
            Self::Erofs => "erofs",
            Self::F2fs => "f2fs",
            Self::Swap => "swap",
            Self::LvmPv => "LVM2_member",
            Self::MdRaid => "linux_raid_member",
            Self::Luks => "crypto_LUKS",
            Self::BitLocker => "BitLocker",
            Self::Foreign => "foreign",
            Self::GrubCore => "GRUB core",
            Self::Empty => "empty",
            Self::Unknown => "unknown",
        }
    }
}

/// How a file system was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FsState {
    /// Unmounted in order, or with no state to tell.
    Clean,
    /// A journal holds changes to be replayed.
    NeedsRecovery,
    /// It was not unmounted.
    Dirty,
    /// The system itself found errors in it.
    Errors,
    /// Its journal is gone, without which the kernel does not mount it.
    Damaged,
}

/// Space as the superblock counts it. Bytes; inodes are 0 of 0 where the file system makes them as needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Length of the file system.
    pub total: u64,
    /// Free bytes.
    pub free: u64,
    /// Inodes.
    pub inodes: u64,
    /// Free inodes.
    pub free_inodes: u64,
}

/// What a volume says it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// The kind.
    pub content: Content,
    /// The kind in the guest's words: "ext4", "vfat", "LUKS2".
    pub kind: String,
    /// Its id, as `UUID=` spells it.
    pub uuid: String,
    /// Its label.
    pub label: String,
    /// How it was left, for file systems.
    pub state: Option<FsState>,
    /// Space, where the superblock tells.
    pub space: Option<Space>,
    /// Features that some readers refuse.
    #[serde(deserialize_with = "kiln_disk::interned::list", default)]
    pub features: Vec<Word>,
    /// The version of its format, where it says one: "3.1" of an NTFS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

impl Probed {
    pub(super) fn new(content: Content, kind: &str) -> Self {
        Self {
            content,
            kind: kind.to_owned(),
            uuid: String::new(),
            label: String::new(),
            state: None,
            space: None,
            features: Vec::new(),
            version: None,
        }
    }

    fn take_features(&mut self, flags: u32, names: &[(u32, &'static str)]) {
        let set = names.iter().filter(|(flag, _)| flags & flag != 0);
        self.features.extend(set.map(|(_, name)| *name));
    }

    /// Whether it is a file system that this crate reads as a part of a guest. ISO 9660 and squashfs are read as well, as
    /// media: what is found there says nothing about a system that starts from it.
    #[must_use]
    pub fn readable(&self) -> bool {
        matches!(self.content, Content::Ext | Content::Xfs | Content::Btrfs | Content::Fat | Content::Ntfs)
    }
}

/// Looks at the superblocks of a volume. Parts that the container cannot give count as zeros.
///
/// # Errors
/// I/O, and a budget that is used up.
pub fn probe(disk: &Arc<dyn Disk>) -> Result<Probed> {
    let head = read(disk.as_ref(), 0, 72 << 10)?;
    for look in [luks, md, lvm, xfs, ext, btrfs, bitlocker_ntfs_fat, swap, squashfs, foreign::probe, iso] {
        if let Some(mut found) = look(&head) {
            match found.content {
                Content::Fat => found.label = fat_label(disk)?,
                Content::ExFat => found.label = foreign::exfat_label(disk.as_ref(), &head)?,
                Content::Ext => {
                    let superblock = head.get(1024..2048).unwrap_or_default();
                    if ext_journal::is_gone(disk.as_ref(), superblock)? {
                        found.state = Some(FsState::Damaged);
                    }
                }
                Content::Xfs if found.state.is_none() => {
                    found.state = xfs_log::state(disk.as_ref(), &head)?;
                }
                _ => {}
            }
            return Ok(found);
        }
    }
    if let Some(found) = md_at_end(disk.as_ref())? {
        return Ok(found);
    }
    if let Some(found) = foreign::probe_deep(disk.as_ref())? {
        return Ok(found);
    }
    // diskboot.img (grub-core/boot/i386/pc/diskboot.S) prints this word.
    if head.get(..512).is_some_and(|sector| sector.windows(7).any(|word| word == b"loading")) {
        return Ok(Probed::new(Content::GrubCore, "GRUB core"));
    }
    let kind = if head.iter().all(|byte| *byte == 0) { Content::Empty } else { Content::Unknown };
    Ok(Probed::new(kind, kind.word()))
}

/// The label that Linux and Windows show is the one in the root directory; that of the boot sector is not looked at.
fn fat_label(disk: &Arc<dyn Disk>) -> Result<String> {
    match crate::fs::fat::volume_label(disk) {
        Ok(label) => Ok(label),
        Err(FsError::Disk(error @ (Error::Io { .. } | Error::Cancelled))) => Err(error),
        Err(FsError::Disk(error)) if error.code().starts_with("budget.") => Err(error),
        Err(_) => Ok(String::new()),
    }
}

pub(crate) fn read(disk: &dyn Disk, at: u64, len: u64) -> Result<Vec<u8>> {
    let len = len.min(disk.disk_len().saturating_sub(at));
    let mut buf = vec![0; usize::try_from(len).unwrap_or(0)];
    match disk.read_guest(GuestOffset::new(at), &mut buf) {
        Ok(()) => Ok(buf),
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => Err(error),
        Err(error) if error.code().starts_with("budget.") => Err(error),
        Err(_) => Ok(Vec::new()),
    }
}

fn luks(head: &[u8]) -> Option<Probed> {
    if !head.starts_with(b"LUKS\xba\xbe") {
        return None;
    }
    let version = be16(head, 6)?;
    let mut found = Probed::new(Content::Luks, &format!("LUKS{version}"));
    found.uuid = label(head.get(168..208)?);
    if version == 2 {
        found.label = label(head.get(24..72)?);
    }
    Some(found)
}

fn md(head: &[u8]) -> Option<Probed> {
    let at = [0_usize, 4096].into_iter().find(|at| le32(head, *at) == Some(0xa92b_4efc))?;
    let mut found = Probed::new(Content::MdRaid, "md RAID");
    found.uuid = uuid(head.get(at.checked_add(16)?..)?);
    found.label = label(head.get(at.checked_add(32)?..at.checked_add(64)?)?);
    Some(found)
}

/// Metadata of version 1.0 is 8 KiB before the end at most, of version 0.90 in the last whole 64 KiB but one. The latter
/// keeps its id in words of the machine's order, and blkid spells them as numbers.
fn md_at_end(disk: &dyn Disk) -> Result<Option<Probed>> {
    let len = disk.disk_len();
    for (at, is_old) in
        [(len.saturating_sub(8192) & !4095, false), ((len & !0xffff).saturating_sub(65536), true)]
    {
        let tail = read(disk, at, 4096)?;
        if le32(&tail, 0) != Some(0xa92b_4efc) {
            continue;
        }
        let mut found = Probed::new(Content::MdRaid, "md RAID");
        if is_old {
            let words = [20, 52, 56, 60].into_iter().filter_map(|at| le32(&tail, at));
            let id: Vec<u8> = words.flat_map(u32::to_be_bytes).collect();
            found.uuid = uuid(&id);
        } else {
            found.uuid = tail.get(16..).map(uuid).unwrap_or_default();
            found.label = tail.get(32..64).map(label).unwrap_or_default();
        }
        return Ok(Some(found));
    }
    Ok(None)
}

fn lvm(head: &[u8]) -> Option<Probed> {
    let sector = (0..4_usize).find_map(|sector| {
        let at = sector.checked_mul(512)?;
        head.get(at..)?.starts_with(b"LABELONE").then_some(at)
    })?;
    if bytes::<8>(head, sector.checked_add(24)?)? != *b"LVM2 001" {
        return None;
    }
    let mut found = Probed::new(Content::LvmPv, "LVM2");
    found.uuid = super::lvm::dashed(&label(head.get(sector.checked_add(32)?..sector.checked_add(64)?)?));
    Some(found)
}

fn xfs(head: &[u8]) -> Option<Probed> {
    if !head.starts_with(b"XFSB") {
        return None;
    }
    let mut found = Probed::new(Content::Xfs, "xfs");
    found.uuid = uuid(head.get(32..48)?);
    found.label = label(head.get(108..120)?);
    let block = u64::from(be32(head, 4)?);
    found.space = Some(Space {
        total: be64(head, 8)?.saturating_mul(block),
        free: be64(head, 144)?.saturating_mul(block),
        inodes: 0,
        free_inodes: 0,
    });
    if be16(head, 100)? & 0xf >= 5 {
        found.features.push("xfs-v5");
        // sb_features_ro_compat, sb_features_incompat (fs/xfs/libxfs/xfs_format.h).
        found.take_features(be32(head, 212)?, &[(0x8, "inobtcount")]);
        let incompat =
            [(0x8, "bigtime"), (0x20, "nrext64"), (0x40, "exchange"), (0x80, "parent"), (0x100, "metadir")];
        found.take_features(be32(head, 216)?, &incompat);
    }
    // sb_features_incompat NEEDSREPAIR. Whether the log is empty only its records tell.
    if be32(head, 216)? & 0x10 != 0 {
        found.state = Some(FsState::Errors);
    }
    Some(found)
}

fn ext(head: &[u8]) -> Option<Probed> {
    let sb = head.get(1024..2048)?;
    if le16(sb, 0x38)? != 0xef53 {
        return None;
    }
    let (compat, incompat, ro_compat) = (le32(sb, 0x5c)?, le32(sb, 0x60)?, le32(sb, 0x64)?);
    // A journal of its own, for a file system elsewhere.
    if incompat & 0x8 != 0 {
        let mut found = Probed::new(Content::Foreign, "jbd");
        found.uuid = uuid(sb.get(0x68..0x78)?);
        return Some(found);
    }
    // Extents, 64 bit, flexible groups, large or inline files: only ext4 has them. ext3 has a journal.
    let kind = match () {
        () if incompat & (0x40 | 0x80 | 0x200 | 0x8000) != 0 || ro_compat & 0x478 != 0 => "ext4",
        () if compat & 0x4 != 0 => "ext3",
        () => "ext2",
    };
    let mut found = Probed::new(Content::Ext, kind);
    found.uuid = uuid(sb.get(0x68..0x78)?);
    found.label = label(sb.get(0x78..0x88)?);
    let block = 1024_u64.checked_shl(le32(sb, 0x18)?.min(16))?;
    let high =
        |at| if incompat & 0x80 == 0 { Some(0) } else { le32(sb, at).map(|high| u64::from(high) << 32) };
    found.space = Some(Space {
        total: (u64::from(le32(sb, 4)?) | high(0x150)?).saturating_mul(block),
        free: (u64::from(le32(sb, 0xc)?) | high(0x158)?).saturating_mul(block),
        inodes: u64::from(le32(sb, 0)?),
        free_inodes: u64::from(le32(sb, 0x10)?),
    });
    let state = le16(sb, 0x3a)?;
    found.state = Some(match () {
        () if state & 2 != 0 => FsState::Errors,
        () if incompat & 4 != 0 => FsState::NeedsRecovery,
        () if state & 1 == 0 => FsState::Dirty,
        () => FsState::Clean,
    });
    if ro_compat & 0x400 != 0 {
        found.features.push("metadata_csum");
    }
    let names = [
        (0x1, "compression"),
        (0x80, "64bit"),
        (0x400, "ea_inode"),
        (0x1000, "dirdata"),
        (0x2000, "csum_seed"),
        (0x4000, "large_dir"),
        (0x8000, "inline_data"),
        (0x1_0000, "encrypt"),
        (0x2_0000, "casefold"),
    ];
    found.take_features(incompat, &names);
    found.take_features(ro_compat, &[(0x8000, "verity"), (0x1_0000, "orphan_present")]);
    Some(found)
}

fn btrfs(head: &[u8]) -> Option<Probed> {
    let sb = head.get(0x10000..0x11000)?;
    if bytes::<8>(sb, 0x40)? != *b"_BHRfS_M" {
        return None;
    }
    let mut found = Probed::new(Content::Btrfs, "btrfs");
    found.uuid = uuid(sb.get(0x20..0x30)?);
    found.label = label(sb.get(0x12b..0x22b)?);
    let (total, used) = (le64(sb, 0x70)?, le64(sb, 0x78)?);
    found.space = Some(Space { total, free: total.saturating_sub(used), inodes: 0, free_inodes: 0 });
    found.state = Some(if le64(sb, 0x60)? == 0 { FsState::Clean } else { FsState::NeedsRecovery });
    if le64(sb, 0x88)? > 1 {
        found.features.push("several-devices");
    }
    // compat_ro_flags, incompat_flags (fs/btrfs/btrfs_tree.h).
    let low = |at| le64(sb, at).map(|flags| u32::try_from(flags & 0xffff_ffff).unwrap_or(0));
    found.take_features(low(0xb4)?, &[(0x8, "block_group_tree")]);
    let incompat = [
        (0x10, "zstd"),
        (0x400, "metadata_uuid"),
        (0x800, "raid1c34"),
        (0x4000, "raid_stripe_tree"),
        (0x1_0000, "simple_quota"),
    ];
    found.take_features(low(0xbc)?, &incompat);
    Some(found)
}

fn bitlocker_ntfs_fat(head: &[u8]) -> Option<Probed> {
    if le16(head, 510)? != 0xaa55 {
        return None;
    }
    if head.get(3..11)? == b"-FVE-FS-" {
        return Some(Probed::new(Content::BitLocker, "BitLocker"));
    }
    if head.get(3..11)? == b"NTFS    " {
        let mut found = Probed::new(Content::Ntfs, "ntfs");
        found.uuid = format!("{:016X}", le64(head, 72)?);
        return Some(found);
    }
    if head.get(3..11)? == b"EXFAT   " {
        let mut found = Probed::new(Content::ExFat, "exfat");
        found.uuid = serial(le32(head, 100)?);
        return Some(found);
    }
    let geometry = crate::fs::fat::Geometry::decode(head)?;
    let mut found = Probed::new(Content::Fat, "vfat");
    let at: usize = if geometry.is_fat32() { 64 } else { 36 };
    found.uuid = serial(le32(head, at.checked_add(3)?)?);
    let dirty = head.get(at.checked_add(1)?).is_some_and(|flags| flags & 1 != 0);
    found.state = Some(if dirty { FsState::Dirty } else { FsState::Clean });
    Some(found)
}

fn serial(id: u32) -> String {
    format!("{:04X}-{:04X}", id >> 16, id & 0xffff)
}

/// Swap space (Linux `include/linux/swap.h`), or a sleeping system in it. The first version has no id.
fn swap(head: &[u8]) -> Option<Probed> {
    let sleeping = |magic: &[u8; 10]| {
        ["S1SUSPEND\0", "S2SUSPEND\0", "ULSUSPEND\0", "LINHIB0001"]
            .iter()
            .any(|word| word.as_bytes() == magic)
    };
    let magic = [4096_usize, 8192, 16384, 65536].into_iter().find_map(|page| {
        let magic = page.checked_sub(10).and_then(|at| bytes::<10>(head, at))?;
        (magic == *b"SWAPSPACE2" || magic == *b"SWAP-SPACE" || sleeping(&magic)).then_some(magic)
    })?;
    let tuxonice = head.starts_with(b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c");
    let kind = if sleeping(&magic) || tuxonice { "swsuspend" } else { "swap" };
    let mut found = Probed::new(Content::Swap, kind);
    if magic != *b"SWAP-SPACE" {
        found.uuid = uuid(head.get(1036..1052)?);
        found.label = label(head.get(1052..1068)?);
    }
    Some(found)
}

fn squashfs(head: &[u8]) -> Option<Probed> {
    head.starts_with(b"hsqs").then(|| Probed::new(Content::Squashfs, "squashfs"))
}

fn iso(head: &[u8]) -> Option<Probed> {
    if head.get(0x8001..0x8006)? != b"CD001" {
        return None;
    }
    let mut found = Probed::new(Content::Iso9660, "iso9660");
    found.label = label(head.get(0x8028..0x8048)?);
    // Time of the last change, else of the making (ECMA-119, 8.4.27): what blkid takes for an id.
    let time = |at: usize| {
        let digits = head.get(at..at.checked_add(16)?)?;
        let text =
            std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
        text.bytes().any(|byte| byte != b'0').then_some(text)
    };
    if let Some((year, rest)) =
        time(0x833e).or_else(|| time(0x832d)).and_then(|text| text.split_at_checked(4))
    {
        let pairs: Vec<&str> = (0..12).step_by(2).filter_map(|at| rest.get(at..)?.get(..2)).collect();
        found.uuid = format!("{year}-{}", pairs.join("-"));
    }
    Some(found)
}
