//! Writing VDIs, and whether QEMU agrees with what was written and with what we read.

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use kiln_disk::{Error, FileSource, Silent};
use kiln_format::transfer::write_stream;
use kiln_format::{CheckScope, Choice, OpenContext, vdi};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::check_disk;
use kiln_testkit::oracle::{assert_qemu_identical, json_number, qemu_disk_len, qemu_img, text};
use kiln_testkit::vdi::VdiBuilder;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::writing::{Empty, Writer, content, open, raw_file};

static VDI: Writer = Writer(&vdi::FORMAT);

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back_in_kiln_and_in_qemu(
        sectors in 1_usize..40_000, seed: u64, is_static: bool,
    ) {
        let bytes = content(sectors * 512, seed);
        let dir = TempDir::new().unwrap();
        let raw = raw_file(&dir, &bytes);
        let out = dir.path().join("disk.vdi");
        let pairs = [("static", if is_static { "on" } else { "off" })];
        let disk = ModelDisk::new(bytes.clone(), 65_536);
        let byte_len = VDI.write(&disk, &out, &pairs, 2).unwrap();
        prop_assert_eq!(byte_len, std::fs::metadata(&out).unwrap().len());
        let image = open(&out);
        check_disk(image.as_ref(), &bytes);
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        prop_assert_eq!(findings.list(), &[]);
        qemu_img(&["check", "-f", "vdi", text(&out)]);
        prop_assert_eq!(qemu_disk_len(&out, "vdi"), bytes.len() as u64);
        assert_qemu_identical(&raw, "raw", &out, "vdi");

        for threads in [1, 5] {
            let again = dir.path().join("again.vdi");
            VDI.write(&disk, &again, &pairs, threads).unwrap();
            prop_assert!(std::fs::read(&out).unwrap() == std::fs::read(&again).unwrap(), "{} threads", threads);
        }
    }

    #[test]
    fn what_qemu_writes_is_read_right(sectors in 1_usize..40_000, seed: u64, is_static: bool) {
        let bytes = content(sectors * 512, seed);
        let dir = TempDir::new().unwrap();
        let raw = raw_file(&dir, &bytes);
        let out = dir.path().join("disk.vdi");
        let chosen = if is_static { "static=on" } else { "static=off" };
        qemu_img(&["convert", "-f", "raw", "-O", "vdi", "-o", chosen, text(&raw), text(&out)]);
        let image = open(&out);
        check_disk(image.as_ref(), &bytes);
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        prop_assert_eq!(findings.list(), &[]);
        prop_assert_eq!(image.facts().variant, if is_static { "static" } else { "dynamic" });
    }

    #[test]
    fn qemu_and_kiln_read_the_test_kits_disks_alike(
        sectors in 1_usize..20_000, seed: u64, shuffle: u64, is_static: bool, mark_zeros: bool,
    ) {
        let bytes = content(sectors * 512, seed);
        let dir = TempDir::new().unwrap();
        let raw = raw_file(&dir, &bytes);
        let out = dir.path().join("disk.vdi");
        // QEMU knows blocks of 1 MiB without extra bytes only.
        let built = VdiBuilder {
            image_type: if is_static { 2 } else { 1 }, block_size: 1 << 20, shuffle, mark_zeros,
            ..VdiBuilder::default()
        }.build(&bytes);
        std::fs::write(&out, built.bytes).unwrap();
        assert_qemu_identical(&raw, "raw", &out, "vdi");
        check_disk(open(&out).as_ref(), &bytes);
    }
}

#[test]
fn the_file_is_what_the_module_says_to_the_byte() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vdi");
    let mut bytes = vec![0; 5 << 20];
    bytes[(3 << 20) + 7] = 1;
    let byte_len = VDI.write(&ModelDisk::new(bytes, 4096), &path, &[], 1).unwrap();
    let file = std::fs::read(&path).unwrap();
    assert_eq!(byte_len, 3 << 20);
    assert!(file.starts_with(b"<<< Kiln VirtualBox Disk Image >>>\n\0"));
    let number = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
    let fields = [0x40, 0x44, 0x48, 0x4c, 0x154, 0x158, 0x168, 0x178, 0x17c, 0x180, 0x184].map(number);
    assert_eq!(fields, [0xbeda_107f, 0x1_0001, 400, 1, 1 << 20, 2 << 20, 512, 1 << 20, 0, 5, 1]);
    // The LCHS geometry's sector size, without which VirtualBox refuses a header of 400 bytes.
    assert_eq!(number(0x1d4), 512);
    assert_eq!(file[1 << 20..][..20], [[0xff; 4], [0xff; 4], [0xff; 4], [0; 4], [0xff; 4]].concat());
    assert_eq!(file[(2 << 20) + 7], 1);
}

#[test]
fn ids_tell_disks_apart_and_are_never_nil() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vdi");
    let ids = |bytes: Vec<u8>, pairs: &[(&str, &str)]| {
        VDI.write(&ModelDisk::new(bytes, 4096), &path, pairs, 1).unwrap();
        std::fs::read(&path).unwrap()[0x188..0x1c8].to_vec()
    };
    let len = 3 << 20;
    let mut all = Vec::new();
    for id in [
        ids(vec![0; len], &[]),
        ids(vec![1; len], &[]),
        ids([vec![1; 1 << 20], vec![0; 2 << 20]].concat(), &[]),
        ids([vec![0; 1 << 20], vec![1; 1 << 20], vec![0; 1 << 20]].concat(), &[]),
        ids(vec![0; len + 512], &[]),
        ids(vec![0; len], &[("static", "on")]),
    ] {
        assert_eq!(id[32..], [0; 32], "no parent");
        all.extend([id[..16].to_vec(), id[16..32].to_vec()]);
    }
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count);
    assert!(all.iter().all(|id| *id != [0; 16]));
    let given = ids(vec![0; len], &[("uuid", "00112233-4455-6677-8899-AABBCCDDEEFF")]);
    assert_eq!(given[..16], *b"\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff");
}

