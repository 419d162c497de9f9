//! The check of a VHD: finds all that is wrong, not the first.

use kiln_disk::{CheckSpec, FileOffset, Findings, GuestOffset, Observer, Result, go_on, zero};

use super::blocks::Blocks;
use super::check_table as table;
use super::footer::{self, FOOTER_LEN, Reading, SECTOR, SizeRule};
use super::image::{Body, Parent, VhdImage};
use super::open;
use super::problem::VhdProblem;
use crate::image::CheckScope;
use crate::pieces::Met;

/// Alignment of block data leaves gaps shorter than this.
const PADDING: u64 = 4096;

pub(super) fn run(image: &VhdImage, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
    let mut findings = Findings::default();
    footers(image, &mut findings)?;
    sizes(image, &mut findings);
    if let Body::Blocks { blocks, parent } = &image.body {
        header(image, blocks, &mut findings);
        family(blocks, parent, &mut findings)?;
        table(image, blocks, parent, scope, observer, &mut findings)?;
    }
    Ok(findings)
}

fn footers(image: &VhdImage, findings: &mut Findings) -> Result<()> {
    let ends = &image.ends;
    let end_at = FileOffset::new(ends.end_at);
    let blocks = matches!(image.body, Body::Blocks { .. });
    let judged = [
        (&ends.front, FileOffset::ZERO, &table::FRONT_MISSING, &table::FRONT_DAMAGED, blocks),
        (&ends.end, end_at, &table::END_MISSING, &table::END_DAMAGED, true),
    ];
    for (reading, at, missing, damaged, wanted) in judged {
        match reading {
            _ if !wanted => {}
            Reading::Absent => findings.push(missing.found("no \"conectix\" there").at(at)),
            Reading::Damaged(_, problem) | Reading::Hopeless(problem) => {
                findings.push(damaged.found(problem.to_string()).at(at));
            }
            Reading::Good(_) => odd_fields(image, at, findings)?,
        }
    }
    if let (true, Some(front), Some(end)) = (blocks, ends.front.good(), ends.end.good())
        && let Some(field) = end.differs_from(front)
    {
        findings.push(table::COPIES_DIFFER.found(format!("they differ in {field}")).at(end_at));
    }
    if ends.short {
        findings.push(table::SHORT_FOOTER.found("511 bytes").at(end_at));
    }
    if image.footer.saved_state != 0 {
        let detail = format!("saved state is {}", image.footer.saved_state);
        findings.push(table::SAVED_STATE.found(detail).at(end_at.saturating_add(84)));
    }
    Ok(())
}

fn odd_fields(image: &VhdImage, at: FileOffset, findings: &mut Findings) -> Result<()> {
    let mut raw = [0; FOOTER_LEN];
    let have = image.source.byte_len().saturating_sub(at.get());
    let len = usize::try_from(have).unwrap_or(FOOTER_LEN).min(FOOTER_LEN);
    image.source.read_bytes(at, raw.get_mut(..len).unwrap_or_default())?;
    for oddity in footer::oddities(&raw) {
        findings.push(table::FOOTER_ODD.found(oddity).at(at));
    }
    Ok(())
}

fn sizes(image: &VhdImage, findings: &mut Findings) {
    let footer = &image.footer;
    let footer_at = FileOffset::new(if image.ends.end == Reading::Absent { 0 } else { image.ends.end_at });
    let spans = footer.geometry.total().saturating_mul(SECTOR);
    let largest = footer.geometry.total() == footer::Geometry::MAX.total();
    // A geometry a little shorter than the disk is the specification's own rounding; what decides the length
    // must not be off at all.
    let expected = footer::Geometry::of(footer.current_size / SECTOR);
    let rounded = footer.size_rule() == SizeRule::CurrentSize && footer.geometry == expected;
    if spans != footer.current_size && !largest && !rounded {
        let detail = format!(
            "the geometry spans {spans} bytes, the current size is {}; the disk is read by its {}",
            footer.current_size,
            footer.size_rule().word()
        );
        findings.push(table::GEOMETRY.found(detail).at(footer_at.saturating_add(48)));
    }
    if let Body::Fixed { stored } = image.body {
        let wanted = image.disk_len.max(footer.current_size);
        if stored < image.disk_len {
            let lost = image.disk_len.saturating_sub(stored);
            let detail = format!("the disk is {} bytes long, {stored} are there", image.disk_len);
            let finding = table::FIXED_SHORT.found(detail).at(FileOffset::new(stored));
            findings.push(finding.guest(GuestOffset::new(stored), lost));
        } else if stored > wanted {
            let detail = format!("{} bytes between disk and footer", stored.saturating_sub(wanted));
            findings.push(table::FIXED_SLACK.found(detail).at(FileOffset::new(wanted)));
        }
    }
}

