//! What a conversion will take, before it is done.
//!
//! Plain containers are measured exactly: the writer itself runs, into a sink that counts and keeps nothing.
//! Compressed ones are estimated: granules spread evenly over the data are encoded, and the writer runs with
//! granules of the length that those came to. So the tables around the data are never guessed.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use kiln_disk::chunks::{Chunk, chunks};
use kiln_disk::zero::is_zero;
use kiln_disk::{
    Budget, ByteSink, Disk, Encoding, Error, Event, FileOffset, GuestOffset, Observer, Piece, Result,
    WriteOrder, go_on,
};

use super::engine::{Job, write_container};
use crate::options::Options;
use crate::table::Format;
use crate::wire::{as_bytes, in_memory};

/// What is to be written.
#[derive(Clone, Copy)]
pub struct MeasurePlan<'a> {
    /// The disk to read.
    pub disk: &'a dyn Disk,
    /// The format to write.
    pub format: &'static Format,
    /// Its options.
    pub options: &'a Options,
    /// Threads that a conversion would have.
    pub threads: usize,
    /// Encode everything, to know the length to the byte.
    pub exact: bool,
    /// Pays for the data produced.
    pub budget: &'a Budget,
}

/// What it will take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Length of the file, in bytes: exact, or the middle of the estimate.
    pub file_bytes: u64,
    /// The least and the most that the estimate allows; both `file_bytes` when it is exact.
    pub range: (u64, u64),
    /// Bytes of it that are written, the others being holes; of the middle of an estimate.
    pub written_bytes: u64,
    /// Length of the file if every byte of the disk held data that does not compress; not reckoned for disks of
    /// more than a few million granules.
    pub fully_allocated_bytes: Option<u64>,
    /// Guest bytes that are read: what the source has stored.
    pub source_bytes: u64,
    /// Granules that were encoded for an estimate.
    pub samples: u64,
    /// Time that reading and encoding will take, from what was measured.
    pub work: Duration,
}

impl Measured {
    /// Whether the length is known and not estimated.
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.range.0 == self.range.1
    }
}

/// Chunks that are encoded for an estimate.
const SAMPLES: u64 = 96;
/// Unit of the walk.
const CHUNK_LEN: u64 = 1 << 20;

/// Measures.
///
/// # Errors
/// As [`write_container`].
pub fn measure(plan: MeasurePlan<'_>, observer: &dyn Observer) -> Result<Measured> {
    let all = fully_allocated(plan, observer)?;
    let sample = sample(plan, observer)?;
    if plan.exact || !sample.is_encoded {
        let started = Instant::now();
        let counter = Arc::new(Counter::default());
        let job = Job {
            disk: plan.disk,
            format: plan.format,
            options: plan.options,
            threads: plan.threads,
            content_digest: false,
            raw_digest: false,
            fingerprint: false,
            leaves: None,
            budget: plan.budget,
        };
        let sink: Arc<dyn ByteSink> = Arc::<Counter>::clone(&counter);
        let len = write_container(job, &sink, observer)?.written.byte_len;
        return Ok(Measured {
            file_bytes: len,
            range: (len, len),
            written_bytes: counter.written(),
            fully_allocated_bytes: all,
            source_bytes: sample.data_bytes,
            samples: 0,
            work: started.elapsed(),
        });
    }
    let with = |ratio: f64| model(plan, observer, &|len| sized(len, ratio), false);
    let (middle, spread) = (sample.ratio(), sample.spread());
    let (least, _) = with((middle - spread).max(0.0))?;
    let (most, _) = with((middle + spread).min(1.0))?;
    let (file_bytes, written_bytes) = with(middle)?;
    Ok(Measured {
        file_bytes,
        // An estimate never passes for a length that is known.
        range: (least.min(file_bytes.saturating_sub(1)), most.max(file_bytes)),
        written_bytes,
        fully_allocated_bytes: all,
        source_bytes: sample.data_bytes,
        samples: sample.count,
        work: sample.all_work(plan.threads),
    })
}

/// A granule of `len` bytes encoded to a part of them.
#[expect(clippy::as_conversions, reason = "an estimate: the ratio is between 0 and 1, lengths below 2^32")]
fn sized(len: u32, ratio: f64) -> Piece {
    let encoded = (f64::from(len) * ratio).ceil() as u32;
    if encoded >= len {
        return Piece { len, encoding: Encoding::Verbatim };
    }
    Piece { len: encoded.max(1), encoding: Encoding::Encoded }
}

