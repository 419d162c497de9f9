//! A file that comes once: hashed on its way to whoever takes it apart.

use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kiln_disk::digest::{Algorithm, Digest, Hasher};
use kiln_disk::{Error, FileOffset, Observer, Result};
use kiln_format::wrap::ByteStream;

/// The passage of a file. Clones are of the same passage: one reads, the others ask what went by.
#[derive(Clone)]
pub(crate) struct Tap {
    passage: Arc<Passage>,
}

struct Passage {
    label: String,
    stopped: AtomicBool,
    state: Mutex<State>,
}

struct State {
    reader: Box<dyn Read + Send>,
    hashers: Vec<Running>,
    len: u64,
    /// What went by, as long as somebody may want it again.
    kept: Option<Vec<u8>>,
    /// The digests, once all of it has gone by.
    digests: Option<Vec<Digest>>,
}

/// A hash that is computed by a thread of its own.
struct Running {
    sender: SyncSender<Arc<[u8]>>,
    thread: JoinHandle<Option<Digest>>,
}

impl Tap {
    /// Lets `reader` pass; its bytes are kept until [`Tap::forget`].
    pub(crate) fn new(reader: Box<dyn Read + Send>, label: String, algorithms: &[Algorithm]) -> Result<Self> {
        let mut hashers = Vec::new();
        for algorithm in algorithms {
            let (sender, receiver) = sync_channel::<Arc<[u8]>>(8);
            let mut hasher = Hasher::new(*algorithm);
            let thread = std::thread::Builder::new()
                .name("checksum".to_owned())
                .spawn(move || {
                    for bytes in receiver {
                        hasher.update(&bytes);
                    }
                    hasher.finish()
                })
                .map_err(|source| Error::io("start", "a thread", source))?;
            hashers.push(Running { sender, thread });
        }
        let state = State { reader, hashers, len: 0, kept: Some(Vec::new()), digests: None };
        let passage = Passage { label, stopped: AtomicBool::new(false), state: Mutex::new(state) };
        Ok(Self { passage: Arc::new(passage) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.passage.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody will want again what went by.
    pub(crate) fn forget(&self) {
        self.lock().kept = None;
    }

    /// All that went by, and then the rest.
    pub(crate) fn from_the_start(&self) -> impl Read + Send + use<> {
        let kept = self.lock().kept.take().unwrap_or_default();
        io::Cursor::new(kept).chain(Rest(self.clone()))
    }

    /// Lets the rest go by.
    pub(crate) fn drain(&self, observer: &dyn Observer) -> Result<()> {
        let mut buffer = vec![0; 256 << 10];
        self.forget();
        while self.pass(&mut buffer)? > 0 {
            kiln_disk::go_on(observer)?;
        }
        Ok(())
    }

    /// Length and digests in the order asked for; none before all of it has gone by.
    pub(crate) fn digests(&self) -> Option<(u64, Vec<Digest>)> {
        let state = self.lock();
        state.digests.clone().map(|digests| (state.len, digests))
    }

    /// Ends the passage: whoever reads hears that it was cancelled.
    pub(crate) fn stop(&self) {
        self.passage.stopped.store(true, Ordering::Relaxed);
    }

    fn pass(&self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let mut state = self.lock();
        if state.digests.is_some() {
            return Ok(0);
        }
        let got = loop {
            if self.passage.stopped.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            match state.reader.read(buf) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Error::Io {
                        operation: "receive",
                        target: self.passage.label.clone(),
                        at: Some(FileOffset::new(state.len)),
                        source,
                    });
                }
                Ok(got) => break got,
            }
        };
        if got == 0 {
            let hashers = std::mem::take(&mut state.hashers);
            let finish = |running: Running| {
                drop(running.sender);
                running.thread.join().ok().flatten()
            };
            state.digests = Some(hashers.into_iter().filter_map(finish).collect());
            return Ok(0);
        }
        let bytes = buf.get(..got).unwrap_or_default();
        state.len = state.len.saturating_add(u64::try_from(got).unwrap_or(u64::MAX));
        if let Some(kept) = state.kept.as_mut() {
            kept.extend_from_slice(bytes);
        }
        if !state.hashers.is_empty() {
            let shared: Arc<[u8]> = Arc::from(bytes);
            for running in &state.hashers {
                // A hasher only hangs up by panicking; its digest is then missing, which is refused.
                let _ = running.sender.send(Arc::clone(&shared));
            }
        }
        Ok(got)
    }

    /// Does `work`, and stops the passage when the observer wishes so meanwhile: a silent pipe hears nothing.
    pub(crate) fn watched<T>(&self, observer: &dyn Observer, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if observer.is_cancelled() {
                        self.stop();
                    }
                    std::thread::park_timeout(Duration::from_millis(50));
                }
            });
            let result = work();
            done.store(true, Ordering::Relaxed);
            watch.thread().unpark();
            result
        })
    }
}

impl ByteStream for Tap {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        self.pass(buf)
    }
}

/// The rest of a passage, for who reads in the manner of the standard library.
struct Rest(Tap);

impl Read for Rest {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.pass(buf).map_err(|error| match error {
            Error::Io { source, .. } => source,
            // Told from others by whoever asked to stop.
            other => io::Error::other(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_disk::Silent;

    fn tap(bytes: &[u8]) -> Tap {
        let reader = Box::new(io::Cursor::new(bytes.to_vec()));
        Tap::new(reader, "x".to_owned(), &[Algorithm::Sha256, Algorithm::Md5]).unwrap()
    }

    #[test]
    fn what_went_by_is_hashed_once_and_can_be_had_again_until_forgotten() {
        let bytes: Vec<u8> = (0..700_001_u32).map(|n| (n % 251) as u8).collect();
        let mut one = tap(&bytes);
        one.read_some(&mut [0; 1000]).unwrap();
        let mut all = Vec::new();
        one.from_the_start().read_to_end(&mut all).unwrap();
        assert_eq!(all, bytes);
        let two = tap(&bytes);
        two.drain(&Silent).unwrap();
        let (len, digests) = one.digests().unwrap();
        assert_eq!(Some((len, digests.clone())), two.digests());
        assert_eq!(len, 700_001);
        let source = kiln_disk::MemorySource::new(bytes);
        let plain =
            kiln_disk::digest::hash_source(&source, &[Algorithm::Sha256, Algorithm::Md5], &Silent).unwrap();
        assert_eq!(digests, plain);
    }

    #[test]
    fn a_stopped_passage_is_cancelled_and_has_no_digests() {
        let mut tap = tap(b"abc");
        tap.stop();
        assert_eq!(tap.read_some(&mut [0; 2]).unwrap_err().code(), "cancelled");
        assert!(tap.digests().is_none());
    }
}
