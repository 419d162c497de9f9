//! Bytes that come once, front to back, and how decoders take them.

use std::sync::Arc;

use kiln_disk::zero::is_zero;
use kiln_disk::{ByteSource, Error, FileOffset, PageBuffer, Result};

use super::problem::{WrapProblem, structure, truncated};

/// Bytes that come once, front to back.
pub trait ByteStream: Send {
    /// Fills the beginning of `buf`; answers how many bytes, 0 only at the end and for an empty `buf`.
    ///
    /// # Errors
    /// Whatever the bytes come from; the stream is then of no further use.
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize>;

    /// Passes over zeros that need not be produced to be known: answers how many bytes, a multiple of `unit`; 0 when
    /// less than one unit of them is next, or when nobody knows.
    ///
    /// # Errors
    /// As [`ByteStream::read_some`].
    fn skip_zeros(&mut self, _unit: u64) -> Result<u64> {
        Ok(0)
    }
}

/// Fills `buf` as far as the stream goes; answers how far.
///
/// # Errors
/// As [`ByteStream::read_some`].
pub(crate) fn read_full(stream: &mut dyn ByteStream, buf: &mut [u8]) -> Result<usize> {
    let mut filled = 0_usize;
    while let Some(rest) = buf.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read_some(rest)? {
            0 => break,
            got => filled = filled.saturating_add(got),
        }
    }
    Ok(filled)
}

/// A source from its first byte to its last.
pub(crate) struct SourceStream {
    source: Arc<dyn ByteSource>,
    at: u64,
}

impl SourceStream {
    pub(crate) fn new(source: Arc<dyn ByteSource>) -> Self {
        Self { source, at: 0 }
    }
}

impl ByteStream for SourceStream {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        let left = self.source.byte_len().saturating_sub(self.at);
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let part = buf.get_mut(..take).unwrap_or_default();
        self.source.read_bytes(FileOffset::new(self.at), part)?;
        self.at = self.at.saturating_add(u64::try_from(take).unwrap_or(0));
        Ok(take)
    }
}

const BUFFER_LEN: usize = 256 << 10;

/// A stream with a look ahead and a place.
pub(crate) struct Input {
    stream: Box<dyn ByteStream>,
    buffer: PageBuffer,
    start: usize,
    end: usize,
    at: u64,
    ended: bool,
}

impl Input {
    pub(crate) fn new(stream: Box<dyn ByteStream>) -> Self {
        Self { stream, buffer: PageBuffer::new(BUFFER_LEN), start: 0, end: 0, at: 0, ended: false }
    }

    /// The place of the next byte.
    pub(crate) fn at(&self) -> FileOffset {
        FileOffset::new(self.at)
    }

    /// What is at hand.
    pub(super) fn ready(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// At least one byte, or none at the end.
    pub(crate) fn fill(&mut self) -> Result<&[u8]> {
        self.look(1)
    }

    /// At least `wanted` bytes (of what the buffer holds at most), or all that are left.
    pub(crate) fn look(&mut self, wanted: usize) -> Result<&[u8]> {
        let wanted = wanted.min(BUFFER_LEN);
        while !self.ended && self.ready().len() < wanted {
            if self.start > 0 {
                self.buffer.copy_within(self.start..self.end, 0);
                self.end = self.end.saturating_sub(self.start);
                self.start = 0;
            }
            let free = self.buffer.get_mut(self.end..).unwrap_or_default();
            match self.stream.read_some(free)? {
                0 => self.ended = true,
                got => self.end = self.end.saturating_add(got),
            }
        }
        Ok(self.ready())
    }

    /// Passes over bytes that were looked at.
    pub(crate) fn consume(&mut self, len: usize) {
        let len = len.min(self.ready().len());
        self.start = self.start.saturating_add(len);
        self.at = self.at.saturating_add(u64::try_from(len).unwrap_or(0));
    }

    /// The next `N` bytes; an error when the stream ends before.
    pub(super) fn take<const N: usize>(&mut self, wrapper: &'static str) -> Result<[u8; N]> {
        let found = self.look(N)?.first_chunk::<N>().copied();
        match found {
            Some(bytes) => {
                self.consume(N);
                Ok(bytes)
            }
            None => Err(self.cut(wrapper)),
        }
    }

    /// Passes over `len` bytes.
    pub(super) fn skip(&mut self, len: u64, wrapper: &'static str) -> Result<()> {
        let mut left = len;
        while left > 0 {
            let ready = self.fill()?.len();
            if ready == 0 {
                return Err(self.cut(wrapper));
            }
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(ready);
            self.consume(step);
            left = left.saturating_sub(u64::try_from(step).unwrap_or(left));
        }
        Ok(())
    }

    /// The error of a stream that ends too early: at its last byte.
    pub(super) fn cut(&self, wrapper: &'static str) -> Error {
        let end = self.at.saturating_add(u64::try_from(self.ready().len()).unwrap_or(0));
        truncated(wrapper, FileOffset::new(end))
    }

    /// Confirms that nothing but zeros is left: tapes and sectors are filled up with them.
    pub(super) fn only_padding(&mut self, wrapper: &'static str) -> Result<()> {
        let from = self.at();
        loop {
            let ready = self.fill()?;
            if ready.is_empty() {
                return Ok(());
            }
            if !is_zero(ready) {
                return Err(Error::malformed(structure(wrapper), from, WrapProblem::Trailing { wrapper }));
            }
            let len = ready.len();
            self.consume(len);
        }
    }
}

/// Counts members without content: a few are honest (an empty last one marks the end of a bgzip file), a million
/// only cost time.
#[derive(Default)]
pub(super) struct EmptyMembers {
    in_a_row: u64,
}

impl EmptyMembers {
    const ALLOWED: u64 = 1000;

    /// Takes note of a member that ended with `len` bytes.
    pub(super) fn ended(&mut self, wrapper: &'static str, len: u64) -> Result<()> {
        self.in_a_row = if len == 0 { self.in_a_row.saturating_add(1) } else { 0 };
        if self.in_a_row <= Self::ALLOWED {
            return Ok(());
        }
        Err(Error::Refused {
            code: "wrap.members",
            what: format!("members without content, one after the other, of the {wrapper} file"),
            asked: self.in_a_row,
            allowed: Self::ALLOWED,
            hint: "no program writes such a file by itself: ask whoever made it",
        })
    }
}
