//! Fuzzes the reader of initramfs files: archives and every compression. The input is the file.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = kiln_guest::initramfs::read(bytes);
});
