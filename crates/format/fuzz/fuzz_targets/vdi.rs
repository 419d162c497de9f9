//! Fuzzes the VDI reader and its check.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/vdi.rs"]
mod exercise;

fuzz_target!(|bytes: &[u8]| {
    exercise::vdi(bytes);
});
