//! Data that is stored in another form: read in long pieces, and kept for a while once decoded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::{ByteSource, FileOffset, Result};

use crate::wire::{as_bytes, in_memory};

/// Encoded data is read in pieces of this many bytes when several units of it are asked for.
pub(crate) const READ_AHEAD: u64 = 256 << 10;
/// Bytes of decoded units that are kept for reads of parts of one.
const DECODED_CAPACITY: usize = 4 << 20;

/// Bytes of the file around the encoded unit that was read last.
#[derive(Default)]
pub(crate) struct Window {
    at: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// The `len` bytes at `at`, which are in the file; reads up to `ahead` bytes in one go.
    ///
    /// # Errors
    /// Those of the source.
    pub(crate) fn bytes(&mut self, source: &dyn ByteSource, at: u64, len: u64, ahead: u64) -> Result<&[u8]> {
        let held = at
            .checked_sub(self.at)
            .and_then(|skip| skip.checked_add(len))
            .is_some_and(|end| end <= as_bytes(self.bytes.len()));
        if !held {
            let there = source.byte_len().saturating_sub(at);
            self.bytes.resize(in_memory(len.max(ahead).min(there)), 0);
            source.read_bytes(FileOffset::new(at), &mut self.bytes)?;
            self.at = at;
        }
        let skip = in_memory(at.saturating_sub(self.at));
        Ok(self.bytes.get(skip..).and_then(|bytes| bytes.get(..in_memory(len))).unwrap_or_default())
    }
}

/// A few decoded units, by the place of their encoded data: for reads smaller than a unit.
#[derive(Default)]
pub(crate) struct DecodedCache(Mutex<VecDeque<(u64, Arc<[u8]>)>>);

impl DecodedCache {
    pub(crate) fn get(&self, at: u64) -> Option<Arc<[u8]>> {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().find(|(held_at, _)| *held_at == at).map(|(_, bytes)| Arc::clone(bytes))
    }

    pub(crate) fn put(&self, at: u64, bytes: &Arc<[u8]>) {
        let most = DECODED_CAPACITY.checked_div(bytes.len()).unwrap_or(1).clamp(1, 64);
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while held.len() >= most {
            held.pop_front();
        }
        held.push_back((at, Arc::clone(bytes)));
    }
}
