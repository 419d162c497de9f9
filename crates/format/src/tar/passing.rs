//! An archive that comes once, with a raw disk in it: Google's `disk.raw` in a `tar.gz`, read as it comes by.
//!
//! Headers and small members are kept ([`crate::wrap::Kept`]), the bytes of the disk are let go. At the end the
//! archive is listed like any other, and must have that one disk.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use kiln_disk::{
    Budget, ByteSource, Disk, Error, Extent, FileOffset, Findings, GuestOffset, Observer, Result,
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
use crate::wrap::{ByteStream, Ending, Kept, Passing};

/// Beyond the disk: other members, and what fills the archive up.
const SLACK: u64 = 1 << 30;
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

    /// The disk in `stream`, which begins with the bytes that the plan was made from.
    ///
    /// # Errors
    /// As [`list`]; [`Error::Refused`] (`stream.kind`) when it begins with something else.
    pub(crate) fn open(
        self,
        stream: Box<dyn ByteStream>,
        label: String,
        dir: PathBuf,
        budget: &Arc<Budget>,
    ) -> Result<PassingTar> {
        let max_len = self.disk_len.saturating_mul(2).saturating_add(SLACK);
        let kept = Arc::new(Kept::start(stream, label, dir, max_len)?);
        let source: Arc<dyn ByteSource> = Arc::<Kept>::clone(&kept);
        let Some((member, Identity::Raw { .. })) = first_disk(&source, budget)? else {
            return Err(other_kind());
        };
        let disk = RawImage::new(member.source());
        Ok(PassingTar { kept, member, disk, budget: Arc::clone(budget), image: OnceLock::new() })
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
    let source = member.source();
    let file_len = source.byte_len();
    let mut len = in_memory(file_len).min(ProbeInput::HEAD_LEN);
    loop {
        let mut head = vec![0; len];
        match source.read_bytes(FileOffset::ZERO, &mut head) {
            Ok(()) => return Ok(judge(&ProbeInput { head: &head, tail: &[], file_len })),
            Err(error) if error.code() == "io.short-read" && len > 4096 => len = len.saturating_sub(4096),
            Err(error) => return Err(error),
        }
    }
}

fn other_kind() -> Error {
    Error::Refused {
        code: "stream.kind",
        what: "the archive is not what its beginning looked like".to_owned(),
        asked: 0,
        allowed: 0,
        hint: "keep the file first, with --spool",
    }
}

/// The first bytes of an archive that is longer.
pub(crate) struct Beginning(Vec<u8>);

impl Beginning {
    /// These bytes, and nothing behind them.
    pub(crate) fn new(head: &[u8]) -> Self {
        Self(head.to_vec())
    }
}

impl ByteSource for Beginning {
    /// More than any file has: members reach behind what is there.
    fn byte_len(&self) -> u64 {
        1 << 62
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> Result<()> {
        let from = in_memory(at.get());
        match self.0.get(from..from.saturating_add(buf.len())) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(Error::Io {
                operation: "read",
                target: self.label().to_owned(),
                at: Some(at),
                source: std::io::ErrorKind::UnexpectedEof.into(),
            }),
        }
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
            return Err(other_kind());
        }
        let image = TarImage::open(source, archive, &context)?;
        if !image.is_raw_at(self.member.header_at) {
            return Err(other_kind());
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
