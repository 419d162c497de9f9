//! JSON objects, one a line.

use serde_json::{Map, Value};

use crate::channel::Channel;
use crate::error::{Error, Problem, Result};

/// Reads of this size. QMP's answers are mostly shorter.
const CHUNK: usize = 16 << 10;

/// A channel whose messages are lines. `serde_json` refuses more than 128 levels of nesting by itself.
#[derive(Debug)]
pub(crate) struct Lines {
    pub(crate) channel: Channel,
    /// Received and not yet taken.
    pending: Vec<u8>,
    /// How much of `pending` is known to hold no end of line.
    searched: usize,
    max_len: u64,
}

impl Lines {
    pub(crate) fn new(channel: Channel, max_len: u64) -> Self {
        Self { channel, pending: Vec::new(), searched: 0, max_len }
    }

    /// The next line, without its end. Blank ones are passed over.
    pub(crate) fn next_line(&mut self) -> Result<Vec<u8>> {
        loop {
            let fresh = self.pending.get(self.searched..).unwrap_or_default();
            if let Some(place) = fresh.iter().position(|byte| *byte == b'\n') {
                let end = self.searched.saturating_add(place);
                let rest = self.pending.split_off(end.saturating_add(1).min(self.pending.len()));
                let mut line = std::mem::replace(&mut self.pending, rest);
                self.searched = 0;
                while line.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                    line.pop();
                }
                if line.is_empty() {
                    continue;
                }
                return Ok(line);
            }
            self.searched = self.pending.len();
            self.more()?;
        }
    }

    /// Forgets everything up to and including the first byte `mark`, however much that is in time.
    pub(crate) fn skip_past(&mut self, mark: u8) -> Result<()> {
        let mut skipped = 0_u64;
        loop {
            if let Some(place) = self.pending.iter().position(|byte| *byte == mark) {
                self.pending.drain(..=place);
                self.searched = 0;
                return Ok(());
            }
            skipped = skipped.saturating_add(u64::try_from(self.pending.len()).unwrap_or(u64::MAX));
            if skipped > self.max_len {
                return Err(self.too_long());
            }
            self.pending.clear();
            self.searched = 0;
            self.more()?;
        }
    }

    fn more(&mut self) -> Result<()> {
        let mut chunk = [0; CHUNK];
        let len = self.channel.receive_some(&mut chunk)?;
        self.pending.extend_from_slice(chunk.get(..len).unwrap_or_default());
        if u64::try_from(self.pending.len()).unwrap_or(u64::MAX) > self.max_len && !self.has_line() {
            return Err(self.too_long());
        }
        Ok(())
    }

    fn has_line(&self) -> bool {
        self.pending.get(self.searched..).is_some_and(|fresh| fresh.contains(&b'\n'))
    }

    fn too_long(&self) -> Error {
        self.channel.malformed(Problem::TooLong { allowed: self.max_len })
    }

    /// The next line as an object.
    pub(crate) fn next_object(&mut self) -> Result<Map<String, Value>> {
        let line = self.next_line()?;
        serde_json::from_slice(&line).map_err(|_| self.channel.malformed(Problem::NotJson))
    }

    /// What an answer to `command` says: the value that it returns, or the refusal.
    pub(crate) fn outcome(&self, command: &str, mut reply: Map<String, Value>) -> Result<Value> {
        if let Some(value) = reply.remove("return") {
            return Ok(value);
        }
        let text = |field| Some(reply.get("error")?.get(field)?.as_str()?.to_owned());
        Err(match (text("class"), text("desc")) {
            (Some(class), Some(description)) => Error::Refused {
                peer: self.channel.peer().to_owned(),
                command: command.to_owned(),
                class,
                description,
            },
            _ => self.channel.malformed(Problem::Field { field: "error" }),
        })
    }

    pub(crate) fn send(&mut self, message: &Value) -> Result<()> {
        let mut line = message.to_string().into_bytes();
        line.push(b'\n');
        self.channel.send(&line)
    }
}
