//! Opening: which footer counts, what the header says, whose child the disk is.

use std::sync::Arc;

use kiln_disk::{ByteSource, Error, FileOffset, Result};

use super::FORMAT;
use super::blocks::{Blocks, Region};
use super::footer::{self, DiskType, FOOTER_LEN, Footer, MAX_SECTORS, Reading, SECTOR, SHORT_FOOTER_LEN};
use super::header::{self, HEADER_LEN, HEADER_VERSION, Header, MIN_BLOCK};
use super::image::{Body, Parent, VhdImage};
use super::problem::VhdProblem;
use crate::id::uuid_text;
use crate::image::{OpenContext, Tolerance};
use crate::pieces::Met;
use crate::resolver::{ExternalRef, ExternalRole};

/// Both ends of the file, read as footers.
#[derive(Debug, Clone)]
pub(super) struct Ends {
    pub(super) front: Reading,
    pub(super) end: Reading,
    /// Where the footer at the end starts: the end of the file when there is none.
    pub(super) end_at: u64,
    /// Whether it is one of 511 bytes.
    pub(super) short: bool,
}

impl Ends {
    pub(super) fn read(source: &dyn ByteSource) -> Result<Self> {
        let len = source.byte_len();
        let footer_len = u64::try_from(FOOTER_LEN).unwrap_or(u64::MAX);
        let mut raw = [0; FOOTER_LEN];
        let front = if len < footer_len {
            Reading::Absent
        } else {
            source.read_bytes(FileOffset::ZERO, &mut raw)?;
            footer::read(&raw)
        };
        for (have, short) in [(FOOTER_LEN, false), (SHORT_FOOTER_LEN, true)] {
            let Some(at) = u64::try_from(have).ok().and_then(|have| len.checked_sub(have)) else { continue };
            raw = [0; FOOTER_LEN];
            source.read_bytes(FileOffset::new(at), raw.get_mut(..have).unwrap_or_default())?;
            let end = footer::read(&raw);
            if end != Reading::Absent {
                // A file of one footer only: it is the one at the end.
                let front = if at == 0 { Reading::Absent } else { front };
                return Ok(Self { front, end, end_at: at, short });
            }
        }
        Ok(Self { front, end: Reading::Absent, end_at: len, short: false })
    }

    /// The footer that counts.
    ///
    /// The one at the end is the disk's own, the one at the start its copy (specification, "Hard Disk Footer
    /// Format"). Strict readers want the end in order, since whatever else ends there may have been cut off; a
    /// damaged copy at the start loses nothing. A guest can write the start of a fixed disk, but not its end.
    fn choose(&self, tolerance: Tolerance) -> Result<Footer> {
        let front = |problem| Error::malformed("footer at the start", FileOffset::ZERO, problem);
        let end = |problem| Error::malformed("footer at the end", FileOffset::new(self.end_at), problem);
        let copy = self.front.good().filter(|footer| footer.disk_type != DiskType::Fixed);
        match (self.end.good(), copy) {
            (Some(own), Some(copy)) if (own.disk_type == DiskType::Fixed) => {
                Err(end(VhdProblem::FooterKindsDiffer {
                    front: copy.disk_type.word(),
                    end: own.disk_type.word(),
                }))
            }
            (Some(own), Some(copy)) => match own.differs_from(copy) {
                Some(field) if tolerance == Tolerance::Strict => {
                    Err(front(VhdProblem::FootersDiffer { field }))
                }
                _ => Ok(own.clone()),
            },
            (Some(own), None) => Ok(own.clone()),
            (None, Some(copy)) => match (tolerance, self.end.problem()) {
                (Tolerance::Damaged, _) => Ok(copy.clone()),
                (Tolerance::Strict, Some(problem)) => Err(end(problem.clone())),
                (Tolerance::Strict, None) => Err(end(VhdProblem::EndFooterMissing)),
            },
            (None, None) => {
                let any = self.front.any().filter(|footer| footer.disk_type != DiskType::Fixed);
                match (tolerance, any.or(self.end.any())) {
                    (Tolerance::Damaged, Some(footer)) => Ok(footer.clone()),
                    _ => match (self.end.problem(), self.front.problem()) {
                        (Some(problem), _) => Err(end(problem.clone())),
                        (None, Some(problem)) => Err(front(problem.clone())),
                        (None, None) => Err(end(VhdProblem::NoFooter)),
                    },
                }
            }
        }
    }
}

