//! Where two disks, or a disk and its leaf list, differ: in whole 64 KiB blocks.

use super::job::{CHUNK_LEN, leaf_hashes};
use super::leaves::LeafFile;
use super::tree::{BLOCK_LEN, BlockDigest};
use crate::buffer::BufferPool;
use crate::chunks::{Chunk, chunks};
use crate::disk::Disk;
use crate::error::Result;
use crate::finding::GuestRange;
use crate::observe::{Event, Observer, go_on};
use crate::offset::GuestOffset;
use crate::pipeline::{Steps, default_threads, run_ordered};

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
    let block = usize::try_from(BLOCK_LEN).unwrap_or(usize::MAX);
    let mut ranges = Ranges::new(disk.disk_len().max(leaves.disk_len()));
    let pool = BufferPool::new(usize::try_from(CHUNK_LEN).unwrap_or(usize::MAX));
    let mut walk = chunks(disk, CHUNK_LEN);
    let threads = default_threads();
    observer.event(Event::Started { phase: "compare", total: disk.disk_len() });
    run_ordered(
        threads,
        threads.saturating_mul(4),
        Steps {
            next: || walk.next().transpose(),
            work: |chunk: Chunk| {
                go_on(observer)?;
                let first = chunk.start().get() / BLOCK_LEN;
                let Chunk::Data { start, len } = chunk else {
                    let last = first.saturating_add(chunk.len().div_ceil(BLOCK_LEN));
                    return Ok((chunk, leaves.data_blocks(first, last)));
                };
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
                Ok((chunk, bad))
            },
            turn: |(chunk, bad): (Chunk, Vec<u64>)| {
                for number in bad {
                    ranges.add(number.saturating_mul(BLOCK_LEN), BLOCK_LEN);
                }
                observer.event(Event::Advanced { bytes: chunk.len() });
                Ok(())
            },
            after: |()| Ok(()),
        },
    )?;
    observer.event(Event::Finished);
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
    let mut walk = chunks(long, CHUNK_LEN);
    let threads = default_threads();
    observer.event(Event::Started { phase: "compare", total: long.disk_len() });
    run_ordered(
        threads,
        threads.saturating_mul(4),
        Steps {
            next: || walk.next().transpose(),
            work: |chunk: Chunk| {
                go_on(observer)?;
                let mut bad = Vec::new();
                let end = chunk.start().saturating_add(chunk.len()).get().min(short.disk_len());
                if let Chunk::Zeros { start, .. } = chunk {
                    // Nothing on this side: whatever the other side stores there must be zeros too.
                    let mut at = start.get();
                    let mut buffer = pool.take();
                    while at < end {
                        let limit = std::num::NonZeroU64::new(end.saturating_sub(at));
                        let Some(limit) = limit else { break };
                        let extent = short.extent_at(GuestOffset::new(at), limit)?;
                        if extent.kind.is_data() {
                            let from = at.saturating_sub(at % BLOCK_LEN);
                            let to = extent.end().get().min(from.saturating_add(CHUNK_LEN)).min(end);
                            let len = usize::try_from(to.saturating_sub(from)).unwrap_or(0);
                            let bytes = buffer.get_mut(..len).unwrap_or_default();
                            short.read_guest(GuestOffset::new(from), bytes)?;
                            for (piece, number) in bytes.chunks(block).zip(from / BLOCK_LEN..) {
                                if !crate::zero::is_zero(piece) {
                                    bad.push(number);
                                }
                            }
                            at = to;
                        } else {
                            at = extent.end().get();
                        }
                    }
                    pool.put(buffer);
                    return Ok((chunk, bad));
                }
                let common = end.saturating_sub(chunk.start().get());
                let len = usize::try_from(common).unwrap_or(0);
                let (mut left, mut right) = (pool.take(), pool.take());
                let (bytes, others) =
                    (left.get_mut(..len).unwrap_or_default(), right.get_mut(..len).unwrap_or_default());
                long.read_guest(chunk.start(), bytes)?;
                short.read_guest(chunk.start(), others)?;
                if bytes != others {
                    let first = chunk.start().get() / BLOCK_LEN;
                    for ((piece, other), number) in bytes.chunks(block).zip(others.chunks(block)).zip(first..)
                    {
                        if piece != other {
                            bad.push(number);
                        }
                    }
                }
                pool.put(left);
                pool.put(right);
                Ok((chunk, bad))
            },
            turn: |(chunk, bad): (Chunk, Vec<u64>)| {
                for number in bad {
                    ranges.add(number.saturating_mul(BLOCK_LEN), BLOCK_LEN);
                }
                observer.event(Event::Advanced { bytes: chunk.len() });
                Ok(())
            },
            after: |()| Ok(()),
        },
    )?;
    observer.event(Event::Finished);
    if let Some(more) = long.disk_len().checked_sub(short.disk_len()).filter(|more| *more > 0) {
        ranges.add(short.disk_len(), more);
    }
    Ok(ranges.list)
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
