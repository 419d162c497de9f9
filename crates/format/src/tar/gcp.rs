//! The archive that Google's cloud takes images in: gzip around a GNU tar archive of one sparse `disk.raw`.
//!
//! Its importer wants the old GNU form and refuses pax (`tar --format=oldgnu -Sczf`). The gzip file has a single
//! member: blocks of the archive are deflated on all cores, each ended by a full flush so that it stands for itself,
//! and put one behind the other, as `pigz -i` does. Readers of one member, of which there are, read all of it.

use std::sync::Arc;

use flate2::{Compress, Compression, Crc, FlushCompress};
use kiln_disk::chunks::{Chunk, chunks};
use kiln_disk::pipeline::{Steps, run_ordered};
use kiln_disk::zero::is_zero;
use kiln_disk::{
    BufferPool, ByteSink, Disk, Error, Event, FileOffset, GuestOffset, Observer, Result, Written, go_on,
};

use super::header::{BLOCK, BLOCK_LEN};
use super::write::{Run, sparse_header};

/// Name of the member; the importer takes no other.
const NAME: &str = "disk.raw";
/// Bytes of the archive that one thread deflates at a time.
const PIECE: u64 = 1 << 20;
/// Zeros are looked for in this unit.
const UNIT: usize = 64 << 10;
/// RFC 1952: magic, deflate, no flags, no time, no level, Unix.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
/// RFC 1951: an empty block with fixed codes, the last one.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// How an archive is made.
#[derive(Debug, Clone, Copy)]
pub struct GcpJob {
    /// Threads to use, at least one.
    pub threads: usize,
    /// 1 (fast) to 9 (small).
    pub level: u32,
}

/// Writes the archive of `disk` into an empty sink, front to back. The disk is read twice: its map has to be known
/// before the first byte of its data. The same disk gives the same bytes, whatever holds it, on any number of
/// threads. The cloud wants whole GiB; padding is the caller's.
///
/// # Errors
/// Whatever reading the disk and writing the sink says; [`Error::Refused`] (`option.value`) for another level;
/// [`Error::Cancelled`].
pub fn write_gcp(
    disk: &dyn Disk,
    sink: &Arc<dyn ByteSink>,
    job: GcpJob,
    observer: &dyn Observer,
) -> Result<Written> {
    if !(1..=9).contains(&job.level) {
        return Err(Error::Refused {
            code: "option.value",
            what: "level of gzip".to_owned(),
            asked: job.level.into(),
            allowed: 9,
            hint: "1 (fast) to 9 (small)",
        });
    }
    let runs = data_runs(disk, job.threads, observer)?;
    let head = sparse_header(NAME, disk.disk_len(), &runs)?;
    let stored = runs.iter().map(|(_, len)| *len).fold(0, u64::saturating_add);
    // What fills the last block of the data, and two blocks of zeros.
    let filling = stored.next_multiple_of(BLOCK_LEN).saturating_sub(stored);
    let tail = vec![0; BLOCK.saturating_mul(2).saturating_add(usize::try_from(filling).unwrap_or(0))];
    let mut pieces = head
        .chunks(usize::try_from(PIECE).unwrap_or(usize::MAX))
        .map(|bytes| Piece::Bytes(bytes.to_vec()))
        .chain(runs.iter().flat_map(|run| cut(*run)))
        .chain([Piece::Bytes(tail)]);
    let pool = BufferPool::new(usize::try_from(PIECE).unwrap_or(usize::MAX));
    let mut out = Out { sink, at: 0, crc: Crc::new() };
    out.write(&GZIP_HEADER)?;
    let threads = job.threads.max(1);
    observer.event(Event::Started { phase: "pack", total: stored });
    run_ordered(
        threads,
        threads.saturating_mul(4),
        Steps {
            next: || Ok(pieces.next()),
            work: |piece| {
                go_on(observer)?;
                match piece {
                    Piece::Bytes(bytes) => deflate(&bytes, job.level),
                    Piece::Disk { start, len } => {
                        let mut buffer = pool.take();
                        let bytes = buffer.get_mut(..len).unwrap_or_default();
                        disk.read_guest(start, bytes)?;
                        let deflated = deflate(bytes, job.level)?;
                        pool.put(buffer);
                        Ok(deflated)
                    }
                }
            },
            turn: |(bytes, crc): (Vec<u8>, Crc)| {
                out.crc.combine(&crc);
                observer.event(Event::Advanced { bytes: crc.amount().into() });
                out.write(&bytes)
            },
            after: |()| Ok(()),
        },
    )?;
    out.write(&LAST_BLOCK)?;
    let (sum, amount) = (out.crc.sum(), out.crc.amount());
    out.write(&sum.to_le_bytes())?;
    out.write(&amount.to_le_bytes())?;
    sink.set_byte_len(out.at)?;
    observer.event(Event::Finished);
    Ok(Written { byte_len: out.at })
}