/// Opens a VHD.
pub(super) fn open(source: Arc<dyn ByteSource>, context: &OpenContext) -> Result<VhdImage> {
    let ends = Ends::read(source.as_ref())?;
    let footer = ends.choose(context.tolerance)?;
    if footer.file_format_version >> 16 != footer::format_version() >> 16 {
        return Err(Error::Unsupported {
            code: "vhd.version",
            feature: format!("VHD file format version {:#010x}", footer.file_format_version),
            hint: "version 1 is the only one ever specified; the file may be damaged",
        });
    }
    let disk_len = disk_len(&footer, ends.end_at)?;
    let body = match footer.disk_type {
        DiskType::Fixed => {
            if disk_len > ends.end_at && context.tolerance == Tolerance::Strict {
                let problem = VhdProblem::FixedTooShort { disk_len, stored: ends.end_at };
                return Err(Error::malformed("fixed disk", FileOffset::new(ends.end_at), problem));
            }
            Body::Fixed { stored: ends.end_at }
        }
        DiskType::Dynamic | DiskType::Differencing => {
            let blocks = open_blocks(&source, context, &footer, &ends, disk_len)?;
            let parent = match footer.disk_type {
                DiskType::Differencing => open_parent(&blocks, context)?,
                _ => Parent::Zeros,
            };
            Body::Blocks { blocks: Box::new(blocks), parent }
        }
    };
    Ok(VhdImage { source, ends, footer, disk_len, body })
}

fn disk_len(footer: &Footer, footer_at: u64) -> Result<u64> {
    let disk_len = footer.disk_len();
    if disk_len == 0 {
        let problem = VhdProblem::DiskSize(footer.current_size);
        return Err(Error::malformed("footer", FileOffset::new(footer_at), problem));
    }
    let allowed = MAX_SECTORS.saturating_mul(SECTOR);
    if disk_len > allowed {
        return Err(Error::Refused {
            code: "vhd.size",
            what: "length of a VHD in bytes".to_owned(),
            asked: disk_len,
            allowed,
            hint: "the format ends at 2040 GiB; the footer may be damaged",
        });
    }
    Ok(disk_len)
}

fn open_blocks(
    source: &Arc<dyn ByteSource>,
    context: &OpenContext,
    footer: &Footer,
    ends: &Ends,
    disk_len: u64,
) -> Result<Blocks> {
    let strict = context.tolerance == Tolerance::Strict;
    let file_len = source.byte_len();
    let at = footer.data_offset;
    let bad = |problem| Error::malformed("dynamic disk header", FileOffset::new(at), problem);
    let header_len = u64::try_from(HEADER_LEN).unwrap_or(u64::MAX);
    if at.checked_add(header_len).is_none_or(|end| end > file_len) {
        return Err(bad(VhdProblem::HeaderPastEnd { at, file_len }));
    }
    let mut raw = [0; HEADER_LEN];
    source.read_bytes(FileOffset::new(at), &mut raw)?;
    let header = header::read(&raw).map_err(bad)?;
    if let (true, Some(problem)) = (strict, &header.damage) {
        return Err(bad(problem.clone()));
    }
    supported(&header)?;

    let needed = disk_len.div_ceil(u64::from(header.block_size).max(1));
    if u64::from(header.max_table_entries) < needed {
        return Err(bad(VhdProblem::TableTooSmall { entries: header.max_table_entries, needed }));
    }
    let table_at = header.table_offset;
    let table_len = u64::from(header.max_table_entries).saturating_mul(4);
    if table_at.checked_add(table_len).is_none_or(|end| end > file_len) {
        let problem = VhdProblem::TablePastEnd { at: table_at, entries: header.max_table_entries, file_len };
        return Err(Error::malformed("block allocation table", FileOffset::new(table_at), problem));
    }
    let blocks =
        Blocks::new(Arc::clone(source), Arc::clone(&context.budget), header, at, ends.end_at, disk_len);
    if strict {
        if let Some((one, other)) = overlap(&blocks, ends) {
            let problem = VhdProblem::Overlap { one: one.name, other: other.name };
            return Err(Error::malformed(one.name, FileOffset::new(one.start), problem));
        }
        // One pass over the table: no entry may lead outside, onto tables or into another block. Without it a
        // small file could stand for terabytes of data.
        blocks.walk(blocks.needed(), &mut |met| match met {
            Met::Piece { .. } => Ok(()),
            Met::Clash { one, other } => Err(blocks.malformed(
                one.max(other),
                VhdProblem::Aliased { one: one.min(other), other: one.max(other) },
            )),
            Met::Fault { index, value } => match blocks.fault(index, value) {
                Some(problem) => Err(blocks.malformed(index, problem)),
                None => Ok(()),
            },
        })?;
    }
    Ok(blocks)
}

fn supported(header: &Header) -> Result<()> {
    if header.header_version >> 16 != HEADER_VERSION >> 16 {
        return Err(Error::Unsupported {
            code: "vhd.header-version",
            feature: format!("VHD dynamic disk header version {:#010x}", header.header_version),
            hint: "version 1 is the only one ever specified; the file may be damaged",
        });
    }
    if header.block_size < MIN_BLOCK {
        return Err(Error::Unsupported {
            code: "vhd.small-blocks",
            feature: format!("a VHD with blocks of {} bytes", header.block_size),
            hint: "programs do not agree where its data is; convert it where it was made, with blocks of 2 MiB",
        });
    }
    Ok(())
}

