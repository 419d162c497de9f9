//! Compressing clusters, on any thread.

use std::sync::{Mutex, PoisonError};

use flate2::{Compress, Compression, FlushCompress, Status};
use kiln_disk::{Encode, Encoding, Error, Result};

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
    fn encode(&self, granule: &[u8], out: &mut Vec<u8>) -> Result<Encoding> {
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
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(compressor);
        match len {
            Some(len) => {
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
