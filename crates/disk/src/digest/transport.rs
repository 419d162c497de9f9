//! Plain digests of a file's bytes, several in one read.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use md5::Md5;
use sha2::{Digest as _, Sha256, Sha512};

use super::value::{Algorithm, Digest};
use crate::buffer::PageBuffer;
use crate::error::Result;
use crate::observe::{Event, Observer, go_on};
use crate::offset::FileOffset;
use crate::source::ByteSource;

const READ_LEN: u64 = 1 << 20;

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
                let (sender, receiver) = sync_channel::<Arc<PageBuffer>>(4);
                let mut hasher = Hasher::new(*algorithm);
                let handle = scope.spawn(move || {
                    for bytes in receiver {
                        hasher.update(&bytes);
                    }
                    hasher.finish()
                });
                (sender, handle)
            })
            .unzip();
        let mut at = 0;
        while at < total {
            go_on(observer)?;
            let len = READ_LEN.min(total.saturating_sub(at));
            let mut bytes = PageBuffer::new(usize::try_from(len).unwrap_or(0));
            source.read_bytes(FileOffset::new(at), &mut bytes)?;
            let bytes = Arc::new(bytes);
            for sender in &senders {
                // A hasher only hangs up by panicking, which the scope carries on.
                let _ = sender.send(Arc::clone(&bytes));
            }
            at = at.saturating_add(len);
            observer.event(Event::Advanced { bytes: len });
        }
        drop(senders);
        Ok(hashers.into_iter().filter_map(|handle| handle.join().ok().flatten()).collect())
    })?;
    observer.event(Event::Finished);
    Ok(digests)
}

/// One running hash.
enum Hasher {
    Sha256(Sha256),
    Sha512(Box<Sha512>),
    Md5(Md5),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Box::new(Sha512::new())),
            Algorithm::Md5 => Self::Md5(Md5::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
            Self::Md5(hasher) => hasher.update(bytes),
        }
    }

    fn finish(self) -> Option<Digest> {
        match self {
            Self::Sha256(hasher) => Digest::new(Algorithm::Sha256, hasher.finalize().to_vec()),
            Self::Sha512(hasher) => Digest::new(Algorithm::Sha512, hasher.finalize().to_vec()),
            Self::Md5(hasher) => Digest::new(Algorithm::Md5, hasher.finalize().to_vec()),
        }
    }
}
