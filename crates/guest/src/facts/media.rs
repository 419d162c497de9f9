//! What a medium is: an installer, a live system, a seed for cloud-init. What is read here is for people; no rule takes
//! it for a system that is installed.

mod images;
mod signs;

use std::sync::Arc;

use kiln_disk::interned::Word;
use kiln_disk::wire::le32;
use kiln_disk::{Disk, GuestOffset, Result};
use serde::{Deserialize, Serialize};

pub use self::images::{Release, SystemImage};
pub use self::signs::Sign;
use super::root::told;
use crate::fs::FsError;
use crate::fs::iso::Iso;
use crate::fs::iso::volume::{BootImage, boot_images};
use crate::fs::squashfs::Squashfs;
use crate::tree::Tree;
use crate::volume::{Content, Layout, Place};

/// First byte of the volume descriptors (ECMA-119, 6.2.1).
const DESCRIPTORS: u64 = 32 << 10;

/// What a medium is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediumKind {
    /// It installs a system.
    Installer,
    /// A system runs from it.
    Live,
    /// It configures a machine that starts from another disk.
    Data,
    /// Nothing on it tells.
    Unknown,
}

impl MediumKind {
    /// In words, with an article.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Installer => "an installer",
            Self::Live => "a live system",
            Self::Data => "data for a machine",
            Self::Unknown => "an installer or a live system",
        }
    }
}

/// Everything known about a medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Medium {
    /// "iso9660" or "squashfs".
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub format: Word,
    /// Where its names come from ("Rock Ridge", "Joliet", "ISO 9660"), or how it is packed.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub variant: Word,
    /// What it is for.
    pub kind: MediumKind,
    /// What it calls itself: "Debian GNU/Linux 12.5.0".
    pub name: Option<String>,
    /// The descriptor of its volume, of an ISO 9660.
    pub volume: Option<IsoVolume>,
    /// Its boot catalogue.
    pub boot: Vec<BootImage>,
    /// Files that say what it is.
    pub signs: Vec<Sign>,
    /// Systems in files of it.
    pub images: Vec<SystemImage>,
    /// What could not be read, in words.
    pub problems: Vec<String>,
}

/// What a volume says of itself (ECMA-119, 8.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IsoVolume {
    /// Volume identifier.
    pub label: String,
    /// Volume set identifier.
    pub volume_set: String,
    /// System identifier.
    pub system: String,
    /// Publisher identifier.
    pub publisher: String,
    /// Data preparer identifier.
    pub preparer: String,
    /// Application identifier.
    pub application: String,
    /// When it was made, as `2024-02-10T11:27:00+01:00`.
    pub created: Option<String>,
    /// When it was changed.
    pub modified: Option<String>,
    /// Its length in bytes, as it says.
    pub bytes: u64,
    /// Bytes that it says it has and the disk has not: a download that broke off.
    pub missing: u64,
    /// Whether a partition table stands in front, so that it starts from a disk as well.
    pub hybrid: bool,
    /// Whether it is UDF as well, which is not read: what lies there is not seen.
    pub udf: bool,
}