/// Two structures that lie on the same bytes, if any do.
pub(super) fn overlap(blocks: &Blocks, ends: &Ends) -> Option<(Region, Region)> {
    let end = Region {
        name: "footer at the end",
        start: ends.end_at,
        len: blocks.source.byte_len().saturating_sub(ends.end_at),
    };
    let [front, header, table] = blocks.metadata;
    [(header, front), (table, front), (table, header), (header, end), (table, end)]
        .into_iter()
        .find(|(one, other)| one.len > 0 && other.len > 0 && one.overlaps(other.start, other.len))
}

/// "Parent Unicode Name" in the dynamic disk header.
const PARENT_UNICODE_NAME_AT: u64 = 64;

/// The longest name that is read: Windows paths end at 32767 units of two bytes.
const MAX_NAME: u32 = 64 * 1024;

/// What a differencing disk calls its parent.
pub(super) struct ParentNames {
    /// Every name, the one in the header first.
    pub(super) references: Vec<ExternalRef>,
    /// Locators that cannot be read: where, and why.
    pub(super) faults: Vec<(FileOffset, String)>,
}

/// Every name that a differencing disk has for its parent.
pub(super) fn parent_names(blocks: &Blocks) -> Result<ParentNames> {
    let header = &blocks.header;
    let name_at = blocks.header_at.saturating_add(PARENT_UNICODE_NAME_AT);
    let mut names = vec![(header.parent_unicode_name.clone(), FileOffset::new(name_at))];
    let mut faults = Vec::new();
    for locator in &header.locators {
        let entry_at = FileOffset::new(blocks.header_at.saturating_add(locator.entry_at));
        let len = locator.platform_data_length;
        let end = locator.platform_data_offset.checked_add(len.into());
        if len > MAX_NAME || end.is_none_or(|end| end > blocks.limit) {
            let platform = String::from_utf8_lossy(&locator.platform_code).into_owned();
            faults.push((
                entry_at,
                format!("locator {platform:?}: {len} bytes at {:#x}", locator.platform_data_offset),
            ));
            continue;
        }
        let mut raw = vec![0; usize::try_from(len).unwrap_or(0)];
        let at = FileOffset::new(locator.platform_data_offset);
        blocks.source.read_bytes(at, &mut raw)?;
        names.extend(header::locator_text(locator.platform_code, &raw).map(|name| (name, at)));
    }
    let mut references: Vec<ExternalRef> = Vec::new();
    for (name, at) in names.into_iter().filter(|(name, _)| !name.is_empty()) {
        if references.iter().all(|known| known.name != name) {
            references.push(ExternalRef {
                role: ExternalRole::Parent,
                name,
                format: Some(FORMAT.id.to_owned()),
                at,
            });
        }
    }
    Ok(ParentNames { references, faults })
}

fn open_parent(blocks: &Blocks, context: &OpenContext) -> Result<Parent> {
    let references = parent_names(blocks)?.references;
    match attach(blocks, &references, context) {
        Ok(parent) => Ok(Parent::Open { references, image: Box::new(parent) }),
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => Err(error),
        Err(error) if context.tolerance == Tolerance::Strict => Err(error),
        Err(cause) => Ok(Parent::Absent { references, cause }),
    }
}

/// Opens the parent under the first of its names that the resolver knows, and makes sure that it is the parent.
///
/// Identity is the unique id. The header's parent time stamp is the time at which the parent's *file* was last
/// changed, which no copy keeps: it is told in the facts, and refuses nothing.
fn attach(blocks: &Blocks, references: &[ExternalRef], context: &OpenContext) -> Result<VhdImage> {
    let unnamed = || {
        Error::malformed("dynamic disk header", FileOffset::new(blocks.header_at), VhdProblem::NoParentName)
    };
    let deeper = context.deeper()?;
    let mut denied = None;
    for reference in references {
        let resolved = match context.resolver.resolve(reference) {
            Ok(resolved) => resolved,
            Err(error) if error.code() == "reference.denied" => {
                denied = denied.or(Some(error));
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(format) = resolved.format.filter(|format| **format != FORMAT) {
            return Err(Error::Unsupported {
                code: "vhd.parent.format",
                feature: format!("a {} file as parent of a differencing VHD", format.id),
                hint: "offer the VHD that the disk was made on: only a VHD can prove that it is the parent",
            });
        }
        let parent = open(resolved.source, &deeper)?;
        let (wanted, found) = (&blocks.header.parent_unique_id, &parent.footer.unique_id);
        if wanted != found {
            let problem = VhdProblem::WrongParent { wanted: uuid_text(wanted), found: uuid_text(found) };
            let at = FileOffset::new(blocks.header_at.saturating_add(40));
            return Err(Error::malformed("parent unique id", at, problem));
        }
        return Ok(parent);
    }
    Err(denied.unwrap_or_else(unnamed))
}
