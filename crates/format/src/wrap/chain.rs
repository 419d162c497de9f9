//! Wrappers around each other.

use std::path::Path;
use std::sync::Arc;

use kiln_disk::{ByteSource, Error, FileSource, Observer, Result};

use super::disk::StreamDisk;
use super::input::{ByteStream, SourceStream, read_full};
use super::{MAX_DEPTH, Wrapper, by_id, length, spool};
use crate::facts::Facts;
use crate::identify::{Identity, identify, judge};
use crate::table::ProbeInput;
use crate::vmdk;

/// A file, open at the beginning of what is inside its wrappers.
pub struct Wrapped {
    wrappers: Vec<&'static Wrapper>,
    head: Vec<u8>,
    /// Whether `head` is all there is.
    whole: bool,
    rest: Box<dyn ByteStream>,
    outside: Outside,
}

/// A file that comes once, front to back: from a pipe or from a server.
pub struct Arriving {
    /// Its bytes.
    pub stream: Box<dyn ByteStream>,
    /// Its name in messages.
    pub label: String,
    /// Its length in bytes, when that is told in advance.
    pub byte_len: Option<u64>,
    /// A way to read some bytes of it out of turn, its last ones above all: for claims, never for content.
    pub ends: Option<Arc<dyn ByteSource>>,
}

/// What is known of the file around everything.
struct Outside {
    label: String,
    byte_len: Option<u64>,
    /// A way to read any of it.
    source: Option<Arc<dyn ByteSource>>,
    /// Its first bytes, of a file that only comes once.
    head: Vec<u8>,
}

/// What one wrapper may give for another inside it, beyond 64 bytes for each byte of the file. Compressed data does
/// not compress: two wrappers with a high ratio each are a bomb.
const INNER_SLACK: u64 = 64 << 20;

impl Wrapped {
    /// Looks through the wrappers of a file. `None`: it is not wrapped. Decodes no more than the beginning.
    ///
    /// # Errors
    /// [`Error::Malformed`] with a [`super::WrapProblem`]; [`Error::Refused`] (`wrap.depth`, `wrap.memory`,
    /// `wrap.members`); [`Error::Io`].
    pub fn open(source: &Arc<dyn ByteSource>, threads: usize) -> Result<Option<Self>> {
        let Identity::Foreign(foreign) = identify(source.as_ref())? else { return Ok(None) };
        let Some(wrapper) = by_id(foreign.id) else { return Ok(None) };
        let outside = Outside {
            label: source.label().to_owned(),
            byte_len: Some(source.byte_len()),
            source: Some(Arc::clone(source)),
            head: Vec::new(),
        };
        let stream = Box::new(SourceStream::new(Arc::clone(source)));
        Self::through(Some(wrapper), (Vec::new(), true, stream), outside, threads).map(Some)
    }

    /// Looks through the wrappers of a file that comes once; it may have none.
    ///
    /// # Errors
    /// As [`Wrapped::open`].
    pub fn arriving(file: Arriving, threads: usize) -> Result<Self> {
        let Arriving { mut stream, label, byte_len, ends } = file;
        let (head, whole) = read_head(stream.as_mut())?;
        let byte_len = if whole { u64::try_from(head.len()).ok() } else { byte_len };
        let outside = Outside { label, byte_len, source: ends, head: head.clone() };
        let Some(wrapper) = wrapper_of(&judge_head(&head, whole)) else {
            return Self::through(None, (head, whole, stream), outside, threads);
        };
        // Nobody has seen its end yet.
        let content = Replay { head, given: 0, rest: stream };
        let watched = Middle { content, wrapper, watch: Watch::default(), allowed: u64::MAX };
        Self::through(Some(wrapper), (Vec::new(), true, Box::new(watched)), outside, threads)
    }

    /// Takes off `wrapper` and what is inside it. `content`: what was read ahead, whether that is all, the rest.
    fn through(
        wrapper: Option<&'static Wrapper>,
        content: (Vec<u8>, bool, Box<dyn ByteStream>),
        outside: Outside,
        threads: usize,
    ) -> Result<Self> {
        let mut wrappers = Vec::new();
        let mut next = wrapper;
        let (mut head, mut whole, mut stream) = content;
        while let Some(wrapper) = next {
            if wrappers.len() >= MAX_DEPTH {
                return Err(too_deep(&outside.label));
            }
            if !wrappers.is_empty() {
                let file_len = outside.byte_len.unwrap_or(0);
                stream = Box::new(Middle {
                    content: Replay { head, given: 0, rest: stream },
                    wrapper,
                    watch: Watch::default(),
                    allowed: file_len.saturating_mul(64).saturating_add(INNER_SLACK),
                });
            }
            wrappers.push(wrapper);
            stream = (wrapper.open)(stream, threads)?;
            (head, whole) = read_head(stream.as_mut())?;
            next = wrapper_of(&judge_head(&head, whole));
        }
        Ok(Self { wrappers, head, whole, rest: stream, outside })
    }

