//! Whether a disk reaches as far as its own partition table says.
//!
//! This is the one look that `format` takes at a guest's bytes, because it is about the container: a raw file that
//! was cut, a fixed VHD that lost its end, a conversion that was stopped half-way all have sound structures (or
//! none) and a partition table that knows better. Sources: UEFI specification 2.10, 5.2.3 (MBR) and 5.3.2 (GPT
//! header); Linux kernel documentation, filesystems/ext4/super.rst.

use std::num::NonZeroU64;

use kiln_disk::{CheckSpec, Disk, Findings, GuestOffset, Result, Severity};

use crate::partitions::{Entry, primaries};
use crate::wire::{bytes, le16, le32, le64};

/// What this module can find.
pub static CHECKS: &[CheckSpec] =
    &[GPT_PAST_END, GPT_BACKUP_CUT, GPT_BACKUP_MISSING, MBR_PAST_END, FS_PAST_END];

static GPT_PAST_END: CheckSpec = CheckSpec {
    id: "disk.gpt.past-end",
    severity: Severity::Damage,
    summary: "a partition of the GPT ends behind the end of the disk",
    effect: "the end of the disk is missing; the file system there is cut",
    fix: "fetch or copy the file again and compare its length with the original's",
};

static GPT_BACKUP_CUT: CheckSpec = CheckSpec {
    id: "disk.gpt.backup-cut",
    severity: Severity::Advice,
    summary: "the disk ends before the backup of its GPT, behind its last partition",
    effect: "no partition is touched; partitioning tools will complain, and some clouds refuse the image",
    fix: "write the backup at the new end: sgdisk -e",
};

static GPT_BACKUP_MISSING: CheckSpec = CheckSpec {
    id: "disk.gpt.backup-missing",
    severity: Severity::Damage,
    summary: "there is nothing where the GPT says that its backup is",
    effect: "the end of the disk was probably never written: a copy or conversion that was stopped looks like this",
    fix: "convert or copy the disk again; if it is known to be whole, rewrite the backup with sgdisk -e",
};

static MBR_PAST_END: CheckSpec = CheckSpec {
    id: "disk.mbr.past-end",
    severity: Severity::Damage,
    summary: "a partition ends behind the end of the disk",
    effect: "the end of the disk is missing; the file system there is cut",
    fix: "fetch or copy the file again and compare its length with the original's",
};

static FS_PAST_END: CheckSpec = CheckSpec {
    id: "disk.fs.past-end",
    severity: Severity::Damage,
    summary: "the file system is longer than the disk that holds it",
    effect: "the end of the file system is missing",
    fix: "fetch or copy the file again and compare its length with the original's",
};

/// Adds to `findings` what the disk's partition table says about its end. Parts that cannot be read are passed
/// over: the format's own check has named them.
///
/// # Errors
/// [`kiln_disk::Error::Io`].
pub fn check(disk: &dyn Disk, findings: &mut Findings) -> Result<()> {
    let Some(head) = read(disk, 0, 8192.min(disk.disk_len()))? else { return Ok(()) };
    let gpt = [512_u64, 4096]
        .into_iter()
        .find(|sector| usize::try_from(*sector).is_ok_and(|at| bytes(&head, at) == Some(*b"EFI PART")));
    if let Some(sector) = gpt {
        return gpt_end(disk, &head, sector, findings);
    }
    if let Some(partitions) = primaries(&head).filter(|partitions| !partitions.is_empty()) {
        mbr_end(disk, &partitions, findings);
    } else {
        ext_end(disk, &head, findings);
    }
    Ok(())
}

/// Compares the alternate header's place with the end of the disk.
fn gpt_end(disk: &dyn Disk, head: &[u8], sector: u64, findings: &mut Findings) -> Result<()> {
    let header_at = GuestOffset::new(sector);
    let header = usize::try_from(sector).ok().and_then(|at| head.get(at..)).unwrap_or_default();
    let Some(alternate_lba) = le64(header, 32) else { return Ok(()) };
    let disk_len = disk.disk_len();
    let at = alternate_lba.checked_mul(sector);
    let Some(at) = at.filter(|at| at.saturating_add(sector) <= disk_len) else {
        let last = last_partition_end(disk, header, sector)?;
        let claimed = alternate_lba.saturating_add(1).saturating_mul(sector);
        let detail = format!(
            "AlternateLBA {alternate_lba} puts the end of the disk at byte {claimed}, the last partition ends at \
             byte {last}, the disk has {disk_len}"
        );
        let check = if last > disk_len { &GPT_PAST_END } else { &GPT_BACKUP_CUT };
        let lost = claimed.saturating_sub(disk_len);
        findings.push(check.found(detail).guest(GuestOffset::new(disk_len), lost).at_guest(disk, header_at));
        return Ok(());
    };
    let Some(backup) = read(disk, at, sector)? else { return Ok(()) };
    if bytes(&backup, 0) != Some(*b"EFI PART") {
        let what =
            if kiln_disk::zero::is_zero(&backup) { "holds only zeros" } else { "holds something else" };
        let detail = format!("sector {alternate_lba}, named by AlternateLBA, {what}");
        let place = GuestOffset::new(at);
        findings.push(GPT_BACKUP_MISSING.found(detail).guest(place, sector).at_guest(disk, header_at));
    }
    Ok(())
}