/// A part of the archive.
enum Piece {
    Bytes(Vec<u8>),
    Disk { start: GuestOffset, len: usize },
}

/// Cuts a run at multiples of [`PIECE`].
fn cut((start, len): Run) -> impl Iterator<Item = Piece> {
    let end = start.saturating_add(len);
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let next = at.saturating_add(1).next_multiple_of(PIECE).min(end);
        let piece = Piece::Disk {
            start: GuestOffset::new(at),
            len: usize::try_from(next.saturating_sub(at)).unwrap_or(usize::MAX),
        };
        at = next;
        Some(piece)
    })
}

/// Where the disk has bytes that are not zero, in whole units, neighbours joined.
fn data_runs(disk: &dyn Disk, threads: usize, observer: &dyn Observer) -> Result<Vec<Run>> {
    let mut walk = chunks(disk, PIECE);
    let pool = BufferPool::new(usize::try_from(PIECE).unwrap_or(usize::MAX));
    let mut runs: Vec<Run> = Vec::new();
    let threads = threads.max(1);
    observer.event(Event::Started { phase: "map", total: disk.disk_len() });
    run_ordered(
        threads,
        threads.saturating_mul(4),
        Steps {
            next: || walk.next().transpose(),
            work: |chunk: Chunk| {
                go_on(observer)?;
                let mut found: Vec<Run> = Vec::new();
                if let Chunk::Data { start, len } = chunk {
                    let mut buffer = pool.take();
                    let bytes = buffer.get_mut(..len).unwrap_or_default();
                    disk.read_guest(start, bytes)?;
                    let mut at = start.get();
                    for unit in bytes.chunks(UNIT) {
                        let len = u64::try_from(unit.len()).unwrap_or(u64::MAX);
                        if !is_zero(unit) {
                            found.push((at, len));
                        }
                        at = at.saturating_add(len);
                    }
                    pool.put(buffer);
                }
                Ok((chunk.len(), found))
            },
            turn: |(bytes, found): (u64, Vec<Run>)| {
                for (start, len) in found {
                    match runs.last_mut() {
                        Some((first, run)) if first.saturating_add(*run) == start => {
                            *run = run.saturating_add(len);
                        }
                        _ => runs.push((start, len)),
                    }
                }
                observer.event(Event::Advanced { bytes });
                Ok(())
            },
            after: |()| Ok(()),
        },
    )?;
    observer.event(Event::Finished);
    Ok(runs)
}

/// Deflates bytes up to a full flush, which ends at a byte and forgets what was before.
fn deflate(bytes: &[u8], level: u32) -> Result<(Vec<u8>, Crc)> {
    let mut crc = Crc::new();
    crc.update(bytes);
    let failed = || Error::io("compress", NAME, std::io::ErrorKind::Other);
    let mut stream = Compress::new(Compression::new(level), false);
    // Stored blocks at worst: five bytes for each 16 KiB, and the flush.
    let worst = bytes.len().saturating_add(bytes.len() / 1024).saturating_add(1024);
    let mut out = Vec::with_capacity(worst);
    stream.compress_vec(bytes, &mut out, FlushCompress::Full).map_err(|_| failed())?;
    if stream.total_in() != u64::try_from(bytes.len()).unwrap_or(0) || out.len() == out.capacity() {
        return Err(failed());
    }
    Ok((out, crc))
}

/// The file so far.
struct Out<'a> {
    sink: &'a Arc<dyn ByteSink>,
    at: u64,
    crc: Crc,
}

impl Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.write_bytes(FileOffset::new(self.at), bytes)?;
        self.at = self.at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}
