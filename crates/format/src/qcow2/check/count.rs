//! References to each cluster of the file: counted, and compared with the refcounts.

use std::collections::BTreeSet;

use kiln_disk::{Cost, Error, FileOffset, GuestOffset, Observer, Result, go_on};

use super::layout::{L2Use, Layout, UNREADABLE};
use super::{Report, specs};
use crate::qcow2::entry::{COPIED, Cluster, EntryRules};
use crate::qcow2::geometry::{Geometry, as_bytes, in_memory};
use crate::qcow2::header::incompatible;
use crate::qcow2::map::read_words;
use crate::qcow2::open::Qcow2Image;
use crate::qcow2::problem::{Qcow2Problem, Table};

/// Clusters that are counted at once: 12 MiB of counters. A larger file takes several passes over its tables.
const WINDOW: u64 = 4 << 20;
/// Bytes of counters for a cluster.
const COUNTER_LEN: u64 = 3;

const META: u8 = 1;
const DATA: u8 = 2;
const PACKED: u8 = 4;
const ACTIVE: u8 = 8;

/// What a reference is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Meta,
    Data { active: bool },
    Packed,
}

/// Counters for the clusters from `first` on.
struct Window {
    first: u64,
    refs: Vec<u16>,
    flags: Vec<u8>,
    /// Windows that references were seen in: those without any need no pass.
    seen: BTreeSet<u64>,
}

/// Something is there that excludes the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clash {
    Overlap,
    Aliased,
}

impl Window {
    fn index(&self, cluster: u64) -> Option<usize> {
        cluster.checked_sub(self.first).map(in_memory).filter(|index| *index < self.refs.len())
    }

    fn bump(&mut self, cluster: u64, by: u32, role: Role) -> Option<Clash> {
        let Some(index) = self.index(cluster) else {
            self.seen.insert(cluster.checked_div(WINDOW).unwrap_or(0));
            return None;
        };
        let (Some(refs), Some(flags)) = (self.refs.get_mut(index), self.flags.get_mut(index)) else {
            return None;
        };
        *refs = refs.saturating_add(u16::try_from(by).unwrap_or(u16::MAX));
        let (set, excludes) = match role {
            Role::Meta => (META, META | DATA | PACKED),
            Role::Data { active: true } => (DATA | ACTIVE, META | PACKED | ACTIVE),
            Role::Data { active: false } => (DATA, META | PACKED),
            Role::Packed => (PACKED, META | DATA),
        };
        let clash = *flags & excludes;
        *flags |= set;
        match clash {
            0 => None,
            ACTIVE => Some(Clash::Aliased),
            _ => Some(Clash::Overlap),
        }
    }

    fn refs(&self, cluster: u64) -> Option<u16> {
        self.index(cluster).and_then(|index| self.refs.get(index)).copied()
    }
}

/// Counts and compares.
pub(super) fn run(
    image: &Qcow2Image,
    layout: &Layout,
    report: &mut Report,
    observer: &dyn Observer,
) -> Result<()> {
    let total = image.header.geometry.clusters(image.source.byte_len());
    let counter = Counter { image, layout, observer, total };
    let size = total.min(WINDOW);
    let memory = size.saturating_mul(COUNTER_LEN);
    image.budget.charge(Cost::Memory, memory)?;
    let result = counter.all_windows(size, report);
    image.budget.release(memory);
    result
}

struct Counter<'a> {
    image: &'a Qcow2Image,
    layout: &'a Layout,
    observer: &'a dyn Observer,
    /// Clusters of the file.
    total: u64,
}

