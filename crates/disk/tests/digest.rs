//! The content digest against a naive model of fs-verity, against `fsverity` itself, and the leaf list.

use std::process::Command;

use kiln_disk::digest::{
    Algorithm, BlockDigest, ContentDigest, HashJob, LeafFile, LeafProblem, LeafSink, LeafWriter, TreeBuilder,
    damaged_blocks, differing_ranges, fingerprint_disk, hash_block, hash_disk, hash_source,
};
use kiln_disk::{GuestOffset, GuestRange, MemorySource, Silent};
use kiln_testkit::ModelDisk;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

const BLOCK: usize = 65_536;

/// fs-verity as its documentation tells it, with everything in memory.
fn naive(bytes: &[u8]) -> ContentDigest {
    let padded = |block: &[u8]| {
        let mut block = block.to_vec();
        block.resize(BLOCK, 0);
        Sha256::digest(&block).to_vec()
    };
    let mut level: Vec<Vec<u8>> = bytes.chunks(BLOCK).map(padded).collect();
    while level.len() > 1 {
        level = level.concat().chunks(BLOCK).map(padded).collect();
    }
    let root = level.pop().unwrap_or_else(|| vec![0; 32]);
    let mut descriptor = vec![1, 1, 16, 0, 0, 0, 0, 0];
    descriptor.extend((bytes.len() as u64).to_le_bytes());
    descriptor.extend(root);
    descriptor.resize(256, 0);
    ContentDigest::new(Sha256::digest(&descriptor).into())
}

/// A disk of blocks that are zero (`false`) or not, and a tail shorter than a block.
fn bytes_of(blocks: &[bool], tail: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, data) in blocks.iter().enumerate() {
        bytes.extend((0..BLOCK).map(|at| if *data && at % 4099 == 7 { number as u8 | 1 } else { 0 }));
    }
    bytes.extend((0..tail).map(|at| at as u8));
    bytes
}

fn digest_of(bytes: Vec<u8>, threads: usize) -> kiln_disk::digest::DiskDigests {
    let job = HashJob { threads, leaves: None, raw: true };
    hash_disk(&ModelDisk::new(bytes, 4096), job, &Silent).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn content_digest_equals_the_naive_one(
        blocks in prop::collection::vec(any::<bool>(), 0..60), tail in 0..BLOCK, threads in 1..4_usize,
    ) {
        let bytes = bytes_of(&blocks, tail);
        let digests = digest_of(bytes.clone(), threads);
        prop_assert_eq!(digests.content, naive(&bytes));
        let raw = digests.raw.unwrap();
        prop_assert_eq!(raw.bytes(), &Sha256::digest(&bytes)[..]);
    }

    /// Pushing zeros in bulk or one by one, at every place around subtree borders, gives one tree.
    #[test]
    fn bulk_zeros_equal_single_zeros(runs in prop::collection::vec((0..5000_u64, 0..3_u64), 1..6)) {
        let blocks: u64 = runs.iter().map(|(zeros, data)| zeros + data).sum();
        let (mut bulk, mut single) = (TreeBuilder::new(blocks << 16), TreeBuilder::new(blocks << 16));
        for (zeros, data) in runs {
            bulk.push_zeros(zeros);
            (0..zeros).for_each(|_| single.push(BlockDigest::zero()));
            for n in 0..data {
                let leaf = hash_block(&[n as u8 + 1]);
                bulk.push(leaf);
                single.push(leaf);
            }
        }
        prop_assert_eq!(bulk.finish(), single.finish());
    }
}

/// Lengths around every border of the tree, compared with the tool that everybody has.
#[test]
fn content_digest_equals_fsverity() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let mib = 1_u64 << 20;
    let mut lens = vec![0, 1, 511, 65_535, 65_536, 65_537, 131_072, 128 * mib - 1, 128 * mib, 128 * mib + 1];
    lens.push(300 * mib + 4096);
    for len in lens {
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(len).unwrap();
        if len > 70_000 {
            use std::os::unix::fs::FileExt;
            file.write_all_at(b"kiln", len - 5).unwrap();
            file.write_all_at(&[7; 70_000], 0).unwrap();
        }
        drop(file);
        let output = Command::new("fsverity")
            .args(["digest", "--hash-alg=sha256", "--block-size=65536", "--compact"])
            .arg(&path)
            .output()
            .expect("fsverity is required: make setup installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes = std::fs::read(&path).unwrap();
        let ours = digest_of(bytes, 2).content.hex();
        assert_eq!(ours, String::from_utf8_lossy(&output.stdout).trim(), "length {len}");
    }
}

