//! Containers that come once: the same disk as by a read at any place, or an error, whatever the order of the file.

use std::path::Path;
use std::sync::Arc;

use kiln_disk::{Budget, Error, MemorySource, Result, Silent};
use kiln_format::wrap::{Arriving, ByteStream, Wrapped};
use kiln_testkit::laws::Random;
use kiln_testkit::oracle::{peak_memory, qemu_img, text};
use kiln_testkit::ova::{OvaBuilder, pack};
use kiln_testkit::qcow2::{Cell, Codec, Spec, build};
use kiln_testkit::tar::TarBuilder;
use kiln_testkit::vhd::VhdBuilder;
use kiln_testkit::vmdk::VmdkBuilder;

#[path = "../fuzz/src/passing.rs"]
mod exercise;
#[allow(dead_code)]
#[path = "../fuzz/src/tar.rs"]
mod tar_exercise;

use exercise::{Found, arriving, passed, placed};

#[track_caller]
fn assert_same(bytes: Vec<u8>, context: &str) -> Found {
    let expected = placed(&bytes).unwrap();
    let bytes = Arc::new(bytes);
    let mut last = None;
    for (step, threads) in [(1 << 20, 2), (4096, 1), (65_537, 3)] {
        let found = passed(&bytes, step, threads).unwrap().unwrap_or_else(|| panic!("{context}: not taken"));
        let (one, other) = ((found.content, &found.ids), (expected.content, &expected.ids));
        assert_eq!(one, other, "{context}, {step} bytes at once");
        last = Some(found);
    }
    last.unwrap()
}

/// Text, noise and zeros in pieces that no cluster size divides.
fn sample(len: usize) -> Vec<u8> {
    let mut random = Random(0x5eed);
    let mut bytes = vec![0; len];
    let mut at = 0;
    for piece in 0_usize.. {
        let end = (at + 9000 + (piece * 7919) % 300_000).min(len);
        for (n, byte) in bytes[at..end].iter_mut().enumerate() {
            *byte = match piece % 3 {
                0 => 0,
                1 => b"kiln fires clay "[n % 16] + (n / 4096) as u8,
                _ => random.below(256) as u8,
            };
        }
        at = end;
        if at == len {
            break;
        }
    }
    bytes
}

fn converted(dir: &Path, raw: &[u8], options: &[&str]) -> Vec<u8> {
    let (from, to) = (dir.join("disk.raw"), dir.join("disk.qcow2"));
    std::fs::write(&from, raw).unwrap();
    let words = [&["convert", "-f", "raw", "-O", "qcow2"], options, &[text(&from), text(&to)]].concat();
    qemu_img(&words);
    std::fs::read(to).unwrap()
}

#[test]
fn what_qemu_img_writes_is_read_as_it_comes_with_nothing_kept() {
    let dir = tempfile::tempdir().unwrap();
    let raw = sample(70 << 20);
    for options in [
        &[][..],
        &["-c"],
        &["-c", "-o", "compression_type=zstd"],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=4k"],
        &["-c", "-o", "cluster_size=2M"],
        &["-o", "extended_l2=on"],
        &["-o", "refcount_bits=1"],
    ] {
        let found = assert_same(converted(dir.path(), &raw, options), &format!("{options:?}"));
        assert_eq!(found.spilled, 0, "{options:?}");
    }
}

#[test]
fn what_lies_in_another_order_goes_through_a_file_and_is_the_same_disk() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("used.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", text(&path), "96M"]);
    // Written backwards, as a machine may: the first bytes of the disk come last.
    for piece in (0..48).rev() {
        let write = format!("write -P {} {}M 1500k", piece + 1, piece * 2);
        kiln_testkit::oracle::qemu_io(&["-f", "qcow2", "-c", &write, text(&path)]);
    }
    let found = assert_same(std::fs::read(&path).unwrap(), "backwards");
    assert!((20 << 20..96 << 20).contains(&found.spilled), "{}", found.spilled);
    assert!(peak_memory() < 1 << 30);
}

#[test]
fn files_whose_first_table_is_at_the_end_are_kept_first() {
    let raw = sample(40 << 20);
    let options = kiln_format::Options::defaults(kiln_format::qcow2::FORMAT.create.unwrap().options);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ours.qcow2");
    let disk = kiln_format::raw::RawImage::new(Arc::new(MemorySource::new(raw)));
    let plan = kiln_format::transfer::FilePlan {
        disk: &disk,
        format: &kiln_format::qcow2::FORMAT,
        options: &options,
        dest: &path,
        existing: kiln_disk::Existing::Keep,
        durability: kiln_disk::Durability::Unsynced,
        read_back: false,
        threads: 2,
        content_digest: false,
        raw_digest: false,
        leaves: None,
        budget: &Budget::default(),
    };
    kiln_format::transfer::write_file(plan, &|| Ok(()), &Silent).unwrap();
    let bytes = Arc::new(std::fs::read(&path).unwrap());
    let why = arriving(&bytes, 1 << 20).unwrap().passing().unwrap_err();
    assert_eq!(why, Some("the first table of this qcow2 comes behind its data"));
}

