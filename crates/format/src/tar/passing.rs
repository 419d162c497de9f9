//! An archive that comes once, with a raw disk in it: Google's `disk.raw` in a `tar.gz`, read as it comes by.
//!
//! Headers and small members are kept ([`crate::wrap::Kept`]), the bytes of the disk are let go. At the end the
//! archive is listed like any other, and must have that one disk.

use std::num::NonZeroU64;
use std::sync::{Arc, OnceLock};

use kiln_disk::{
    Budget, ByteSource, Disk, Extent, FileOffset, Findings, GuestOffset, MemorySource, Observer, Result,
};

use super::image::{TarImage, looks_like_disk};
use super::walk::Walk;
use super::{FORMAT, Member, list};
use crate::facts::{Detail, Facts};
use crate::identify::{Identity, judge};
use crate::image::{CheckScope, Image, OpenContext};
use crate::ova;
use crate::raw::{self, RawImage};
use crate::sectors::in_whole_sectors;
use crate::table::ProbeInput;
use crate::wire::{as_bytes, in_memory};
use crate::wrap::{Coming, Ending, Kept, Passing, other_kind};

/// Bytes at both ends of the disk that stay, for the look at the end.
const EDGE: u64 = 128 << 10;

/// What the beginning of an archive says of the disk that comes.
pub(crate) struct Plan {
    disk_len: u64,
    name: String,
}

impl Plan {
    /// Looks for a raw disk in the first members. `None`, or why not, when the archive is better kept first.
    pub(crate) fn read(head: &[u8]) -> Result<Self, Option<&'static str>> {
        let beginning: Arc<dyn ByteSource> = Arc::new(Beginning::new(head));
        let member = first_disk(&beginning, &Budget::default()).map_err(|_| None)?;
        let named_raw = |member: &Member| {
            let name = member.name().to_ascii_lowercase();
            name.rsplit_once('.').is_some_and(|(_, ending)| raw::FORMAT.extensions.contains(&ending))
        };
        match member {
            Some((member, Identity::Raw { .. })) if named_raw(&member) => {
                Ok(Self { disk_len: member.byte_len(), name: member.name() })
            }
            Some(_) => Err(Some("the disk in this archive is read by its tables, at any place")),
            None => Err(Some("no raw disk is at the beginning of this archive")),
        }
    }

    /// What it says.
    pub(crate) fn facts(&self) -> Facts {
        let details = vec![Detail::text("member", self.name.as_str())];
        Facts { format: FORMAT.id, variant: "with raw".to_owned(), details, ..Facts::raw(self.disk_len) }
    }

    /// The disk in a file that begins with the bytes that the plan was made from.
    ///
    /// # Errors
    /// As [`list`]; [`Error::Refused`] (`stream.kind`) when it begins with something else.
    pub(crate) fn open(self, coming: Coming) -> Result<PassingTar> {
        let budget = Arc::clone(&coming.budget);
        let (kept, source) = coming.keep(self.disk_len)?;
        let Some((member, Identity::Raw { .. })) = first_disk(&source, &budget)? else {
            return Err(other_kind("the archive"));
        };
        let disk = RawImage::new(member.source());
        Ok(PassingTar { kept, member, disk, budget, image: OnceLock::new() })
    }
}

/// The first member that is a disk as far as its beginning tells, and what it looks like.
fn first_disk(source: &Arc<dyn ByteSource>, budget: &Budget) -> Result<Option<(Member, Identity)>> {
    let mut walk = Walk::new(source, budget);
    while walk.step()?.is_none() {
        let Some(member) = walk.members.last().filter(|member| member.is_file()) else { continue };
        if ova::is_descriptor(member) {
            return Ok(None);
        }
        let identity = identity_of(member)?;
        if looks_like_disk(member, &identity) {
            return Ok(Some((member.clone(), identity)));
        }
    }
    Ok(None)
}

/// What a member is as far as its beginning tells, or what of that is there.
fn identity_of(member: &Member) -> Result<Identity> {
    let file_len = member.source().byte_len();
    let head = head_of(member, ProbeInput::HEAD_LEN)?;
    Ok(judge(&ProbeInput { head: &head, tail: &[], file_len }))
}

/// The first bytes of a member, at most `most`. In the [`Beginning`] of an archive there may be less of them.
pub(crate) fn head_of(member: &Member, most: usize) -> Result<Vec<u8>> {
    /// How much less is tried for at a time.
    const STEP: usize = 4096;
    let source = member.source();
    let mut head = vec![0; in_memory(source.byte_len()).min(most)];
    while let Err(error) = source.read_bytes(FileOffset::ZERO, &mut head) {
        if error.code() != "io.short-read" || head.len() <= STEP {
            return Err(error);
        }
        head.truncate(head.len().saturating_sub(STEP));
    }
    Ok(head)
}

/// The first bytes of an archive that is longer.
pub(crate) struct Beginning(MemorySource);

impl Beginning {
    /// These bytes, and nothing behind them.
    pub(crate) fn new(head: &[u8]) -> Self {
        Self(MemorySource::new(head.to_vec()))
    }
}

impl ByteSource for Beginning {
    /// More than any file has: members reach behind what is there.
    fn byte_len(&self) -> u64 {
        1 << 62
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        self.0.read_bytes(at, buf)
    }

    fn label(&self) -> &str {
        "the beginning of an archive"
    }
}

/// A raw disk in an archive on its way, for [`crate::transfer`]: each byte of it is read once, in order.
pub(crate) struct PassingTar {
    kept: Arc<Kept>,
    member: Member,
    disk: RawImage,
    budget: Arc<Budget>,
    /// The archive, once all of it is known.
    image: OnceLock<Box<dyn Image>>,
}

impl Disk for PassingTar {
    fn disk_len(&self) -> u64 {
        self.disk.disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_guest(at, buf)?;
        let start = at.get().max(EDGE);
        let end = at.get().saturating_add(as_bytes(buf.len()));
        let end = end.min(self.disk_len().saturating_sub(EDGE));
        self.member.each_stored(start, end, |from, to| self.kept.let_go(from, to));
        Ok(())
    }

    /// A hole of a sparse member is a hole of the disk.
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        self.disk.extent_at(at, limit)
    }
}

impl Passing for PassingTar {
    /// Opens the archive, now that all of it is known, like one that can be read at any place: it must have this
    /// disk and no other.
    fn finish(&self, observer: &dyn Observer) -> Result<(Ending, Findings)> {
        let ending = self.kept.finish()?;
        let source: Arc<dyn ByteSource> = Arc::<Kept>::clone(&self.kept);
        let context = OpenContext { budget: Arc::clone(&self.budget), ..OpenContext::new() };
        let archive = list(&source, &self.budget)?;
        if archive.members.iter().any(ova::is_descriptor) {
            return Err(other_kind("the archive"));
        }
        let image = TarImage::open(source, archive, &context)?;
        if !image.is_raw_at(self.member.header_at) {
            return Err(other_kind("the archive"));
        }
        let image = in_whole_sectors(Box::new(image));
        let findings = image.check(CheckScope::Metadata, observer)?;
        self.image.get_or_init(|| image);
        Ok((ending, findings))
    }

    fn image(&self) -> Option<&dyn Image> {
        self.image.get().map(Box::as_ref)
    }

    fn spilled_bytes(&self) -> u64 {
        self.kept.spilled_bytes()
    }
}
