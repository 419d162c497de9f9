//! The snapshot table: entries of variable length, one after the other.

use std::sync::Arc;

use kiln_disk::{ByteSource, Cost, Error, FileOffset, Result};

use super::charged::Charged;
use super::header::{Header, L1_MAX, TablePlace};
use super::problem::{Qcow2Problem, Table};
use crate::facts::SnapshotFacts;
use crate::image::OpenContext;
use crate::wire::{be16, be32, be64};

/// Bytes of the fixed part of an entry.
const FIXED_LEN: u64 = 40;
/// Most snapshots: QEMU's limit too.
const MOST: u32 = 65_536;
/// Most extra data of one entry: QEMU's limit too.
const MOST_EXTRA: u32 = 1024;

/// Memory of an entry beside its words.
const ENTRY_MEMORY: u64 = 128;

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) l1_table_offset: u64,
    pub(super) l1_size: u32,
    pub(super) id: String,
    pub(super) name: String,
    pub(super) date_sec: u32,
    pub(super) vm_state_size: u64,
    pub(super) disk_size: u64,
    /// Place of its entry in the file.
    pub(super) entry_at: u64,
}

impl Snapshot {
    pub(super) fn facts(&self) -> SnapshotFacts {
        SnapshotFacts {
            id: self.id.clone(),
            name: self.name.clone(),
            disk_bytes: self.disk_size,
            taken_at: self.date_sec.into(),
            vm_state_bytes: self.vm_state_size,
        }
    }

    /// Bytes of its L1 table.
    pub(super) fn l1_len(&self) -> u64 {
        u64::from(self.l1_size).saturating_mul(8)
    }
}

/// The snapshot table as far as it can be read.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    pub(super) list: Vec<Snapshot>,
    /// Bytes of the entries that were read, from `snapshots_offset`.
    pub(super) table_len: u64,
}

/// Reads the snapshot table. What is wrong with it goes to `doubts`; the list then ends early.
///
/// # Errors
/// [`Error::Io`], and [`Error::Refused`] by the budget.
pub(super) fn read(
    source: &Arc<dyn ByteSource>,
    header: &Header,
    context: &OpenContext,
    held: &mut Charged,
    doubts: &mut Vec<Error>,
) -> Result<Snapshots> {
    let mut found = Snapshots::default();
    let file_len = source.byte_len();
    if header.nb_snapshots == 0 {
        return Ok(found);
    }
    if header.nb_snapshots > MOST {
        doubts.push(Error::Refused {
            code: "qcow2.snapshots.too-many",
            what: "internal snapshots".to_owned(),
            asked: header.nb_snapshots.into(),
            allowed: MOST.into(),
            hint: "the header is damaged, or the file was made to exhaust its reader",
        });
    }
    let smallest = u64::from(header.nb_snapshots).saturating_mul(FIXED_LEN);
    let place = TablePlace {
        table: Table::Snapshots,
        start: header.snapshots_offset,
        len: smallest,
        allowed: u64::MAX,
        field: 64,
    };
    let before = doubts.len();
    place.doubts(header.geometry, file_len, doubts);
    if doubts.len() > before {
        return Ok(found);
    }
    for index in 0..header.nb_snapshots.min(MOST) {
        let at = header.snapshots_offset.saturating_add(found.table_len);
        match read_entry(source, header, context, held, index, at)? {
            Ok((snapshot, len)) => {
                found.table_len = found.table_len.saturating_add(len);
                found.list.push(snapshot);
            }
            Err(problem) => {
                doubts.push(Error::malformed("qcow2 snapshot table", FileOffset::new(at), problem));
                break;
            }
        }
    }
    Ok(found)
}

type Entry = std::result::Result<(Snapshot, u64), Qcow2Problem>;

