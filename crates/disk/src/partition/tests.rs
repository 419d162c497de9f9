//! Tables written by the tools that own them, and hostile ones.

use std::process::Command;

use super::*;
use crate::{FileSource, MemorySource};

/// A disk of bytes in memory.
struct Bytes(Vec<u8>);

impl Disk for Bytes {
    fn disk_len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        crate::check_range(at, buf.len(), self.disk_len())?;
        let at = at.get() as usize;
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
        Ok(())
    }
    fn extent_at(&self, at: GuestOffset, limit: std::num::NonZeroU64) -> Result<crate::Extent> {
        Ok(crate::Extent { start: at, len: limit, kind: crate::ExtentKind::Encoded })
    }
}

/// What a partitioning tool makes of an empty disk of `mib` MiB.
fn made(mib: u64, tool: &str, input: &str) -> Bytes {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    std::fs::File::create(&path).unwrap().set_len(mib << 20).unwrap();
    let command = tool.replace("DISK", path.to_str().unwrap());
    let mut child =
        Command::new("sh").args(["-c", &command]).stdin(std::process::Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command}");
    let _ = (FileSource::open(&path).unwrap(), MemorySource::new(Vec::new()));
    Bytes(std::fs::read(path).unwrap())
}

fn gpt() -> Bytes {
    made(
        16,
        "sgdisk -n 14:2048:4095 -t 14:ef02 -n 15:4096:8191 -t 15:ef00 -n 1:8192:0 -c 1:Wurzel -A 1:set:2 DISK >/dev/null",
        "",
    )
}

