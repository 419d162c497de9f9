//! What a file is taken for, and what a partition table says about its end.

use std::sync::Arc;

use kiln_disk::{Findings, MemorySource, Silent};
use kiln_format::{
    CheckScope, Choice, Identity, OpenContext, ProbeInput, by_name, check, completeness, identify, judge,
    open, raw, select,
};
use kiln_testkit::ModelDisk;

use crate::finding::{Seen, seen};

const SECTOR: usize = 512;

/// A GPT of `sectors` sectors with both headers; `claimed` is where the primary says that the backup is.
fn gpt_disk(sectors: usize, claimed: u64) -> Vec<u8> {
    let mut disk = vec![0; sectors * SECTOR];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[450] = 0xee;
    disk[454..458].copy_from_slice(&1_u32.to_le_bytes());
    disk[458..462].copy_from_slice(&u32::MAX.to_le_bytes());
    for (own, other) in [(1, claimed), (sectors as u64 - 1, 1)] {
        let at = own as usize * SECTOR;
        disk[at..at + 8].copy_from_slice(b"EFI PART");
        disk[at + 24..at + 32].copy_from_slice(&own.to_le_bytes());
        disk[at + 32..at + 40].copy_from_slice(&other.to_le_bytes());
        disk[at + 48..at + 56].copy_from_slice(&(sectors as u64 - 34).to_le_bytes());
        disk[at + 72..at + 80].copy_from_slice(&2_u64.to_le_bytes());
        disk[at + 80..at + 84].copy_from_slice(&128_u32.to_le_bytes());
        disk[at + 84..at + 88].copy_from_slice(&128_u32.to_le_bytes());
    }
    // One partition, from sector 64 to sector 1600.
    let entry = 2 * SECTOR;
    disk[entry..entry + 16].fill(0x42);
    disk[entry + 32..entry + 40].copy_from_slice(&64_u64.to_le_bytes());
    disk[entry + 40..entry + 48].copy_from_slice(&1600_u64.to_le_bytes());
    disk
}

fn mbr_disk(len: usize, start: u32, sectors: u32) -> Vec<u8> {
    let mut disk = vec![0; len];
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk[446] = 0x80;
    disk[450] = 0x83;
    disk[454..458].copy_from_slice(&start.to_le_bytes());
    disk[458..462].copy_from_slice(&sectors.to_le_bytes());
    disk
}

fn findings_of(disk: Vec<u8>) -> Vec<Seen> {
    let mut findings = Findings::default();
    completeness::check(&ModelDisk::new(disk, 4096), &mut findings).unwrap();
    seen(&findings)
}

#[test]
fn a_whole_gpt_disk_has_nothing_to_find() {
    assert_eq!(findings_of(gpt_disk(2048, 2047)), []);
}

#[test]
fn a_cut_gpt_disk_says_how_much_is_missing() {
    let mut disk = gpt_disk(2048, 2047);
    disk.truncate(1500 * SECTOR);
    let lost = Some((1500 * 512, 548 * 512));
    assert_eq!(findings_of(disk), [("disk.gpt.past-end", Some(512), lost)]);
}

#[test]
fn a_gpt_disk_cut_behind_its_last_partition_lost_only_the_backup() {
    let mut disk = gpt_disk(2048, 2047);
    disk.truncate(1700 * SECTOR);
    let lost = Some((1700 * 512, 348 * 512));
    assert_eq!(findings_of(disk.clone()), [("disk.gpt.backup-cut", Some(512), lost)]);
    // Entries that cannot be trusted: the header's LastUsableLBA counts.
    disk[SECTOR + 84..SECTOR + 88].copy_from_slice(&7_u32.to_le_bytes());
    assert_eq!(findings_of(disk.clone()), [("disk.gpt.past-end", Some(512), lost)]);
    disk[SECTOR + 84..SECTOR + 88].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(findings_of(disk), [("disk.gpt.past-end", Some(512), lost)]);
}

#[test]
fn a_gpt_disk_whose_end_was_never_written_misses_its_backup() {
    let mut disk = gpt_disk(2048, 2047);
    disk[1500 * SECTOR..].fill(0);
    let place = Some((2047 * 512, 512));
    assert_eq!(findings_of(disk), [("disk.gpt.backup-missing", Some(512), place)]);
}

#[test]
fn a_gpt_disk_that_was_grown_behind_its_backup_is_whole() {
    let mut disk = gpt_disk(2048, 2047);
    disk.extend(vec![0; 1 << 20]);
    assert_eq!(findings_of(disk), []);
}

#[test]
fn an_alternate_lba_of_2_to_the_64_is_past_the_end_not_a_panic() {
    let found = findings_of(gpt_disk(2048, u64::MAX));
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].0, "disk.gpt.backup-cut");
}

#[test]
fn an_mbr_partition_past_the_end_is_found_from_a_cylinder_on() {
    assert_eq!(findings_of(mbr_disk(32 << 20, 2048, 63_488)), []);
    let end = (2048 + 90_000) * 512;
    let lost = Some((32 << 20, end - (32 << 20)));
    assert_eq!(findings_of(mbr_disk(32 << 20, 2048, 90_000)), [("disk.mbr.past-end", Some(446), lost)]);
    // Geometry that ends inside the last cylinder, as old partitioners wrote it.
    assert_eq!(findings_of(mbr_disk(32 << 20, 2048, 63_488 + 10_000)), []);
}

#[test]
fn an_ext_file_system_longer_than_its_disk_is_cut() {
    let mut disk = vec![0; 1 << 20];
    disk[1080..1082].copy_from_slice(&0xef53_u16.to_le_bytes());
    disk[1028..1032].copy_from_slice(&1024_u32.to_le_bytes());
    assert_eq!(findings_of(disk.clone()), []);
    disk[1028..1032].copy_from_slice(&1025_u32.to_le_bytes());
    assert_eq!(findings_of(disk), [("disk.fs.past-end", Some(1024), Some((1 << 20, 1024)))]);
}

