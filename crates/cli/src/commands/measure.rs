//! `kiln measure`: what will a conversion take?

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_disk::{ByteSink, FileOffset, FileSink, Limits, StagedFile};
use kiln_format::Tolerance;
use kiln_format::transfer::{MeasurePlan, Measured, measure};
use serde::Serialize;

use crate::error::{About, Answer, CliError, Result};
use crate::input::SourceArgs;
use crate::output::{Printer, Size};
use crate::output_format::OutputArgs;
use crate::session::Session;
use crate::subject::Subject;

/// Say how much space and time a conversion will take, without doing it
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The length of a plain file is exact: the writer itself runs and keeps nothing. That of a compressed
one is estimated from pieces spread over the data, with the range it will be in; --exact compresses
everything. With DST, the space that is free there is compared, and a short write there is timed.
Exits 1 when it does not fit.

Examples:
  kiln measure disk.raw -O qcow2
  kiln measure disk.qcow2 -O vmdk -o subformat=streamOptimized
  kiln measure --json disk.raw /srv/images/disk.qcow2 -c")]
pub(crate) struct Args {
    /// Read this file or image
    #[arg(value_name = "SRC")]
    source: PathBuf,
    /// Where it would be written
    #[arg(value_name = "DST")]
    dest: Option<PathBuf>,
    #[command(flatten)]
    read: SourceArgs,
    /// Measure for this format [default: by the ending of DST]
    #[arg(short = 'O', long = "output-format", value_name = "FORMAT")]
    output_format: Option<String>,
    /// Set an option of the output format, as NAME=VALUE; several may be joined with commas
    #[arg(short = 'o', long = "option", value_name = "NAME=VALUE")]
    option: Vec<String>,
    /// Compress: with zstd, unless -o compression_type says otherwise
    #[arg(short = 'c', long)]
    compress: bool,
    /// Compress everything, to know the length to the byte
    #[arg(long)]
    exact: bool,
    /// Reckon with this many threads [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

#[derive(Debug, Serialize)]
struct Record<'a> {
    schema: &'static str,
    source: &'a str,
    format: &'static str,
    options: serde_json::Map<String, serde_json::Value>,
    disk_bytes: u64,
    exact: bool,
    /// Length of the file.
    file_bytes: u64,
    /// What it will be at least and at most.
    range_bytes: [u64; 2],
    /// What of it is written; the rest are holes.
    written_bytes: u64,
    fully_allocated_bytes: Option<u64>,
    samples: u64,
    source_data_bytes: u64,
    /// Milliseconds of reading and encoding, as measured.
    work_ms: u64,
    destination: Option<DestinationRecord>,
}

