//! Writing VMDKs, and whether QEMU and libvmdk agree with what was written and with what we read.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kiln_disk::{Error, FileSource, Silent};
use kiln_format::transfer::write_stream;
use kiln_format::{CheckScope, Image, OpenContext, Siblings, vmdk};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::check_disk;
use kiln_testkit::oracle::{PYTHON, assert_qemu_identical, qemu_disk_len, qemu_img, text};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::writing::{Empty, Writer, mixed_content, raw_file};

static VMDK: Writer = Writer(&vmdk::FORMAT);

fn open(path: &Path) -> Box<dyn Image> {
    let resolver = Arc::new(Siblings::beside(path, OpenContext::new().resolver));
    let context = OpenContext { resolver, ..OpenContext::new() };
    (vmdk::FORMAT.open)(Arc::new(FileSource::open(path).unwrap()), &context).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_the_disk_for_qemu_as_well_and_the_same_file_for_any_number_of_threads(
        sectors in prop_oneof![1_usize..300, 1_usize..90_000], seed: u64, stream: bool, level in 1_u8..=12,
    ) {
        let bytes = mixed_content(sectors, seed);
        let disk = ModelDisk::new(bytes.clone(), 4096);
        let dir = TempDir::new().unwrap();
        let raw = raw_file(&dir, &bytes);
        let out = dir.path().join("disk.vmdk");
        let subformat = if stream { "streamOptimized" } else { "monolithicSparse" };
        let level = level.to_string();
        let pairs = [("subformat", subformat), ("compression_level", level.as_str())];
        let byte_len = VMDK.write(&disk, &out, &pairs, 3).unwrap();
        prop_assert_eq!(byte_len, std::fs::metadata(&out).unwrap().len());
        let image = open(&out);
        check_disk(image.as_ref(), &bytes);
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        prop_assert_eq!(findings.list(), &[]);
        prop_assert_eq!(qemu_disk_len(&out, "vmdk"), bytes.len() as u64);
        qemu_img(&["check", "-f", "vmdk", text(&out)]);
        assert_qemu_identical(&raw, "raw", &out, "vmdk");
        for threads in [1, 5] {
            let again = dir.path().join("again.vmdk");
            VMDK.write(&disk, &again, &pairs, threads).unwrap();
            prop_assert!(std::fs::read(&out).unwrap() == std::fs::read(&again).unwrap(), "{} threads", threads);
        }
    }

    #[test]
    fn what_qemu_writes_is_read_right(sectors in 1_usize..40_000, seed: u64, kind in 0_usize..5, zeroed: bool) {
        let bytes = mixed_content(sectors, seed);
        let dir = TempDir::new().unwrap();
        let raw = raw_file(&dir, &bytes);
        let out = dir.path().join("qemu.vmdk");
        let kinds = [
            "monolithicSparse", "streamOptimized", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat",
        ];
        let flat = kinds[kind].ends_with("Flat");
        let chosen = format!("subformat={},zeroed_grain={}", kinds[kind], if zeroed && !flat { "on" } else { "off" });
        qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "-o", &chosen, text(&raw), text(&out)]);
        let image = open(&out);
        prop_assert_eq!(image.facts().variant, kinds[kind]);
        check_disk(image.as_ref(), &bytes);
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        prop_assert_eq!(findings.list(), &[]);
    }
}

#[test]
fn a_split_disk_of_qemu_that_is_longer_than_one_part_is_read_across_the_seam() {
    let dir = TempDir::new().unwrap();
    let raw = dir.path().join("disk.raw");
    let file = File::create(&raw).unwrap();
    file.set_len((5 << 30) + 512).unwrap();
    let seam = 2_u64 << 30;
    for at in [0, seam - 70_000, 2 * seam - 3, 5 << 30] {
        std::os::unix::fs::FileExt::write_all_at(&file, &[at as u8 | 1; 512], at & !511).unwrap();
    }
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let out = dir.path().join(format!("{kind}.vmdk"));
        let chosen = format!("subformat={kind}");
        qemu_img(&["convert", "-f", "raw", "-O", "vmdk", "-o", &chosen, text(&raw), text(&out)]);
        let image = open(&out);
        assert_eq!(image.disk_len(), (5 << 30) + 512);
        assert_eq!(image.facts().references.len(), 3);
        let mut ours = vec![0; 200_000];
        let mut theirs = ours.clone();
        let raw = File::open(&raw).unwrap();
        for at in [0, seam - 100_000, 2 * seam - 100_000, (5 << 30) + 512 - 200_000] {
            image.read_guest(kiln_disk::GuestOffset::new(at), &mut ours).unwrap();
            std::os::unix::fs::FileExt::read_exact_at(&raw, &mut theirs, at).unwrap();
            assert!(ours == theirs, "{kind} at {at:#x}");
        }
        assert_eq!(image.check(CheckScope::Metadata, &Silent).unwrap().list(), &[]);
    }
}

