//! Opening: the descriptor, its extents, the tables of each, the disk below.

use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Error, FileOffset, Result, zero};

use super::FORMAT;
use super::descriptor::{Descriptor, MAX_LEN, Place};
use super::extents;
use super::header::{self, GD_AT_END, HEADER_LEN, Header, MAGIC, SECTOR, flag};
use super::image::{Body, Parent, Part, VmdkImage};
use super::layout::{self, Met};
use super::problem::VmdkProblem;
use super::sparse::{Region, Sparse};
use super::tail::Tail;
use crate::image::{OpenContext, Tolerance};
use crate::resolver::{ExternalRef, ExternalRole};
use crate::wire::{as_bytes, in_memory, le64};

/// Opens a VMDK: a sparse extent with its descriptor inside, or a descriptor.
pub(super) fn open(source: Arc<dyn ByteSource>, context: &OpenContext) -> Result<VmdkImage> {
    let mut magic = [0; 4];
    if source.byte_len() >= 4 {
        source.read_bytes(FileOffset::ZERO, &mut magic)?;
    }
    let (descriptor, parts) =
        if magic == *MAGIC { monolithic(&source, context)? } else { described(&source, context)? };
    let disk_len = parts.last().map_or(0, |part| part.start.saturating_add(part.len));
    let parent = open_parent(descriptor.as_ref(), context)?;
    Ok(VmdkImage { source, descriptor, parts, disk_len, parent })
}

/// A sparse extent that is a disk of its own.
fn monolithic(
    source: &Arc<dyn ByteSource>,
    context: &OpenContext,
) -> Result<(Option<Descriptor>, Vec<Part>)> {
    let sparse = open_sparse(Arc::clone(source), &context.budget, context.tolerance)?;
    let descriptor = match embedded(&sparse) {
        Ok(descriptor) => Some(descriptor),
        Err(Error::Malformed { .. }) if context.tolerance == Tolerance::Damaged => None,
        Err(error) => return Err(error),
    };
    if let (Tolerance::Strict, Some(line)) =
        (context.tolerance, descriptor.as_ref().and_then(|descriptor| descriptor.extents.first()))
    {
        extents::confirm_capacity(line, &sparse)?;
    }
    let part = Part { start: 0, len: sparse.len(), file: 0, body: Body::Sparse(Box::new(sparse)) };
    Ok((descriptor, vec![part]))
}

/// The descriptor inside a sparse extent.
pub(super) fn embedded(sparse: &Sparse) -> Result<Descriptor> {
    let header = &sparse.front;
    let start = header.descriptor_offset.saturating_mul(SECTOR);
    let len = header.descriptor_size.saturating_mul(SECTOR);
    let bad = |problem| Error::malformed("descriptor", FileOffset::new(start), problem);
    if start == 0 || len == 0 {
        return Err(Error::malformed(
            "sparse extent header",
            FileOffset::new(28),
            VmdkProblem::DescriptorMissing,
        ));
    }
    if len > MAX_LEN {
        return Err(bad(VmdkProblem::DescriptorLong { len, allowed: MAX_LEN }));
    }
    let file_len = sparse.source.byte_len();
    if start.saturating_add(len) > file_len {
        return Err(bad(VmdkProblem::PastEnd { table: "descriptor", start, len, file_len }));
    }
    let mut raw = vec![0; in_memory(len)];
    sparse.source.read_bytes(FileOffset::new(start), &mut raw)?;
    if zero::is_zero(&raw) {
        return Err(bad(VmdkProblem::DescriptorMissing));
    }
    Descriptor::parse(&raw, FileOffset::new(start), Place::Embedded)
}

/// A descriptor in a file of its own.
fn described(source: &Arc<dyn ByteSource>, context: &OpenContext) -> Result<(Option<Descriptor>, Vec<Part>)> {
    let len = source.byte_len();
    if len > MAX_LEN {
        let problem = VmdkProblem::DescriptorLong { len, allowed: MAX_LEN };
        return Err(Error::malformed("descriptor", FileOffset::ZERO, problem));
    }
    let mut raw = vec![0; in_memory(len)];
    source.read_bytes(FileOffset::ZERO, &mut raw)?;
    let descriptor = Descriptor::parse(&raw, FileOffset::ZERO, Place::Alone)?;
    let parts = extents::open_all(&descriptor, context)?;
    Ok((Some(descriptor), parts))
}

