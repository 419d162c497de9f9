//! Some bytes of a file on a server, out of turn.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kiln_disk::{ByteSource, Error, FileOffset, Result};

use super::agent::{Client, Part};
use super::url::Url;

/// The most bytes that are read in this way: the index of an xz file is a few kilobytes.
const MOST: u64 = 4 << 20;

/// A file on a server as a source. What it gives may be of another version than what is downloaded: good for claims
/// that will be held against the truth, and for nothing else.
pub(super) struct Remote {
    client: Arc<Client>,
    url: Url,
    label: String,
    len: u64,
    if_range: Option<String>,
    left: AtomicU64,
}

impl Remote {
    pub(super) fn new(client: Arc<Client>, url: Url, len: u64, if_range: Option<String>) -> Self {
        Self { client, label: url.shown(), url, len, if_range, left: AtomicU64::new(MOST) }
    }
}

impl ByteSource for Remote {
    fn byte_len(&self) -> u64 {
        self.len
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        let refuse = |why: String| Error::Io {
            operation: "read a part of",
            target: self.label.clone(),
            at: Some(at),
            source: std::io::Error::other(why),
        };
        let len = u64::try_from(buf.len()).unwrap_or(u64::MAX);
        if len == 0 {
            return Ok(());
        }
        let left = self.left.load(Ordering::Relaxed);
        let Some(rest) = left.checked_sub(len) else { return Err(refuse("too much out of turn".to_owned())) };
        self.left.store(rest, Ordering::Relaxed);
        let to = at.get().saturating_add(len).saturating_sub(1);
        let part = Part { from: at.get(), to: Some(to), if_range: self.if_range.clone() };
        let (_, response) =
            self.client.get(&self.url, Some(&part)).map_err(|error| refuse(error.problem.to_string()))?;
        if response.status().as_u16() != 206 {
            return Err(refuse("the server sends no parts".to_owned()));
        }
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        body.read_exact(buf).map_err(|error| refuse(error.to_string()))
    }

    fn label(&self) -> &str {
        &self.label
    }
}