#[test]
fn a_differencing_disk_of_qemu_is_read_with_its_parent() {
    let dir = TempDir::new().unwrap();
    let bytes = mixed_content(4000, 3);
    let raw = raw_file(&dir, &bytes);
    let (base, child) = (dir.path().join("base.vmdk"), dir.path().join("child.vmdk"));
    qemu_img(&["convert", "-f", "raw", "-O", "vmdk", text(&raw), text(&base)]);
    qemu_img(&["create", "-q", "-f", "vmdk", "-b", text(&base), "-F", "vmdk", text(&child)]);
    kiln_testkit::oracle::qemu_io(&["-f", "vmdk", "-c", "write -P 7 65536 131072", text(&child)]);
    let mut wanted = bytes;
    wanted[65_536..65_536 + 131_072].fill(7);
    let source = Arc::new(FileSource::open(&child).unwrap());
    let mut list = kiln_format::AllowList::default();
    let parent = Arc::new(FileSource::open(&base).unwrap());
    list.allow(text(&base), kiln_format::Resolved { source: parent, format: None });
    let context = OpenContext { resolver: Arc::new(list), ..OpenContext::new() };
    check_disk((vmdk::FORMAT.open)(source.clone(), &context).unwrap().as_ref(), &wanted);
    // Beside its child or not: a parent is never opened unasked.
    let siblings = Arc::new(Siblings::beside(&child, OpenContext::new().resolver));
    let context = OpenContext { resolver: siblings, ..OpenContext::new() };
    assert_eq!((vmdk::FORMAT.open)(source, &context).err().unwrap().code(), "reference.denied");
}

/// The whole disk by libvmdk's Python binding.
fn libvmdk(path: &Path) -> Vec<u8> {
    const SCRIPT: &str = "import sys, pyvmdk\n\
        handle = pyvmdk.handle(); handle.open(sys.argv[1]); handle.open_extent_data_files()\n\
        size = handle.get_media_size()\n\
        while size > 0:\n    part = handle.read_buffer(min(size, 1 << 20)); size -= len(part)\n    \
        sys.stdout.buffer.write(part)\n";
    let output = Command::new("timeout").args(["60", PYTHON, "-c", SCRIPT, text(path)]).output();
    let output = output.expect("timeout (coreutils)");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "pyvmdk (python3-libvmdk) cannot read {}: {said}", path.display());
    output.stdout
}

#[test]
fn oracle_libvmdk_reads_what_is_written() {
    let dir = TempDir::new().unwrap();
    for (seed, sectors) in [(1, 128 * 30), (2, 128 * 600 + 64), (3, 128)] {
        let bytes = mixed_content(sectors, seed);
        for subformat in ["monolithicSparse", "streamOptimized"] {
            // libvmdk opens the extent under the name in the descriptor.
            let path = dir.path().join("disk.vmdk");
            VMDK.write(&ModelDisk::new(bytes.clone(), 4096), &path, &[("subformat", subformat)], 2).unwrap();
            assert!(libvmdk(&path) == bytes, "{subformat}, {sectors} sectors");
        }
    }
}

#[test]
fn a_stream_is_what_the_specification_says_to_the_sector() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vmdk");
    let mut bytes = vec![0; 40 << 20];
    bytes[70_000] = 1;
    bytes[(33 << 20) + 5] = 2;
    let disk = ModelDisk::new(bytes, 4096);
    let byte_len = VMDK.write(&disk, &path, &[("subformat", "streamOptimized")], 1).unwrap();
    let file = std::fs::read(&path).unwrap();
    let sector = |n: usize| &file[n * 512..][..512];
    let le = |at: usize, len: usize| {
        file[at..at + len].iter().rev().fold(0_u64, |n, byte| n << 8 | u64::from(*byte))
    };
    assert_eq!(&file[..12], b"KDMV\x03\0\0\0\x01\0\x03\0");
    assert_eq!((le(12, 8), le(20, 8), le(44, 4)), (81_920, 128, 512));
    assert_eq!((le(48, 8), le(56, 8), le(64, 8)), (0, u64::MAX, 128));
    assert!(sector(1).starts_with(b"# Disk DescriptorFile\nversion=1\nCID="));
    // Grain 1, its table, grain 528, its table, directory, footer, end of stream: all of one or four sectors.
    let marker = |n: usize| (le(n * 512, 8), le(n * 512 + 8, 4), le(n * 512 + 12, 4));
    assert_eq!(le(128 * 512, 8), 128);
    assert_eq!(marker(129), (4, 0, 1));
    assert_eq!(le(130 * 512 + 4, 4), 128);
    assert_eq!(le(134 * 512, 8), 528 * 128);
    assert_eq!(marker(135), (4, 0, 1));
    assert_eq!(le(136 * 512 + 16 * 4, 4), 134);
    assert_eq!(marker(140), (1, 0, 2));
    assert_eq!((le(141 * 512, 4), le(141 * 512 + 4, 4)), (130, 136));
    assert_eq!(marker(142), (1, 0, 3));
    assert_eq!((&sector(143)[..4], le(143 * 512 + 56, 8)), (&b"KDMV"[..], 141));
    assert_eq!(sector(144), [0; 512]);
    assert_eq!((byte_len, file.len()), (145 * 512, 145 * 512));
}

