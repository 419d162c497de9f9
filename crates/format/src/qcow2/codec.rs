//! Decoding compressed clusters: raw deflate and zstd, always from one buffer into one buffer.

use std::cell::RefCell;

use flate2::{Decompress, FlushDecompress, Status};
use libdeflater::{DecompressionError, Decompressor};
use zstd::zstd_safe::{DCtx, find_frame_compressed_size};

use super::header::Compression;

/// Why compressed data did not give a cluster; a phrase for messages.
pub(super) type Why = &'static str;

thread_local! {
    /// Decoders are expensive to make and cheap to reuse; one set per thread needs no lock.
    static DECODERS: RefCell<Decoders> = RefCell::new(Decoders::default());
}

#[derive(Default)]
struct Decoders {
    deflate: Option<Decompressor>,
    zstd: Option<DCtx<'static>>,
}

/// Fills all of `out` with what `data` decodes to. Bytes behind the end of the stream do not matter: the last
/// sector may hold the start of another cluster's data.
///
/// # Errors
/// The reason, when the data is damaged or too short for `out`.
pub(super) fn decode(compression: Compression, data: &[u8], out: &mut [u8]) -> Result<(), Why> {
    DECODERS.with_borrow_mut(|decoders| match compression {
        Compression::Deflate => decoders.deflate(data, out),
        Compression::Zstd => decoders.zstd(data, out),
    })
}

impl Decoders {
    fn deflate(&mut self, data: &[u8], out: &mut [u8]) -> Result<(), Why> {
        let decoder = self.deflate.get_or_insert_with(Decompressor::new);
        match decoder.deflate_decompress(data, out) {
            Ok(len) if len == out.len() => Ok(()),
            Ok(_) => Err("the deflate stream is too short"),
            // "Decompression stops when it has produced a cluster of data": a stream that goes on, or that is never
            // closed, is legal. The fast decoder wants a whole stream, the streaming one does not.
            Err(DecompressionError::InsufficientSpace | DecompressionError::BadData) => inflate(data, out),
        }
    }

    fn zstd(&mut self, data: &[u8], out: &mut [u8]) -> Result<(), Why> {
        if self.zstd.is_none() {
            self.zstd = DCtx::try_create();
        }
        let decoder = self.zstd.as_mut().ok_or("no memory for a zstd decoder")?;
        let (mut data, mut out) = (data, out);
        // Frame by frame into the final place: no window has to be kept, whatever size a frame asks for.
        while !out.is_empty() {
            let frame = find_frame_compressed_size(data)
                .ok()
                .and_then(|len| data.split_at_checked(len))
                .filter(|(frame, _)| !frame.is_empty());
            let Some((frame, rest)) = frame else { return Err("not a whole zstd frame") };
            let len = decoder.decompress(out, frame).map_err(|_| "the zstd frame is damaged or too long")?;
            data = rest;
            out = out.get_mut(len..).unwrap_or_default();
        }
        Ok(())
    }
}

fn inflate(data: &[u8], out: &mut [u8]) -> Result<(), Why> {
    let wanted = u64::try_from(out.len()).unwrap_or(u64::MAX);
    let mut stream = Decompress::new(false);
    match stream.decompress(data, out, FlushDecompress::Finish) {
        Ok(Status::Ok | Status::BufError | Status::StreamEnd) if stream.total_out() == wanted => Ok(()),
        Ok(_) => Err("the deflate stream is too short"),
        Err(_) => Err("the deflate stream is damaged"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression as Level;
    use flate2::write::DeflateEncoder;

    use super::decode;
    use crate::qcow2::header::Compression;

    fn sample(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n * n / 7) as u8).collect()
    }

    fn deflated(data: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Level::default());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn deflate_ignores_what_follows_the_stream() {
        let plain = sample(4096);
        let mut data = deflated(&plain);
        data.extend([0xff; 300]);
        let mut out = vec![0; 4096];
        assert_eq!(decode(Compression::Deflate, &data, &mut out), Ok(()));
        assert_eq!(out, plain);
    }

    #[test]
    fn deflate_streams_that_go_on_or_never_end_give_their_first_cluster() {
        let plain = sample(8192);
        let mut out = vec![0; 4096];
        assert_eq!(decode(Compression::Deflate, &deflated(&plain), &mut out), Ok(()));
        assert_eq!(out, plain[..4096]);
        // Without its final block.
        let mut encoder = DeflateEncoder::new(Vec::new(), Level::default());
        encoder.write_all(&plain[..4096]).unwrap();
        encoder.flush().unwrap();
        let open = encoder.get_ref().clone();
        assert_eq!(decode(Compression::Deflate, &open, &mut out), Ok(()));
        assert_eq!(out, plain[..4096]);
    }

    #[test]
    fn short_and_damaged_data_is_named() {
        let plain = sample(4095);
        let mut out = vec![0; 4096];
        assert_eq!(
            decode(Compression::Deflate, &deflated(&plain), &mut out),
            Err("the deflate stream is too short")
        );
        assert_eq!(decode(Compression::Deflate, &[0xff; 64], &mut out), Err("the deflate stream is damaged"));
        let short = zstd::bulk::compress(&plain, 3).unwrap();
        assert_eq!(decode(Compression::Zstd, &short, &mut out), Err("not a whole zstd frame"));
        let long = zstd::bulk::compress(&sample(5000), 3).unwrap();
        assert_eq!(decode(Compression::Zstd, &long, &mut out), Err("the zstd frame is damaged or too long"));
        assert_eq!(decode(Compression::Zstd, &[], &mut out), Err("not a whole zstd frame"));
    }

    #[test]
    fn zstd_reads_several_frames_and_ignores_what_follows() {
        let plain = sample(4096);
        let mut data = zstd::bulk::compress(&plain[..1000], 3).unwrap();
        data.extend([0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9]);
        data.extend(zstd::bulk::compress(&plain[1000..], 3).unwrap());
        data.extend([0xaa; 100]);
        let mut out = vec![0; 4096];
        assert_eq!(decode(Compression::Zstd, &data, &mut out), Ok(()));
        assert_eq!(out, plain);
    }
}