#[test]
fn a_tree_of_64_tib_of_zeros_is_built_at_once() {
    let started = std::time::Instant::now();
    let digest = TreeBuilder::new(64 << 40).finish();
    assert!(started.elapsed().as_millis() < 500);
    assert_ne!(digest, TreeBuilder::new(63 << 40).finish());
}

fn leaf_file_of(disk: &ModelDisk) -> Vec<u8> {
    let mut writer = LeafWriter::new(Vec::new(), disk.bytes().len() as u64).unwrap();
    let digests =
        hash_disk(disk, HashJob { threads: 2, leaves: Some(&mut writer), raw: false }, &Silent).unwrap();
    writer.finish(&digests.content).unwrap()
}

#[test]
fn leaf_file_gives_every_leaf_back() {
    let disk = ModelDisk::new(bytes_of(&[true, true, false, false, true, false], 100), 4096);
    let file = LeafFile::read(&MemorySource::new(leaf_file_of(&disk))).unwrap();
    assert_eq!(file.content(), naive(disk.bytes()));
    for (number, block) in disk.bytes().chunks(BLOCK).enumerate() {
        assert_eq!(file.leaf(number as u64), hash_block(block), "block {number}");
    }
    assert_eq!(file.leaf(999), BlockDigest::zero());
    assert_eq!(file.data_blocks(0, 7), [0, 1, 4, 6]);
    assert_eq!(file.data_blocks(1, 5), [1, 4]);
}

#[test]
fn every_damaged_bit_of_a_leaf_file_is_seen() {
    let disk = ModelDisk::new(bytes_of(&[true, false, true], 9), 4096);
    let good = leaf_file_of(&disk);
    for bit in 0..good.len() * 8 {
        // Bytes 12 to 16 are reserved.
        if (96..128).contains(&bit) {
            continue;
        }
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let error = LeafFile::read(&MemorySource::new(bad)).unwrap_err();
        assert!(error.problem::<LeafProblem>().is_some(), "bit {bit}: {error}");
    }
    for len in 0..good.len() {
        let error = LeafFile::read(&MemorySource::new(good[..len].to_vec())).unwrap_err();
        assert!(error.problem::<LeafProblem>().is_some(), "cut to {len}: {error}");
    }
}

#[test]
fn damaged_blocks_are_named() {
    let disk = ModelDisk::new(bytes_of(&[true; 40], 10), 4096);
    let leaves = LeafFile::read(&MemorySource::new(leaf_file_of(&disk))).unwrap();
    assert_eq!(damaged_blocks(&disk, &leaves, &Silent).unwrap(), []);
    let mut bytes = disk.bytes().to_vec();
    bytes[3 * BLOCK + 5] ^= 1;
    bytes[4 * BLOCK] ^= 1;
    bytes[30 * BLOCK..31 * BLOCK].fill(0);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let range = |first: u64, len: u64| GuestRange { start: GuestOffset::new(first << 16), len };
    let damaged = damaged_blocks(&ModelDisk::new(bytes, 4096), &leaves, &Silent).unwrap();
    assert_eq!(damaged, [range(3, 2 << 16), range(30, 1 << 16), range(40, 10)]);
}

#[test]
fn differing_ranges_are_named_on_both_sides() {
    let left = bytes_of(&[true, false, true, true, false], 0);
    let mut right = left.clone();
    right[2 * BLOCK + 77] ^= 4;
    right[BLOCK] = 1;
    right.extend([0; 512]);
    let range = |start: u64, len: u64| GuestRange { start: GuestOffset::new(start), len };
    let expected = [range(1 << 16, 2 << 16), range(5 << 16, 512)];
    let (left, right) = (ModelDisk::new(left, 512), ModelDisk::new(right, 512));
    assert_eq!(differing_ranges(&left, &right, &Silent).unwrap(), expected);
    assert_eq!(differing_ranges(&right, &left, &Silent).unwrap(), expected);
    assert_eq!(differing_ranges(&left, &left, &Silent).unwrap(), []);
}

