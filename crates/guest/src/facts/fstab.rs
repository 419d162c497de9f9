//! `/etc/fstab`, `/etc/crypttab`, and what their device names mean.

use serde::{Deserialize, Serialize};

use crate::text::lines;
use crate::tree::Tree;
use crate::volume::{Content, Place, Volume};

/// Lines that are taken from one file.
const MAX_LINES: usize = 1000;

/// A line of fstab (fstab(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Its number from 1.
    pub line: u32,
    /// fs_spec, with `\040` and its like turned back.
    pub device: String,
    /// fs_file.
    pub mount_point: String,
    /// fs_vfstype.
    pub kind: String,
    /// fs_mntops.
    pub options: Vec<String>,
    /// fs_passno.
    pub pass: u32,
}

impl Line {
    /// Whether it has an option.
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|known| known == option)
    }

    /// Whether the boot goes on without it.
    #[must_use]
    pub fn optional(&self) -> bool {
        self.has("nofail") || self.has("noauto") || self.has("x-systemd.automount")
    }
}

/// A line of crypttab (crypttab(5)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crypt {
    /// Its number from 1.
    pub line: u32,
    /// The mapping.
    pub name: String,
    /// The device under it.
    pub device: String,
    /// The boot goes on without it.
    pub optional: bool,
}

/// What a device name means on this disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// A volume that is here.
    Volume(usize),
    /// Something that would have to be here and is not.
    Missing,
    /// Not a device of a disk: a network share, a file system of the kernel, a bind mount, a file.
    NotDisk,
    /// A name that may mean something that is made at boot (device mapper, loop).
    Unknown,
}

/// Reads fstab; empty when there is none.
#[must_use]
pub fn read(tree: &Tree) -> Vec<Line> {
    parse(&tree.text("/etc/fstab").unwrap_or_default())
}

/// Parses a text of fstab.
#[must_use]
pub fn parse(text: &str) -> Vec<Line> {
    let parsed = lines(text).filter_map(|(line, text)| {
        let mut words = text.split_whitespace();
        let (device, mount_point) = (words.next()?, words.next()?);
        let (kind, options) = (words.next().unwrap_or("auto"), words.next().unwrap_or("defaults"));
        let _dump = words.next();
        Some(Line {
            line,
            device: unescaped(crate::text::unquoted(device)).replace('"', ""),
            mount_point: unescaped(mount_point),
            kind: kind.to_owned(),
            options: options.split(',').map(str::to_owned).collect(),
            pass: words.next().and_then(|pass| pass.parse().ok()).unwrap_or(0),
        })
    });
    parsed.take(MAX_LINES).collect()
}

/// Reads crypttab.
#[must_use]
pub fn crypttab(tree: &Tree) -> Vec<Crypt> {
    let text = tree.text("/etc/crypttab").unwrap_or_default();
    let parsed = lines(&text).filter_map(|(line, text)| {
        let mut words = text.split_whitespace();
        let (name, device) = (words.next()?.to_owned(), words.next()?.to_owned());
        let options = words.nth(1).unwrap_or_default();
        let optional = options.split(',').any(|option| matches!(option, "nofail" | "noauto"));
        Some(Crypt { line, name, device, optional })
    });
    parsed.take(MAX_LINES).collect()
}

