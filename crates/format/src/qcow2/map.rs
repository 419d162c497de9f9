//! From guest bytes to what the tables say about them.

use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Result};

use super::cache::{Slice, TableCache};
use super::entry::{Cluster, Compressed, EntryRules, l2_table};
use super::geometry::{Geometry, L1_SLICE_ENTRIES, L1_SLICE_LEN, as_bytes, in_memory};
use super::problem::{Qcow2Problem, Table};
use crate::image::Tolerance;

/// Where an L1 table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct L1At {
    pub(super) start: u64,
    pub(super) entries: u64,
    pub(super) table: Table,
}

/// How a run of guest bytes is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// Not in this file.
    Unallocated,
    /// As zeros.
    Zero,
    /// As it is, from this byte of the file that holds the data.
    Plain(u64),
    /// In compressed form; the run lies inside the one cluster that starts at `cluster`.
    Compressed { cluster: u64, data: Compressed },
}

/// A run of guest bytes stored in one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) stored: Stored,
    pub(super) len: u64,
}

impl Run {
    /// Takes over a run that follows at once, when it is stored in the same way and place.
    fn join(&mut self, next: Self) -> bool {
        let joins = match (self.stored, next.stored) {
            (Stored::Unallocated, Stored::Unallocated) | (Stored::Zero, Stored::Zero) => true,
            (Stored::Plain(at), Stored::Plain(next)) => at.checked_add(self.len) == Some(next),
            _ => false,
        };
        if joins {
            self.len = self.len.saturating_add(next.len);
        }
        joins
    }
}

/// The L1 and L2 tables of one disk: of the active one or of a snapshot.
pub(super) struct Map {
    source: Arc<dyn ByteSource>,
    rules: EntryRules,
    l1: L1At,
    tolerance: Tolerance,
    cache: TableCache,
    budget: Arc<Budget>,
}

/// The slice a walk is in, so that neighbouring clusters cost no look-up.
type Current = Option<(u64, Slice)>;

impl Map {
    pub(super) fn new(
        source: Arc<dyn ByteSource>,
        rules: EntryRules,
        l1: L1At,
        tolerance: Tolerance,
        budget: Arc<Budget>,
    ) -> Self {
        Self { source, rules, l1, tolerance, cache: TableCache::new(Arc::clone(&budget)), budget }
    }

    fn geometry(&self) -> Geometry {
        self.rules.geometry
    }

    /// Whether this is the L1 table that leads.
    pub(super) fn reads(&self, table: Table) -> bool {
        self.l1.table == table
    }

    /// The longest run from `at`, of at most `most` bytes (not 0), looking at no more than `patience` table entries.
    ///
    /// # Errors
    /// [`Error::Malformed`] for entries that mean nothing, [`Error::Io`], [`Error::Refused`] by the budget.
    pub(super) fn run_at(&self, at: u64, most: u64, patience: u64) -> Result<Run> {
        let mut current: Current = None;
        let mut run = self.piece_at(at, most, &mut current)?;
        let mut looked_at = 1_u64;
        while run.len < most && looked_at < patience {
            let here = at.saturating_add(run.len);
            match self.piece_at(here, most.saturating_sub(run.len), &mut current) {
                Ok(piece) if run.join(piece) => looked_at = looked_at.saturating_add(1),
                // What is wrong further on is reported when the walk gets there.
                Ok(_) | Err(_) => break,
            }
        }
        self.budget.charge(Cost::Nodes, looked_at)?;
        Ok(run)
    }

    /// One table entry's part of the guest bytes from `at`, at most `most` of them.
    fn piece_at(&self, at: u64, most: u64, current: &mut Current) -> Result<Run> {
        let geometry = self.geometry();
        let slice_entries = geometry.l2_slice_entries();
        let slice_span = slice_entries.saturating_mul(geometry.cluster_len());
        let slice_start = at & !slice_span.wrapping_sub(1);
        let slice = match current {
            Some((start, slice)) if *start == slice_start => Arc::clone(slice),
            _ => match self.l2_slice(at)? {
                Some(slice) => {
                    *current = Some((slice_start, Arc::clone(&slice)));
                    slice
                }
                None => {
                    let span = geometry.l2_span();
                    let len = span.saturating_sub(at & span.wrapping_sub(1)).min(most);
                    return Ok(Run { stored: Stored::Unallocated, len });
                }
            },
        };
        let index = geometry.cluster_of(at) & slice_entries.wrapping_sub(1);
        let cluster = self.decode(&slice, index).map_err(|problem| self.entry_error(at, problem))?;
        self.confirm_place(at, cluster)?;
        Ok(self.piece_of(cluster, at, most))
    }

    fn decode(&self, slice: &Slice, index: u64) -> Result<Cluster, Qcow2Problem> {
        let word = |index: u64| slice.get(in_memory(index)).copied().unwrap_or(0);
        if self.geometry().extended() {
            let first = index.saturating_mul(2);
            self.rules.decode(word(first), word(first.saturating_add(1)))
        } else {
            self.rules.decode(word(index), 0)
        }
    }

