//! The content of a wrapper as a disk, read once, without a copy of it anywhere.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use kiln_disk::{Disk, Error, Extent, ExtentKind, GuestOffset, Result, check_range};

use super::feed::{At, Feed, PIECE_LEN};
use super::input::ByteStream;
use crate::identify::{Identity, judge};
use crate::table::ProbeInput;

/// A disk whose bytes come from a decoder, for [`crate::transfer`]: chunks in ascending order, each read once.
///
/// Not a disk for anything else: it breaks the law that a read may come at any time. A read out of order is refused
/// (`stream.order`), so that a mistake is an error and never a wrong byte. Chunks begin at multiples of 1 MiB.
///
/// The length is a claim until [`StreamDisk::finish`] has seen the end: content that turns out shorter or longer is
/// an error (`stream.length`) there or before.
pub struct StreamDisk {
    feed: Feed,
    disk_len: u64,
    /// One bit for each piece of data that was read.
    taken: Mutex<Vec<u64>>,
}

/// What was at the end of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// Length of the content in bytes.
    pub len: u64,
    /// The last bytes of it, up to [`ProbeInput::TAIL_LEN`].
    pub tail: Vec<u8>,
}

impl Ending {
    /// What the content is, now that beginning and end are known.
    #[must_use]
    pub fn identity(&self, head: &[u8]) -> Identity {
        judge(&ProbeInput { head, tail: &self.tail, file_len: self.len })
    }
}

/// Longest run of zeros told at once, so that whoever walks over a terabyte of them hears a wish to stop.
const ZEROS: u64 = 16 << 20;

impl StreamDisk {
    pub(crate) fn new(stream: Box<dyn ByteStream>, disk_len: u64) -> Result<Self> {
        // One byte more tells a longer content from one of this length.
        let feed = Feed::start(stream, disk_len.saturating_add(PIECE_LEN))?;
        Ok(Self { feed, disk_len, taken: Mutex::default() })
    }

    /// Waits for the end of the content: all checksums of all wrappers have then been compared.
    ///
    /// # Errors
    /// As [`super::Wrapped::spool`]; [`Error::Refused`] (`stream.length`) when the content is not as long as the
    /// disk was said to be.
    pub fn finish(&self) -> Result<Ending> {
        match self.feed.finish() {
            Ok(end) if end.len == self.disk_len => Ok(Ending { len: end.len, tail: end.tail }),
            Ok(end) => Err(self.other_len(end.len)),
            Err(Error::Refused { code: "wrap.too-long", asked, .. }) => Err(self.other_len(asked)),
            Err(error) => Err(error),
        }
    }

    fn other_len(&self, found: u64) -> Error {
        Error::Refused {
            code: "stream.length",
            what: "length of the content in bytes, against what its beginning says,".to_owned(),
            asked: found,
            allowed: self.disk_len,
            hint: "unpack the file first",
        }
    }

    /// Notes that the piece at `at` is read; an error when it was before.
    fn once(&self, at: u64) -> Result<()> {
        let order = || Error::Refused {
            code: "stream.order",
            what: format!("byte {at} of a stream was asked for a second time"),
            asked: 0,
            allowed: 0,
            hint: "unpack the file first",
        };
        let number = at.checked_div(PIECE_LEN).unwrap_or(0);
        let word = usize::try_from(number >> 6).map_err(|_| order())?;
        let bit = 1_u64.checked_shl(u32::try_from(number & 63).unwrap_or(0)).unwrap_or(0);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.len() <= word {
            taken.resize(word.saturating_add(1), 0);
        }
        match taken.get_mut(word) {
            Some(bits) if *bits & bit == 0 => {
                *bits |= bit;
                Ok(())
            }
            _ => Err(order()),
        }
    }

    /// The error for a place where content is expected and the stream is at its end.
    fn too_short(&self, at: u64) -> Error {
        self.finish().err().unwrap_or_else(|| self.other_len(at))
    }
}

impl Disk for StreamDisk {
    fn disk_len(&self) -> u64 {
        self.disk_len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len)?;
        let mut rest = buf;
        let mut here = at.get();
        while !rest.is_empty() {
            let left = u64::try_from(rest.len()).unwrap_or(u64::MAX);
            let step = match self.feed.look(here, &|| Ok(()))? {
                At::End => return Err(self.too_short(here)),
                At::Zeros { len } => {
                    self.once(here)?;
                    // Zeros are not noted piece by piece: a run of them is read in one go, or not at all.
                    let step = len.min(left);
                    let zeros = usize::try_from(step).unwrap_or(usize::MAX);
                    rest.get_mut(..zeros).unwrap_or_default().fill(0);
                    step
                }
                At::Data { .. } => {
                    self.once(here)?;
                    let Some((buffer, len)) = self.feed.take(here) else {
                        return Err(self.too_short(here));
                    };
                    let len = len.min(rest.len());
                    let (to, from) =
                        (rest.get_mut(..len).unwrap_or_default(), buffer.get(..len).unwrap_or_default());
                    to.copy_from_slice(from);
                    self.feed.put(buffer);
                    u64::try_from(len).unwrap_or(left)
                }
            };
            here = here.saturating_add(step);
            let taken = usize::try_from(step).unwrap_or(usize::MAX);
            rest = rest.split_at_mut_checked(taken).unwrap_or_default().1;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len)?;
        let here = at.get();
        let (kind, len) = match self.feed.look(here, &|| Ok(()))? {
            At::Data { len } => (ExtentKind::Encoded, len),
            At::Zeros { len } => (ExtentKind::Zero, len.min(ZEROS)),
            At::End => return Err(self.too_short(here)),
        };
        let rest = self.disk_len.saturating_sub(here);
        let len = NonZeroU64::new(len.min(rest)).unwrap_or(NonZeroU64::MIN);
        Ok(Extent { start: at, len: len.min(limit), kind })
    }
}
