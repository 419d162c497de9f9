//! The extents of a descriptor in a file of its own.

use std::sync::Arc;

use kiln_disk::{ByteSource, Error, Result};

use super::descriptor::{Descriptor, Kind, Line};
use super::header::SECTOR;
use super::image::{Body, Part};
use super::open::open_sparse;
use super::problem::VmdkProblem;
use super::sparse::Sparse;
use crate::image::{OpenContext, Tolerance};
use crate::resolver::{ExternalRef, ExternalRole};

/// What a line of the descriptor asks for.
pub(super) fn reference(line: &Line) -> Option<ExternalRef> {
    (line.kind != Kind::Zero).then(|| ExternalRef {
        role: ExternalRole::Extent,
        name: line.name.clone(),
        format: None,
        at: line.at,
    })
}

/// Opens every extent, one after the other on the disk.
pub(super) fn open_all(descriptor: &Descriptor, context: &OpenContext) -> Result<Vec<Part>> {
    confirm_distinct(descriptor, context.tolerance)?;
    let too_long = || {
        let problem = VmdkProblem::Capacity(u64::MAX);
        Error::malformed("descriptor", descriptor.at, problem)
    };
    // 2^54 sectors are 2^63 bytes.
    descriptor.sectors().filter(|sectors| *sectors < 1 << 54).ok_or_else(too_long)?;
    let mut parts: Vec<Part> = Vec::new();
    for line in &descriptor.extents {
        let start = parts.last().map_or(0, |part| part.start.saturating_add(part.len));
        let len = line.sectors.saturating_mul(SECTOR);
        let file = u16::try_from(parts.len()).unwrap_or(u16::MAX).saturating_add(1);
        let body = match open_one(line, context) {
            Ok(body) => body,
            Err(error) if context.tolerance == Tolerance::Strict => return Err(error),
            Err(error @ (Error::Io { .. } | Error::Cancelled)) if error.code() != "io.not-found" => {
                return Err(error);
            }
            Err(cause) => Body::Absent(cause),
        };
        parts.push(Part { start, len, file, body });
    }
    Ok(parts)
}

fn open_one(line: &Line, context: &OpenContext) -> Result<Body> {
    let Some(reference) = reference(line) else { return Ok(Body::Zeros) };
    let resolved = context.resolver.resolve(&reference)?;
    if line.kind.is_flat() {
        return open_flat(line, resolved.source, context.tolerance);
    }
    let sparse = open_sparse(resolved.source, &context.budget, context.tolerance)?;
    if context.tolerance == Tolerance::Strict {
        confirm_capacity(line, &sparse)?;
    }
    Ok(Body::Sparse(Box::new(sparse)))
}

fn open_flat(line: &Line, source: Arc<dyn ByteSource>, tolerance: Tolerance) -> Result<Body> {
    let at = line.offset.checked_mul(SECTOR);
    let end = at.and_then(|at| at.checked_add(line.sectors.saturating_mul(SECTOR)));
    let (found, wanted) = (source.byte_len(), end.unwrap_or(u64::MAX));
    if wanted > found && tolerance == Tolerance::Strict {
        let problem = VmdkProblem::ExtentShort { name: line.name.clone(), wanted, found };
        return Err(Error::malformed("flat extent", line.at, problem));
    }
    Ok(Body::Flat { source, at: at.unwrap_or(u64::MAX), name: line.name.clone() })
}

/// Descriptor and header must agree on an extent's length. The specification wants whole grains, so that a header may
/// round up what the descriptor says exactly.
pub(super) fn confirm_capacity(line: &Line, sparse: &Sparse) -> Result<()> {
    let (described, capacity) = (line.sectors, sparse.header.capacity);
    let grain = sparse.header.grain_size.max(1);
    if described == capacity || described.checked_next_multiple_of(grain) == Some(capacity) {
        return Ok(());
    }
    Err(Error::malformed("descriptor", line.at, VmdkProblem::ExtentCapacity { described, capacity }))
}

/// One file in many extents is a small file that stands for a large disk: no program writes it.
pub(super) fn confirm_distinct(descriptor: &Descriptor, tolerance: Tolerance) -> Result<()> {
    if tolerance == Tolerance::Damaged {
        return Ok(());
    }
    // Name, first sector, sector behind the last; a sparse extent takes its file whole.
    let mut places: Vec<(&str, u64, u64, &Line)> = descriptor
        .extents
        .iter()
        .filter(|line| line.kind != Kind::Zero)
        .map(|line| {
            let end = if line.kind.is_flat() { line.offset.saturating_add(line.sectors) } else { u64::MAX };
            (line.name.as_str(), line.offset, end, line)
        })
        .collect();
    places.sort_by_key(|(name, start, ..)| (*name, *start));
    let clash = places.windows(2).find_map(|pair| match pair {
        [(one, _, end, _), (other, start, _, line)] if one == other && start < end => Some(*line),
        _ => None,
    });
    clash.map_or(Ok(()), |line| {
        let problem = VmdkProblem::ExtentAliased { name: line.name.clone() };
        Err(Error::malformed("descriptor", line.at, problem))
    })
}
