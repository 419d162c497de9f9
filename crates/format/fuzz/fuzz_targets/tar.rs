//! Fuzzes the tar reader. The input is a file; its checksums are put right first in a copy.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/tar.rs"]
mod exercise;

fuzz_target!(|bytes: &[u8]| {
    exercise::tar(bytes);
    let mut sealed = bytes.to_vec();
    exercise::reseal(&mut sealed);
    exercise::tar(&sealed);
});
