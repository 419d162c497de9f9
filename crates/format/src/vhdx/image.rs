//! The disk that the guest sees.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{
    ByteSource, Disk, Error, Extent, ExtentKind, FileOffset, Findings, GuestOffset, Observer, Result,
    RunKind, check_range,
};

use super::bat::{Bat, Payload};
use super::header::Headers;
use super::log::LogState;
use super::metadata::Metadata;
use super::overlay::Overlay;
use super::region::Tables;
use super::{FORMAT, check, parent};
use crate::facts::{Detail, Facts};
use crate::image::{CheckScope, Image};
use crate::table::Format;

/// An opened VHDX.
pub(super) struct VhdxImage {
    /// The file as it is.
    pub(super) file: Arc<dyn ByteSource>,
    /// What the log makes of it, where there was something in the log.
    pub(super) overlay: Option<Arc<Overlay>>,
    pub(super) headers: Headers,
    pub(super) log: LogState,
    pub(super) tables: Tables,
    pub(super) metadata: Metadata,
    pub(super) bat: Bat,
    pub(super) parent: Parent,
}

/// What lies under the blocks.
pub(super) enum Parent {
    /// Zeros.
    None,
    /// The parent of a differencing disk.
    Open(Box<VhdxImage>),
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

impl VhdxImage {
    /// Where the bytes from `at` are, and for how many bytes, at most `most`, that holds.
    fn locate(&self, at: u64, most: u64) -> Result<(Place, u64)> {
        let bat = &self.bat;
        let size = bat.block_size;
        let block = at.checked_div(size).unwrap_or(0);
        let within = at & size.saturating_sub(1);
        let rest = size.saturating_sub(within);
        let what = bat.payload(block)?;
        let place = match what {
            Payload::Full(start) => {
                let here = FileOffset::new(start.saturating_add(within));
                return Ok((Place::File(here), rest.min(most)));
            }
            Payload::Partial(start) => {
                let (sector, skew) =
                    (within.checked_div(bat.sector_size), within.checked_rem(bat.sector_size));
                let (sector, skew) = (sector.unwrap_or(0), skew.unwrap_or(0));
                let sectors = rest.min(most).saturating_add(skew).div_ceil(bat.sector_size.max(1));
                let (own, run) = bat.bitmap_run(block, sector, sectors)?;
                let len = run.saturating_mul(bat.sector_size).saturating_sub(skew).min(rest).min(most);
                let here = Place::File(FileOffset::new(start.saturating_add(within)));
                return Ok((if own { here } else { Place::Parent }, len));
            }
            Payload::Absent if matches!(self.parent, Parent::None) => Place::Nowhere,
            Payload::Absent => Place::Parent,
            Payload::Zeros | Payload::Unknown(_) => Place::Zeros,
        };
        let last = at.saturating_add(most.saturating_sub(1)).checked_div(size).unwrap_or(0);
        let further = bat.run_of(what, block.saturating_add(1), last.saturating_sub(block))?;
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
                code: "vhdx.parent.absent",
                what: format!("guest bytes from {at:#x} are in the parent disk, which is not open"),
                asked: 0,
                allowed: 0,
                hint: "say where the parent is: --allow-backing NAME=PATH, with NAME as the image spells it",
            }),
        }
    }

    /// How the bytes from `at` of the file are stored, for at most `len` of them.
    fn stored(&self, at: FileOffset, len: u64) -> Result<(ExtentKind, u64)> {
        let mut len = len;
        if let Some(overlay) = &self.overlay {
            // What the log has is not in the file at that place.
            let (changed, run) = overlay.is_changed(at.get());
            len = len.min(run);
            if changed {
                return Ok((ExtentKind::Encoded, len));
            }
        }
        let data = ExtentKind::Data { file: 0, at };
        Ok(match self.bat.source.run_at(at)? {
            Some(run) if run.kind == RunKind::Hole => (ExtentKind::Hole, run.len.get().min(len)),
            Some(run) => (data, run.len.get().min(len)),
            None => (data, len),
        })
    }
}

impl Disk for VhdxImage {
    fn disk_len(&self) -> u64 {
        self.bat.disk_len
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
                (Place::File(file_at), _) => self.bat.source.read_bytes(file_at, now)?,
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
        let (kind, len) = match place {
            Place::Nowhere => (ExtentKind::Hole, len),
            Place::Zeros => (ExtentKind::Zero, len),
            Place::File(file_at) => self.stored(file_at, len)?,
            Place::Parent => match self.parent_part(at.get(), len)? {
                None => (ExtentKind::Hole, len),
                Some((parent, have)) => {
                    let below = parent.extent_at(at, NonZeroU64::new(have).unwrap_or(NonZeroU64::MIN))?;
                    let kind = match below.kind {
                        ExtentKind::Data { file, at } => {
                            ExtentKind::Data { file: file.saturating_add(1), at }
                        }
                        other => other,
                    };
                    return Ok(Extent { kind, ..below });
                }
            },
        };
        Ok(Extent { start: at, len: NonZeroU64::new(len).unwrap_or(NonZeroU64::MIN), kind })
    }
}

impl Image for VhdxImage {
    fn format(&self) -> &'static Format {
        &FORMAT
    }

    fn facts(&self) -> Facts {
        let (header, metadata) = (&self.headers.current, &self.metadata);
        let mut details = vec![
            Detail::number("sequence_number", header.sequence_number),
            Detail::text("file_write_guid", header.file_write_guid.to_string()),
            Detail::text("data_write_guid", header.data_write_guid.to_string()),
            Detail::flag("log_empty", header.log_guid.is_nil()),
            Detail::number("log_length", header.log_length.into()),
            Detail::text("virtual_disk_id", metadata.virtual_disk_id.to_string()),
            Detail::number("logical_sector_size", metadata.logical_sector_size.into()),
        ];
        if let LogState::Replayed { entries, changes } = self.log {
            details.push(Detail::number("log_entries_replayed", entries));
            details.push(Detail::number("log_changes_replayed", changes));
        }
        details.extend(
            metadata.physical_sector_size.map(|size| Detail::number("physical_sector_size", size.into())),
        );
        let mut references = Vec::new();
        if let Some(locator) = &metadata.locator {
            references = parent::references(locator);
            details.push(Detail::text("parent_linkage", locator.linkage_text.clone()));
        }
        if metadata.has_parent {
            details.push(Detail::flag("parent_open", matches!(self.parent, Parent::Open(_))));
        }
        let variant = match (metadata.has_parent, metadata.fixed) {
            (true, _) => "differencing",
            (false, true) => "fixed",
            (false, false) => "dynamic",
        };
        Facts {
            format: FORMAT.id,
            variant: variant.to_owned(),
            disk_bytes: self.bat.disk_len,
            file_bytes: self.file.byte_len(),
            unit_bytes: Some(self.bat.block_size),
            compression: None,
            references,
            snapshots: Vec::new(),
            details,
        }
    }

    fn check(&self, _scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
        check::run(self, observer)
    }
}
