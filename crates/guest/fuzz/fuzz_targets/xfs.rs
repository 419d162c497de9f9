//! Fuzzes the reader of xfs: the input changes bytes of a small file system.

#![no_main]

use std::sync::LazyLock;

use kiln_guest::volume::Content;
use kiln_guest_fuzz::{Seed, walk};
use libfuzzer_sys::fuzz_target;

static SEED: LazyLock<Seed> = LazyLock::new(|| Seed::new(include_bytes!("../seeds/xfs.img.gz")));

fuzz_target!(|input: &[u8]| {
    walk(SEED.changed(input), Content::Xfs);
});
