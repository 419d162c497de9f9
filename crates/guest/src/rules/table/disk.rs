//! Rows about partitions, volumes, file systems and mounts.

use super::super::{Impact, Rule, disk, mounts, storage};

pub(super) const CONTAINER_ISO: Rule = Rule {
    id: "container.iso",
    inspects: "volume descriptors at byte 32768",
    summary: "the file is an installer or a live system, not an installed one",
    effect: "nothing is installed on it; a place refuses it or starts an installer",
    fix: "install the system on a disk, and import that disk",
    impact: Impact::RejectedAtImport,
    tencent_error: Some("RootPartitionNotFound"),
    run: disk::iso,
};

pub(super) const PART_TABLE: Rule = Rule {
    id: "part.table",
    inspects: "MBR, GPT header and entries with their checksums, extended chains",
    summary: "the partition table is missing or damaged",
    effect: "firmware and kernel may not find the partitions",
    fix: "rebuild it from its backup: sgdisk -e DISK, or gdisk DISK, r, b",
    impact: Impact::WillNotBoot,
    tencent_error: Some("PartitionNotPresent"),
    run: disk::table,
};

pub(super) const OS_ROOT: Rule = Rule {
    id: "os.root",
    inspects: "every file system for /etc, /usr and an os-release",
    summary: "no root file system was found",
    effect: "there is no system to start",
    fix: "upload the disk that holds the root; a data disk is imported as one",
    impact: Impact::RejectedAtImport,
    tencent_error: Some("RootPartitionNotFound"),
    run: disk::root,
};

pub(super) const PART_GPT_BACKUP: Rule = Rule {
    id: "part.gpt-backup",
    inspects: "the GPT's copy at the end of the disk",
    summary: "the backup of the GPT is damaged or not at the end",
    effect: "it starts; repair tools complain, and growing the disk may fail",
    fix: "sgdisk -e DISK",
    impact: Impact::Advice,
    tencent_error: None,
    run: disk::backup,
};

pub(super) const PART_OVERLAP: Rule = Rule {
    id: "part.overlap",
    inspects: "starts and ends of all partitions",
    summary: "two partitions share bytes",
    effect: "writing one destroys the other",
    fix: "restore the table from its backup, or copy the disk again",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: disk::overlap,
};

pub(super) const PART_BOUNDS: Rule = Rule {
    id: "part.bounds",
    inspects: "ends of all partitions against the disk",
    summary: "a partition ends behind the disk",
    effect: "the end of its file system is missing",
    fix: "copy the disk again and compare its length",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: disk::bounds,
};

pub(super) const PART_ALIGN: Rule = Rule {
    id: "part.align",
    inspects: "starts of all partitions",
    summary: "a partition starts inside a block",
    effect: "it works, and writes are slower",
    fix: "move it with gparted",
    impact: Impact::Advice,
    tencent_error: None,
    run: disk::align,
};

pub(super) const PART_HYBRID: Rule = Rule {
    id: "part.hybrid",
    inspects: "the MBR of a GPT disk",
    summary: "the MBR is hybrid",
    effect: "two tables describe one disk; some places refuse that",
    fix: "sgdisk -o keeps only the protective entry: gdisk DISK, x, n, w",
    impact: Impact::Advice,
    tencent_error: None,
    run: disk::hybrid,
};

pub(super) const PART_SCHEME: Rule = Rule {
    id: "part.scheme",
    inspects: "the kind of partition table against the firmware",
    summary: "the place does not take this kind of partition table",
    effect: "the import is refused, or must be told the firmware",
    fix: "import with BootMode UEFI, or convert the disk to MBR: sgdisk -m",
    impact: Impact::Advice,
    tencent_error: None,
    run: disk::scheme,
};

pub(super) const PART_LOGICAL_SECTOR: Rule = Rule {
    id: "part.logical-sector",
    inspects: "sector size that the GPT counts in",
    summary: "the table is for sectors of 4096 bytes",
    effect: "on disks of 512-byte sectors the partitions are not found",
    fix: "write the table again for 512-byte sectors",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: disk::sector,
};

pub(super) const PART_ROOT_LAST: Rule = Rule {
    id: "part.root-last",
    inspects: "order of the partitions",
    summary: "something lies behind the root",
    effect: "the root cannot grow into a larger disk",
    fix: "put the root last",
    impact: Impact::Advice,
    tencent_error: None,
    run: disk::root_last,
};

pub(super) const FSTAB_EXIST: Rule = Rule {
    id: "fstab.exist",
    inspects: "every device of /etc/fstab",
    summary: "fstab names a device that is not there",
    effect: "the start waits 90 seconds and ends in emergency mode",
    fix: "put nofail into its options, or # before the line",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: storage::exist,
};

