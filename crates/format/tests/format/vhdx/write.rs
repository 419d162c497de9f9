//! Writing VHDXs, and whether QEMU agrees with what was written and with what we read.

use std::fs::File;

use kiln_disk::{Error, Silent};
use kiln_format::transfer::write_stream;
use kiln_format::{CheckScope, vhdx};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::check_disk;
use kiln_testkit::oracle::{assert_qemu_identical, json_number, qemu_disk_len, qemu_img, text};
use kiln_testkit::vhdx::VhdxBuilder;
use proptest::prelude::*;
use tempfile::TempDir;

use crate::writing::{Empty, Writer, content, open, raw_file};

static VHDX: Writer = Writer(&vhdx::FORMAT);

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back_in_kiln_and_in_qemu(
        sectors in 1_usize..60_000, seed: u64, fixed: bool,
        block_size in prop::sample::select(vec!["auto", "1M", "2M", "32M", "256M"]),
    ) {
        let bytes = content(sectors * 512, seed);
        let dir = TempDir::new().unwrap();
        let raw = raw_file(&dir, &bytes);
        let out = dir.path().join("disk.vhdx");
        let pairs = [("subformat", if fixed { "fixed" } else { "dynamic" }), ("block_size", block_size)];
        let disk = ModelDisk::new(bytes.clone(), 65_536);
        let byte_len = VHDX.write(&disk, &out, &pairs, 2).unwrap();
        prop_assert_eq!(byte_len, std::fs::metadata(&out).unwrap().len());
        let image = open(&out);
        check_disk(image.as_ref(), &bytes);
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        prop_assert_eq!(findings.list(), &[]);
        qemu_img(&["check", "-f", "vhdx", text(&out)]);
        prop_assert_eq!(qemu_disk_len(&out, "vhdx"), bytes.len() as u64);
        assert_qemu_identical(&raw, "raw", &out, "vhdx");

        for threads in [1, 5] {
            let again = dir.path().join("again.vhdx");
            VHDX.write(&disk, &again, &pairs, threads).unwrap();
            prop_assert!(std::fs::read(&out).unwrap() == std::fs::read(&again).unwrap(), "{} threads", threads);
        }
    }

    #[test]
    fn what_qemu_writes_is_read_right(
        sectors in 1_usize..60_000, seed: u64, fixed: bool, block_mib in prop::sample::select(vec![1, 2, 8, 64]),
        zero_state: bool,
    ) {
        let bytes = content(sectors * 512, seed);
        let dir = TempDir::new().unwrap();
        let raw = raw_file(&dir, &bytes);
        let out = dir.path().join("disk.vhdx");
        let chosen = format!(
            "subformat={},block_size={}M,block_state_zero={}",
            if fixed { "fixed" } else { "dynamic" }, block_mib, if zero_state { "on" } else { "off" },
        );
        qemu_img(&["convert", "-f", "raw", "-O", "vhdx", "-o", &chosen, text(&raw), text(&out)]);
        let image = open(&out);
        check_disk(image.as_ref(), &bytes);
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        prop_assert!(!findings.fails(), "{:?}", findings.list());
    }

    #[test]
    fn qemu_and_kiln_read_the_test_kits_disks_alike(
        sectors in 1_usize..20_000, seed: u64, shuffle: u64, fixed: bool, gap_mib in 0_usize..3,
        block_bits in 20_u32..24,
    ) {
        let bytes = content(sectors * 512, seed);
        let dir = TempDir::new().unwrap();
        let raw = raw_file(&dir, &bytes);
        let out = dir.path().join("disk.vhdx");
        let built = VhdxBuilder { block_size: 1 << block_bits, shuffle, fixed, gap_mib, ..VhdxBuilder::default() }
            .build(&bytes);
        std::fs::write(&out, built.bytes).unwrap();
        assert_qemu_identical(&raw, "raw", &out, "vhdx");
        check_disk(open(&out).as_ref(), &bytes);
    }
}