/// The first byte behind all partitions; the end of the disk as the header claims it, when the entries cannot be
/// read ("GPT Partition Entry": type GUID at 0, ending LBA at 40).
fn last_partition_end(disk: &dyn Disk, header: &[u8], sector: u64) -> Result<u64> {
    /// More entries than any tool writes, and few enough to read at once.
    const MAX_BYTES: u64 = 1 << 20;
    let claimed = le64(header, 48).map_or(u64::MAX, |lba| lba.saturating_add(1).saturating_mul(sector));
    let fields = (le64(header, 72), le32(header, 80), le32(header, 84));
    let (Some(lba), Some(count), Some(size)) = fields else { return Ok(claimed) };
    let len = u64::from(count).saturating_mul(u64::from(size));
    if size < 128 || len > MAX_BYTES {
        return Ok(claimed);
    }
    let at = lba.saturating_mul(sector);
    if at.checked_add(len).is_none_or(|end| end > disk.disk_len()) {
        return Ok(claimed);
    }
    let Some(entries) = read(disk, at, len)? else { return Ok(claimed) };
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let used = entries.chunks_exact(size).filter(|entry| bytes::<16>(entry, 0) != Some([0; 16]));
    let ends = used.filter_map(|entry| Some(le64(entry, 40)?.saturating_add(1).saturating_mul(sector)));
    Ok(ends.max().unwrap_or(0))
}

fn mbr_end(disk: &dyn Disk, partitions: &[Entry], findings: &mut Findings) {
    let disk_len = disk.disk_len();
    for entry in partitions {
        let (number, end) = (entry.number, entry.end_bytes());
        // Some tools write the geometry's last cylinder: what is not missing a whole one is no cut.
        const CYLINDER: u64 = 255 * 63 * 512;
        if end > disk_len.saturating_add(CYLINDER) {
            let detail = format!("partition {number} ends at byte {end}, the disk has {disk_len}");
            let lost = end.saturating_sub(disk_len);
            let table = GuestOffset::new(446);
            findings.push(
                MBR_PAST_END.found(detail).guest(GuestOffset::new(disk_len), lost).at_guest(disk, table),
            );
        }
    }
}

/// An ext file system right on the disk: s_blocks_count times the block size against the length.
fn ext_end(disk: &dyn Disk, head: &[u8], findings: &mut Findings) {
    let Some(superblock) = head.get(1024..2048).filter(|sb| le16(sb, 0x38) == Some(0xef53)) else { return };
    let (Some(low), Some(log), Some(incompat), Some(high)) =
        (le32(superblock, 0x4), le32(superblock, 0x18), le32(superblock, 0x60), le32(superblock, 0x150))
    else {
        return;
    };
    // INCOMPAT_64BIT makes s_blocks_count_hi valid.
    let high = if incompat & 0x80 == 0 { 0 } else { u64::from(high) };
    let blocks = (high << 32) | u64::from(low);
    let Some(size) = 1024_u64.checked_shl(log).filter(|_| log <= 6).and_then(|unit| blocks.checked_mul(unit))
    else {
        return;
    };
    let disk_len = disk.disk_len();
    if size > disk_len {
        let detail = format!("the ext superblock counts {size} bytes, the disk has {disk_len}");
        let lost = size.saturating_sub(disk_len);
        findings.push(
            FS_PAST_END
                .found(detail)
                .guest(GuestOffset::new(disk_len), lost)
                .at_guest(disk, GuestOffset::new(1024)),
        );
    }
}

/// Bytes of the disk, `None` where the container is too damaged to give them.
fn read(disk: &dyn Disk, at: u64, len: u64) -> Result<Option<Vec<u8>>> {
    let mut buf = vec![0; usize::try_from(len).unwrap_or(0)];
    match disk.read_guest(GuestOffset::new(at), &mut buf) {
        Ok(()) => Ok(Some(buf)),
        Err(error @ kiln_disk::Error::Io { .. }) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Adds the file's byte behind a guest byte, where the container stores it as it is.
pub(crate) fn placed(finding: kiln_disk::Finding, disk: &dyn Disk, place: GuestOffset) -> kiln_disk::Finding {
    finding.at_guest(disk, place)
}

/// As [`placed`], at the end of a chain of calls.
trait AtGuest {
    fn at_guest(self, disk: &dyn Disk, place: GuestOffset) -> Self;
}

impl AtGuest for kiln_disk::Finding {
    fn at_guest(self, disk: &dyn Disk, place: GuestOffset) -> Self {
        match disk.extent_at(place, NonZeroU64::MIN).map(|extent| extent.kind) {
            Ok(kiln_disk::ExtentKind::Data { file: 0, at }) => self.at(at),
            _ => self,
        }
    }
}