impl Medium {
    fn new(format: Word, variant: Word) -> Self {
        Self {
            format,
            variant,
            kind: MediumKind::Unknown,
            name: None,
            volume: None,
            boot: Vec::new(),
            signs: Vec::new(),
            images: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// What it is, in a few words: "Debian GNU/Linux 12.5.0, a live system".
    #[must_use]
    pub fn words(&self) -> String {
        match &self.name {
            Some(name) if self.kind == MediumKind::Unknown => name.clone(),
            Some(name) => format!("{name}, {}", self.kind.words()),
            None => self.kind.words().to_owned(),
        }
    }

    /// Takes what could be read; keeps why not in words. A disk that cannot be read ends everything.
    fn keep<T>(&mut self, what: &str, answer: Result<T, FsError>) -> Result<Option<T>> {
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(FsError::NotFound) => Ok(None),
            Err(FsError::Disk(error @ (kiln_disk::Error::Io { .. } | kiln_disk::Error::Cancelled))) => {
                Err(error)
            }
            Err(error) => {
                self.problems.push(format!("{what}: {}", told(&error)));
                Ok(None)
            }
        }
    }
}

/// Looks at the first disk as a medium; `None` when it is none. A partition table is no obstacle where it covers the
/// descriptors, as that of hybrid media does; else they are what an earlier use of the disk left behind.
///
/// # Errors
/// I/O of the disk.
pub(super) fn read(layout: &Layout) -> Result<Option<Medium>> {
    let (Some(disk), Some(table)) = (layout.disks.first(), layout.tables.first()) else { return Ok(None) };
    let whole = layout.volumes.first().filter(|volume| volume.place == Place::Disk { disk: 0 });
    if whole.is_some_and(|volume| volume.probed.content == Content::Squashfs) {
        return squashfs(disk).map(Some);
    }
    let Some(head) = head(disk.as_ref())? else { return Ok(None) };
    let word = usize::try_from(DESCRIPTORS).ok().and_then(|at| head.get(at..)?.get(1..6));
    let bare = table.partitions.is_empty();
    let covered = bare || table.partitions.iter().any(|part| part.start <= DESCRIPTORS) || mbr_covers(&head);
    if word != Some(b"CD001") || !covered {
        return Ok(None);
    }
    let udf = layout.volumes.first().is_some_and(|volume| volume.probed.kind == "udf");
    iso(disk, !bare || mbr_covers(&head), udf).map(Some)
}

/// The first bytes of a disk that is long enough for a volume, up to its first descriptor.
fn head(disk: &dyn Disk) -> Result<Option<Vec<u8>>> {
    let len = DESCRIPTORS.saturating_add(2048);
    if disk.disk_len() < len {
        return Ok(None);
    }
    let mut head = vec![0; usize::try_from(len).unwrap_or(0)];
    match disk.read_guest(GuestOffset::ZERO, &mut head) {
        Ok(()) => Ok(Some(head)),
        Err(error @ (kiln_disk::Error::Io { .. } | kiln_disk::Error::Cancelled)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Whether an entry of the MBR covers the descriptors. Hybrid media of xorriso (Debian's are) have one of type 0, which
/// is no partition to anybody else; an entry of type 0xEE covers every disk that has a GPT.
fn mbr_covers(head: &[u8]) -> bool {
    head.get(446..510).unwrap_or_default().chunks_exact(16).any(|entry| {
        let sectors = |at| le32(entry, at).map_or(0, |count| u64::from(count).saturating_mul(512));
        let (start, len) = (sectors(8), sectors(12));
        entry.get(4) != Some(&0xee) && start <= DESCRIPTORS && start.saturating_add(len) > DESCRIPTORS
    })
}

fn iso(disk: &Arc<dyn Disk>, hybrid: bool, udf: bool) -> Result<Medium> {
    let mut medium = Medium::new("iso9660", "ISO 9660");
    let Some(iso) = medium.keep("the volume", Iso::open(disk))? else { return Ok(medium) };
    medium.variant = iso.names();
    let said = iso.descriptors().primary.clone();
    medium.volume = Some(IsoVolume {
        missing: said.volume_len.saturating_sub(disk.disk_len()),
        bytes: said.volume_len,
        label: said.label,
        volume_set: said.volume_set,
        system: said.system,
        publisher: said.publisher,
        preparer: said.preparer,
        application: said.application,
        created: said.created,
        modified: said.modified,
        hybrid,
        udf,
    });
    if let Some(at) = iso.descriptors().catalogue {
        let boot = medium.keep("the boot catalogue", boot_images(disk.as_ref(), at))?;
        medium.boot = boot.unwrap_or_default();
    }
    let fs = Arc::new(iso);
    let mut tree = Tree::default();
    tree.mount("/", 0, Box::new(Arc::clone(&fs)));
    let root = tree.list("/");
    if medium.keep("the root directory", root)?.is_some() {
        signs::read(&tree, &mut medium);
        images::read(&tree, &fs, &mut medium)?;
        name(&mut medium);
    }
    Ok(medium)
}

/// A system that is a file of its own, as live media carry it.
fn squashfs(disk: &Arc<dyn Disk>) -> Result<Medium> {
    let mut medium = Medium::new("squashfs", "");
    let Some(fs) = medium.keep("the file system", Squashfs::open(disk))? else { return Ok(medium) };
    medium.variant = fs.compression();
    let release = images::release_of(&Arc::new(fs));
    let release = medium.keep("the file system", release)?.flatten();
    medium.name = release.map(|release| release.name);
    Ok(medium)
}

/// A name and a kind from the systems that it carries, where its own files tell none.
fn name(medium: &mut Medium) {
    let carried = medium.images.iter().find_map(|image| image.release.as_ref());
    if medium.name.is_none() {
        medium.name = carried.map(|release| release.name.clone());
    }
    if medium.kind == MediumKind::Unknown && !medium.images.is_empty() {
        medium.kind = MediumKind::Live;
    }
}