#[test]
fn lengths_that_a_vhdx_cannot_hold_are_refused_before_a_byte_is_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhdx");
    let limit = 64_u64 << 40;
    for (disk_len, expected, most) in [
        (0, "vhdx.create.sectors", 0),
        (1_000_001, "vhdx.create.sectors", 999_936),
        (limit + 512, "vhdx.create.size", limit),
        (u64::MAX, "vhdx.create.size", limit),
    ] {
        for subformat in ["fixed", "dynamic"] {
            match VHDX.write(&Empty(disk_len), &path, &[("subformat", subformat)], 1) {
                Err(Error::Refused { code, asked, allowed, hint, .. }) => {
                    assert_eq!((code, asked, allowed), (expected, disk_len, most));
                    assert!(!hint.is_empty());
                }
                other => panic!("{disk_len} bytes: {other:?}"),
            }
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        }
    }
    for (name, value) in
        [("subformat", "differencing"), ("block_size", "512K"), ("block_size", "3M"), ("block_size", "512M")]
    {
        let error = VHDX.write(&Empty(512), &path, &[(name, value)], 1).unwrap_err();
        assert_eq!(error.code(), "option.value", "{name}={value}");
    }
}

#[test]
fn the_longest_disk_is_written_and_read_by_qemu() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhdx");
    let limit = 64_u64 << 40;
    for block_size in ["auto", "256M", "1M"] {
        VHDX.write(&Empty(limit), &path, &[("block_size", block_size)], 1).unwrap();
        assert_eq!(qemu_disk_len(&path, "vhdx"), limit);
        let image = open(&path);
        assert_eq!(image.check(CheckScope::Data, &Silent).unwrap().list(), &[]);
        let info = qemu_img(&["info", "--output=json", "-f", "vhdx", text(&path)]);
        // Nothing but headers and metadata takes space.
        assert!(json_number(&info, "actual-size") < 1 << 20, "{info}");
    }
}

#[test]
fn the_file_is_what_the_module_says_to_the_byte() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vhdx");
    let mut bytes = vec![0; 40 << 20];
    bytes[(17 << 20) + 5] = 1;
    bytes[(23 << 20) + 5] = 2;
    let byte_len = VHDX.write(&ModelDisk::new(bytes, 4096), &path, &[], 2).unwrap();
    let file = std::fs::read(&path).unwrap();
    // Log, metadata, table of a mebibyte each behind the headers; one block of 8 MiB.
    assert_eq!(byte_len, (4 + 8) << 20);
    assert!(file.starts_with(b"vhdxfilek\0i\0l\0n\0\0"));
    let number = |at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap());
    let entries = [0, 1, 2, 3, 4].map(|block| number((3 << 20) + 8 * block));
    assert_eq!(entries, [0, 0, 4 << 20 | 6, 0, 0]);
    assert_eq!((file[(5 << 20) + 5], file[(11 << 20) + 5]), (1, 2));
    assert_eq!(file[48 + (64 << 10)..][..16], [0; 16], "an empty log");
    assert_eq!((number((64 << 10) + 8), number((128 << 10) + 8)), (1, 2));
    assert_eq!(file[192 << 10..256 << 10], file[256 << 10..320 << 10]);
}

#[test]
fn a_pipe_takes_a_fixed_disk_whole_and_a_dynamic_one_by_way_of_a_file() {
    let disk = ModelDisk::new(content(20 << 20, 7), 4096);
    let dir = TempDir::new().unwrap();
    for subformat in ["fixed", "dynamic"] {
        let (direct, piped) = (dir.path().join("direct.vhdx"), dir.path().join("piped.vhdx"));
        VHDX.write(&disk, &direct, &[("subformat", subformat)], 1).unwrap();
        let (options, budget) = (VHDX.options(&[("subformat", subformat)]), kiln_disk::Budget::default());
        let out = Box::new(File::create(&piped).unwrap());
        write_stream(VHDX.job(&disk, &options, 2, &budget), out, dir.path(), &Silent).unwrap();
        assert!(std::fs::read(&direct).unwrap() == std::fs::read(&piped).unwrap(), "{subformat}");
    }
}
