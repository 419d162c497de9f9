//! The leaf list as a file: what lets a later check name the damaged 64 KiB blocks.
//!
//! ```text
//! 0   magic    "KILNLEAF"
//! 8   version  u32 little-endian, 1
//! 12  reserved u32, 0
//! 16  disk_len u64
//! 24  runs:    first block u64, count u64 (1 or more), then count SHA-256 hashes of 32 bytes
//! end marker:  u64::MAX, number of hashes u64, content digest 32 bytes
//! ```
//! Runs ascend and do not touch; blocks of zeros are in no run.

use std::io::{self, Write};

use super::tree::{BlockDigest, LeafSink, TreeBuilder};
use super::value::ContentDigest;
use crate::error::{Error, Problem, Result};
use crate::offset::FileOffset;
use crate::source::ByteSource;

const MAGIC: &[u8; 8] = b"KILNLEAF";
const VERSION: u32 = 1;
const HEADER_LEN: u64 = 24;
const RUN_HEADER_LEN: u64 = 16;
const TRAILER_LEN: u64 = 48;
const HASH_LEN: u64 = 32;
/// Hashes gathered before a run is written: its length stands in front of it.
const RUN_MAX: usize = 8192;

/// What can be wrong with a leaf file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeafProblem {
    /// Not a leaf file.
    #[error("the file does not begin with KILNLEAF, version 1")]
    Magic,
    /// The file ends early, or has bytes behind its end marker.
    #[error("the file is {actual} bytes long where its runs need {expected}")]
    Length {
        /// Bytes that the runs and the end marker need.
        expected: u64,
        /// Bytes there are.
        actual: u64,
    },
    /// A run is empty, not behind the one before, or past the end of the disk.
    #[error("the run of {count} blocks at block {first} is out of order or past the end of the disk")]
    Run {
        /// Its first block.
        first: u64,
        /// How many.
        count: u64,
    },
    /// The leaves do not add up to the content digest at the end of the file.
    #[error("the leaves add up to another content digest than the one at the end of the file")]
    Digest,
}

impl Problem for LeafProblem {
    fn code(&self) -> &'static str {
        match self {
            Self::Magic => "leaves.magic",
            Self::Length { .. } => "leaves.length",
            Self::Run { .. } => "leaves.run",
            Self::Digest => "leaves.digest",
        }
    }

    fn hint(&self) -> Option<&'static str> {
        Some("the list of block hashes is damaged, not necessarily the image: check it by its content digest")
    }
}

/// Writes a leaf file as the leaves come.
pub struct LeafWriter<W> {
    out: W,
    first: u64,
    run: Vec<u8>,
    total: u64,
}

impl<W: Write + Send> LeafWriter<W> {
    /// Starts the file of a disk of `disk_len` bytes. `out` should be buffered or unbuffered; writes are large.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn new(mut out: W, disk_len: u64) -> Result<Self> {
        let mut header = Vec::with_capacity(24);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.extend_from_slice(&[0; 4]);
        header.extend_from_slice(&disk_len.to_le_bytes());
        out.write_all(&header).map_err(failed)?;
        Ok(Self { out, first: 0, run: Vec::new(), total: 0 })
    }

    fn run_len(&self) -> u64 {
        u64::try_from(self.run.len()).unwrap_or(u64::MAX) / HASH_LEN
    }

    fn flush_run(&mut self) -> Result<()> {
        let count = self.run_len();
        if count > 0 {
            let mut header = self.first.to_le_bytes().to_vec();
            header.extend_from_slice(&count.to_le_bytes());
            self.out.write_all(&header).and_then(|()| self.out.write_all(&self.run)).map_err(failed)?;
            self.total = self.total.saturating_add(count);
            self.first = self.first.saturating_add(count);
            self.run.clear();
        }
        Ok(())
    }

    /// Writes the end marker and gives the output back, flushed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn finish(mut self, content: &ContentDigest) -> Result<W> {
        self.flush_run()?;
        let mut trailer = u64::MAX.to_le_bytes().to_vec();
        trailer.extend_from_slice(&self.total.to_le_bytes());
        trailer.extend_from_slice(content.bytes());
        self.out.write_all(&trailer).and_then(|()| self.out.flush()).map_err(failed)?;
        Ok(self.out)
    }
}

impl<W: Write + Send> LeafSink for LeafWriter<W> {
    fn leaf(&mut self, block: u64, digest: BlockDigest) -> Result<()> {
        let next = self.first.saturating_add(self.run_len());
        if block != next || self.run.len() >= RUN_MAX.saturating_mul(32) {
            self.flush_run()?;
            self.first = block;
        }
        self.run.extend_from_slice(&digest.0);
        Ok(())
    }
}

fn failed(source: io::Error) -> Error {
    Error::io("write", "the list of block hashes", source)
}

/// A leaf file read back: proved to add up to its content digest.
#[derive(Debug, Clone)]
pub struct LeafFile {
    disk_len: u64,
    content: ContentDigest,
    /// (first block, hashes), ascending.
    runs: Vec<(u64, Vec<u8>)>,
}

