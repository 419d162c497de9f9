//! Where every structure of the file is.

use std::collections::BTreeMap;

use kiln_disk::{Cost, FileOffset, Observer, Result, go_on};

use super::{Report, specs};
use crate::qcow2::charged::Charged;
use crate::qcow2::entry::{COPIED, OFFSET_MASK, l2_table};
use crate::qcow2::geometry::{L1_SLICE_ENTRIES, L1_SLICE_LEN, as_bytes};
use crate::qcow2::header::{L1_MAX, REFCOUNT_TABLE_MAX};
use crate::qcow2::map::{L1At, read_words};
use crate::qcow2::open::Qcow2Image;
use crate::qcow2::problem::{Qcow2Problem, Table};
use crate::qcow2::snapshot;

/// A refcount block that is not where it should be: what it counts cannot be compared.
pub(super) const UNREADABLE: u64 = u64::MAX;

/// An L2 table and what leads to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct L2Use {
    pub(super) start: u64,
    /// Entries of the active L1 table that lead to it: 1 at most in an honest file.
    pub(super) active: u32,
    /// Entries of any L1 table that lead to it.
    pub(super) all: u32,
    /// The first of those entries; of the active table where there is one.
    pub(super) index: u32,
    /// The copied flag of that entry.
    pub(super) copied: bool,
}

/// Every structure, by place. All of them are aligned and in the file.
pub(super) struct Layout {
    /// First byte to (first byte behind, what it is): everything of more than one cluster, and bitmap data.
    pub(super) fixed: BTreeMap<u64, (u64, Table)>,
    /// L2 tables in the order of the file.
    pub(super) l2: Vec<L2Use>,
    /// Refcount blocks by index; 0 where there is none.
    pub(super) blocks: Vec<u64>,
    charged: Charged,
}

impl Layout {
    pub(super) fn gather(image: &Qcow2Image, report: &mut Report, observer: &dyn Observer) -> Result<Self> {
        let charged = Charged::new(&image.budget);
        let mut layout = Self { fixed: BTreeMap::new(), l2: Vec::new(), blocks: Vec::new(), charged };
        let header = &image.header;
        let file_len = image.source.byte_len();
        layout.place(image, report, Table::Header, 0, header.geometry.cluster_len().min(file_len));
        let l1_len = u64::from(header.l1_size).saturating_mul(8);
        let active = layout.place_table(image, report, Table::L1, header.l1_table_offset, l1_len, L1_MAX);
        let (start, len) = (header.refcount_table_offset, header.refcount_table_len());
        if layout.place_table(image, report, Table::Refcounts, start, len, REFCOUNT_TABLE_MAX) {
            layout.gather_blocks(image, report, observer)?;
        }
        let (start, len) = (header.snapshots_offset, image.snapshots.table_len);
        layout.place_table(image, report, Table::Snapshots, start, len, u64::MAX);
        if active {
            let l1 = L1At { start: header.l1_table_offset, entries: header.l1_size.into(), table: Table::L1 };
            layout.gather_l2(image, l1, report, observer)?;
        }
        for snapshot in &image.snapshots.list {
            let mut doubts = Vec::new();
            snapshot::l1_doubts(snapshot, header, file_len, &mut doubts);
            doubts.iter().for_each(|doubt| report.error(doubt));
            let start = snapshot.l1_table_offset;
            if layout.place_table(image, report, Table::SnapshotL1, start, snapshot.l1_len(), L1_MAX) {
                let l1 = L1At { start, entries: snapshot.l1_size.into(), table: Table::SnapshotL1 };
                layout.gather_l2(image, l1, report, observer)?;
            }
        }
        if let Some(bitmaps) = &image.extensions.bitmaps {
            let (start, len) = (bitmaps.directory_offset, bitmaps.directory_size);
            layout.place_table(image, report, Table::Bitmaps, start, len, u64::MAX);
            layout.gather_bitmaps(image, report, observer)?;
        }
        Ok(layout)
    }

