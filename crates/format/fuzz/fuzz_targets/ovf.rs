//! Fuzzes the reader of OVF descriptors. The input is a file.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/ova.rs"]
#[allow(dead_code, reason = "shared by three targets")]
mod exercise;


fuzz_target!(|bytes: &[u8]| {
    exercise::ovf(bytes);
});
