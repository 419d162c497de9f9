//! xz: "The .xz File Format", version 1.2.1. Blocks are decoded on several threads by liblzma where their headers
//! give their sizes (as `xz -T` writes them) and memory allows it.

use kiln_disk::{Error, Result};
use liblzma::stream::{Action, Error as LzmaError, MtStreamBuilder, Status, Stream};

use super::input::{ByteStream, EmptyMembers, Input};
use super::problem::{bad_data, bad_header, too_much_memory};

const ID: &str = "xz";
/// Header Magic Bytes (2.1.1.1).
pub(super) const MAGIC: [u8; 6] = *b"\xfd7zXZ\0";

/// Memory for several threads together; with less, blocks are decoded one after the other.
const THREADED_MEMORY: u64 = 72 << 20;

pub(super) struct Xz {
    input: Input,
    threads: u32,
    decoder: Option<Stream>,
    began: bool,
    ended: bool,
    empty: EmptyMembers,
}

/// Opens an xz file.
pub(super) fn open(stream: Box<dyn ByteStream>, threads: usize) -> Box<dyn ByteStream> {
    let threads = u32::try_from(threads).unwrap_or(u32::MAX).clamp(1, 16);
    Box::new(Xz {
        input: Input::new(stream),
        threads,
        decoder: None,
        began: false,
        ended: false,
        empty: EmptyMembers::default(),
    })
}

impl Xz {
    fn start(&self) -> Result<Stream> {
        let made = if self.threads == 1 {
            Stream::new_stream_decoder(super::MEMORY, 0)
        } else {
            MtStreamBuilder::new()
                .threads(self.threads)
                .memlimit_threading(THREADED_MEMORY)
                .memlimit_stop(super::MEMORY)
                .decoder()
        };
        made.map_err(|error| self.fault(error))
    }

    /// What the library said, at the place up to which it has read.
    fn fault(&self, error: LzmaError) -> Error {
        let at = self.input.at();
        match error {
            LzmaError::MemLimit | LzmaError::Mem => too_much_memory(
                ID,
                self.decoder.as_ref().map_or(0, |_| super::MEMORY.saturating_add(1)),
                "its dictionary is unusually large: unpack it with xz -d, and pack it with xz -9 or less",
            ),
            LzmaError::Options => bad_header(ID, at, "asks for filters or options that no xz has"),
            LzmaError::Format => bad_header(ID, at, "has another magic number"),
            _ => bad_data(ID, at, "is damaged, or its check does not fit"),
        }
    }

    /// Between streams: Stream Padding (2.2) is zeros, a multiple of four of them.
    fn next_stream(&mut self) -> Result<()> {
        let from = self.input.at();
        loop {
            let ahead = self.input.look(MAGIC.len())?;
            if ahead.starts_with(&MAGIC) {
                break;
            }
            if ahead.first_chunk::<4>() != Some(&[0; 4]) {
                self.input.only_padding(ID)?;
                self.ended = true;
                break;
            }
            self.input.consume(4);
        }
        let padding = self.input.at().bytes_since(from).unwrap_or(0);
        if padding.checked_rem(4) != Some(0) {
            return Err(bad_data(ID, from, "is followed by padding that is no multiple of four bytes"));
        }
        Ok(())
    }
}

impl ByteStream for Xz {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if self.ended {
                return Ok(0);
            }
            if self.decoder.is_none() {
                if self.began {
                    self.next_stream()?;
                    if self.ended {
                        return Ok(0);
                    }
                }
                self.decoder = Some(self.start()?);
                self.began = true;
            }
            let Some(decoder) = self.decoder.as_mut() else { return Ok(0) };
            let input = self.input.fill()?;
            let at_end = input.is_empty();
            let action = if at_end { Action::Finish } else { Action::Run };
            let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
            let status = decoder.process(input, buf, action);
            let used = decoder.total_in().saturating_sub(before_in);
            let total = decoder.total_out();
            let made = usize::try_from(total.saturating_sub(before_out)).unwrap_or(usize::MAX);
            self.input.consume(usize::try_from(used).unwrap_or(usize::MAX));
            match status {
                Ok(Status::StreamEnd) => {
                    self.decoder = None;
                    self.empty.ended(ID, total)?;
                }
                Ok(Status::MemNeeded) if at_end && made == 0 => return Err(self.input.cut(ID)),
                Ok(_) => {}
                Err(LzmaError::Program) if at_end => return Err(self.input.cut(ID)),
                Err(error) => return Err(self.fault(error)),
            }
            if made > 0 {
                return Ok(made);
            }
        }
    }
}