/// Runs the writer over granules of made-up lengths and answers how long its file is. `whole` takes every granule
/// of the disk for data, else those that the source has stored.
fn model(
    plan: MeasurePlan<'_>,
    observer: &dyn Observer,
    piece: &dyn Fn(u32) -> Piece,
    whole: bool,
) -> Result<(u64, u64)> {
    let disk_len = plan.disk.disk_len();
    let counted = Arc::new(Counter::default());
    let counter: Arc<dyn ByteSink> = Arc::<Counter>::clone(&counted);
    let create = plan.format.create.ok_or_else(|| Error::Unsupported {
        code: "format.read-only",
        feature: format!("writing {}", plan.format.id),
        hint: "choose another output format with -O",
    })?;
    let mut writer = (create.run)(Arc::clone(&counter), disk_len, plan.options)?;
    let own = writer.sink();
    let sink = own.as_ref().unwrap_or(&counter);
    let granule = writer.granule().max(1);
    let place = |start: u64, end: u64, writer: &mut Box<dyn kiln_disk::DiskWrite>| -> Result<()> {
        let mut at = start.saturating_sub(start.checked_rem(granule).unwrap_or(0));
        while at < end {
            go_on(observer)?;
            let len = granule.min(disk_len.saturating_sub(at));
            let guest = GuestOffset::new(at);
            let piece = piece(u32::try_from(len).unwrap_or(u32::MAX));
            let to = writer.place(guest, piece)?;
            blank(sink.as_ref(), to, piece.len)?;
            at = at.saturating_add(len);
        }
        Ok(())
    };
    if whole {
        place(0, disk_len, &mut writer)?;
    } else {
        let unit = granule.max(CHUNK_LEN);
        for chunk in chunks(plan.disk, unit) {
            match chunk? {
                Chunk::Zeros { start, len } => writer.write_zeroes(start, len)?,
                Chunk::Data { start, len } => {
                    place(start.get(), start.get().saturating_add(as_bytes(len)), &mut writer)?;
                }
            }
        }
    }
    Ok((writer.finish()?.byte_len, counted.written()))
}

/// The length of a file in which every granule is stored as it is.
fn fully_allocated(plan: MeasurePlan<'_>, observer: &dyn Observer) -> Result<Option<u64>> {
    /// Above this many of the smallest usual granule it takes longer than anybody waits.
    const MAX_LEN: u64 = 1 << 38;
    if plan.disk.disk_len() > MAX_LEN {
        return Ok(None);
    }
    model(plan, observer, &|len| Piece { len, encoding: Encoding::Verbatim }, true).map(|(len, _)| Some(len))
}

/// Writes bytes whose values do not matter.
fn blank(sink: &dyn ByteSink, at: FileOffset, len: u32) -> Result<()> {
    static BLANK: [u8; 65_536] = [0; 65_536];
    let (mut at, mut left) = (at, in_memory(len.into()));
    while left > 0 {
        let part = BLANK.get(..left.min(BLANK.len())).unwrap_or_default();
        sink.write_bytes(at, part)?;
        at = at.saturating_add(as_bytes(part.len()));
        left = left.saturating_sub(part.len());
    }
    Ok(())
}

/// What some granules came to.
struct Sample {
    /// Bytes that the source has stored.
    data_bytes: u64,
    /// Bytes that were read and encoded, and the time it took.
    read: u64,
    took: Duration,
    is_encoded: bool,
    count: u64,
    /// Stored by guest bytes, of each chunk.
    ratios: Vec<f64>,
}

impl Sample {
    /// The mean.
    fn ratio(&self) -> f64 {
        self.ratios.iter().sum::<f64>() / self.number()
    }

    /// Three standard errors of the mean, and a hundredth for what no sample sees.
    fn spread(&self) -> f64 {
        let mean = self.ratio();
        let variance = self.ratios.iter().map(|ratio| (ratio - mean).powi(2)).sum::<f64>() / self.number();
        3.0 * (variance / self.number()).sqrt() + 0.01
    }

    #[expect(clippy::as_conversions, reason = "a count of at most a few hundred")]
    fn number(&self) -> f64 {
        (self.ratios.len() as f64).max(1.0)
    }