#[test]
fn a_hole_against_data_far_behind_it_is_compared() {
    let mut other = vec![0; 40 * BLOCK];
    other[33 * BLOCK + 9] = 1;
    let (empty, other) = (ModelDisk::new(vec![0; 40 * BLOCK], 4096), ModelDisk::new(other, 4096));
    let expected = [GuestRange { start: GuestOffset::new(33 << 16), len: 1 << 16 }];
    assert_eq!(differing_ranges(&empty, &other, &Silent).unwrap(), expected);
    assert_eq!(differing_ranges(&other, &empty, &Silent).unwrap(), expected);
}

#[test]
fn fingerprint_is_one_for_one_content_and_another_for_any_other() {
    let mut bytes = vec![0; 40 * BLOCK + 700];
    bytes[3] = 1;
    bytes[20 * BLOCK..22 * BLOCK].fill(7);
    bytes[40 * BLOCK + 699] = 9;
    let of = |bytes: &[u8], threads| {
        fingerprint_disk(&ModelDisk::new(bytes.to_vec(), 4096), threads, &Silent).unwrap()
    };
    let whole = of(&bytes, 1);
    assert_eq!(of(&bytes, 5), whole);
    let coarse = ModelDisk::new(bytes.clone(), 1 << 20);
    assert_eq!(fingerprint_disk(&coarse, 2, &Silent).unwrap(), whole);
    let mut changed = Vec::new();
    for at in [3, 4, 20 * BLOCK + 5, 40 * BLOCK + 698] {
        let mut other = bytes.clone();
        other[at] ^= 0x10;
        changed.push(of(&other, 1));
    }
    let mut moved = bytes.clone();
    moved[19 * BLOCK..20 * BLOCK].fill(7);
    moved[21 * BLOCK..22 * BLOCK].fill(0);
    changed.push(of(&moved, 1));
    let mut longer = bytes.clone();
    longer.push(0);
    changed.push(of(&longer, 1));
    assert!(changed.iter().all(|other| *other != whole), "{changed:?}");
}

#[test]
fn transport_digests_come_in_the_order_asked() {
    let source = MemorySource::new(b"abc".to_vec());
    let digests =
        hash_source(&source, &[Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha1], &Silent).unwrap();
    // FIPS 180-4, example "abc".
    assert_eq!(digests[2].to_string(), "sha1:a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(digests[0].to_string(), "md5:900150983cd24fb0d6963f7d28e17f72");
    assert_eq!(
        digests[1].to_string(),
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}

#[test]
fn a_read_error_is_the_answer() {
    let disk = ModelDisk::new(bytes_of(&[true; 64], 0), 4096).failing_at(50 << 16);
    let error = hash_disk(&disk, HashJob::default(), &Silent).unwrap_err();
    assert_eq!((error.code(), error.offset().unwrap().get()), ("io.failed", 50 << 16));
    struct Nothing;
    impl LeafSink for Nothing {
        fn leaf(&mut self, _: u64, _: BlockDigest) -> kiln_disk::Result<()> {
            Err(kiln_disk::Error::Cancelled)
        }
    }
    let disk = ModelDisk::new(bytes_of(&[true], 0), 4096);
    let job = HashJob { threads: 1, leaves: Some(&mut Nothing), raw: false };
    assert_eq!(hash_disk(&disk, job, &Silent).unwrap_err().code(), "cancelled");
}

#[test]
fn transport_digest_of_a_sparse_file_counts_its_holes_as_zeros() {
    use std::os::unix::fs::FileExt;
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len((5 << 20) + 77).unwrap();
    file.as_file().write_all_at(b"kiln", 3 << 20).unwrap();
    let source = kiln_disk::FileSource::open(file.path()).unwrap();
    let digests = hash_source(&source, &[Algorithm::Sha256, Algorithm::Sha512], &Silent).unwrap();
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!(digests[0].bytes(), &Sha256::digest(&bytes)[..]);
    assert_eq!(digests[1].bytes(), &sha2::Sha512::digest(&bytes)[..]);
}