#[test]
fn the_descriptor_says_what_was_asked_for() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vmdk");
    let mut bytes = vec![0; 1 << 20];
    bytes[0] = 1;
    let disk = ModelDisk::new(bytes, 4096);
    let words = |pairs: &[(&str, &str)]| {
        VMDK.write(&disk, &path, pairs, 1).unwrap();
        let file = std::fs::read(&path).unwrap();
        String::from_utf8_lossy(&file[512..2048]).trim_end_matches('\0').to_owned()
    };
    let plain = words(&[]);
    for line in
        ["createType=\"monolithicSparse\"\n", "RW 2048 SPARSE \"disk.vmdk\"\n", "virtualHWVersion = \"4\"\n"]
    {
        assert!(plain.contains(line), "{plain}");
    }
    assert!(plain.contains("geometry.heads = \"16\"") && plain.contains("adapterType = \"ide\""), "{plain}");
    let other = words(&[("adapter_type", "lsilogic"), ("compat6", "on"), ("compress", "on")]);
    for line in
        ["createType=\"streamOptimized\"\n", "heads = \"255\"\n", "HWVersion = \"6\"\n", "\"lsilogic\"\n"]
    {
        assert!(other.contains(line), "{other}");
    }
    assert!(words(&[("hwversion", "14")]).contains("virtualHWVersion = \"14\"\n"));
    for (name, value) in [
        ("subformat", "monolithicFlat"),
        ("adapter_type", "scsi"),
        ("compression_level", "0"),
        ("compression_level", "13"),
        ("hwversion", "new"),
        ("compat6", "maybe"),
    ] {
        assert_eq!(
            VMDK.write(&disk, &path, &[(name, value)], 1).unwrap_err().code(),
            "option.value",
            "{name}={value}"
        );
    }
    let both = [("subformat", "monolithicSparse"), ("compress", "on")];
    assert_eq!(VMDK.write(&disk, &path, &both, 1).unwrap_err().code(), "option.value");
}

#[test]
fn a_pipe_takes_a_stream_as_it_comes_and_the_rest_by_way_of_a_file() {
    let disk = ModelDisk::new(mixed_content(200_000, 7), 4096);
    let dir = TempDir::new().unwrap();
    for subformat in ["streamOptimized", "monolithicSparse"] {
        let (direct, piped) = (dir.path().join("direct.vmdk"), dir.path().join("piped.vmdk"));
        let pairs = [("subformat", subformat)];
        VMDK.write(&disk, &direct, &pairs, 1).unwrap();
        let (options, budget) = (VMDK.options(&pairs), kiln_disk::Budget::default());
        let out = Box::new(File::create(&piped).unwrap());
        write_stream(VMDK.job(&disk, &options, 2, &budget), out, dir.path(), &Silent).unwrap();
        assert!(std::fs::read(&direct).unwrap() == std::fs::read(&piped).unwrap(), "{subformat}");
    }
    let streams = vmdk::FORMAT.create.unwrap().streams;
    assert!(streams(&VMDK.options(&[("subformat", "streamOptimized")])) && !streams(&VMDK.options(&[])));
}

#[test]
fn lengths_that_a_vmdk_cannot_hold_are_refused_before_a_byte_is_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vmdk");
    let limit = 62_u64 << 40;
    for (disk_len, expected, most) in [
        (0, "vmdk.create.sectors", 0),
        (1_000_001, "vmdk.create.sectors", 999_936),
        (limit + 512, "vmdk.create.size", limit),
        (u64::MAX, "vmdk.create.size", limit),
    ] {
        for subformat in ["monolithicSparse", "streamOptimized"] {
            match VMDK.write(&Empty(disk_len), &path, &[("subformat", subformat)], 1) {
                Err(Error::Refused { code, asked, allowed, .. }) => {
                    assert_eq!((code, asked, allowed), (expected, disk_len, most));
                }
                other => panic!("{disk_len} bytes: {other:?}"),
            }
            assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
        }
    }
}

#[test]
fn a_disk_of_terabytes_is_written_and_read_by_qemu() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.vmdk");
    for subformat in ["monolithicSparse", "streamOptimized"] {
        VMDK.write(&Empty(8 << 40), &path, &[("subformat", subformat)], 1).unwrap();
        assert_eq!(qemu_disk_len(&path, "vmdk"), 8 << 40);
        let image = open(&path);
        assert_eq!(image.check(CheckScope::Metadata, &Silent).unwrap().list(), &[]);
    }
}