    /// In an external data file every cluster is where the guest sees it.
    fn confirm_place(&self, at: u64, cluster: Cluster) -> Result<()> {
        let guest = at.saturating_sub(self.geometry().in_cluster(at));
        match cluster.host() {
            Some(start) if self.rules.external && start != guest => {
                Err(self.entry_error(at, Qcow2Problem::ExternalMoved { guest, start }))
            }
            _ => Ok(()),
        }
    }

    fn piece_of(&self, cluster: Cluster, at: u64, most: u64) -> Run {
        let geometry = self.geometry();
        let offset = geometry.in_cluster(at);
        let rest = geometry.cluster_len().saturating_sub(offset);
        let whole = |stored| Run { stored, len: rest.min(most) };
        match cluster {
            Cluster::Unallocated => whole(Stored::Unallocated),
            Cluster::Zero { .. } => whole(Stored::Zero),
            // Entries hold 56-bit offsets, so nothing is near 2^64.
            Cluster::Data { host } => whole(Stored::Plain(host.saturating_add(offset))),
            Cluster::Compressed(data) => {
                whole(Stored::Compressed { cluster: at.saturating_sub(offset), data })
            }
            Cluster::Subclusters { host, allocated, zero } => {
                let index = geometry.subcluster(at);
                let is_set = |mask: u32| mask.unbounded_shr(index) & 1 == 1;
                // How many subclusters from here on agree with this one.
                let same = |mask: u32| mask.unbounded_shr(index).trailing_ones();
                let (stored, count) = match host {
                    Some(host) if is_set(allocated) => {
                        (Stored::Plain(host.saturating_add(offset)), same(allocated))
                    }
                    _ if is_set(zero) => (Stored::Zero, same(zero)),
                    _ => (Stored::Unallocated, same(!(allocated | zero))),
                };
                let end = u64::from(index.saturating_add(count.max(1)).min(32))
                    .saturating_mul(geometry.subcluster_len());
                Run { stored, len: end.saturating_sub(offset).min(most) }
            }
        }
    }

    /// The slice of L2 entries with the one for guest byte `at`; `None` where there is no L2 table.
    fn l2_slice(&self, at: u64) -> Result<Option<Slice>> {
        let geometry = self.geometry();
        let index = geometry.l1_index(at);
        let Some(start) = self.l2_start(index)? else { return Ok(None) };
        let entry_bytes = geometry.l2_index(at).saturating_mul(geometry.entry_len());
        let slice_at = start.saturating_add(entry_bytes & !geometry.l2_slice_len().wrapping_sub(1));
        self.cache
            .get(slice_at, || {
                let slice = self.read_words(Table::L2, slice_at, geometry.l2_slice_len())?;
                if self.tolerance == Tolerance::Strict {
                    self.confirm_unshared(&slice, slice_at)?;
                }
                Ok(slice)
            })
            .map(Some)
    }

    /// The place of the L2 table in L1 entry `index`.
    fn l2_start(&self, index: u64) -> Result<Option<u64>> {
        let entry = self.l1_entry(index)?;
        let at = self.l1_entry_at(index);
        let malformed = |problem| Error::malformed("qcow2 L1 table", FileOffset::new(at), problem);
        let Some(start) = l2_table(index, entry).map_err(malformed)? else { return Ok(None) };
        self.geometry().confirm_table(Table::L2, start, self.source.byte_len()).map_err(malformed)?;
        Ok(Some(start))
    }

    fn l1_entry_at(&self, index: u64) -> u64 {
        self.l1.start.saturating_add(index.saturating_mul(8))
    }

    fn l1_entry(&self, index: u64) -> Result<u64> {
        if index >= self.l1.entries {
            let problem = Qcow2Problem::L1Small {
                expected: index.saturating_add(1),
                actual: self.l1.entries,
                disk_len: index.saturating_mul(self.geometry().l2_span()).saturating_add(1),
            };
            return Err(Error::malformed("qcow2 L1 table", FileOffset::new(self.l1.start), problem));
        }
        let slice = self.l1_slice(index)?;
        Ok(slice.get(in_memory(index & L1_SLICE_ENTRIES.wrapping_sub(1))).copied().unwrap_or(0))
    }

    /// The slice of the L1 table that entry `index` is in.
    fn l1_slice(&self, index: u64) -> Result<Slice> {
        let first = index & !L1_SLICE_ENTRIES.wrapping_sub(1);
        let at = self.l1_entry_at(first);
        let len = self.l1.entries.saturating_sub(first).saturating_mul(8).min(L1_SLICE_LEN);
        self.cache.get(at, || self.read_words(self.l1.table, at, len))
    }

    fn read_words(&self, table: Table, at: u64, len: u64) -> Result<Slice> {
        read_words(&self.source, &self.budget, table, at, len).map(Slice::from)
    }

