//! Pipes at both ends.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::zero::is_zero;
use kiln_disk::{
    ByteSink, ByteSource, Durability, Error, Event, Existing, FileOffset, FileSink, FileSource, Observer,
    PageBuffer, Result, StagedFile, WriteOrder, go_on,
};

use super::engine::{Job, Outcome, write_container};
use super::file::{FilePlan, stage_file};

const BUFFER_LEN: usize = 1 << 20;
const HOLE_LEN: usize = 4096;
static ZEROS: [u8; 65_536] = [0; 65_536];

/// Writes a container to a pipe. A format that streams goes straight out; any other is written to an unnamed file
/// in `spool_dir`, proved there, and copied out.
///
/// # Errors
/// As [`write_container`] and [`stage_file`]; [`Error::Io`] when the pipe is closed early.
pub fn write_stream(
    job: Job<'_>,
    out: Box<dyn Write + Send>,
    spool_dir: &Path,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let pipe = Pipe { state: Mutex::new(PipeState { out, at: 0 }) };
    if job.format.create.is_some_and(|create| (create.streams)(job.options)) {
        let pipe = Arc::new(pipe);
        let sink: Arc<dyn ByteSink> = Arc::<Pipe>::clone(&pipe);
        let outcome = write_container(job, &sink, observer)?;
        pipe.flush()?;
        return Ok(outcome);
    }
    observer.event(Event::Note {
        text: "this format has tables that are known last: writing a temporary file first, then the pipe",
    });
    let spool = spool_dir.join("kiln-output");
    let plan = FilePlan {
        disk: job.disk,
        format: job.format,
        options: job.options,
        dest: &spool,
        existing: Existing::Replace,
        durability: Durability::Unsynced,
        read_back: true,
        threads: job.threads,
        content_digest: job.content_digest,
        raw_digest: job.raw_digest,
        // Spelled out so that the borrow may become shorter.
        leaves: match job.leaves {
            Some(leaves) => Some(leaves),
            None => None,
        },
        budget: job.budget,
    };
    let (staged, outcome) = stage_file(plan, observer)?;
    let clone = staged.file().try_clone().map_err(|source| Error::io("duplicate", SPOOL, source))?;
    copy_out(&FileSource::from_file(clone, SPOOL)?, &pipe, observer)?;
    pipe.flush()?;
    Ok(outcome)
}

const SPOOL: &str = "the temporary file";

fn copy_out(source: &FileSource, pipe: &Pipe, observer: &dyn Observer) -> Result<()> {
    let mut buffer = PageBuffer::new(BUFFER_LEN);
    let mut at = 0_u64;
    let len = source.byte_len();
    observer.event(Event::Started { phase: "send", total: len });
    while at < len {
        go_on(observer)?;
        let take = usize::try_from(len.saturating_sub(at)).unwrap_or(usize::MAX).min(BUFFER_LEN);
        let bytes = buffer.get_mut(..take).unwrap_or_default();
        source.read_bytes(FileOffset::new(at), bytes)?;
        pipe.write_bytes(FileOffset::new(at), bytes)?;
        let moved = u64::try_from(take).unwrap_or(u64::MAX);
        at = at.saturating_add(moved);
        observer.event(Event::Advanced { bytes: moved });
    }
    observer.event(Event::Finished);
    Ok(())
}

/// A pipe as a sink: positions only ascend, gaps are filled with zeros.
struct Pipe {
    state: Mutex<PipeState>,
}

struct PipeState {
    out: Box<dyn Write + Send>,
    at: u64,
}

impl PipeState {
    fn fill_to(&mut self, at: u64) -> Result<()> {
        let mut gap = at.checked_sub(self.at).ok_or_else(|| {
            // Only a writer that claims to stream and does not can get here.
            Error::io("write backwards into", PIPE, std::io::ErrorKind::NotSeekable)
        })?;
        while gap > 0 {
            let take = usize::try_from(gap).unwrap_or(usize::MAX).min(ZEROS.len());
            self.send(ZEROS.get(..take).unwrap_or_default())?;
            gap = gap.saturating_sub(u64::try_from(take).unwrap_or(gap));
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|source| Error::io("write to", PIPE, source))?;
        self.at = self.at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        Ok(())
    }
}

const PIPE: &str = "standard output";

impl Pipe {
    fn flush(&self) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.out.flush().map_err(|source| Error::io("write to", PIPE, source))
    }
}

impl ByteSink for Pipe {
    fn write_bytes(&self, at: FileOffset, bytes: &[u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.fill_to(at.get())?;
        state.send(bytes)
    }

    fn set_byte_len(&self, len: u64) -> Result<()> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).fill_to(len)
    }

    fn order(&self) -> WriteOrder {
        WriteOrder::Ascending
    }
}

/// Takes a pipe into an unnamed file in `dir`, zeros as holes, so that it can be read at any place. `limit` is the
/// most it may have in bytes.
///
/// # Errors
/// [`Error::Io`]; [`Error::Refused`] (`input.too-long`); [`Error::Cancelled`].
pub fn spool_input(
    input: &mut dyn Read,
    dir: &Path,
    limit: u64,
    observer: &dyn Observer,
) -> Result<FileSource> {
    const INPUT: &str = "standard input";
    let staged = StagedFile::beside(&dir.join("kiln-input"))?;
    let clone = || staged.file().try_clone().map_err(|source| Error::io("duplicate", SPOOL, source));
    let sink = FileSink::new(clone()?, SPOOL);
    let mut buffer = PageBuffer::new(BUFFER_LEN);
    let mut at = 0_u64;
    observer.event(Event::Started { phase: "receive", total: 0 });
    loop {
        go_on(observer)?;
        let got = match input.read(&mut buffer) {
            Ok(0) => break,
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(Error::io("read", INPUT, source)),
        };
        let mut here = at;
        for piece in buffer.get(..got).unwrap_or_default().chunks(HOLE_LEN) {
            if !is_zero(piece) {
                sink.write_bytes(FileOffset::new(here), piece)?;
            }
            here = here.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
        observer.event(Event::Advanced { bytes: here.saturating_sub(at) });
        at = here;
        if at > limit {
            return Err(Error::Refused {
                code: "input.too-long",
                what: "bytes on standard input".to_owned(),
                asked: at,
                allowed: limit,
                hint: "save it to a file first",
            });
        }
    }
    sink.set_byte_len(at)?;
    observer.event(Event::Finished);
    FileSource::from_file(clone()?, INPUT)
}
