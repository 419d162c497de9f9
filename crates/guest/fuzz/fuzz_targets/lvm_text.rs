//! Fuzzes the parser of LVM2's metadata text.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = kiln_guest::volume::lvm::parse(bytes);
});
