//! Which volume is the guest's root, and what belongs to its tree.

use kiln_disk::Result;
use kiln_disk::partition::{PartitionType, types};

use super::fstab;
use crate::fs::{FileSystem, FsError, Root, open};
use crate::tree::Tree;
use crate::volume::{Content, Layout, Place, Volume};

/// The guest's tree and the volumes that could be its root.
pub(super) struct Found {
    pub(super) tree: Tree,
    pub(super) roots: Vec<usize>,
}

/// Subvolumes of btrfs that distributions install into: openSUSE, Ubuntu, Fedora.
const SUBVOLUMES: [&str; 4] = ["@", "root", "@rootfs", "@/.snapshots/1/snapshot"];

/// Looks for the root and mounts what its fstab names.
/// `preferred` is the volume that the loader names as root, where that is known.
pub(super) fn find(layout: &Layout, preferred: Option<usize>, problems: &mut Vec<String>) -> Result<Found> {
    let (mut candidates, mut roots) = (Vec::new(), Vec::new());
    for (index, volume) in layout.volumes.iter().enumerate() {
        if !volume.probed.readable() || matches!(volume.probed.content, Content::Fat | Content::Ntfs) {
            continue;
        }
        match root_of(volume) {
            Ok(Some((fs, rank))) => candidates.push((rank, index, fs)),
            Ok(None) => {}
            Err(FsError::Disk(error @ (kiln_disk::Error::Io { .. } | kiln_disk::Error::Cancelled))) => {
                return Err(error);
            }
            Err(error) => problems.push(format!("{}: {}", volume.place, told(&error))),
        }
    }
    // A whole system before one that only has an /etc; then the order on the disk.
    candidates.sort_by_key(|(rank, index, _)| (Some(*index) != preferred, std::cmp::Reverse(*rank), *index));
    let mut tree = Tree::default();
    for (_, index, fs) in candidates {
        if roots.is_empty() {
            tree.mount("/", index, fs);
        }
        roots.push(index);
    }
    if !roots.is_empty() {
        mount_rest(layout, &mut tree, problems);
    }
    Ok(Found { tree, roots })
}

