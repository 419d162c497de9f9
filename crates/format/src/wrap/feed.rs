//! A stream decoded ahead by a thread of its own, in pieces, with a bounded number of them waiting.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kiln_disk::zero::is_zero;
use kiln_disk::{BufferPool, Error, PageBuffer, Result};

use super::chain::Watch;
use super::input::{ByteStream, read_full};

/// Length of a piece: the copy engine's chunk.
pub(super) const PIECE: usize = 1 << 20;
/// [`PIECE`] as a length on disk.
pub(super) const PIECE_LEN: u64 = 1 << 20;
/// How many pieces of data wait at most.
const WINDOW: usize = 12;

/// What a stream came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct End {
    pub(super) len: u64,
    /// Its last bytes, for probes.
    pub(super) tail: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// Pieces of data not yet taken, by their place; what is not here below `known` is zeros, or was taken.
    pieces: BTreeMap<u64, (PageBuffer, usize)>,
    /// Everything before is decoded.
    known: u64,
    end: Option<Result<End>>,
    /// The reader has gone.
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    pool: BufferPool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is at a place of the stream.
pub(super) enum At {
    /// A piece of data that begins there.
    Data {
        /// Its length in bytes.
        len: u64,
    },
    /// That many zeros, at least.
    Zeros {
        /// Their number.
        len: u64,
    },
    /// Nothing: the stream ended there.
    End,
}

/// The reading end.
pub(super) struct Feed {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Feed {
    /// Starts to decode. More than `max_len` bytes are an error.
    pub(super) fn start(stream: Box<dyn ByteStream>, max_len: u64) -> Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            pool: BufferPool::new(PIECE),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("unwrap".to_owned())
            .spawn(move || {
                let mut alarm = Alarm { shared: &theirs, done: false };
                let end = decode(stream, &theirs, max_len);
                theirs.lock().end = Some(end);
                alarm.done = true;
                theirs.changed.notify_all();
            })
            .map_err(|source| Error::io("start", "a thread", source))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Waits until something is known about byte `at`; `keep_waiting` is asked now and then.
    pub(super) fn look(&self, at: u64, keep_waiting: &dyn Fn() -> Result<()>) -> Result<At> {
        let mut state = self.shared.lock();
        loop {
            if let Some((start, (_, len))) = state.pieces.range(..=at).next_back() {
                let end = start.saturating_add(u64::try_from(*len).unwrap_or(0));
                if at < end {
                    return Ok(At::Data { len: end.saturating_sub(at) });
                }
            }
            let next = state.pieces.range(at..).next().map_or(state.known, |(start, _)| *start);
            if at < next {
                return Ok(At::Zeros { len: next.saturating_sub(at) });
            }
            match &state.end {
                Some(Ok(_)) => return Ok(At::End),
                Some(Err(error)) => return Err(again(error)),
                None => {}
            }
            state = self.wait(state);
            keep_waiting()?;
        }
    }

    /// Takes the piece that begins at `at`, which [`Feed::look`] showed.
    pub(super) fn take(&self, at: u64) -> Option<(PageBuffer, usize)> {
        let taken = self.shared.lock().pieces.remove(&at);
        self.shared.changed.notify_all();
        taken
    }

    /// Gives a buffer back.
    pub(super) fn put(&self, buffer: PageBuffer) {
        self.shared.pool.put(buffer);
    }

    /// Waits for the end: only then are all checksums compared. Pieces that nobody took are dropped.
    pub(super) fn finish(&self) -> Result<End> {
        let mut state = self.shared.lock();
        loop {
            state.pieces.clear();
            self.shared.changed.notify_all();
            match &state.end {
                Some(Ok(end)) => return Ok(end.clone()),
                Some(Err(error)) => return Err(again(error)),
                None => state = self.wait(state),
            }
        }
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let patience = Duration::from_millis(100);
        self.shared.changed.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the decoder was told to whoever waited for its bytes.
            let _ = thread.join();
        }
    }
}

/// Tells the reader when the decoder's thread panics; it would wait for ever.
struct Alarm<'a> {
    shared: &'a Shared,
    done: bool,
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if !self.done {
            let died = std::io::Error::other("the decoder's thread ended by itself");
            self.shared.lock().end = Some(Err(Error::io("unpack", "a compressed file", died)));
            self.shared.changed.notify_all();
        }
    }
}

fn decode(mut stream: Box<dyn ByteStream>, shared: &Shared, max_len: u64) -> Result<End> {
    let mut watch = Watch::default();
    loop {
        let zeros = stream.skip_zeros(PIECE_LEN)?;
        if zeros > 0 {
            watch.saw_zeros(zeros);
            confirm_len(watch.len, max_len)?;
            let mut state = shared.lock();
            if state.closed {
                return Err(Error::Cancelled);
            }
            state.known = watch.len;
            drop(state);
            shared.changed.notify_all();
            continue;
        }
        let mut buffer = shared.pool.take();
        let len = read_full(stream.as_mut(), &mut buffer)?;
        let bytes = buffer.get(..len).unwrap_or_default();
        watch.saw(bytes);
        confirm_len(watch.len, max_len)?;
        if len == 0 {
            return Ok(End { len: watch.len, tail: watch.tail });
        }
        let zeros = is_zero(bytes);
        let mut state = shared.lock();
        while !zeros && state.pieces.len() >= WINDOW && !state.closed {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return Err(Error::Cancelled);
        }
        let at = state.known;
        state.known = watch.len;
        if zeros {
            shared.pool.put(buffer);
        } else {
            state.pieces.insert(at, (buffer, len));
        }
        drop(state);
        shared.changed.notify_all();
    }
}

fn confirm_len(len: u64, allowed: u64) -> Result<()> {
    if len <= allowed {
        return Ok(());
    }
    Err(Error::Refused {
        code: "wrap.too-long",
        what: "bytes of what is inside".to_owned(),
        asked: len,
        allowed,
        hint: "allow a larger disk with --max-size, if you expect one",
    })
}

/// The same error once more: several threads may wait for the same bytes.
fn again(error: &Error) -> Error {
    match error {
        Error::Io { operation, target, at, source } => Error::Io {
            operation,
            target: target.clone(),
            at: *at,
            source: source.raw_os_error().map_or_else(
                || std::io::Error::new(source.kind(), source.to_string()),
                std::io::Error::from_raw_os_error,
            ),
        },
        Error::Malformed { structure, at, .. } => {
            match (error.problem::<super::WrapProblem>(), error.problem::<crate::vmdk::VmdkProblem>()) {
                (Some(problem), _) => Error::malformed(structure, *at, *problem),
                (None, Some(problem)) => Error::malformed(structure, *at, problem.clone()),
                (None, None) => Error::Unsupported {
                    code: error.code(),
                    feature: error.to_string(),
                    hint: error.hint().unwrap_or(""),
                },
            }
        }
        Error::Unsupported { code, feature, hint } => {
            Error::Unsupported { code, feature: feature.clone(), hint }
        }
        Error::Refused { code, what, asked, allowed, hint } => {
            Error::Refused { code, what: what.clone(), asked: *asked, allowed: *allowed, hint }
        }
        _ => Error::Cancelled,
    }
}
