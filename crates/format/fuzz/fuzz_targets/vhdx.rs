//! Fuzzes the VHDX reader, its log and its check. The input is a list of pieces of a file; checksums are put right
//! in a copy.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/vhdx.rs"]
mod exercise;

fuzz_target!(|records: &[u8]| {
    let mut bytes = exercise::expand(records);
    exercise::vhdx(&bytes);
    exercise::reseal(&mut bytes);
    exercise::vhdx(&bytes);
});
