//! A qcow2 file that comes once: read by its tables as they come by.
//!
//! qemu-img puts the L1 table in front and each L2 table in front of the data that it leads to, in the order of the
//! disk, so that nearly nothing has to be kept. In any other order the parts that come too early are kept, in a file
//! when they are many ([`crate::wrap::Kept`]). Nothing is believed before its table says so, and at the end the
//! whole structure is checked like that of any file.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::{Disk, Extent, Findings, GuestOffset, Observer, Result, check_range};

use super::geometry::{as_bytes, in_memory};
use super::header::{Header, autoclear, incompatible};
use super::map::Stored;
use super::{FORMAT, Qcow2Image};
use crate::facts::Facts;
use crate::image::{CheckScope, Image, OpenContext};
use crate::sectors::padding;
use crate::wrap::{Coming, Ending, Kept, Passing};

/// The L1 table ends at most this far into the file: everything before it is kept.
const MAX_L1_END: u64 = 16 << 20;

/// What the beginning of a file says of the disk that comes.
pub(crate) struct Plan {
    header: Header,
    compression: &'static str,
}

impl Plan {
    /// Reads the header. `None`, or why not, when the file is better kept first, or is wrong in a way that a reader
    /// with all of the file will name.
    pub(crate) fn read(head: &[u8]) -> Result<Self, Option<&'static str>> {
        let header = Header::decode(head, u64::MAX).map_err(|_| None)?;
        let compression = header.compression().map_err(|_| None)?.name();
        let plain = header.confirm_plain().is_ok()
            && header.incompatible & !(incompatible::COMPRESSION | incompatible::EXTENDED_L2) == 0
            && header.backing_file_offset == 0;
        if !plain {
            return Err(None);
        }
        if header.nb_snapshots != 0 || header.autoclear & autoclear::BITMAPS != 0 {
            return Err(Some("this qcow2 has snapshots or bitmaps, whose lists come at its end"));
        }
        let l1_end = header.l1_table_offset.saturating_add(u64::from(header.l1_size).saturating_mul(8));
        if l1_end > MAX_L1_END {
            return Err(Some("the first table of this qcow2 comes behind its data"));
        }
        Ok(Self { header, compression })
    }

    /// What it says.
    pub(crate) fn facts(&self) -> Facts {
        Facts {
            format: FORMAT.id,
            variant: format!("v{}", self.header.version),
            unit_bytes: Some(self.header.geometry.cluster_len()),
            compression: Some(self.compression),
            ..Facts::raw(self.header.size)
        }
    }

    /// The disk in a file that begins with the bytes that the plan was made from.
    ///
    /// # Errors
    /// As [`Qcow2Image::open`].
    pub(crate) fn open(self, coming: Coming) -> Result<PassingImage> {
        let context = OpenContext { budget: Arc::clone(&coming.budget), ..OpenContext::new() };
        let (kept, source) = coming.keep(self.header.size)?;
        let image = match Qcow2Image::open(Arc::clone(&source), &context) {
            // That it is cut is only known when its end has come by.
            Err(error) if error.code() == "io.short-read" && kept.has_ended() => {
                Qcow2Image::open(source, &context)
            }
            opened => opened,
        };
        Ok(PassingImage { image: image?, kept, begun: Mutex::default() })
    }
}

/// An image on its way.
pub(crate) struct PassingImage {
    image: Qcow2Image,
    kept: Arc<Kept>,
    /// Compressed clusters that were read in part, by their place on the disk: how much.
    begun: Mutex<HashMap<u64, u64>>,
}

impl PassingImage {
    /// Reads a part of one cluster, and lets go of what it came from.
    fn read_part(&self, at: u64, part: &mut [u8]) -> Result<()> {
        let start = GuestOffset::new(at);
        if let Err(error) = self.image.read_guest(start, part) {
            // Behind its end a file is only known to be cut when the end has come by.
            return if self.kept.has_ended() { self.image.read_guest(start, part) } else { Err(error) };
        }
        let (mut here, end) = (at, at.saturating_add(as_bytes(part.len())));
        while here < end {
            let run = self.image.map.run_at(here, end.saturating_sub(here), u64::MAX)?;
            match run.stored {
                Stored::Plain(host) => self.kept.let_go(host, host.saturating_add(run.len)),
                Stored::Compressed { cluster, data } if self.is_complete(cluster, run.len) => {
                    self.kept.let_go(data.at, data.at.saturating_add(data.len));
                }
                _ => {}
            }
            here = here.saturating_add(run.len.max(1));
        }
        Ok(())
    }

    /// Whether all of a compressed cluster has been read, now that `len` bytes more of it are.
    fn is_complete(&self, cluster: u64, len: u64) -> bool {
        let whole = self.image.disk_len.saturating_sub(cluster).min(self.image.header.geometry.cluster_len());
        if len >= whole {
            return true;
        }
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let so_far = begun.entry(cluster).or_default();
        *so_far = so_far.saturating_add(len);
        let complete = *so_far >= whole;
        if complete {
            begun.remove(&cluster);
        }
        complete
    }
}

impl Disk for PassingImage {
    fn disk_len(&self) -> u64 {
        self.image.disk_len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.image.disk_len)?;
        let geometry = self.image.header.geometry;
        let (mut here, mut rest) = (at.get(), buf);
        while !rest.is_empty() {
            // One cluster at a time: a longer read would look ahead, at bytes that have been let go.
            let left = geometry.cluster_len().saturating_sub(geometry.in_cluster(here));
            let step = in_memory(left).min(rest.len());
            let (part, behind) = rest.split_at_mut_checked(step).unwrap_or_default();
            self.read_part(here, part)?;
            here = here.saturating_add(as_bytes(step));
            rest = behind;
        }
        Ok(())
    }

    /// Never looks further than one L2 table: the next one may be far.
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        let span = self.image.header.geometry.l2_span().max(1);
        let left = span.saturating_sub(at.get().checked_rem(span).unwrap_or(0));
        self.image.extent_at(at, NonZeroU64::new(left).map_or(limit, |left| left.min(limit)))
    }
}

impl Passing for PassingImage {
    fn finish(&self, observer: &dyn Observer) -> Result<(Ending, Findings)> {
        let ending = self.kept.finish()?;
        let mut findings = self.image.check(CheckScope::Metadata, observer)?;
        if let Some(finding) = padding(self.image.disk_len, None) {
            findings.push(finding);
        }
        Ok((ending, findings))
    }

    fn image(&self) -> Option<&dyn Image> {
        Some(&self.image)
    }

    fn spilled_bytes(&self) -> u64 {
        self.kept.spilled_bytes()
    }
}
