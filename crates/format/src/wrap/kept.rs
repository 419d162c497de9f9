//! A content that comes once, as a source that can be read at any place: what went by is kept until it is let go.
//!
//! Whoever reads it says which bytes will not be wanted again. The rest stays in memory as long as it is little, and
//! goes to an unnamed file beyond that, so that a content in a bad order costs a copy and never a wrong byte.

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use kiln_disk::zero::is_zero;
use kiln_disk::{ByteSource, Error, FileOffset, Result, StagedFile};

use super::disk::Ending;
use super::feed::{At, End, Feed};
use super::input::ByteStream;
use crate::wire::{as_bytes, in_memory};

/// Unit of keeping and letting go.
const PAGE: u64 = 64 << 10;
/// Bytes of pages in memory. More go to the file, the first of the content first.
const IN_MEMORY: usize = 24 << 20;
/// Unit in which the edges of what was let go are kept a little longer.
const CRUMB: u64 = 512;
/// How many of those.
const CRUMBS: usize = 16 << 10;
/// Runs of bytes that are noted as let go, where they do not fill pages. Of more than that the first are forgotten,
/// which keeps their pages.
const RUNS: usize = 64 << 10;
/// The length that is answered before it is known: more than any file has.
const UNKNOWN_LEN: u64 = 1 << 62;

/// See the module.
pub(crate) struct Kept {
    label: String,
    /// Where the file goes.
    dir: PathBuf,
    feed: Feed,
    state: Mutex<State>,
}

struct State {
    /// Everything before went by.
    at: u64,
    end: Option<End>,
    /// Pages in memory, by number. A page that is nowhere is zeros.
    pages: BTreeMap<u64, Box<[u8]>>,
    held: usize,
    /// Pages in the file, and those that were let go.
    spilled: Bits,
    gone: Bits,
    spill: Option<StagedFile>,
    spilled_bytes: u64,
    /// Runs that were let go: first byte to the byte behind.
    runs: BTreeMap<u64, u64>,
    crumbs: BTreeMap<u64, Vec<u8>>,
    crumb_order: VecDeque<u64>,
}

impl Kept {
    /// Starts to take the content in. More than `max_len` bytes are an error.
    pub(crate) fn start(
        stream: Box<dyn ByteStream>,
        label: String,
        dir: PathBuf,
        max_len: u64,
    ) -> Result<Self> {
        let state = State {
            at: 0,
            end: None,
            pages: BTreeMap::new(),
            held: 0,
            spilled: Bits::default(),
            gone: Bits::default(),
            spill: None,
            spilled_bytes: 0,
            runs: BTreeMap::new(),
            crumbs: BTreeMap::new(),
            crumb_order: VecDeque::new(),
        };
        Ok(Self { label, dir, feed: Feed::start(stream, max_len)?, state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that went into the file.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.lock().spilled_bytes
    }

    /// Whether the end of the content is known.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().end.is_some()
    }

    /// Takes in all that is left.
    pub(crate) fn finish(&self) -> Result<Ending> {
        self.reach(u64::MAX)?;
        let state = self.lock();
        let end = state.end.as_ref().ok_or(Error::Cancelled)?;
        Ok(Ending { len: end.len, tail: end.tail.clone() })
    }

    /// The bytes from `start` to `end` will not be wanted again; those of the last [`CRUMB`] may be for a while.
    pub(crate) fn let_go(&self, start: u64, end: u64) {
        self.lock().let_go(start, end);
    }

    /// Takes in up to byte `end`, or to the end of the content.
    fn reach(&self, end: u64) -> Result<()> {
        loop {
            let at = {
                let state = self.lock();
                if state.at >= end || state.end.is_some() {
                    return Ok(());
                }
                state.at
            };
            // Other threads find what is there already while this one waits.
            let found = self.feed.look(at, &|| Ok(()))?;
            let mut state = self.lock();
            if state.at != at {
                continue;
            }
            match found {
                At::End => state.end = Some(self.feed.finish()?),
                At::Zeros { len } => state.at = at.saturating_add(len),
                At::Data { len } => {
                    let Some((buffer, filled)) = self.feed.take(at) else { continue };
                    state.take_in(at, buffer.get(..filled).unwrap_or_default());
                    state.at = at.saturating_add(len);
                    self.feed.put(buffer);
                    state.make_room(&self.dir)?;
                }
            }
        }
    }

    fn let_go_error(&self, at: u64) -> Error {
        Error::Refused {
            code: "stream.layout",
            what: format!("byte {at} of {} is asked for a second time", self.label),
            asked: 0,
            allowed: 0,
            hint: "keep the file first, with --spool",
        }
    }
}

impl ByteSource for Kept {
    /// Before the end has come by: more than any file has.
    fn byte_len(&self) -> u64 {
        self.lock().end.as_ref().map_or(UNKNOWN_LEN, |end| end.len)
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        let end = at.get().saturating_add(as_bytes(buf.len()));
        self.reach(end)?;
        let state = self.lock();
        if state.at < end {
            return Err(Error::Io {
                operation: "read",
                target: self.label.clone(),
                at: Some(at),
                source: std::io::ErrorKind::UnexpectedEof.into(),
            });
        }
        let (mut here, mut rest) = (at.get(), buf);
        while !rest.is_empty() {
            let step = in_memory(PAGE.saturating_sub(here % PAGE)).min(rest.len());
            let (part, behind) = rest.split_at_mut_checked(step).unwrap_or_default();
            if !state.read(here, part)? {
                return Err(self.let_go_error(here));
            }
            here = here.saturating_add(as_bytes(step));
            rest = behind;
        }
        Ok(())
    }

