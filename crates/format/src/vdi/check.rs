//! The check of a VDI: finds all that is wrong, not the first.

use kiln_disk::{CheckSpec, FileOffset, Findings, GuestOffset, Observer, Result, RunKind, go_on, zero};

use super::check_table as table;
use super::header::{SECTOR, field};
use super::image::{Parent, VdiImage};
use super::map::Map;
use super::open;
use super::problem::VdiProblem;
use crate::image::CheckScope;
use crate::pieces::Met;

pub(super) fn run(image: &VdiImage, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
    let mut findings = Findings::default();
    header(&image.map, &mut findings);
    family(image, &mut findings);
    let map = &image.map;
    let end = u64::from(map.header.data_offset).max(map.end());
    let mut walk = Walk { map, observer, end, allocated: 0, leaked: None, findings: &mut findings };
    walk.run()?;
    walk.behind(scope)?;
    Ok(findings)
}

fn header(map: &Map, findings: &mut Findings) {
    let header = &map.header;
    for (at, oddity) in header.oddities() {
        findings.push(table::HEADER_ODD.found(oddity).at(FileOffset::new(at)));
    }
    if !header.disk_size.is_multiple_of(SECTOR) {
        let detail = format!("{} bytes", header.disk_size);
        findings.push(table::SECTORS.found(detail).at(FileOffset::new(field::DISK_SIZE)));
    }
    if let Some(problem) = open::linked_base(header) {
        findings.push(table::LINKED_BASE.found(problem.to_string()).at(FileOffset::new(field::UUID_LINKAGE)));
    }
    if let Some((at, problem)) = open::layout_fault(map) {
        findings.push(table::OVERLAP.found(problem.to_string()).at(FileOffset::new(at)));
    }
    if u64::from(header.blocks) > map.needed() {
        let detail = format!("{} entries, {} needed", header.blocks, map.needed());
        findings.push(table::MAP_SPARE.found(detail).at(FileOffset::new(field::BLOCKS)));
    }
}

fn family(image: &VdiImage, findings: &mut Findings) {
    let Parent::Absent(cause) = &image.parent else { return };
    let (row, at) = match cause.problem() {
        Some(VdiProblem::WrongParent { .. }) => (&table::PARENT_WRONG, field::UUID_LINKAGE),
        Some(VdiProblem::ParentModified { .. }) => (&table::PARENT_MODIFIED, field::UUID_PARENT_MODIFY),
        _ => (&table::PARENT_ABSENT, field::UUID_LINKAGE),
    };
    let words = std::error::Error::source(cause).map_or_else(|| cause.to_string(), ToString::to_string);
    let detail = format!("parent {}: {words}", image.map.header.uuid_linkage);
    findings.push(row.found(detail).at(FileOffset::new(at)));
}

