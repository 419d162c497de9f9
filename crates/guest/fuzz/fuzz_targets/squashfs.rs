//! Fuzzes the reader of squashfs. The input is a file system: all that is listed is looked at.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../src/media.rs"]
mod exercise;

fuzz_target!(|bytes: &[u8]| {
    exercise::squashfs(bytes);
});
