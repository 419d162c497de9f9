//! Which parts of a disk cannot be read, all of them, and why.

use std::num::NonZeroU64;

use kiln_disk::{
    CheckSpec, Disk, Error, Event, FileOffset, Finding, GuestOffset, GuestRange, Observer, PageBuffer,
    Result, Severity, go_on,
};

use crate::identify::explained;
use crate::wire::{as_bytes, in_memory};

pub(super) static CHECKS: &[CheckSpec] = &[UNREADABLE];

static UNREADABLE: CheckSpec = CheckSpec {
    id: "disk.unreadable",
    severity: Severity::Damage,
    summary: "a part of the disk cannot be read",
    effect: "these bytes are lost; tools that fill them with zeros make a disk that looks whole",
    fix: "fetch or copy the file again and compare its checksum",
};

/// Unit in which a loss is told.
const STEP: u64 = 64 << 10;
/// Unit of reading.
const READ: u64 = 1 << 20;
/// Ranges that are told apart; after that the last one grows.
const MAX_RANGES: usize = 10_000;
/// Places that refuse to be read before the rest is given up as one: a hostile table has no end.
const MAX_REFUSALS: u64 = 1 << 22;

/// A part that is lost, and what the first read of it said.
pub(super) struct Lost {
    pub(super) range: GuestRange,
    words: String,
    at: Option<FileOffset>,
}

impl Lost {
    pub(super) fn finding(&self) -> Finding {
        let detail = format!("{} bytes: {}", self.range.len, self.words);
        let finding = UNREADABLE.found(detail).guest(self.range.start, self.range.len);
        match self.at {
            Some(at) => finding.at(at),
            None => finding,
        }
    }
}

/// Reads all of a disk, passing over what refuses.
pub(super) fn survey(disk: &dyn Disk, observer: &dyn Observer) -> Result<Vec<Lost>> {
    let disk_len = disk.disk_len();
    let mut losses = Losses { list: Vec::new(), refusals: 0 };
    let mut buffer = PageBuffer::new(in_memory(READ));
    let mut at = 0_u64;
    observer.event(Event::Started { phase: "salvage", total: disk_len });
    while let Some(left) = disk_len.checked_sub(at).and_then(NonZeroU64::new) {
        go_on(observer)?;
        let start = GuestOffset::new(at);
        let end = match disk.extent_at(start, left) {
            Ok(extent) if !extent.kind.is_data() => extent.end().get(),
            Ok(extent) => {
                let end = extent.end().get().min(at.saturating_add(READ));
                let bytes = buffer.get_mut(..in_memory(end.saturating_sub(at))).unwrap_or_default();
                if let Err(error) = disk.read_guest(start, bytes) {
                    of_content(error)?;
                    piecewise(disk, at, bytes, &mut losses)?;
                }
                end
            }
            Err(error) => {
                let error = of_content(error)?;
                let end = next_step(at).min(disk_len);
                losses.add(at, end, &error);
                end
            }
        };
        if losses.refusals > MAX_REFUSALS {
            losses.rest(end, disk_len);
            break;
        }
        observer.event(Event::Advanced { bytes: end.saturating_sub(at) });
        at = end;
    }
    observer.event(Event::Finished);
    Ok(losses.list)
}

const fn next_step(at: u64) -> u64 {
    at.saturating_sub(at % STEP).saturating_add(STEP)
}

/// Finds out block by block how much of a piece is lost.
fn piecewise(disk: &dyn Disk, from: u64, bytes: &mut [u8], losses: &mut Losses) -> Result<()> {
    let mut at = from;
    let mut rest = bytes;
    while !rest.is_empty() {
        let take = in_memory(next_step(at).saturating_sub(at)).min(rest.len());
        let (piece, behind) = rest.split_at_mut_checked(take).unwrap_or_default();
        let end = at.saturating_add(as_bytes(take));
        if let Err(error) = disk.read_guest(GuestOffset::new(at), piece) {
            losses.add(at, end, &of_content(error)?);
        }
        (at, rest) = (end, behind);
    }
    Ok(())
}

/// The error again, unless it is one of the machine's and not of the file's.
fn of_content(error: Error) -> Result<Error> {
    match error {
        Error::Cancelled => Err(error),
        Error::Io { .. } if error.code() != "io.short-read" => Err(error),
        _ => Ok(error),
    }
}

/// Ascending, merged where they touch.
struct Losses {
    list: Vec<Lost>,
    refusals: u64,
}

impl Losses {
    fn add(&mut self, start: u64, end: u64, error: &Error) {
        self.refusals = self.refusals.saturating_add(1);
        let is_full = self.list.len() >= MAX_RANGES;
        match self.list.last_mut() {
            Some(last) if is_full || last.range.start.get().saturating_add(last.range.len) >= start => {
                last.range.len = end.saturating_sub(last.range.start.get());
            }
            _ => {
                let (words, at) = explained(error);
                let range = GuestRange { start: GuestOffset::new(start), len: end.saturating_sub(start) };
                self.list.push(Lost { range, words, at });
            }
        }
    }

    fn rest(&mut self, from: u64, end: u64) {
        let words = "given up here: too many places before this one cannot be read".to_owned();
        let range = GuestRange { start: GuestOffset::new(from), len: end.saturating_sub(from) };
        if range.len > 0 {
            self.list.push(Lost { range, words, at: None });
        }
    }
}