/// An error and its cause in one line.
pub(super) fn told(error: &FsError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// A file system, and how much speaks for its being a root.
type Ranked = (Box<dyn FileSystem>, u32);

/// The root in a volume.
fn root_of(volume: &Volume) -> Result<Option<Ranked>, FsError> {
    let fs = open(&volume.disk, volume.probed.content, &Root::Default)?;
    if let Some(rank) = rank(fs.as_ref()) {
        return Ok(Some((fs, rank)));
    }
    if volume.probed.content == Content::Btrfs {
        for name in SUBVOLUMES {
            let root = Root::Subvolume(format!("/{name}").into_bytes());
            let Ok(fs) = open(&volume.disk, volume.probed.content, &root) else { continue };
            if let Some(rank) = rank(fs.as_ref()) {
                return Ok(Some((fs, rank)));
            }
        }
    }
    Ok(None)
}

/// Whether a system lies where a kernel would mount its root from a btrfs: in the subvolume of `rootflags`, else in the
/// default one. `None` when that cannot be told, as with a subvolume by number.
pub(crate) fn btrfs_shows_system(volume: &Volume, rootflags: &str) -> Option<bool> {
    let mut options = rootflags.split(',');
    if rootflags.contains("subvolid=") {
        return None;
    }
    let root = match options.find_map(|option| option.strip_prefix("subvol=")) {
        Some(path) => Root::Subvolume(format!("/{}", path.trim_start_matches('/')).into_bytes()),
        None => Root::Default,
    };
    match open(&volume.disk, volume.probed.content, &root) {
        Ok(fs) => Some(rank(fs.as_ref()).is_some()),
        Err(FsError::NotFound) => Some(false),
        Err(_) => None,
    }
}

fn rank(fs: &dyn FileSystem) -> Option<u32> {
    let has = |path: &str| fs.stat(path.as_bytes()).is_ok();
    if !has("/etc") {
        return None;
    }
    let signs =
        ["/etc/os-release", "/usr/lib/os-release", "/etc/fstab", "/usr", "/sbin", "/lib", "/etc/passwd"];
    let count = signs.iter().filter(|sign| has(sign)).count();
    u32::try_from(count).ok().filter(|count| *count >= 3)
}

/// Mounts what fstab names and is here; the swap, the network and the kernel's own file systems are passed over.
fn mount_rest(layout: &Layout, tree: &mut Tree, problems: &mut Vec<String>) {
    let mut lines = fstab::read(tree);
    lines.sort_by_key(|line| line.mount_point.len());
    for line in lines {
        let (point, root) = (line.mount_point.as_str(), tree.mounts().next().map(|(_, volume)| volume));
        if !point.starts_with('/') || point == "/" {
            continue;
        }
        let Some(index) = super::volume_named(&line.device, layout) else { continue };
        let Some(volume) = layout.volumes.get(index).filter(|volume| volume.probed.readable()) else {
            continue;
        };
        let subvolume = line.options.iter().find_map(|option| option.strip_prefix("subvol="));
        let choice = match subvolume {
            Some(path) => Root::Subvolume(format!("/{}", path.trim_start_matches('/')).into_bytes()),
            None => Root::Default,
        };
        if root == Some(index) && subvolume.is_none() {
            continue;
        }
        match open(&volume.disk, volume.probed.content, &choice) {
            Ok(fs) => tree.mount(point, index, fs),
            Err(error) => problems.push(format!("{} ({point}): {}", volume.place, told(&error))),
        }
    }
    mount_boot(layout, tree);
}

/// A `/boot` that fstab does not mount, or by a name that leads nowhere: the loader finds it all the same.
fn mount_boot(layout: &Layout, tree: &mut Tree) {
    let filled = tree.names("/boot").iter().any(|name| {
        name.starts_with("vmlinu")
            || name.starts_with("grub")
            || matches!(name.as_str(), "loader" | "extlinux")
    });
    if filled || tree.mounts().any(|(at, _)| at == b"/boot") {
        return;
    }
    let mounted: Vec<usize> = tree.mounts().map(|(_, volume)| volume).collect();
    for (index, volume) in layout.volumes.iter().enumerate() {
        if !volume.probed.readable() || mounted.contains(&index) {
            continue;
        }
        let Ok(fs) = open(&volume.disk, volume.probed.content, &Root::Default) else { continue };
        let signs =
            [&b"/grub/grub.cfg"[..], b"/grub2/grub.cfg", b"/extlinux/extlinux.conf", b"/grub/menu.lst"];
        let kernels =
            || fs.list(b"/").is_ok_and(|names| names.iter().any(|entry| entry.name.starts_with(b"vmlinuz")));
        if signs.iter().any(|path| fs.stat(path).is_ok()) && kernels() {
            return tree.mount("/boot", index, fs);
        }
    }
}

/// The FAT volumes in which firmware looks for loaders: partitions of the ESP's type, or any FAT with `/EFI`.
pub(super) fn esps(layout: &Layout, problems: &mut Vec<String>) -> Vec<(usize, Tree)> {
    let mut found = Vec::new();
    for (index, volume) in layout.volumes.iter().enumerate() {
        if volume.probed.content != Content::Fat {
            continue;
        }
        let fs = match open(&volume.disk, Content::Fat, &Root::Default) {
            Ok(fs) => fs,
            Err(error) => {
                problems.push(format!("{}: {}", volume.place, told(&error)));
                continue;
            }
        };
        if is_esp(volume, layout) || fs.stat(b"/EFI").is_ok() {
            let mut tree = Tree::default();
            tree.mount("/", index, fs);
            found.push((index, tree));
        }
    }
    found
}

/// Whether a partition is of the ESP's type.
pub(super) fn is_esp(volume: &Volume, layout: &Layout) -> bool {
    let Place::Partition { disk, number, .. } = &volume.place else { return false };
    let table = layout.tables.get(*disk);
    let partition =
        table.and_then(|table| table.partitions.iter().find(|partition| partition.number == *number));
    partition.is_some_and(|partition| {
        matches!(partition.kind, PartitionType::Mbr(0xef)) || partition.kind == PartitionType::Gpt(types::ESP)
    })
}
