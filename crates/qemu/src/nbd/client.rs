//! Requests, one at a time.

use std::time::Duration;

use crate::channel::{Channel, Limits};
use crate::error::{Error, Problem, Result};

use super::handshake::{Agreed, expect, expect_u64, negotiate, u16_be, u32_be, u64_be};

/// The context that tells where an export has data; flag 1: nothing is allocated, flag 2: reads as zeros.
pub const BASE_ALLOCATION: &str = "base:allocation";

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;

const CMD_READ: u16 = 0;
const CMD_DISC: u16 = 2;
const CMD_BLOCK_STATUS: u16 = 7;

const REPLY_FLAG_DONE: u16 = 1;
const REPLY_NONE: u16 = 0;
const REPLY_OFFSET_DATA: u16 = 1;
const REPLY_OFFSET_HOLE: u16 = 2;
const REPLY_BLOCK_STATUS: u16 = 5;
const REPLY_ERROR_BIT: u16 = 1 << 15;

/// The longest read that every server takes (32 MiB); ours are shorter.
const MAX_READ: usize = 32 << 20;
/// The longest answer about block status: 128 Ki runs.
const MAX_STATUS_BYTES: u32 = 1 << 20;
/// The longest message of an error.
const MAX_ERROR_BYTES: u32 = 64 << 10;
/// The longest range that block status is asked about: a length is 32 bits, and a power of two keeps to any unit.
const MAX_STATUS_RANGE: u64 = 1 << 30;

/// A run of bytes of an export to which the same flags belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// Bytes; at least 1.
    pub len: u64,
    /// The context's flags.
    pub flags: u32,
}

impl Span {
    /// [`BASE_ALLOCATION`]: nothing is allocated here.
    pub const HOLE: u32 = 1;
    /// [`BASE_ALLOCATION`]: reads as zeros.
    pub const ZERO: u32 = 2;
    /// A dirty bitmap's bit.
    pub const DIRTY: u32 = 1;

    /// The first byte behind it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }
}

/// One connection to one export. After any error but a refusal it is useless.
#[derive(Debug)]
pub struct Client {
    channel: Channel,
    reply_time: Duration,
    agreed: Agreed,
    next_handle: u64,
}

impl Client {
    /// Connects to an export and asks for metadata contexts.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the server has no such export, or speaks an older protocol; [`Error::Malformed`],
    /// [`Error::TimedOut`], [`Error::Io`].
    pub fn connect(mut channel: Channel, limits: Limits, export: &str, contexts: &[&str]) -> Result<Self> {
        channel.allow(limits.reply_time);
        let agreed = negotiate(&mut channel, export, contexts)?;
        Ok(Self { channel, reply_time: limits.reply_time, agreed, next_handle: 1 })
    }