fn read_entry(
    source: &Arc<dyn ByteSource>,
    header: &Header,
    context: &OpenContext,
    held: &mut Charged,
    index: u32,
    at: u64,
) -> Result<Entry> {
    let file_len = source.byte_len();
    let past_end =
        |end: u64| Qcow2Problem::TablePastEnd { table: Table::Snapshots, start: at, end, file_len };
    let fixed_end = at.saturating_add(FIXED_LEN);
    if fixed_end > file_len {
        return Ok(Err(past_end(fixed_end)));
    }
    context.budget.charge(Cost::Nodes, 1)?;
    context.budget.charge(Cost::MetadataBytes, FIXED_LEN)?;
    let mut fixed = [0; 40];
    source.read_bytes(FileOffset::new(at), &mut fixed)?;
    let (Some(l1_table_offset), Some(l1_size), Some(id_len), Some(name_len), Some(date_sec)) =
        (be64(&fixed, 0), be32(&fixed, 8), be16(&fixed, 12), be16(&fixed, 14), be32(&fixed, 16))
    else {
        return Ok(Err(past_end(fixed_end)));
    };
    let (Some(vm_state_32), Some(extra_len)) = (be32(&fixed, 32), be32(&fixed, 36)) else {
        return Ok(Err(past_end(fixed_end)));
    };
    if extra_len > MOST_EXTRA {
        return Ok(Err(Qcow2Problem::SnapshotEntry {
            index,
            what: "the length of the extra data",
            actual: extra_len.into(),
            allowed: MOST_EXTRA.into(),
        }));
    }
    if header.version >= 3 && extra_len < 16 {
        return Ok(Err(Qcow2Problem::SnapshotExtraShort { index, actual: extra_len }));
    }
    // At most 1 KiB and twice 64 KiB.
    let tail_len = u64::from(extra_len).saturating_add(id_len.into()).saturating_add(name_len.into());
    let end = fixed_end.saturating_add(tail_len);
    if end > file_len {
        return Ok(Err(past_end(end)));
    }
    context.budget.charge(Cost::MetadataBytes, tail_len)?;
    held.add(tail_len.saturating_add(ENTRY_MEMORY))?;
    let mut tail = vec![0; super::geometry::in_memory(tail_len)];
    source.read_bytes(FileOffset::new(fixed_end), &mut tail)?;
    let (extra, words) =
        tail.split_at_checked(super::geometry::in_memory(extra_len.into())).unwrap_or_default();
    let (id, name) = words.split_at_checked(id_len.into()).unwrap_or_default();
    let snapshot = Snapshot {
        l1_table_offset,
        l1_size,
        id: String::from_utf8_lossy(id).into_owned(),
        name: String::from_utf8_lossy(name).into_owned(),
        date_sec,
        vm_state_size: be64(extra, 0).unwrap_or_else(|| vm_state_32.into()),
        disk_size: be64(extra, 8).unwrap_or(header.size),
        entry_at: at,
    };
    let len = FIXED_LEN.saturating_add(tail_len);
    Ok(Ok((snapshot, len.checked_next_multiple_of(8).unwrap_or(len))))
}

/// What is wrong with the place of a snapshot's L1 table.
pub(super) fn l1_doubts(snapshot: &Snapshot, header: &Header, file_len: u64, doubts: &mut Vec<Error>) {
    let place = TablePlace {
        table: Table::SnapshotL1,
        start: snapshot.l1_table_offset,
        len: snapshot.l1_len(),
        allowed: L1_MAX,
        field: snapshot.entry_at,
    };
    place.doubts(header.geometry, file_len, doubts);
    let expected = header.geometry.l1_needed(snapshot.disk_size);
    let actual = u64::from(snapshot.l1_size);
    if actual < expected {
        doubts.push(Error::malformed(
            "qcow2 snapshot table",
            FileOffset::new(snapshot.entry_at.saturating_add(8)),
            Qcow2Problem::L1Small { expected, actual, disk_len: snapshot.disk_size },
        ));
    }
}
