//! Images that qemu-img and qemu-io make read to the right bytes, and both checkers agree on them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_disk::{Disk, FileSource, GuestOffset, Silent};
use kiln_format::{AllowList, CheckScope, DetailValue, Image, OpenContext, Resolved, by_name};
use kiln_testkit::oracle::{qemu_img, qemu_io};

fn open_with(path: &Path, context: &OpenContext) -> Box<dyn Image> {
    let source = Arc::new(FileSource::open(path).unwrap());
    (by_name("qcow2").unwrap().open)(source, context).unwrap()
}

fn open(path: &Path) -> Box<dyn Image> {
    open_with(path, &OpenContext::new())
}

fn content(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.disk_len()).unwrap()];
    disk.read_guest(GuestOffset::ZERO, &mut bytes).unwrap();
    bytes
}

/// Text that compresses, noise that does not, and zeros, in pieces that no cluster size divides.
fn sample(len: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(len);
    let mut piece = 0_usize;
    while bytes.len() < len {
        let size = 3000 + (piece * 7919) % 200_000;
        for n in 0..size {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.push(match piece % 4 {
                0 => 0,
                1 => b"kiln fires clay "[n % 16] + (state & 1) as u8,
                2 => (state >> 32) as u8,
                _ => (n / 300) as u8,
            });
        }
        piece += 1;
    }
    bytes.truncate(len);
    bytes
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn raw(&self, bytes: &[u8]) -> PathBuf {
        let path = self.path("disk.raw");
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn assert_clean(image: &dyn Image, path: &Path) {
    qemu_img(&["check", "-f", "qcow2", path.to_str().unwrap()]);
    let findings = image.check(CheckScope::Data, &Silent).unwrap();
    assert_eq!(findings.counts(), [], "{:#?}", findings.list());
}

#[test]
fn converted_images_of_every_cluster_size_and_compression_read_back() {
    let place = Place::new();
    let bytes = sample(3 * 1024 * 1024 + 512);
    let raw = place.raw(&bytes);
    for (index, options) in [
        "cluster_size=512",
        "cluster_size=512,refcount_bits=1",
        "cluster_size=1k,refcount_bits=64",
        "cluster_size=4k,compat=0.10",
        "cluster_size=64k",
        "cluster_size=64k,refcount_bits=8",
        "cluster_size=2M",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=64k,extended_l2=on,lazy_refcounts=on",
        "cluster_size=64k,preallocation=metadata",
        "cluster_size=64k,preallocation=full",
        "cluster_size=512,compression_type=zstd",
        "cluster_size=64k,compression_type=zstd",
        "cluster_size=2M,compression_type=zstd",
    ]
    .into_iter()
    .enumerate()
    {
        for compressed in [false, true] {
            if compressed && options.contains("preallocation") {
                continue;
            }
            let path = place.path(&format!("{index}-{compressed}.qcow2"));
            let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
            if compressed {
                arguments.push("-c");
            }
            arguments.extend([raw.to_str().unwrap(), path.to_str().unwrap()]);
            qemu_img(&arguments);
            let image = open(&path);
            assert!(content(image.as_ref()) == bytes, "{options}, compressed: {compressed}");
            assert_clean(image.as_ref(), &path);
            kiln_testkit::laws::check_disk(image.as_ref(), &bytes);
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn writes_of_single_sectors_with_and_without_subclusters_read_back() {
    let place = Place::new();
    for options in ["cluster_size=64k", "cluster_size=64k,extended_l2=on", "cluster_size=2M,extended_l2=on"] {
        let path = place.path("io.qcow2");
        let name = path.to_str().unwrap();
        qemu_img(&["create", "-f", "qcow2", "-o", options, name, "9M"]);
        let mut bytes = vec![0; 9 << 20];
        for (at, len, pattern) in
            [(0, 512, 1), (70_000, 4096, 2), (65_536 * 5 + 512, 1024, 3), ((9 << 20) - 512, 512, 4)]
        {
            let at = at / 512 * 512;
            qemu_io(&["-f", "qcow2", "-c", &format!("write -P {pattern} {at} {len}"), name]);
            bytes[at..at + len].fill(pattern);
        }
        qemu_io(&["-f", "qcow2", "-c", "write -z 65536 2048", name]);
        bytes[65_536..65_536 + 2048].fill(0);
        qemu_io(&["-f", "qcow2", "-c", "write -z -u 327680 65536", name]);
        bytes[327_680..327_680 + 65_536].fill(0);
        let image = open(&path);
        assert!(content(image.as_ref()) == bytes, "{options}");
        assert_clean(image.as_ref(), &path);
        kiln_testkit::laws::check_disk(image.as_ref(), &bytes);
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn snapshots_read_by_name_and_by_id_with_their_own_length() {
    let place = Place::new();
    let path = place.path("snap.qcow2");
    let name = path.to_str().unwrap();
    qemu_img(&["create", "-f", "qcow2", name, "4M"]);
    qemu_io(&["-f", "qcow2", "-c", "write -P 1 0 1M", name]);
    qemu_img(&["snapshot", "-c", "first", name]);
    qemu_io(&["-f", "qcow2", "-c", "write -P 2 512k 1M", name]);
    qemu_img(&["snapshot", "-c", "second", name]);
    qemu_img(&["resize", "-f", "qcow2", name, "6M"]);
    qemu_io(&["-f", "qcow2", "-c", "write -P 3 5M 64k", name]);

    let mut first = vec![0; 4 << 20];
    first[..1 << 20].fill(1);
    let mut second = first.clone();
    second[512 << 10..1536 << 10].fill(2);
    let mut active = second.clone();
    active.resize(6 << 20, 0);
    active[5 << 20..(5 << 20) + 65_536].fill(3);

    let image = open(&path);
    assert!(content(image.as_ref()) == active);
    let facts = image.facts();
    let listed: Vec<_> = facts.snapshots.iter().map(|snapshot| (&*snapshot.id, &*snapshot.name)).collect();
    assert_eq!(listed, [("1", "first"), ("2", "second")]);
    assert_eq!(facts.snapshots.iter().map(|snapshot| snapshot.disk_bytes).collect::<Vec<_>>(), [4 << 20; 2]);
    assert_clean(image.as_ref(), &path);
    for (wanted, expected) in [("first", &first), ("1", &first), ("second", &second), ("2", &second)] {
        let context = OpenContext { snapshot: Some(wanted.to_owned()), ..OpenContext::new() };
        assert!(content(open_with(&path, &context).as_ref()) == *expected, "{wanted}");
    }
    let context = OpenContext { snapshot: Some("third".to_owned()), ..OpenContext::new() };
    let source = Arc::new(FileSource::open(&path).unwrap());
    let error = (by_name("qcow2").unwrap().open)(source, &context).err().unwrap();
    assert_eq!(error.code(), "qcow2.snapshot-missing");
}

#[test]
fn a_chain_with_a_short_raw_base_reads_through_the_resolver() {
    let place = Place::new();
    let base_bytes = sample(1024 * 1024 + 512);
    let base = place.raw(&base_bytes);
    let middle = place.path("middle.qcow2");
    let top = place.path("top.qcow2");
    qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        base.to_str().unwrap(),
        "-F",
        "raw",
        middle.to_str().unwrap(),
        "2M",
    ]);
    qemu_io(&["-f", "qcow2", "-c", "write -P 9 100k 10k", middle.to_str().unwrap()]);
    qemu_img(&[
        "create",
        "-f",
        "qcow2",
        "-b",
        middle.to_str().unwrap(),
        "-F",
        "qcow2",
        top.to_str().unwrap(),
        "3M",
    ]);
    qemu_io(&["-f", "qcow2", "-c", "write -z 0 64k", top.to_str().unwrap()]);
    qemu_io(&["-f", "qcow2", "-c", "write -P 7 2500k 10k", top.to_str().unwrap()]);
    let mut bytes = base_bytes;
    bytes.resize(3 << 20, 0);
    bytes[100 << 10..110 << 10].fill(9);
    bytes[..64 << 10].fill(0);
    bytes[2500 << 10..2510 << 10].fill(7);

    let mut allowed = AllowList::default();
    for path in [&base, &middle] {
        let source = Arc::new(FileSource::open(path).unwrap());
        allowed.allow(path.to_str().unwrap(), Resolved { source, format: None });
    }
    let context = OpenContext { resolver: Arc::new(allowed), ..OpenContext::new() };
    let image = open_with(&top, &context);
    assert!(content(image.as_ref()) == bytes);
    kiln_testkit::laws::check_disk(image.as_ref(), &bytes);
    let facts = image.facts();
    assert_eq!(facts.references.len(), 1);
    assert_eq!(facts.references[0].name, middle.to_str().unwrap());
    assert_eq!(facts.references[0].format.as_deref(), Some("qcow2"));
    assert_clean(image.as_ref(), &top);
}

#[test]
fn data_files_raw_and_not_read_through_the_resolver() {
    let place = Place::new();
    for (name, raw_bit) in [("plain", "off"), ("raw", "on")] {
        let path = place.path(&format!("{name}.qcow2"));
        let data = place.path(&format!("{name}.data"));
        let options = format!("data_file={},data_file_raw={raw_bit}", data.display());
        qemu_img(&["create", "-f", "qcow2", "-o", &options, path.to_str().unwrap(), "2M"]);
        qemu_io(&["-f", "qcow2", "-c", "write -P 5 300k 200k", path.to_str().unwrap()]);
        let mut bytes = vec![0; 2 << 20];
        bytes[300 << 10..500 << 10].fill(5);
        let mut allowed = AllowList::default();
        let source = Arc::new(FileSource::open(&data).unwrap());
        allowed.allow(data.to_str().unwrap(), Resolved { source, format: None });
        let context = OpenContext { resolver: Arc::new(allowed), ..OpenContext::new() };
        let image = open_with(&path, &context);
        assert!(content(image.as_ref()) == bytes, "{name}");
        assert_clean(image.as_ref(), &path);
        kiln_testkit::laws::check_disk(image.as_ref(), &bytes);
        let raw_flag =
            image.facts().details.into_iter().find(|detail| detail.name == "data_file_raw").unwrap();
        assert_eq!(raw_flag.value, DetailValue::Flag(raw_bit == "on"));
    }
}

#[test]
fn bitmaps_made_by_qemu_are_listed() {
    let place = Place::new();
    let path = place.path("bitmap.qcow2");
    let name = path.to_str().unwrap();
    qemu_img(&["create", "-f", "qcow2", name, "64M"]);
    qemu_img(&["bitmap", "--add", name, "daily"]);
    qemu_img(&["bitmap", "--add", "-g", "1M", name, "weekly"]);
    qemu_io(&["-f", "qcow2", "-c", "write -P 1 0 1M", name]);
    let image = open(&path);
    let bitmaps = image.facts().details.into_iter().find(|detail| detail.name == "bitmaps").unwrap();
    assert_eq!(bitmaps.value, DetailValue::List(vec!["daily".to_owned(), "weekly".to_owned()]));
    assert_clean(image.as_ref(), &path);
}

#[test]
fn encrypted_images_are_refused_by_name() {
    let place = Place::new();
    let path = place.path("luks.qcow2");
    qemu_img(&[
        "create",
        "--object",
        "secret,id=s,data=abc",
        "-f",
        "qcow2",
        "-o",
        "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
        path.to_str().unwrap(),
        "1M",
    ]);
    let source = Arc::new(FileSource::open(&path).unwrap());
    let error = (by_name("qcow2").unwrap().open)(source, &OpenContext::new()).err().unwrap();
    assert_eq!(error.code(), "qcow2.encryption-luks");
}

#[test]
fn a_64_tib_disk_maps_in_few_steps() {
    let place = Place::new();
    let path = place.path("huge.qcow2");
    let name = path.to_str().unwrap();
    qemu_img(&["create", "-f", "qcow2", name, "64T"]);
    let image = open(&path);
    assert_eq!(image.disk_len(), 64 << 40);
    let whole = std::num::NonZeroU64::new(u64::MAX).unwrap();
    assert_eq!(kiln_disk::extents(image.as_ref(), whole).count(), 1);
    qemu_io(&["-f", "qcow2", "-c", "write -P 1 32T 64k", name]);
    let image = open(&path);
    let steps: Vec<_> = kiln_disk::extents(image.as_ref(), whole).map(Result::unwrap).collect();
    assert_eq!(steps.len(), 3);
    assert_eq!(steps[1].start, GuestOffset::new(32 << 40));
    assert_eq!(steps[1].len.get(), 65_536);
    assert_clean(image.as_ref(), &path);
}