impl LeafFile {
    /// Reads a leaf file. Memory: its length, which is 1/2048 of the data that it describes.
    ///
    /// # Errors
    /// [`Error::Malformed`] with a [`LeafProblem`]; [`Error::Io`].
    pub fn read(source: &dyn ByteSource) -> Result<Self> {
        let file_len = source.byte_len();
        let malformed = |at: u64, problem| Error::malformed("leaf file", FileOffset::new(at), problem);
        let mut header = [0; 24];
        if file_len < HEADER_LEN.saturating_add(TRAILER_LEN) {
            let expected = HEADER_LEN.saturating_add(TRAILER_LEN);
            return Err(malformed(file_len, LeafProblem::Length { expected, actual: file_len }));
        }
        source.read_bytes(FileOffset::ZERO, &mut header)?;
        let (magic, rest) = header.split_at(8);
        if magic != MAGIC || word(rest, 0) != Some(u64::from(VERSION)) {
            return Err(malformed(0, LeafProblem::Magic));
        }
        let disk_len = word(rest, 8).unwrap_or(0);
        let blocks = TreeBuilder::block_count(disk_len);
        let mut tree = TreeBuilder::new(disk_len);
        let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut at = HEADER_LEN;
        let mut total = 0_u64;
        loop {
            let short = |expected| LeafProblem::Length { expected, actual: file_len };
            let after_head = at.saturating_add(RUN_HEADER_LEN);
            let mut head = [0; 16];
            if after_head.saturating_add(HASH_LEN) > file_len {
                return Err(malformed(at, short(after_head.saturating_add(HASH_LEN))));
            }
            source.read_bytes(FileOffset::new(at), &mut head)?;
            let (first, count) = (word(&head, 0).unwrap_or(0), word(&head, 8).unwrap_or(0));
            if first == u64::MAX {
                let end = at.saturating_add(TRAILER_LEN);
                let mut stored = [0; 32];
                if count != total || end != file_len {
                    return Err(malformed(at, short(end)));
                }
                source.read_bytes(FileOffset::new(after_head), &mut stored)?;
                let content = tree.finish();
                if content != ContentDigest::new(stored) {
                    return Err(malformed(after_head, LeafProblem::Digest));
                }
                return Ok(Self { disk_len, content, runs });
            }
            let last = first.checked_add(count).filter(|last| *last <= blocks && count > 0);
            if last.is_none() || first < tree.pushed() {
                return Err(malformed(at, LeafProblem::Run { first, count }));
            }
            let len = count.saturating_mul(HASH_LEN);
            let end = after_head.saturating_add(len);
            if end.saturating_add(TRAILER_LEN) > file_len {
                return Err(malformed(at, short(end.saturating_add(TRAILER_LEN))));
            }
            let mut hashes = vec![0; usize::try_from(len).unwrap_or(0)];
            source.read_bytes(FileOffset::new(after_head), &mut hashes)?;
            tree.push_zeros(first.saturating_sub(tree.pushed()));
            for hash in hashes.as_chunks::<32>().0 {
                tree.push(BlockDigest(*hash));
            }
            runs.push((first, hashes));
            total = total.saturating_add(count);
            at = end;
        }
    }

    /// Length of the disk in bytes.
    #[must_use]
    pub const fn disk_len(&self) -> u64 {
        self.disk_len
    }

    /// The content digest, recomputed from the leaves.
    #[must_use]
    pub const fn content(&self) -> ContentDigest {
        self.content
    }

    /// The numbers of the blocks from `first` to before `last` that are not zeros.
    #[must_use]
    pub fn data_blocks(&self, first: u64, last: u64) -> Vec<u64> {
        let begin = self.runs.partition_point(|(start, hashes)| run_end(*start, hashes) <= first);
        self.runs
            .iter()
            .skip(begin)
            .take_while(|(start, _)| *start < last)
            .flat_map(|(start, hashes)| (*start).max(first)..run_end(*start, hashes).min(last))
            .collect()
    }

    /// The blocks from `first` to before `last` that are not zeros, ascending, with their hashes.
    pub fn between(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, BlockDigest)> + '_ {
        let begin = self.runs.partition_point(|(start, hashes)| run_end(*start, hashes) <= first);
        let runs = self.runs.get(begin..).unwrap_or_default();
        runs.iter().take_while(move |(start, _)| *start < last).flat_map(move |(start, hashes)| {
            (*start..)
                .zip(hashes.as_chunks::<32>().0)
                .filter(move |(block, _)| (first..last).contains(block))
                .map(|(block, hash)| (block, BlockDigest(*hash)))
        })
    }

    /// The first block from `block` on that is not zeros.
    #[must_use]
    pub fn next_data(&self, block: u64) -> Option<u64> {
        let run = self.runs.partition_point(|(start, hashes)| run_end(*start, hashes) <= block);
        self.runs.get(run).map(|(start, _)| (*start).max(block))
    }

    /// The hash of block number `block`.
    #[must_use]
    pub fn leaf(&self, block: u64) -> BlockDigest {
        let after = self.runs.partition_point(|(first, _)| *first <= block);
        after
            .checked_sub(1)
            .and_then(|run| self.runs.get(run))
            .and_then(|(first, hashes)| {
                let index = usize::try_from(block.checked_sub(*first)?).ok()?;
                hashes.as_chunks::<32>().0.get(index)
            })
            .map_or_else(BlockDigest::zero, |hash| BlockDigest(*hash))
    }
}

/// The first block behind a run.
fn run_end(first: u64, hashes: &[u8]) -> u64 {
    first.saturating_add(u64::try_from(hashes.len()).unwrap_or(u64::MAX) / HASH_LEN)
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|word| u64::from_le_bytes(*word))
}