fn header(image: &VhdImage, blocks: &Blocks, findings: &mut Findings) {
    let at = FileOffset::new(blocks.header_at);
    if let Some(problem) = &blocks.header.damage {
        findings.push(table::HEADER_DAMAGED.found(problem.to_string()).at(at.saturating_add(36)));
    }
    if blocks.header.reserved_used {
        findings.push(table::HEADER_ODD.found("reserved bytes are in use").at(at));
    }
    if let Some((one, other)) = open::overlap(blocks, &image.ends) {
        let detail = format!("{} and {}", one.name, other.name);
        findings.push(table::OVERLAP.found(detail).at(FileOffset::new(one.start.max(other.start))));
    }
    let entries = u64::from(blocks.header.max_table_entries);
    if entries > blocks.needed() {
        let detail = format!("{entries} entries, {} needed", blocks.needed());
        findings.push(table::TABLE_SPARE.found(detail).at(at.saturating_add(28)));
    }
}

fn family(blocks: &Blocks, parent: &Parent, findings: &mut Findings) -> Result<()> {
    let at = FileOffset::new(blocks.header_at);
    match parent {
        Parent::Zeros => return Ok(()),
        Parent::Open { image, .. } => {
            let (remembered, found) = (blocks.header.parent_time_stamp, image.footer.time_stamp);
            if remembered != found {
                let detail = format!("the disk remembers {remembered}, the parent's footer says {found}");
                findings.push(table::PARENT_TIME.found(detail).at(at.saturating_add(56)));
            }
        }
        Parent::Absent { references, cause } => {
            let name = references.first().map_or("", |reference| reference.name.as_str());
            let wrong = matches!(cause.problem(), Some(VhdProblem::WrongParent { .. }));
            let row = if wrong { &table::PARENT_WRONG } else { &table::PARENT_ABSENT };
            findings.push(row.found(format!("parent {name:?}: {cause}")).at(at.saturating_add(40)));
        }
    }
    for (entry_at, detail) in open::parent_names(blocks)?.faults {
        findings.push(table::LOCATOR.found(detail).at(entry_at));
    }
    Ok(())
}

/// State of the walk over the blocks.
struct Walk<'a> {
    image: &'a VhdImage,
    blocks: &'a Blocks,
    scope: CheckScope,
    dynamic: bool,
    observer: &'a dyn Observer,
    /// First byte behind everything met so far.
    end: u64,

    findings: &'a mut Findings,
}

fn table(
    image: &VhdImage,
    blocks: &Blocks,
    parent: &Parent,
    scope: CheckScope,
    observer: &dyn Observer,
    findings: &mut Findings,
) -> Result<()> {
    // Locators lie between the tables and the blocks, where Windows puts them.
    let used_end = |(at, len): (u64, u64)| at.saturating_add(len);
    let locators = blocks.header.locators.iter().map(|locator| {
        (locator.platform_data_offset, u64::from(locator.platform_data_length).next_multiple_of(SECTOR))
    });
    let metadata = blocks.metadata.iter().map(|region| (region.start, region.len.next_multiple_of(SECTOR)));
    let end = metadata.chain(locators).map(used_end).filter(|end| *end <= blocks.limit).max().unwrap_or(0);

    let mut walk =
        Walk { image, blocks, scope, dynamic: matches!(parent, Parent::Zeros), observer, end, findings };
    let entries = u64::from(blocks.header.max_table_entries);
    blocks.walk(entries, &mut |met| walk.met(met))?;
    walk.finish()
}

