//! Fuzzes the VMDK reader and its check. The input is a file: a sparse extent, a stream, or a descriptor.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/vmdk.rs"]
mod exercise;

fuzz_target!(|bytes: &[u8]| {
    exercise::vmdk(bytes);
});
