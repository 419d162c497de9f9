use kiln_disk::{Findings, GuestOffset, GuestRange, MemorySource};

use super::*;
use crate::{Choice, OpenContext};

fn disk(bytes: Vec<u8>) -> Box<dyn crate::Image> {
    let source = std::sync::Arc::new(MemorySource::new(bytes));
    crate::open(source, Choice::AsRaw, &OpenContext::new()).unwrap()
}

fn put(bytes: &mut [u8], at: usize, what: &[u8]) {
    bytes[at..at + what.len()].copy_from_slice(what);
}

/// An MBR entry.
fn entry(kind: u8, start: u32, len: u32) -> [u8; 16] {
    let mut entry = [0; 16];
    entry[4] = kind;
    entry[8..12].copy_from_slice(&start.to_le_bytes());
    entry[12..16].copy_from_slice(&len.to_le_bytes());
    entry
}

/// 4 MiB, MBR: Linux at 1 MiB, an extended partition at 2 MiB with two logical ones.
fn mbr_disk() -> Vec<u8> {
    let mut bytes = vec![0; 4 << 20];
    put(&mut bytes, 446, &entry(0x83, 2048, 2048));
    put(&mut bytes, 462, &entry(0x05, 4096, 4096));
    put(&mut bytes, 510, &[0x55, 0xaa]);
    put(&mut bytes, 1 << 20, b"XFSB");
    let second = (4096 + 1024) * 512;
    put(&mut bytes, (2 << 20) + 446, &entry(0x82, 8, 512));
    put(&mut bytes, (2 << 20) + 462, &entry(0x05, 1024, 1024));
    put(&mut bytes, (2 << 20) + 510, &[0x55, 0xaa]);
    put(&mut bytes, second + 446, &entry(0x07, 8, 512));
    put(&mut bytes, second + 510, &[0x55, 0xaa]);
    put(&mut bytes, second + 8 * 512 + 3, b"NTFS    ");
    bytes
}

#[test]
fn logical_partitions_are_followed_and_named() {
    let layout = Layout::read(disk(mbr_disk()).as_ref()).unwrap();
    assert_eq!(layout.scheme, Scheme::Mbr);
    let seen: Vec<(u32, u64, Option<&str>)> =
        layout.partitions.iter().map(|one| (one.number, one.start_bytes, one.filesystem)).collect();
    assert_eq!(seen, [(1, 1 << 20, Some("XFS")), (5, (2 << 20) + 4096, None), (6, 5128 * 512, Some("NTFS"))]);
    let words = |start, len| layout.words(GuestRange { start: GuestOffset::new(start), len });
    assert_eq!(words(1 << 20, 1).unwrap(), "in partition 1 (Linux, XFS)");
    assert_eq!(words(0, 512).unwrap(), "outside the partitions (where the MBR and the boot code are)");
    assert_eq!(words((2 << 20) - 1, 8192).unwrap(), "in partition 1 (Linux, XFS), partition 5 (Linux swap)");
}

#[test]
fn a_loop_of_boot_records_ends() {
    let mut bytes = mbr_disk();
    // The second record leads back to the first.
    put(&mut bytes, (4096 + 1024) * 512 + 462, &entry(0x05, 0, 1024));
    assert_eq!(Layout::read(disk(bytes).as_ref()).unwrap().partitions.len(), 3);
}

#[test]
fn a_volume_is_one_range_and_noise_is_none() {
    let mut bytes = vec![0; 1 << 20];
    let layout = Layout::read(disk(bytes.clone()).as_ref()).unwrap();
    assert_eq!((layout.scheme, layout.partitions.len()), (Scheme::None, 0));
    assert_eq!(layout.words(GuestRange { start: GuestOffset::ZERO, len: 1 }), None);
    put(&mut bytes, 1024 + 0x38, &0xef53_u16.to_le_bytes());
    put(&mut bytes, 1024 + 0x60, &0x40_u32.to_le_bytes());
    let layout = Layout::read(disk(bytes).as_ref()).unwrap();
    assert_eq!(layout.scheme, Scheme::Volume);
    let words = layout.words(GuestRange { start: GuestOffset::new(5000), len: 10 });
    assert_eq!(words.unwrap(), "in the volume (ext4)");
}