    /// Length of the export in bytes.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        self.agreed.len
    }

    /// Whether the server has the context that was asked for as number `context`.
    #[must_use]
    pub fn has_context(&self, context: usize) -> bool {
        self.agreed.contexts.get(context).copied().flatten().is_some()
    }

    /// Fills `buf` (at most 32 MiB) from byte `at`.
    ///
    /// # Errors
    /// [`Error::Refused`] when the server cannot read there, or the range leaves the export.
    pub fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<()> {
        let len = u32::try_from(buf.len()).unwrap_or(u32::MAX);
        let end = at.checked_add(len.into());
        if buf.len() > MAX_READ || end.is_none_or(|end| end > self.agreed.len) {
            return Err(self.refusal("read", "EINVAL", "the range is not in the export"));
        }
        if buf.is_empty() {
            return Ok(());
        }
        let handle = self.request(CMD_READ, at, len)?;
        // Pieces come in any order, each once, and together they are what was asked for.
        let mut missing = u64::from(len);
        let failure = self.chunks(handle, |channel, kind, size| {
            let head = if kind == REPLY_OFFSET_HOLE { 12 } else { 8 };
            let misplaced = |found| channel_range("a piece of a read", found, len.into());
            if size < head || (kind == REPLY_OFFSET_HOLE && size != head) {
                return Err(channel.malformed(misplaced(size.into())));
            }
            let start = u64_be(channel)?;
            let piece = match kind {
                REPLY_OFFSET_HOLE => u32_be(channel)?,
                REPLY_OFFSET_DATA => size.saturating_sub(head),
                _ => return Err(channel.malformed(Problem::Field { field: "kind of a reply to a read" })),
            };
            let from = start.checked_sub(at).and_then(|from| usize::try_from(from).ok());
            let target = from
                .and_then(|from| Some(from..from.checked_add(usize::try_from(piece).ok()?)?))
                .and_then(|range| buf.get_mut(range));
            let Some(target) = target.filter(|_| piece > 0 && u64::from(piece) <= missing) else {
                return Err(channel.malformed(misplaced(piece.into())));
            };
            missing = missing.saturating_sub(piece.into());
            if kind == REPLY_OFFSET_HOLE {
                target.fill(0);
                return Ok(());
            }
            channel.receive_exact(target)
        })?;
        if let Some(error) = failure {
            return Err(self.refusal("read", &error.0, &error.1));
        }
        if missing != 0 {
            return Err(self.channel.malformed(channel_range("the pieces of a read", missing, 0)));
        }
        Ok(())
    }

    /// The runs of context number `context` from `at` on: at least one, together at most `limit` bytes and at most
    /// 1 GiB, without gaps.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the server does not have the context; [`Error::Refused`] when the range leaves
    /// the export.
    pub fn block_status(&mut self, context: usize, at: u64, limit: u64) -> Result<Vec<Span>> {
        let Some(id) = self.agreed.contexts.get(context).copied().flatten() else {
            let peer = self.channel.peer().to_owned();
            return Err(Error::Unsupported { peer, feature: "the context that was asked for".to_owned() });
        };
        let len = self.agreed.len.saturating_sub(at).min(limit).min(MAX_STATUS_RANGE);
        if len == 0 {
            return Err(self.refusal("block status", "EINVAL", "the range is not in the export"));
        }
        let handle = self.request(CMD_BLOCK_STATUS, at, u32::try_from(len).unwrap_or(u32::MAX))?;
        let mut spans: Vec<Span> = Vec::new();
        let end = at.saturating_add(len);
        let failure = self.chunks(handle, |channel, kind, size| {
            if kind != REPLY_BLOCK_STATUS {
                return Err(channel.malformed(Problem::Field { field: "kind of a reply about block status" }));
            }
            // A context id, then pairs of length and flags.
            if !(12..=MAX_STATUS_BYTES).contains(&size) || size % 8 != 4 {
                let problem = channel_range("block status", size.into(), MAX_STATUS_BYTES.into());
                return Err(channel.malformed(problem));
            }
            let of = u32_be(channel)?;
            let mut start = at;
            for _ in 0..size / 8 {
                let (run, flags) = (u32_be(channel)?, u32_be(channel)?);
                if of != id || start >= end {
                    continue;
                }
                if run == 0 {
                    return Err(channel.malformed(channel_range("a run of block status", 0, len)));
                }
                // The last run may reach further than what was asked about.
                let run = u64::from(run).min(end.saturating_sub(start));
                match spans.last_mut() {
                    Some(last) if last.flags == flags && last.end() == start => {
                        last.len = last.len.saturating_add(run);
                    }
                    _ => spans.push(Span { start, len: run, flags }),
                }
                start = start.saturating_add(run);
            }
            Ok(())
        })?;
        if let Some(error) = failure {
            return Err(self.refusal("block status", &error.0, &error.1));
        }
        if spans.is_empty() {
            return Err(self.channel.malformed(Problem::Field { field: "block status" }));
        }
        Ok(spans)
    }

    /// Says goodbye.
    pub fn disconnect(mut self) {
        // Whoever hangs up without is as good as gone to a server.
        let _ = self.request(CMD_DISC, 0, 0);
    }

    fn request(&mut self, kind: u16, at: u64, len: u32) -> Result<u64> {
        let handle = self.next_handle;
        self.next_handle = handle.wrapping_add(1);
        self.channel.allow(self.reply_time);
        let mut message = Vec::with_capacity(28);
        message.extend(REQUEST_MAGIC.to_be_bytes());
        message.extend(0_u16.to_be_bytes());
        message.extend(kind.to_be_bytes());
        message.extend(handle.to_be_bytes());
        message.extend(at.to_be_bytes());
        message.extend(len.to_be_bytes());
        self.channel.send(&message)?;
        Ok(handle)
    }

    /// Takes the chunks of a reply up to the last one. `each` gets kind and length of those that carry something and
    /// must take exactly so many bytes. Gives the server's error, when it sent one.
    fn chunks(
        &mut self,
        handle: u64,
        mut each: impl FnMut(&mut Channel, u16, u32) -> Result<()>,
    ) -> Result<Option<(String, String)>> {
        let channel = &mut self.channel;
        let mut failure = None;
        loop {
            let magic = u32_be(channel)?;
            if magic == SIMPLE_REPLY_MAGIC {
                // Only an error may come so, once structured replies are agreed upon.
                let errno = u32_be(channel)?;
                expect_u64(channel, "the handle of a reply", handle)?;
                if errno == 0 {
                    return Err(channel.malformed(Problem::Field { field: "structured reply" }));
                }
                return Ok(Some((errno_name(errno), "no more is said".to_owned())));
            }
            expect(channel, "the magic of a reply", magic.into(), STRUCTURED_REPLY_MAGIC.into())?;
            let flags = u16_be(channel)?;
            let kind = u16_be(channel)?;
            expect_u64(channel, "the handle of a reply", handle)?;
            let len = u32_be(channel)?;
            match kind {
                REPLY_NONE => expect(channel, "the length of an empty reply", len.into(), 0)?,
                kind if kind & REPLY_ERROR_BIT != 0 => failure = Some(error_of(channel, len)?),
                kind => each(channel, kind, len)?,
            }
            if flags & REPLY_FLAG_DONE != 0 {
                return Ok(failure);
            }
        }
    }

    fn refusal(&self, command: &str, class: &str, description: &str) -> Error {
        Error::Refused {
            peer: self.channel.peer().to_owned(),
            command: command.to_owned(),
            class: class.to_owned(),
            description: description.to_owned(),
        }
    }
}

