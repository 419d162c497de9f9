//! Fuzzes the reader and mover of partition tables. The input is a disk; its checksums are put right in a copy.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/gpt.rs"]
mod exercise;

fuzz_target!(|bytes: &[u8]| {
    exercise::gpt(bytes);
    let mut sealed = bytes.to_vec();
    exercise::reseal(&mut sealed);
    exercise::gpt(&sealed);
});
