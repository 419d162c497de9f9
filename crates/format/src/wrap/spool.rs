//! The content of a wrapper as a file that can be read at any place.

use std::path::Path;
use std::sync::Arc;

use kiln_disk::zero::is_zero;
use kiln_disk::{
    ByteSink, ByteSource, Error, Event, FileOffset, FileSink, FileSource, Observer, Result, StagedFile, go_on,
};

use super::MAX_DEPTH;
use super::chain::{Wrapped, too_deep};
use super::feed::{At, Feed};
use super::input::ByteStream;

/// Where to unpack, and how much.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The directory of the unnamed file.
    pub dir: &'a Path,
    /// The most bytes that the content may have.
    pub max_len: u64,
    /// Threads that a decoder may use.
    pub threads: usize,
}

/// What is inside all wrappers.
pub struct Unwrapped {
    /// The content.
    pub source: Arc<dyn ByteSource>,
    /// Ids of the wrappers, the outermost first.
    pub layers: Vec<&'static str>,
}

/// Takes the wrappers off a file. `None`: it has none.
///
/// # Errors
/// As [`Wrapped::open`] and [`Wrapped::spool`].
pub fn unwrap(
    source: &Arc<dyn ByteSource>,
    place: Place<'_>,
    observer: &dyn Observer,
) -> Result<Option<Unwrapped>> {
    let mut inside = Unwrapped { source: Arc::clone(source), layers: Vec::new() };
    loop {
        if let Some(wrapped) = Wrapped::open(&inside.source, place.threads)? {
            inside.layers.extend(wrapped.layers());
            too_many(&inside, source)?;
            observer.event(Event::Note { text: "unpacking into a temporary file first" });
            inside.source = Arc::new(wrapped.spool(place.dir, place.max_len, observer)?);
        } else {
            return Ok((!inside.layers.is_empty()).then_some(inside));
        }
    }
}

fn too_many(inside: &Unwrapped, source: &Arc<dyn ByteSource>) -> Result<()> {
    if inside.layers.len() > MAX_DEPTH { Err(too_deep(source.label())) } else { Ok(()) }
}

/// Runs of zeros of this length become holes.
const HOLE: usize = 4096;

/// Writes a stream into an unnamed file in `dir`.
pub(super) fn spool(
    stream: Box<dyn ByteStream>,
    label: String,
    dir: &Path,
    max_len: u64,
    observer: &dyn Observer,
) -> Result<FileSource> {
    let staged = StagedFile::beside(&dir.join("kiln-content"))?;
    let clone =
        || staged.file().try_clone().map_err(|source| Error::io("duplicate", "the temporary file", source));
    let sink = FileSink::new(clone()?, "the temporary file");
    let feed = Feed::start(stream, max_len)?;
    observer.event(Event::Started { phase: "unpack", total: 0 });
    let mut at = 0_u64;
    loop {
        go_on(observer)?;
        let len = match feed.look(at, &|| go_on(observer))? {
            At::End => break,
            At::Zeros { len } => len,
            At::Data { len } => {
                if let Some((buffer, filled)) = feed.take(at) {
                    write_data(&sink, at, buffer.get(..filled).unwrap_or_default())?;
                    feed.put(buffer);
                }
                len
            }
        };
        at = at.saturating_add(len);
        observer.event(Event::Advanced { bytes: len });
    }
    let end = feed.finish()?;
    sink.set_byte_len(end.len)?;
    observer.event(Event::Finished);
    FileSource::from_file(clone()?, label)
}

/// Writes the runs of a piece that are not zeros.
fn write_data(sink: &FileSink, at: u64, bytes: &[u8]) -> Result<()> {
    let mut run = 0..0_usize;
    let mut from = 0_usize;
    let write = |run: &std::ops::Range<usize>| {
        let data = bytes.get(run.clone()).unwrap_or_default();
        let to = at.saturating_add(u64::try_from(run.start).unwrap_or(0));
        if data.is_empty() { Ok(()) } else { sink.write_bytes(FileOffset::new(to), data) }
    };
    for part in bytes.chunks(HOLE) {
        let end = from.saturating_add(part.len());
        if !is_zero(part) {
            if run.end != from {
                write(&run)?;
                run.start = from;
            }
            run.end = end;
        }
        from = end;
    }
    write(&run)
}
