//! The compressions of squashfs 4.0. Whatever is packed, no more comes out than was asked for.

use std::io::Read;

use kiln_disk::interned::Word;

use super::super::{FsError, Result};

/// The memory that a decoder of xz or LZMA may take: the dictionary is as long as a block, 1 MiB at most.
const MEMORY: u64 = 32 << 20;

/// How blocks are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Lzma,
    Lzo,
    Xz,
    Lz4,
    Zstd,
}

impl Compression {
    /// By its number in the superblock.
    pub(super) fn of(number: u16) -> Result<Self> {
        Ok(match number {
            1 => Self::Gzip,
            2 => Self::Lzma,
            3 => Self::Lzo,
            4 => Self::Xz,
            5 => Self::Lz4,
            6 => Self::Zstd,
            other => return Err(FsError::Unsupported(format!("squashfs with compression {other}"))),
        })
    }

    /// As mksquashfs calls it.
    pub(super) const fn word(self) -> Word {
        match self {
            Self::Gzip => "gzip",
            Self::Lzma => "lzma",
            Self::Lzo => "lzo",
            Self::Xz => "xz",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// Unpacks a block of at most `limit` bytes; why not, in words.
    pub(super) fn unpack(self, packed: &[u8], limit: usize) -> std::result::Result<Vec<u8>, String> {
        let told = |error: std::io::Error| format!("cannot be unpacked ({}): {error}", self.word());
        let lzma = |stream: std::result::Result<liblzma::stream::Stream, liblzma::stream::Error>| {
            let stream = stream.map_err(|error| told(error.into()))?;
            bounded(liblzma::bufread::XzDecoder::new_stream(packed, stream), limit).map_err(told)
        };
        let bytes = match self {
            Self::Gzip => bounded(flate2::bufread::ZlibDecoder::new(packed), limit).map_err(told)?,
            Self::Xz => lzma(liblzma::stream::Stream::new_stream_decoder(MEMORY, 0))?,
            Self::Lzma => lzma(liblzma::stream::Stream::new_lzma_decoder(MEMORY))?,
            Self::Zstd => zstd::bulk::decompress(packed, limit).map_err(told)?,
            Self::Lz4 => {
                let mut bytes = vec![0; limit];
                let len = lz4_flex::block::decompress_into(packed, &mut bytes);
                bytes.truncate(len.map_err(|error| told(std::io::Error::other(error)))?);
                bytes
            }
            Self::Lzo => super::lzo::unpack(packed, limit)
                .ok_or_else(|| told(std::io::ErrorKind::InvalidData.into()))?,
        };
        if bytes.len() > limit {
            return Err(format!("unpacks to more than {limit} bytes"));
        }
        Ok(bytes)
    }
}

/// All that comes out, but not more than one byte over the limit.
fn bounded(decoder: impl Read, limit: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    decoder.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}
