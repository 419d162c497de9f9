//! A wrapper's content as far as it has to be unpacked to say what it is.

use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::{ByteSource, Error, FileOffset, Result};

use super::input::{ByteStream, read_full};
use super::{MAX_DEPTH, Wrapped};
use crate::identify::Identity;
use crate::wire::{as_bytes, in_memory};

/// The most that is unpacked: headers and first tables of any container.
const MAX_SEEN: u64 = 16 << 20;
/// Unit of unpacking.
const STEP: u64 = 256 << 10;
/// Stands for a length that nobody knows: more than any file has.
const UNKNOWN_LEN: u64 = 1 << 62;

/// What is inside a wrapper, seen from its beginning.
pub struct Peeked {
    /// Ids of the wrappers, the outermost first.
    pub layers: Vec<&'static str>,
    /// What the content is, as far as its beginning tells.
    pub identity: Identity,
    /// Its length as the wrapper claims it.
    pub claimed_len: Option<u64>,
    /// Whether all of it was looked at.
    pub whole: bool,
    /// The content. Reads behind what is unpacked for a look are refused (`wrap.peek`).
    pub source: Arc<dyn ByteSource>,
    beginning: Arc<Beginning>,
}

impl Peeked {
    /// Bytes that were unpacked.
    #[must_use]
    pub fn seen(&self) -> u64 {
        as_bytes(self.beginning.lock().bytes.len())
    }
}

/// Looks into a file that is wrapped; `None` for any other.
///
/// # Errors
/// As [`Wrapped::open`].
pub fn peek(source: &Arc<dyn ByteSource>) -> Result<Option<Peeked>> {
    // One thread: a parallel decoder would work ahead of what is needed.
    let Some(wrapped) = Wrapped::open(source, 1)? else { return Ok(None) };
    let (layers, identity, claimed_len) = (wrapped.layers(), wrapped.identity(), wrapped.claimed_len()?);
    debug_assert!(layers.len() <= MAX_DEPTH);
    let whole = wrapped.is_whole();
    let beginning = Arc::new(Beginning {
        len: claimed_len.unwrap_or(UNKNOWN_LEN),
        label: source.label().to_owned(),
        state: Mutex::new(State { bytes: wrapped.head().to_vec(), rest: wrapped.into_rest() }),
    });
    let source = Arc::<Beginning>::clone(&beginning);
    Ok(Some(Peeked { layers, identity, claimed_len, whole, source, beginning }))
}

/// The beginning of a content, unpacked as it is asked for.
struct Beginning {
    len: u64,
    label: String,
    state: Mutex<State>,
}

struct State {
    bytes: Vec<u8>,
    rest: Box<dyn ByteStream>,
}

impl Beginning {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Unpacks up to byte `end`, or to the end of the content.
    fn reach(&mut self, end: u64) -> Result<()> {
        while as_bytes(self.bytes.len()) < end {
            let had = self.bytes.len();
            let step = end.saturating_sub(as_bytes(had)).max(STEP);
            self.bytes.resize(had.saturating_add(in_memory(step)), 0);
            let got = read_full(self.rest.as_mut(), self.bytes.get_mut(had..).unwrap_or_default())?;
            self.bytes.truncate(had.saturating_add(got));
            if as_bytes(got) < step {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl ByteSource for Beginning {
    fn byte_len(&self) -> u64 {
        self.len
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        let end = at.get().saturating_add(as_bytes(buf.len()));
        if end > MAX_SEEN {
            return Err(Error::Refused {
                code: "wrap.peek",
                what: "bytes to unpack for a look".to_owned(),
                asked: end,
                allowed: MAX_SEEN,
                hint: "unpack all of it",
            });
        }
        let mut state = self.lock();
        state.reach(end)?;
        match state.bytes.get(in_memory(at.get())..in_memory(end)) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(Error::Io {
                operation: "read",
                target: self.label.clone(),
                at: Some(at),
                source: std::io::ErrorKind::UnexpectedEof.into(),
            }),
        }
    }

    fn label(&self) -> &str {
        &self.label
    }
}
