//! The compressions that Linux knows for an initramfs (`lib/decompress.c`), as streams.

use std::io::{BufRead, Read};

/// The largest block of the LZ4 legacy frame (`lz4 -l`), unpacked.
const LZ4_BLOCK: usize = 8 << 20;

/// Names what begins with `head`.
pub(super) fn name(head: &[u8]) -> Option<&'static str> {
    let all: [(&[u8], &str); 9] = [
        (b"070701", "none"),
        (b"070702", "none"),
        (&[0x1f, 0x8b], "gzip"),
        (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
        (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
        (&[0x02, 0x21, 0x4c, 0x18], "lz4"),
        (b"BZh", "bzip2"),
        (&[0x5d, 0, 0], "lzma"),
        (&[0x89, b'L', b'Z', b'O'], "lzo"),
    ];
    all.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, name)| *name)
}

/// The check of an xz stream that the kernel's reader refuses (the .xz file format 1.2, section 2.1.1.2: stream flags;
/// `lib/xz/xz_dec_stream.c`: none and CRC32 are known). It is what `xz` itself takes when nothing else is asked for.
pub(super) fn unknown_check(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xfd, b'7', b'z', b'X', b'Z', 0, 0, check, ..] => match check {
            0 | 1 => None,
            4 => Some("CRC64"),
            10 => Some("SHA-256"),
            _ => Some("a check without a name"),
        },
        _ => None,
    }
}

/// Gives the unpacked bytes of one stream to `work`. What follows the stream stays in `input`.
pub(super) fn run(
    compression: &str,
    input: &mut impl BufRead,
    work: impl FnOnce(&mut dyn Read) -> Result<(), String>,
) -> Result<(), String> {
    let told = |error: std::io::Error| error.to_string();
    match compression {
        "gzip" => finish(flate2::bufread::GzDecoder::new(input), work),
        "xz" => finish(liblzma::bufread::XzDecoder::new_stream(input, limited(false)?), work),
        "lzma" => finish(liblzma::bufread::XzDecoder::new_stream(input, limited(true)?), work),
        "bzip2" => finish(bzip2::bufread::BzDecoder::new(input), work),
        "zstd" => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(told)?.single_frame();
            // 128 MiB: what `zstd --ultra -22` asks for.
            decoder.window_log_max(27).map_err(told)?;
            finish(decoder, work)
        }
        "lz4" => finish(Lz4Legacy { input, block: Vec::new(), at: 0, started: false }, work),
        other => Err(format!("{other} is not read here")),
    }
}

fn limited(old: bool) -> Result<liblzma::stream::Stream, String> {
    const MEMORY: u64 = 256 << 20;
    let stream = if old {
        liblzma::stream::Stream::new_lzma_decoder(MEMORY)
    } else {
        liblzma::stream::Stream::new_stream_decoder(MEMORY, 0)
    };
    stream.map_err(|error| error.to_string())
}

/// Lets `work` read, then reads what is left, so that the input stands behind the stream.
fn finish(
    mut decoder: impl Read,
    work: impl FnOnce(&mut dyn Read) -> Result<(), String>,
) -> Result<(), String> {
    work(&mut decoder)
}

/// The frame that `lz4 -l` writes: a magic, then blocks with their lengths, until the end or another magic.
struct Lz4Legacy<'a, R> {
    input: &'a mut R,
    block: Vec<u8>,
    at: usize,
    started: bool,
}

impl<R: BufRead> Lz4Legacy<'_, R> {
    /// Reads the next block; false at the end.
    fn next(&mut self) -> std::io::Result<bool> {
        let bad = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
        let mut word = [0_u8; 4];
        if !self.started {
            self.input.read_exact(&mut word)?;
            self.started = true;
        }
        // What follows the last block is the end, padding, or another archive, none of which is a length.
        let ahead = self.input.fill_buf()?;
        if ahead.is_empty() || ahead.first() == Some(&0) && ahead.get(..4) == Some(&[0; 4]) {
            return Ok(false);
        }
        if ahead.starts_with(b"0707") {
            return Ok(false);
        }
        if ahead.starts_with(&[0x02, 0x21, 0x4c, 0x18]) {
            self.started = false;
            return self.next_frame();
        }
        self.input.read_exact(&mut word)?;
        let len = usize::try_from(u32::from_le_bytes(word)).unwrap_or(usize::MAX);
        if len > LZ4_BLOCK.saturating_add(LZ4_BLOCK / 255).saturating_add(16) {
            return Err(bad("an lz4 block longer than 8 MiB"));
        }
        let mut packed = vec![0; len];
        self.input.read_exact(&mut packed)?;
        self.block.resize(LZ4_BLOCK, 0);
        let unpacked = lz4_flex::block::decompress_into(&packed, &mut self.block)
            .map_err(|error| bad(&format!("an lz4 block that cannot be unpacked: {error}")))?;
        self.block.truncate(unpacked);
        self.at = 0;
        Ok(unpacked > 0)
    }

    /// A frame behind a frame: takes its magic and goes on.
    fn next_frame(&mut self) -> std::io::Result<bool> {
        let mut magic = [0_u8; 4];
        self.input.read_exact(&mut magic)?;
        self.started = true;
        Ok(true)
    }
}

impl<R: BufRead> Read for Lz4Legacy<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        while self.at >= self.block.len() {
            if !self.next()? {
                return Ok(0);
            }
        }
        let rest = self.block.get(self.at..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        if let (Some(target), Some(source)) = (buf.get_mut(..len), rest.get(..len)) {
            target.copy_from_slice(source);
        }
        self.at = self.at.saturating_add(len);
        Ok(len)
    }
}