fn channel_range(field: &'static str, found: u64, allowed: u64) -> Problem {
    Problem::Range { field, found, allowed }
}

/// An error chunk: errno, length of a message, the message, for some kinds a place.
fn error_of(channel: &mut Channel, len: u32) -> Result<(String, String)> {
    if !(6..=MAX_ERROR_BYTES).contains(&len) {
        return Err(channel.malformed(channel_range("an error's chunk", len.into(), MAX_ERROR_BYTES.into())));
    }
    let errno = u32_be(channel)?;
    let message_len = usize::from(u16_be(channel)?);
    let mut rest = vec![0; usize::try_from(len.saturating_sub(6)).unwrap_or_default()];
    channel.receive_exact(&mut rest)?;
    let message = rest.get(..message_len).unwrap_or(&rest);
    Ok((errno_name(errno), String::from_utf8_lossy(message).into_owned()))
}

/// The protocol's own numbers, which are those of Linux.
fn errno_name(errno: u32) -> String {
    let name = match errno {
        1 => "EPERM",
        5 => "EIO",
        12 => "ENOMEM",
        13 => "EACCES",
        22 => "EINVAL",
        28 => "ENOSPC",
        75 => "EOVERFLOW",
        95 => "ENOTSUP",
        108 => "ESHUTDOWN",
        _ => return format!("error {errno}"),
    };
    name.to_owned()
}
