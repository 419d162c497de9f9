//! The order of a sparse extent's file: every grain table and every grain, and those that share bytes.

use kiln_disk::{Cost, FileOffset, Result};

use super::problem::VmdkProblem;
use super::sparse::{Sparse, Stored};
use crate::pieces::{self, Space};
use crate::wire::{as_bytes, in_memory, le32};

/// What a walk meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Met {
    /// A grain table, in order of the file; all of them come before the first grain.
    Table {
        /// First byte.
        at: u64,
    },
    /// A grain, in order of the file.
    Grain {
        /// Index in the extent.
        grain: u64,
        /// First byte.
        at: u64,
    },
    /// An entry of the directory that is wrong: the grains of its table are lost.
    BadTable {
        /// Index in the directory.
        table: u64,
        /// Why.
        problem: VmdkProblem,
    },
    /// An entry of a grain table that is wrong.
    BadGrain {
        /// Index in the extent.
        grain: u64,
        /// Why.
        problem: VmdkProblem,
    },
}

/// Walks everything that the grain directory leads to.
///
/// # Errors
/// Those of the source, of `met`, and of the budget.
pub(super) fn walk(sparse: &Sparse, met: &mut dyn FnMut(Met) -> Result<()>) -> Result<()> {
    let mut tables = Tables { sparse, list: Vec::new(), paid: 0 };
    let done = tables.collect(met).and_then(|()| grains(&tables, met));
    sparse.budget.release(tables.paid);
    done
}

/// The grain tables that are in order, by position.
struct Tables<'a> {
    sparse: &'a Sparse,
    /// First byte and index.
    list: Vec<(u64, u64)>,
    /// Memory charged for the list.
    paid: u64,
}

impl Tables<'_> {
    fn collect(&mut self, met: &mut dyn FnMut(Met) -> Result<()>) -> Result<()> {
        let sparse = self.sparse;
        let count = sparse.tables();
        sparse.budget.charge(Cost::Nodes, count)?;
        let table_len = sparse.table_len();
        let space = Space {
            budget: &sparse.budget,
            slot: table_len,
            end: sparse.source.byte_len(),
            len_of: &|_| table_len,
        };
        let each = |visit: &mut dyn FnMut(u64, Result<u64, u64>) -> Result<()>| {
            for table in 0..count {
                if let Some(at) = sparse.table_entry(table)? {
                    visit(table, if sparse.table_fault(at).is_none() { Ok(at) } else { Err(at) })?;
                }
            }
            Ok(())
        };
        space.walk(&each, &mut |piece| match piece {
            pieces::Met::Piece { index, at } => {
                sparse.budget.charge(Cost::Memory, ENTRY_LEN)?;
                self.paid = self.paid.saturating_add(ENTRY_LEN);
                self.list.push((at, index));
                met(Met::Table { at })
            }
            pieces::Met::Clash { one, other } => {
                met(Met::BadTable { table: other, problem: VmdkProblem::TableAliased { one, other } })
            }
            pieces::Met::Fault { index, value } => match sparse.table_fault(value) {
                Some(problem) => met(Met::BadTable { table: index, problem }),
                None => Ok(()),
            },
        })
    }

    /// Whether `len` bytes at `at` share any with a table.
    fn overlap(&self, at: u64, len: u64) -> bool {
        let end = at.saturating_add(len);
        let behind = self.list.partition_point(|(start, _)| *start < end);
        let before = behind.checked_sub(1).and_then(|index| self.list.get(index));
        before.is_some_and(|(start, _)| start.saturating_add(self.sparse.table_len()) > at)
    }

    /// Hands over every entry of every table that leads to a grain.
    fn each_grain(&self, visit: &mut dyn FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let sparse = self.sparse;
        let (per_table, grains) = (sparse.entries_per_table().get(), sparse.grains());
        let mut raw = vec![0; in_memory(sparse.table_len())];
        for (at, table) in &self.list {
            sparse.budget.charge(Cost::MetadataBytes, as_bytes(raw.len()))?;
            sparse.budget.charge(Cost::Nodes, per_table)?;
            sparse.source.read_bytes(FileOffset::new(*at), &mut raw)?;
            let first = table.saturating_mul(per_table);
            for (grain, entry) in (first..grains).zip(raw.chunks_exact(4)) {
                if let Stored::Plain(at) = sparse.meaning(le32(entry, 0).unwrap_or(0)) {
                    visit(grain, at)?;
                }
            }
        }
        sparse.budget.check_time()
    }
}

/// Bytes that the list of tables takes for each.
const ENTRY_LEN: u64 = 16;

fn grains(tables: &Tables<'_>, met: &mut dyn FnMut(Met) -> Result<()>) -> Result<()> {
    let sparse = tables.sparse;
    let fault = |grain, at| {
        let problem = VmdkProblem::Overlap { one: "grain", start: at, other: "grain table" };
        let on_table = || tables.overlap(at, sparse.least_len(grain)).then_some(problem);
        sparse.grain_fault(grain, at).or_else(on_table)
    };
    // Compressed grains start at sectors and take at least one; how many only their markers say.
    let unit = |grain| if sparse.header.is_compressed() { 1 } else { sparse.used_len(grain) };
    let slot = if sparse.header.is_compressed() { SLOT } else { sparse.grain_len() };
    let space = Space { budget: &sparse.budget, slot, end: sparse.source.byte_len(), len_of: &unit };
    let each = |visit: &mut dyn FnMut(u64, Result<u64, u64>) -> Result<()>| {
        tables.each_grain(&mut |grain, at| {
            visit(grain, if fault(grain, at).is_none() { Ok(at) } else { Err(at) })
        })
    };
    space.walk(&each, &mut |piece| match piece {
        pieces::Met::Piece { index, at } => met(Met::Grain { grain: index, at }),
        pieces::Met::Clash { one, other } => {
            met(Met::BadGrain { grain: other, problem: VmdkProblem::Aliased { one, other } })
        }
        pieces::Met::Fault { index, value } => match fault(index, value) {
            Some(problem) => met(Met::BadGrain { grain: index, problem }),
            None => Ok(()),
        },
    })
}

/// Entries count sectors: two grains in one are at the same place.
const SLOT: u64 = 512;
