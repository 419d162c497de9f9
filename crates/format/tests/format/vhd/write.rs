//! Writing VHDs, and whether QEMU agrees with what was written and with what we read.

use std::fs::File;
use std::path::Path;

use kiln_disk::digest::HashJob;
use kiln_disk::{Budget, Disk, Error, Silent};
use kiln_format::transfer::Job;
use kiln_format::{CheckScope, vhd};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::check_disk;
use kiln_testkit::oracle::{assert_qemu_identical, json_number, qemu_disk_len, qemu_img, text};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::writing::{Empty, Writer, content, open, raw_file};

static VHD: Writer = Writer(&vhd::FORMAT);

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back_in_kiln_and_in_qemu(
        sectors in 1_usize..40_000, seed: u64, fixed: bool, small_blocks: bool,
    ) {
        let bytes = content(sectors * 512, seed);
        let dir = TempDir::new().unwrap();
        let raw = raw_file(&dir, &bytes);
        let out = dir.path().join("disk.vhd");
        let pairs = [
            ("subformat", if fixed { "fixed" } else { "dynamic" }),
            ("block_size", if small_blocks { "512K" } else { "2M" }),
        ];
        let disk = ModelDisk::new(bytes.clone(), 65_536);
        let byte_len = VHD.write(&disk, &out, &pairs, 2).unwrap();
        prop_assert_eq!(byte_len, std::fs::metadata(&out).unwrap().len());
        let image = open(&out);
        check_disk(image.as_ref(), &bytes);
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        prop_assert_eq!(findings.list(), &[]);
        prop_assert_eq!(qemu_disk_len(&out, "vpc"), bytes.len() as u64);
        assert_qemu_identical(&raw, "raw", &out, "vpc");

        for threads in [1, 5] {
            let again = dir.path().join("again.vhd");
            VHD.write(&disk, &again, &pairs, threads).unwrap();
            prop_assert!(std::fs::read(&out).unwrap() == std::fs::read(&again).unwrap(), "{} threads", threads);
        }
    }

    #[test]
    fn what_qemu_writes_is_read_right(sectors in 1_usize..40_000, seed: u64, fixed: bool, force: bool) {
        let mut bytes = content(sectors * 512, seed);
        let dir = TempDir::new().unwrap();
        let raw = raw_file(&dir, &bytes);
        let out = dir.path().join("disk.vhd");
        let chosen = format!(
            "subformat={},force_size={}", if fixed { "fixed" } else { "dynamic" }, if force { "on" } else { "off" }
        );
        qemu_img(&["convert", "-f", "raw", "-O", "vpc", "-o", &chosen, text(&raw), text(&out)]);
        let disk_len = qemu_disk_len(&out, "vpc");
        prop_assert!(!force || disk_len == bytes.len() as u64);
        // Without force_size QEMU grows the disk to its geometry.
        bytes.resize(disk_len as usize, 0);
        let image = open(&out);
        check_disk(image.as_ref(), &bytes);
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        prop_assert_eq!(findings.list(), &[]);
    }
}

#[test]
fn oracle_creators_that_go_by_the_geometry_are_those_of_qemu() {
    let dir = TempDir::new().unwrap();
    for creator in [
        b"vpc ", b"vs  ", b"qemu", b"qem2", b"win ", b"d2v ", b"d2v\0", b"tap\0", b"CTXS", b"wa\0\0",
        b"vbox", b"kiln",
    ] {
        for geometry in [(4_u16, 4, 17), (65_535, 16, 255)] {
            let builder = kiln_testkit::vhd::VhdBuilder {
                creator: *creator,
                geometry,
                ..kiln_testkit::vhd::VhdBuilder::default()
            };
            let path = dir.path().join("disk.vhd");
            std::fs::write(&path, builder.dynamic(&vec![7; 300 * 512]).bytes).unwrap();
            let name = String::from_utf8_lossy(creator).into_owned();
            assert_eq!(open(&path).disk_len(), qemu_disk_len(&path, "vpc"), "{name:?} {geometry:?}");
        }
    }
}

#[test]
fn the_file_is_what_the_module_says_to_the_byte() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhd");
    let mut bytes = vec![0; 5 << 20];
    bytes[3 << 20] = 1;
    let byte_len = VHD.write(&ModelDisk::new(bytes, 4096), &path, &[], 1).unwrap();
    let file = std::fs::read(&path).unwrap();
    // Footer, header and one sector of table end at 2048; the bitmap lies right before the first page behind.
    let (bitmap, data) = (4096 - 512, 4096);
    assert_eq!(
        file[1536..1552],
        [[0xff; 4], (bitmap as u32 / 512).to_be_bytes(), [0xff; 4], [0xff; 4]].concat()
    );
    assert_eq!(file[bitmap..data], [0xff; 512]);
    assert_eq!(file[data + (1 << 20)], 1);
    assert_eq!(byte_len, data as u64 + (2 << 20) + 512);
    let footer = &file[file.len() - 512..];
    assert_eq!(footer, &file[..512]);
    assert_eq!(&footer[..16], b"conectix\0\0\0\x02\0\x01\0\0");
    assert_eq!(&footer[24..40], b"\0\0\0\0kiln\0\x01\0\0Wi2k");
    // 10240 sectors: 150 x 4 x 17 = 10200 would be too short, so the size counts.
    assert_eq!(&footer[56..60], &[0xff, 0xff, 16, 255]);
}

