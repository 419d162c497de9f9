//! The disk that the guest sees.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{
    ByteSource, Disk, Error, Extent, ExtentKind, FileOffset, Findings, GuestOffset, Observer, Result,
    RunKind, check_range,
};

use super::descriptor::Descriptor;
use super::problem::VmdkProblem;
use super::sparse::{Sparse, Stored};
use super::{FORMAT, check, facts};
use crate::encoded::Window;
use crate::facts::Facts;
use crate::image::{CheckScope, Image};
use crate::table::Format;
use crate::wire::{as_bytes, in_memory};

/// An opened VMDK.
pub(super) struct VmdkImage {
    pub(super) source: Arc<dyn ByteSource>,
    /// Absent only in a damaged file that is looked at.
    pub(super) descriptor: Option<Descriptor>,
    /// The extents, one after the other.
    pub(super) parts: Vec<Part>,
    pub(super) disk_len: u64,
    pub(super) parent: Parent,
}

/// One extent on the disk.
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) len: u64,
    /// Number of its file: 0 for the file that was opened.
    pub(super) file: u16,
    pub(super) body: Body,
}

/// Where the bytes of an extent are.
pub(super) enum Body {
    Zeros,
    Flat {
        source: Arc<dyn ByteSource>,
        /// Byte of the file where the extent starts.
        at: u64,
        name: String,
    },
    Sparse(Box<Sparse>),
    /// Its file cannot be used; only for [`crate::Tolerance::Damaged`].
    Absent(Error),
}

/// The disk below.
pub(super) enum Parent {
    None,
    Open(Box<VmdkImage>),
    /// Only for [`crate::Tolerance::Damaged`].
    Absent(Error),
}

/// Where a run of guest bytes is.
enum Place<'a> {
    File(&'a Arc<dyn ByteSource>, u16, u64),
    Compressed {
        sparse: &'a Sparse,
        grain: u64,
        at: u64,
        within: u64,
    },
    Zero,
    /// In the parent, or zeros where there is none.
    Below,
}

/// Table entries that one answer of `extent_at` may cost; where a parent answers too, a short answer of the one must
/// not throw away a long look at the other.
const PATIENCE: u64 = 1 << 20;
const PATIENCE_OVER_PARENT: u64 = 1 << 12;

impl VmdkImage {
    /// Where the bytes from `at` are, and for how many bytes, at most `most`, that holds.
    fn locate(&self, at: u64, most: u64, patience: u64) -> Result<(Place<'_>, u64)> {
        let index = self.parts.partition_point(|part| part.start.saturating_add(part.len) <= at);
        let Some(part) = self.parts.get(index) else { return Ok((Place::Zero, most)) };
        let within = at.saturating_sub(part.start);
        let most = most.min(part.len.saturating_sub(within));
        match &part.body {
            Body::Zeros => Ok((Place::Zero, most)),
            Body::Flat { source, at, name } => {
                let start = at.saturating_add(within);
                let there = source.byte_len().saturating_sub(start).min(most);
                if there == 0 {
                    let wanted = at.saturating_add(part.len);
                    let found = source.byte_len();
                    let problem = VmdkProblem::ExtentShort { name: name.clone(), wanted, found };
                    return Err(Error::malformed("flat extent", FileOffset::new(found), problem));
                }
                Ok((Place::File(source, part.file, start), there))
            }
            Body::Sparse(sparse) => {
                // Where descriptor and header differ, the shorter counts; the check tells.
                if within >= sparse.len() {
                    return Ok((Place::Below, most));
                }
                let most = most.min(sparse.len().saturating_sub(within));
                let (stored, len) = sparse.run_at(within, most, patience)?;
                let place = match stored {
                    Stored::Unallocated => Place::Below,
                    Stored::Zero => Place::Zero,
                    Stored::Plain(at) => Place::File(&sparse.source, part.file, at),
                    Stored::Compressed { grain, at } => {
                        let within = within & sparse.grain_len().saturating_sub(1);
                        Place::Compressed { sparse, grain, at, within }
                    }
                };
                Ok((place, len))
            }
            Body::Absent(cause) => Err(absent(cause, "vmdk.extent.absent", "an extent", at)),
        }
    }

