//! The log ([MS-VHDX] 2.3): changes that may not have reached their place.

use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Result};

use super::MIB;
use super::header::{CHECKSUM_AT, Header};
use super::overlay::Overlay;
use super::problem::VhdxProblem;
use crate::id::Guid;
use crate::wire::{bytes, le32, le64};

/// Unit of everything in a log.
const SECTOR: u64 = 4096;
const SECTOR_LEN: usize = 4096;
const ENTRY_HEADER: u64 = 64;
const DESCRIPTOR: u64 = 32;

/// What a log came to.
pub(super) enum LogState {
    /// Nothing in it.
    Empty,
    /// Replayed: entries and changes.
    Replayed { entries: u64, changes: u64 },
    /// Not to be replayed; only for [`crate::Tolerance::Damaged`].
    Broken(Error),
}

/// A valid entry.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Place in the log.
    at: u64,
    len: u64,
    /// Where the oldest entry that is still needed begins, when this one is the newest.
    tail: u64,
    sequence: u64,
    descriptors: u64,
    flushed_file_offset: u64,
    last_file_offset: u64,
}

/// The log as a ring of sectors.
struct Ring<'a> {
    source: &'a dyn ByteSource,
    budget: &'a Budget,
    start: u64,
    len: u64,
    guid: Guid,
    /// An entry of this log was seen, valid or not.
    seen: bool,
}

/// Replays what is in the log into `overlay`.
///
/// # Errors
/// [`Error::Malformed`] when the log is not empty and cannot be replayed; budget refusals.
pub(super) fn replay(
    source: &Arc<dyn ByteSource>,
    budget: &Arc<Budget>,
    header: &Header,
    overlay: &mut Overlay,
) -> Result<LogState> {
    let (start, len) = (header.log_offset, u64::from(header.log_length));
    let bad = |problem| Error::malformed("log", FileOffset::new(start), problem);
    let file_len = source.byte_len();
    let inside = start.checked_add(len).is_some_and(|end| end <= file_len);
    let placed = start >= MIB && start.is_multiple_of(MIB) && len.is_multiple_of(MIB);
    if header.log_guid.is_nil() {
        return Ok(LogState::Empty);
    }
    if header.log_version != 0 {
        return Err(Error::Unsupported {
            code: "vhdx.log.version",
            feature: format!("a VHDX log of version {} that is not empty", header.log_version),
            hint: "attach the disk once where it was used, which empties the log, and detach it cleanly",
        });
    }
    if len == 0 || !placed || !inside {
        return Err(bad(VhdxProblem::LogPlace { start, len, file_len }));
    }
    let mut ring = Ring { source: source.as_ref(), budget, start, len, guid: header.log_guid, seen: false };
    let active = ring.active_sequence()?;
    let Some(last) = active.last() else {
        // An id without an entry: the writer was stopped before its first one, and nothing was changed. Entries
        // of which none is whole are another matter.
        return if ring.seen { Err(bad(VhdxProblem::NoSequence)) } else { Ok(LogState::Empty) };
    };
    if last.flushed_file_offset > file_len {
        let problem = VhdxProblem::LogBeyondFile { flushed: last.flushed_file_offset, file_len };
        return Err(Error::malformed("log", FileOffset::new(start.saturating_add(last.at)), problem));
    }
    let mut changes = 0_u64;
    for entry in &active {
        changes = changes.saturating_add(ring.apply(entry, overlay)?);
    }
    overlay.extend_to(last.last_file_offset.min(u64::MAX >> 1));
    Ok(LogState::Replayed { entries: u64::try_from(active.len()).unwrap_or(0), changes })
}