    /// Two entries of one table that lead to the same data: nothing that writes qcow2 does that, and a table full of
    /// them makes gigabytes of a small file.
    fn confirm_unshared(&self, slice: &Slice, slice_at: u64) -> Result<()> {
        let step = if self.geometry().extended() { 2 } else { 1 };
        let places = || {
            slice.iter().step_by(step).enumerate().filter_map(|(index, entry)| {
                self.rules.decode(*entry, 0).ok().and_then(|cluster| match cluster {
                    Cluster::Compressed(data) => Some((data.at, index)),
                    Cluster::Unallocated => None,
                    other => other.host().map(|host| (host, index)),
                })
            })
        };
        // Tables are mostly in the order of the file.
        if places().is_sorted_by(|a, b| a.0 < b.0) {
            return Ok(());
        }
        let mut sorted: Vec<_> = places().collect();
        sorted.sort_unstable();
        let twice = sorted.iter().zip(sorted.iter().skip(1)).find(|(a, b)| a.0 == b.0);
        match twice {
            None => Ok(()),
            Some((_, (start, index))) => {
                let at =
                    as_bytes(*index).saturating_mul(self.geometry().entry_len()).saturating_add(slice_at);
                let problem = Qcow2Problem::DataAliased { start: *start };
                Err(Error::malformed("qcow2 L2 table", FileOffset::new(at), problem))
            }
        }
    }

    /// Confirms that no two L1 entries lead to the same L2 table. Its cost follows the number of tables, which the
    /// length of the file bounds.
    ///
    /// # Errors
    /// [`Error::Malformed`] (`qcow2.l2.aliased`); those of reading the table.
    pub(super) fn confirm_tables_unshared(&self) -> Result<()> {
        let most = self.geometry().clusters(self.source.byte_len());
        let mut starts: Vec<u64> = Vec::new();
        let mut index = 0;
        while index < self.l1.entries {
            let slice = self.l1_slice(index)?;
            self.budget.charge(Cost::Nodes, as_bytes(slice.len()))?;
            starts.extend(slice.iter().map(|entry| entry & super::entry::OFFSET_MASK).filter(|at| *at != 0));
            if as_bytes(starts.len()) > most {
                break;
            }
            index = index.saturating_add(L1_SLICE_ENTRIES);
        }
        if starts.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        starts.sort_unstable();
        let mut twice = starts.iter().zip(starts.iter().skip(1)).filter(|(a, b)| a == b).map(|(at, _)| *at);
        let Some(first) = twice.next() else { return Ok(()) };
        let count = as_bytes(twice.count()).saturating_add(1);
        let problem = Qcow2Problem::L1Aliased { count, first };
        Err(Error::malformed("qcow2 L1 table", FileOffset::new(self.l1.start), problem))
    }

    /// An error about the L2 entry for guest byte `at`.
    pub(super) fn entry_error(&self, at: u64, problem: Qcow2Problem) -> Error {
        let geometry = self.geometry();
        let table = self.l2_start(geometry.l1_index(at)).ok().flatten().unwrap_or(0);
        let entry = geometry.l2_index(at).saturating_mul(geometry.entry_len());
        Error::malformed("qcow2 L2 table", FileOffset::new(table.saturating_add(entry)), problem)
    }
}

impl Geometry {
    /// Confirms that a table of one cluster is aligned and inside the file.
    ///
    /// # Errors
    /// [`Qcow2Problem::TableUnaligned`], [`Qcow2Problem::TablePastEnd`].
    pub(super) fn confirm_table(self, table: Table, start: u64, file_len: u64) -> Result<(), Qcow2Problem> {
        let cluster_len = self.cluster_len();
        if !self.is_aligned(start) {
            return Err(Qcow2Problem::TableUnaligned { table, start, cluster_len });
        }
        let end = start.saturating_add(cluster_len);
        if end > file_len {
            return Err(Qcow2Problem::TablePastEnd { table, start, end, file_len });
        }
        Ok(())
    }
}

/// Reads `len` bytes (a multiple of 8, at most a slice) of a table as big-endian words.
///
/// # Errors
/// [`Error::Malformed`] when the file ends first; [`Error::Io`]; [`Error::Refused`] by the budget.
pub(super) fn read_words(
    source: &Arc<dyn ByteSource>,
    budget: &Budget,
    table: Table,
    at: u64,
    len: u64,
) -> Result<Vec<u64>> {
    let (end, file_len) = (at.saturating_add(len), source.byte_len());
    if end > file_len {
        let problem = Qcow2Problem::TablePastEnd { table, start: at, end, file_len };
        return Err(Error::malformed("qcow2 table", FileOffset::new(at), problem));
    }
    budget.charge(Cost::MetadataBytes, len)?;
    let mut bytes = vec![0; in_memory(len)];
    source.read_bytes(FileOffset::new(at), &mut bytes)?;
    Ok(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect())
}
