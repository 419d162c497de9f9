//! Fuzzes the reader of appliances. The input is a file; its checksums are put right first in a copy.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/ova.rs"]
#[allow(dead_code, reason = "shared by three targets")]
mod exercise;
#[path = "../src/tar.rs"]
#[allow(dead_code, reason = "shared with the target of tar")]
mod tar;

fuzz_target!(|bytes: &[u8]| {
    exercise::ova(bytes);
    let mut sealed = bytes.to_vec();
    tar::reseal(&mut sealed);
    exercise::ova(&sealed);
});