    /// Notes a structure whose place was judged when the file was opened; false when it cannot be walked.
    fn place_table(
        &mut self,
        image: &Qcow2Image,
        report: &mut Report,
        table: Table,
        start: u64,
        len: u64,
        allowed: u64,
    ) -> bool {
        let sound = len != 0
            && len <= allowed
            && image.header.geometry.is_aligned(start)
            && start.saturating_add(len) <= image.source.byte_len();
        sound && self.place(image, report, table, start, len)
    }

    /// Notes a structure; false, and a finding, when something else is there already.
    fn place(&mut self, image: &Qcow2Image, report: &mut Report, table: Table, start: u64, len: u64) -> bool {
        let geometry = image.header.geometry;
        let end = start.saturating_add(geometry.clusters(len).saturating_mul(geometry.cluster_len()));
        let before = self.fixed.range(..end).next_back().filter(|(_, (there_end, _))| *there_end > start);
        if let Some((there, (_, other))) = before {
            let detail = || format!("the {table} at {start:#x} is on the {other} at {there:#x}");
            report.found(&specs::OVERLAP, detail, |finding| finding.at(FileOffset::new(start)));
            return false;
        }
        self.fixed.insert(start, (end, table));
        true
    }

    fn gather_blocks(
        &mut self,
        image: &Qcow2Image,
        report: &mut Report,
        observer: &dyn Observer,
    ) -> Result<()> {
        let header = &image.header;
        let (start, len) = (header.refcount_table_offset, header.refcount_table_len());
        self.charged.add(len)?;
        let mut done = 0;
        while done < len {
            go_on(observer)?;
            let at = start.saturating_add(done);
            let part = len.saturating_sub(done).min(L1_SLICE_LEN);
            let words = read_words(&image.source, &image.budget, Table::Refcounts, at, part)?;
            image.budget.charge(Cost::Nodes, as_bytes(words.len()))?;
            for entry in words {
                let index = as_bytes(self.blocks.len());
                let entry_at = start.saturating_add(index.saturating_mul(8));
                self.blocks.push(judge_block(image, report, index, entry, entry_at));
            }
            done = done.saturating_add(part);
        }
        // Trailing entries without a block count nothing.
        let used = self.blocks.iter().rposition(|block| *block != 0).map_or(0, |last| last.saturating_add(1));
        self.blocks.truncate(used);
        Ok(())
    }

    fn gather_l2(
        &mut self,
        image: &Qcow2Image,
        l1: L1At,
        report: &mut Report,
        observer: &dyn Observer,
    ) -> Result<()> {
        let geometry = image.header.geometry;
        let file_len = image.source.byte_len();
        let active = u32::from(l1.table == Table::L1);
        let mut index = 0_u64;
        while index < l1.entries {
            go_on(observer)?;
            image.budget.check_time()?;
            let at = l1.start.saturating_add(index.saturating_mul(8));
            let len = l1.entries.saturating_sub(index).min(L1_SLICE_ENTRIES).saturating_mul(8);
            let words = read_words(&image.source, &image.budget, l1.table, at, len)?;
            image.budget.charge(Cost::Nodes, as_bytes(words.len()))?;
            for (here, entry) in (index..).zip(words.iter().copied()) {
                let judged = l2_table(here, entry).and_then(|start| match start {
                    Some(start) => geometry.confirm_table(Table::L2, start, file_len).map(|()| Some(start)),
                    None => Ok(None),
                });
                match judged {
                    Ok(None) => {}
                    Ok(Some(start)) => self.l2.push(L2Use {
                        start,
                        active,
                        all: 1,
                        index: u32::try_from(here).unwrap_or(u32::MAX),
                        copied: entry & COPIED != 0,
                    }),
                    Err(problem) => {
                        let entry_at = FileOffset::new(l1.start.saturating_add(here.saturating_mul(8)));
                        let mut finding = super::finding_of(&kiln_disk::Error::malformed(
                            "qcow2 L1 table",
                            entry_at,
                            problem,
                        ));
                        if active == 1 {
                            let guest = here.saturating_mul(geometry.l2_span());
                            let len = image.header.size.saturating_sub(guest).min(geometry.l2_span());
                            finding = finding.guest(kiln_disk::GuestOffset::new(guest), len);
                        }
                        report.0.push(finding);
                    }
                }
            }
            self.charge()?;
            index = index.saturating_add(L1_SLICE_ENTRIES);
        }
        self.merge(report, image);
        Ok(())
    }

