//! Where two disks, or a disk and its leaf list, differ: in whole 64 KiB blocks.

use std::num::NonZeroU64;

use super::job::{CHUNK_LEN, Walk, each_chunk, leaf_hashes};
use super::leaves::LeafFile;
use super::tree::{BLOCK_LEN, BlockDigest};
use crate::buffer::{BufferPool, PageBuffer};
use crate::chunks::Chunk;
use crate::disk::Disk;
use crate::error::Result;
use crate::finding::GuestRange;
use crate::observe::Observer;
use crate::offset::GuestOffset;
use crate::pipeline::default_threads;
use crate::zero::is_zero;

/// The blocks of `disk` whose hash is not the one in `leaves`, as ascending merged ranges. A part of the disk that
/// cannot be read because its container is damaged counts as differing.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::Cancelled`].
pub fn damaged_blocks(
    disk: &dyn Disk,
    leaves: &LeafFile,
    observer: &dyn Observer,
) -> Result<Vec<GuestRange>> {
    damaged_blocks_of(disk, leaves, Part::WHOLE, observer)
}

/// One of several equal parts of a disk: every `of`th of its chunks, beginning with the `number`th.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    number: u64,
    of: NonZeroU64,
}

impl Part {
    /// All of it.
    pub const WHOLE: Self = Self { number: 1, of: NonZeroU64::MIN };

    /// Part `number` of `of`, counted from 1; `None` when there is no such part.
    #[must_use]
    pub fn new(number: u64, of: u64) -> Option<Self> {
        let of = NonZeroU64::new(of)?;
        (1..=of.get()).contains(&number).then_some(Self { number, of })
    }

    /// Whether a thing with this name belongs to it, where things and not bytes are parted. Names are digits to the
    /// base 16, evenly spread.
    #[must_use]
    pub fn has_name(self, hex: &str) -> bool {
        let head = hex.get(..8).and_then(|head| u64::from_str_radix(head, 16).ok()).unwrap_or(0);
        head.checked_rem(self.of.get()) == self.number.checked_sub(1)
    }

    /// Whether the chunk that starts at a byte belongs to it.
    fn has(self, at: GuestOffset) -> bool {
        let chunk = at.get() / CHUNK_LEN;
        chunk.checked_rem(self.of.get()) == self.number.checked_sub(1)
    }
}

/// As [`damaged_blocks`], of one part of the disk; nothing else of it is read.
///
/// # Errors
/// As [`damaged_blocks`].
pub fn damaged_blocks_of(
    disk: &dyn Disk,
    leaves: &LeafFile,
    part: Part,
    observer: &dyn Observer,
) -> Result<Vec<GuestRange>> {
    let block = usize::try_from(BLOCK_LEN).unwrap_or(usize::MAX);
    let mut ranges = Ranges::new(disk.disk_len().max(leaves.disk_len()));
    let pool = BufferPool::new(usize::try_from(CHUNK_LEN).unwrap_or(usize::MAX));
    each_chunk(
        &Walk { disk, threads: default_threads(), phase: "compare", observer },
        |chunk| {
            let first = chunk.start().get() / BLOCK_LEN;
            let Chunk::Data { start, len } = chunk else {
                // Costs nothing, and may be longer than a part's share: always looked at.
                let last = first.saturating_add(chunk.len().div_ceil(BLOCK_LEN));
                return Ok(leaves.data_blocks(first, last));
            };
            if !part.has(start) {
                return Ok(Vec::new());
            }
            let mut buffer = pool.take();
            let bytes = buffer.get_mut(..len).unwrap_or_default();
            let mut bad = Vec::new();
            if read_or_damage(disk, start, bytes)? {
                for (leaf, number) in leaf_hashes(bytes).into_iter().zip(first..) {
                    if leaf.unwrap_or_else(BlockDigest::zero) != leaves.leaf(number) {
                        bad.push(number);
                    }
                }
            } else {
                // Find out block by block how much of the chunk is lost.
                for (piece, number) in bytes.chunks_mut(block).zip(first..) {
                    let at = GuestOffset::new(number.saturating_mul(BLOCK_LEN));
                    let read = read_or_damage(disk, at, piece)?;
                    let leaf = leaf_hashes(piece).into_iter().next().flatten();
                    if !read || leaf.unwrap_or_else(BlockDigest::zero) != leaves.leaf(number) {
                        bad.push(number);
                    }
                }
            }
            pool.put(buffer);
            Ok(bad)
        },
        |_, bad| {
            ranges.add_blocks(bad);
            Ok(())
        },
    )?;
    if let Some(more) = leaves.disk_len().checked_sub(disk.disk_len()).filter(|more| *more > 0) {
        ranges.add(disk.disk_len(), more);
    }
    Ok(ranges.list)
}

