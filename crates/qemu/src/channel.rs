//! A stream with a deadline, and how much an answer may cost.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::error::{Error, Problem, Result};

/// What a conversation is held over. Everything but the time limit is [`Read`] and [`Write`].
pub trait Stream: Read + Write + Send {
    /// The longest that the next read or write may block; never zero.
    ///
    /// # Errors
    /// The operating system's.
    fn limit_blocking(&mut self, at_most: Duration) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn limit_blocking(&mut self, at_most: Duration) -> io::Result<()> {
        self.set_read_timeout(Some(at_most))?;
        self.set_write_timeout(Some(at_most))
    }
}

/// How much an answer may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The longest answer that is read, in bytes.
    pub reply_bytes: u64,
    /// The longest that is waited for an answer as a whole, however it trickles in.
    pub reply_time: Duration,
}

impl Default for Limits {
    /// 16 MiB (`query-named-block-nodes` of a machine with many disks) and 30 s.
    fn default() -> Self {
        Self { reply_bytes: 16 << 20, reply_time: Duration::from_secs(30) }
    }
}

/// A stream to a named other side. Counts what it received, so that an error can say where it was.
pub struct Channel {
    stream: Box<dyn Stream>,
    peer: String,
    received: u64,
    allowed: Duration,
    deadline: Instant,
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("peer", &self.peer).field("received", &self.received).finish()
    }
}

impl Channel {
    /// A channel over `stream`; `peer` is how errors call the other side.
    pub fn new(stream: impl Stream + 'static, peer: impl Into<String>) -> Self {
        let allowed = Limits::default().reply_time;
        let deadline = Instant::now().checked_add(allowed).unwrap_or_else(Instant::now);
        Self { stream: Box::new(stream), peer: peer.into(), received: 0, allowed, deadline }
    }

    /// How errors call the other side.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// From now on, everything together may take `allowed`.
    pub fn allow(&mut self, allowed: Duration) {
        self.allowed = allowed;
        let now = Instant::now();
        self.deadline = now.checked_add(allowed).unwrap_or(now);
    }

    fn limit(&mut self) -> Result<()> {
        let rest = self.deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(self.timed_out());
        }
        // Less than a microsecond would be "for ever" to the kernel.
        let rest = rest.max(Duration::from_millis(1));
        self.stream.limit_blocking(rest).map_err(|source| self.io("use", source))
    }

    fn timed_out(&self) -> Error {
        Error::TimedOut { peer: self.peer.clone(), allowed: self.allowed }
    }

    fn io(&self, operation: &'static str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => self.timed_out(),
            _ => Error::Io { operation, peer: self.peer.clone(), source },
        }
    }

    /// An answer that breaks the protocol.
    pub(crate) fn malformed(&self, problem: Problem) -> Error {
        Error::Malformed { peer: self.peer.clone(), at: self.received, problem }
    }

    pub(crate) fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            self.limit()?;
            match self.stream.write(bytes) {
                Ok(0) => return Err(self.io("write to", io::ErrorKind::WriteZero.into())),
                Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io("write to", error)),
            }
        }
        Ok(())
    }

    /// At least one byte, at most the buffer. The end of the stream is an error: no protocol here ends by itself.
    pub(crate) fn receive_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        loop {
            self.limit()?;
            match self.stream.read(buf) {
                Ok(0) => return Err(self.io("read from", io::ErrorKind::UnexpectedEof.into())),
                Ok(len) => {
                    self.received = self.received.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
                    return Ok(len);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.io("read from", error)),
            }
        }
    }

    pub(crate) fn receive_exact(&mut self, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            let len = self.receive_some(buf)?;
            buf = buf.get_mut(len..).unwrap_or_default();
        }
        Ok(())
    }
}
