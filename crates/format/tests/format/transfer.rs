//! The copy engine: whole and proved, or nothing at all.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kiln_disk::digest::{HashJob, hash_disk};
use kiln_disk::{
    Budget, ByteSink, CancelFlag, DiskWrite, Durability, Encode, Encoding, Error, Event, Existing,
    FileOffset, FileSource, GuestOffset, Limits, Observer, Piece, Result, Silent, StoreVerbatim, WriteOrder,
    Written,
};
use kiln_format::transfer::{
    FilePlan, Job, OutputProblem, spool_input, write_container, write_file, write_stream,
};
use kiln_format::{Create, Format, Options, raw};
use kiln_testkit::ModelDisk;

/// Data and zeros at all scales: bytes, pages, megabytes; the last sector is odd.
fn sample() -> ModelDisk {
    let mut bytes = vec![0_u8; (5 << 20) + 700];
    for (at, byte) in bytes.iter_mut().enumerate() {
        let page = at / 4096;
        if (page % 5 == 1 && at % 3 == 0) || (2 << 20..3 << 20).contains(&at) {
            *byte = (at % 251) as u8;
        }
    }
    *bytes.last_mut().unwrap() = 1;
    ModelDisk::new(bytes, 512)
}

fn options(format: &'static Format) -> Options {
    Options::defaults(format.create.unwrap().options)
}

fn plan<'a>(
    disk: &'a ModelDisk,
    dest: &'a Path,
    format: &'static Format,
    options: &'a Options,
    budget: &'a Budget,
) -> FilePlan<'a> {
    FilePlan {
        disk,
        format,
        options,
        dest,
        existing: Existing::Keep,
        durability: Durability::Synced,
        read_back: true,
        threads: 3,
        content_digest: true,
        raw_digest: false,
        leaves: None,
        budget,
    }
}

/// What is left in a directory, hidden files included.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn is_unchanged() -> Result<()> {
    Ok(())
}

#[test]
fn a_file_holds_the_disk_with_holes_where_it_has_zeros() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("out.raw");
    let (disk, options, budget) = (sample(), options(&raw::FORMAT), Budget::default());
    let outcome =
        write_file(plan(&disk, &dest, &raw::FORMAT, &options, &budget), &is_unchanged, &Silent).unwrap();
    assert_eq!(std::fs::read(&dest).unwrap(), disk.bytes());
    assert_eq!(names(dir.path()), ["out.raw"]);
    let digests = hash_disk(&disk, HashJob::default(), &Silent).unwrap();
    assert_eq!(outcome.digests, Some(digests));
    assert_eq!(outcome.written, Written { byte_len: disk.bytes().len() as u64 });
    let metadata = std::fs::metadata(&dest).unwrap();
    assert!(metadata.blocks() * 512 <= outcome.stored_bytes + 8192, "{} blocks", metadata.blocks());
    assert!(outcome.stored_bytes < disk.bytes().len() as u64 / 2);
}

#[test]
fn an_existing_file_stays_unless_it_may_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("out.raw");
    std::fs::write(&dest, "precious").unwrap();
    let (disk, options, budget) = (sample(), options(&raw::FORMAT), Budget::default());
    let kept = plan(&disk, &dest, &raw::FORMAT, &options, &budget);
    assert_eq!(write_file(kept, &is_unchanged, &Silent).unwrap_err().code(), "io.exists");
    assert_eq!(std::fs::read(&dest).unwrap(), b"precious");
    let mut replaced = plan(&disk, &dest, &raw::FORMAT, &options, &budget);
    replaced.existing = Existing::Replace;
    write_file(replaced, &is_unchanged, &Silent).unwrap();
    assert_eq!(std::fs::read(&dest).unwrap(), disk.bytes());
    assert_eq!(names(dir.path()), ["out.raw"]);
}

#[test]
fn a_failed_read_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("out.raw");
    let disk = sample().failing_at((2 << 20) + 5);
    let (options, budget) = (options(&raw::FORMAT), Budget::default());
    let error =
        write_file(plan(&disk, &dest, &raw::FORMAT, &options, &budget), &is_unchanged, &Silent).unwrap_err();
    assert_eq!((error.code(), error.offset()), ("io.failed", Some(FileOffset::new((2 << 20) + 5))));
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_source_that_changed_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("out.raw");
    let source_path = dir.path().join("source");
    std::fs::write(&source_path, "disk").unwrap();
    let source = FileSource::open(&source_path).unwrap();
    let (disk, options, budget) = (sample(), options(&raw::FORMAT), Budget::default());
    source.confirm_unchanged().unwrap();
    std::fs::write(&source_path, "risk of another").unwrap();
    let confirm = || source.confirm_unchanged();
    let error =
        write_file(plan(&disk, &dest, &raw::FORMAT, &options, &budget), &confirm, &Silent).unwrap_err();
    assert_eq!(error.code(), "source.changed");
    assert_eq!(names(dir.path()), ["source"]);
}