#[test]
fn a_geometry_that_fits_exactly_is_stated_and_ids_tell_disks_apart() {
    let dir = TempDir::new().unwrap();
    let footer = |bytes: Vec<u8>, pairs: &[(&str, &str)]| {
        let path = dir.path().join("disk.vhd");
        VHD.write(&ModelDisk::new(bytes, 4096), &path, pairs, 1).unwrap();
        let file = std::fs::read(&path).unwrap();
        file[file.len() - 512..].to_vec()
    };
    let exact = 150 * 4 * 17 * 512;
    let empty = footer(vec![0; exact], &[]);
    assert_eq!(&empty[56..60], &[0, 150, 4, 17]);
    let full = footer(vec![1; exact], &[]);
    let fixed = footer(vec![1; exact], &[("subformat", "fixed")]);
    let other = footer(vec![0; exact + 512], &[]);
    let ids: std::collections::HashSet<_> =
        [&empty, &full, &fixed, &other].map(|raw| raw[68..84].to_vec()).into();
    assert_eq!(ids.len(), 4);
    let given = footer(vec![0; exact], &[("uuid", "00112233-4455-6677-8899-AABBCCDDEEFF")]);
    assert_eq!(given[68..84], 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff_u128.to_be_bytes());
}

#[test]
fn lengths_that_a_vhd_cannot_hold_are_refused_before_a_byte_is_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhd");
    let limit = 2040_u64 << 30;
    for (disk_len, expected, most) in [
        (0, "vhd.create.sectors", 0),
        (1, "vhd.create.sectors", 0),
        (1_000_001, "vhd.create.sectors", 999_936),
        (limit + 512, "vhd.create.size", limit),
        (64 << 40, "vhd.create.size", limit),
        (u64::MAX, "vhd.create.size", limit),
    ] {
        for subformat in ["dynamic", "fixed"] {
            match VHD.write(&Empty(disk_len), &path, &[("subformat", subformat)], 1) {
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
fn the_longest_disk_is_written_and_read_by_qemu() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhd");
    let limit = 2040_u64 << 30;
    for block_size in ["2M", "512K"] {
        VHD.write(&Empty(limit), &path, &[("block_size", block_size)], 1).unwrap();
        assert_eq!(qemu_disk_len(&path, "vpc"), limit);
        let image = open(&path);
        assert_eq!(image.disk_len(), limit);
        assert_eq!(image.check(CheckScope::Data, &Silent).unwrap().list(), &[]);
        let whole = std::num::NonZeroU64::new(limit).unwrap();
        let extent = image.extent_at(kiln_disk::GuestOffset::ZERO, whole).unwrap();
        assert_eq!(extent.len, whole);
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhd");
    for (name, value) in [
        ("subformat", "differencing"),
        ("force_size", "off"),
        ("block_size", "0"),
        ("block_size", "1M"),
        ("block_size", "two"),
        ("uuid", "1234"),
        ("uuid", "00112233-4455-6677-8899-aabbccddeefg"),
    ] {
        let error = VHD.write(&Empty(512), &path, &[(name, value)], 1).unwrap_err();
        assert_eq!(error.code(), "option.value", "{name}={value}");
        assert!(error.hint().is_some());
    }
    VHD.write(&Empty(512), &path, &[("force_size", "on")], 1).unwrap();
}

#[test]
fn a_pipe_takes_a_fixed_disk_whole_and_a_dynamic_one_by_way_of_a_file() {
    let bytes = content(3 << 20, 7);
    let disk = ModelDisk::new(bytes.clone(), 4096);
    let dir = TempDir::new().unwrap();
    for subformat in ["fixed", "dynamic"] {
        let direct = dir.path().join("direct.vhd");
        VHD.write(&disk, &direct, &[("subformat", subformat)], 1).unwrap();
        let piped = dir.path().join("piped.vhd");
        let (options, budget) = (VHD.options(&[("subformat", subformat)]), Budget::default());
        let job = VHD.job(&disk, &options, 2, &budget);
        stream(job, &piped, dir.path());
        assert!(std::fs::read(&direct).unwrap() == std::fs::read(&piped).unwrap(), "{subformat}");
    }
}

fn stream(job: Job<'_>, path: &Path, scratch: &Path) {
    let out = Box::new(File::create(path).unwrap());
    kiln_format::transfer::write_stream(job, out, scratch, &Silent).unwrap();
}

#[test]
fn content_digests_of_all_kinds_agree() {
    let bytes = content(9 << 20, 11);
    let disk = ModelDisk::new(bytes, 65_536);
    let digest =
        |disk: &dyn Disk| kiln_disk::digest::hash_disk(disk, HashJob::default(), &Silent).unwrap().content;
    let dir = TempDir::new().unwrap();
    for pairs in [&[("subformat", "fixed")][..], &[], &[("block_size", "512K")]] {
        let path = dir.path().join("disk.vhd");
        VHD.write(&disk, &path, pairs, 2).unwrap();
        assert_eq!(digest(open(&path).as_ref()), digest(&disk));
    }
}

#[test]
fn holes_of_a_fixed_disk_cost_nothing() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhd");
    VHD.write(&Empty(1 << 40), &path, &[("subformat", "fixed")], 2).unwrap();
    let info = qemu_img(&["info", "--output=json", "-f", "vpc", text(&path)]);
    assert_eq!(json_number(&info, "virtual-size"), 1 << 40);
    assert!(json_number(&info, "actual-size") < 1 << 20, "{info}");
}
