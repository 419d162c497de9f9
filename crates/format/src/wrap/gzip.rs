//! gzip: RFC 1952 (members), RFC 1951 (deflate).

use flate2::{Crc, Decompress, FlushDecompress, Status};
use kiln_disk::Result;

use super::input::{ByteStream, EmptyMembers, Input};
use super::problem::{bad_checksum, bad_data, bad_header, bad_length};

const ID: &str = "gzip";
/// ID1, ID2, CM (RFC 1952, 2.3.1): 8 is deflate, the only method there is.
pub(super) const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];

/// Longest name or comment that is passed over; the format has no limit.
const MAX_TEXT: u64 = 64 << 10;

pub(super) struct Gzip {
    input: Input,
    inflate: Decompress,
    crc: Crc,
    len: u64,
    state: State,
    empty: EmptyMembers,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the beginning of the first member.
    First,
    /// Inside one.
    Member,
    /// Behind one.
    Between,
    End,
}

/// Opens a gzip file.
pub(super) fn open(stream: Box<dyn ByteStream>) -> Box<dyn ByteStream> {
    Box::new(Gzip {
        input: Input::new(stream),
        inflate: Decompress::new(false),
        crc: Crc::new(),
        len: 0,
        state: State::First,
        empty: EmptyMembers::default(),
    })
}

/// A header as it is read, for FHCRC.
struct HeaderReader<'a> {
    input: &'a mut Input,
    crc: Crc,
}

impl HeaderReader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.input.take::<N>(ID)?;
        self.crc.update(&bytes);
        Ok(bytes)
    }

    /// A string that ends with NUL.
    fn text(&mut self) -> Result<()> {
        let from = self.input.at();
        let mut len = 0_u64;
        while self.take::<1>()? != [0] {
            len = len.saturating_add(1);
            if len > MAX_TEXT {
                return Err(bad_header(ID, from, "has a name or comment without an end"));
            }
        }
        Ok(())
    }
}

impl Gzip {
    /// RFC 1952, 2.3.
    fn header(&mut self) -> Result<()> {
        let at = self.input.at();
        let mut reader = HeaderReader { input: &mut self.input, crc: Crc::new() };
        let [id1, id2, method, flags, ..] = reader.take::<10>()?;
        if [id1, id2, method] != MAGIC {
            return Err(bad_header(ID, at, "has another magic number or method"));
        }
        // FTEXT 1, FHCRC 2, FEXTRA 4, FNAME 8, FCOMMENT 16; the rest must be zero.
        if flags & 0xe0 != 0 {
            return Err(bad_header(ID, at.saturating_add(3), "has reserved flags set"));
        }
        if flags & 4 != 0 {
            let extra_len = u16::from_le_bytes(reader.take::<2>()?);
            for _ in 0..extra_len {
                reader.take::<1>()?;
            }
        }
        if flags & 8 != 0 {
            reader.text()?;
        }
        if flags & 16 != 0 {
            reader.text()?;
        }
        if flags & 2 != 0 {
            // CRC16: the two least significant bytes of the CRC-32.
            let computed = reader.crc.sum() & 0xffff;
            let at = reader.input.at();
            let stored = u32::from(u16::from_le_bytes(reader.input.take::<2>(ID)?));
            if stored != computed {
                return Err(bad_checksum(ID, at, "CRC-16 of the header", stored, computed));
            }
        }
        self.inflate.reset(false);
        self.crc.reset();
        self.len = 0;
        self.state = State::Member;
        Ok(())
    }

    /// CRC32 and ISIZE (RFC 1952, 2.3.1).
    fn trailer(&mut self) -> Result<()> {
        let at = self.input.at();
        let stored = u32::from_le_bytes(self.input.take::<4>(ID)?);
        let isize = u32::from_le_bytes(self.input.take::<4>(ID)?);
        let computed = self.crc.sum();
        if stored != computed {
            return Err(bad_checksum(ID, at, "CRC-32", stored, computed));
        }
        // Modulo 2^32: for longer members only the low half is stored.
        let low = self.len & u64::from(u32::MAX);
        if u64::from(isize) != low {
            return Err(bad_length(ID, at.saturating_add(4), isize.into(), self.len));
        }
        self.empty.ended(ID, self.len)?;
        self.state = State::Between;
        Ok(())
    }

    /// Some bytes of the member; 0 when it ended with none.
    fn body(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            let input = self.input.fill()?;
            let at_end = input.is_empty();
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self.inflate.decompress(input, buf, FlushDecompress::None);
            let used = self.inflate.total_in().saturating_sub(before_in);
            let made = self.inflate.total_out().saturating_sub(before_out);
            let place = self.input.at().saturating_add(used);
            self.input.consume(usize::try_from(used).unwrap_or(usize::MAX));
            let made = usize::try_from(made).unwrap_or(usize::MAX);
            self.crc.update(buf.get(..made).unwrap_or_default());
            self.len = self.len.saturating_add(u64::try_from(made).unwrap_or(0));
            match status {
                Ok(Status::StreamEnd) => {
                    self.trailer()?;
                    return Ok(made);
                }
                Ok(_) if made > 0 => return Ok(made),
                Ok(_) if used > 0 => {}
                Ok(_) if at_end => return Err(self.input.cut(ID)),
                Ok(_) => return Err(bad_data(ID, place, "does not go on")),
                Err(_) => return Err(bad_data(ID, place, "is no deflate data")),
            }
        }
    }
}

impl ByteStream for Gzip {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            match self.state {
                State::End => return Ok(0),
                State::First => self.header()?,
                State::Between => {
                    // GNU gzip takes two magic bytes for a further member; with only one it is padding or garbage.
                    if self.input.look(MAGIC.len())?.starts_with(&MAGIC) {
                        self.header()?;
                    } else {
                        self.input.only_padding(ID)?;
                        self.state = State::End;
                    }
                }
                State::Member => match self.body(buf)? {
                    0 => {}
                    made => return Ok(made),
                },
            }
        }
    }
}