#[test]
fn lengths_that_a_vdi_cannot_hold_are_refused_before_a_byte_is_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vdi");
    let limit = 0x3fff_ffff_u64 << 20;
    for (disk_len, expected, most) in [
        (0, "vdi.create.sectors", 0),
        (1, "vdi.create.sectors", 0),
        (1_000_001, "vdi.create.sectors", 999_936),
        (limit + 512, "vdi.create.size", limit),
        (u64::MAX, "vdi.create.size", limit),
    ] {
        for choice in ["on", "off"] {
            match VDI.write(&Empty(disk_len), &path, &[("static", choice)], 1) {
                Err(Error::Refused { code, asked, allowed, hint, .. }) => {
                    assert_eq!((code, asked, allowed), (expected, disk_len, most));
                    assert!(!hint.is_empty());
                }
                other => panic!("{disk_len} bytes: {other:?}"),
            }
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        }
    }
}

#[test]
fn a_long_empty_disk_costs_its_map() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vdi");
    let len = 8_u64 << 40;
    assert_eq!(VDI.write(&Empty(len), &path, &[], 2).unwrap(), (1 << 20) + (32 << 20));
    assert_eq!(qemu_disk_len(&path, "vdi"), len);
    let image = open(&path);
    assert_eq!(image.check(CheckScope::Data, &Silent).unwrap().list(), &[]);
    let whole = std::num::NonZeroU64::new(len).unwrap();
    assert_eq!(image.extent_at(kiln_disk::GuestOffset::ZERO, whole).unwrap().len, whole);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vdi");
    for (name, value) in
        [("static", "maybe"), ("uuid", "1234"), ("uuid", "00112233-4455-6677-8899-aabbccddeefg")]
    {
        let error = VDI.write(&Empty(512), &path, &[(name, value)], 1).unwrap_err();
        assert_eq!(error.code(), "option.value", "{name}={value}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn a_pipe_takes_a_static_disk_whole_and_a_dynamic_one_by_way_of_a_file() {
    let disk = ModelDisk::new(content(3 << 20, 7), 4096);
    let dir = TempDir::new().unwrap();
    for choice in ["on", "off"] {
        let (direct, piped) = (dir.path().join("direct.vdi"), dir.path().join("piped.vdi"));
        VDI.write(&disk, &direct, &[("static", choice)], 1).unwrap();
        let (options, budget) = (VDI.options(&[("static", choice)]), kiln_disk::Budget::default());
        let out = Box::new(File::create(&piped).unwrap());
        write_stream(VDI.job(&disk, &options, 2, &budget), out, dir.path(), &Silent).unwrap();
        assert!(std::fs::read(&direct).unwrap() == std::fs::read(&piped).unwrap(), "static={choice}");
    }
}

#[test]
fn holes_of_a_static_disk_cost_nothing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vdi");
    VDI.write(&Empty(1 << 40), &path, &[("static", "on")], 2).unwrap();
    let info = qemu_img(&["info", "--output=json", "-f", "vdi", text(&path)]);
    assert_eq!(json_number(&info, "virtual-size"), 1 << 40);
    // Its map alone.
    assert!(json_number(&info, "actual-size") < 6 << 20, "{info}");
}

/// A file cut to 70 % is clean to `qemu-img check`, and so is what a stopped `qemu-img convert` leaves.
#[test]
fn cut_and_stopped_disks_are_found_where_qemu_finds_nothing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vdi");
    // A GPT whose backup is at the end, and data in between.
    let mut bytes = vec![5; 64 << 20];
    bytes[..17_408].fill(0);
    bytes[512..520].copy_from_slice(b"EFI PART");
    let last = bytes.len() / 512 - 1;
    bytes[512 + 32..512 + 40].copy_from_slice(&(last as u64).to_le_bytes());
    let end = bytes.len() - 512;
    bytes[end..end + 8].copy_from_slice(b"EFI PART");
    let raw = raw_file(&dir, &bytes);
    qemu_img(&["convert", "-f", "raw", "-O", "vdi", text(&raw), text(&path)]);
    let check = || {
        let source = Arc::new(FileSource::open(&path).unwrap());
        let context = OpenContext::new();
        kiln_format::check(source, Choice::Detect, &context, CheckScope::Metadata, &Silent).unwrap().findings
    };
    assert!(!check().fails());

    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() * 7 / 10).unwrap();
    qemu_img(&["check", "-f", "vdi", text(&path)]);
    assert!(check().count_of("vdi.block.past-end") >= 18);

    // Slowed down so that a signal finds it at work.
    std::fs::remove_file(&path).unwrap();
    let mut child = Command::new("qemu-img")
        .args(["convert", "-r", "8M", "-f", "raw", "-O", "vdi", text(&raw), text(&path)])
        .stdout(Stdio::null())
        .spawn()
        .expect("qemu-img is missing: install qemu-utils");
    while std::fs::metadata(&path).map_or(0, |file| file.len()) < 4 << 20 {
        assert!(child.try_wait().unwrap().is_none(), "qemu-img ended before the test could stop it");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    assert!(!child.wait().unwrap().success());
    qemu_img(&["check", "-f", "vdi", text(&path)]);
    let findings = check();
    assert!(findings.fails(), "{:?}", findings.list());
}
