//! Whether the copies that a file system keeps of its first block are where they belong.
//!
//! A conversion that was stopped leaves zeros behind the place it had reached, in a container that is sound. Where
//! no table at the end of the disk tells (MBR, a bare volume), the file system's own copies do. Only their magic
//! numbers are looked at. Sources: Linux kernel documentation, filesystems/ext4 (super.rst, blockgroup.rst); XFS
//! Algorithms & Data Structures, "Superblocks"; the NTFS boot sector as Windows writes it.

use kiln_disk::zero::is_zero;
use kiln_disk::{CheckSpec, Disk, Findings, GuestOffset, Result, Severity};

use crate::completeness::placed;
use crate::partitions::{Layout, Partition, read};
use crate::wire::{be32, bytes, le16, le32, le64};

pub(super) static CHECKS: &[CheckSpec] = &[COPY_MISSING, COPIES_ABSENT];

static COPY_MISSING: CheckSpec = CheckSpec {
    id: "disk.fs.copy-missing",
    severity: Severity::Damage,
    summary: "there are only zeros where the file system keeps a copy of its superblock",
    effect: "the end of the file system was probably never written: a copy or conversion that was stopped looks like \
             this",
    fix: "convert or copy the disk again",
};

static COPIES_ABSENT: CheckSpec = CheckSpec {
    id: "disk.fs.copies-absent",
    severity: Severity::Advice,
    summary: "none of the copies of the superblock is there",
    effect: "either the disk is almost empty because a copy was stopped, or whoever made the file system left them out",
    fix: "compare with the original; e2fsck -f writes the copies again",
};

/// Copies that are looked at in one partition.
const MAX_COPIES: usize = 256;
/// Partitions that are looked at.
const MAX_PARTITIONS: usize = 256;

/// Where the copies are, and how one is told.
struct Plan {
    /// Bytes from the beginning of the partition, ascending.
    at: Vec<u64>,
    is_copy: fn(&[u8]) -> bool,
    /// Whether a single copy that is zeros says that the end is missing.
    single_tells: bool,
}

/// Looks at the copies of every file system that is known to have them.
pub(super) fn check(disk: &dyn Disk, layout: &Layout, findings: &mut Findings) -> Result<()> {
    for partition in layout.partitions.iter().take(MAX_PARTITIONS) {
        let Some(head) = read(disk, partition.start_bytes, 2048)? else { continue };
        let plan = match partition.filesystem {
            Some("ext2" | "ext3" | "ext4") => ext(&head),
            Some("XFS") => xfs(&head),
            Some("NTFS") => ntfs(&head),
            _ => None,
        };
        if let Some(plan) = plan {
            look(disk, partition, &plan, findings)?;
        }
    }
    Ok(())
}

fn look(disk: &dyn Disk, partition: &Partition, plan: &Plan, findings: &mut Findings) -> Result<()> {
    let (mut good, mut first_zero) = (0_u64, None);
    for offset in &plan.at {
        let at = partition.start_bytes.saturating_add(*offset);
        // Where the container is damaged, its own check has said so.
        let Some(found) = read(disk, at, 512)? else { continue };
        if (plan.is_copy)(&found) {
            (good, first_zero) = (good.saturating_add(1), None);
        } else if is_zero(&found) && first_zero.is_none() {
            first_zero = Some(at);
        }
    }
    let Some(at) = first_zero else { return Ok(()) };
    let place = GuestOffset::new(at);
    let check = if good > 0 || plan.single_tells { &COPY_MISSING } else { &COPIES_ABSENT };
    let detail = format!("{partition}: byte {at} of the disk, with {good} good copies before it");
    let lost = partition.end().min(disk.disk_len()).saturating_sub(at);
    // The place to look at is the one that is there: the superblock that knows of the copy.
    let known = GuestOffset::new(partition.start_bytes);
    findings.push(placed(check.found(detail), disk, known).guest(place, lost));
    Ok(())
}

/// The groups with copies: all, or 1 and the powers of 3, 5 and 7 (sparse_super), or two by number (sparse_super2).
fn ext(head: &[u8]) -> Option<Plan> {
    let sb = head.get(1024..2048)?;
    let log = le32(sb, 0x18).filter(|log| *log <= 6)?;
    let block = 1024_u64.checked_shl(log)?;
    let high = if le32(sb, 0x60)? & 0x80 == 0 { 0 } else { u64::from(le32(sb, 0x150)?) };
    let blocks = (high << 32) | u64::from(le32(sb, 0x4)?);
    let first = u64::from(le32(sb, 0x14)?);
    let per_group = u64::from(le32(sb, 0x20)?);
    let groups = blocks.checked_sub(first)?.div_ceil(Some(per_group).filter(|count| *count > 0)?);
    let numbers: Vec<u64> = if le32(sb, 0x5c)? & 0x200 != 0 {
        [le32(sb, 0x24c)?, le32(sb, 0x250)?].map(u64::from).into_iter().filter(|group| *group > 0).collect()
    } else if le32(sb, 0x64)? & 0x1 != 0 {
        let mut numbers = vec![1];
        for base in [3_u64, 5, 7] {
            numbers.extend(std::iter::successors(Some(base), |power| power.checked_mul(base)).take(40));
        }
        numbers.sort_unstable();
        numbers
    } else {
        (1..groups).take(MAX_COPIES).collect()
    };
    let at = numbers
        .into_iter()
        .take_while(|group| *group < groups)
        .filter_map(|group| group.checked_mul(per_group)?.checked_add(first)?.checked_mul(block));
    Some(Plan {
        at: at.take(MAX_COPIES).collect(),
        is_copy: |sb| le16(sb, 0x38) == Some(0xef53),
        single_tells: false,
    })
}

/// One at the beginning of every allocation group: sb_blocksize, sb_agblocks, sb_agcount.
fn xfs(head: &[u8]) -> Option<Plan> {
    let (block, group, count) = (be32(head, 4)?, be32(head, 84)?, be32(head, 88)?);
    let step = u64::from(block).checked_mul(u64::from(group)).filter(|step| *step > 0)?;
    // The last ones tell the most.
    let skipped = u64::from(count).saturating_sub(u64::try_from(MAX_COPIES).unwrap_or(u64::MAX)).max(1);
    let at = (skipped..u64::from(count)).filter_map(|number| number.checked_mul(step)).collect();
    Some(Plan { at, is_copy: |sb| bytes(sb, 0) == Some(*b"XFSB"), single_tells: false })
}

/// One, in the sector behind the last that the boot sector counts.
fn ntfs(head: &[u8]) -> Option<Plan> {
    let sector = u64::from(le16(head, 0x0b)?);
    let at = le64(head, 0x28)?.checked_mul(sector).filter(|at| *at > 0)?;
    Some(Plan { at: vec![at], is_copy: |boot| bytes(boot, 3) == Some(*b"NTFS    "), single_tells: true })
}
