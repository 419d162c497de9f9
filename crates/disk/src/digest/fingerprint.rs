//! A quick check that what was written is what was read: XXH3, 128 bits, over 64 KiB blocks.
//!
//! It finds what memory, a file system or a device did to the bytes within one run of the program. It is no
//! identity and is stored nowhere: for that there is the content digest, which costs far more.

use std::fmt;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::job::{CHUNK_LEN, Walk, each_chunk};
use super::tree::BLOCK_LEN;
use crate::buffer::BufferPool;
use crate::chunks::Chunk;
use crate::disk::Disk;
use crate::error::Result;
use crate::observe::Observer;
use crate::zero::is_zero;

/// XXH3 over the number and the XXH3 of every block that is not all zeros, and over the disk's length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(u128);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xxh3-128:{:032x}", self.0)
    }
}

/// The checks of a run of blocks that starts at a block boundary; `None` for a block of zeros.
#[must_use]
pub fn block_checks(bytes: &[u8]) -> Vec<Option<u128>> {
    let block = usize::try_from(BLOCK_LEN).unwrap_or(usize::MAX);
    bytes.chunks(block).map(|block| (!is_zero(block)).then(|| xxh3_128(block))).collect()
}

/// Takes the checks of a disk's blocks in order.
pub struct FingerprintBuilder {
    state: Xxh3,
    next_block: u64,
    disk_len: u64,
}

impl FingerprintBuilder {
    /// For a disk of `disk_len` bytes.
    #[must_use]
    pub fn new(disk_len: u64) -> Self {
        Self { state: Xxh3::new(), next_block: 0, disk_len }
    }

    /// Adds the next blocks.
    pub fn data(&mut self, checks: &[Option<u128>]) {
        for check in checks {
            if let Some(check) = check {
                self.state.update(&self.next_block.to_le_bytes());
                self.state.update(&check.to_le_bytes());
            }
            self.next_block = self.next_block.saturating_add(1);
        }
    }

    /// Adds `len` bytes of zeros: whole blocks, or all that is left of the disk.
    pub fn zeros(&mut self, len: u64) {
        self.next_block = self.next_block.saturating_add(len.div_ceil(BLOCK_LEN));
    }

    /// The fingerprint.
    #[must_use]
    pub fn finish(mut self) -> Fingerprint {
        self.state.update(&self.disk_len.to_le_bytes());
        Fingerprint(self.state.digest128())
    }
}

/// Reads a disk on `threads` threads and takes its fingerprint.
///
/// # Errors
/// Whatever reading the disk says; [`crate::Error::Cancelled`].
pub fn fingerprint_disk(disk: &dyn Disk, threads: usize, observer: &dyn Observer) -> Result<Fingerprint> {
    let mut builder = FingerprintBuilder::new(disk.disk_len());
    let pool = BufferPool::new(usize::try_from(CHUNK_LEN).unwrap_or(usize::MAX));
    each_chunk(
        &Walk { disk, threads, phase: "compare", observer },
        |chunk| {
            let Chunk::Data { start, len } = chunk else { return Ok(None) };
            let mut buffer = pool.take();
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            disk.read_guest(start, bytes)?;
            let checks = block_checks(bytes);
            pool.put(buffer);
            Ok(Some(checks))
        },
        |chunk, checks| {
            match checks {
                Some(checks) => builder.data(&checks),
                None => builder.zeros(chunk.len()),
            }
            Ok(())
        },
    )?;
    Ok(builder.finish())
}
