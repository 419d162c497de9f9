//! Digests of a whole disk, hashed by all cores in one pass over its extents.

use sha2::{Digest as _, Sha256};

use super::leaves::LeafFile;
use super::tree::{BLOCK_LEN, BlockDigest, LeafSink, TreeBuilder, hash_block};
use super::value::{Algorithm, ContentDigest, Digest};
use crate::buffer::{BufferPool, PageBuffer};
use crate::chunks::{Chunk, chunks};
use crate::disk::Disk;
use crate::error::Result;
use crate::observe::{Event, Observer, go_on};
use crate::pipeline::{Steps, default_threads, run_ordered};
use crate::zero::is_zero;

/// Bytes that one thread takes at a time: a multiple of the block, small enough that a window of them is cheap.
pub(crate) const CHUNK_LEN: u64 = 1 << 20;

/// What to compute.
pub struct HashJob<'a> {
    /// Threads to use, at least one.
    pub threads: usize,
    /// Who keeps the leaves.
    pub leaves: Option<&'a mut dyn LeafSink>,
    /// Also the plain SHA-256 of the flat disk, holes included. One thread's work, however many there are.
    pub raw: bool,
}

impl Default for HashJob<'_> {
    fn default() -> Self {
        Self { threads: default_threads(), leaves: None, raw: false }
    }
}

/// The digests of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDigests {
    /// The content digest.
    pub content: ContentDigest,
    /// SHA-256 of the flat disk, when asked for.
    pub raw: Option<Digest>,
    /// Bytes in 64 KiB blocks that are not all zeros.
    pub data_bytes: u64,
}

/// Hashes a disk. Only data is read; holes and zeros cost nothing (but for the raw digest).
///
/// # Errors
/// Whatever reading the disk or keeping the leaves says; [`crate::Error::Cancelled`].
pub fn hash_disk(disk: &dyn Disk, job: HashJob<'_>, observer: &dyn Observer) -> Result<DiskDigests> {
    let mut digests = DigestBuilder::new(disk.disk_len(), job.leaves, job.raw);
    let pool = BufferPool::new(usize::try_from(CHUNK_LEN).unwrap_or(usize::MAX));
    each_chunk(
        &Walk { disk, threads: job.threads, phase: "hash", observer },
        |chunk: Chunk| {
            let Chunk::Data { start, len } = chunk else { return Ok(None) };
            let mut buffer = pool.take();
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            disk.read_guest(start, bytes)?;
            Ok(Some((leaf_hashes(bytes), buffer)))
        },
        |chunk, hashed: Option<Hashed>| match hashed {
            Some((leaves, buffer)) => {
                digests.data(&leaves, buffer.get(..chunk.byte_count()).unwrap_or_default())?;
                pool.put(buffer);
                Ok(())
            }
            None => digests.zeros(chunk.len(), observer),
        },
    )?;
    Ok(digests.finish())
}

/// What [`each_chunk`] walks over, and who watches.
pub(super) struct Walk<'a> {
    pub(super) disk: &'a dyn Disk,
    /// At least one is used.
    pub(super) threads: usize,
    /// The name of the work for the observer.
    pub(super) phase: &'static str,
    pub(super) observer: &'a dyn Observer,
}

/// Does `work` on every chunk of a disk, on all threads, and `turn` on what came out, in order.
pub(super) fn each_chunk<T: Send>(
    walk: &Walk<'_>,
    work: impl Fn(Chunk) -> Result<T> + Sync,
    mut turn: impl FnMut(Chunk, T) -> Result<()> + Send,
) -> Result<()> {
    let &Walk { disk, threads, phase, observer } = walk;
    let mut walk = chunks(disk, CHUNK_LEN);
    let threads = threads.max(1);
    observer.event(Event::Started { phase, total: disk.disk_len() });
    run_ordered(
        threads,
        threads.saturating_mul(4),
        Steps {
            next: || walk.next().transpose(),
            work: |chunk: Chunk| {
                go_on(observer)?;
                Ok((chunk, work(chunk)?))
            },
            turn: |(chunk, done): (Chunk, T)| {
                turn(chunk, done)?;
                observer.event(Event::Advanced { bytes: chunk.len() });
                Ok(())
            },
            after: |()| Ok(()),
        },
    )?;
    observer.event(Event::Finished);
    Ok(())
}