fn identity_of(bytes: &[u8]) -> Identity {
    identify(&MemorySource::new(bytes.to_vec())).unwrap()
}

#[test]
fn foreign_kinds_are_named_by_content() {
    let padded = |at: usize, magic: &[u8]| {
        let mut bytes = vec![0; 70_000];
        bytes[at..at + magic.len()].copy_from_slice(magic);
        bytes
    };
    let kinds: Vec<(&str, Vec<u8>)> = vec![
        ("gzip", padded(0, &[0x1f, 0x8b, 8])),
        ("xz", padded(0, b"\xfd7zXZ\0")),
        ("zstd", padded(0, &[0x28, 0xb5, 0x2f, 0xfd])),
        ("bzip2", padded(0, b"BZh91AY&SY")),
        ("lz4", padded(0, &[0x04, 0x22, 0x4d, 0x18])),
        ("zip", padded(0, b"PK\x03\x04")),
        ("7z", padded(0, b"7z\xbc\xaf\x27\x1c")),
        ("rar", padded(0, b"Rar!\x1a\x07\x01\0")),
        ("vmdk-cowd", padded(0, b"COWD")),
        ("vmdk-sesparse", padded(0, &0xcafe_babe_u64.to_le_bytes())),
        ("qcow1", padded(0, b"QFI\xfb\0\0\0\x01")),
        ("qed", padded(0, b"QED\0")),
        ("parallels", padded(0, b"WithouFreSpacExt")),
        ("dmg", padded(70_000 - 512, b"koly")),
        ("cloop", padded(0, b"#!/bin/sh\n#V2.0 Format\nmodprobe")),
        ("iso9660", padded(32_769, b"CD001")),
        ("luks", padded(0, b"LUKS\xba\xbe\0\x02")),
    ];
    for (id, bytes) in kinds {
        match identity_of(&bytes) {
            Identity::Foreign(foreign) => assert_eq!(foreign.id, id),
            other => panic!("{id} was taken for {other:?}"),
        }
        let source = MemorySource::new(bytes.clone());
        assert_eq!(select(&source, Choice::Detect).unwrap_err().code(), "format.foreign", "{id}");
        assert_eq!(select(&source, Choice::Declared(&raw::FORMAT)).unwrap_err().code(), "format.foreign");
        assert_eq!(select(&source, Choice::AsRaw).unwrap().id, "raw");
        let context = OpenContext::new();
        let report = check(Arc::new(source), Choice::Detect, &context, CheckScope::Data, &Silent).unwrap();
        assert_eq!(report.findings.list()[0].check.id, "format.no-image");
        assert!(report.findings.fails());
    }
}

#[test]
fn what_nothing_claims_is_raw_and_says_what_was_seen() {
    let evidence = |bytes: &[u8]| match identity_of(bytes) {
        Identity::Raw { evidence } => evidence,
        other => panic!("{other:?}"),
    };
    assert_eq!(evidence(&[]), "no known structure");
    assert_eq!(evidence(&[7; 513]), "no known structure");
    assert_eq!(evidence(&gpt_disk(128, 127)), "a GUID partition table");
    assert_eq!(evidence(&mbr_disk(1 << 20, 2048, 100)), "an MBR partition table");
    let mut boot_sector = vec![0; 512];
    boot_sector[510..].copy_from_slice(&[0x55, 0xaa]);
    boot_sector[446] = 0x33; // code where a table would be
    assert_eq!(evidence(&boot_sector), "a boot sector");
}

/// T-EXT-12: one file, two readers, two disks.
#[test]
fn t_ext_12_two_kinds_at_once_are_a_polyglot() {
    let mut iso_and_vmdk = vec![0; 70_000];
    iso_and_vmdk[..4].copy_from_slice(b"KDMV");
    iso_and_vmdk[32_769..32_774].copy_from_slice(b"CD001");
    let mut tar_and_gzip = vec![0; 70_000];
    tar_and_gzip[..3].copy_from_slice(&[0x1f, 0x8b, 8]);
    tar_and_gzip[257..262].copy_from_slice(b"ustar");
    for (bytes, names) in [(iso_and_vmdk, ["vmdk", "iso9660"]), (tar_and_gzip, ["tar", "gzip"])] {
        match identity_of(&bytes) {
            Identity::Polyglot(found) => assert_eq!(found, names),
            other => panic!("{other:?}"),
        }
        let error = select(&MemorySource::new(bytes), Choice::Detect).unwrap_err();
        assert_eq!(error.code(), "format.polyglot");
    }
}

#[test]
fn a_probe_never_sees_more_than_it_is_given_and_never_panics_on_less() {
    for len in [0, 1, 3, 7, 64, 511, 512, 513, 1080, 4095, 32_773] {
        let bytes = vec![0xff; len];
        let tail = &bytes[len.saturating_sub(ProbeInput::TAIL_LEN)..];
        let identity = judge(&ProbeInput { head: &bytes, tail, file_len: u64::MAX });
        assert!(matches!(identity, Identity::Raw { .. }), "{len}: {identity:?}");
    }
}

#[test]
fn raw_disks_of_odd_lengths_open_in_whole_sectors() {
    for (len, whole) in [(0, 0), (1, 512), (511, 512), (513, 1024), (65_537, 66_048)] {
        let source = Arc::new(MemorySource::new(vec![9; len]));
        let image = open(source, Choice::Declared(by_name("img").unwrap()), &OpenContext::new()).unwrap();
        assert_eq!(image.disk_len(), whole);
        assert_eq!(image.facts().disk_bytes, whole);
    }
}
