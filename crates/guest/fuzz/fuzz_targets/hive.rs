//! Fuzzes the reader of registry hives. The input is the hive; its checksum is put right.

#![no_main]

use kiln_guest::hive::Hive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let mut bytes = input.to_vec();
    if bytes.len() >= 512 {
        bytes[..4].copy_from_slice(b"regf");
        let sum = bytes[..508]
            .chunks_exact(4)
            .fold(0, |sum, word| sum ^ u32::from_le_bytes(word.try_into().unwrap_or_default()));
        bytes[508..512].copy_from_slice(&sum.max(1).to_le_bytes());
    }
    let Ok(hive) = Hive::open(bytes.as_slice()) else { return };
    let _ = hive.key("Select\\x\\y");
    let Ok(root) = hive.root() else { return };
    let mut keys = hive.subkeys(&root).unwrap_or_default();
    keys.truncate(100);
    keys.push(root);
    for key in &keys {
        for name in ["", "Current", "Start", "ImagePath", "Element"] {
            if let Ok(Some(value)) = hive.value(key, name) {
                let _ = (value.number(), value.text(), value.texts());
            }
        }
        let _ = hive.subkey(key, "x");
    }
});
