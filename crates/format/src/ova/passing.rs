//! An appliance that comes once, with one streamOptimized disk in it: decoded grain by grain as it comes by.
//!
//! Descriptor, manifest and the disk's tables are kept ([`crate::wrap::Kept`]), its grains are let go; the file of
//! the disk is hashed on its way for the manifest. At the end the appliance is opened and checked like any other.

use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kiln_disk::digest::{Algorithm, Digest, Hasher};
use kiln_disk::{Budget, ByteSource, Disk, Extent, FileOffset, Findings, GuestOffset, Observer, Result};

use super::appliance::Appliance;
use super::descriptor::Descriptor;
use super::image::ApplianceImage;
use super::manifest::Manifest;
use super::{FORMAT, appliance, is_descriptor, xml};
use crate::facts::Facts;
use crate::image::{CheckScope, Image, OpenContext};
use crate::tar::{Beginning, Member, Walk, head_of};
use crate::vmdk;
use crate::wire::in_memory;
use crate::wrap::{ByteStream, Coming, Ending, Kept, Passing, StreamDisk, WATCHED_HEAD, other_kind};

/// What the beginning of an appliance says of the disk that comes.
pub(crate) struct Plan {
    disk: vmdk::streamed::Plan,
}

/// The disk of an appliance, met on the way.
struct Met {
    member: Member,
    disk: vmdk::streamed::Plan,
    /// What its manifest asks for, when that came before it.
    algorithms: Option<Vec<Algorithm>>,
}

impl Plan {
    /// Looks for a descriptor with one disk, and for that disk behind it. `None`, or why not, when the appliance is
    /// better kept first.
    pub(crate) fn read(head: &[u8]) -> Result<Self, Option<&'static str>> {
        let beginning: Arc<dyn ByteSource> = Arc::new(Beginning::new(head));
        match meet(&beginning, &Budget::default()) {
            Ok(Some(met)) => Ok(Self { disk: met.disk }),
            Ok(None) => {
                Err(Some("this appliance is not a descriptor with one streamOptimized disk behind it"))
            }
            Err(_) => Err(None),
        }
    }

    /// What it says.
    pub(crate) fn facts(&self) -> Facts {
        Facts { format: FORMAT.id, ..self.disk.facts().clone() }
    }

    /// The disk in a file that begins with the bytes that the plan was made from.
    ///
    /// # Errors
    /// As [`Appliance::open_archive`]; [`Error::Refused`] (`stream.kind`) when it begins with something else.
    pub(crate) fn open(self, coming: Coming) -> Result<PassingAppliance> {
        let budget = Arc::clone(&coming.budget);
        let (kept, source) = coming.keep(self.disk.facts().disk_bytes)?;
        let Some(Met { member, disk, algorithms }) = meet(&source, &budget)? else {
            return Err(other_kind("the appliance"));
        };
        let digests = Arc::new(Mutex::new(Vec::new()));
        let all = || vec![Algorithm::Sha256, Algorithm::Sha1, Algorithm::Sha512];
        let algorithms = algorithms.unwrap_or_else(all);
        let hashing = Hashing {
            source: member.source(),
            at: 0,
            hashers: algorithms.into_iter().map(Hasher::new).collect(),
            digests: Arc::clone(&digests),
        };
        let (base, theirs) = (member.data_at.get(), Arc::clone(&kept));
        let passed = move |from: u64, to: u64| {
            theirs.let_go(base.saturating_add(from.max(WATCHED_HEAD)), base.saturating_add(to));
        };
        let disk_len = disk.facts().disk_bytes;
        let disk = StreamDisk::new(disk.open_watched(Box::new(hashing), Some(Box::new(passed))), disk_len)?;
        Ok(PassingAppliance { kept, disk, data_at: member.data_at, digests, budget, image: OnceLock::new() })
    }
}

