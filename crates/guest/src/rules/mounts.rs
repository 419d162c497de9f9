//! Rules of what is mounted: can the kernel mount it, as fstab asks for it?

use super::boot::is_default;
use super::{Case, Hits, Impact};
use crate::facts::fstab::{Line, is_foreign, is_virtual, mounts_as};
use crate::facts::kernel::{Kernel, When, forbidden};
use crate::facts::{Device, Seen, options};
use crate::fs::{FsError, Root, open};
use crate::volume::{Content, Volume};

const FSTAB: &str = "/etc/fstab";

/// The lines without which the start ends in emergency mode: local, and neither optional nor the root's.
pub(super) fn needed<'a>(case: &'a Case<'_>) -> impl Iterator<Item = &'a Line> {
    case.report.fstab.iter().filter(|line| {
        !is_virtual(line)
            && !is_foreign(line)
            && !line.optional()
            && !line.has("_netdev")
            && line.kind != "swap"
            && line.mount_point.starts_with('/')
            && line.mount_point != "/"
    })
}

/// fstab.mount
pub(super) fn mount(case: &Case<'_>, hits: &mut Hits) {
    for line in needed(case) {
        let seen = Seen::line(FSTAB, line.line);
        let at = &line.mount_point;
        let mut tell = |what: String| match case.stops_without(line) {
            true => hits.add(what, seen.clone()),
            false => hits.add_as(Impact::Advice, what, seen.clone()),
        };
        let volume = match case.report.device(&line.device) {
            Device::Volume(index) => case.report.volumes.get(index),
            _ => None,
        };
        let Some(volume) = volume else {
            // A file that is mounted through a loop device. What is bound is made when it is not there.
            let bound = line.has("bind") || line.has("rbind") || line.kind == "none";
            let file = line.device.starts_with('/') && !line.device.starts_with("/dev/");
            if file && !bound && !line.kind.contains("overlay") && !case.examination.tree.exists(&line.device)
            {
                tell(format!("{} ({at}) is not there", line.device));
            }
            continue;
        };
        let kind = volume.probed.kind.as_str();
        if let Some(what) = unlike(line, volume) {
            tell(what);
        } else if let Some(option) = options::unknown(kind, &line.options) {
            tell(format!("{kind} does not know the option {option} ({at})"));
        } else if let Some(path) = missing_subvolume(line, volume) {
            tell(format!("subvol={path} ({at}) is not on the btrfs {}", line.device));
        } else if let Some(what) = without_driver(case, kind) {
            tell(format!("{at} is {kind}, and {what}"));
        }
    }
}

/// What is wrong where fstab names another kind of file system than the one that is there.
fn unlike(line: &Line, volume: &Volume) -> Option<String> {
    let kind = volume.probed.kind.as_str();
    let known = line.kind.split(',').all(|named| KNOWN.contains(&named));
    let (device, at) = (&line.device, &line.mount_point);
    match volume.probed.content {
        Content::Unknown | Content::Empty if known => {
            Some(format!("{device} ({at}) holds no file system that is known, fstab says {}", line.kind))
        }
        Content::Swap | Content::LvmPv | Content::GrubCore if known => {
            Some(format!("{device} ({at}) holds {}, fstab says {}", volume.probed.content.word(), line.kind))
        }
        _ if line.kind.split(',').any(|named| mounts_as(kind, named)) => None,
        _ => Some(format!("{device} ({at}) is {kind}, fstab says {}", line.kind)),
    }
}

/// Kinds that are recognised here when they are there.
const KNOWN: [&str; 17] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "msdos", "f2fs", "squashfs", "erofs", "exfat", "ntfs",
    "jfs", "reiserfs", "nilfs2", "ocfs2", "gfs2",
];

fn missing_subvolume(line: &Line, volume: &Volume) -> Option<String> {
    let path = line.options.iter().find_map(|option| option.strip_prefix("subvol="))?;
    if volume.probed.content != Content::Btrfs {
        return None;
    }
    let root = Root::Subvolume(format!("/{}", path.trim_start_matches('/')).into_bytes());
    matches!(open(&volume.disk, Content::Btrfs, &root), Err(FsError::NotFound)).then(|| path.to_owned())
}

fn kernels<'a>(case: &'a Case<'_>) -> impl Iterator<Item = &'a Kernel> {
    case.report.kernels.iter().filter(|kernel| is_default(case, &kernel.path) && kernel.fault.is_none())
}

