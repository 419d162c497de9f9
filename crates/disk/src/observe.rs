//! How long work tells what it is doing, and is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Something that happened in a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A phase starts. `total` is in bytes, 0 when unknown.
    Started {
        /// The phase, one word: "convert", "verify", "hash".
        phase: &'a str,
        /// Bytes that [`Event::Advanced`] will add up to.
        total: u64,
    },
    /// Some more bytes of the phase are done.
    Advanced {
        /// How many.
        bytes: u64,
    },
    /// The phase is over.
    Finished,
    /// Worth telling a person, not an error ("no hole map on this file system, reading everything").
    Note {
        /// One line.
        text: &'a str,
    },
}

/// Watches a job. Called from any thread, often: implementations return at once.
pub trait Observer: Send + Sync {
    /// Takes note of an event.
    fn event(&self, event: Event<'_>);

    /// Whether the job should stop; it then ends with [`Error::Cancelled`] and leaves nothing behind.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Watches nothing and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _event: Event<'_>) {}
}

/// Only carries a request to stop.
#[derive(Debug, Default)]
pub struct CancelFlag(AtomicBool);

impl CancelFlag {
    /// Asks the job to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Observer for CancelFlag {
    fn event(&self, _event: Event<'_>) {}

    fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Turns a wish to stop into an error, for use with `?`.
///
/// # Errors
/// [`Error::Cancelled`].
pub fn go_on(observer: &dyn Observer) -> Result<()> {
    if observer.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}