/// Reads, telling apart damage of the container (`false`) and everything else (an error).
fn read_or_damage(disk: &dyn Disk, at: GuestOffset, bytes: &mut [u8]) -> Result<bool> {
    match disk.read_guest(at, bytes) {
        Ok(()) => Ok(true),
        Err(crate::Error::Malformed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where two disks differ, as ascending merged ranges of whole 64 KiB blocks. A longer disk differs in all that
/// the other lacks, zeros or not.
///
/// # Errors
/// Whatever reading either disk says; [`crate::Error::Cancelled`].
pub fn differing_ranges(
    one: &dyn Disk,
    other: &dyn Disk,
    observer: &dyn Observer,
) -> Result<Vec<GuestRange>> {
    let block = usize::try_from(BLOCK_LEN).unwrap_or(usize::MAX);
    let (short, long) = if one.disk_len() <= other.disk_len() { (one, other) } else { (other, one) };
    let mut ranges = Ranges::new(long.disk_len());
    let pool = BufferPool::new(usize::try_from(CHUNK_LEN).unwrap_or(usize::MAX));
    each_chunk(
        &Walk { disk: long, threads: default_threads(), phase: "compare", observer },
        |chunk| {
            let end = chunk.start().saturating_add(chunk.len()).get().min(short.disk_len());
            let mut left = pool.take();
            let bad = if let Chunk::Zeros { start, .. } = chunk {
                data_blocks(short, start.get(), end, &mut left)?
            } else {
                let mut bad = Vec::new();
                let len = usize::try_from(end.saturating_sub(chunk.start().get())).unwrap_or(0);
                let mut right = pool.take();
                let (bytes, others) =
                    (left.get_mut(..len).unwrap_or_default(), right.get_mut(..len).unwrap_or_default());
                long.read_guest(chunk.start(), bytes)?;
                short.read_guest(chunk.start(), others)?;
                if bytes != others {
                    let first = chunk.start().get() / BLOCK_LEN;
                    let pairs = bytes.chunks(block).zip(others.chunks(block));
                    bad.extend(pairs.zip(first..).filter(|((a, b), _)| a != b).map(|(_, number)| number));
                }
                pool.put(right);
                bad
            };
            pool.put(left);
            Ok(bad)
        },
        |_, bad| {
            ranges.add_blocks(bad);
            Ok(())
        },
    )?;
    if let Some(more) = long.disk_len().checked_sub(short.disk_len()).filter(|more| *more > 0) {
        ranges.add(short.disk_len(), more);
    }
    Ok(ranges.list)
}

/// The blocks between two bytes of a disk that are not all zeros. `buffer` holds a chunk.
fn data_blocks(disk: &dyn Disk, start: u64, end: u64, buffer: &mut PageBuffer) -> Result<Vec<u64>> {
    let block = usize::try_from(BLOCK_LEN).unwrap_or(usize::MAX);
    let mut found = Vec::new();
    let mut at = start;
    while let Some(limit) = end.checked_sub(at).and_then(NonZeroU64::new) {
        let extent = disk.extent_at(GuestOffset::new(at), limit)?;
        if !extent.kind.is_data() {
            at = extent.end().get();
            continue;
        }
        let from = at.saturating_sub(at % BLOCK_LEN);
        let to = extent.end().get().min(from.saturating_add(CHUNK_LEN)).min(end);
        let len = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
        let bytes = buffer.get_mut(..len).unwrap_or_default();
        disk.read_guest(GuestOffset::new(from), bytes)?;
        let pieces = bytes.chunks(block).zip(from / BLOCK_LEN..);
        found.extend(pieces.filter(|(piece, _)| !is_zero(piece)).map(|(_, number)| number));
        at = to;
    }
    Ok(found)
}

/// Ascending ranges, merged where they touch, cut at the end of the disk.
struct Ranges {
    list: Vec<GuestRange>,
    disk_len: u64,
}

impl Ranges {
    const fn new(disk_len: u64) -> Self {
        Self { list: Vec::new(), disk_len }
    }

    /// Adds blocks by number.
    fn add_blocks(&mut self, numbers: Vec<u64>) {
        for number in numbers {
            self.add(number.saturating_mul(BLOCK_LEN), BLOCK_LEN);
        }
    }

    fn add(&mut self, start: u64, len: u64) {
        let end = start.saturating_add(len).min(self.disk_len);
        match self.list.last_mut() {
            Some(last) if start <= last.start.get().saturating_add(last.len) => {
                last.len = end.saturating_sub(last.start.get()).max(last.len);
            }
            _ => {
                self.list.push(GuestRange { start: GuestOffset::new(start), len: end.saturating_sub(start) });
            }
        }
    }
}
