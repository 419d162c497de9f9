//! The check of a VHDX: finds all that is wrong, not the first.

use kiln_disk::{CheckSpec, Error, FileOffset, Findings, GuestOffset, Observer, Result, go_on};

use super::bat::Bat;
use super::check_table as table;
use super::header::HEADER_AT;
use super::image::{Parent, VhdxImage};
use super::log::LogState;
use super::open;
use super::problem::VhdxProblem;
use super::region::TABLE_AT;
use crate::pieces::Met;

pub(super) fn run(image: &VhdxImage, observer: &dyn Observer) -> Result<Findings> {
    let mut findings = Findings::default();
    copies(image, &mut findings);
    log(image, &mut findings);
    layout(&image.bat, &mut findings);
    family(image, &mut findings);
    blocks(image, observer, &mut findings)?;
    Ok(findings)
}

/// The whole chain of an error in words.
fn words(error: &Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn copies(image: &VhdxImage, findings: &mut Findings) {
    for (at, copy) in HEADER_AT.into_iter().zip(&image.headers.copies) {
        if let Err(problem) = copy {
            findings.push(table::HEADER_DAMAGED.found(problem.to_string()).at(FileOffset::new(at)));
        }
    }
    let second = |places: [u64; 2]| FileOffset::new(places[1]);
    if image.headers.twins {
        let detail = format!("sequence number {}", image.headers.current.sequence_number);
        findings.push(table::HEADER_TWINS.found(detail).at(second(HEADER_AT)));
    }
    for (at, copy) in TABLE_AT.into_iter().zip(&image.tables.copies) {
        if let Err(fault) = copy {
            findings.push(table::REGION_DAMAGED.found(fault.words()).at(FileOffset::new(at)));
        }
    }
    if image.tables.differ {
        let detail = "both have their checksum; the first is used";
        findings.push(table::REGION_DIFFER.found(detail).at(second(TABLE_AT)));
    }
}

fn log(image: &VhdxImage, findings: &mut Findings) {
    let at = FileOffset::new(image.headers.current.log_offset);
    match &image.log {
        LogState::Empty => {}
        LogState::Replayed { entries, changes } => {
            findings.push(table::LOG_DIRTY.found(format!("{entries} entries, {changes} changes")).at(at));
        }
        LogState::Broken(cause) => {
            findings.push(table::LOG_DAMAGED.found(words(cause)).at(cause.offset().unwrap_or(at)));
        }
    }
}

fn layout(bat: &Bat, findings: &mut Findings) {
    if let Some((one, other)) = open::overlap(&bat.reserved) {
        let detail = format!("{} and {}", one.name, other.name);
        findings.push(table::OVERLAP.found(detail).at(FileOffset::new(one.start.max(other.start))));
    }
    let file_len = bat.source.byte_len();
    for part in bat.reserved.iter().filter(|part| part.end() > file_len) {
        let detail = format!("the {} ends at {:#x}, the file has {file_len} bytes", part.name, part.end());
        findings.push(table::REGION_PAST_END.found(detail).at(FileOffset::new(part.start)));
    }
}

fn family(image: &VhdxImage, findings: &mut Findings) {
    let Parent::Absent(cause) = &image.parent else { return };
    let wrong = matches!(cause.problem(), Some(VhdxProblem::WrongParent { .. }));
    let row = if wrong { &table::PARENT_WRONG } else { &table::PARENT_ABSENT };
    let at =
        image.metadata.locator.as_ref().map_or(image.tables.current.metadata.start, |locator| locator.at);
    findings.push(row.found(words(cause)).at(FileOffset::new(at)));
}

/// State of the walk over the blocks.
struct Walk<'a> {
    bat: &'a Bat,
    observer: &'a dyn Observer,
    /// First byte behind everything met so far.
    end: u64,
    /// Parts that are no blocks, by place; those already behind `end` are gone.
    parts: std::iter::Peekable<std::vec::IntoIter<(u64, u64)>>,
    /// The first gap: where, and the bytes in all gaps.
    leaked: Option<(u64, u64)>,
    findings: &'a mut Findings,
}

