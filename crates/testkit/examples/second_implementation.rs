//! Measures why Kiln has an engine of its own for qcow2 and keeps qcow2-rs as a second opinion:
//! `cargo run --release -p kiln-testkit --example second_implementation`.
//!
//! Prints two small tables in Markdown: the time to read one image, and what becomes of damaged headers. Each
//! damaged file is opened by a process of its own, under limits of time and memory, because some do not come back.

#![allow(clippy::print_stdout, reason = "the tables are what it is for")]

#[path = "../tests/peers/mod.rs"]
mod peers;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Budget, ByteSink, Disk, FileSink, FileSource, GuestOffset, Limits, Silent};
use kiln_format::transfer::{Job, write_container};
use kiln_format::{Choice, Image, OpenContext, Options, by_name};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::Random;

const DISK_LEN: usize = 512 << 20;
const MUTANTS: usize = 300;
const SECONDS: &str = "6";
const MEMORY: &str = "4294967296";

type Reader = fn(&Path) -> peers::Answer<u64>;
type Sampler = fn(&Path) -> peers::Answer<()>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => {
            let dir = tempfile::TempDir::new().expect("a directory for the images");
            speed(dir.path());
            println!();
            damage(dir.path());
            ExitCode::SUCCESS
        }
        ["sample", engine, path] => {
            let sample = SAMPLERS.iter().find(|(name, _)| *name == engine).expect("a known engine").1;
            ExitCode::from(u8::from(sample(Path::new(path)).is_err()))
        }
        _ => {
            println!("usage: second_implementation");
            ExitCode::from(2)
        }
    }
}

/// A number that depends on every byte and its place, cheap beside decompression.
#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        for word in bytes.as_chunks::<8>().0 {
            self.0 = self.0.rotate_left(5) ^ u64::from_ne_bytes(*word);
        }
    }
}

fn open(path: &Path, limits: Limits) -> peers::Answer<Box<dyn Image>> {
    let source = Arc::new(FileSource::open(path).map_err(|error| error.to_string())?);
    let context = OpenContext { budget: Arc::new(Budget::new(limits)), ..OpenContext::new() };
    let choice = Choice::Declared(by_name("qcow2").expect("qcow2 is a format"));
    kiln_format::open(source, choice, &context).map_err(|error| error.to_string())
}

const PIECE: u64 = 1 << 20;

/// Reads with `threads` threads, each every so-manieth piece; sums are added up in order afterwards.
fn read_by_kiln(path: &Path, threads: u64) -> peers::Answer<u64> {
    let image = open(path, Limits::STANDARD)?;
    let image = image.as_ref();
    let pieces = image.disk_len().div_ceil(PIECE);
    let part = |thread: u64| -> peers::Answer<Vec<(u64, u64)>> {
        let mut buf = vec![0; PIECE as usize];
        let mut sums = Vec::new();
        for piece in (thread..pieces).step_by(threads as usize) {
            let take = (image.disk_len() - piece * PIECE).min(PIECE) as usize;
            image
                .read_guest(GuestOffset::new(piece * PIECE), &mut buf[..take])
                .map_err(|error| error.to_string())?;
            let mut sum = Sum::default();
            sum.add(&buf[..take]);
            sums.push((piece, sum.0));
        }
        Ok(sums)
    };
    let mut sums = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|thread| scope.spawn(move || part(thread))).collect();
        let parts: peers::Answer<Vec<_>> =
            workers.into_iter().map(|worker| worker.join().expect("no reader panics")).collect();
        parts.map(|parts| parts.concat())
    })?;
    sums.sort_unstable();
    Ok(total(sums.into_iter().map(|(_, sum)| sum)))
}

fn total(sums: impl Iterator<Item = u64>) -> u64 {
    sums.fold(0, |total, sum| total.rotate_left(7) ^ sum)
}

/// Sums by pieces of [`PIECE`] bytes, as Kiln's reader does, from smaller ones.
fn by_pieces(read: impl FnOnce(&mut dyn FnMut(&[u8])) -> peers::Answer<()>) -> peers::Answer<u64> {
    let (mut sums, mut sum, mut have) = (Vec::new(), Sum::default(), 0);
    read(&mut |bytes| {
        sum.add(bytes);
        have += bytes.len() as u64;
        if have == PIECE {
            sums.push(std::mem::take(&mut sum).0);
            have = 0;
        }
    })?;
    if have > 0 {
        sums.push(sum.0);
    }
    Ok(total(sums.into_iter()))
}

const READERS: [(&str, Reader); 4] = [
    ("qcow2-rs 0.1.6, 1 thread (it has no more)", |path| {
        by_pieces(|piece| peers::each_by_qcow2_rs(path, piece))
    }),
    ("imago 0.2.6, 1 thread", |path| by_pieces(|piece| peers::each_by_imago(path, piece))),
    ("Kiln, 1 thread", |path| read_by_kiln(path, 1)),
    ("Kiln, 2 threads", |path| read_by_kiln(path, 2)),
];

const SAMPLERS: [(&str, Sampler); 3] = [
    ("qcow2-rs 0.1.6", peers::sample_by_qcow2_rs),
    ("imago 0.2.6", peers::sample_by_imago),
    ("Kiln", |path| {
        let image = open(path, Limits::INSPECT)?;
        let mut buf = [0; 512];
        for at in peers::sample_places(image.disk_len()) {
            image.read_guest(GuestOffset::new(at), &mut buf).map_err(|error| error.to_string())?;
        }
        Ok(())
    }),
];

