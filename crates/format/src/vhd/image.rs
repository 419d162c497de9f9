//! The disk that the guest sees.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{
    ByteSource, Disk, Error, Extent, ExtentKind, FileOffset, Findings, GuestOffset, Observer, Result,
    RunKind, check_range,
};

use super::blocks::Blocks;
use super::footer::{EPOCH, Footer, SECTOR};
use super::open::Ends;
use super::problem::VhdProblem;
use super::{FORMAT, check};
use crate::facts::{Detail, Facts};
use crate::id::uuid_text;
use crate::image::{CheckScope, Image};
use crate::resolver::ExternalRef;
use crate::table::Format;

/// An opened VHD.
pub(super) struct VhdImage {
    pub(super) source: Arc<dyn ByteSource>,
    pub(super) ends: Ends,
    pub(super) footer: Footer,
    pub(super) disk_len: u64,
    pub(super) body: Body,
}

/// Where the guest's bytes are.
pub(super) enum Body {
    /// One after the other from the first byte of the file.
    Fixed {
        /// How many of them are there.
        stored: u64,
    },
    /// In blocks.
    Blocks { blocks: Box<Blocks>, parent: Parent },
}

/// What lies under the blocks.
pub(super) enum Parent {
    /// A dynamic disk: zeros.
    Zeros,
    /// A differencing disk with its parent.
    Open { references: Vec<ExternalRef>, image: Box<VhdImage> },
    /// A differencing disk looked at without its parent; only for [`crate::Tolerance::Damaged`].
    Absent { references: Vec<ExternalRef>, cause: Error },
}

impl Parent {
    pub(super) fn references(&self) -> &[ExternalRef] {
        match self {
            Self::Zeros => &[],
            Self::Open { references, .. } | Self::Absent { references, .. } => references,
        }
    }
}

/// Where a run of guest bytes is.
enum Place {
    File(FileOffset),
    Parent,
    Nowhere,
}

impl VhdImage {
    /// Where the bytes from `at` are, and for how many bytes, at most `most`, that holds.
    ///
    /// The bitmap of a dynamic disk says which sectors were ever written, but says nothing new when an allocated
    /// block is taken as data throughout: the other sectors are zeros in the file. QEMU reads them so, and not all
    /// writers keep the bits; the check tells where the two readings differ. In a differencing disk the bit
    /// chooses between this file and the parent.
    fn locate(&self, at: u64, most: u64) -> Result<(Place, u64)> {
        let (blocks, parent) = match &self.body {
            Body::Fixed { stored } => {
                let have = stored.saturating_sub(at).min(most);
                if have == 0 {
                    let problem = VhdProblem::FixedTooShort { disk_len: self.disk_len, stored: *stored };
                    return Err(Error::malformed("fixed disk", FileOffset::new(*stored), problem));
                }
                return Ok((Place::File(FileOffset::new(at)), have));
            }
            Body::Blocks { blocks, parent } => (blocks, parent),
        };
        let below = || if matches!(parent, Parent::Zeros) { Place::Nowhere } else { Place::Parent };
        let size = blocks.block_size();
        let block = at.checked_div(size).unwrap_or(0);
        let within = at & size.saturating_sub(1);
        let in_block = size.saturating_sub(within).min(most);
        let Some(bitmap_at) = blocks.place(block)? else {
            let last = at.saturating_add(most.saturating_sub(1)).checked_div(size).unwrap_or(0);
            let further = blocks.unallocated_run(block.saturating_add(1), last.saturating_sub(block))?;
            let len = further.saturating_mul(size).saturating_add(size.saturating_sub(within)).min(most);
            return Ok((below(), len));
        };
        let data_at = bitmap_at.saturating_add(blocks.header.bitmap_len());
        let here = Place::File(FileOffset::new(data_at.saturating_add(within)));
        if matches!(parent, Parent::Zeros) {
            return Ok((here, in_block));
        }
        let skew = within % SECTOR;
        let sectors = in_block.saturating_add(skew).div_ceil(SECTOR);
        let (own, run) = blocks.bitmap_run(bitmap_at, within / SECTOR, sectors)?;
        let len = run.saturating_mul(SECTOR).saturating_sub(skew).min(in_block);
        Ok((if own { here } else { Place::Parent }, len))
    }

    /// The open parent, and how many of `most` bytes from `at` it has; none: zeros behind its end.
    fn parent_part(&self, at: u64, most: u64) -> Result<Option<(&Self, u64)>> {
        match &self.body {
            Body::Blocks { parent: Parent::Open { image, .. }, .. } => {
                let have = image.disk_len.saturating_sub(at).min(most);
                Ok((have > 0).then_some((image, have)))
            }
            Body::Blocks { parent: Parent::Absent { references, .. }, .. } => Err(Error::Refused {
                code: "vhd.parent.absent",
                what: format!(
                    "guest bytes from {at:#x} are in the parent disk {:?}, which is not open",
                    references.first().map_or("", |reference| reference.name.as_str())
                ),
                asked: 0,
                allowed: 0,
                hint: "say where the parent is: --allow-backing NAME=PATH, with NAME as the image spells it",
            }),
            _ => Ok(None),
        }
    }
}