    fn charge(&mut self) -> Result<()> {
        let tables = as_bytes(self.l2.len()).saturating_mul(as_bytes(size_of::<L2Use>()));
        self.charged.grow_to(tables.saturating_add(as_bytes(self.blocks.len()).saturating_mul(8)))
    }

    /// One row for each table. The active L1 table comes first, so its entries lead.
    fn merge(&mut self, report: &mut Report, image: &Qcow2Image) {
        self.l2.sort_by_key(|table| table.start);
        self.l2.dedup_by(|next, kept| {
            let same = next.start == kept.start;
            if same {
                kept.active = kept.active.saturating_add(next.active);
                kept.all = kept.all.saturating_add(next.all);
                if next.active != 0 {
                    let span = image.header.geometry.l2_span();
                    let guest = u64::from(next.index).saturating_mul(span);
                    report.found(
                        &specs::L2_ALIASED,
                        || format!("L1 entries {} and {} lead to {:#x}", kept.index, next.index, next.start),
                        |finding| {
                            finding
                                .at(FileOffset::new(next.start))
                                .guest(kiln_disk::GuestOffset::new(guest), span)
                        },
                    );
                }
            }
            same
        });
    }

    fn gather_bitmaps(
        &mut self,
        image: &Qcow2Image,
        report: &mut Report,
        observer: &dyn Observer,
    ) -> Result<()> {
        let geometry = image.header.geometry;
        let file_len = image.source.byte_len();
        for bitmap in &image.bitmaps {
            let len = u64::from(bitmap.table_size).saturating_mul(8);
            let place = crate::qcow2::header::TablePlace {
                table: Table::Bitmap,
                start: bitmap.table_offset,
                len,
                allowed: u64::MAX,
                field: bitmap.entry_at,
            };
            let mut doubts = Vec::new();
            place.doubts(geometry, file_len, &mut doubts);
            doubts.iter().for_each(|doubt| report.error(doubt));
            if !self.place_table(image, report, Table::Bitmap, bitmap.table_offset, len, u64::MAX) {
                continue;
            }
            let mut done = 0;
            while done < len {
                go_on(observer)?;
                image.budget.check_time()?;
                let at = bitmap.table_offset.saturating_add(done);
                let part = len.saturating_sub(done).min(L1_SLICE_LEN);
                let words = read_words(&image.source, &image.budget, Table::Bitmap, at, part)?;
                image.budget.charge(Cost::Nodes, as_bytes(words.len()))?;
                for (entry_at, entry) in (at..).step_by(8).zip(words) {
                    let start = entry & OFFSET_MASK;
                    // Bit 0 says "all ones", and only where there is no cluster.
                    let allowed = if start == 0 { 1 } else { OFFSET_MASK };
                    let judged = if entry & !allowed != 0 {
                        Err(Qcow2Problem::BitmapEntry { index: 0, what: "a table entry", actual: entry })
                    } else if start == 0 {
                        continue;
                    } else {
                        geometry.confirm_table(Table::BitmapData, start, file_len)
                    };
                    match judged {
                        Ok(()) => {
                            self.place(image, report, Table::BitmapData, start, geometry.cluster_len());
                        }
                        Err(problem) => report.error(&kiln_disk::Error::malformed(
                            "qcow2 bitmap table",
                            FileOffset::new(entry_at),
                            problem,
                        )),
                    }
                }
                done = done.saturating_add(part);
            }
        }
        Ok(())
    }
}

fn judge_block(image: &Qcow2Image, report: &mut Report, index: u64, entry: u64, entry_at: u64) -> u64 {
    let geometry = image.header.geometry;
    let judged = if entry == 0 {
        return 0;
    } else if entry & 511 != 0 {
        Err(Qcow2Problem::RefcountReserved { index, entry })
    } else {
        geometry.confirm_table(Table::RefcountBlock, entry, image.source.byte_len())
    };
    match judged {
        Ok(()) => entry,
        Err(problem) => {
            let error =
                kiln_disk::Error::malformed("qcow2 refcount table", FileOffset::new(entry_at), problem);
            report.error(&error);
            UNREADABLE
        }
    }
}
