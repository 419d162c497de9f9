//! Fuzzes what is looked at on a disk itself: partition tables, copies of superblocks, the safety rules.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/disk.rs"]
mod exercise;

fuzz_target!(|bytes: &[u8]| {
    exercise::disk(bytes);
});
