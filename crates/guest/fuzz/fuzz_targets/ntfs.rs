//! Fuzzes the reader of NTFS. The input is laid over the file records of a small volume with its fix-ups in order, so
//! that what is behind the fix-up is reached.

#![no_main]

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Disk, Extent, ExtentKind, GuestOffset, Result, check_range};
use kiln_guest::fs::{Kind, Root, open};
use kiln_guest::volume::{Content, probe};
use libfuzzer_sys::fuzz_target;

struct Bytes(Vec<u8>);

impl Disk for Bytes {
    fn disk_len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        let at = at.get() as usize;
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
        Ok(())
    }
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        Ok(Extent { start: at, len: limit, kind: ExtentKind::Encoded })
    }
}

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
    let disk: Arc<dyn Disk> = Arc::new(Bytes(bytes));
    let Ok(fs) = open(&disk, Content::Ntfs, &Root::Default) else { return };
    let _ = fs.space();
    if let Ok(mut probed) = probe(&disk) {
        let _ = fs.describe(&mut probed);
    }
    let mut dirs = vec![Vec::new()];
    let mut seen = 0;
    while let Some(dir) = dirs.pop() {
        let at = if dir.is_empty() { b"/".to_vec() } else { dir.clone() };
        for entry in fs.list(&at).unwrap_or_default() {
            let path = [dir.as_slice(), b"/", &entry.name].concat();
            let _ = (fs.stat(&path), fs.read_link(&path), fs.read(&path, 0, &mut [0; 4096]));
            seen += 1;
            if entry.kind == Kind::Directory && seen < 100 && path.len() < 200 {
                dirs.push(path);
            }
        }
    }
});