/// Clusters of every kind; small enough to be mutated by the thousand.
fn cells(count: u64) -> Vec<Cell> {
    (0..count)
        .map(|n| match n % 5 {
            0 => Cell::Data(n),
            1 => Cell::Packed(n),
            2 => Cell::Zero,
            3 => Cell::Hole,
            _ => Cell::Packed(n + 1000),
        })
        .collect()
}

#[test]
fn images_from_the_specification_are_the_same_disk_either_way() {
    for bits in [9, 12, 16] {
        for codec in [Codec::Zlib, Codec::Zstd] {
            let mut spec = Spec::new(bits, cells(300));
            spec.codec = codec;
            let built = build(&spec);
            assert_same(built.bytes, &format!("{bits} bits"));
        }
    }
}

#[test]
fn a_cut_file_is_an_error_that_names_the_place_or_a_finding() {
    let built = build(&Spec::new(12, cells(200)));
    for percent in [30, 50, 70, 90, 99] {
        let bytes = Arc::new(built.bytes[..built.bytes.len() * percent / 100].to_vec());
        match passed(&bytes, 4096, 2) {
            Ok(found) => assert!(found.is_none_or(|found| !found.ids.is_empty()), "{percent} %"),
            Err(error) => {
                assert!(error.code().starts_with("qcow2."), "{percent} %: {}", error.code());
                assert!(error.offset().is_some());
            }
        }
    }
}

/// What a read at any place refuses may be refused in other words here; what is taken is the same disk.
#[test]
fn mutants_never_give_another_disk() {
    let seeds = [build(&Spec::new(9, cells(160))), build(&Spec::new(12, cells(60)))];
    let mut random = Random(0x9a55_0001);
    let mut taken = 0;
    for case in 0..2000_u64 {
        let seed = &seeds[(case % 2) as usize];
        let mut bytes = seed.bytes.clone();
        for _ in 0..=random.below(3) {
            let base = match random.below(6) {
                0 => 0,
                1 => seed.l1,
                2 => seed.refcount_table,
                3 => seed.refcount_blocks[0],
                _ => seed.l2[(random.below(seed.l2.len() as u64)) as usize],
            };
            let at = ((base + random.below(120)) as usize).min(bytes.len() - 1);
            bytes[at] ^= 1 << random.below(8);
        }
        taken += u64::from(exercise::passing(&bytes));
    }
    assert!(taken > 300, "{taken} taken");
}

#[test]
fn the_corpus_of_the_fuzzer_is_read_both_ways() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/passing");
    let mut seen = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        exercise::passing(&std::fs::read(entry.unwrap().path()).unwrap());
        seen += 1;
    }
    assert!(seen >= 3);
}

#[test]
fn a_content_that_has_no_end_is_cut_off_by_the_length_of_its_disk() {
    struct Endless(Vec<u8>, usize);
    impl ByteStream for Endless {
        fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
            let head = self.0.get(self.1..).unwrap_or_default();
            let len = head.len().min(buf.len());
            buf[..len].copy_from_slice(&head[..len]);
            self.1 += buf.len();
            buf[len..].fill(0);
            Ok(buf.len())
        }
    }
    let stream = Box::new(Endless(build(&Spec::new(12, cells(20))).bytes, 0));
    let file = Arriving { stream, label: "x".to_owned(), byte_len: None, ends: None };
    let dir = tempfile::tempdir().unwrap();
    let passing =
        Wrapped::arriving(file, 1).unwrap().into_passing(dir.path(), &Arc::new(Budget::default())).unwrap();
    let error = passing.finish(&Silent).unwrap_err();
    assert_eq!(error.code(), "wrap.too-long");
}

fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = TarBuilder::default();
    for (name, bytes) in members {
        builder.file(name, bytes);
    }
    builder.finish()
}

#[test]
fn a_raw_disk_in_an_archive_is_read_as_it_comes() {
    let disk = sample(9 << 20);
    let whole = archive(&[("disk.raw", &disk)]);
    assert_eq!(assert_same(whole, "alone").spilled, 0);
    let odd = &disk[..disk.len() - 100];
    let found = assert_same(archive(&[("README", b"x"), ("disk.raw", odd), ("notes", b"y")]), "odd");
    assert_eq!(found.spilled, 0);
    assert_eq!(found.ids, ["disk.length.padded"]);
}

