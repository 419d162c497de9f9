//! Fuzzes the qcow2 reader and its check.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/qcow2.rs"]
mod exercise;

fuzz_target!(|bytes: &[u8]| {
    exercise::qcow2(bytes);
});
