//! Fuzzes containers that come once. The input is a file: a qcow2, or an archive whose checksums are put right first
//! in a copy.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/passing.rs"]
mod exercise;
#[path = "../src/tar.rs"]
mod tar;

fuzz_target!(|bytes: &[u8]| {
    exercise::passing(bytes);
    let mut sealed = bytes.to_vec();
    tar::reseal(&mut sealed);
    exercise::passing(&sealed);
});
