//! The parent of a differencing disk ([MS-VHDX] 2.6.2.6): its names, and the proof that it is the one.

use kiln_disk::{Error, FileOffset, Result};

use super::FORMAT;
use super::image::{Parent, VhdxImage};
use super::open;
use super::problem::VhdxProblem;
use crate::id::{Guid, parse_uuid};
use crate::image::{OpenContext, Tolerance};
use crate::resolver::{ExternalRef, ExternalRole};
use crate::wire::{bytes, le16, le32};

/// B04AEFB7-D19E-4A81-B789-25B8E9445913: the parent is a VHDX.
const VHDX_PARENT: Guid = Guid(*b"\xb7\xef\x4a\xb0\x9e\xd1\x81\x4a\xb7\x89\x25\xb8\xe9\x44\x59\x13");
/// Pairs that are read; Windows writes five.
const MAX_PAIRS: u16 = 64;

/// A parent locator as decoded.
#[derive(Debug, Clone)]
pub(super) struct Locator {
    /// Where it is in the file.
    pub(super) at: u64,
    /// Data write GUIDs that the parent may have ("parent_linkage", "parent_linkage2").
    linkage: Vec<Guid>,
    /// The linkage as written.
    pub(super) linkage_text: String,
    /// Names, the relative one first, and where each is in the file.
    names: Vec<(String, u64)>,
}

/// Decodes a locator that starts at byte `at` of the file.
pub(super) fn read_locator(raw: &[u8], at: u64) -> Result<Locator> {
    let bad = |what| Error::malformed("parent locator", FileOffset::new(at), VhdxProblem::Locator(what));
    let kind = bytes(raw, 0).map(Guid).ok_or_else(|| bad("is cut"))?;
    if kind != VHDX_PARENT {
        return Err(Error::Unsupported {
            code: "vhdx.parent.kind",
            feature: format!("a VHDX parent of kind {kind}"),
            hint: "merge the disk where it was made",
        });
    }
    let count = le16(raw, 18).unwrap_or(0);
    if count > MAX_PAIRS {
        return Err(bad("has more than 64 entries"));
    }
    let text = |offset: u32, len: u16| -> Option<String> {
        let offset = usize::try_from(offset).ok()?;
        let units = raw.get(offset..)?.get(..usize::from(len))?.as_chunks::<2>().0;
        Some(String::from_utf16_lossy(
            &units.iter().map(|unit| u16::from_le_bytes(*unit)).collect::<Vec<_>>(),
        ))
    };
    let mut pairs = Vec::new();
    for entry in raw.get(20..).unwrap_or_default().chunks_exact(12).take(count.into()) {
        let (key_at, value_at) = (le32(entry, 0).unwrap_or(0), le32(entry, 4).unwrap_or(0));
        let (key_len, value_len) = (le16(entry, 8).unwrap_or(0), le16(entry, 10).unwrap_or(0));
        let pair = text(key_at, key_len).zip(text(value_at, value_len));
        let (key, value) = pair.ok_or_else(|| bad("has an entry that leaves it"))?;
        pairs.push((key, value, at.saturating_add(value_at.into())));
    }
    let find = |key: &str| pairs.iter().find(|(name, ..)| name == key);
    let linkage: Vec<Guid> = ["parent_linkage", "parent_linkage2"]
        .into_iter()
        .filter_map(|key| parse_uuid(&find(key)?.1).map(Guid::from_text_order))
        .collect();
    let names = ["relative_path", "volume_path", "absolute_win32_path"]
        .into_iter()
        .filter_map(|key| find(key).filter(|(_, value, _)| !value.is_empty()))
        .map(|(_, value, at)| (value.clone(), *at))
        .collect();
    let linkage_text = find("parent_linkage").map_or_else(String::new, |(_, value, _)| value.clone());
    Ok(Locator { at, linkage, linkage_text, names })
}

/// Every name that the disk has for its parent.
pub(super) fn references(locator: &Locator) -> Vec<ExternalRef> {
    let mut references: Vec<ExternalRef> = Vec::new();
    for (name, at) in &locator.names {
        if references.iter().all(|known| known.name != *name) {
            references.push(ExternalRef {
                role: ExternalRole::Parent,
                name: name.clone(),
                format: Some(FORMAT.id.to_owned()),
                at: FileOffset::new(*at),
            });
        }
    }
    references
}

pub(super) fn open_parent(locator: Option<&Locator>, context: &OpenContext) -> Result<Parent> {
    match attach(locator, context) {
        Ok(parent) => Ok(Parent::Open(Box::new(parent))),
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => Err(error),
        Err(error) if context.tolerance == Tolerance::Strict => Err(error),
        Err(cause) => Ok(Parent::Absent(cause)),
    }
}

/// Opens the parent under the first of its names that the resolver knows. It is the parent when its data write
/// GUID is the linkage: whoever changes a byte of the disk changes that, and no copy does.
fn attach(locator: Option<&Locator>, context: &OpenContext) -> Result<VhdxImage> {
    let unnamed = || {
        let at = locator.map_or(0, |locator| locator.at);
        Error::malformed("parent locator", FileOffset::new(at), VhdxProblem::NoParent)
    };
    let Some(locator) = locator else { return Err(unnamed()) };
    let deeper = context.deeper()?;
    let mut denied = None;
    for reference in references(locator) {
        let resolved = match context.resolver.resolve(&reference) {
            Ok(resolved) => resolved,
            Err(error) if error.code() == "reference.denied" => {
                denied = denied.or(Some(error));
                continue;
            }
            Err(error) => return Err(error),
        };
        if let Some(format) = resolved.format.filter(|format| **format != FORMAT) {
            return Err(Error::Unsupported {
                code: "vhdx.parent.format",
                feature: format!("a {} file as parent of a differencing VHDX", format.id),
                hint: "offer the VHDX that the disk was made on: only a VHDX can prove that it is the parent",
            });
        }
        let parent = open::open(resolved.source, &deeper)?;
        let found = parent.headers.current.data_write_guid;
        if !locator.linkage.contains(&found) {
            let problem =
                VhdxProblem::WrongParent { wanted: locator.linkage_text.clone(), found: found.to_string() };
            return Err(Error::malformed("parent locator", FileOffset::new(locator.at), problem));
        }
        return Ok(parent);
    }
    Err(denied.unwrap_or_else(unnamed))
}