pub(super) const FSTAB_MOUNT: Rule = Rule {
    id: "fstab.mount",
    inspects: "kind, subvolume and driver of what /etc/fstab mounts",
    summary: "fstab asks for a mount that cannot be made",
    effect: "the mount fails, and the start ends in emergency mode",
    fix: "write the kind that blkid tells, or add nofail to the line's options",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: mounts::mount,
};

pub(super) const FSTAB_DEVNAME: Rule = Rule {
    id: "fstab.devname",
    inspects: "names such as /dev/sda1 in /etc/fstab",
    summary: "fstab names a disk by its place",
    effect: "disks have other names there: the start ends in emergency mode",
    fix: "write UUID=... (blkid tells it)",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: storage::devname,
};

pub(super) const FSTAB_FOREIGN: Rule = Rule {
    id: "fstab.foreign",
    inspects: "network shares and shared folders in /etc/fstab",
    summary: "fstab names something of another machine",
    effect: "the start may end in emergency mode",
    fix: "put nofail into its options, or # before the line",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: storage::foreign,
};

pub(super) const FSTAB_SWAP: Rule = Rule {
    id: "fstab.swap",
    inspects: "swap in /etc/fstab",
    summary: "swap is on the system's disk",
    effect: "it wears and fills the disk; places advise against it",
    fix: "swapoff -a, and # before the line",
    impact: Impact::Advice,
    tencent_error: None,
    run: storage::swap,
};

pub(super) const FSTAB_RESUME: Rule = Rule {
    id: "fstab.resume",
    inspects: "resume= and RESUME=",
    summary: "a swap to wake up from is named and missing",
    effect: "the start waits half a minute",
    fix: "echo RESUME=none >/etc/initramfs-tools/conf.d/resume && update-initramfs -u",
    impact: Impact::Advice,
    tencent_error: None,
    run: storage::resume,
};

pub(super) const LVM_SPANNING: Rule = Rule {
    id: "lvm.spanning",
    inspects: "physical volumes that the group names",
    summary: "a volume group lies on disks that are not here",
    effect: "its volumes cannot be activated",
    fix: "vgreduce --removemissing, or import all disks",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: storage::spanning,
};

pub(super) const LVM_USE: Rule = Rule {
    id: "lvm.use",
    inspects: "the root's volume",
    summary: "the root is on LVM",
    effect: "it starts, and does not grow by itself",
    fix: "none is needed; growing takes pvresize, lvextend -r",
    impact: Impact::Advice,
    tencent_error: None,
    run: storage::lvm,
};

pub(super) const LVM_DEVICESFILE: Rule = Rule {
    id: "lvm.devicesfile",
    inspects: "/etc/lvm/devices/system.devices",
    summary: "LVM only looks at disks of another machine",
    effect: "volumes are not activated: the start ends in emergency mode",
    fix: "rm /etc/lvm/devices/system.devices",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: storage::devices,
};

pub(super) const FS_CLEAN: Rule = Rule {
    id: "fs.clean",
    inspects: "state in the superblocks",
    summary: "a file system was not unmounted",
    effect: "the first start repairs it; what was being written may be lost",
    fix: "start it once and shut it down properly, or fsck",
    impact: Impact::Advice,
    tencent_error: None,
    run: storage::clean,
};

pub(super) const FS_TYPE: Rule = Rule {
    id: "fs.type",
    inspects: "the root's file system",
    summary: "the place does not take this file system",
    effect: "the import is refused",
    fix: "move the root to ext4",
    impact: Impact::RejectedAtImport,
    tencent_error: None,
    run: storage::kind,
};

pub(super) const FS_SIZE: Rule = Rule {
    id: "fs.size",
    inspects: "lengths in the superblocks against the volumes",
    summary: "a file system is longer than its volume",
    effect: "the kernel refuses to mount it",
    fix: "make the partition as long as it was: growpart, or sgdisk; or copy the disk again",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: mounts::size,
};

pub(super) const FS_FEATURE: Rule = Rule {
    id: "fs.feature",
    inspects: "features of the mounted file systems against the kernel's release",
    summary: "a file system has a feature that the kernel does not know",
    effect: "the kernel refuses to mount it, or to write to it",
    fix: "make the file system by the tools of the guest's own release, or install a newer kernel",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: mounts::feature,
};

pub(super) const FS_SPACE: Rule = Rule {
    id: "fs.space",
    inspects: "free bytes and inodes of /, /var, /tmp",
    summary: "a file system is full",
    effect: "services cannot write and fail to start; cloud-init cannot make the user",
    fix: "delete what is not needed: apt clean, journalctl --vacuum-size=10M",
    impact: Impact::NoLogin,
    tencent_error: None,
    run: storage::space,
};

pub(super) const FS_DUP_UUID: Rule = Rule {
    id: "fs.dup-uuid",
    inspects: "ids of all file systems",
    summary: "two file systems have the same id",
    effect: "it is a matter of luck which one is mounted",
    fix: "tune2fs -U random, xfs_admin -U generate",
    impact: Impact::Advice,
    tencent_error: None,
    run: storage::duplicates,
};
