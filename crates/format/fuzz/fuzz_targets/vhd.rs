//! Fuzzes the VHD reader and its check. The input is a file; its checksums are put right first in a copy.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/vhd.rs"]
mod exercise;

fuzz_target!(|bytes: &[u8]| {
    exercise::vhd(bytes);
    let mut sealed = bytes.to_vec();
    exercise::reseal(&mut sealed);
    exercise::vhd(&sealed);
});