/// Opens a hosted sparse extent; a strict open also walks all of its tables, for a small file that leads to the same
/// grain a million times is a bomb, and two grains in one place are damage that nothing else shows.
pub(super) fn open_sparse(
    source: Arc<dyn ByteSource>,
    budget: &Arc<Budget>,
    tolerance: Tolerance,
) -> Result<Sparse> {
    let front = read_header(source.as_ref())?;
    let strict = tolerance == Tolerance::Strict;
    let bad = |problem| Error::malformed("sparse extent header", FileOffset::ZERO, problem);
    confirm_readable(&front)?;
    if let (true, Some(problem)) = (strict, front.doubt()) {
        return Err(bad(problem));
    }
    let tail = if front.gd_offset == GD_AT_END { Tail::find(source.as_ref())? } else { None };
    if let Some(tail) = &tail {
        let bad = |problem| Error::malformed("footer", FileOffset::new(tail.at), problem);
        confirm_readable(&tail.footer)?;
        if tail.footer.gd_offset == GD_AT_END {
            return Err(bad(VmdkProblem::FooterLoop));
        }
        if let (true, Some(field)) = (strict, front.differs_from(&tail.footer)) {
            return Err(bad(VmdkProblem::FooterDiffers { field }));
        }
    } else if front.gd_offset == GD_AT_END {
        let at = FileOffset::new(source.byte_len());
        return Err(Error::malformed("footer", at, VmdkProblem::FooterMissing));
    }
    let header = tail.as_ref().map_or(&front, |tail| &tail.footer);
    let directory_at = directory(header, source.byte_len())?;
    let regions = regions(&front, header, tail.as_ref());
    let sparse = Sparse::new(source, Arc::clone(budget), front, tail, directory_at, regions);
    if strict {
        confirm_layout(&sparse)?;
    }
    Ok(sparse)
}

fn read_header(source: &dyn ByteSource) -> Result<Header> {
    let mut raw = [0; HEADER_LEN];
    if source.byte_len() < as_bytes(HEADER_LEN) {
        return Err(Error::malformed("sparse extent header", FileOffset::ZERO, VmdkProblem::HeaderCut));
    }
    source.read_bytes(FileOffset::ZERO, &mut raw)?;
    if let Some(header) = Header::read(&raw) {
        return Ok(header);
    }
    let (kind, code) = match () {
        () if raw.starts_with(b"COWD") => ("a VMDK extent of ESX COWD type", "vmdk.extent.cowd"),
        () if le64(&raw, 0) == Some(0xcafe_babe) => {
            ("a VMDK extent of SEsparse type", "vmdk.extent.sesparse")
        }
        () => {
            let problem = VmdkProblem::ExtentMagic { name: source.label().to_owned() };
            return Err(Error::malformed("sparse extent header", FileOffset::ZERO, problem));
        }
    };
    Err(Error::Unsupported {
        code,
        feature: kind.to_owned(),
        hint: "convert the disk where it was made, to streamOptimized or monolithicSparse",
    })
}

/// Refuses numbers that no layout follows from, and what is not read.
fn confirm_readable(header: &Header) -> Result<()> {
    const HINT: &str = "convert the disk where it was made, to streamOptimized or monolithicSparse";
    let unsupported = |code, feature| Err(Error::Unsupported { code, feature, hint: HINT });
    if !(1..=3).contains(&header.version) {
        return unsupported("vmdk.version", format!("a VMDK of version {}", header.version));
    }
    if header.compress_algorithm > header::COMPRESSION_DEFLATE {
        let feature = format!("compression algorithm {} in a VMDK", header.compress_algorithm);
        return unsupported("vmdk.compression", feature);
    }
    if let Some(problem) = header.fault() {
        return Err(Error::malformed("sparse extent header", FileOffset::ZERO, problem));
    }
    // A buffer of this size is needed to read a single byte.
    if header.is_compressed() && header.grain_size > MAX_COMPRESSED_GRAIN {
        let feature = format!("a VMDK with compressed grains of {} sectors", header.grain_size);
        return unsupported("vmdk.compressed-grain", feature);
    }
    Ok(())
}

/// In sectors: 2 MiB. Programs write 64 KiB.
const MAX_COMPRESSED_GRAIN: u64 = 4096;

/// Entries of the grain directory.
fn directory_len(header: &Header) -> u64 {
    let covered = header.grain_size.saturating_mul(header.num_gtes_per_gt.into()).max(1);
    header.capacity.div_ceil(covered).saturating_mul(4)
}

/// Where the grain directory is. It is held against the file before anything is sized by it.
fn directory(header: &Header, file_len: u64) -> Result<u64> {
    let (start, len) = (header.gd_offset.saturating_mul(SECTOR), directory_len(header));
    if start.checked_add(len).is_some_and(|end| end <= file_len) {
        return Ok(start);
    }
    let problem = VmdkProblem::PastEnd { table: "grain directory", start, len, file_len };
    Err(Error::malformed("sparse extent header", FileOffset::new(56), problem))
}