fn blocks(image: &VhdxImage, observer: &dyn Observer, findings: &mut Findings) -> Result<()> {
    let bat = &image.bat;
    let mut parts: Vec<_> = bat.reserved.iter().map(|part| (part.start, part.end())).collect();
    parts.sort_unstable();
    let mut walk =
        Walk { bat, observer, end: 0, parts: parts.into_iter().peekable(), leaked: None, findings };
    bat.walk(&mut |met| walk.met(met))?;
    let whole = walk.findings.count_of(table::BLOCK_PAST_END.id) == 0;
    if whole {
        walk.reach(bat.source.byte_len());
    }
    if let Some((at, bytes)) = walk.leaked {
        let detail = format!("{bytes} bytes in all, the first here");
        walk.findings.push(table::LEAK.found(detail).at(FileOffset::new(at)));
    }
    if bat.has_parent {
        bitmaps(bat, findings)?;
    }
    Ok(())
}

/// Payload blocks that are partly here, each with its bitmap.
fn bitmaps(bat: &Bat, findings: &mut Findings) -> Result<()> {
    // In the table a bitmap's entry comes behind those of its blocks.
    let mut partial = None;
    bat.for_each(&mut |index, entry| {
        match bat.block_of(index) {
            Some(block) if entry & 7 == 7 => partial = partial.or(Some(block)),
            Some(_) => {}
            None => {
                if let (Some(block), 0) = (partial.take(), entry & 7) {
                    let detail = format!("payload block {block}");
                    findings.push(table::BITMAP_MISSING.found(detail).at(bat.entry_at(index)));
                }
            }
        }
        Ok(())
    })
}

impl Walk<'_> {
    fn met(&mut self, met: Met) -> Result<()> {
        go_on(self.observer)?;
        match met {
            Met::Piece { index, at } => self.piece(index, at),
            Met::Clash { one, other } => {
                self.entry(&table::ALIASED, other, &|| format!("entries {one} and {other}"));
            }
            Met::Fault { index, value } => {
                let problem = self.bat.place(index, value).err();
                let row = match problem {
                    Some(VhdxProblem::BlockOnMetadata { .. }) => &table::BLOCK_ON_METADATA,
                    Some(VhdxProblem::State { .. }) => &table::STATE,
                    _ => &table::BLOCK_PAST_END,
                };
                self.entry(row, index, &|| problem.as_ref().map(ToString::to_string).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// A finding about an entry of the table. A hostile table has millions: words are only made for those kept.
    fn entry(&mut self, row: &'static CheckSpec, index: u64, detail: &dyn Fn() -> String) {
        let kept = self.findings.count_of(row.id) < Findings::PER_ID;
        let detail = if kept { detail() } else { String::new() };
        let finding = row.found(detail).at(self.bat.entry_at(index));
        let guest = self.bat.block_of(index).map(|block| {
            (GuestOffset::new(block.saturating_mul(self.bat.block_size)), self.bat.used_len(block))
        });
        self.findings.push(match guest {
            Some((start, used)) => finding.guest(start, used),
            None => finding,
        });
    }

    fn piece(&mut self, index: u64, at: u64) {
        self.reach(at);
        let end = at.saturating_add(self.bat.piece_len(index));
        self.end = self.end.max(end);
        let file_len = self.bat.source.byte_len();
        if end > file_len {
            let detail = format!("{} bytes short", end.saturating_sub(file_len));
            self.findings.push(table::CUT_TAIL.found(detail).at(FileOffset::new(file_len)));
        }
    }

    /// Accounts for the bytes between what was met so far and `next`: they are a part of the file, or nothing.
    fn reach(&mut self, next: u64) {
        while let Some((start, end)) = self.parts.next_if(|(start, _)| *start <= next) {
            self.gap(start);
            self.end = self.end.max(end);
        }
        self.gap(next);
    }

    fn gap(&mut self, next: u64) {
        let gap = next.saturating_sub(self.end);
        if gap > 0 {
            let (first, all) = self.leaked.unwrap_or((self.end, 0));
            self.leaked = Some((first, all.saturating_add(gap)));
            self.end = next;
        }
    }
}
