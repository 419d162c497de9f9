//! Fuzzes the reader of NTFS. The input is laid over the file records of a small volume with its fix-ups in order, so
//! that what is behind the fix-up is reached.

#![no_main]

use kiln_guest::volume::Content;
use kiln_guest_fuzz::walk;
use libfuzzer_sys::fuzz_target;

/// A boot sector of 512-byte clusters and records of 1024 bytes from byte 1024 on.
fn boot(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[3..11].copy_from_slice(b"NTFS    ");
    bytes[11..14].copy_from_slice(&[0, 2, 1]);
    bytes[40..48].copy_from_slice(&((len / 512) as u64).to_le_bytes());
    bytes[48] = 2;
    bytes[64] = 2;
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

fuzz_target!(|input: &[u8]| {
    let len = (input.len().next_multiple_of(1024) + 1024).max(8192);
    let mut bytes = boot(len);
    bytes.extend_from_slice(input);
    bytes.resize(len, 0);
    for record in bytes[1024..].chunks_exact_mut(1024) {
        if record[0] & 1 == 0 {
            record[..4].copy_from_slice(b"FILE");
            record[22] |= 1;
        } else {
            record[..4].copy_from_slice(b"INDX");
        }
        record[4..8].copy_from_slice(&[0x30, 0, 3, 0]);
        record[0x30..0x32].copy_from_slice(&[1, 1]);
        record[510..512].copy_from_slice(&[1, 1]);
        record[1022..].copy_from_slice(&[1, 1]);
    }
    walk(bytes, Content::Ntfs);
});
