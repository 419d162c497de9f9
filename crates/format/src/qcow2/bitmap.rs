//! The bitmap directory. Kiln lists persistent dirty bitmaps and checks their places; it does not use their bits.

use std::sync::Arc;

use kiln_disk::{ByteSource, Cost, Error, FileOffset, Result};

use super::charged::Charged;
use super::extension::BitmapsAt;
use super::geometry::{Geometry, in_memory};
use super::header::TablePlace;
use super::problem::{Qcow2Problem, Table};
use crate::image::OpenContext;
use crate::wire::{be16, be32, be64};

const FIXED_LEN: u64 = 24;
/// Most bitmaps: QEMU's limit too.
const MOST: u32 = 65_535;
/// Longest name: QEMU's limit too.
const LONGEST_NAME: u16 = 1023;
/// The longest directory of that many bitmaps.
const DIRECTORY_MAX: u64 = 65_535 * (24 + 1024);

/// Memory of an entry beside its name.
const ENTRY_MEMORY: u64 = 64;

/// A persistent bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmap {
    pub(super) name: String,
    pub(super) table_offset: u64,
    pub(super) table_size: u32,
    pub(super) in_use: bool,
    /// Place of its directory entry in the file.
    pub(super) entry_at: u64,
}

/// Reads the directory. What is wrong with it goes to `doubts`; the list then ends early.
///
/// # Errors
/// [`Error::Io`], and [`Error::Refused`] by the budget.
pub(super) fn read(
    source: &Arc<dyn ByteSource>,
    geometry: Geometry,
    place: &BitmapsAt,
    context: &OpenContext,
    held: &mut Charged,
    doubts: &mut Vec<Error>,
) -> Result<Vec<Bitmap>> {
    let mut list = Vec::new();
    let before = doubts.len();
    let table = TablePlace {
        table: Table::Bitmaps,
        start: place.directory_offset,
        len: place.directory_size,
        allowed: DIRECTORY_MAX,
        field: place.field,
    };
    table.doubts(geometry, source.byte_len(), doubts);
    let directory = |expected| Qcow2Problem::BitmapDirectory {
        count: place.count,
        expected,
        actual: place.directory_size,
    };
    let smallest = u64::from(place.count).saturating_mul(FIXED_LEN);
    if place.count == 0 || place.count > MOST || smallest > place.directory_size {
        doubts.push(malformed(place.field, directory(smallest)));
    }
    if doubts.len() > before {
        return Ok(list);
    }
    let end = place.directory_offset.saturating_add(place.directory_size);
    let mut at = place.directory_offset;
    for index in 0..place.count {
        let fixed_end = at.saturating_add(FIXED_LEN);
        if fixed_end > end {
            doubts.push(malformed(place.field, directory(fixed_end.saturating_sub(place.directory_offset))));
            return Ok(list);
        }
        context.budget.charge(Cost::Nodes, 1)?;
        context.budget.charge(Cost::MetadataBytes, FIXED_LEN)?;
        let mut fixed = [0; 24];
        source.read_bytes(FileOffset::new(at), &mut fixed)?;
        let entry = match Entry::decode(&fixed, index) {
            Ok(entry) => entry,
            Err(problem) => {
                doubts.push(malformed(at, problem));
                return Ok(list);
            }
        };
        let name_at = fixed_end.saturating_add(entry.extra_len.into());
        let name_end = name_at.saturating_add(entry.name_len.into());
        if name_end > end {
            doubts.push(malformed(at, directory(name_end.saturating_sub(place.directory_offset))));
            return Ok(list);
        }
        let name_len = u64::from(entry.name_len);
        context.budget.charge(Cost::MetadataBytes, name_len)?;
        held.add(name_len.saturating_add(ENTRY_MEMORY))?;
        let mut name = vec![0; in_memory(name_len)];
        source.read_bytes(FileOffset::new(name_at), &mut name)?;
        list.push(Bitmap {
            name: String::from_utf8_lossy(&name).into_owned(),
            table_offset: entry.table_offset,
            table_size: entry.table_size,
            in_use: entry.flags & 1 != 0,
            entry_at: at,
        });
        at = name_end.checked_next_multiple_of(8).unwrap_or(u64::MAX);
    }
    if at != end {
        doubts.push(malformed(place.field, directory(at.saturating_sub(place.directory_offset))));
    }
    Ok(list)
}

struct Entry {
    table_offset: u64,
    table_size: u32,
    flags: u32,
    name_len: u16,
    extra_len: u32,
}

impl Entry {
    fn decode(fixed: &[u8; 24], index: u32) -> std::result::Result<Self, Qcow2Problem> {
        let wrong = |what, actual| Qcow2Problem::BitmapEntry { index, what, actual };
        let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, kind, granularity, ..] = *fixed;
        if kind != 1 {
            return Err(wrong("the type (1 is known)", kind.into()));
        }
        if granularity > 63 {
            return Err(wrong("granularity_bits (63 at most)", granularity.into()));
        }
        let name_len = be16(fixed, 18).unwrap_or(0);
        if name_len == 0 || name_len > LONGEST_NAME {
            return Err(wrong("name_size (1 to 1023)", name_len.into()));
        }
        let flags = be32(fixed, 12).unwrap_or(0);
        if flags & !7 != 0 {
            return Err(wrong("flags (bits 3 to 31 are reserved)", flags.into()));
        }
        Ok(Self {
            table_offset: be64(fixed, 0).unwrap_or(0),
            table_size: be32(fixed, 8).unwrap_or(0),
            flags,
            name_len,
            extra_len: be32(fixed, 20).unwrap_or(0),
        })
    }
}

fn malformed(at: u64, problem: Qcow2Problem) -> Error {
    Error::malformed("qcow2 bitmap directory", FileOffset::new(at), problem)
}
