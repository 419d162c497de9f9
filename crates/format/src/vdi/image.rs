//! The disk that the guest sees.

use std::num::NonZeroU64;

use kiln_disk::{
    Disk, Error, Extent, ExtentKind, FileOffset, Findings, GuestOffset, Observer, Result, RunKind,
    check_range,
};

use super::map::{Entry, FREE, Map, ZERO};
use super::{FORMAT, check, open};
use crate::facts::{Detail, Facts};
use crate::image::{CheckScope, Image};
use crate::table::Format;

/// An opened VDI.
pub(super) struct VdiImage {
    pub(super) map: Map,
    pub(super) parent: Parent,
}

/// What lies under the blocks.
pub(super) enum Parent {
    /// Zeros.
    None,
    /// The parent of a differencing disk.
    Open(Box<VdiImage>),
    /// A differencing disk looked at without its parent; only for [`crate::Tolerance::Damaged`].
    Absent(Error),
}

/// Where a run of guest bytes is.
#[derive(Clone, Copy)]
enum Place {
    File(FileOffset),
    Parent,
    Zeros,
    Nowhere,
}

impl VdiImage {
    /// Where the bytes from `at` are, and for how many bytes, at most `most`, that holds.
    fn locate(&self, at: u64, most: u64) -> Result<(Place, u64)> {
        let size = self.map.block_size();
        let block = at.checked_div(size).unwrap_or(0);
        let within = at & size.saturating_sub(1);
        let rest = size.saturating_sub(within);
        let (place, value) = match self.map.entry(block)? {
            Entry::Block(number) => {
                let skip = u64::from(self.map.header.block_extra).saturating_add(within);
                let at = self.map.unit_at(number.into()).saturating_add(skip);
                return Ok((Place::File(FileOffset::new(at)), rest.min(most)));
            }
            Entry::Free if matches!(self.parent, Parent::None) => (Place::Nowhere, FREE),
            Entry::Free => (Place::Parent, FREE),
            Entry::Zero => (Place::Zeros, ZERO),
        };
        let last = at.saturating_add(most.saturating_sub(1)).checked_div(size).unwrap_or(0);
        let further = self.map.run_of(value, block.saturating_add(1), last.saturating_sub(block))?;
        Ok((place, further.saturating_mul(size).saturating_add(rest).min(most)))
    }

    /// The open parent, and how many of `most` bytes from `at` it has; none: zeros behind its end.
    fn parent_part(&self, at: u64, most: u64) -> Result<Option<(&Self, u64)>> {
        match &self.parent {
            Parent::None => Ok(None),
            Parent::Open(image) => {
                let have = image.disk_len().saturating_sub(at).min(most);
                Ok((have > 0).then_some((image, have)))
            }
            Parent::Absent(_) => Err(Error::Refused {
                code: "vdi.parent.absent",
                what: format!(
                    "guest bytes from {at:#x} are in the parent disk {}, which is not open",
                    self.map.header.uuid_linkage
                ),
                asked: 0,
                allowed: 0,
                hint: "say where the parent is: --allow-backing NAME=PATH, with its unique id as NAME",
            }),
        }
    }
}

impl Disk for VdiImage {
    fn disk_len(&self) -> u64 {
        self.map.header.disk_size
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        let mut at = at.get();
        let mut rest = buf;
        while !rest.is_empty() {
            let most = u64::try_from(rest.len()).unwrap_or(u64::MAX);
            let (place, len) = self.locate(at, most)?;
            let part = match place {
                Place::Parent => self.parent_part(at, len)?,
                _ => None,
            };
            let len = part.map_or(len, |(_, have)| have);
            let (now, later) = rest.split_at_mut(usize::try_from(len).unwrap_or(usize::MAX).min(rest.len()));
            match (place, part) {
                (Place::File(file_at), _) => self.map.source.read_bytes(file_at, now)?,
                (_, Some((parent, _))) => parent.read_guest(GuestOffset::new(at), now)?,
                (_, None) => now.fill(0),
            }
            rest = later;
            at = at.saturating_add(len);
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len())?;
        let most = limit.get().min(self.disk_len().saturating_sub(at.get()));
        let (place, len) = self.locate(at.get(), most)?;
        let extent =
            |kind, len: u64| Extent { start: at, len: NonZeroU64::new(len).unwrap_or(NonZeroU64::MIN), kind };
        match place {
            Place::Nowhere => Ok(extent(ExtentKind::Hole, len)),
            Place::Zeros => Ok(extent(ExtentKind::Zero, len)),
            Place::Parent => {
                let Some((parent, have)) = self.parent_part(at.get(), len)? else {
                    return Ok(extent(ExtentKind::Hole, len));
                };
                let below = parent.extent_at(at, NonZeroU64::new(have).unwrap_or(NonZeroU64::MIN))?;
                let kind = match below.kind {
                    ExtentKind::Data { file, at } => ExtentKind::Data { file: file.saturating_add(1), at },
                    other => other,
                };
                Ok(Extent { kind, ..below })
            }
            Place::File(file_at) => {
                let data = ExtentKind::Data { file: 0, at: file_at };
                Ok(match self.map.source.run_at(file_at)? {
                    Some(run) if run.kind == RunKind::Hole => {
                        extent(ExtentKind::Hole, run.len.get().min(len))
                    }
                    Some(run) => extent(data, run.len.get().min(len)),
                    None => extent(data, len),
                })
            }
        }
    }
}

impl Image for VdiImage {
    fn format(&self) -> &'static Format {
        &FORMAT
    }

    fn facts(&self) -> Facts {
        let header = &self.map.header;
        let mut details = vec![
            Detail::text("file_info", header.file_info.clone()),
            Detail::number("header_size", header.header_size.into()),
            Detail::number("flags", header.flags.into()),
            Detail::text("comment", header.comment.clone()),
            Detail::number("blocks_offset", header.blocks_offset.into()),
            Detail::number("data_offset", header.data_offset.into()),
            Detail::number("block_extra", header.block_extra.into()),
            Detail::number("blocks", header.blocks.into()),
            Detail::number("blocks_allocated", header.blocks_allocated.into()),
            Detail::text("uuid_create", header.uuid_create.to_string()),
            Detail::text("uuid_modify", header.uuid_modify.to_string()),
        ];
        if header.image_type.has_parent() {
            details.push(Detail::text("uuid_linkage", header.uuid_linkage.to_string()));
            details.push(Detail::text("uuid_parent_modify", header.uuid_parent_modify.to_string()));
            details.push(Detail::flag("parent_open", matches!(self.parent, Parent::Open(_))));
        }
        Facts {
            format: FORMAT.id,
            variant: header.image_type.word().to_owned(),
            disk_bytes: header.disk_size,
            file_bytes: self.map.source.byte_len(),
            unit_bytes: Some(self.map.block_size()),
            compression: None,
            references: open::reference(header).into_iter().collect(),
            snapshots: Vec::new(),
            details,
        }
    }

    fn check(&self, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
        check::run(self, scope, observer)
    }
}
