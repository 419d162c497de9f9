//! bzip2: the format of bzip2 1.0.8, as libbz2 reads it.

use bzip2::{Decompress, Error as Bzip2Error, Status};
use kiln_disk::Result;

use super::input::{ByteStream, EmptyMembers, Input};
use super::problem::{bad_data, bad_header};

const ID: &str = "bzip2";

/// Whether a stream begins here: `BZh`, the block size, and a block's magic (pi) or the end's (its square root).
pub(super) fn matches(head: &[u8]) -> bool {
    let level = head.get(3).is_some_and(u8::is_ascii_digit) && head.get(3) != Some(&b'0');
    let behind = head.get(4..10).unwrap_or_default();
    head.starts_with(b"BZh") && level && (behind == b"1AY&SY" || behind == b"\x17\x72\x45\x38\x50\x90")
}

pub(super) struct Bzip2 {
    input: Input,
    decoder: Option<Decompress>,
    began: bool,
    ended: bool,
    empty: EmptyMembers,
}

/// Opens a bzip2 file.
pub(super) fn open(stream: Box<dyn ByteStream>) -> Box<dyn ByteStream> {
    Box::new(Bzip2 {
        input: Input::new(stream),
        decoder: None,
        began: false,
        ended: false,
        empty: EmptyMembers::default(),
    })
}

impl ByteStream for Bzip2 {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if self.ended {
                return Ok(0);
            }
            if self.decoder.is_none() {
                if self.began && !matches(self.input.look(10)?) {
                    self.input.only_padding(ID)?;
                    self.ended = true;
                    return Ok(0);
                }
                self.began = true;
            }
            let decoder = self.decoder.get_or_insert_with(|| Decompress::new(false));
            let input = self.input.fill()?;
            let at_end = input.is_empty();
            let (before_in, before_out) = (decoder.total_in(), decoder.total_out());
            let status = decoder.decompress(input, buf);
            let used = decoder.total_in().saturating_sub(before_in);
            let total = decoder.total_out();
            let made = usize::try_from(total.saturating_sub(before_out)).unwrap_or(usize::MAX);
            let at = self.input.at().saturating_add(used);
            self.input.consume(usize::try_from(used).unwrap_or(usize::MAX));
            match status {
                Ok(Status::StreamEnd) => {
                    self.decoder = None;
                    self.empty.ended(ID, total)?;
                }
                Ok(_) if at_end && made == 0 => return Err(self.input.cut(ID)),
                Ok(_) => {}
                Err(Bzip2Error::DataMagic) => return Err(bad_header(ID, at, "has another magic number")),
                Err(_) => return Err(bad_data(ID, at, "is damaged, or its checksum does not fit")),
            }
            if made > 0 {
                return Ok(made);
            }
        }
    }
}