    /// Ids of the wrappers, the outermost first.
    #[must_use]
    pub fn layers(&self) -> Vec<&'static str> {
        self.wrappers.iter().map(|wrapper| wrapper.id).collect()
    }

    /// The first bytes of the content, up to [`ProbeInput::HEAD_LEN`].
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// What the content is as far as its beginning tells. A format with its mark at the end (a fixed VHD, an Apple
    /// disk image) is not seen, unless the content is so short that all of it was read.
    #[must_use]
    pub fn identity(&self) -> Identity {
        judge_head(&self.head, self.whole)
    }

    /// The length of the content, when the file or a single wrapper tells it. A claim: [`StreamDisk`] holds it
    /// against the truth.
    ///
    /// # Errors
    /// [`Error::Io`]; structures that cannot be read give `None`.
    pub fn claimed_len(&self) -> Result<Option<u64>> {
        if self.whole {
            return Ok(u64::try_from(self.head.len()).ok());
        }
        match (self.wrappers.as_slice(), &self.outside.source) {
            ([], _) => Ok(self.outside.byte_len),
            ([only], Some(source)) if self.outside.head.is_empty() => {
                (only.content_len)(source.as_ref(), &self.head)
            }
            ([only], source) => length::early(only.id, &self.outside.head, &self.head, source.as_deref()),
            _ => Ok(None),
        }
    }

    /// The disk, when the content is a container that can be read as a stream: what it says of itself.
    #[must_use]
    pub fn streamed(&self) -> Option<Facts> {
        let plan = self.stream_plan()?;
        Some(Facts { file_bytes: self.outside.byte_len.unwrap_or(0), ..plan.facts().clone() })
    }

    fn stream_plan(&self) -> Option<vmdk::streamed::Plan> {
        match self.identity() {
            Identity::Container { format, .. } if *format == vmdk::FORMAT => {
                vmdk::streamed::Plan::read(&self.head)
            }
            _ => None,
        }
    }

    /// Length of the file around everything, when it is told in advance.
    pub(super) const fn outer_len(&self) -> Option<u64> {
        self.outside.byte_len
    }

    /// The file's name in messages.
    pub(super) fn label(&self) -> &str {
        &self.outside.label
    }

    /// Whether [`Wrapped::head`] is all of the content.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.whole
    }

    /// The content behind [`Wrapped::head`].
    pub(super) fn into_rest(self) -> Box<dyn ByteStream> {
        self.rest
    }

    /// All of the content, from its first byte.
    pub(super) fn into_stream(self) -> Box<dyn ByteStream> {
        Box::new(Replay { head: self.head, given: 0, rest: self.rest })
    }

    /// Unpacks into an unnamed file in `dir`, zeros as holes.
    ///
    /// # Errors
    /// [`Error::Malformed`] with a [`super::WrapProblem`]; [`Error::Refused`] (`wrap.too-long`); [`Error::Io`];
    /// [`Error::Cancelled`].
    pub fn spool(self, dir: &Path, max_len: u64, observer: &dyn Observer) -> Result<FileSource> {
        let label = self.outside.label.clone();
        spool::spool(self.into_stream(), label, dir, max_len, observer)
    }

    /// The content as a disk of `disk_len` bytes that is read once, front to back: that of [`Wrapped::streamed`], or
    /// the bytes themselves.
    ///
    /// # Errors
    /// [`Error::Io`] when no thread can be started.
    pub fn into_disk(self, disk_len: u64) -> Result<StreamDisk> {
        match self.stream_plan() {
            Some(plan) => StreamDisk::new(plan.open(self.into_stream()), disk_len),
            None => StreamDisk::new(self.into_stream(), disk_len),
        }
    }
}

fn read_head(stream: &mut dyn ByteStream) -> Result<(Vec<u8>, bool)> {
    let mut head = vec![0; ProbeInput::HEAD_LEN];
    let len = read_full(stream, &mut head)?;
    let whole = len < head.len();
    head.truncate(len);
    Ok((head, whole))
}

