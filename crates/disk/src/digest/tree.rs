//! The Merkle tree, built in one pass over the leaves with one block of memory a level.

use std::sync::OnceLock;

use sha2::{Digest as _, Sha256};

use super::value::ContentDigest;
use crate::error::Result;

/// Bytes of data under one leaf, and of hashes in one tree block.
pub const BLOCK_LEN: u64 = 65_536;

const BLOCK: usize = 65_536;
const DIGEST_LEN: usize = 32;
/// Digests in one tree block.
const FANOUT: u64 = 2048;
/// Enough for 2^64 bytes: 2^48 blocks, 11 bits a level.
const MAX_LEVELS: usize = 6;

/// The hash of one 64 KiB block of data, the last one filled up with zeros.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlockDigest(pub [u8; 32]);

impl BlockDigest {
    /// The hash of a block of zeros.
    #[must_use]
    pub fn zero() -> Self {
        zero_subtree(0)
    }
}

/// Hashes one block: up to 64 KiB, a shorter one as if filled up with zeros.
#[must_use]
pub fn hash_block(data: &[u8]) -> BlockDigest {
    let mut hasher = Sha256::new();
    hasher.update(data);
    let mut missing = BLOCK.saturating_sub(data.len());
    const ZEROS: [u8; 4096] = [0; 4096];
    while let Some(zeros) = ZEROS.get(..missing.min(ZEROS.len())).filter(|zeros| !zeros.is_empty()) {
        hasher.update(zeros);
        missing = missing.saturating_sub(zeros.len());
    }
    BlockDigest(hasher.finalize().into())
}

/// The hash of a full subtree of zeros: level 0 is a data block, each level up a block of 2048 equal hashes.
fn zero_subtree(level: usize) -> BlockDigest {
    static TABLE: OnceLock<Vec<BlockDigest>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let first = hash_block(&[]);
        std::iter::successors(Some(first), |below| Some(hash_block(&below.0.repeat(2048))))
            .take(MAX_LEVELS.saturating_add(1))
            .collect()
    });
    table.get(level).copied().unwrap_or(BlockDigest([0; 32]))
}

/// Takes leaf hashes as they come, for whoever keeps them.
pub trait LeafSink: Send {
    /// The hash of 64 KiB block number `block`. Blocks ascend; blocks of zeros are left out.
    ///
    /// # Errors
    /// Whatever keeping it can go wrong with.
    fn leaf(&mut self, block: u64, digest: BlockDigest) -> Result<()>;
}

/// One level of the tree: the block of hashes that is being filled. Level 0 holds the leaves.
#[derive(Debug, Clone, Default)]
struct Level {
    hashes: Vec<u8>,
}

/// Builds the tree from the leaves, in order.
#[derive(Debug, Clone)]
pub struct TreeBuilder {
    disk_len: u64,
    levels: Vec<Level>,
    pushed: u64,
}

impl TreeBuilder {
    /// For a disk of `disk_len` bytes.
    #[must_use]
    pub fn new(disk_len: u64) -> Self {
        Self { disk_len, levels: vec![Level::default(); MAX_LEVELS], pushed: 0 }
    }

    /// Number of blocks of a disk of this length.
    #[must_use]
    pub const fn block_count(disk_len: u64) -> u64 {
        disk_len.div_ceil(BLOCK_LEN)
    }

    /// Blocks taken so far: the number of the block that comes next.
    #[must_use]
    pub const fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Adds the next leaf.
    pub fn push(&mut self, leaf: BlockDigest) {
        self.pushed = self.pushed.saturating_add(1);
        self.push_at(0, leaf);
    }

    /// Adds `count` leaves of zeros, whole subtrees at a time.
    pub fn push_zeros(&mut self, count: u64) {
        self.pushed = self.pushed.saturating_add(count);
        self.push_zeros_at(0, count);
    }

    fn push_at(&mut self, level: usize, hash: BlockDigest) {
        let mut carry = Some(hash);
        let mut at = level;
        while let (Some(hash), Some(level)) = (carry.take(), self.levels.get_mut(at)) {
            level.hashes.extend_from_slice(&hash.0);
            if level.hashes.len() >= BLOCK {
                carry = Some(level.hand_up());
            }
            at = at.saturating_add(1);
        }
    }

    fn push_zeros_at(&mut self, level: usize, mut count: u64) {
        while count > 0 {
            let Some(held) = self.levels.get(level).map(Level::len) else { return };
            if held == 0 && count >= FANOUT && level.saturating_add(1) < MAX_LEVELS {
                let subtrees = count / FANOUT;
                self.push_zeros_at(level.saturating_add(1), subtrees);
                count = count.saturating_sub(subtrees.saturating_mul(FANOUT));
            } else {
                let fill = count.min(FANOUT.saturating_sub(held));
                for _ in 0..fill {
                    self.push_at(level, zero_subtree(level));
                }
                count = count.saturating_sub(fill);
            }
        }
    }

    /// Completes the tree. Blocks that were not pushed count as zeros.
    #[must_use]
    pub fn finish(mut self) -> ContentDigest {
        let missing = Self::block_count(self.disk_len).saturating_sub(self.pushed);
        self.push_zeros(missing);
        let root = self.root();
        // struct fsverity_descriptor, 256 bytes: version, hash_algorithm, log_blocksize, salt_size, reserved[4],
        // data_size (little-endian), root_hash[64], salt[32], reserved[144].
        let mut hasher = Sha256::new();
        hasher.update([1, 1, 16, 0, 0, 0, 0, 0]);
        hasher.update(self.disk_len.to_le_bytes());
        hasher.update(root.0);
        hasher.update([0; 32 + 32 + 144]);
        ContentDigest::new(hasher.finalize().into())
    }

    /// The root: the hash of the only block of the top level. A single data block is its own root, and an empty
    /// file has a root of zeros.
    fn root(&mut self) -> BlockDigest {
        let mut blocks = self.pushed;
        let mut top = 0_usize;
        while blocks > 1 {
            if let Some(level) = self.levels.get_mut(top).filter(|level| !level.hashes.is_empty()) {
                let hash = level.hand_up();
                self.push_at(top.saturating_add(1), hash);
            }
            blocks = blocks.div_ceil(FANOUT);
            top = top.saturating_add(1);
        }
        let root = self.levels.get(top).and_then(|level| level.hashes.first_chunk::<DIGEST_LEN>());
        root.map_or(BlockDigest([0; 32]), |hash| BlockDigest(*hash))
    }
}

impl Level {
    fn len(&self) -> u64 {
        u64::try_from(self.hashes.len() / DIGEST_LEN).unwrap_or(u64::MAX)
    }

    /// Hashes the block, filled up with zero bytes, and starts the next.
    fn hand_up(&mut self) -> BlockDigest {
        let hash = hash_block(&self.hashes);
        self.hashes.clear();
        hash
    }
}
