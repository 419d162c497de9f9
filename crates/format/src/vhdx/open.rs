//! Opening: headers, log, regions, metadata, table, parent, in the order of the specification.

use std::sync::Arc;

use kiln_disk::{ByteSource, Error, FileOffset, Result};

use super::MIB;
use super::bat::Bat;
use super::header::{self, Headers};
use super::image::{Parent, VhdxImage};
use super::log::{self, LogState};
use super::metadata::Metadata;
use super::overlay::Overlay;
use super::parent;
use super::problem::VhdxProblem;
use super::region::{Region, Tables};
use crate::image::{OpenContext, Tolerance};
use crate::pieces::Met;

/// Opens a VHDX.
pub(super) fn open(file: Arc<dyn ByteSource>, context: &OpenContext) -> Result<VhdxImage> {
    let strict = context.tolerance == Tolerance::Strict;
    identifier(file.as_ref())?;
    let headers = Headers::read(file.as_ref())?;
    if headers.current.version != 1 {
        return Err(Error::Unsupported {
            code: "vhdx.version",
            feature: format!("VHDX version {}", headers.current.version),
            hint: "version 1 is the only one ever specified; the file may be damaged",
        });
    }
    let mut overlay = Overlay::new(Arc::clone(&file), Arc::clone(&context.budget));
    let log = match log::replay(&file, &context.budget, &headers.current, &mut overlay) {
        Ok(state) => state,
        Err(error @ (Error::Malformed { .. } | Error::Unsupported { .. })) if !strict => {
            LogState::Broken(error)
        }
        Err(error) => return Err(error),
    };
    let overlay = matches!(log, LogState::Replayed { .. }).then(|| Arc::new(overlay));
    let source: Arc<dyn ByteSource> = match &overlay {
        Some(overlay) => Arc::<Overlay>::clone(overlay),
        None => Arc::clone(&file),
    };

    let tables = Tables::read(source.as_ref())?;
    let file_len = source.byte_len();
    for region in [tables.current.metadata, tables.current.bat] {
        if region.end() > file_len {
            let problem = VhdxProblem::RegionPastEnd { name: region.name, end: region.end(), file_len };
            return Err(Error::malformed("region table", FileOffset::new(region.start), problem));
        }
    }
    let metadata = Metadata::read(&source, tables.current.metadata, &context.budget)?;
    let mut reserved = vec![Region { name: "headers", start: 0, len: MIB }];
    let (start, len) = (headers.current.log_offset, u64::from(headers.current.log_length));
    if len > 0 {
        reserved.push(Region { name: "log", start, len });
    }
    reserved.extend([tables.current.bat, tables.current.metadata]);
    reserved.extend(tables.current.others.iter().copied());
    let bat = Bat::new(source, Arc::clone(&context.budget), tables.current.bat, &metadata, reserved);
    let (room, needed) = (bat.region.len / 8, bat.entries());
    if room < needed {
        let at = FileOffset::new(bat.region.start);
        return Err(Error::malformed("region table", at, VhdxProblem::BatTooSmall { room, needed }));
    }
    if strict {
        doubtless(&bat)?;
    }
    let parent = match (metadata.has_parent, &metadata.locator) {
        (true, locator) => parent::open_parent(locator.as_ref(), context)?,
        (false, _) => Parent::None,
    };
    Ok(VhdxImage { file, overlay, headers, log, tables, metadata, bat, parent })
}

fn identifier(source: &dyn ByteSource) -> Result<()> {
    let bad = |at, problem| Error::malformed("file type identifier", FileOffset::new(at), problem);
    let file_len = source.byte_len();
    if file_len < MIB {
        return Err(bad(file_len, VhdxProblem::HeaderCut(file_len)));
    }
    let mut raw = [0; 8];
    source.read_bytes(FileOffset::ZERO, &mut raw)?;
    if raw != *header::FILE_SIGNATURE {
        return Err(bad(0, VhdxProblem::Signature("vhdxfile")));
    }
    Ok(())
}

/// Refuses what makes the data doubtful.
fn doubtless(bat: &Bat) -> Result<()> {
    if let Some((one, other)) = overlap(&bat.reserved) {
        let problem = VhdxProblem::Overlap { one: one.name, other: other.name };
        return Err(Error::malformed("region table", FileOffset::new(one.start.max(other.start)), problem));
    }
    // One pass over the table: no entry may lead outside, onto tables or into another block. Without it a small
    // file could stand for terabytes of data.
    bat.walk(&mut |met| match met {
        Met::Piece { .. } => Ok(()),
        Met::Clash { one, other } => Err(bat
            .malformed(one.max(other), VhdxProblem::Aliased { one: one.min(other), other: one.max(other) })),
        Met::Fault { index, value } => match bat.place(index, value) {
            Ok(_) => Ok(()),
            Err(problem) => Err(bat.malformed(index, problem)),
        },
    })
}

/// Two parts of the file that lie on the same bytes, if any do.
pub(super) fn overlap(parts: &[Region]) -> Option<(Region, Region)> {
    let mut sorted = parts.to_vec();
    sorted.sort_by_key(|part| (part.start, part.len));
    sorted.windows(2).find_map(|pair| match pair {
        [one, other] if one.overlaps(other.start, other.len) => Some((*one, *other)),
        _ => None,
    })
}
