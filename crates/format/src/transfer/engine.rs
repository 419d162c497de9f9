//! One container from one disk.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kiln_disk::chunks::{Chunk, chunks};
use kiln_disk::digest::{
    BLOCK_LEN, BlockDigest, DigestBuilder, DiskDigests, Fingerprint, FingerprintBuilder, LeafFile, LeafSink,
    block_checks, leaf_hashes,
};
use kiln_disk::pipeline::{Steps, run_ordered};
use kiln_disk::zero::is_zero;
use kiln_disk::{
    Budget, BufferPool, ByteSink, Cost, Disk, DiskWrite, Encode, Encoding, Error, Event, FileOffset,
    GuestOffset, GuestRange, Observer, PageBuffer, Piece, Result, WriteOrder, Written, go_on,
};

use super::upon::{Above, touched};

use crate::options::Options;
use crate::table::Format;

/// What to write from what.
pub struct Job<'a> {
    /// The disk to read.
    pub disk: &'a dyn Disk,
    /// The format to write.
    pub format: &'static Format,
    /// Its options.
    pub options: &'a Options,
    /// Threads to use, at least one.
    pub threads: usize,
    /// Compute the content digest on the way.
    pub content_digest: bool,
    /// Compute the plain SHA-256 of the flat disk on the way.
    pub raw_digest: bool,
    /// Take the fingerprint of what is stored, to be compared with what is read back.
    pub fingerprint: bool,
    /// Who keeps the leaves of the content digest.
    pub leaves: Option<&'a mut dyn LeafSink>,
    /// Pays for the data produced.
    pub budget: &'a Budget,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The container file.
    pub written: Written,
    /// The digests, when any was asked for.
    pub digests: Option<DiskDigests>,
    /// The fingerprint, when asked for.
    pub fingerprint: Option<Fingerprint>,
    /// Bytes of guest data stored, before encoding; the rest of the disk is zeros that take no space.
    pub stored_bytes: u64,
    /// Of a layer: where it has zeros that hide what is below. Ascending, merged.
    pub hidden: Vec<GuestRange>,
    /// Of a layer: bytes that were read and found to be what is below.
    pub same_bytes: u64,
}

/// Least number of bytes that a thread takes at a time.
const CHUNK_LEN: u64 = 1 << 20;
/// Bytes of guest data in flight at most, as long as that leaves each thread a chunk and one to spare.
const WINDOW_BYTES: u64 = 16 << 20;
/// Runs of zeros inside a large granule that are worth a hole.
const HOLE_LEN: usize = 64 << 10;

/// Writes `job.disk` into `sink` as `job.format`.
///
/// # Errors
/// [`Error::Refused`] for a size or option that the format cannot hold, before a byte is written; whatever reading
/// the disk, writing the sink or keeping the leaves says; [`Error::Cancelled`].
pub fn write_container(job: Job<'_>, sink: &Arc<dyn ByteSink>, observer: &dyn Observer) -> Result<Outcome> {
    write_upon(job, None, sink, observer)
}

/// Writes what of `job.disk` differs from the disk below it, whose block hashes are `below`, as a layer upon it.
///
/// The disk's holes are its own statement that the disk below shows there; reading them gives what is below, and all
/// that is no hole is compared. The digests are those of the whole disk; what is a hole is neither read nor hashed.
///
/// # Errors
/// As [`write_container`]; `format.no-layers` when the format or its options cannot hold a layer.
pub fn write_layer(
    job: Job<'_>,
    below: &LeafFile,
    sink: &Arc<dyn ByteSink>,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let above = Above::new(job.disk, below);
    let job = Job {
        disk: &above,
        format: job.format,
        options: job.options,
        threads: job.threads,
        content_digest: job.content_digest,
        raw_digest: job.raw_digest,
        fingerprint: job.fingerprint,
        // Spelled out so that the borrow may become shorter.
        leaves: match job.leaves {
            Some(leaves) => Some(leaves),
            None => None,
        },
        budget: job.budget,
    };
    write_upon(job, Some(below), sink, observer)
}