#[derive(Debug, Serialize)]
struct DestinationRecord {
    directory: String,
    free_bytes: u64,
    fits: bool,
    /// A short synced write, in bytes a second.
    write_bytes_per_second: u64,
    /// Milliseconds in all: the slower of work and writing.
    total_ms: u64,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let write = OutputArgs {
        output_format: args.output_format.clone(),
        option: args.option.clone(),
        compress: args.compress,
        threads: args.threads,
        ..OutputArgs::default()
    };
    let target = write.target(args.dest.as_deref().unwrap_or(Path::new("-")))?;
    let (mut input, source) = Subject::resolve(&args.source, session)?.open(&args.read, session)?;
    input.unwrap(&source, None, &session.reporter).about(&input.label)?;
    let context = input.context(&source, Tolerance::Strict, Limits::STANDARD)?;
    let image = input.image(&source, &context)?;
    let plan = MeasurePlan {
        disk: image.as_ref(),
        format: target.format,
        options: &target.options,
        threads: write.threads(),
        exact: args.exact,
        budget: &context.budget,
    };
    let found = measure(plan, &session.reporter).about(&input.label)?;
    let destination = args.dest.as_deref().map(|dest| look_at(dest, &found)).transpose()?;
    session.reporter.clear();
    let record = Record {
        schema: "kiln.measure.v1",
        source: &input.label,
        format: target.format.id,
        options: target.given.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect(),
        disk_bytes: image.disk_len(),
        exact: found.is_exact(),
        file_bytes: found.file_bytes,
        range_bytes: [found.range.0, found.range.1],
        written_bytes: found.written_bytes,
        fully_allocated_bytes: found.fully_allocated_bytes,
        samples: found.samples,
        source_data_bytes: found.source_bytes,
        work_ms: millis(found.work),
        destination,
    };
    session.printer.json(&record)?;
    text(&record, &mut session.printer);
    Ok(if record.destination.as_ref().is_none_or(|place| place.fits) { Answer::Yes } else { Answer::No })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// How the place to write to is: free space, and the rate of a short write that reaches the device.
fn look_at(dest: &Path, found: &Measured) -> Result<DestinationRecord> {
    const TRIAL: usize = 32 << 20;
    const PIECE: usize = 1 << 20;
    let dir = dest.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = dir.display().to_string();
    let failed = |source| CliError::from(kiln_disk::Error::io("look at", &name, source));
    let free_bytes = kiln_disk::os::free_space(dir).map_err(failed)?;
    // What a hole takes is nothing.
    let needed = if found.is_exact() { found.written_bytes } else { found.range.1 };
    let trial = TRIAL.min(usize::try_from(free_bytes / 2).unwrap_or(TRIAL));
    let started = Instant::now();
    let staged = StagedFile::beside(dest)?;
    let file = staged.file().try_clone().map_err(failed)?;
    let sink = FileSink::new(file, name.as_str());
    // Bytes that no file system compresses.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut piece = vec![0_u8; PIECE];
    for word in piece.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
    let mut written = 0_u64;
    for _ in 0..trial / PIECE {
        sink.write_bytes(FileOffset::new(written), &piece)?;
        written += PIECE as u64;
    }
    staged.file().sync_data().map_err(failed)?;
    let took = millis(started.elapsed()).max(1);
    let rate = (written.saturating_mul(1000) / took).max(1);
    let writing = found.written_bytes.saturating_mul(1000) / rate;
    Ok(DestinationRecord {
        directory: name,
        free_bytes,
        fits: needed <= free_bytes,
        write_bytes_per_second: rate,
        total_ms: writing.max(millis(found.work)),
    })
}

fn text(record: &Record<'_>, out: &mut Printer) {
    out.data_field("from", record.source);
    out.data_field("to", record.format);
    for (name, value) in &record.options {
        out.data_field("option", format!("{name}={}", value.as_str().unwrap_or("")));
    }
    out.data_field("disk size", Size(record.disk_bytes));
    out.data_field("data", Size(record.source_data_bytes));
    if record.exact {
        out.data_field("file size", format!("{}, exact", Size(record.file_bytes)));
        if record.written_bytes < record.file_bytes {
            out.data_field("on disk", Size(record.written_bytes));
        }
    } else {
        let [least, most] = record.range_bytes;
        out.data_field("file size", format!("about {}", Size(record.file_bytes)));
        let samples = record.samples;
        out.data_field("", format!("{} to {}, from {samples} samples", Size(least), Size(most)));
    }
    if let Some(bytes) = record.fully_allocated_bytes {
        out.data_field("if full", Size(bytes));
    }
    out.data_field("work", format!("about {}.{} s", record.work_ms / 1000, record.work_ms % 1000 / 100));
    if let Some(place) = &record.destination {
        out.data_field("free there", format!("{} in {}", Size(place.free_bytes), place.directory));
        let (ms, rate) = (place.total_ms, Size(place.write_bytes_per_second));
        out.data_field(
            "in all",
            format!("about {}.{} s, writing {rate} a second", ms / 1000, ms % 1000 / 100),
        );
        out.data_field("answer", if place.fits { "it fits" } else { "it does NOT fit" });
    }
}
