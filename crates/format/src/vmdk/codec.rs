//! Decoding compressed grains: zlib streams (RFC 1950), from one buffer into one buffer.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::{DecompressionError, Decompressor};

use crate::wire::as_bytes;

/// Why compressed data did not give a grain; a phrase for messages.
pub(super) type Why = &'static str;

thread_local! {
    /// Decoders are expensive to make and cheap to reuse; one per thread needs no lock.
    static DECODER: RefCell<Option<Decompressor>> = const { RefCell::new(None) };
}

/// Decodes one stream to the start of `out` and answers how many bytes it gave. Bytes behind the end of the stream
/// do not matter: where there are no markers nobody knows its length.
///
/// # Errors
/// The reason, when the data is damaged, cut off, or gives more than `out` holds.
pub(super) fn decode(data: &[u8], out: &mut [u8]) -> Result<usize, Why> {
    DECODER.with_borrow_mut(|decoder| {
        let decoder = decoder.get_or_insert_with(Decompressor::new);
        match decoder.zlib_decompress(data, out) {
            Ok(len) => Ok(len),
            // The fast decoder does not tell these apart well, and takes the last four bytes that it is given for the
            // checksum's only place.
            Err(DecompressionError::InsufficientSpace | DecompressionError::BadData) => inflate(data, out),
        }
    })
}

fn inflate(data: &[u8], out: &mut [u8]) -> Result<usize, Why> {
    let mut stream = Decompress::new(true);
    match stream.decompress(data, out, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => {
            usize::try_from(stream.total_out()).map_err(|_| "it gives more than a grain")
        }
        Ok(_) if stream.total_in() < as_bytes(data.len()) => Err("it gives more than a grain"),
        Ok(_) => Err("the zlib stream does not end"),
        Err(_) => Err("the zlib stream is damaged"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::decode;

    fn deflated(data: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn whole_short_and_followed_streams_give_their_bytes() {
        let plain: Vec<u8> = (0..4096_u32).map(|n| (n * n / 7) as u8).collect();
        let mut out = vec![0; 4096];
        for tail in [0, 1, 4, 500] {
            let mut data = deflated(&plain);
            data.extend(vec![0xff; tail]);
            assert_eq!(decode(&data, &mut out), Ok(4096), "{tail} bytes behind it");
            assert_eq!(out, plain);
        }
        assert_eq!(decode(&deflated(&plain[..1000]), &mut out), Ok(1000));
    }

    #[test]
    fn damage_is_named() {
        let plain = vec![7; 4097];
        let mut out = vec![0; 4096];
        assert_eq!(decode(&deflated(&plain), &mut out), Err("it gives more than a grain"));
        let mut data = deflated(&plain[..4096]);
        let last = data.len() - 1;
        data[last] ^= 1;
        assert_eq!(decode(&data, &mut out), Err("the zlib stream is damaged"));
        data.truncate(last);
        assert_eq!(decode(&data, &mut out), Err("the zlib stream does not end"));
        assert_eq!(decode(&[], &mut out), Err("the zlib stream does not end"));
    }
}