fn write_upon(
    job: Job<'_>,
    below: Option<&LeafFile>,
    sink: &Arc<dyn ByteSink>,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let disk_len = job.disk.disk_len();
    let create = job.format.create.ok_or_else(|| Error::Unsupported {
        code: "format.read-only",
        feature: format!("writing {}", job.format.id),
        hint: "choose another output format with -O",
    })?;
    let mut writer = (create.run)(Arc::clone(sink), disk_len, job.options)?;
    if let Some(below) = below {
        writer.bind(&below.content())?;
    }
    let own = writer.sink();
    let sink = own.as_ref().unwrap_or(sink);
    let granule = writer.granule();
    if below.is_some() && (granule != BLOCK_LEN || job.raw_digest) {
        return Err(Error::Unsupported {
            code: "format.no-layers",
            feature: format!(
                "a layer of {} in clusters of {granule} bytes, or with a raw digest",
                job.format.id
            ),
            hint: "layers have clusters of 64 KiB, as their block hashes do",
        });
    }
    let chunk_len = granule.max(CHUNK_LEN);
    let threads = job.threads.max(1);
    let in_window = usize::try_from(WINDOW_BYTES.checked_div(chunk_len).unwrap_or(0)).unwrap_or(1);
    let hash = job.content_digest || job.raw_digest || job.leaves.is_some();
    let mut turn = Turn {
        writer,
        digests: hash.then(|| DigestBuilder::new(disk_len, job.leaves, job.raw_digest)),
        fingerprint: job.fingerprint.then(|| FingerprintBuilder::new(disk_len)),
        below,
        budget: job.budget,
        observer,
        stored_bytes: 0,
        hidden: Vec::new(),
        same_bytes: 0,
    };
    let worker = Worker {
        disk: job.disk,
        below,
        encoder: turn.writer.encoder(),
        granule: usize::try_from(granule).unwrap_or(usize::MAX),
        hash,
        fingerprint: job.fingerprint,
        input: BufferPool::new(usize::try_from(chunk_len).unwrap_or(usize::MAX)),
        output: Mutex::new(Vec::new()),
        sink: sink.as_ref(),
        // A pipe takes bytes in order: they are stored in the ordered step.
        ordered: sink.order() == WriteOrder::Ascending,
    };
    let mut walk = chunks(job.disk, chunk_len);
    observer.event(Event::Started { phase: "convert", total: disk_len });
    run_ordered(
        threads,
        in_window.clamp(threads.saturating_add(1), threads.saturating_mul(4).max(2)),
        Steps {
            next: || walk.next().transpose(),
            work: |chunk| {
                go_on(observer)?;
                worker.prepare(chunk)
            },
            turn: |prepared: Prepared| {
                let placed = turn.place(prepared)?;
                if worker.ordered {
                    worker.store(placed)?;
                    return Ok(None);
                }
                Ok(Some(placed))
            },
            after: |placed: Option<Prepared>| placed.map_or(Ok(()), |placed| worker.store(placed)),
        },
    )?;
    let Turn { writer, digests, fingerprint, stored_bytes, hidden, same_bytes, .. } = turn;
    let written = writer.finish()?;
    observer.event(Event::Finished);
    Ok(Outcome {
        written,
        digests: digests.map(DigestBuilder::finish),
        fingerprint: fingerprint.map(FingerprintBuilder::finish),
        stored_bytes,
        hidden,
        same_bytes,
    })
}

/// One granule on its way.
struct Part {
    at: GuestOffset,
    /// Where its stored bytes are: in `data` when verbatim, else in `encoded`.
    range: Range<usize>,
    encoding: Encoding,
    /// Where they go; known after its turn.
    to: FileOffset,
}

/// A chunk that was read, hashed and encoded.
struct Prepared {
    chunk: Chunk,
    /// The guest's bytes; none for zeros.
    data: Option<PageBuffer>,
    encoded: Vec<u8>,
    parts: Vec<Part>,
    leaves: Vec<Option<BlockDigest>>,
    checks: Vec<Option<u128>>,
    /// Granules of zeros over something else, in order.
    hides: Vec<GuestOffset>,
    /// Bytes that were read and are what is below.
    same_bytes: u64,
}

/// A chunk as it goes into a layer.
#[derive(Default)]
struct Layered {
    parts: Vec<Part>,
    leaves: Vec<Option<BlockDigest>>,
    checks: Vec<Option<u128>>,
    hides: Vec<GuestOffset>,
    same_bytes: u64,
}

/// The steps that run on all threads.
struct Worker<'a> {
    disk: &'a dyn Disk,
    /// Block hashes of the disk below, of a layer.
    below: Option<&'a LeafFile>,
    encoder: Arc<dyn Encode>,
    granule: usize,
    hash: bool,
    fingerprint: bool,
    input: BufferPool,
    /// Vectors that held encoded bytes, to be used again.
    output: Mutex<Vec<Vec<u8>>>,
    sink: &'a dyn ByteSink,
    ordered: bool,
}

