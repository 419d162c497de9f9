//! Plain digests of a file's bytes, several in one read.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

use super::value::{Algorithm, Digest};
use crate::buffer::PageBuffer;
use crate::error::Result;
use crate::observe::{Event, Observer, go_on};
use crate::offset::FileOffset;
use crate::source::{ByteSource, RunKind};

const READ_LEN: usize = 1 << 20;

/// Hashes all bytes of `source`, holes as zeros; answers in the order asked. Reading and hashing overlap.
///
/// # Errors
/// [`crate::Error::Io`], [`crate::Error::Cancelled`].
pub fn hash_source(
    source: &dyn ByteSource,
    algorithms: &[Algorithm],
    observer: &dyn Observer,
) -> Result<Vec<Digest>> {
    let total = source.byte_len();
    observer.event(Event::Started { phase: "checksum", total });
    let digests = std::thread::scope(|scope| {
        let (senders, hashers): (Vec<_>, Vec<_>) = algorithms
            .iter()
            .map(|algorithm| {
                let (sender, receiver) = sync_channel::<(Arc<PageBuffer>, usize)>(4);
                let mut hasher = Hasher::new(*algorithm);
                let handle = scope.spawn(move || {
                    for (bytes, len) in receiver {
                        hasher.update(bytes.get(..len).unwrap_or_default());
                    }
                    hasher.finish()
                });
                (sender, handle)
            })
            .unzip();
        let zeros = Arc::new(PageBuffer::new(READ_LEN));
        let mut at = FileOffset::ZERO;
        while let Some(run) = source.run_at(at)? {
            let end = at.saturating_add(run.len.get());
            while let Some(left) = end.bytes_since(at).filter(|left| *left > 0) {
                go_on(observer)?;
                let len = usize::try_from(left).unwrap_or(usize::MAX).min(READ_LEN);
                let bytes = match run.kind {
                    // Reading a hole would only fill the page cache with zeros.
                    RunKind::Hole => Arc::clone(&zeros),
                    RunKind::Data => {
                        let mut bytes = PageBuffer::new(len);
                        source.read_bytes(at, &mut bytes)?;
                        Arc::new(bytes)
                    }
                };
                for sender in &senders {
                    // A hasher only hangs up by panicking, which the scope carries on.
                    let _ = sender.send((Arc::clone(&bytes), len));
                }
                let moved = u64::try_from(len).unwrap_or(left);
                at = at.saturating_add(moved);
                observer.event(Event::Advanced { bytes: moved });
            }
        }
        drop(senders);
        Ok(hashers.into_iter().filter_map(|handle| handle.join().ok().flatten()).collect())
    })?;
    observer.event(Event::Finished);
    Ok(digests)
}

/// One running hash, for who has the bytes in hand anyway.
pub struct Hasher(State);

enum State {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
    Sha1(Sha1),
    Md5(Md5),
}

impl Hasher {
    /// A hash of no bytes yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Box::new(Sha512::new())),
            Algorithm::Sha1 => State::Sha1(Sha1::new()),
            Algorithm::Md5 => State::Md5(Md5::new()),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(hasher) => hasher.update(bytes),
            State::Sha512(hasher) => hasher.update(bytes),
            State::Sha1(hasher) => hasher.update(bytes),
            State::Md5(hasher) => hasher.update(bytes),
        }
    }

    /// The digest. There is always one: its length is the algorithm's own.
    #[must_use]
    pub fn finish(self) -> Option<Digest> {
        match self.0 {
            State::Sha256(hasher) => Digest::new(Algorithm::Sha256, hasher.finalize().to_vec()),
            State::Sha512(hasher) => Digest::new(Algorithm::Sha512, hasher.finalize().to_vec()),
            State::Sha1(hasher) => Digest::new(Algorithm::Sha1, hasher.finalize().to_vec()),
            State::Md5(hasher) => Digest::new(Algorithm::Md5, hasher.finalize().to_vec()),
        }
    }
}