#[test]
fn a_cancelled_job_leaves_nothing() {
    /// Cancels once data has moved.
    #[derive(Default)]
    struct Late(CancelFlag);
    impl Observer for Late {
        fn event(&self, event: Event<'_>) {
            if matches!(event, Event::Advanced { .. }) {
                self.0.cancel();
            }
        }
        fn is_cancelled(&self) -> bool {
            self.0.is_cancelled()
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("out.raw");
    let (disk, options, budget) = (sample(), options(&raw::FORMAT), Budget::default());
    for threads in [1, 4] {
        let mut plan = plan(&disk, &dest, &raw::FORMAT, &options, &budget);
        plan.threads = threads;
        let error = write_file(plan, &is_unchanged, &Late::default()).unwrap_err();
        assert_eq!(error.code(), "cancelled");
        assert_eq!(names(dir.path()), [""; 0]);
    }
}

#[test]
fn more_data_than_the_budget_allows_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("out.raw");
    let (disk, options) = (sample(), options(&raw::FORMAT));
    let budget = Budget::new(Limits { non_zero_output: 100_000, ..Limits::STANDARD });
    let error =
        write_file(plan(&disk, &dest, &raw::FORMAT, &options, &budget), &is_unchanged, &Silent).unwrap_err();
    assert_eq!(error.code(), "budget.output");
    assert_eq!(names(dir.path()), [""; 0]);
}

/// A raw writer that swaps two bytes of what it is given: what memory faults do.
struct Faulty;

impl Encode for Faulty {
    fn encode(&self, _at: GuestOffset, granule: &[u8], out: &mut Vec<u8>) -> Result<Encoding> {
        let before = out.len();
        out.extend_from_slice(granule);
        out[before..].reverse();
        Ok(Encoding::Encoded)
    }
}

struct FaultyWriter(Arc<dyn ByteSink>, u64);

impl DiskWrite for FaultyWriter {
    fn granule(&self) -> u64 {
        512
    }
    fn encoder(&self) -> Arc<dyn Encode> {
        Arc::new(Faulty)
    }
    fn place(&mut self, at: GuestOffset, _: Piece) -> Result<FileOffset> {
        Ok(FileOffset::new(at.get()))
    }
    fn write_zeroes(&mut self, _: GuestOffset, _: u64) -> Result<()> {
        Ok(())
    }
    fn finish(self: Box<Self>) -> Result<Written> {
        self.0.set_byte_len(self.1)?;
        Ok(Written { byte_len: self.1 })
    }
}

static FAULTY: Format = Format {
    id: "faulty",
    aliases: &[],
    extensions: &[],
    spec: "a raw writer with a fault",
    probe: |_| None,
    open: |source, _| Ok(Box::new(raw::RawImage::new(source))),
    create: Some(Create {
        options: &[],
        run: |sink, disk_len, _| Ok(Box::new(FaultyWriter(sink, disk_len))),
        streams: |_| true,
    }),
    checks: &[],
};

#[test]
fn an_output_that_differs_is_never_published() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("out.raw");
    let (disk, options, budget) = (sample(), options(&FAULTY), Budget::default());
    let error =
        write_file(plan(&disk, &dest, &FAULTY, &options, &budget), &is_unchanged, &Silent).unwrap_err();
    assert!(matches!(error.problem(), Some(OutputProblem::Differs { .. })), "{error}");
    assert_eq!(names(dir.path()), [""; 0]);
}

/// Where a stream's bytes arrive.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn job<'a>(disk: &'a ModelDisk, options: &'a Options, budget: &'a Budget) -> Job<'a> {
    Job {
        disk,
        format: &raw::FORMAT,
        options,
        threads: 3,
        content_digest: true,
        raw_digest: true,
        fingerprint: false,
        leaves: None,
        budget,
    }
}

#[test]
fn a_raw_stream_is_the_disk_with_its_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let (disk, options, budget, out) =
        (sample(), options(&raw::FORMAT), Budget::default(), Shared::default());
    write_stream(job(&disk, &options, &budget), Box::new(out.clone()), dir.path(), &Silent).unwrap();
    assert_eq!(*out.0.lock().unwrap(), disk.bytes());
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn a_stream_that_breaks_is_an_error() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let (disk, options, budget) = (sample(), options(&raw::FORMAT), Budget::default());
    let error =
        write_stream(job(&disk, &options, &budget), Box::new(Full(1 << 20)), Path::new("/tmp"), &Silent)
            .unwrap_err();
    assert!(matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::BrokenPipe));
}

