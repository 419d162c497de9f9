//! Members that store only the data of a file with holes: which of its bytes are stored, and where.
//!
//! Four forms are written by GNU tar (its manual, "Storing Sparse Files"): type `S` with the map in the header and
//! in blocks behind it, and three versions of pax keywords, the last with the map in front of the data.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Result, Run, RunKind};

use super::header::{BLOCK_LEN, Block, number};
use super::member::Slice;
use super::pax::{PaxSparse, decimal};
use super::problem::TarProblem;

/// A run of stored bytes of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// A run of the file that is stored, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    /// First byte in the file.
    start: u64,
    /// The byte behind the last.
    end: u64,
    /// Where the first one is in the member's data.
    at: u64,
}

/// Where the bytes of a sparse file are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SparseMap {
    pieces: Vec<Piece>,
    len: u64,
}

impl SparseMap {
    /// Judges a map: it ascends, stays in the file of `len` bytes, and its data is the `stored` bytes of the member
    /// that `at` is the header of. Pieces begin at blocks: readers disagree about where an odd one would end.
    pub(super) fn new(entries: &[Entry], len: u64, stored: u64, at: FileOffset) -> Result<Self> {
        let wrong = |entry: usize, what| {
            let entry = u64::try_from(entry).unwrap_or(u64::MAX);
            Error::malformed("sparse map", at, TarProblem::Sparse { entry, what })
        };
        let mut pieces = Vec::new();
        let (mut reached, mut mapped) = (0_u64, 0_u64);
        for (index, entry) in entries.iter().enumerate() {
            let end = entry.offset.checked_add(entry.len).filter(|end| *end <= len);
            let end = end.ok_or_else(|| wrong(index, "leaves the file"))?;
            if entry.offset < reached {
                return Err(wrong(index, "goes backwards"));
            }
            if entry.len > 0 {
                if mapped.checked_rem(BLOCK_LEN) != Some(0) {
                    return Err(wrong(index, "follows a run that is no number of blocks"));
                }
                pieces.push(Piece { start: entry.offset, end, at: mapped });
            }
            reached = end;
            mapped = mapped.saturating_add(entry.len);
        }
        if mapped != stored {
            return Err(Error::malformed("sparse map", at, TarProblem::SparseSum { mapped, stored }));
        }
        Ok(Self { pieces, len })
    }

    /// Length of the file.
    pub(super) const fn len(&self) -> u64 {
        self.len
    }

    /// Where in the member's data the bytes from `start` to `end` of the file are, as far as they are stored.
    pub(super) fn each_stored(&self, start: u64, end: u64, mut found: impl FnMut(u64, u64)) {
        let first = self.pieces.partition_point(|piece| piece.end <= start);
        for piece in self.pieces.iter().skip(first).take_while(|piece| piece.start < end) {
            let from = start.max(piece.start).saturating_sub(piece.start);
            let to = end.min(piece.end).saturating_sub(piece.start);
            found(piece.at.saturating_add(from), piece.at.saturating_add(to));
        }
    }

    /// The piece that holds byte `at`, or the first one behind it.
    fn from(&self, at: u64) -> Option<&Piece> {
        self.pieces.get(self.pieces.partition_point(|piece| piece.end <= at))
    }
}

/// Pays for entries that are kept.
fn charge(budget: &Budget, entries: usize) -> Result<()> {
    let bytes = u64::try_from(entries).unwrap_or(u64::MAX).saturating_mul(40);
    budget.charge(Cost::Memory, bytes)
}