impl Disk for VhdImage {
    fn disk_len(&self) -> u64 {
        self.disk_len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len)?;
        let mut at = at.get();
        let mut rest = buf;
        while !rest.is_empty() {
            let most = u64::try_from(rest.len()).unwrap_or(u64::MAX);
            let (place, len) = self.locate(at, most)?;
            let (len, parent) = match place {
                Place::Parent => match self.parent_part(at, len)? {
                    Some((parent, have)) => (have, Some(parent)),
                    None => (len, None),
                },
                _ => (len, None),
            };
            let (now, later) = rest.split_at_mut(usize::try_from(len).unwrap_or(usize::MAX).min(rest.len()));
            match (place, parent) {
                (Place::File(file_at), _) => self.source.read_bytes(file_at, now)?,
                (_, Some(parent)) => parent.read_guest(GuestOffset::new(at), now)?,
                (_, None) => now.fill(0),
            }
            rest = later;
            at = at.saturating_add(len);
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len)?;
        let most = limit.get().min(self.disk_len.saturating_sub(at.get()));
        let (place, len) = self.locate(at.get(), most)?;
        let extent =
            |kind, len: u64| Extent { start: at, len: NonZeroU64::new(len).unwrap_or(NonZeroU64::MIN), kind };
        match place {
            Place::Nowhere => Ok(extent(ExtentKind::Hole, len)),
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
            Place::File(file_at) => match self.source.run_at(file_at)? {
                Some(run) if run.kind == RunKind::Hole => {
                    Ok(extent(ExtentKind::Hole, run.len.get().min(len)))
                }
                Some(run) => Ok(extent(ExtentKind::Data { file: 0, at: file_at }, run.len.get().min(len))),
                None => Ok(extent(ExtentKind::Data { file: 0, at: file_at }, len)),
            },
        }
    }
}

impl Image for VhdImage {
    fn format(&self) -> &'static Format {
        &FORMAT
    }

    fn facts(&self) -> Facts {
        let footer = &self.footer;
        let word = |raw: &[u8]| String::from_utf8_lossy(raw).trim_end_matches('\0').to_owned();
        let stamp = |seconds: u32| EPOCH.saturating_add(seconds.into());
        let mut details = vec![
            Detail::text("creator_application", word(&footer.creator_application)),
            Detail::text(
                "creator_version",
                format!("{}.{}", footer.creator_version >> 16, footer.creator_version & 0xffff),
            ),
            Detail::text("creator_host_os", word(&footer.creator_host_os)),
            Detail::number("time_stamp", stamp(footer.time_stamp)),
            Detail::number("original_size", footer.original_size),
            Detail::number("current_size", footer.current_size),
            Detail::text(
                "disk_geometry",
                format!(
                    "{}/{}/{}",
                    footer.geometry.cylinders, footer.geometry.heads, footer.geometry.sectors
                ),
            ),
            Detail::text("size_from", footer.size_rule().word()),
            Detail::text("unique_id", uuid_text(&footer.unique_id)),
            Detail::flag("saved_state", footer.saved_state != 0),
        ];
        let mut unit_bytes = None;
        let mut references = Vec::new();
        if let Body::Blocks { blocks, parent } = &self.body {
            let header = &blocks.header;
            unit_bytes = Some(u64::from(header.block_size));
            references = parent.references().to_vec();
            details.push(Detail::number("max_table_entries", header.max_table_entries.into()));
            details.push(Detail::number("table_offset", header.table_offset));
            if !matches!(parent, Parent::Zeros) {
                let platforms =
                    header.locators.iter().map(|locator| word(&locator.platform_code)).collect::<Vec<_>>();
                details.push(Detail::text("parent_unique_id", uuid_text(&header.parent_unique_id)));
                details.push(Detail::number("parent_time_stamp", stamp(header.parent_time_stamp)));
                details.push(Detail::text("parent_unicode_name", header.parent_unicode_name.clone()));
                details.push(Detail::list("parent_locators", platforms));
                details.push(Detail::flag("parent_open", matches!(parent, Parent::Open { .. })));
            }
        }
        Facts {
            format: FORMAT.id,
            variant: footer.disk_type.word().to_owned(),
            disk_bytes: self.disk_len,
            file_bytes: self.source.byte_len(),
            unit_bytes,
            compression: None,
            references,
            snapshots: Vec::new(),
            details,
        }
    }

    fn check(&self, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
        check::run(self, scope, observer)
    }
}
