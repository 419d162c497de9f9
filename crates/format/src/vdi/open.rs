//! Opening: what the header says, whether the map holds together, whose child the disk is.

use std::sync::Arc;

use kiln_disk::{ByteSource, Error, FileOffset, Result};

use super::FORMAT;
use super::header::{self, HEADER_END, Header, field};
use super::image::{Parent, VdiImage};
use super::map::Map;
use super::problem::VdiProblem;
use crate::image::{OpenContext, Tolerance};
use crate::pieces::Met;
use crate::resolver::{ExternalRef, ExternalRole};
use crate::wire::le32;

/// Opens a VDI.
pub(super) fn open(source: Arc<dyn ByteSource>, context: &OpenContext) -> Result<VdiImage> {
    let header = read_header(source.as_ref())?;
    let map = Map::new(source, Arc::clone(&context.budget), header);
    let file_len = map.source.byte_len();
    if map.end() > file_len {
        let (at, entries) = (map.header.blocks_offset.into(), map.header.blocks);
        let problem = VdiProblem::MapPastEnd { at, entries, file_len };
        return Err(Error::malformed("block map", FileOffset::new(at), problem));
    }
    if context.tolerance == Tolerance::Strict {
        strict(&map)?;
    }
    let parent = if map.header.image_type.has_parent() { open_parent(&map, context)? } else { Parent::None };
    Ok(VdiImage { map, parent })
}

fn read_header(source: &dyn ByteSource) -> Result<Header> {
    let bad = |at, problem| Error::malformed("header", FileOffset::new(at), problem);
    let file_len = source.byte_len();
    if file_len < u64::try_from(HEADER_END).unwrap_or(u64::MAX) {
        return Err(bad(file_len, VdiProblem::HeaderCut(file_len)));
    }
    let mut raw = [0; HEADER_END];
    source.read_bytes(FileOffset::ZERO, &mut raw)?;
    if le32(&raw, header::SIGNATURE_AT) != Some(header::SIGNATURE) {
        return Err(bad(64, VdiProblem::Signature));
    }
    let version = usize::try_from(field::VERSION).ok().and_then(|at| le32(&raw, at)).unwrap_or(0);
    if version != header::VERSION_1_1 {
        return Err(Error::Unsupported {
            code: "vdi.version",
            feature: format!("VDI version {}.{}", version >> 16, version & 0xffff),
            hint: "VirtualBox has written version 1.1 since 2007; clone the disk with VBoxManage clonemedium",
        });
    }
    header::read(&raw).map_err(|(at, problem)| bad(at, problem))
}

/// What makes the data doubtful.
fn strict(map: &Map) -> Result<()> {
    if let Some((at, problem)) = layout_fault(map) {
        return Err(Error::malformed("header", FileOffset::new(at), problem));
    }
    if let Some(problem) = linked_base(&map.header) {
        return Err(Error::malformed("header", FileOffset::new(field::UUID_LINKAGE), problem));
    }
    // One pass over the map: no entry may lead outside or to a block that another one has. Without it a small
    // file could stand for terabytes of data.
    map.walk(map.needed(), &mut |met| match met {
        Met::Piece { .. } => Ok(()),
        Met::Clash { one, other } => {
            let problem = VdiProblem::Aliased { one: one.min(other), other: one.max(other) };
            Err(map.malformed(one.max(other), problem))
        }
        Met::Fault { index, value } => match map.fault(index, value) {
            Some(problem) => Err(map.malformed(index, problem)),
            None => Ok(()),
        },
    })
}

/// Structures that lie on top of each other: the place of the field that puts them there.
pub(super) fn layout_fault(map: &Map) -> Option<(u64, VdiProblem)> {
    let header_end = u64::try_from(HEADER_END).unwrap_or(u64::MAX);
    let map_at = u64::from(map.header.blocks_offset);
    let data_at = u64::from(map.header.data_offset);
    let overlap = |one, other| VdiProblem::Overlap { one, other };
    if map_at < header_end {
        return Some((field::BLOCKS_OFFSET, overlap("block map", "header")));
    }
    if data_at < header_end {
        return Some((field::DATA_OFFSET, overlap("space for blocks", "header")));
    }
    // VirtualBox wants the blocks behind the map, wherever that is.
    (data_at < map.end()).then(|| (field::DATA_OFFSET, overlap("space for blocks", "block map")))
}

/// QEMU refuses a base disk with a parent's id, VirtualBox goes by what else it knows of the disk.
pub(super) fn linked_base(header: &Header) -> Option<VdiProblem> {
    let linked = !header.image_type.has_parent() && !header.uuid_linkage.is_nil();
    linked.then(|| VdiProblem::LinkedBase {
        kind: header.image_type.word(),
        parent: header.uuid_linkage.to_string(),
    })
}

/// The parent as the disk knows it: by its unique id.
pub(super) fn reference(header: &Header) -> Option<ExternalRef> {
    (header.image_type.has_parent() && !header.uuid_linkage.is_nil()).then(|| ExternalRef {
        role: ExternalRole::Parent,
        name: header.uuid_linkage.to_string(),
        format: Some(FORMAT.id.to_owned()),
        at: FileOffset::new(field::UUID_LINKAGE),
    })
}

fn open_parent(map: &Map, context: &OpenContext) -> Result<Parent> {
    match attach(&map.header, context) {
        Ok(parent) => Ok(Parent::Open(Box::new(parent))),
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => Err(error),
        Err(error) if context.tolerance == Tolerance::Strict => Err(error),
        Err(cause) => Ok(Parent::Absent(cause)),
    }
}

/// Opens what the resolver has for the parent's unique id, and makes sure that it is that disk in the state that
/// the child was made on.
fn attach(header: &Header, context: &OpenContext) -> Result<VdiImage> {
    let linkage = FileOffset::new(field::UUID_LINKAGE);
    let Some(reference) = reference(header) else {
        let problem = VdiProblem::NoParent(header.image_type.word());
        return Err(Error::malformed("header", linkage, problem));
    };
    let deeper = context.deeper()?;
    let resolved = context.resolver.resolve(&reference)?;
    if let Some(format) = resolved.format.filter(|format| **format != FORMAT) {
        return Err(Error::Unsupported {
            code: "vdi.parent.format",
            feature: format!("a {} file as parent of a differencing VDI", format.id),
            hint: "offer the VDI that the disk was made on: only a VDI can prove that it is the parent",
        });
    }
    let parent = open(resolved.source, &deeper)?;
    let words = |id: &crate::id::Guid| id.to_string();
    let (wanted, found) = (&header.uuid_linkage, &parent.map.header.uuid_create);
    if wanted != found {
        let problem = VdiProblem::WrongParent { wanted: words(wanted), found: words(found) };
        return Err(Error::malformed("header", linkage, problem));
    }
    // Changed by whoever writes to the parent, and by no copy. Nil: not recorded.
    let (wanted, found) = (&header.uuid_parent_modify, &parent.map.header.uuid_modify);
    if !wanted.is_nil() && wanted != found {
        let problem = VdiProblem::ParentModified { wanted: words(wanted), found: words(found) };
        return Err(Error::malformed("header", FileOffset::new(field::UUID_PARENT_MODIFY), problem));
    }
    Ok(parent)
}