/// State of the walk over the blocks.
struct Walk<'a> {
    map: &'a Map,
    observer: &'a dyn Observer,
    /// First byte behind everything met so far.
    end: u64,
    /// Entries of the map that name a block, possible or not.
    allocated: u64,
    /// The first gap: where, and the bytes in all gaps.
    leaked: Option<(u64, u64)>,
    findings: &'a mut Findings,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        let map = self.map;
        map.walk(map.header.blocks.into(), &mut |met| self.met(met))?;
        let counted = u64::from(map.header.blocks_allocated);
        if counted != self.allocated {
            let detail = format!("the header counts {counted}, the map names {}", self.allocated);
            self.findings.push(table::COUNT.found(detail).at(FileOffset::new(field::BLOCKS_ALLOCATED)));
        }
        Ok(())
    }

    fn met(&mut self, met: Met) -> Result<()> {
        go_on(self.observer)?;
        self.allocated = self.allocated.saturating_add(1);
        match met {
            Met::Piece { index, at } => self.block(index, at),
            Met::Clash { one, other } => {
                self.entry(&table::ALIASED, other, &|| format!("blocks {one} and {other}"));
            }
            Met::Fault { index, value } => {
                let fault = self.map.fault(index, value);
                let row = match fault {
                    Some(VdiProblem::BlockOnMetadata { .. }) => &table::BLOCK_ON_METADATA,
                    _ => &table::BLOCK_PAST_END,
                };
                self.entry(row, index, &|| fault.as_ref().map(ToString::to_string).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// A finding about an entry of the map. Words are only made for those kept.
    fn entry(&mut self, row: &'static CheckSpec, block: u64, detail: &dyn Fn() -> String) {
        let kept = self.findings.count_of(row.id) < Findings::PER_ID;
        let detail = if kept { detail() } else { String::new() };
        let finding = row.found(detail).at(self.map.entry_at(block));
        let used = self.map.used_len(block);
        let start = GuestOffset::new(block.saturating_mul(self.map.block_size()));
        self.findings.push(if used == 0 { finding } else { finding.guest(start, used) });
    }

    fn block(&mut self, block: u64, at: u64) {
        let map = self.map;
        self.gap(at);
        let end = at.saturating_add(map.unit());
        self.end = self.end.max(end);
        if map.used_len(block) == 0 {
            let detail = format!("block {block} of {}", map.needed());
            self.findings.push(table::BEYOND_DISK.found(detail).at(map.entry_at(block)));
        } else if end > map.source.byte_len() {
            let file_len = map.source.byte_len();
            let detail = format!("{} bytes short", end.saturating_sub(file_len));
            self.findings.push(table::CUT_TAIL.found(detail).at(FileOffset::new(file_len)));
        }
    }

    fn gap(&mut self, next: u64) {
        let gap = next.saturating_sub(self.end);
        if gap > 0 {
            let (first, all) = self.leaked.unwrap_or((self.end, 0));
            self.leaked = Some((first, all.saturating_add(gap)));
        }
    }

    /// What lies behind the last block.
    ///
    /// QEMU and VirtualBox append: the block first, then its entry and the count. A file that goes on behind the
    /// blocks counted was being written to. Blocks before that which nobody names were discarded.
    fn behind(&mut self, scope: CheckScope) -> Result<()> {
        let map = self.map;
        let file_len = map.source.byte_len();
        let counted = map.unit_at(map.header.blocks_allocated.into()).max(self.end);
        // The rest of a block that was cut off is no leak.
        let whole = self.findings.count_of(table::BLOCK_PAST_END.id) == 0;
        if whole {
            self.gap(counted.min(file_len));
            self.end = self.end.max(counted);
        }
        let data = if counted < file_len { self.first_data(counted, scope)? } else { None };
        match data {
            Some(at) => {
                let detail = format!("the blocks end at {counted:#x}, data goes on to {file_len:#x}");
                self.findings.push(table::UNFINISHED.found(detail).at(FileOffset::new(at)));
            }
            None if whole => self.gap(file_len),
            None => {}
        }
        if let Some((at, bytes)) = self.leaked {
            let detail = format!("{bytes} bytes in all, the first here");
            self.findings.push(table::LEAK.found(detail).at(FileOffset::new(at)));
        }
        Ok(())
    }

    /// The first stretch at or behind `from` with a byte that is not zero; in a check of metadata only the first
    /// mebibyte is looked at.
    fn first_data(&self, from: u64, scope: CheckScope) -> Result<Option<u64>> {
        const READ: u64 = 64 * 1024;
        let limit = if scope.includes_data() { u64::MAX } else { from.saturating_add(1 << 20) };
        let mut buf = vec![0; usize::try_from(READ).unwrap_or(0)];
        let mut at = from;
        while let Some(run) = self.map.source.run_at(FileOffset::new(at))?.filter(|_| at < limit) {
            go_on(self.observer)?;
            self.map.budget.check_time()?;
            if run.kind == RunKind::Hole {
                at = at.saturating_add(run.len.get());
                continue;
            }
            let take = run.len.get().min(READ);
            let bytes = buf.get_mut(..usize::try_from(take).unwrap_or(0)).unwrap_or_default();
            self.map.source.read_bytes(FileOffset::new(at), bytes)?;
            if !zero::is_zero(bytes) {
                return Ok(Some(at));
            }
            at = at.saturating_add(take);
        }
        Ok(None)
    }
}