    fn label(&self) -> &str {
        &self.label
    }
}

impl State {
    /// Cuts what came into pages; those of zeros are not kept.
    fn take_in(&mut self, at: u64, bytes: &[u8]) {
        let (mut here, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let inside = here % PAGE;
            let step = in_memory(PAGE.saturating_sub(inside)).min(rest.len());
            let (part, behind) = rest.split_at_checked(step).unwrap_or_default();
            let number = here / PAGE;
            if !is_zero(part) {
                let held = &mut self.held;
                let page = self.pages.entry(number).or_insert_with(|| {
                    *held = held.saturating_add(in_memory(PAGE));
                    vec![0; in_memory(PAGE)].into_boxed_slice()
                });
                let from = in_memory(inside);
                if let Some(to) = page.get_mut(from..from.saturating_add(step)) {
                    to.copy_from_slice(part);
                }
            }
            here = here.saturating_add(as_bytes(step));
            rest = behind;
        }
    }

    /// Moves pages into the file until the rest may stay. The page that is being filled stays in any case.
    fn make_room(&mut self, dir: &std::path::Path) -> Result<()> {
        while self.held > IN_MEMORY {
            let Some(number) = self.pages.first_key_value().map(|(number, _)| *number) else { break };
            if number.saturating_add(1).saturating_mul(PAGE) > self.at {
                break;
            }
            let spill = match self.spill.take() {
                Some(spill) => spill,
                None => StagedFile::beside(&dir.join("kiln-passing"))?,
            };
            let spill = self.spill.insert(spill);
            let Some(page) = self.pages.remove(&number) else { break };
            spill
                .file()
                .write_all_at(&page, number.saturating_mul(PAGE))
                .map_err(|source| Error::io("write", "the temporary file", source))?;
            self.held = self.held.saturating_sub(page.len());
            self.spilled.set(number);
            self.spilled_bytes = self.spilled_bytes.saturating_add(PAGE);
        }
        Ok(())
    }

