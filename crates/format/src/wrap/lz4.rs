//! lz4: "LZ4 Frame Format Description", version 1.6.4. Frames are taken apart here and blocks by `lz4_flex`, whose
//! own frame reader takes a file that is cut between two blocks for a whole one.

use kiln_disk::{Error, PageBuffer, Result};
use xxhash_rust::xxh32::{Xxh32, xxh32};

use super::input::{ByteStream, EmptyMembers, Input, read_full};
use super::problem::{bad_checksum, bad_data, bad_header, bad_length};
use super::zst::skippable;

const ID: &str = "lz4";
/// "Magic Number".
pub(super) const MAGIC: [u8; 4] = [0x04, 0x22, 0x4d, 0x18];
/// How far back a block may refer.
const WINDOW: usize = 64 << 10;

pub(super) struct Lz4 {
    input: Input,
    state: State,
    frame: Frame,
    /// What blocks of the frame may refer to, then the block that was decoded last.
    decoded: PageBuffer,
    /// Where the bytes not yet given begin and end in `decoded`.
    given: usize,
    filled: usize,
    packed: PageBuffer,
    hash: Xxh32,
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

/// What the frame descriptor says.
#[derive(Clone, Copy, Default)]
struct Frame {
    linked: bool,
    block_checksums: bool,
    content_checksum: bool,
    content_size: Option<u64>,
    block_len: usize,
}

/// Opens an lz4 file.
pub(super) fn open(stream: Box<dyn ByteStream>) -> Box<dyn ByteStream> {
    Box::new(Lz4 {
        input: Input::new(stream),
        state: State::First,
        frame: Frame::default(),
        decoded: PageBuffer::new(0),
        given: 0,
        filled: 0,
        packed: PageBuffer::new(0),
        hash: Xxh32::new(0),
        len: 0,
        empty: EmptyMembers::default(),
    })
}

/// The length of the content, where the first frame of `head` says it.
pub(super) fn content_size(head: &[u8]) -> Option<u64> {
    let flags = *head.strip_prefix(&MAGIC)?.first()?;
    let size = head.get(6..)?.first_chunk::<8>()?;
    (flags & 8 != 0).then(|| u64::from_le_bytes(*size))
}

impl Lz4 {
    /// "Frame Descriptor".
    fn header(&mut self) -> Result<()> {
        let at = self.input.at();
        let magic = self.input.take::<4>(ID)?;
        if magic != MAGIC {
            return Err(bad_header(ID, at, "has another magic number"));
        }
        let [flags, descriptor] = self.input.take::<2>(ID)?;
        let mut hashed = vec![flags, descriptor];
        let flags_at = at.saturating_add(4);
        // FLG: version 01, B.Indep, B.Checksum, C.Size, C.Checksum, reserved, DictID.
        if flags >> 6 != 1 {
            return Err(bad_header(ID, flags_at, "is of another version"));
        }
        if flags & 2 != 0 || descriptor & 0x8f != 0 {
            return Err(bad_header(ID, flags_at, "has reserved bits set"));
        }
        let block_len = match (descriptor >> 4) & 7 {
            4 => 64 << 10,
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => {
                return Err(bad_header(
                    ID,
                    flags_at.saturating_add(1),
                    "has a block size that is not defined",
                ));
            }
        };
        let content_size = if flags & 8 == 0 {
            None
        } else {
            let size = self.input.take::<8>(ID)?;
            hashed.extend(size);
            Some(u64::from_le_bytes(size))
        };
        if flags & 1 != 0 {
            return Err(Error::Unsupported {
                code: "wrap.lz4.dictionary",
                feature: "an lz4 file that was packed with a dictionary".to_owned(),
                hint: "unpack it with lz4 -d -D DICTIONARY",
            });
        }
        let check_at = self.input.at();
        let [stored] = self.input.take::<1>(ID)?;
        // HC: the second byte of the hash.
        let computed = (xxh32(&hashed, 0) >> 8) & 0xff;
        if u32::from(stored) != computed {
            return Err(bad_checksum(ID, check_at, "header checksum", stored.into(), computed));
        }
        self.frame = Frame {
            linked: flags & 0x20 == 0,
            block_checksums: flags & 0x10 != 0,
            content_checksum: flags & 4 != 0,
            content_size,
            block_len,
        };
        let wanted = WINDOW.saturating_add(block_len);
        if self.decoded.len() < wanted {
            self.decoded = PageBuffer::new(wanted);
            self.packed = PageBuffer::new(block_len);
        }
        (self.given, self.filled, self.len) = (0, 0, 0);
        self.hash.reset(0);
        self.state = State::Frame;
        Ok(())
    }

