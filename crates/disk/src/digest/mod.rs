//! The content digest: one name for a disk's content, whatever file holds it.
//!
//! It is the fs-verity file digest of the flat disk (SHA-256, 64 KiB blocks, no salt), so that
//! `fsverity digest --hash-alg=sha256 --block-size=65536 disk.raw` computes the same. Source: Linux kernel
//! documentation, `filesystems/fsverity.rst`, "Merkle tree" and "fs-verity descriptor".
//!
//! Zero blocks and whole zero subtrees are constants: the cost follows the data, not the size.

mod compare;
mod fingerprint;
mod job;
mod leaves;
mod transport;
mod tree;
mod value;

pub use compare::{Part, damaged_blocks, damaged_blocks_of, differing_ranges};
pub use fingerprint::{Fingerprint, FingerprintBuilder, block_checks, fingerprint_disk};
pub use job::{DigestBuilder, DiskDigests, HashJob, hash_disk, leaf_hashes};
pub use leaves::{LeafFile, LeafProblem, LeafWriter};
pub use transport::{Hasher, hash_source};
pub use tree::{BLOCK_LEN, BlockDigest, LeafSink, TreeBuilder, hash_block};
pub use value::{Algorithm, ContentDigest, Digest, ParseDigestError};
