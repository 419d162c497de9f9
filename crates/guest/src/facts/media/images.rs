//! Systems in files of a medium: what a live system mounts as its root.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Disk, Error, Extent, ExtentKind, GuestOffset, Result, check_range};
use serde::{Deserialize, Serialize};

use super::Medium;
use crate::fs::squashfs::Squashfs;
use crate::fs::{FileSystem, FsError, Kind, Root, open};
use crate::text::assigned;
use crate::tree::Tree;
use crate::volume::{Content, probe};

/// Files that are looked at, and how many of them are looked into for a system's name.
const MAX_IMAGES: usize = 16;
const MAX_OPENED: usize = 3;

/// Directories of live systems, and the ends of the names of what they mount: live-boot, casper, dracut, archiso,
/// anaconda.
const PLACES: [(&str, &[&str]); 8] = [
    ("/live", &[".squashfs", ".erofs"]),
    ("/casper", &[".squashfs", ".erofs"]),
    ("/LiveOS", &["squashfs.img", "rootfs.img"]),
    ("/arch/x86_64", &[".sfs", ".erofs"]),
    ("/arch/aarch64", &[".sfs", ".erofs"]),
    ("/arch/i686", &[".sfs"]),
    ("/images", &["install.img"]),
    ("/install", &[".squashfs"]),
];

/// A system in a file of a medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemImage {
    /// The file's path.
    pub path: String,
    /// Its length in bytes.
    pub bytes: u64,
    /// The file system in it: "squashfs", "erofs".
    pub content: String,
    /// How it is packed, of a squashfs.
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "kiln_disk::interned::maybe",
        default
    )]
    pub compression: Option<kiln_disk::interned::Word>,
    /// What its os-release says.
    pub release: Option<Release>,
}

/// An os-release (freedesktop.org, os-release(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// `PRETTY_NAME`, else name and version.
    pub name: String,
    /// `ID`.
    pub id: String,
    /// `VERSION_ID`; empty where releases roll.
    pub version: String,
}

/// A file as a disk, so that what is in it can be read as it lies there.
struct FileDisk<F> {
    fs: Arc<F>,
    path: Vec<u8>,
    len: u64,
}

impl<F: FileSystem + Send + Sync> Disk for FileDisk<F> {
    fn disk_len(&self) -> u64 {
        self.len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.len)?;
        let inside = |feature: String| Error::Unsupported { code: "guest.file-in-file", feature, hint: "" };
        match self.fs.read(&self.path, at.get(), buf) {
            Ok(read) if read == buf.len() => Ok(()),
            Ok(_) => Err(inside("a file that is shorter than it says".to_owned())),
            Err(FsError::Disk(error)) => Err(error),
            Err(error) => Err(inside(error.to_string())),
        }
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.len)?;
        let len = limit.min(NonZeroU64::new(self.len.saturating_sub(at.get())).unwrap_or(limit));
        Ok(Extent { start: at, len, kind: ExtentKind::Encoded })
    }
}

/// Looks for them.
pub(super) fn read<F: FileSystem + Send + Sync + 'static>(
    tree: &Tree,
    fs: &Arc<F>,
    medium: &mut Medium,
) -> Result<()> {
    let mut opened = 0_usize;
    for (dir, ends) in PLACES {
        let mut names = tree.names(dir);
        names.retain(|name| ends.iter().any(|end| name.ends_with(end)));
        // Of layers that stand on each other the lowest has the shortest name.
        names.sort_by_key(String::len);
        for name in names {
            if medium.images.len() >= MAX_IMAGES {
                return Ok(());
            }
            let path = format!("{dir}/{name}");
            let Some(disk) = file(tree, fs, &path) else { continue };
            let Some(probed) = medium.keep(&path, probe(&disk).map_err(FsError::from))? else { continue };
            let mut image = SystemImage {
                bytes: disk.disk_len(),
                content: probed.kind,
                compression: None,
                release: None,
                path,
            };
            let named = medium.images.iter().any(|image| image.release.is_some());
            if probed.content == Content::Squashfs && !named && opened < MAX_OPENED {
                opened = opened.saturating_add(1);
                let inner = medium.keep(&image.path, Squashfs::open(&disk))?;
                image.compression = inner.as_ref().map(Squashfs::compression);
                if let Some(inner) = inner {
                    let release = release_of(&Arc::new(inner));
                    image.release = medium.keep(&image.path, release)?.flatten();
                }
            }
            medium.images.push(image);
        }
    }
    Ok(())
}

/// A file as a disk; links are followed.
fn file<F: FileSystem + Send + Sync + 'static>(
    tree: &Tree,
    fs: &Arc<F>,
    path: &str,
) -> Option<Arc<dyn Disk>> {
    let path = tree.resolve(path.as_bytes(), true).ok()?;
    let stat = fs.stat(&path).ok().filter(|stat| stat.kind == Kind::File)?;
    Some(Arc::new(FileDisk { fs: Arc::clone(fs), path, len: stat.len }))
}

/// The os-release of a system in a squashfs, or in the file system that one holds for dracut.
pub(super) fn release_of(fs: &Arc<Squashfs>) -> crate::fs::Result<Option<Release>> {
    let mut tree = Tree::default();
    tree.mount("/", 0, Box::new(Arc::clone(fs)));
    tree.list("/")?;
    if let Some(release) = release(&tree) {
        return Ok(Some(release));
    }
    let Some(disk) = file(&tree, fs, "/LiveOS/rootfs.img") else { return Ok(None) };
    let inner = open(&disk, probe(&disk)?.content, &Root::Default)?;
    let mut tree = Tree::default();
    tree.mount("/", 0, inner);
    Ok(release(&tree))
}

fn release(tree: &Tree) -> Option<Release> {
    let text = tree.text("/etc/os-release").or_else(|| tree.text("/usr/lib/os-release"))?;
    let value = |key: &str| assigned(&text, key).unwrap_or_default();
    let name = Some(value("PRETTY_NAME")).filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| format!("{} {}", value("NAME"), value("VERSION_ID")).trim().to_owned());
    (!name.is_empty()).then(|| Release { name, id: value("ID"), version: value("VERSION_ID") })
}