fn write(disk: &dyn Disk, path: &Path, compress: &str) {
    let qcow2 = by_name("qcow2").expect("qcow2 is a format");
    let given = [("compress", compress), ("compression_type", "zlib")];
    let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let create = qcow2.create.expect("qcow2 is written");
    let file = std::fs::File::create(path).expect("a file for an image");
    let sink: Arc<dyn ByteSink> = Arc::new(FileSink::new(file, "image"));
    let job = Job {
        disk,
        format: qcow2,
        options: &Options::new(create.options, given).expect("known options"),
        threads: 2,
        content_digest: false,
        raw_digest: false,
        fingerprint: false,
        leaves: None,
        budget: &Budget::default(),
    };
    write_container(job, &sink, &Silent).expect("an image is written");
}

/// Half of the disk data that shrinks by about a third, the other half empty.
fn content(len: usize) -> Vec<u8> {
    let mut random = Random(1);
    let mut bytes = vec![0; len];
    for mebi in bytes.chunks_mut(1 << 20).step_by(2) {
        for word in mebi.chunks_mut(8) {
            let number = random.number();
            let dense = if number.is_multiple_of(3) { number & 0x0f0f_0000_0000_0f0f } else { number };
            word.copy_from_slice(&dense.to_ne_bytes()[..word.len()]);
        }
    }
    bytes
}

fn speed(dir: &Path) {
    let path = dir.join("zlib.qcow2");
    write(&ModelDisk::new(content(DISK_LEN), 65_536), &path, "on");
    println!(
        "| reads a {} MiB disk with {} MiB of zlib data | s, best of 3 |",
        DISK_LEN >> 20,
        DISK_LEN >> 21
    );
    println!("|---|---|");
    let mut sums = Vec::new();
    for (name, read) in READERS {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let start = Instant::now();
            sums.push(read(&path).unwrap_or_else(|error| panic!("{name}: {error}")));
            best = best.min(start.elapsed());
        }
        println!("| {name} | {:.2} |", best.as_secs_f64());
    }
    assert!(sums.iter().all(|sum| *sum == sums[0]), "the readers disagree about the bytes");
}

/// What became of a process that opened a damaged file.
#[derive(Default)]
struct Tally {
    read: u32,
    refused: u32,
    panicked: u32,
    crashed: u32,
    hung: u32,
}

impl Tally {
    fn count(&mut self, status: ExitStatus) {
        match (status.code(), status.signal()) {
            (Some(0), _) => self.read += 1,
            (Some(1), _) => self.refused += 1,
            // What `timeout -s KILL` answers when it had to.
            (Some(137), _) | (_, Some(9)) => self.hung += 1,
            // It passes a signal of the child on by its own death or as 128 + number.
            (Some(code), _) if code >= 128 => self.crashed += 1,
            (None, _) => self.crashed += 1,
            (Some(_), _) => self.panicked += 1,
        }
    }
}

/// Changes some bytes of header or tables of `seed`; where and how depends on `round` alone.
fn mutate(seed: &[u8], round: usize) -> Vec<u8> {
    let mut random = Random(round as u64 + 1);
    let mut bytes = seed.to_vec();
    let odd = [0, 1, 0x7f, 0x80, 0xff];
    for _ in 0..=random.below(3) {
        // Fields of the header lie at multiples of four below 104.
        let at = (random.below(26) * 4) as usize;
        let len = [1, 2, 4, 8][random.below(4) as usize];
        let value = if random.below(3) == 0 { random.number() as u8 } else { odd[random.below(5) as usize] };
        bytes[at + 4 - len.min(4)..at + 4 - len.min(4) + len].fill(value);
    }
    bytes
}

fn damage(dir: &Path) {
    let seeds: Vec<Vec<u8>> = ["off", "on"]
        .map(|compress| {
            let path = dir.join("seed.qcow2");
            write(&ModelDisk::new(content(4 << 20), 65_536), &path, compress);
            std::fs::read(&path).expect("the seed is read")
        })
        .into();
    let own = std::env::current_exe().expect("the path of this program");
    println!("| {MUTANTS} damaged headers | read | refused | panic | crash | hang ({SECONDS} s) |");
    println!("|---|---|---|---|---|---|");
    for (engine, _) in SAMPLERS {
        let mut tally = Tally::default();
        for round in 0..MUTANTS {
            let path = dir.join("mutant.qcow2");
            std::fs::write(&path, mutate(&seeds[round % seeds.len()], round)).expect("a mutant is written");
            let status = Command::new("prlimit")
                .arg(format!("--as={MEMORY}"))
                .args(["--core=0", "timeout", "-s", "KILL", SECONDS])
                .arg(&own)
                .args(["sample", engine])
                .arg(&path)
                .current_dir(dir)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .expect("prlimit (util-linux) runs");
            tally.count(status);
        }
        let Tally { read, refused, panicked, crashed, hung } = tally;
        println!("| {engine} | {read} | {refused} | {panicked} | {crashed} | {hung} |");
    }
}