/// Walks to the disk: a descriptor of one disk first, then perhaps its manifest, then the file that it names.
fn meet(source: &Arc<dyn ByteSource>, budget: &Budget) -> Result<Option<Met>> {
    let mut walk = Walk::new(source, budget);
    let mut wanted = None;
    let mut algorithms = None;
    while walk.step()?.is_none() {
        let Some(member) = walk.members.last().filter(|member| member.is_file()) else { continue };
        let Some(name) = member.plain_name() else { return Ok(None) };
        match &wanted {
            None if is_descriptor(member) => match only_disk(member, name)? {
                Some(disk) => wanted = Some(disk),
                None => return Ok(None),
            },
            Some(_) if appliance::ends_with(name, ".mf") => {
                let bytes = all_of(member, super::manifest::MAX_LEN)?;
                algorithms = bytes.map(|bytes| Manifest::parse(&bytes).algorithms());
            }
            Some(_) if appliance::ends_with(name, ".cert") => {}
            Some(wanted) if wanted == name && !member.is_sparse() => {
                let disk = vmdk::streamed::Plan::read(&head_of(member, in_memory(WATCHED_HEAD / 2))?);
                return Ok(disk.map(|disk| Met { member: member.clone(), disk, algorithms }));
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// The name in the archive of the only disk's file, when there is one and it is stored as it is.
fn only_disk(member: &Member, name: &str) -> Result<Option<String>> {
    let Some(text) = all_of(member, xml::MAX_LEN)? else { return Ok(None) };
    let descriptor = Descriptor::parse(&text, member.data_at)?;
    let mut files = descriptor.disks.iter().filter_map(|disk| disk.file.as_deref());
    let (Some(id), None) = (files.next(), files.next()) else { return Ok(None) };
    let Some(file) = descriptor.files.iter().find(|file| file.id == id) else { return Ok(None) };
    let is_plain = file.compression.is_none() && file.chunk_bytes.is_none_or(|chunk| chunk == 0);
    let folder = name.rfind('/').and_then(|slash| name.get(..=slash)).unwrap_or_default();
    Ok(is_plain.then(|| format!("{folder}{}", file.href)))
}

/// All bytes of a small member.
fn all_of(member: &Member, limit: u64) -> Result<Option<Vec<u8>>> {
    if member.byte_len() > limit {
        return Ok(None);
    }
    let mut bytes = vec![0; in_memory(member.byte_len())];
    member.source().read_bytes(FileOffset::ZERO, &mut bytes)?;
    Ok(Some(bytes))
}

/// The disk's file, hashed on its way.
struct Hashing {
    source: Arc<dyn ByteSource>,
    at: u64,
    hashers: Vec<Hasher>,
    /// Filled at the end.
    digests: Arc<Mutex<Vec<Digest>>>,
}

impl ByteStream for Hashing {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let left = in_memory(self.source.byte_len().saturating_sub(self.at));
        let part = buf.get_mut(..left.min(buf.len())).unwrap_or_default();
        if part.is_empty() {
            let finished = std::mem::take(&mut self.hashers).into_iter().filter_map(Hasher::finish);
            self.digests.lock().unwrap_or_else(PoisonError::into_inner).extend(finished);
            return Ok(0);
        }
        self.source.read_bytes(FileOffset::new(self.at), part)?;
        for hasher in &mut self.hashers {
            hasher.update(part);
        }
        self.at = self.at.saturating_add(crate::wire::as_bytes(part.len()));
        Ok(part.len())
    }
}

/// An appliance on its way.
pub(crate) struct PassingAppliance {
    kept: Arc<Kept>,
    disk: StreamDisk,
    data_at: FileOffset,
    digests: Arc<Mutex<Vec<Digest>>>,
    budget: Arc<Budget>,
    /// The appliance, once all of it is known.
    image: OnceLock<Box<dyn Image>>,
}

impl Disk for PassingAppliance {
    fn disk_len(&self) -> u64 {
        self.disk.disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        self.disk.read_guest(at, buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        self.disk.extent_at(at, limit)
    }
}

impl Passing for PassingAppliance {
    fn finish(&self, observer: &dyn Observer) -> Result<(Ending, Findings)> {
        self.disk.finish()?;
        let ending = self.kept.finish()?;
        let source: Arc<dyn ByteSource> = Arc::<Kept>::clone(&self.kept);
        let context = OpenContext { budget: Arc::clone(&self.budget), ..OpenContext::new() };
        let mut appliance = Appliance::open_archive(&source, &context)?;
        appliance.hashed =
            Some((self.data_at, self.digests.lock().unwrap_or_else(PoisonError::into_inner).clone()));
        let image = ApplianceImage::open(&FORMAT, source, appliance, &context)?;
        if image.disk_len() != self.disk.disk_len() {
            return Err(other_kind("the appliance"));
        }
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