    /// Decodes the next block ("Data Blocks"), or ends the frame.
    fn block(&mut self) -> Result<()> {
        let at = self.input.at();
        let word = u32::from_le_bytes(self.input.take::<4>(ID)?);
        if word == 0 {
            return self.end_mark();
        }
        let (verbatim, len) = (word >> 31 == 1, usize::try_from(word & 0x7fff_ffff).unwrap_or(usize::MAX));
        if len > self.frame.block_len {
            return Err(bad_data(ID, at, "has a block that is longer than the header allows"));
        }
        // The window stays in front of the new block.
        let keep = if self.frame.linked { self.filled.min(WINDOW) } else { 0 };
        self.decoded.copy_within(self.filled.saturating_sub(keep)..self.filled, 0);
        let packed = self.packed.get_mut(..len).unwrap_or_default();
        let mut exact = Exactly { input: &mut self.input };
        if read_full(&mut exact, packed)? < len {
            return Err(self.input.cut(ID));
        }
        if self.frame.block_checksums {
            let check_at = self.input.at();
            let stored = u32::from_le_bytes(self.input.take::<4>(ID)?);
            let computed = xxh32(packed, 0);
            if stored != computed {
                return Err(bad_checksum(ID, check_at, "block checksum", stored, computed));
            }
        }
        let (window, space) = self.decoded.split_at_mut_checked(keep).unwrap_or_default();
        let space = space.get_mut(..self.frame.block_len).unwrap_or_default();
        let made = if verbatim {
            space.get_mut(..len).unwrap_or_default().copy_from_slice(packed);
            len
        } else {
            lz4_flex::block::decompress_into_with_dict(packed, space, window)
                .map_err(|_| bad_data(ID, at, "has a block that cannot be decoded"))?
        };
        (self.given, self.filled) = (keep, keep.saturating_add(made));
        self.len = self.len.saturating_add(u64::try_from(made).unwrap_or(0));
        if self.frame.content_checksum {
            self.hash.update(self.decoded.get(self.given..self.filled).unwrap_or_default());
        }
        Ok(())
    }

    /// "EndMark" and "Content Checksum".
    fn end_mark(&mut self) -> Result<()> {
        let at = self.input.at();
        if let Some(stored) = self.frame.content_size.filter(|stored| *stored != self.len) {
            return Err(bad_length(ID, at, stored, self.len));
        }
        if self.frame.content_checksum {
            let stored = u32::from_le_bytes(self.input.take::<4>(ID)?);
            let computed = self.hash.digest();
            if stored != computed {
                return Err(bad_checksum(ID, at, "content checksum", stored, computed));
            }
        }
        self.empty.ended(ID, self.len)?;
        self.state = State::Between;
        Ok(())
    }
}

/// An input as a stream.
struct Exactly<'a> {
    input: &'a mut Input,
}

impl ByteStream for Exactly<'_> {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        let ready = self.input.fill()?;
        let len = ready.len().min(buf.len());
        let (to, from) = (buf.get_mut(..len).unwrap_or_default(), ready.get(..len).unwrap_or_default());
        to.copy_from_slice(from);
        self.input.consume(len);
        Ok(len)
    }
}

impl ByteStream for Lz4 {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if self.given < self.filled {
                let ready = self.decoded.get(self.given..self.filled).unwrap_or_default();
                let len = ready.len().min(buf.len());
                let (to, from) =
                    (buf.get_mut(..len).unwrap_or_default(), ready.get(..len).unwrap_or_default());
                to.copy_from_slice(from);
                self.given = self.given.saturating_add(len);
                return Ok(len);
            }
            match self.state {
                State::End => return Ok(0),
                State::Frame => self.block()?,
                State::First | State::Between => {
                    let ahead = self.input.look(8)?;
                    if let Some(len) = skippable(ahead) {
                        self.input.skip(len, ID)?;
                        self.empty.ended(ID, 0)?;
                    } else if ahead.starts_with(&MAGIC) || self.state == State::First {
                        self.header()?;
                    } else {
                        self.input.only_padding(ID)?;
                        self.state = State::End;
                    }
                }
            }
        }
    }
}