    /// Reads a part of one page; answers whether it is still there.
    fn read(&self, at: u64, part: &mut [u8]) -> Result<bool> {
        let (number, from) = (at / PAGE, in_memory(at % PAGE));
        if self.gone.has(number) {
            return Ok(self.read_crumbs(at, part));
        }
        if let Some(page) = self.pages.get(&number) {
            let there = page.get(from..from.saturating_add(part.len())).unwrap_or_default();
            part.copy_from_slice(there);
        } else if let Some(spill) = self.spill.as_ref().filter(|_| self.spilled.has(number)) {
            spill
                .file()
                .read_exact_at(part, at)
                .map_err(|source| Error::io("read", "the temporary file", source))?;
        } else {
            part.fill(0);
        }
        Ok(true)
    }

    fn read_crumbs(&self, at: u64, part: &mut [u8]) -> bool {
        let (mut here, mut rest) = (at, part);
        while !rest.is_empty() {
            let inside = here % CRUMB;
            let step = in_memory(CRUMB.saturating_sub(inside)).min(rest.len());
            let (part, behind) = rest.split_at_mut_checked(step).unwrap_or_default();
            let from = in_memory(inside);
            let crumb = self.crumbs.get(&(here / CRUMB));
            let Some(there) = crumb.and_then(|crumb| crumb.get(from..from.saturating_add(step))) else {
                return false;
            };
            part.copy_from_slice(there);
            here = here.saturating_add(as_bytes(step));
            rest = behind;
        }
        true
    }

    fn let_go(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        // The last sector may hold the beginning of something else. It is kept as a crumb when its page goes.
        let edge = end.saturating_sub(1) / CRUMB;
        self.keep_crumb(edge);
        // Only pages at or between these two can be complete now and were not before.
        let (first, last) = (start / PAGE, end / PAGE);
        let (mut start, mut end) = (start, end);
        // Runs that touch become one, so that a content in order is a single run.
        if let Some((before, behind)) = self.runs.range(..=start).next_back().map(|(a, b)| (*a, *b))
            && behind >= start
        {
            self.runs.remove(&before);
            (start, end) = (before, end.max(behind));
        }
        while let Some((next, behind)) = self.runs.range(start..=end).next().map(|(a, b)| (*a, *b)) {
            self.runs.remove(&next);
            end = end.max(behind);
        }
        for number in first.max(start.div_ceil(PAGE))..(end / PAGE).min(last.saturating_add(1)) {
            if !self.gone.has(number) {
                self.drop_page(number);
            }
        }
        self.runs.insert(start, end);
        while self.runs.len() > RUNS {
            self.runs.pop_first();
        }
    }

    fn drop_page(&mut self, number: u64) {
        if let Some(page) = self.pages.remove(&number) {
            self.held = self.held.saturating_sub(page.len());
        }
        self.spilled.clear(number);
        self.gone.set(number);
    }

    fn keep_crumb(&mut self, number: u64) {
        let mut crumb = vec![0; in_memory(CRUMB)];
        let at = number.saturating_mul(CRUMB);
        if self.crumbs.contains_key(&number) || !matches!(self.read(at, &mut crumb), Ok(true)) {
            return;
        }
        self.crumbs.insert(number, crumb);
        self.crumb_order.push_back(number);
        if self.crumb_order.len() > CRUMBS
            && let Some(oldest) = self.crumb_order.pop_front()
        {
            self.crumbs.remove(&oldest);
        }
    }
}

/// A bit for each page.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn place(number: u64) -> (usize, u64) {
        (in_memory(number >> 6), 1_u64.unbounded_shl(u32::try_from(number & 63).unwrap_or(0)))
    }

    fn has(&self, number: u64) -> bool {
        let (word, bit) = Self::place(number);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn set(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        if self.0.len() <= word {
            self.0.resize(word.saturating_add(1), 0);
        }
        if let Some(bits) = self.0.get_mut(word) {
            *bits |= bit;
        }
    }

    fn clear(&mut self, number: u64) {
        let (word, bit) = Self::place(number);
        if let Some(bits) = self.0.get_mut(word) {
            *bits &= !bit;
        }
    }
}