fn wrapper_of(identity: &Identity) -> Option<&'static Wrapper> {
    match identity {
        Identity::Foreign(foreign) => by_id(foreign.id),
        _ => None,
    }
}

/// What the beginning of a content says.
fn judge_head(head: &[u8], whole: bool) -> Identity {
    if !whole {
        return judge(&ProbeInput { head, tail: &[], file_len: u64::MAX });
    }
    let tail = head.get(head.len().saturating_sub(ProbeInput::TAIL_LEN)..).unwrap_or_default();
    judge(&ProbeInput { head, tail, file_len: u64::try_from(head.len()).unwrap_or(u64::MAX) })
}

pub(super) fn too_deep(label: &str) -> Error {
    Error::Refused {
        code: "wrap.depth",
        what: format!("wrappers around what is in {label}"),
        asked: u64::try_from(MAX_DEPTH.saturating_add(1)).unwrap_or(u64::MAX),
        allowed: u64::try_from(MAX_DEPTH).unwrap_or(u64::MAX),
        hint: "unpack the outer ones first, if you trust the file",
    }
}

/// Bytes that were read ahead, then the rest.
struct Replay {
    head: Vec<u8>,
    given: usize,
    rest: Box<dyn ByteStream>,
}

impl ByteStream for Replay {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        let ahead = self.head.get(self.given..).unwrap_or_default();
        if ahead.is_empty() {
            return self.rest.read_some(buf);
        }
        let len = ahead.len().min(buf.len());
        let (to, from) = (buf.get_mut(..len).unwrap_or_default(), ahead.get(..len).unwrap_or_default());
        to.copy_from_slice(from);
        self.given = self.given.saturating_add(len);
        Ok(len)
    }
}

/// The last bytes of a stream, and its length.
#[derive(Default)]
pub(super) struct Watch {
    pub(super) tail: Vec<u8>,
    pub(super) len: u64,
}

impl Watch {
    pub(super) fn saw(&mut self, bytes: &[u8]) {
        self.len = self.len.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        let fresh = bytes.get(bytes.len().saturating_sub(ProbeInput::TAIL_LEN)..).unwrap_or_default();
        let keep = ProbeInput::TAIL_LEN.saturating_sub(fresh.len());
        let old = self.tail.len().saturating_sub(keep);
        self.tail.drain(..old.min(self.tail.len()));
        self.tail.extend_from_slice(fresh);
    }

    /// The same for `len` zeros that are in no buffer.
    pub(super) fn saw_zeros(&mut self, len: u64) {
        const ZEROS: [u8; ProbeInput::TAIL_LEN] = [0; ProbeInput::TAIL_LEN];
        let kept = usize::try_from(len).unwrap_or(usize::MAX).min(ZEROS.len());
        self.saw(ZEROS.get(..kept).unwrap_or_default());
        let rest = len.saturating_sub(u64::try_from(kept).unwrap_or(len));
        self.len = self.len.saturating_add(rest);
    }
}

/// What one wrapper holds for the next: watched, for nobody else sees it whole.
struct Middle {
    content: Replay,
    wrapper: &'static Wrapper,
    watch: Watch,
    allowed: u64,
}

impl ByteStream for Middle {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        let got = self.content.read_some(buf)?;
        self.watch.saw(buf.get(..got).unwrap_or_default());
        if self.watch.len > self.allowed {
            return Err(Error::Refused {
                code: "wrap.ratio",
                what: format!("bytes of {} data inside another wrapper", self.wrapper.id),
                asked: self.watch.len,
                allowed: self.allowed,
                hint: "compressed data that compresses so well again is made to exhaust whoever unpacks it",
            });
        }
        if got == 0 && !buf.is_empty() {
            let input =
                ProbeInput { head: &self.content.head, tail: &self.watch.tail, file_len: self.watch.len };
            match judge(&input) {
                Identity::Foreign(foreign) if foreign.id == self.wrapper.id => {}
                _ => {
                    return Err(Error::Refused {
                        code: "format.polyglot",
                        what: format!(
                            "what is inside looks like {} and like something else",
                            self.wrapper.id
                        ),
                        asked: 0,
                        allowed: 0,
                        hint: "two programs would read two different disks from it",
                    });
                }
            }
        }
        Ok(got)
    }
}
