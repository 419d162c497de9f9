//! Compressing clusters, on any thread.

use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Compression, FlushCompress, Status};
use kiln_disk::{Encode, Encoding, Error, GuestOffset, Result};

use super::options::Codec;

/// zlib's and zstd's own defaults, which are also QEMU's.
const ZLIB_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;
/// QEMU inflates with this window (inflateInit2(-12)) and readers may hold us to it.
const WINDOW_BITS: u8 = 12;

/// Compresses each cluster by itself; one that does not shrink stays as it is.
pub(super) struct Compressed {
    codec: Codec,
    cluster_size: usize,
    /// Compressors that no thread is using: their tables are large.
    idle: Mutex<Vec<Compressor>>,
}

enum Compressor {
    Zlib(Box<Compress>),
    Zstd(zstd::bulk::Compressor<'static>),
}

impl Compressed {
    pub(super) fn new(codec: Codec, cluster_size: u64) -> Self {
        let cluster_size = usize::try_from(cluster_size).unwrap_or(usize::MAX);
        Self { codec, cluster_size, idle: Mutex::new(Vec::new()) }
    }

    fn compressor(&self) -> Result<Compressor> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(compressor) = idle {
            return Ok(compressor);
        }
        Ok(match self.codec {
            Codec::Zlib => {
                let level = Compression::new(ZLIB_LEVEL);
                Compressor::Zlib(Box::new(Compress::new_with_window_bits(level, false, WINDOW_BITS)))
            }
            Codec::Zstd => Compressor::Zstd(
                zstd::bulk::Compressor::new(ZSTD_LEVEL)
                    .map_err(|source| Error::io("prepare", "the zstd compressor", source))?,
            ),
        })
    }
}

impl Compressor {
    /// Bytes written to `room`; `None` when it is too small.
    fn compress(&mut self, cluster: &[u8], room: &mut [u8]) -> Option<usize> {
        match self {
            Self::Zlib(zlib) => {
                zlib.reset();
                let status = zlib.compress(cluster, room, FlushCompress::Finish).ok()?;
                (status == Status::StreamEnd).then(|| usize::try_from(zlib.total_out()).ok())?
            }
            // The only error is a destination that is too small.
            Self::Zstd(zstd) => zstd.compress_to_buffer(cluster, room).ok(),
        }
    }
}

impl Encode for Compressed {
    fn encode(&self, _at: GuestOffset, granule: &[u8], out: &mut Vec<u8>) -> Result<Encoding> {
        let before = out.len();
        // The last cluster of a disk may be short; it is compressed whole.
        let padded: Vec<u8>;
        let cluster = if granule.len() < self.cluster_size {
            let mut bytes = granule.to_vec();
            bytes.resize(self.cluster_size, 0);
            padded = bytes;
            padded.as_slice()
        } else {
            granule
        };
        out.resize(before.saturating_add(self.cluster_size.saturating_sub(1)), 0);
        let mut compressor = self.compressor()?;
        let len = out.get_mut(before..).and_then(|room| compressor.compress(cluster, room));
        match len {
            Some(len) => {
                // Only a compressor that came to its end is used again: zlib-rs 0.6.8 keeps the read position of
                // its pending buffer over a reset, and a few clusters that did not fit make it panic.
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
                out.truncate(before.saturating_add(len));
                Ok(Encoding::Encoded)
            }
            None => {
                out.truncate(before);
                Ok(Encoding::Verbatim)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_that_do_not_shrink_leave_no_trace_in_those_that_follow() {
        let noise = |seed: u64| -> Vec<u8> {
            let mut x = seed;
            let step = |_| {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                x.to_le_bytes()[3]
            };
            (0..16_384).map(step).collect()
        };
        let text: Vec<u8> = (0..16_384_u32).map(|n| (n / 100).to_le_bytes()[0]).collect();
        for codec in [Codec::Zlib, Codec::Zstd] {
            let reference = {
                let mut out = Vec::new();
                assert_eq!(
                    Compressed::new(codec, 16_384).encode(GuestOffset::ZERO, &text, &mut out).unwrap(),
                    Encoding::Encoded
                );
                out
            };
            let encoder = Compressed::new(codec, 16_384);
            // A compressor that was given up on several times in a row is the one to fear.
            for round in 1..40 {
                let mut out = vec![9];
                for cluster in 0..round {
                    assert_eq!(
                        encoder.encode(GuestOffset::ZERO, &noise(round * 100 + cluster), &mut out).unwrap(),
                        Encoding::Verbatim
                    );
                    assert_eq!(out, [9], "nothing of a cluster stored as it is stays behind");
                }
                out.clear();
                encoder.encode(GuestOffset::ZERO, &text, &mut out).unwrap();
                assert!(out == reference, "after {round} clusters of noise");
            }
        }
    }
}