impl Worker<'_> {
    fn prepare(&self, chunk: Chunk) -> Result<Prepared> {
        let Chunk::Data { start, len } = chunk else {
            return Ok(Prepared {
                chunk,
                data: None,
                encoded: Vec::new(),
                parts: Vec::new(),
                leaves: Vec::new(),
                checks: Vec::new(),
                hides: Vec::new(),
                same_bytes: 0,
            });
        };
        let mut data = self.input.take();
        let mut encoded = self.lock_output().pop().unwrap_or_default();
        encoded.clear();
        let bytes = data.get_mut(..len).unwrap_or_default();
        if let Some(below) = self.below {
            let layered = self.prepare_layer(start, bytes, below, &mut encoded)?;
            let Layered { parts, leaves, checks, hides, same_bytes } = layered;
            let data = Some(data);
            return Ok(Prepared { chunk, data, encoded, parts, leaves, checks, hides, same_bytes });
        }
        self.disk.read_guest(start, bytes)?;
        let leaves = if self.hash { leaf_hashes(bytes) } else { Vec::new() };
        let checks = if self.fingerprint { block_checks(bytes) } else { Vec::new() };
        let mut parts = Vec::new();
        let mut from = 0_usize;
        for granule in bytes.chunks(self.granule) {
            let to = from.saturating_add(granule.len());
            if !is_zero(granule) {
                let before = encoded.len();
                let at = start.saturating_add(u64::try_from(from).unwrap_or(u64::MAX));
                let encoding = self.encoder.encode(at, granule, &mut encoded)?;
                let range = match encoding {
                    Encoding::Verbatim => from..to,
                    Encoding::Encoded => before..encoded.len(),
                };
                parts.push(Part { at, range, encoding, to: FileOffset::ZERO });
            }
            from = to;
        }
        let (hides, same_bytes) = (Vec::new(), 0);
        Ok(Prepared { chunk, data: Some(data), encoded, parts, leaves, checks, hides, same_bytes })
    }

    /// The same for a layer: granules that are holes are not read, and only what differs becomes a part.
    fn prepare_layer(
        &self,
        start: GuestOffset,
        bytes: &mut [u8],
        below: &LeafFile,
        encoded: &mut Vec<u8>,
    ) -> Result<Layered> {
        let mut layered = Layered::default();
        let touched = touched(self.disk, start, bytes)?;
        let first = start.get() / BLOCK_LEN;
        let mut from = 0_usize;
        for ((granule, number), touched) in bytes.chunks(self.granule).zip(first..).zip(touched) {
            let to = from.saturating_add(granule.len());
            let at = start.saturating_add(u64::try_from(from).unwrap_or(u64::MAX));
            let (here, end) = (from, to);
            from = to;
            let old = below.leaf(number);
            let new = match touched {
                true => leaf_hashes(granule).into_iter().next().flatten(),
                false => Some(old).filter(|old| *old != BlockDigest::zero()),
            };
            let len = u64::try_from(granule.len()).unwrap_or(u64::MAX);
            let mut check = None;
            if new.unwrap_or_else(BlockDigest::zero) == old {
                layered.same_bytes = layered.same_bytes.saturating_add(if touched { len } else { 0 });
            } else if new.is_none() {
                layered.hides.push(at);
            } else {
                let before = encoded.len();
                let encoding = self.encoder.encode(at, granule, encoded)?;
                let range = match encoding {
                    Encoding::Verbatim => here..end,
                    Encoding::Encoded => before..encoded.len(),
                };
                layered.parts.push(Part { at, range, encoding, to: FileOffset::ZERO });
                check = block_checks(granule).into_iter().next().flatten();
            }
            layered.leaves.push(new);
            layered.checks.push(check);
        }
        Ok(layered)
    }

    /// Stores the parts, those that lie side by side in memory and in the file in one write.
    fn store(&self, prepared: Prepared) -> Result<()> {
        let mut parts = prepared.parts.into_iter();
        let mut run = parts.next();
        while let Some(mut first) = run.take() {
            for part in parts.by_ref() {
                let run_len = u64::try_from(first.range.len()).unwrap_or(u64::MAX);
                if part.encoding == first.encoding
                    && part.range.start == first.range.end
                    && part.to == first.to.saturating_add(run_len)
                {
                    first.range.end = part.range.end;
                } else {
                    run = Some(part);
                    break;
                }
            }
            match first.encoding {
                Encoding::Verbatim => {
                    self.store_verbatim(prepared.data.as_deref().unwrap_or_default(), &first)?;
                }
                Encoding::Encoded => {
                    let bytes = prepared.encoded.get(first.range).unwrap_or_default();
                    self.sink.write_bytes(first.to, bytes)?;
                }
            }
        }
        if let Some(data) = prepared.data {
            self.input.put(data);
            self.lock_output().push(prepared.encoded);
        }
        Ok(())
    }

    fn lock_output(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Granules larger than [`HOLE_LEN`] may hold runs of zeros: a new file has them already.
    fn store_verbatim(&self, data: &[u8], part: &Part) -> Result<()> {
        let bytes = data.get(part.range.clone()).unwrap_or_default();
        if self.granule <= HOLE_LEN {
            return self.sink.write_bytes(part.to, bytes);
        }
        let mut from = 0_usize;
        let mut run = 0..0_usize;
        for piece in bytes.chunks(HOLE_LEN) {
            let to = from.saturating_add(piece.len());
            if !is_zero(piece) {
                if run.end != from {
                    self.write_run(bytes, &run, part.to)?;
                    run.start = from;
                }
                run.end = to;
            }
            from = to;
        }
        self.write_run(bytes, &run, part.to)
    }

    fn write_run(&self, bytes: &[u8], run: &Range<usize>, base: FileOffset) -> Result<()> {
        let data = bytes.get(run.clone()).unwrap_or_default();
        if data.is_empty() {
            return Ok(());
        }
        let at = base.saturating_add(u64::try_from(run.start).unwrap_or(u64::MAX));
        self.sink.write_bytes(at, data)
    }
}

