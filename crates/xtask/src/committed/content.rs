//! What is on the disks of the committed fixtures: a model in memory that QEMU's result is compared with.

use sha2::{Digest, Sha256};

/// A write that is made on the model and by `qemu-io` alike.
#[derive(Debug, Clone, Copy)]
pub(super) enum Write {
    /// `len` bytes of `byte` from `at` on.
    Fill { at: usize, len: usize, byte: u8 },
    /// `len` bytes from `at` on are zero, said as such and not as data.
    Zero { at: usize, len: usize },
}

impl Write {
    /// The command of `qemu-io` that does it.
    pub(super) fn command(self) -> String {
        match self {
            Self::Fill { at, len, byte } => format!("write -P {byte} {at} {len}"),
            Self::Zero { at, len } => format!("write -z {at} {len}"),
        }
    }

    /// Does it on a model.
    pub(super) fn apply(self, disk: &mut [u8]) {
        match self {
            Self::Fill { at, len, byte } => disk[at..at + len].fill(byte),
            Self::Zero { at, len } => disk[at..at + len].fill(0),
        }
    }
}

/// The model after `writes`.
pub(super) fn after(mut disk: Vec<u8>, writes: &[Write]) -> Vec<u8> {
    for write in writes {
        write.apply(&mut disk);
    }
    disk
}

/// A disk of `len` bytes that has something of everything: text, incompressible bytes, single sectors, runs
/// that cross cluster borders of every size, stored zeros, and an end that is no multiple of a cluster.
pub(super) fn flat(len: usize) -> Vec<u8> {
    let mut disk = vec![0; len];
    let text: Vec<u8> =
        (0..6000_u32).flat_map(|i| format!("line {} of the fixture\n", i % 64).into_bytes()).collect();
    put(&mut disk, 0, b"\xeb\x3ckiln fixture: sector 0");
    put(&mut disk, 65536 - 512, &text);
    put(&mut disk, 512 * 1024 + 1536, &noise(6 * 1024));
    put(&mut disk, 1024 * 1024 - 4096, &[0xa5; 8192]);
    put(&mut disk, 1536 * 1024 + 512, &[0x5a; 512]);
    let end = len - 512;
    put(&mut disk, end, b"last sector");
    disk
}

fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
    disk[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Bytes that no compressor shortens, the same on every run.
fn noise(len: usize) -> Vec<u8> {
    (0_u32..).flat_map(|i| Sha256::digest(i.to_le_bytes()).to_vec()).take(len).collect()
}

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