impl Ring<'_> {
    fn sector(&self, at: u64, buf: &mut [u8; SECTOR_LEN]) -> Result<()> {
        self.budget.charge(Cost::MetadataBytes, SECTOR)?;
        let at = at.checked_rem(self.len).unwrap_or(0);
        self.source.read_bytes(FileOffset::new(self.start.saturating_add(at)), buf)
    }

    /// The entries to be replayed, oldest first (2.3.3): of all runs of valid entries with rising numbers whose
    /// last entry finds its tail among them, the one with the highest number.
    fn active_sequence(&mut self) -> Result<Vec<Entry>> {
        let mut candidate: Vec<Entry> = Vec::new();
        let mut tail = 0_u64;
        loop {
            self.budget.check_time()?;
            let mut sequence: Vec<Entry> = Vec::new();
            let mut head = tail;
            let mut used = 0_u64;
            while let Some(entry) = self.entry(head)? {
                let follows =
                    sequence.last().is_none_or(|last| last.sequence.checked_add(1) == Some(entry.sequence));
                used = used.saturating_add(entry.len);
                if !follows || used > self.len {
                    break;
                }
                head = head.saturating_add(entry.len).checked_rem(self.len).unwrap_or(0);
                sequence.push(entry);
            }
            let begins =
                sequence.last().and_then(|last| sequence.iter().position(|entry| entry.at == last.tail));
            let old = tail;
            match begins {
                Some(begins) => {
                    let number = |list: &[Entry]| list.last().map_or(0, |entry| entry.sequence);
                    if number(&sequence) > number(&candidate) {
                        candidate = sequence.split_off(begins);
                    }
                    tail = head;
                }
                None => tail = tail.saturating_add(SECTOR).checked_rem(self.len).unwrap_or(0),
            }
            // Once round.
            if tail <= old {
                return Ok(candidate);
            }
        }
    }

    /// The entry at `at`, if there is a valid one: header, checksum over all of it, descriptors and data sectors.
    fn entry(&mut self, at: u64) -> Result<Option<Entry>> {
        let mut raw = [0; SECTOR_LEN];
        self.sector(at, &mut raw)?;
        if !raw.starts_with(b"loge") || bytes(&raw, 32) != Some(self.guid.0) {
            return Ok(None);
        }
        self.seen = true;
        let u64_at = |at| le64(&raw, at).unwrap_or(0);
        let u32_at = |at| u64::from(le32(&raw, at).unwrap_or(0));
        let entry = Entry {
            at,
            len: u32_at(8),
            tail: u32_at(12),
            sequence: u64_at(16),
            descriptors: u32_at(24),
            flushed_file_offset: u64_at(48),
            last_file_offset: u64_at(56),
        };
        let tables = entry.tables_len();
        if entry.len == 0
            || entry.len > self.len
            || !entry.len.is_multiple_of(SECTOR)
            || tables > entry.len
            || entry.sequence == 0
            || entry.tail >= self.len
        {
            return Ok(None);
        }
        let stored = le32(&raw, CHECKSUM_AT).unwrap_or(0);
        let mut sum = super::header::checksum(&raw);
        let (mut data, mut valid) = (0_u64, true);
        let mut done = SECTOR;
        entry.each_in(&raw, 0, &mut |descriptor| {
            valid &= descriptor.is_valid(entry.sequence);
            data = data.saturating_add(u64::from(matches!(descriptor.kind, Kind::Data { .. })));
        });
        while done < entry.len {
            self.sector(at.saturating_add(done), &mut raw)?;
            sum = crc32c::crc32c_append(sum, &raw);
            if done < tables {
                entry.each_in(&raw, done, &mut |descriptor| {
                    valid &= descriptor.is_valid(entry.sequence);
                    data = data.saturating_add(u64::from(matches!(descriptor.kind, Kind::Data { .. })));
                });
            } else if done.saturating_sub(tables) / SECTOR < data {
                valid &= is_data_sector(&raw, entry.sequence);
            }
            done = done.saturating_add(SECTOR);
        }
        valid &= tables.saturating_add(data.saturating_mul(SECTOR)) <= entry.len;
        Ok((valid && sum == stored).then_some(entry))
    }

    /// Applies a valid entry; answers how many changes it had.
    fn apply(&self, entry: &Entry, overlay: &mut Overlay) -> Result<u64> {
        let mut raw = [0; SECTOR_LEN];
        let mut sector = [0; SECTOR_LEN];
        let mut data_at = entry.at.saturating_add(entry.tables_len());
        let mut done = 0_u64;
        while done < entry.tables_len() {
            self.sector(entry.at.saturating_add(done), &mut raw)?;
            let mut list = Vec::new();
            entry.each_in(&raw, done, &mut |descriptor| list.push(descriptor));
            for descriptor in list {
                match descriptor.kind {
                    Kind::Zeros { len } => overlay.write_zeros(descriptor.file_offset, len)?,
                    Kind::Data { leading, trailing } => {
                        self.sector(data_at, &mut sector)?;
                        data_at = data_at.saturating_add(SECTOR);
                        if let Some(field) = sector.first_chunk_mut() {
                            *field = leading;
                        }
                        if let Some(field) = sector.last_chunk_mut() {
                            *field = trailing;
                        }
                        overlay.write(descriptor.file_offset, &sector)?;
                    }
                    Kind::Unknown => {}
                }
            }
            done = done.saturating_add(SECTOR);
        }
        Ok(entry.descriptors)
    }
}