/// The ordered step.
struct Turn<'a, 'l> {
    writer: Box<dyn DiskWrite>,
    digests: Option<DigestBuilder<'l>>,
    fingerprint: Option<FingerprintBuilder>,
    below: Option<&'a LeafFile>,
    budget: &'a Budget,
    observer: &'a dyn Observer,
    stored_bytes: u64,
    hidden: Vec<GuestRange>,
    same_bytes: u64,
}

impl Turn<'_, '_> {
    fn place(&mut self, mut prepared: Prepared) -> Result<Prepared> {
        let chunk = prepared.chunk;
        if let Some(digests) = self.digests.as_mut() {
            match chunk {
                Chunk::Data { len, .. } => {
                    let bytes = prepared.data.as_deref().and_then(|data| data.get(..len));
                    digests.data(&prepared.leaves, bytes.unwrap_or_default())?;
                }
                Chunk::Zeros { len, .. } => match self.below {
                    Some(below) => digests.copied(below, len.div_ceil(BLOCK_LEN))?,
                    None => digests.zeros(len, self.observer)?,
                },
            }
        }
        if let Some(fingerprint) = self.fingerprint.as_mut() {
            match chunk {
                Chunk::Data { .. } => fingerprint.data(&prepared.checks),
                Chunk::Zeros { len, .. } => fingerprint.zeros(len),
            }
        }
        let end = chunk.start().saturating_add(chunk.len());
        let mut known = chunk.start();
        let mut hides = std::mem::take(&mut prepared.hides).into_iter().peekable();
        self.same_bytes = self.same_bytes.saturating_add(prepared.same_bytes);
        for part in &mut prepared.parts {
            while let Some(at) = hides.next_if(|at| *at < part.at) {
                self.hide(at, end)?;
            }
            self.zeroes(known, part.at)?;
            let len = u32::try_from(part.range.len()).unwrap_or(u32::MAX);
            part.to = self.writer.place(part.at, Piece { len, encoding: part.encoding })?;
            let granule_end = part.at.saturating_add(self.writer.granule()).min(end);
            let guest_len = granule_end.bytes_since(part.at).unwrap_or(0);
            self.budget.charge(Cost::NonZeroOutput, guest_len)?;
            self.stored_bytes = self.stored_bytes.saturating_add(guest_len);
            known = granule_end;
        }
        for at in hides {
            self.hide(at, end)?;
        }
        self.zeroes(known, end)?;
        self.observer.event(Event::Advanced { bytes: chunk.len() });
        Ok(prepared)
    }

    /// Zeros over something else: one granule, or the rest of the disk.
    fn hide(&mut self, at: GuestOffset, end: GuestOffset) -> Result<()> {
        let granule_end = at.saturating_add(self.writer.granule()).min(end);
        let len = granule_end.bytes_since(at).unwrap_or(0);
        self.writer.hide(at, len)?;
        match self.hidden.last_mut() {
            Some(last) if last.start.saturating_add(last.len) == at => {
                last.len = last.len.saturating_add(len);
            }
            _ => self.hidden.push(GuestRange { start: at, len }),
        }
        Ok(())
    }

    fn zeroes(&mut self, from: GuestOffset, to: GuestOffset) -> Result<()> {
        match to.bytes_since(from) {
            // What a layer does not hold is no zeros.
            _ if self.below.is_some() => Ok(()),
            None | Some(0) => Ok(()),
            Some(len) => self.writer.write_zeroes(from, len),
        }
    }
}