impl Walk<'_> {
    fn met(&mut self, met: Met) -> Result<()> {
        go_on(self.observer)?;
        let blocks = self.blocks;
        match met {
            Met::Piece { index, at } => self.block(index, at),
            Met::Clash { one, other } => {
                self.entry(&table::ALIASED, other, &|| format!("blocks {one} and {other}"));
                Ok(())
            }
            Met::Fault { index, value } => {
                let fault = blocks.fault(index, value);
                let row = match fault {
                    Some(VhdProblem::BlockOnMetadata { .. }) => &table::BLOCK_ON_METADATA,
                    _ => &table::BLOCK_PAST_END,
                };
                self.entry(row, index, &|| fault.as_ref().map(ToString::to_string).unwrap_or_default());
                Ok(())
            }
        }
    }

    /// A finding about an entry of the table. A hostile table has millions: words are only made for those kept.
    fn entry(&mut self, row: &'static CheckSpec, block: u64, detail: &dyn Fn() -> String) {
        let kept = self.findings.count_of(row.id) < Findings::PER_ID;
        let detail = if kept { detail() } else { String::new() };
        let finding = row.found(detail).at(self.blocks.entry_at(block));
        let used = self.blocks.used_len(block);
        let start = GuestOffset::new(block.saturating_mul(self.blocks.block_size()));
        self.findings.push(if used == 0 { finding } else { finding.guest(start, used) });
    }

    fn block(&mut self, block: u64, at: u64) -> Result<()> {
        let blocks = self.blocks;
        self.gap(at);
        let end = at.saturating_add(blocks.unit());
        self.end = self.end.max(end);
        if blocks.used_len(block) == 0 {
            let detail = format!("block {block} of {}", blocks.needed());
            self.findings.push(table::BEYOND_DISK.found(detail).at(blocks.entry_at(block)));
            return Ok(());
        }
        if end > blocks.limit {
            let detail = format!("{} bytes short", end.saturating_sub(blocks.limit));
            self.findings.push(table::CUT_TAIL.found(detail).at(FileOffset::new(blocks.limit)));
        }
        if self.scope.includes_data() && self.dynamic {
            self.unwritten(block, at)?;
        }
        Ok(())
    }

    /// Looks into sectors that the bitmap of a dynamic disk calls never written.
    fn unwritten(&mut self, block: u64, at: u64) -> Result<()> {
        let blocks = self.blocks;
        blocks.budget.check_time()?;
        let sectors = blocks.used_len(block).div_ceil(SECTOR);
        let data_at = at.saturating_add(blocks.header.bitmap_len());
        let mut sector = 0_u64;
        let mut buf = vec![0; 64 * 1024];
        while sector < sectors {
            let (written, run) = blocks.bitmap_run(at, sector, sectors.saturating_sub(sector))?;
            let mut from = sector;
            sector = sector.saturating_add(run.max(1));
            while !written && from < sector {
                let take = sector.saturating_sub(from).min(128);
                let chunk = usize::try_from(take.saturating_mul(SECTOR)).unwrap_or(0);
                let chunk = buf.get_mut(..chunk).unwrap_or_default();
                let file_at = FileOffset::new(data_at.saturating_add(from.saturating_mul(SECTOR)));
                blocks.source.read_bytes(file_at, chunk)?;
                if !zero::is_zero(chunk) {
                    let guest =
                        block.saturating_mul(blocks.block_size()).saturating_add(from.saturating_mul(SECTOR));
                    let detail = format!("block {block}, among {take} sectors from sector {from} on");
                    let finding = table::BITMAP.found(detail).at(file_at);
                    self.findings.push(finding.guest(GuestOffset::new(guest), take.saturating_mul(SECTOR)));
                }
                from = from.saturating_add(take);
            }
        }
        Ok(())
    }

    /// Accounts for the bytes between what was met so far and `next`.
    fn gap(&mut self, next: u64) {
        let gap = next.saturating_sub(self.end);
        if gap >= PADDING {
            let detail = format!("{gap} bytes");
            self.findings.push(table::LEAK.found(detail).at(FileOffset::new(self.end)));
        }
    }

    /// What lies behind the last block.
    fn finish(mut self) -> Result<()> {
        let end = self.end.min(self.blocks.limit);
        if self.image.ends.end != Reading::Absent {
            self.gap(self.blocks.limit);
            return Ok(());
        }
        // No footer at the end: perhaps it is where it belongs, and something was appended.
        let mut raw = [0; FOOTER_LEN];
        let footer_end = end.saturating_add(SECTOR);
        if footer_end < self.blocks.limit {
            self.blocks.source.read_bytes(FileOffset::new(end), &mut raw)?;
            if footer::read(&raw).good().is_some() {
                let detail = format!("{} bytes", self.blocks.limit.saturating_sub(footer_end));
                self.findings.push(table::TRAILING.found(detail).at(FileOffset::new(footer_end)));
            }
        }
        Ok(())
    }
}