/// `\040` is a blank, `\011` a tab, `\134` a backslash.
fn unescaped(word: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(word.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// Whether a file system of a kind is mounted when another kind is asked for. Kinds that are not known are taken to be.
#[must_use]
pub fn mounts_as(kind: &str, named: &str) -> bool {
    const KINDS: [&str; 9] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "vfat", "msdos", "swap", "ntfs"];
    match named {
        "ext4" => matches!(kind, "ext2" | "ext3" | "ext4"),
        "ext2" => matches!(kind, "ext2" | "ext3"),
        "msdos" => kind == "vfat",
        _ if !KINDS.contains(&named) || !KINDS.contains(&kind) => true,
        _ => kind == named,
    }
}

/// Kinds that need no device.
const VIRTUAL: [&str; 16] = [
    "proc",
    "sysfs",
    "tmpfs",
    "devpts",
    "devtmpfs",
    "none",
    "cgroup",
    "cgroup2",
    "debugfs",
    "securityfs",
    "tracefs",
    "hugetlbfs",
    "mqueue",
    "configfs",
    "binfmt_misc",
    "efivarfs",
];

/// What a device name means.
#[must_use]
pub fn device(name: &str, volumes: &[Volume]) -> Device {
    let same = |a: &str, b: &str| a.eq_ignore_ascii_case(b);
    let by = |test: &dyn Fn(&Volume) -> bool| {
        volumes.iter().position(test).map_or(Device::Missing, Device::Volume)
    };
    let tagged = name
        .split_once('=')
        .or_else(|| name.strip_prefix("/dev/disk/by-").and_then(|rest| rest.split_once('/')));
    if let Some((tag, value)) = tagged {
        let value = crate::text::unquoted(value);
        match tag.to_ascii_uppercase().as_str() {
            "UUID" => return by(&|volume| same(&volume.probed.uuid, value)),
            "LABEL" => return by(&|volume| volume.probed.label == value),
            "PARTUUID" => {
                return by(
                    &|volume| matches!(&volume.place, Place::Partition { part_uuid, .. } if same(part_uuid, value)),
                );
            }
            "PARTLABEL" => {
                return by(
                    &|volume| matches!(&volume.place, Place::Partition { part_label, .. } if part_label == value),
                );
            }
            "ID" | "PATH" => return Device::Missing,
            _ => {}
        }
    }
    let Some(node) = name.strip_prefix("/dev/") else { return Device::NotDisk };
    if let Some((disk, number)) = disk_and_partition(node) {
        return by(&|volume| match (&volume.place, number) {
            (Place::Partition { disk: on, number: found, .. }, Some(number)) => {
                *on == disk && *found == number
            }
            (Place::Disk { disk: on }, None) => *on == disk,
            _ => false,
        });
    }
    let logical = |group: &str, volume_name: &str| {
        by(
            &|volume| matches!(&volume.place, Place::Lvm { group: on, volume } if on == group && volume == volume_name),
        )
    };
    if let Some(mapped) = node.strip_prefix("mapper/") {
        // In a mapper's name a dash of the group or the volume is written twice.
        let named = volumes.iter().position(|volume| match &volume.place {
            Place::Lvm { group, volume } => {
                format!("{}-{}", group.replace('-', "--"), volume.replace('-', "--")) == mapped
            }
            _ => false,
        });
        let lvm_here = volumes.iter().any(|volume| volume.probed.content == Content::LvmPv);
        let encrypted = volumes.iter().any(|volume| volume.probed.content == Content::Luks);
        return match named {
            Some(index) => Device::Volume(index),
            None if encrypted || mapped.starts_with("luks") || mapped.starts_with("crypt") => Device::Unknown,
            None if lvm_here || mapped.contains('-') => Device::Missing,
            None => Device::Unknown,
        };
    }
    match node.split_once('/') {
        Some((group, volume)) if !matches!(group, "disk" | "md" | "loop" | "zvol") => logical(group, volume),
        _ if node.starts_with("md") => Device::Unknown,
        _ if matches!(node, "root" | "cdrom" | "sr0" | "fd0") => Device::NotDisk,
        _ => Device::Unknown,
    }
}

/// `sda1` is partition 1 of disk 0; `nvme0n1p2` and `mmcblk0p1` likewise. Disks are counted as they are given.
#[must_use]
pub fn disk_and_partition(node: &str) -> Option<(usize, Option<u32>)> {
    for prefix in ["sd", "hd", "vd", "xvd"] {
        let Some(rest) = node.strip_prefix(prefix) else { continue };
        let letter = rest.bytes().next().filter(u8::is_ascii_lowercase)?;
        let number = rest.get(1..).unwrap_or_default();
        let disk = usize::from(letter.saturating_sub(b'a'));
        return match number {
            "" => Some((disk, None)),
            digits => digits.parse().ok().map(|number| (disk, Some(number))),
        };
    }
    for (prefix, between) in [("nvme", "n1"), ("mmcblk", "")] {
        let Some(rest) = node.strip_prefix(prefix) else { continue };
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let disk = rest.get(..digits)?.parse().ok()?;
        let rest = rest.get(digits..)?.strip_prefix(between)?;
        return match rest.strip_prefix('p') {
            Some(number) => number.parse().ok().map(|number| (disk, Some(number))),
            None => rest.is_empty().then_some((disk, None)),
        };
    }
    None
}

/// Whether a line names a file system without a device, or one that is not on a disk.
#[must_use]
pub fn is_virtual(line: &Line) -> bool {
    VIRTUAL.contains(&line.kind.as_str()) || line.has("bind") || line.has("rbind") || line.kind == "overlay"
}

/// Kinds of another machine.
#[must_use]
pub fn is_foreign(line: &Line) -> bool {
    let kinds = [
        "nfs",
        "nfs4",
        "cifs",
        "smbfs",
        "smb3",
        "vboxsf",
        "vmhgfs",
        "fuse.vmhgfs-fuse",
        "fuse.sshfs",
        "sshfs",
        "9p",
        "glusterfs",
        "ceph",
        "virtiofs",
        "afs",
        "prl_fs",
    ];
    kinds.contains(&line.kind.as_str()) || line.device.starts_with("//") || line.has("_netdev")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_split_and_unescaped() {
        let text = "# c\nUUID=\"ab\" / ext4 rw,nofail 0 1\n\n/dev/sdb1\t/mnt/a\\040b  xfs\nbroken\n";
        let parsed = parse(text);
        assert_eq!(parsed.len(), 2);
        assert_eq!((parsed[0].line, parsed[0].device.as_str(), parsed[0].pass), (2, "UUID=ab", 1));
        assert!(parsed[0].optional());
        assert_eq!(
            (parsed[1].mount_point.as_str(), parsed[1].options.as_slice()),
            ("/mnt/a b", &["defaults".to_owned()][..])
        );
    }

    #[test]
    fn device_nodes_name_disk_and_partition() {
        for (node, expected) in [
            ("sda1", Some((0, Some(1)))),
            ("vdb", Some((1, None))),
            ("xvda15", Some((0, Some(15)))),
            ("nvme0n1p2", Some((0, Some(2)))),
            ("nvme1n1", Some((1, None))),
            ("mmcblk0p1", Some((0, Some(1)))),
            ("sdaa1x", None),
            ("mapper/x", None),
            ("sd", None),
        ] {
            assert_eq!(disk_and_partition(node), expected, "{node}");
        }
    }
}