/// A chunk of data with its leaves, and the buffer it was read into.
type Hashed = (Vec<Option<BlockDigest>>, PageBuffer);

/// The leaves of a run of blocks that starts at a block boundary; `None` for a block of zeros.
#[must_use]
pub fn leaf_hashes(bytes: &[u8]) -> Vec<Option<BlockDigest>> {
    let block = usize::try_from(BLOCK_LEN).unwrap_or(usize::MAX);
    bytes.chunks(block).map(|block| (!is_zero(block)).then(|| hash_block(block))).collect()
}

/// Puts leaves, in order, into the tree, to whoever keeps them, and into the raw digest.
pub struct DigestBuilder<'a> {
    disk_len: u64,
    tree: TreeBuilder,
    leaves: Option<&'a mut dyn LeafSink>,
    raw: Option<Sha256>,
    data_blocks: u64,
}

impl<'a> DigestBuilder<'a> {
    /// For a disk of `disk_len` bytes.
    pub fn new(disk_len: u64, leaves: Option<&'a mut dyn LeafSink>, raw: bool) -> Self {
        Self {
            disk_len,
            tree: TreeBuilder::new(disk_len),
            leaves,
            raw: raw.then(Sha256::new),
            data_blocks: 0,
        }
    }

    /// Adds the next blocks: their leaves from [`leaf_hashes`], and their bytes for the raw digest.
    ///
    /// # Errors
    /// Whatever the keeper of the leaves says.
    pub fn data(&mut self, leaves: &[Option<BlockDigest>], bytes: &[u8]) -> Result<()> {
        for leaf in leaves {
            match leaf {
                Some(digest) => {
                    if let Some(keeper) = self.leaves.as_mut() {
                        keeper.leaf(self.tree.pushed(), *digest)?;
                    }
                    self.tree.push(*digest);
                    self.data_blocks = self.data_blocks.saturating_add(1);
                }
                None => self.tree.push_zeros(1),
            }
        }
        if let Some(raw) = self.raw.as_mut() {
            raw.update(bytes);
        }
        Ok(())
    }

    /// Adds the next `count` blocks as another disk has them at the same place. Nothing is read or hashed but the list
    /// of its hashes, so the cost is 1/2048 of the data. There is no raw digest of such a disk.
    ///
    /// # Errors
    /// Whatever the keeper of the leaves says.
    pub fn copied(&mut self, from: &LeafFile, count: u64) -> Result<()> {
        let last = self.tree.pushed().saturating_add(count);
        for (block, digest) in from.between(self.tree.pushed(), last) {
            self.tree.push_zeros(block.saturating_sub(self.tree.pushed()));
            self.data(&[Some(digest)], &[])?;
        }
        self.tree.push_zeros(last.saturating_sub(self.tree.pushed()));
        Ok(())
    }

    /// Adds `len` bytes of zeros: whole blocks, or all that is left of the disk.
    ///
    /// # Errors
    /// [`crate::Error::Cancelled`]: terabytes of zeros take time to hash for the raw digest.
    pub fn zeros(&mut self, len: u64, observer: &dyn Observer) -> Result<()> {
        self.tree.push_zeros(len.div_ceil(BLOCK_LEN));
        let Some(raw) = self.raw.as_mut() else { return Ok(()) };
        static ZEROS: [u8; 65_536] = [0; 65_536];
        let mut left = len;
        while left > 0 {
            go_on(observer)?;
            let take = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            raw.update(ZEROS.get(..take).unwrap_or_default());
            left = left.saturating_sub(u64::try_from(take).unwrap_or(left));
        }
        Ok(())
    }

    /// The digests.
    #[must_use]
    pub fn finish(self) -> DiskDigests {
        DiskDigests {
            content: self.tree.finish(),
            raw: self.raw.and_then(|raw| Digest::new(Algorithm::Sha256, raw.finalize().to_vec())),
            data_bytes: self.data_blocks.saturating_mul(BLOCK_LEN).min(self.disk_len),
        }
    }
}