/// Entries of a map in a block: `at` is where they start, `count` how many there is room for. Answers whether it
/// was full.
fn block_entries(
    block: &Block,
    at: usize,
    count: usize,
    header: FileOffset,
    out: &mut Vec<Entry>,
) -> Result<bool> {
    let start = block.get(at..).unwrap_or_default();
    for raw in start.chunks_exact(24).take(count) {
        let (offset, len) = raw.split_at_checked(12).unwrap_or_default();
        // GNU tar ends the map at the first entry without a length.
        if len.first() == Some(&0) {
            return Ok(false);
        }
        let entry = number(offset).zip(number(len)).map(|(offset, len)| Entry { offset, len });
        let index = u64::try_from(out.len()).unwrap_or(u64::MAX);
        out.push(entry.ok_or_else(|| {
            let what = "has an entry that is no pair of numbers";
            Error::malformed("sparse map", header, TarProblem::Sparse { entry: index, what })
        })?);
    }
    Ok(true)
}

/// Reads the map of a member of type `S`, whose header is `block` at byte `at`, and gives the place behind its
/// extension blocks.
pub(super) fn old_gnu(
    source: &dyn ByteSource,
    block: &Block,
    at: FileOffset,
    stored: u64,
    budget: &Budget,
) -> Result<(SparseMap, FileOffset)> {
    let mut entries = Vec::new();
    let mut next = at.saturating_add(BLOCK_LEN);
    let mut full = block_entries(block, 386, 4, at, &mut entries)?;
    let mut more = block.get(482).is_some_and(|flag| *flag != 0);
    let real = block.get(483..495).and_then(number);
    let real =
        real.ok_or_else(|| Error::malformed("tar header", at, TarProblem::Number { field: "realsize" }))?;
    while more {
        if !full {
            let what = "ends before its last block";
            let entry = u64::try_from(entries.len()).unwrap_or(u64::MAX);
            return Err(Error::malformed("sparse map", next, TarProblem::Sparse { entry, what }));
        }
        let block = super::walk::read_block(source, next, budget)?;
        charge(budget, 21)?;
        full = block_entries(&block, 0, 21, next, &mut entries)?;
        more = block.get(504).is_some_and(|flag| *flag != 0);
        next = next.saturating_add(BLOCK_LEN);
    }
    Ok((SparseMap::new(&entries, real, stored, at)?, next))
}

/// Makes the map that pax keywords describe, for a member whose header is at `header` and whose `stored` bytes
/// begin at `data`. Answers the map, and where the data behind it begins.
pub(super) fn pax(
    source: &dyn ByteSource,
    said: &PaxSparse,
    header: FileOffset,
    data: FileOffset,
    stored: u64,
    budget: &Budget,
) -> Result<(SparseMap, FileOffset)> {
    let wrong = |what| Error::malformed("pax header", header, TarProblem::Sparse { entry: 0, what });
    let real = said.real_size.ok_or_else(|| wrong("has no size of the file"))?;
    match (said.major, said.minor) {
        (None, None) => {
            let count = u64::try_from(said.map.len()).ok();
            if said.numblocks.is_some() && said.numblocks != count {
                return Err(wrong("has another number of entries than it says"));
            }
            charge(budget, said.map.len())?;
            Ok((SparseMap::new(&said.map, real, stored, header)?, data))
        }
        (Some(1), Some(0)) => {
            let mut text =
                Numbers { source, at: data, end: data.saturating_add(stored), block: None, budget };
            let count = text.next_number(header)?;
            // Every entry takes two digits and two line feeds at least.
            if count > stored.checked_div(4).unwrap_or(0) {
                return Err(wrong("has more entries than its member can hold"));
            }
            let mut entries = Vec::new();
            for _ in 0..count {
                charge(budget, 1)?;
                let offset = text.next_number(header)?;
                entries.push(Entry { offset, len: text.next_number(header)? });
            }
            let used = text.at.bytes_since(data).unwrap_or(0);
            let stored = stored.checked_sub(used).ok_or_else(|| wrong("is longer than its member"))?;
            Ok((SparseMap::new(&entries, real, stored, header)?, text.at))
        }
        _ => Err(Error::Unsupported {
            code: "tar.sparse.version",
            feature: format!(
                "a sparse member of version {}.{}",
                said.major.unwrap_or(0),
                said.minor.unwrap_or(0)
            ),
            hint: "pack it again without holes: tar --format=ustar -cf NEW.tar FILES",
        }),
    }
}

