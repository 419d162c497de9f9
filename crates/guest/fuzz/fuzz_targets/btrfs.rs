//! Fuzzes the reader of btrfs: the input changes bytes of a small file system, whose checksums are then put right, so
//! that what is behind them is reached.

#![no_main]

use std::sync::LazyLock;

use kiln_guest::volume::Content;
use kiln_guest_fuzz::{Seed, walk};
use libfuzzer_sys::fuzz_target;

static SEED: LazyLock<Seed> = LazyLock::new(|| Seed::new(include_bytes!("../seeds/btrfs.img.gz")));

/// The first superblock, as long as the seed's nodes.
const SUPERBLOCK: usize = 64 << 10;
const NODE: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let mut image = SEED.changed(input);
    let fsid: [u8; 16] = image[SUPERBLOCK + 32..][..16].try_into().unwrap_or_default();
    for node in image.chunks_exact_mut(NODE).filter(|node| node[32..48] == fsid) {
        let sum = crc32c::crc32c(&node[32..]);
        node[..4].copy_from_slice(&sum.to_le_bytes());
    }
    walk(image, Content::Btrfs);
});
