//! zstd: RFC 8878 (frames, skippable frames).

use kiln_disk::{Error, FileOffset, Result};
use zstd::zstd_safe::{self, DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::input::{ByteStream, EmptyMembers, Input};
use super::problem::{bad_data, bad_header, too_much_memory};

const ID: &str = "zstd";
/// Magic_Number (3.1.1).
pub(super) const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Largest window: 64 MiB, what `zstd -19` and `--ultra -21` stay within.
const WINDOW_LOG: u32 = 26;

/// Length of a skippable frame (3.1.2) that begins here, header included.
pub(super) fn skippable(head: &[u8]) -> Option<u64> {
    let magic = u32::from_le_bytes(*head.first_chunk::<4>()?);
    let size = u32::from_le_bytes(*head.get(4..)?.first_chunk::<4>()?);
    (magic & 0xffff_fff0 == 0x184d_2a50).then(|| u64::from(size).saturating_add(8))
}

/// Whether the bytes begin with zstd frames, after skippable ones (pzstd begins with one).
pub(super) fn matches(head: &[u8]) -> bool {
    let mut rest = head;
    for _ in 0..16 {
        if rest.starts_with(&MAGIC) {
            return true;
        }
        let Some(len) = skippable(rest).and_then(|len| usize::try_from(len).ok()) else { return false };
        let Some(behind) = rest.get(len..) else { return false };
        rest = behind;
    }
    false
}

pub(super) struct Zstd {
    input: Input,
    decoder: DCtx<'static>,
    state: State,
    len: u64,
    empty: EmptyMembers,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Frame,
    Between,
    End,
}

/// Opens a zstd file.
pub(super) fn open(stream: Box<dyn ByteStream>) -> Result<Box<dyn ByteStream>> {
    let no_memory = || Error::io("unpack", "a zstd file", std::io::ErrorKind::OutOfMemory);
    let mut decoder = DCtx::try_create().ok_or_else(no_memory)?;
    decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG)).map_err(|_| no_memory())?;
    Ok(Box::new(Zstd {
        input: Input::new(stream),
        decoder,
        state: State::First,
        len: 0,
        empty: EmptyMembers::default(),
    }))
}

impl Zstd {
    /// What the library said about the bytes at `at`.
    fn fault(at: FileOffset, code: usize) -> Error {
        match zstd_safe::get_error_name(code) {
            "Frame requires too much memory for decoding" => too_much_memory(
                ID,
                0,
                "its window is unusually large: unpack it with zstd -d --long=31, and pack it without --long",
            ),
            "Dictionary mismatch" => Error::Unsupported {
                code: "wrap.zstd.dictionary",
                feature: "a zstd file that was packed with a dictionary".to_owned(),
                hint: "unpack it with zstd -d -D DICTIONARY",
            },
            "Restored data doesn't match checksum" => bad_data(ID, at, "does not fit its checksum"),
            "Unknown frame descriptor" => bad_header(ID, at, "has another magic number"),
            "Unsupported frame parameter" | "Unsupported parameter" => {
                bad_header(ID, at, "has reserved bits set")
            }
            _ => bad_data(ID, at, "is damaged"),
        }
    }
}

impl ByteStream for Zstd {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            match self.state {
                State::End => return Ok(0),
                State::First | State::Between => {
                    let ahead = self.input.look(8)?;
                    let more = ahead.starts_with(&MAGIC) || skippable(ahead).is_some();
                    if !more && self.state == State::Between {
                        self.input.only_padding(ID)?;
                        self.state = State::End;
                        continue;
                    }
                    // A frame that did not end may have left something behind.
                    let _ = self.decoder.reset(ResetDirective::SessionOnly);
                    self.len = 0;
                    self.state = State::Frame;
                }
                State::Frame => {
                    let input = self.input.fill()?;
                    let at_end = input.is_empty();
                    let mut from = InBuffer::around(input);
                    let mut to = OutBuffer::around(&mut *buf);
                    let done = self.decoder.decompress_stream(&mut to, &mut from);
                    let (used, made) = (from.pos(), to.pos());
                    let at = self.input.at().saturating_add(u64::try_from(used).unwrap_or(0));
                    self.input.consume(used);
                    self.len = self.len.saturating_add(u64::try_from(made).unwrap_or(0));
                    match done {
                        Ok(0) => {
                            self.empty.ended(ID, self.len)?;
                            self.state = State::Between;
                        }
                        Ok(_) if at_end && made == 0 => return Err(self.input.cut(ID)),
                        Ok(_) => {}
                        Err(code) => return Err(Self::fault(at, code)),
                    }
                    if made > 0 {
                        return Ok(made);
                    }
                }
            }
        }
    }
}
