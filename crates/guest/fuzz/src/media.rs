//! Everything that is done with a medium from a stranger. Shared by the fuzz targets and the test suite.

#![allow(dead_code, reason = "each target uses a part of it")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Disk, MemoryDisk};
use kiln_guest::fs::iso::Iso;
use kiln_guest::fs::iso::volume::boot_images;
use kiln_guest::fs::{FileSystem, Kind, Root, open};
use kiln_guest::volume::Content;

pub(crate) fn opened(bytes: Vec<u8>, content: Content) -> kiln_guest::fs::Result<Box<dyn FileSystem>> {
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
    open(&disk, content, &Root::Default)
}

/// Lists and reads what can be seen, up to some hundred names; how many there were.
pub(crate) fn walk(bytes: Vec<u8>, content: Content) -> usize {
    let started = Instant::now();
    let Ok(fs) = opened(bytes, content) else { return 0 };
    let (mut dirs, mut seen, mut buf) = (vec![Vec::new()], 0, [0; 5000]);
    while let Some(dir) = dirs.pop() {
        let at = if dir.is_empty() { b"/".to_vec() } else { dir.clone() };
        for entry in fs.list(&at).unwrap_or_default() {
            assert!(!matches!(entry.name.as_slice(), b"" | b"." | b"..") && !entry.name.contains(&b'/'));
            let path = [dir.as_slice(), b"/", &entry.name].concat();
            seen += 1;
            if seen > 400 {
                break;
            }
            let _ = (fs.stat(&path), fs.read_link(&path), fs.read(&path, 0, &mut buf));
            let _ = fs.read(&path, 1 << 40, &mut [0; 10]);
            if entry.kind == Kind::Directory && seen < 300 && path.len() < 100 {
                dirs.push(path);
            }
        }
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    seen
}

/// An ISO 9660 volume from its descriptors on: the 32 KiB in front of them are of no interest.
pub(crate) fn iso(input: &[u8]) -> usize {
    let bytes = [&[0; 32 << 10][..], input].concat();
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes.clone()));
    if let Ok(iso) = Iso::open(&disk)
        && let Some(at) = iso.descriptors().catalogue
    {
        let _ = boot_images(disk.as_ref(), at);
    }
    walk(bytes, Content::Iso9660)
}

/// A squashfs.
pub(crate) fn squashfs(input: &[u8]) -> usize {
    walk(input.to_vec(), Content::Squashfs)
}