/// Everything that has a place of its own and is no table and no grain.
fn regions(front: &Header, header: &Header, tail: Option<&Tail>) -> Vec<Region> {
    let region = |name, start: u64, len| Region { name, start: start.saturating_mul(SECTOR), len };
    let mut regions = vec![region("sparse extent header", 0, SECTOR)];
    if front.descriptor_offset != 0 && front.descriptor_size != 0 {
        let len = front.descriptor_size.saturating_mul(SECTOR);
        regions.push(region("descriptor", front.descriptor_offset, len));
    }
    regions.push(region("grain directory", header.gd_offset, directory_len(header)));
    if has_redundant(header) {
        regions.push(region("redundant grain directory", header.rgd_offset, directory_len(header)));
    }
    if let Some(tail) = tail {
        let len = tail.at.saturating_add(SECTOR).saturating_sub(tail.start());
        regions.push(Region { name: "footer", start: tail.start(), len });
    }
    regions
}

/// Whether there is a second directory. Some writers set the flag and give no place, or that of the first.
pub(super) const fn has_redundant(header: &Header) -> bool {
    header.has(flag::REDUNDANT) && header.rgd_offset != 0 && header.rgd_offset != header.gd_offset
}

/// The two regions that share bytes, if any do.
pub(super) fn overlap(sparse: &Sparse) -> Option<(Region, Region)> {
    let regions = &sparse.regions;
    regions.iter().enumerate().find_map(|(index, one)| {
        let rest = regions.get(index.saturating_add(1)..).unwrap_or_default();
        rest.iter().find(|other| one.overlaps(other.start, other.len)).map(|other| (*other, *one))
    })
}

fn confirm_layout(sparse: &Sparse) -> Result<()> {
    if let Some((one, other)) = overlap(sparse) {
        let problem = VmdkProblem::Overlap { one: one.name, start: one.start, other: other.name };
        return Err(Error::malformed("sparse extent header", FileOffset::ZERO, problem));
    }
    layout::walk(sparse, &mut |met| match met {
        Met::Table { .. } | Met::Grain { .. } => Ok(()),
        Met::BadTable { table, problem } => {
            let at = FileOffset::new(sparse.directory_entry_at(table));
            Err(Error::malformed("grain directory", at, problem))
        }
        Met::BadGrain { grain, problem } => Err(sparse.malformed(grain, problem)),
    })
}

/// What the descriptor calls the disk below this one.
pub(super) fn parent_reference(descriptor: &Descriptor) -> Option<ExternalRef> {
    let name = descriptor.parent_file_name_hint.clone().filter(|name| !name.is_empty());
    name.filter(|_| descriptor.has_parent()).map(|name| ExternalRef {
        role: ExternalRole::Parent,
        name,
        format: Some(FORMAT.id.to_owned()),
        at: descriptor.at,
    })
}

fn open_parent(descriptor: Option<&Descriptor>, context: &OpenContext) -> Result<Parent> {
    let Some(descriptor) = descriptor.filter(|descriptor| descriptor.has_parent()) else {
        return Ok(Parent::None);
    };
    match attach(descriptor, context) {
        Ok(image) => Ok(Parent::Open(Box::new(image))),
        Err(error) if context.tolerance == Tolerance::Strict => Err(error),
        Err(cause) => Ok(Parent::Absent(cause)),
    }
}

/// Opens the parent that the resolver gives for the name in the descriptor, and makes sure that it is the parent: a
/// disk's CID changes with its content, and the child remembers the one that it was made on.
fn attach(descriptor: &Descriptor, context: &OpenContext) -> Result<VmdkImage> {
    let bad = |problem| Error::malformed("descriptor", descriptor.at, problem);
    let wanted = descriptor.parent_cid;
    let reference =
        parent_reference(descriptor).ok_or_else(|| bad(VmdkProblem::ParentUnnamed { parent_cid: wanted }))?;
    let deeper = context.deeper()?;
    let resolved = context.resolver.resolve(&reference)?;
    if let Some(format) = resolved.format.filter(|format| **format != FORMAT) {
        return Err(Error::Unsupported {
            code: "vmdk.parent.format",
            feature: format!("a {} file as parent of a differencing VMDK", format.id),
            hint: "offer the VMDK that the disk was made on: only a VMDK can prove that it is the parent",
        });
    }
    let parent = open(resolved.source, &deeper)?;
    match parent.descriptor.as_ref().and_then(|descriptor| descriptor.cid) {
        Some(found) if found == wanted => Ok(parent),
        found => Err(bad(VmdkProblem::WrongParent { wanted, found: found.unwrap_or(u32::MAX) })),
    }
}