    /// The parent, and how many of `most` bytes from `at` it has; none: zeros behind its end.
    fn parent_part(&self, at: u64, most: u64) -> Result<Option<(&Self, u64)>> {
        match &self.parent {
            Parent::None => Ok(None),
            Parent::Open(parent) => {
                let have = parent.disk_len.saturating_sub(at).min(most);
                Ok((have > 0).then_some((parent, have)))
            }
            Parent::Absent(cause) => Err(absent(cause, "vmdk.parent.absent", "the parent disk", at)),
        }
    }
}

/// The refusal for bytes of a file that is not open. Errors cannot be copied: the cause is named by its code.
fn absent(cause: &Error, code: &'static str, whose: &str, at: u64) -> Error {
    Error::Refused {
        code,
        what: format!("guest bytes from {at:#x} are in {whose} that is not open ({}: {cause})", cause.code()),
        asked: 0,
        allowed: 0,
        hint: "say where it is: --allow-backing NAME=PATH, with NAME as the image spells it",
    }
}

impl Disk for VmdkImage {
    fn disk_len(&self) -> u64 {
        self.disk_len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len)?;
        let mut window = Window::default();
        let mut window_of: *const Sparse = std::ptr::null();
        let (mut at, mut rest) = (at.get(), buf);
        while !rest.is_empty() {
            let wanted = as_bytes(rest.len());
            let (place, len) = self.locate(at, wanted, u64::MAX)?;
            let (len, parent) = match place {
                Place::Below => {
                    self.parent_part(at, len)?.map_or((len, None), |(image, have)| (have, Some(image)))
                }
                _ => (len, None),
            };
            let Some((part, behind)) = rest.split_at_mut_checked(in_memory(len).min(rest.len())) else {
                break;
            };
            match (place, parent) {
                (Place::File(source, _, start), _) => source.read_bytes(FileOffset::new(start), part)?,
                (Place::Compressed { sparse, grain, at, within }, _) => {
                    if !std::ptr::eq(window_of, sparse) {
                        (window, window_of) = (Window::default(), sparse);
                    }
                    sparse.read_compressed(grain, at, within, part, wanted, &mut window)?;
                }
                (_, Some(parent)) => parent.read_guest(GuestOffset::new(at), part)?,
                (Place::Zero | Place::Below, None) => part.fill(0),
            }
            rest = behind;
            at = at.saturating_add(len);
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.disk_len)?;
        let most = limit.get().min(self.disk_len.saturating_sub(at.get()));
        let patience = match self.parent {
            Parent::None => PATIENCE,
            Parent::Open(_) | Parent::Absent(_) => PATIENCE_OVER_PARENT,
        };
        let (place, len) = self.locate(at.get(), most, patience)?;
        let extent =
            |kind, len: u64| Extent { start: at, len: NonZeroU64::new(len).unwrap_or(NonZeroU64::MIN), kind };
        Ok(match place {
            Place::Zero => extent(ExtentKind::Zero, len),
            Place::Compressed { .. } => extent(ExtentKind::Encoded, len),
            Place::File(source, file, start) => {
                let here = FileOffset::new(start);
                match source.run_at(here)? {
                    Some(run) if run.kind == RunKind::Hole => {
                        extent(ExtentKind::Hole, run.len.get().min(len))
                    }
                    Some(run) => extent(ExtentKind::Data { file, at: here }, run.len.get().min(len)),
                    None => extent(ExtentKind::Data { file, at: here }, len),
                }
            }
            Place::Below => match self.parent_part(at.get(), len)? {
                None => extent(ExtentKind::Hole, len),
                Some((parent, have)) => {
                    let below = parent.extent_at(at, NonZeroU64::new(have).unwrap_or(NonZeroU64::MIN))?;
                    let above = self.parts.last().map_or(0, |part| part.file).saturating_add(1);
                    let kind = match below.kind {
                        ExtentKind::Data { file, at } => {
                            ExtentKind::Data { file: file.saturating_add(above), at }
                        }
                        other => other,
                    };
                    Extent { kind, ..below }
                }
            },
        })
    }
}

impl Image for VmdkImage {
    fn format(&self) -> &'static Format {
        &FORMAT
    }

    fn facts(&self) -> Facts {
        facts::of(self)
    }

    fn check(&self, scope: CheckScope, observer: &dyn Observer) -> Result<Findings> {
        check::run(self, scope, observer)
    }
}