#[test]
fn a_pipe_is_taken_into_an_unnamed_sparse_file() {
    use kiln_disk::ByteSource;
    let dir = tempfile::tempdir().unwrap();
    let disk = sample();
    let source = spool_input(&mut disk.bytes(), dir.path(), u64::MAX, &Silent).unwrap();
    let mut bytes = vec![0; disk.bytes().len()];
    assert_eq!(source.byte_len(), bytes.len() as u64);
    source.read_bytes(FileOffset::ZERO, &mut bytes).unwrap();
    assert!(bytes == disk.bytes());
    assert!(source.allocated_len().unwrap() < source.byte_len() / 2);
    assert_eq!(names(dir.path()), [""; 0]);
    let error = spool_input(&mut disk.bytes(), dir.path(), 1 << 20, &Silent).unwrap_err();
    assert_eq!(error.code(), "input.too-long");
}

/// Remembers what was written where, and refuses to go back.
#[derive(Default)]
struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

impl ByteSink for Recorder {
    fn write_bytes(&self, at: FileOffset, bytes: &[u8]) -> Result<()> {
        self.0.lock().unwrap().push((at.get(), bytes.to_vec()));
        Ok(())
    }
    fn set_byte_len(&self, _: u64) -> Result<()> {
        Ok(())
    }
    fn order(&self) -> WriteOrder {
        WriteOrder::Ascending
    }
}

#[test]
fn an_ascending_sink_is_only_ever_written_forward() {
    let (disk, options, budget) = (sample(), options(&raw::FORMAT), Budget::default());
    let recorder = Arc::new(Recorder::default());
    let sink: Arc<dyn ByteSink> = Arc::<Recorder>::clone(&recorder);
    write_container(job(&disk, &options, &budget), &sink, &Silent).unwrap();
    let writes = recorder.0.lock().unwrap();
    assert!(writes.len() > 10);
    assert!(writes.windows(2).all(|pair| pair[0].0 + pair[0].1.len() as u64 <= pair[1].0));
    let mut flat = vec![0; disk.bytes().len()];
    for (at, bytes) in writes.iter() {
        flat[*at as usize..*at as usize + bytes.len()].copy_from_slice(bytes);
    }
    assert!(flat == disk.bytes());
}

/// A granule of 2 MiB with data at both ends leaves a hole between them.
#[test]
fn zeros_inside_a_large_granule_are_not_written() {
    struct Large(u64);
    impl DiskWrite for Large {
        fn granule(&self) -> u64 {
            2 << 20
        }
        fn encoder(&self) -> Arc<dyn Encode> {
            Arc::new(StoreVerbatim)
        }
        fn place(&mut self, at: GuestOffset, _: Piece) -> Result<FileOffset> {
            Ok(FileOffset::new(at.get()))
        }
        fn write_zeroes(&mut self, _: GuestOffset, _: u64) -> Result<()> {
            Ok(())
        }
        fn finish(self: Box<Self>) -> Result<Written> {
            Ok(Written { byte_len: self.0 })
        }
    }
    static LARGE: Format = Format {
        id: "large",
        aliases: &[],
        extensions: &[],
        spec: "raw in granules of 2 MiB",
        probe: |_| None,
        open: |source, _| Ok(Box::new(raw::RawImage::new(source))),
        create: Some(Create { options: &[], run: |_, len, _| Ok(Box::new(Large(len))), streams: |_| true }),
        checks: &[],
    };
    let mut bytes = vec![0; 2 << 20];
    bytes[5] = 1;
    bytes[(2 << 20) - 9] = 1;
    let disk = ModelDisk::new(bytes, 4096);
    let recorder = Arc::new(Recorder::default());
    let sink: Arc<dyn ByteSink> = Arc::<Recorder>::clone(&recorder);
    let (options, budget) = (options(&LARGE), Budget::default());
    let mut job = job(&disk, &options, &budget);
    job.format = &LARGE;
    write_container(job, &sink, &Silent).unwrap();
    let written: Vec<_> = recorder.0.lock().unwrap().iter().map(|(at, bytes)| (*at, bytes.len())).collect();
    assert_eq!(written, [(0, 65_536), ((2 << 20) - 65_536, 65_536)]);
}
