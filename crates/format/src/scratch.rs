//! Room for files inside a file that are compressed by themselves.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kiln_disk::{ByteSource, Error, Event, Observer, Result};

use crate::wrap::{MAX_DEPTH, Wrapped};

/// Where a format may unpack a part of its file, and how much of it. One for each file that is opened: what was
/// unpacked for one look is there for the next.
pub struct Scratch {
    dir: PathBuf,
    max_len: u64,
    threads: usize,
    stop: Arc<AtomicBool>,
    unpacked: Mutex<HashMap<String, Inside>>,
}

/// A part without its wrappers.
#[derive(Clone)]
pub(crate) struct Inside {
    pub(crate) source: Arc<dyn ByteSource>,
    /// Ids of the wrappers, the outermost first.
    pub(crate) wrappers: Vec<&'static str>,
}

impl Scratch {
    /// Room in `dir`, for at most `max_len` bytes a part. Work ends soon after `stop` is set.
    #[must_use]
    pub fn new(dir: PathBuf, max_len: u64, threads: usize, stop: Arc<AtomicBool>) -> Self {
        Self { dir, max_len, threads, stop, unpacked: Mutex::default() }
    }

    /// Bytes of temporary files so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        unpacked.values().map(|inside| inside.source.byte_len()).fold(0, u64::saturating_add)
    }

    /// Does `work`, and lets it hear the observer's wish to stop.
    pub fn watched<T>(&self, observer: &dyn Observer, work: impl FnOnce() -> T) -> T {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if observer.is_cancelled() {
                        self.stop.store(true, Ordering::Relaxed);
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

    /// The part of this name without its wrappers; `None` when it has none. At most `most` bytes of it are unpacked.
    ///
    /// # Errors
    /// As [`Wrapped::open`] and [`Wrapped::spool`].
    pub(crate) fn unpack(&self, name: &str, part: &Arc<dyn ByteSource>, most: u64) -> Result<Option<Inside>> {
        let mut unpacked = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inside) = unpacked.get(name) {
            return Ok(Some(inside.clone()));
        }
        let Some(wrapped) = Wrapped::open(part, self.threads)? else { return Ok(None) };
        let wrappers = wrapped.layers();
        debug_assert!(wrappers.len() <= MAX_DEPTH);
        let source = wrapped.spool(&self.dir, self.max_len.min(most), &Stop(&self.stop))?;
        let inside = Inside { source: Arc::new(source), wrappers };
        unpacked.insert(name.to_owned(), inside.clone());
        Ok(Some(inside))
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Observer for Stop<'_> {
    fn event(&self, _event: Event<'_>) {}

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The error for a part that would have to be unpacked where there is no room for it.
pub(crate) fn no_room(what: String) -> Error {
    Error::Unsupported {
        code: "ova.compression",
        feature: what,
        hint: "unpack the appliance with tar, decompress that file and import it alone",
    }
}
