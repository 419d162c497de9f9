//! Fuzzes the reader of ISO 9660. The input is a volume from its descriptors on: all that is listed is looked at.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/media.rs"]
mod exercise;

fuzz_target!(|bytes: &[u8]| {
    exercise::iso(bytes);
});