#[test]
fn gnu_tars_sparse_members_are_read_as_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("disk.raw")).unwrap();
    file.set_len(64 << 20).unwrap();
    for (n, at) in [0_u64, 1 << 20, 20 << 20, (64 << 20) - 4096].into_iter().enumerate() {
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![n as u8 + 1; 4096], at).unwrap();
    }
    for format in ["oldgnu", "pax"] {
        let words = ["-S", "--format", format, "-cf", "disk.tar", "disk.raw"];
        let made = std::process::Command::new("tar").args(words).current_dir(dir.path()).status().unwrap();
        assert!(made.success());
        let bytes = std::fs::read(dir.path().join("disk.tar")).unwrap();
        assert!(bytes.len() < 1 << 20, "{}", bytes.len());
        assert_eq!(assert_same(bytes, format).spilled, 0);
    }
}

#[test]
fn an_archive_that_has_more_at_its_end_than_its_beginning_told_is_refused() {
    let disk = sample(1 << 20);
    let kind =
        |members: &[(&str, &[u8])]| -> Error { passed(&Arc::new(archive(members)), 8192, 1).unwrap_err() };
    assert_eq!(kind(&[("disk.raw", &disk), ("other.raw", &disk)]).code(), "tar.which-disk");
    assert_eq!(kind(&[("disk.raw", &disk), ("box.ovf", b"<Envelope/>")]).code(), "stream.kind");
    // A fixed VHD under the name of a raw disk.
    let vhd = VhdBuilder::default().fixed(&disk).bytes;
    let error = passed(&Arc::new(archive(&[("disk.raw", &vhd)])), 8192, 1);
    assert_eq!(error.unwrap_err().code(), "stream.kind");
}

/// A disk in grains, large enough that most of it goes by before its tables do.
fn stream_vmdk(content: &[u8]) -> Vec<u8> {
    VmdkBuilder::stream().build(content).bytes
}

fn machine(disk: &[u8]) -> OvaBuilder {
    OvaBuilder::default().disk("box-disk1.vmdk", stream_vmdk(disk), disk.len() as u64)
}

#[test]
fn an_appliance_with_a_stream_in_it_is_read_as_it_comes() {
    let content = sample(12 << 20);
    let builder = machine(&content);
    let found = assert_same(builder.build(), "descriptor, manifest, disk");
    assert_eq!((found.spilled, found.ids), (0, Vec::new()));
    // The manifest may come last, with digests of another kind, or not at all.
    let mut files = builder.files();
    let manifest = files.remove(1);
    let found = assert_same(pack(&files), "no manifest");
    assert_eq!(found.ids, ["ova.mf.absent"]);
    files.push(manifest);
    assert_eq!(assert_same(pack(&files), "manifest last").ids, Vec::<&str>::new());
}

#[test]
fn a_manifest_is_held_against_what_went_by() {
    let content = sample(3 << 20);
    let mut files = machine(&content).files();
    let line = String::from_utf8(files[1].1.clone()).unwrap();
    let at = line.rfind("= ").unwrap() + 2;
    let wrong = format!("{}{}{}", &line[..at], "0".repeat(8), &line[at + 8..]);
    files[1].1 = wrong.into_bytes();
    let found = passed(&Arc::new(pack(&files)), 8192, 1).unwrap().unwrap();
    assert_eq!(found.ids, ["ova.mf.differs"]);
    assert_eq!(placed(&pack(&files)).unwrap().ids, found.ids);
}

#[test]
fn appliances_of_another_build_are_kept_first() {
    let content = sample(1 << 20);
    let taken = |bytes: Vec<u8>| arriving(&Arc::new(bytes), 8192).unwrap().passing().is_ok();
    assert!(taken(machine(&content).build()));
    let two = machine(&content).disk("box-disk2.vmdk", stream_vmdk(&content), content.len() as u64);
    assert!(!taken(two.build()));
    let vhd = VhdBuilder::default().dynamic(&content).bytes;
    assert!(!taken(OvaBuilder::default().disk("d.vhd", vhd, content.len() as u64).build()));
    let mut packed = machine(&content);
    packed.disks[0].file_attributes += " ovf:compression=\"gzip\"";
    assert!(!taken(packed.build()));
    let mut files = machine(&content).files();
    files.rotate_right(1);
    assert!(!taken(pack(&files)));
}

#[test]
fn mutants_of_archives_never_give_another_disk() {
    let content = sample(299_520);
    let ova = machine(&content).build();
    let tar = archive(&[("disk.raw", &content[..70_000]), ("x", b"y")]);
    let mut random = Random(0x07a_0002);
    let mut taken = 0;
    for case in 0..600_u64 {
        let mut bytes = if case % 2 == 0 { ova.clone() } else { tar.clone() };
        for _ in 0..=random.below(2) {
            let at = match random.below(3) {
                0 => random.below(8192),
                1 => bytes.len() as u64 - 1 - random.below(8192),
                _ => random.below(bytes.len() as u64),
            };
            bytes[at as usize] ^= 1 << random.below(8);
        }
        tar_exercise::reseal(&mut bytes);
        taken += u64::from(exercise::passing(&bytes));
    }
    assert!(taken > 60, "{taken} taken");
}