    /// The time for all data on several threads.
    #[expect(clippy::as_conversions, reason = "an estimate of seconds")]
    fn all_work(&self, threads: usize) -> Duration {
        if self.read == 0 {
            return Duration::ZERO;
        }
        let factor = self.data_bytes as f64 / self.read as f64 / (threads.max(1) as f64);
        Duration::try_from_secs_f64(self.took.as_secs_f64() * factor).unwrap_or(Duration::MAX)
    }
}

/// Encodes chunks spread evenly over the data of the disk.
fn sample(plan: MeasurePlan<'_>, observer: &dyn Observer) -> Result<Sample> {
    let counter: Arc<dyn ByteSink> = Arc::new(Counter::default());
    let create = plan.format.create.map(|create| create.run);
    let Some(create) = create else {
        return Err(Error::Unsupported {
            code: "format.read-only",
            feature: format!("writing {}", plan.format.id),
            hint: "choose another output format with -O",
        });
    };
    let writer = create(counter, plan.disk.disk_len(), plan.options)?;
    let (encoder, granule) = (writer.encoder(), writer.granule().max(1));
    let unit = granule.max(CHUNK_LEN);
    let data = || {
        chunks(plan.disk, unit).filter_map(|chunk| match chunk {
            Ok(Chunk::Data { start, len }) => Some(Ok((start, len))),
            Ok(Chunk::Zeros { .. }) => None,
            Err(error) => Some(Err(error)),
        })
    };
    let (mut number, mut data_bytes) = (0_u64, 0_u64);
    for piece in data() {
        go_on(observer)?;
        data_bytes = data_bytes.saturating_add(as_bytes(piece?.1));
        number = number.saturating_add(1);
    }
    let every = NonZeroU64::new(number.div_ceil(SAMPLES)).unwrap_or(NonZeroU64::MIN);
    let mut sample =
        Sample { data_bytes, read: 0, took: Duration::ZERO, is_encoded: false, count: 0, ratios: Vec::new() };
    observer.event(Event::Started { phase: "sample", total: data_bytes });
    let (mut bytes, mut encoded) = (vec![0; in_memory(unit)], Vec::new());
    for (piece, index) in data().zip(0_u64..) {
        let (start, len) = piece?;
        observer.event(Event::Advanced { bytes: as_bytes(len) });
        // From the middle of each stretch, not its first chunk: partitions begin at round places.
        if index % every != every.get() / 2 {
            continue;
        }
        go_on(observer)?;
        let started = Instant::now();
        let bytes = bytes.get_mut(..len).unwrap_or_default();
        plan.disk.read_guest(start, bytes)?;
        let mut stored = 0_u64;
        for (granule, at) in bytes.chunks(in_memory(granule)).zip((start.get()..).step_by(in_memory(granule)))
        {
            if is_zero(granule) {
                continue;
            }
            encoded.clear();
            stored = stored.saturating_add(as_bytes(
                match encoder.encode(GuestOffset::new(at), granule, &mut encoded)? {
                    Encoding::Verbatim => granule.len(),
                    Encoding::Encoded => {
                        sample.is_encoded = true;
                        encoded.len()
                    }
                },
            ));
        }
        sample.took = sample.took.saturating_add(started.elapsed());
        sample.read = sample.read.saturating_add(as_bytes(len));
        sample.count = sample.count.saturating_add(1);
        sample.ratios.push(part_of(stored, as_bytes(len)));
    }
    observer.event(Event::Finished);
    Ok(sample)
}

#[expect(clippy::as_conversions, reason = "both are at most the length of a chunk")]
fn part_of(stored: u64, len: u64) -> f64 {
    stored as f64 / (len.max(1) as f64)
}

/// Counts and keeps nothing.
#[derive(Default)]
struct Counter {
    len: AtomicU64,
    written: AtomicU64,
}

impl Counter {
    /// Bytes that the file would occupy.
    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed).min(self.len.load(Ordering::Relaxed))
    }
}

impl ByteSink for Counter {
    fn write_bytes(&self, at: FileOffset, bytes: &[u8]) -> Result<()> {
        self.len.fetch_max(at.get().saturating_add(as_bytes(bytes.len())), Ordering::Relaxed);
        self.written.fetch_add(as_bytes(bytes.len()), Ordering::Relaxed);
        Ok(())
    }

    fn set_byte_len(&self, len: u64) -> Result<()> {
        self.len.store(len, Ordering::Relaxed);
        Ok(())
    }

    fn order(&self) -> WriteOrder {
        WriteOrder::Any
    }
}