/// Decimal numbers, one a line, in whole blocks: the map of version 1.0.
struct Numbers<'a> {
    source: &'a dyn ByteSource,
    /// The next block.
    at: FileOffset,
    end: FileOffset,
    block: Option<(Block, usize)>,
    budget: &'a Budget,
}

impl Numbers<'_> {
    fn next_number(&mut self, header: FileOffset) -> Result<u64> {
        let wrong = |what| Error::malformed("sparse map", header, TarProblem::Sparse { entry: 0, what });
        let mut digits = Vec::new();
        loop {
            let byte = self.next_byte()?.ok_or_else(|| wrong("is longer than its member"))?;
            match byte {
                b'\n' => break,
                b'0'..=b'9' if digits.len() < 20 => digits.push(byte),
                _ => return Err(wrong("has a line that is no number")),
            }
        }
        decimal(&digits).ok_or_else(|| wrong("has a line that is no number"))
    }

    fn next_byte(&mut self) -> Result<Option<u8>> {
        loop {
            if let Some((block, used)) = self.block.as_mut()
                && let Some(byte) = block.get(*used)
            {
                *used = used.saturating_add(1);
                return Ok(Some(*byte));
            }
            if self.at >= self.end {
                return Ok(None);
            }
            self.block = Some((super::walk::read_block(self.source, self.at, self.budget)?, 0));
            self.at = self.at.saturating_add(BLOCK_LEN);
        }
    }
}

/// A sparse member as the file that it was.
pub(super) struct SparseSource {
    pub(super) stored: Slice,
    pub(super) map: Arc<SparseMap>,
}

impl ByteSource for SparseSource {
    fn byte_len(&self) -> u64 {
        self.map.len()
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        let end = u64::try_from(buf.len()).ok().and_then(|len| at.checked_add(len));
        if end.is_none_or(|end| end.get() > self.byte_len()) {
            return Err(Error::Io {
                operation: "read",
                target: self.label().to_owned(),
                at: Some(at),
                source: std::io::ErrorKind::UnexpectedEof.into(),
            });
        }
        let mut rest = buf;
        let mut here = at.get();
        while !rest.is_empty() {
            let left = u64::try_from(rest.len()).unwrap_or(u64::MAX);
            let (take, stored) = match self.map.from(here) {
                Some(piece) if piece.start <= here => {
                    let inside = here.saturating_sub(piece.start);
                    (piece.end.saturating_sub(here).min(left), Some(piece.at.saturating_add(inside)))
                }
                Some(piece) => (piece.start.saturating_sub(here).min(left), None),
                None => (left, None),
            };
            let len = usize::try_from(take).unwrap_or(usize::MAX);
            let (part, behind) = rest.split_at_mut_checked(len).unwrap_or_default();
            match stored {
                Some(at) => self.stored.read_bytes(FileOffset::new(at), part)?,
                None => part.fill(0),
            }
            rest = behind;
            here = here.saturating_add(take);
        }
        Ok(())
    }

    fn run_at(&self, at: FileOffset) -> Result<Option<Run>> {
        let here = at.get();
        let (kind, end) = match self.map.from(here) {
            Some(piece) if piece.start <= here => {
                let inside = here.saturating_sub(piece.start);
                let run = self.stored.run_at(FileOffset::new(piece.at.saturating_add(inside)))?;
                let len = run.map_or(u64::MAX, |run| run.len.get());
                (run.map_or(RunKind::Data, |run| run.kind), here.saturating_add(len).min(piece.end))
            }
            Some(piece) => (RunKind::Hole, piece.start),
            None => (RunKind::Hole, self.byte_len()),
        };
        Ok(NonZeroU64::new(end.saturating_sub(here)).map(|len| Run { kind, len }))
    }

    fn label(&self) -> &str {
        self.stored.label()
    }
}