/// A data sector has the entry's number in two halves, at its start and at its end.
fn is_data_sector(raw: &[u8; SECTOR_LEN], sequence: u64) -> bool {
    let (high, low) = (le32(raw, 4).unwrap_or(0), le32(raw, 4092).unwrap_or(0));
    raw.starts_with(b"data") && (u64::from(high) << 32) | u64::from(low) == sequence
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Data { leading: [u8; 8], trailing: [u8; 4] },
    Zeros { len: u64 },
    Unknown,
}

#[derive(Debug, Clone, Copy)]
struct Descriptor {
    kind: Kind,
    file_offset: u64,
    sequence: u64,
}

impl Descriptor {
    fn read(raw: &[u8]) -> Self {
        let kind = match bytes::<4>(raw, 0) {
            Some([b'd', b'e', b's', b'c']) => {
                let (leading, trailing) = (bytes(raw, 8), bytes(raw, 4));
                Kind::Data { leading: leading.unwrap_or([0; 8]), trailing: trailing.unwrap_or([0; 4]) }
            }
            Some([b'z', b'e', b'r', b'o']) => Kind::Zeros { len: le64(raw, 8).unwrap_or(0) },
            _ => Kind::Unknown,
        };
        let number = |at| le64(raw, at).unwrap_or(0);
        Self { kind, file_offset: number(16), sequence: number(24) }
    }

    fn is_valid(&self, sequence: u64) -> bool {
        let len = match self.kind {
            Kind::Data { .. } => SECTOR,
            Kind::Zeros { len } => len,
            Kind::Unknown => return false,
        };
        // No file is longer than 2^63 - 1 bytes.
        let ends = self.file_offset.checked_add(len).is_some_and(|end| end <= u64::MAX >> 1);
        ends && self.sequence == sequence
            && self.file_offset.is_multiple_of(SECTOR)
            && len.is_multiple_of(SECTOR)
    }
}

impl Entry {
    /// Bytes of header and descriptors, in whole sectors.
    const fn tables_len(&self) -> u64 {
        self.descriptors.saturating_mul(DESCRIPTOR).saturating_add(ENTRY_HEADER).next_multiple_of(SECTOR)
    }

    /// Hands over the descriptors in the sector that is `done` bytes into the entry.
    fn each_in(&self, raw: &[u8; SECTOR_LEN], done: u64, visit: &mut dyn FnMut(Descriptor)) {
        let skip = if done == 0 { ENTRY_HEADER } else { 0 };
        let before = done.saturating_add(skip).saturating_sub(ENTRY_HEADER) / DESCRIPTOR;
        let left = usize::try_from(self.descriptors.saturating_sub(before)).unwrap_or(0);
        let rows = raw.get(usize::try_from(skip).unwrap_or(0)..).unwrap_or_default().chunks_exact(32);
        rows.take(left).for_each(|row| visit(Descriptor::read(row)));
    }
}