#[test]
fn gpt_of_sgdisk_is_read_with_its_types_and_names() {
    let table = read_table(&gpt()).unwrap();
    assert_eq!((table.scheme, table.sector_len, table.faults.as_slice()), (Scheme::Gpt, 512, &[][..]));
    let short: Vec<_> =
        table.partitions.iter().map(|p| (p.number, p.start, p.len, p.name.as_str(), p.active)).collect();
    assert_eq!(
        short,
        [
            (1, 8192 * 512, (32734 - 8192 + 1) * 512, "Wurzel", true),
            (14, 1 << 20, 1 << 20, "", false),
            (15, 2 << 20, 2 << 20, "", false),
        ]
    );
    assert_eq!(table.partitions[1].kind, PartitionType::Gpt(types::BIOS_BOOT));
    assert_eq!(table.partitions[2].kind.to_string(), "c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
}

#[test]
fn damaged_copies_are_told_apart_and_the_other_is_used() {
    let mut disk = gpt();
    disk.0[512 + 20] ^= 1;
    let table = read_table(&disk).unwrap();
    assert_eq!((table.partitions.len(), table.gpt.as_ref().unwrap().used), (3, GptCopy::Backup));
    assert!(matches!(
        table.faults.as_slice(),
        [TableFault::Gpt { copy: GptCopy::Primary, at: 512, fault: GptFault::HeaderCrc { .. } }]
    ));
    let mut disk = gpt();
    let end = disk.0.len();
    disk.0[end - 512..].fill(0);
    let at = end as u64 - 512;
    assert_eq!(
        read_table(&disk).unwrap().faults,
        [TableFault::Gpt { copy: GptCopy::Backup, at, fault: GptFault::Missing }]
    );
    let mut disk = gpt();
    disk.0[1024] ^= 1;
    assert!(matches!(
        read_table(&disk).unwrap().faults.as_slice(),
        [TableFault::Gpt { copy: GptCopy::Primary, at: 512, fault: GptFault::EntriesCrc { .. } }]
    ));
}

#[test]
fn grown_disk_has_its_backup_in_the_middle() {
    let mut disk = gpt();
    let last = disk.0.len() as u64 / 512 - 1;
    disk.0.resize(disk.0.len() + (1 << 20), 0);
    assert_eq!(
        read_table(&disk).unwrap().faults,
        [TableFault::Gpt {
            copy: GptCopy::Backup,
            at: last * 512,
            fault: GptFault::NotAtEnd { lba: last, last: last + 2048 }
        }]
    );
}

#[test]
fn logical_partitions_are_numbered_from_five() {
    let disk = made(
        16,
        "sfdisk -q DISK",
        "label: dos\nlabel-id: 0xcafe0001\n2048,2048,83,*\n4096,,5\n6144,2048,82\n10240,2048,83\n14336,2048,8e\n",
    );
    let table = read_table(&disk).unwrap();
    let short: Vec<_> = table
        .partitions
        .iter()
        .map(|p| (p.number, p.start / 512, p.len / 512, p.part_uuid.as_str()))
        .collect();
    assert_eq!(
        short,
        [
            (1, 2048, 2048, "cafe0001-01"),
            (5, 6144, 2048, "cafe0001-05"),
            (6, 10240, 2048, "cafe0001-06"),
            (7, 14336, 2048, "cafe0001-07"),
        ]
    );
    assert_eq!((table.scheme, table.mbr.active, table.faults.as_slice()), (Scheme::Mbr, Some(1), &[][..]));
}

/// An MBR with one extended partition whose record names `next`.
fn chain(next: u32) -> Bytes {
    let mut disk = vec![0_u8; 1 << 20];
    let mut entry = |at: usize, slot: usize, kind: u8, start: u32, len: u32| {
        let field = at + 446 + slot * 16;
        disk[field + 4] = kind;
        disk[field + 8..field + 12].copy_from_slice(&start.to_le_bytes());
        disk[field + 12..field + 16].copy_from_slice(&len.to_le_bytes());
        disk[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
    };
    entry(0, 0, 5, 64, 1024);
    entry(64 * 512, 0, 0x83, 8, 8);
    entry(64 * 512, 1, 5, next, 32);
    Bytes(disk)
}

#[test]
fn chains_that_loop_or_leave_are_cut_and_named() {
    for (next, at) in [(0_u32, 64 * 512), (5000, (64 + 5000) * 512), (100, 164 * 512)] {
        let table = read_table(&chain(next)).unwrap();
        assert_eq!(table.partitions.len(), 1);
        assert_eq!(table.faults, [TableFault::Chain { at }], "next record {next}");
    }
}

#[test]
fn hybrid_and_four_kilobyte_sectors_are_seen() {
    let mut disk = gpt();
    let protective = disk.0[446..462].to_vec();
    disk.0[462..478].copy_from_slice(&protective);
    disk.0[446 + 4] = 0x83;
    assert_eq!(read_table(&disk).unwrap().scheme, Scheme::HybridGpt);

    // The same table, moved to sectors of 4096 bytes: header and entries are a sector each, checksums are the same.
    let small = gpt();
    let mut big = vec![0_u8; 16 << 20];
    let (last, old_last) = ((16 << 20) / 4096 - 1, small.0.len() / 512 - 1);
    let mut header = small.0[512..1024].to_vec();
    header[32..40].copy_from_slice(&(last as u64).to_le_bytes());
    header[16..20].fill(0);
    let crc = crate::wire::crc32(&header[..92], u32::MAX, u32::MAX);
    header[16..20].copy_from_slice(&crc.to_le_bytes());
    big[4096..4608].copy_from_slice(&header);
    big[8192..8192 + 16384].copy_from_slice(&small.0[1024..1024 + 16384]);
    let _ = old_last;
    let table = read_table(&Bytes(big)).unwrap();
    assert_eq!((table.sector_len, table.partitions.len(), table.partitions[1].start), (4096, 3, 2048 * 4096));
}

#[test]
fn boot_sector_of_a_volume_is_no_table() {
    let disk = made(4, "mkfs.vfat DISK >/dev/null", "");
    assert_eq!(read_table(&disk).unwrap().scheme, Scheme::None);
}

#[test]
fn hostile_headers_cost_nothing() {
    for (at, value) in [(80_usize, u32::MAX), (84, 0), (84, 1), (84, u32::MAX), (12, 0), (12, u32::MAX)] {
        let mut disk = gpt();
        disk.0[512 + at..512 + at + 4].copy_from_slice(&value.to_le_bytes());
        disk.0[512 + 16..512 + 20].fill(0);
        let crc = crate::wire::crc32(&disk.0[512..512 + 92], u32::MAX, u32::MAX);
        disk.0[512 + 16..512 + 20].copy_from_slice(&crc.to_le_bytes());
        let table = read_table(&disk).unwrap();
        assert!(matches!(table.faults.as_slice(), [TableFault::Gpt { copy: GptCopy::Primary, .. }]), "{at}");
        assert_eq!(table.partitions.len(), 3, "the backup still holds");
    }
}

#[test]
fn flipped_bytes_never_do_more_than_change_the_answer() {
    let good = gpt();
    let mut state = 0x1234_5678_u32;
    for _ in 0..400 {
        let mut disk = Bytes(good.0.clone());
        for _ in 0..4 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (state >> 8) as usize % 2048;
            disk.0[at] = (state >> 3) as u8;
        }
        let table = read_table(&disk).unwrap();
        assert!(table.partitions.len() <= 8192);
    }
}