/// Why the kernel has no driver for a file system when fstab is carried out.
fn without_driver(case: &Case<'_>, kind: &str) -> Option<String> {
    let module = match kind {
        "ext2" | "ext3" => "ext4",
        "ext4" | "xfs" | "btrfs" | "vfat" | "f2fs" => kind,
        _ => return None,
    };
    let root = case.report.root().map(|root| root.probed.kind.as_str());
    if root == Some(kind) || root.is_some_and(|root| root.starts_with("ext") && module == "ext4") {
        return None;
    }
    let kernel = kernels(case).next()?;
    if kernel.builtin.contains(module) || kernel.modules.is_empty() {
        return None;
    }
    if kernel.known(When::Late)
        && let Err(missing) = kernel.has(module, When::Late)
    {
        return Some(format!("the kernel {} has no driver for it ({missing})", kernel.release));
    }
    let tree = &case.examination.tree;
    for dir in ["/etc/modprobe.d", "/lib/modprobe.d", "/usr/lib/modprobe.d"] {
        for name in tree.names(dir).iter().filter(|name| name.ends_with(".conf")) {
            let path = format!("{dir}/{name}");
            let text = tree.text(&path).unwrap_or_default();
            // The kernel asks for "fs-vfat", an alias of the module: `blacklist` forbids that as `install` does.
            if forbidden(&text).iter().any(|known| known == module) {
                return Some(format!("{path} forbids its driver"));
            }
        }
    }
    let entry = case.report.boot.entries.iter().find(|entry| entry.default)?;
    ["module_blacklist", "modprobe.blacklist"].into_iter().find_map(|key| {
        let forbids = entry.arguments(key).iter().any(|value| value.split(',').any(|known| known == module));
        forbids.then(|| format!("{key}={module} on the command line forbids its driver"))
    })
}

/// The root, and what fstab mounts.
fn volumes<'a>(case: &'a Case<'_>) -> impl Iterator<Item = (&'a str, &'a Volume, bool)> {
    let report = case.report;
    report.mounts.iter().filter_map(move |mount| {
        let volume = report.volumes.get(mount.volume)?;
        let at = mount.at.as_str();
        let optional = report
            .fstab
            .iter()
            .find(|line| line.mount_point == at)
            .is_none_or(|line| line.optional() || line.has("_netdev"));
        Some((at, volume, at == "/" || !optional))
    })
}

fn seen(volume: &Volume) -> Seen {
    match volume.start() {
        Some(disk_byte) => Seen::Disk { disk_byte },
        None => Seen::Volume { volume: volume.place.to_string() },
    }
}

/// fs.size
pub(super) fn size(case: &Case<'_>, hits: &mut Hits) {
    for (at, volume, needed) in volumes(case) {
        let Some(space) = volume.probed.space else { continue };
        let judged = matches!(volume.probed.content, Content::Ext | Content::Xfs | Content::Btrfs);
        if judged && space.total > volume.len {
            let what = format!(
                "{at} ({}) has {} bytes by its superblock, {} has {}",
                volume.probed.kind, space.total, volume.place, volume.len
            );
            match needed {
                true => hits.add(what, seen(volume)),
                false => hits.add_as(Impact::Advice, what, seen(volume)),
            }
        }
    }
}

/// Features of file systems and the first Linux that mounts them for writing.
const FEATURES: [(&str, (u32, u32)); 17] = [
    ("ea_inode", (4, 13)),
    ("large_dir", (4, 13)),
    ("casefold", (5, 2)),
    ("verity", (5, 4)),
    ("orphan_present", (5, 15)),
    ("bigtime", (5, 10)),
    ("inobtcount", (5, 10)),
    ("nrext64", (5, 19)),
    ("exchange", (6, 10)),
    ("parent", (6, 10)),
    ("metadir", (6, 13)),
    ("zstd", (4, 14)),
    ("metadata_uuid", (5, 0)),
    ("raid1c34", (5, 5)),
    ("block_group_tree", (6, 1)),
    ("raid_stripe_tree", (6, 7)),
    ("simple_quota", (6, 7)),
];

/// fs.feature
pub(super) fn feature(case: &Case<'_>, hits: &mut Hits) {
    let Some(kernel) = kernels(case).next() else { return };
    // Kernels of long-lived distributions take newer features into an older number.
    let backports = [".el", ".amzn", "uek", "-default"].iter().any(|word| kernel.release.contains(word));
    let mut numbers =
        kernel.release.split(|c: char| !c.is_ascii_digit()).map(|word| word.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else { return };
    for (at, volume, needed) in volumes(case) {
        for feature in &volume.probed.features {
            let Some((_, first)) = FEATURES.iter().find(|(known, _)| known == feature) else { continue };
            if (major, minor) >= *first {
                continue;
            }
            let what = format!(
                "{at} ({}) has the feature {feature}, which Linux mounts since {}.{}; the kernel is {}",
                volume.probed.kind, first.0, first.1, kernel.release
            );
            match needed && !backports {
                true => hits.add(what, seen(volume)),
                false => hits.add_as(Impact::Advice, what, seen(volume)),
            }
        }
    }
}