#[test]
fn empty_and_tiny_disks_have_no_partitions() {
    for len in [0, 1, 511, 512, 513, 1024, 4096] {
        let layout = Layout::read(disk(vec![0xff; len]).as_ref()).unwrap();
        assert_eq!(layout.scheme, Scheme::None, "{len}");
    }
}

/// A GPT disk of 1 MiB with one partition called "rootfs", made from the specification.
fn gpt_disk() -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let last = (1_u64 << 20) / 512 - 1;
    let mut entries = vec![0; 128 * 128];
    let kind =
        [0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09];
    put(&mut entries, 0, &kind);
    put(&mut entries, 32, &64_u64.to_le_bytes());
    put(&mut entries, 40, &127_u64.to_le_bytes());
    let name: Vec<u8> = "rootfs".encode_utf16().flat_map(u16::to_le_bytes).collect();
    put(&mut entries, 56, &name);
    let crc = |bytes: &[u8]| {
        let mut crc = flate2::Crc::new();
        crc.update(bytes);
        crc.sum()
    };
    let mut copy = |own: u64, other: u64, table: u64| {
        let mut header = [0; 92];
        header[..8].copy_from_slice(b"EFI PART");
        header[8..12].copy_from_slice(&0x1_0000_u32.to_le_bytes());
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        header[24..32].copy_from_slice(&own.to_le_bytes());
        header[32..40].copy_from_slice(&other.to_le_bytes());
        header[72..80].copy_from_slice(&table.to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc(&entries).to_le_bytes());
        let sum = crc(&header);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        put(&mut bytes, usize::try_from(own).unwrap() * 512, &header);
        put(&mut bytes, usize::try_from(table).unwrap() * 512, &entries);
    };
    copy(1, last, 2);
    copy(last, 1, last - 32);
    bytes
}

#[test]
fn gpt_entries_have_type_name_and_range_and_the_backup_will_do() {
    let mut bytes = gpt_disk();
    let layout = Layout::read(disk(bytes.clone()).as_ref()).unwrap();
    assert_eq!(layout.scheme, Scheme::Gpt);
    let one = &layout.partitions[0];
    assert_eq!((one.start_bytes, one.length_bytes), (64 * 512, 64 * 512));
    assert_eq!(one.to_string(), "partition 1 (Linux root (x86-64), \"rootfs\")");
    bytes[..4096].fill(0);
    let backup = Layout::read(disk(bytes).as_ref()).unwrap();
    assert_eq!(backup.scheme, Scheme::GptBackup);
    assert_eq!(backup.partitions, layout.partitions);
}

#[test]
fn wrong_checksums_of_either_copy_are_found_with_their_place() {
    let check = |bytes| {
        let mut findings = Findings::default();
        check_gpt(disk(bytes).as_ref(), &mut findings).unwrap();
        findings
            .list()
            .iter()
            .map(|finding| (finding.check.id, finding.file_at.unwrap().get()))
            .collect::<Vec<_>>()
    };
    let good = gpt_disk();
    assert_eq!(check(good.clone()), []);
    let last = (1_u64 << 20) - 512;
    for (at, expected) in [
        (512 + 56, ("disk.gpt.header-crc", 512)),
        (1024 + 40, ("disk.gpt.entries-crc", 1024)),
        ((1 << 20) - 512 + 56, ("disk.gpt.header-crc", last)),
        ((1 << 20) - 512 - 32 * 512, ("disk.gpt.entries-crc", last - 32 * 512)),
    ] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        assert_eq!(check(bytes), [expected], "byte {at}");
    }
}
