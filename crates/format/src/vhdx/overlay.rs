//! The file as it is after its log was replayed: sectors in memory over a source that stays as it is.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Cost, FileOffset, Result, Run, RunKind};

/// A change: some bytes, or zeros.
enum Change {
    Data(Box<[u8]>),
    Zeros(u64),
}

impl Change {
    fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            Self::Zeros(len) => *len,
        }
    }
}

/// What a change takes in memory beside its bytes, roughly.
const NODE: u64 = 64;

/// A source with changes on top.
pub(super) struct Overlay {
    below: Arc<dyn ByteSource>,
    budget: Arc<Budget>,
    /// By place; none overlap. Data is in pieces of one sector of the log, zeros begin and end between sectors.
    changes: BTreeMap<u64, Change>,
    len: u64,
    charged: u64,
}

impl Overlay {
    pub(super) fn new(below: Arc<dyn ByteSource>, budget: Arc<Budget>) -> Self {
        let len = below.byte_len();
        Self { below, budget, changes: BTreeMap::new(), len, charged: 0 }
    }

    /// The file is at least this long; what is new is zeros.
    pub(super) fn extend_to(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Overwrites bytes from `at` on.
    pub(super) fn write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        self.put(at, Change::Data(bytes.into()))
    }

    /// Overwrites `len` bytes from `at` on with zeros.
    pub(super) fn write_zeros(&mut self, at: u64, len: u64) -> Result<()> {
        if len == 0 { Ok(()) } else { self.put(at, Change::Zeros(len)) }
    }

    fn charge(&mut self, amount: u64) -> Result<()> {
        self.budget.charge(Cost::Memory, amount)?;
        self.charged = self.charged.saturating_add(amount);
        Ok(())
    }

    fn put(&mut self, at: u64, change: Change) -> Result<()> {
        let end = at.saturating_add(change.len());
        let memory =
            if let Change::Data(bytes) = &change { u64::try_from(bytes.len()).unwrap_or(0) } else { 0 };
        // Twice the node: cutting a run of zeros may leave two.
        self.charge(memory.saturating_add(2 * NODE))?;
        // The one that begins before may reach over this one.
        if let Some((start, Change::Zeros(len))) = self.changes.range(..at).next_back() {
            let (start, before_end) = (*start, start.saturating_add(*len));
            if before_end > at {
                self.changes.insert(start, Change::Zeros(at.saturating_sub(start)));
                if before_end > end {
                    self.changes.insert(end, Change::Zeros(before_end.saturating_sub(end)));
                }
            }
        }
        while let Some((start, covered)) = self.changes.range(at..end).next() {
            let (start, covered_end) = (*start, start.saturating_add(covered.len()));
            self.changes.remove(&start);
            if covered_end > end {
                self.changes.insert(end, Change::Zeros(covered_end.saturating_sub(end)));
            }
        }
        self.changes.insert(at, change);
        self.extend_to(end);
        Ok(())
    }

    /// The change at `at` with what remains of it, or how many bytes there are without one.
    fn at(&self, at: u64) -> (Option<(&Change, u64)>, u64) {
        if let Some((start, change)) = self.changes.range(..=at).next_back() {
            let skip = at.saturating_sub(*start);
            if skip < change.len() {
                return (Some((change, skip)), change.len().saturating_sub(skip));
            }
        }
        let next = self.changes.range(at..).next().map_or(u64::MAX, |(start, _)| *start);
        (None, next.saturating_sub(at))
    }

    /// Whether the byte at `at` is one that the log changed, and for how many bytes that holds.
    pub(super) fn is_changed(&self, at: u64) -> (bool, u64) {
        let (change, run) = self.at(at);
        (change.is_some(), run)
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.budget.release(self.charged);
    }
}

impl ByteSource for Overlay {
    fn byte_len(&self) -> u64 {
        self.len
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        let mut at = at.get();
        let mut rest = buf;
        while !rest.is_empty() {
            let (change, run) = self.at(at);
            let below = self.below.byte_len();
            // What the log made longer than the file is zeros up to the new end.
            let run = match (&change, below.checked_sub(at).filter(|have| *have > 0)) {
                (Some(_), _) => run,
                (None, Some(have)) => run.min(have),
                (None, None) if at < self.len => run.min(self.len.saturating_sub(at)),
                (None, None) => return self.below.read_bytes(FileOffset::new(at), rest),
            };
            let (now, later) = rest.split_at_mut(usize::try_from(run).unwrap_or(usize::MAX).min(rest.len()));
            match change {
                Some((Change::Data(bytes), skip)) => {
                    let from = bytes.get(usize::try_from(skip).unwrap_or(usize::MAX)..).unwrap_or_default();
                    now.copy_from_slice(from.get(..now.len()).unwrap_or_default());
                }
                Some((Change::Zeros(_), _)) => now.fill(0),
                None if at >= below => now.fill(0),
                None => self.below.read_bytes(FileOffset::new(at), now)?,
            }
            at = at.saturating_add(u64::try_from(now.len()).unwrap_or(u64::MAX));
            rest = later;
        }
        Ok(())
    }

    fn run_at(&self, at: FileOffset) -> Result<Option<Run>> {
        let Some(rest) = self.len.checked_sub(at.get()).and_then(NonZeroU64::new) else { return Ok(None) };
        let (change, run) = self.at(at.get());
        let run = NonZeroU64::new(run).unwrap_or(NonZeroU64::MIN).min(rest);
        Ok(Some(match change {
            Some((Change::Data(_), _)) => Run { kind: RunKind::Data, len: run },
            Some((Change::Zeros(_), _)) => Run { kind: RunKind::Hole, len: run },
            None => match self.below.run_at(at)? {
                Some(below) => Run { len: below.len.min(run), ..below },
                None => Run { kind: RunKind::Hole, len: run },
            },
        }))
    }

    fn label(&self) -> &str {
        self.below.label()
    }
}