impl Counter<'_> {
    fn geometry(&self) -> Geometry {
        self.image.header.geometry
    }

    fn all_windows(&self, size: u64, report: &mut Report) -> Result<()> {
        let len = in_memory(size);
        let mut window =
            Window { first: 0, refs: vec![0; len], flags: vec![0; len], seen: BTreeSet::from([0]) };
        let per_block = self.entries_per_block();
        for (index, _) in (0_u64..).zip(&self.layout.blocks).filter(|(_, block)| **block != 0) {
            let first = index.saturating_mul(per_block).checked_div(WINDOW).unwrap_or(0);
            let last = index.saturating_add(1).saturating_mul(per_block).saturating_sub(1);
            let last = last.min(self.total).checked_div(WINDOW).unwrap_or(0);
            window.seen.extend(first..=last);
        }
        let mut duplicates = BTreeSet::new();
        let mut done = None;
        while let Some(index) = next_after(&window.seen, done) {
            done = Some(index);
            window.first = index.saturating_mul(WINDOW);
            if window.first >= self.total {
                break;
            }
            let here = in_memory(self.total.saturating_sub(window.first).min(WINDOW));
            window.refs.truncate(here);
            window.refs.fill(0);
            window.flags.fill(0);
            self.count_metadata(&mut window, &mut duplicates, report)?;
            for table in &self.layout.l2 {
                self.count_table(&mut window, table, index == 0, report)?;
            }
            self.compare_copied(&window, report)?;
            self.compare_refcounts(&window, &duplicates, report)?;
            window.refs.resize(len, 0);
        }
        self.past_end(&duplicates, report)
    }

    fn entries_per_block(&self) -> u64 {
        let bits = self.geometry().cluster_len().saturating_mul(8);
        bits.unbounded_shr(self.image.header.refcount_order)
    }

    fn count_metadata(
        &self,
        window: &mut Window,
        duplicates: &mut BTreeSet<usize>,
        report: &mut Report,
    ) -> Result<()> {
        let geometry = self.geometry();
        for (start, (end, _)) in &self.layout.fixed {
            for cluster in geometry.cluster_of(*start)..geometry.cluster_of(*end) {
                // Overlaps among these were found when they were placed.
                window.bump(cluster, 1, Role::Meta);
            }
        }
        for (index, block) in self.layout.blocks.iter().enumerate() {
            if matches!(*block, 0 | UNREADABLE) {
                continue;
            }
            if window.bump(geometry.cluster_of(*block), 1, Role::Meta).is_some() {
                duplicates.insert(index);
                report.found(
                    &specs::OVERLAP,
                    || format!("refcount block {index} at {block:#x} is on another structure"),
                    |finding| finding.at(FileOffset::new(*block)),
                );
            }
        }
        for table in &self.layout.l2 {
            if window.bump(geometry.cluster_of(table.start), table.all, Role::Meta).is_some() {
                report.found(
                    &specs::OVERLAP,
                    || format!("the L2 table at {:#x} is on another structure", table.start),
                    |finding| finding.at(FileOffset::new(table.start)),
                );
            }
        }
        go_on(self.observer)
    }

    fn count_table(
        &self,
        window: &mut Window,
        table: &L2Use,
        first_pass: bool,
        report: &mut Report,
    ) -> Result<()> {
        each_entry(self.image, table, self.observer, |entry| {
            match entry.cluster {
                Ok(cluster) => self.count_entry(window, table, &entry, cluster, first_pass, report),
                Err(ref problem) if first_pass => {
                    let error = Error::malformed("qcow2 L2 table", entry.at, problem.clone());
                    report.0.push(entry.place(super::finding_of(&error)));
                }
                Err(_) => {}
            }
            Ok(())
        })
    }

    fn count_entry(
        &self,
        window: &mut Window,
        table: &L2Use,
        entry: &Entry,
        cluster: Cluster,
        first_pass: bool,
        report: &mut Report,
    ) {
        let geometry = self.geometry();
        let file_len = self.image.source.byte_len();
        let past_end = |start: u64, report: &mut Report| {
            if first_pass {
                let detail = || format!("stored at {start:#x}, the file ends at {file_len:#x}");
                report.found(&specs::DATA_PAST_END, detail, |finding| entry.place(finding));
            }
        };
        if let Cluster::Compressed(data) = cluster {
            if data.at >= file_len {
                past_end(data.at, report);
                return;
            }
            let last = data.at.saturating_add(data.len.saturating_sub(1));
            for host in geometry.cluster_of(data.at)..=geometry.cluster_of(last) {
                if host < self.total && window.bump(host, table.all, Role::Packed).is_some() {
                    let detail = || format!("compressed data at {:#x} is on another structure", data.at);
                    report.found(&specs::OVERLAP, detail, |finding| entry.place(finding));
                }
            }
            return;
        }
        let Some(host) = cluster.host() else { return };
        if self.image.header.has(incompatible::DATA_FILE) {
            if first_pass && host != entry.guest {
                let problem = Qcow2Problem::ExternalMoved { guest: entry.guest, start: host };
                let error = Error::malformed("qcow2 L2 table", entry.at, problem);
                report.0.push(entry.place(super::finding_of(&error)));
            }
            return;
        }
        let needed = match cluster {
            Cluster::Data { .. } => entry.guest_len,
            Cluster::Subclusters { allocated, .. } => {
                let used = 32_u32.saturating_sub(allocated.leading_zeros());
                u64::from(used).saturating_mul(geometry.subcluster_len()).min(entry.guest_len)
            }
            // A preallocated place holds nothing yet.
            _ => 0,
        };
        if needed != 0 && host.saturating_add(needed) > file_len {
            past_end(host, report);
        }
        let number = geometry.cluster_of(host);
        if number >= self.total {
            return;
        }
        let active = table.active != 0 && entry.guest_len != 0;
        match window.bump(number, table.all, Role::Data { active }) {
            None => {}
            Some(Clash::Aliased) => report.found(
                &specs::DATA_ALIASED,
                || format!("the cluster at {host:#x} holds another guest cluster too"),
                |finding| entry.place(finding),
            ),
            Some(Clash::Overlap) => report.found(
                &specs::OVERLAP,
                || format!("the data cluster at {host:#x} is on another structure"),
                |finding| entry.place(finding),
            ),
        }
    }

    /// In the active tables the copied flag says "refcount is one".
    fn compare_copied(&self, window: &Window, report: &mut Report) -> Result<()> {
        let geometry = self.geometry();
        for table in self.layout.l2.iter().filter(|table| table.active != 0) {
            if let Some(refs) = window.refs(geometry.cluster_of(table.start))
                && table.copied != (refs == 1)
            {
                report.found(
                    &specs::L1_COPIED,
                    || format!("L1 entry {}: copied is {}, {refs} references", table.index, table.copied),
                    |finding| finding.at(FileOffset::new(table.start)),
                );
            }
            if self.image.header.has(incompatible::DATA_FILE) {
                continue;
            }
            each_entry(self.image, table, self.observer, |entry| {
                let wrong = match entry.cluster {
                    Ok(Cluster::Compressed(_)) if entry.copied && window.first == 0 => Some(0),
                    Ok(cluster) => cluster
                        .host()
                        .and_then(|host| window.refs(geometry.cluster_of(host)))
                        .filter(|refs| entry.copied != (*refs == 1)),
                    Err(_) => None,
                };
                if let Some(refs) = wrong {
                    report.found(
                        &specs::L2_COPIED,
                        || format!("copied is {}, {refs} references", entry.copied),
                        |finding| entry.place(finding),
                    );
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn read_block(&self, block: u64) -> Result<Vec<u8>> {
        let len = self.geometry().cluster_len();
        self.image.budget.charge(Cost::MetadataBytes, len)?;
        let mut bytes = vec![0; in_memory(len)];
        self.image.source.read_bytes(FileOffset::new(block), &mut bytes)?;
        Ok(bytes)
    }

    fn compare_refcounts(
        &self,
        window: &Window,
        duplicates: &BTreeSet<usize>,
        report: &mut Report,
    ) -> Result<()> {
        let geometry = self.geometry();
        let order = self.image.header.refcount_order;
        let per_block = self.entries_per_block();
        let mut current: Option<(u64, Vec<u8>)> = None;
        for (cluster, refs) in (window.first..).zip(window.refs.iter().copied()) {
            let index = cluster.checked_div(per_block).unwrap_or(0);
            let slot = cluster.checked_rem(per_block).unwrap_or(0);
            let block = self.layout.blocks.get(in_memory(index)).copied().unwrap_or(0);
            if block == UNREADABLE || duplicates.contains(&in_memory(index)) {
                continue;
            }
            let stored = if block == 0 {
                0
            } else {
                if current.as_ref().is_none_or(|(held, _)| *held != block) {
                    go_on(self.observer)?;
                    self.image.budget.check_time()?;
                    current = Some((block, self.read_block(block)?));
                }
                current.as_ref().map_or(0, |(_, bytes)| refcount_at(bytes, order, slot))
            };
            // A counter that is full counts no further.
            let agrees = stored == u64::from(refs) || (refs == u16::MAX && stored > u64::from(refs));
            if !agrees {
                let spec = match (stored < u64::from(refs), refs) {
                    (true, _) => &specs::REFCOUNT_LOW,
                    (false, 0) => &specs::LEAK,
                    (false, _) => &specs::REFCOUNT_HIGH,
                };
                let at = geometry.cluster_start(cluster).unwrap_or(u64::MAX);
                report.found(
                    spec,
                    || format!("cluster {cluster} at {at:#x}: refcount {stored}, {refs} references"),
                    |finding| finding.at(FileOffset::new(at)),
                );
            }
        }
        Ok(())
    }

    /// Refcounts of clusters that the file does not have.
    fn past_end(&self, duplicates: &BTreeSet<usize>, report: &mut Report) -> Result<()> {
        let per_block = self.entries_per_block();
        let order = self.image.header.refcount_order;
        let first = in_memory(self.total.checked_div(per_block).unwrap_or(0));
        for (index, block) in self.layout.blocks.iter().enumerate().skip(first) {
            if matches!(*block, 0 | UNREADABLE) || duplicates.contains(&index) {
                continue;
            }
            go_on(self.observer)?;
            self.image.budget.check_time()?;
            let bytes = self.read_block(*block)?;
            if kiln_disk::zero::is_zero(&bytes) {
                continue;
            }
            let start = as_bytes(index).saturating_mul(per_block);
            let skip = self.total.saturating_sub(start);
            let counted = (skip..per_block).filter(|slot| refcount_at(&bytes, order, *slot) != 0).count();
            if counted != 0 {
                report.found(
                    &specs::REFCOUNT_PAST_END,
                    || format!("refcount block {index}: {counted} clusters past the end are counted"),
                    |finding| finding.at(FileOffset::new(*block)),
                );
            }
        }
        Ok(())
    }
}

fn next_after(seen: &BTreeSet<u64>, done: Option<u64>) -> Option<u64> {
    match done {
        None => seen.first().copied(),
        Some(done) => seen.range(done.saturating_add(1)..).next().copied(),
    }
}

/// The refcount in place `slot` of a block. Widths below a byte fill it from its lowest bit.
fn refcount_at(block: &[u8], order: u32, slot: u64) -> u64 {
    if order < 3 {
        let bit = slot.unbounded_shl(order);
        let byte = block.get(in_memory(bit.unbounded_shr(3))).copied().unwrap_or(0);
        let low = u32::try_from(bit & 7).unwrap_or(0);
        let width = 1_u32.unbounded_shl(order);
        return u64::from(byte).unbounded_shr(low) & 1_u64.unbounded_shl(width).wrapping_sub(1);
    }
    let width = 1_u64.unbounded_shl(order.saturating_sub(3));
    let start = in_memory(slot.saturating_mul(width));
    let bytes = block.get(start..).and_then(|rest| rest.get(..in_memory(width))).unwrap_or_default();
    bytes.iter().fold(0, |value, byte| value.unbounded_shl(8) | u64::from(*byte))
}

/// An L2 entry and its place.
pub(super) struct Entry {
    pub(super) at: FileOffset,
    /// Guest byte; meaningful for the disk where `guest_len` is not 0.
    pub(super) guest: u64,
    /// Bytes of the disk that the cluster holds; 0 behind the end of the disk (saved machine state).
    pub(super) guest_len: u64,
    pub(super) copied: bool,
    pub(super) cluster: std::result::Result<Cluster, Qcow2Problem>,
    active: bool,
}

impl Entry {
    pub(super) fn place(&self, finding: kiln_disk::Finding) -> kiln_disk::Finding {
        let finding = finding.at(self.at);
        if self.active && self.guest_len != 0 {
            finding.guest(GuestOffset::new(self.guest), self.guest_len)
        } else {
            finding
        }
    }
}

/// Reads the entries of an L2 table that are not empty.
pub(super) fn each_entry(
    image: &Qcow2Image,
    table: &L2Use,
    observer: &dyn Observer,
    mut visit: impl FnMut(Entry) -> Result<()>,
) -> Result<()> {
    let geometry = image.header.geometry;
    let external = image.header.has(incompatible::DATA_FILE);
    let rules = EntryRules { geometry, version: image.header.version, external };
    let step = if geometry.extended() { 2 } else { 1 };
    let base = u64::from(table.index).saturating_mul(geometry.l2_span());
    let snapshots = image.snapshots.list.iter().map(|snapshot| snapshot.disk_size).max();
    let disk_len = match snapshots {
        Some(longest) if table.active == 0 => longest.max(image.header.size),
        _ => image.header.size,
    };
    let mut first = 0;
    while first < geometry.l2_entries() {
        go_on(observer)?;
        image.budget.check_time()?;
        let slice_at = table.start.saturating_add(first.saturating_mul(geometry.entry_len()));
        let words = read_words(&image.source, &image.budget, Table::L2, slice_at, geometry.l2_slice_len())?;
        image.budget.charge(Cost::Nodes, geometry.l2_slice_entries())?;
        for (index, words) in (first..).zip(words.chunks(step)) {
            let word = words.first().copied().unwrap_or(0);
            let bitmap = words.get(1).copied().unwrap_or(0);
            if word == 0 && bitmap == 0 {
                continue;
            }
            let guest = base.saturating_add(index.saturating_mul(geometry.cluster_len()));
            visit(Entry {
                at: FileOffset::new(table.start.saturating_add(index.saturating_mul(geometry.entry_len()))),
                guest,
                guest_len: disk_len.saturating_sub(guest).min(geometry.cluster_len()),
                copied: word & COPIED != 0,
                cluster: rules.decode(word, bitmap),
                active: table.active != 0,
            })?;
        }
        first = first.saturating_add(geometry.l2_slice_entries());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::refcount_at;

    #[test]
    fn refcounts_of_every_width_are_found_in_their_place() {
        let block = [0b1010_0110, 0xff, 0x12, 0x34, 0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8];
        assert_eq!(
            (0..8).map(|slot| refcount_at(&block, 0, slot)).collect::<Vec<_>>(),
            [0, 1, 1, 0, 0, 1, 0, 1]
        );
        assert_eq!((0..4).map(|slot| refcount_at(&block, 1, slot)).collect::<Vec<_>>(), [2, 1, 2, 2]);
        assert_eq!((0..2).map(|slot| refcount_at(&block, 2, slot)).collect::<Vec<_>>(), [6, 10]);
        assert_eq!(refcount_at(&block, 3, 1), 0xff);
        assert_eq!(refcount_at(&block, 4, 1), 0x1234);
        assert_eq!(refcount_at(&block, 5, 1), 9);
        assert_eq!(refcount_at(&block, 6, 1), 0x0102_0304_0506_0708);
        assert_eq!(refcount_at(&block, 6, 2), 0);
    }
}
