//! Rules of fstab, LVM and the file systems.

use super::{Case, Hits, Impact};
use crate::facts::fstab::{Line, disk_and_partition, is_foreign, is_virtual};
use crate::facts::{Device, Seen};
use crate::initramfs::Maker;
use crate::volume::{Content, FsState, Place as Where, Volume};

const FSTAB: &str = "/etc/fstab";

/// Free space that a start needs: bytes and inodes (virt-v2v's limits for `/`).
const MIN_FREE: u64 = 20 << 20;
const MIN_INODES: u64 = 100;
/// What AWS asks for, of a Linux and of a Windows.
const AWS_FREE: u64 = 250 << 20;
const AWS_FREE_WINDOWS: u64 = 6 << 30;

fn lines<'a>(case: &'a Case<'_>) -> impl Iterator<Item = &'a Line> {
    case.report.fstab.iter().filter(|line| !is_virtual(line))
}

/// fstab.exist
pub(super) fn exist(case: &Case<'_>, hits: &mut Hits) {
    for line in lines(case).filter(|line| !is_foreign(line)) {
        // A name of a disk's node is the business of fstab.devname.
        let node = line.device.strip_prefix("/dev/").and_then(disk_and_partition);
        if node.is_some() || case.report.device(&line.device) != Device::Missing {
            continue;
        }
        let seen = Seen::line(FSTAB, line.line);
        let what = format!("{} ({}) is not on this disk", line.device, line.mount_point);
        let fix = comment_out(line);
        if line.kind == "swap" || line.mount_point == "none" || line.mount_point == "swap" {
            // A swap that is missing delays the start by 90 seconds and no more.
            hits.add_as(Impact::Advice, format!("{what}: the start waits 90 seconds for it"), seen);
        } else if line.optional() || !case.stops_without(line) {
            hits.add_as(Impact::Advice, what, seen);
        } else if line.has("_netdev") {
            // It belongs to remote-fs.target, which nothing of the start needs.
            hits.add_as(Impact::Advice, format!("{what}: the start waits 90 seconds for it"), seen);
        } else if line.mount_point == "/" {
            // The root is mounted by the command line; this line is only used to mount it again.
            hits.add_as(Impact::Advice, format!("{what}; the loader's root= decides"), seen);
        } else {
            hits.add_fix(what, seen, fix);
        }
    }
}

/// fstab.devname
pub(super) fn devname(case: &Case<'_>, hits: &mut Hits) {
    for line in lines(case).filter(|line| !is_foreign(line)) {
        let Some((disk, number)) = line.device.strip_prefix("/dev/").and_then(disk_and_partition) else {
            continue;
        };
        let seen = Seen::line(FSTAB, line.line);
        let here = match case.report.device(&line.device) {
            Device::Volume(index) => case.report.volumes.get(index),
            _ => None,
        };
        let fits = line.device.starts_with(&format!("/dev/{}", case.place.disk_prefix));
        let better = here.filter(|volume| !volume.probed.uuid.is_empty());
        let fix = match better {
            Some(volume) => format!("sed -i 's|^{}\\b|UUID={}|' /etc/fstab", line.device, volume.probed.uuid),
            None => comment_out(line),
        };
        let stops =
            line.kind != "swap" && !line.optional() && line.mount_point != "/" && case.stops_without(line);
        let detail = match (here, fits) {
            (None, _) if disk > 0 => format!("{} ({}) is on another disk", line.device, line.mount_point),
            (None, _) => {
                let number = number.map_or_else(String::new, |number| format!(" {number}"));
                format!("{} ({}): the disk has no partition{number}", line.device, line.mount_point)
            }
            (Some(_), false) => format!(
                "{} ({}): disks are called /dev/{}… there",
                line.device, line.mount_point, case.place.disk_prefix
            ),
            (Some(_), true) => {
                hits.add_as(
                    Impact::Advice,
                    format!("{} ({}) depends on the order of the disks", line.device, line.mount_point),
                    seen,
                );
                continue;
            }
        };
        if stops {
            hits.add_fix(detail, seen, fix);
        } else {
            hits.add_as(Impact::Advice, detail, seen);
        }
    }
}

fn comment_out(line: &Line) -> String {
    format!("sed -i '{}s/^/#/' /etc/fstab", line.line)
}

/// fstab.foreign
pub(super) fn foreign(case: &Case<'_>, hits: &mut Hits) {
    for line in case.report.fstab.iter().filter(|line| is_foreign(line)) {
        let seen = Seen::line(FSTAB, line.line);
        let what = format!("{} ({}, {}) is of another machine", line.device, line.mount_point, line.kind);
        let network = line.has("_netdev") || line.kind.starts_with("nfs") || line.kind == "cifs";
        if line.optional() || network || !case.stops_without(line) {
            // systemd orders network mounts behind the login.
            hits.add_as(Impact::Advice, what, seen);
        } else {
            hits.add_fix(what, seen, comment_out(line));
        }
    }
}

/// fstab.swap
pub(super) fn swap(case: &Case<'_>, hits: &mut Hits) {
    for line in case.report.fstab.iter().filter(|line| line.kind == "swap") {
        if matches!(case.report.device(&line.device), Device::Volume(_)) || line.device.starts_with('/') {
            if line.device.starts_with("/dev/") && case.report.device(&line.device) == Device::Missing {
                continue;
            }
            hits.add(
                format!("{} is swap on the disk of the system", line.device),
                Seen::line(FSTAB, line.line),
            );
        }
    }
}

/// fstab.resume
pub(super) fn resume(case: &Case<'_>, hits: &mut Hits) {
    for entry in case.report.boot.entries.iter().filter(|entry| entry.default) {
        let Some(resume) = entry.argument("resume") else { continue };
        if case.report.device(resume) == Device::Missing {
            let place = match &entry.seen {
                Seen::File { path, .. } => Seen::line(path.clone(), entry.kernel_line),
                other => other.clone(),
            };
            hits.add(format!("resume={resume} is not on this disk: the start waits for it"), place);
        }
    }
    let path = "/etc/initramfs-tools/conf.d/resume";
    let text = case.examination.tree.text(path).unwrap_or_default();
    if let Some(device) =
        crate::text::assigned(&text, "RESUME").filter(|device| !matches!(device.as_str(), "none" | "auto"))
        && case.report.device(&device) == Device::Missing
    {
        hits.add(format!("RESUME={device} is not on this disk: the start waits for it"), Seen::file(path));
    }
}

/// lvm.spanning
pub(super) fn spanning(case: &Case<'_>, hits: &mut Hits) {
    let root_group = match case.report.root().map(|root| &root.place) {
        Some(Where::Lvm { group, .. }) => Some(group.as_str()),
        _ => None,
    };
    for group in &case.report.groups {
        for missing in group.physical.iter().filter(|physical| !physical.present) {
            let seen = Seen::Volume { volume: format!("volume group {}", group.name) };
            let what =
                format!("{} of group {} (it was {}) is not here", missing.uuid, group.name, missing.device);
            // Activated by name, what is whole needs no more of its group.
            let by_name = case.report.kernels.iter().any(|kernel| {
                super::boot::is_default(case, &kernel.path)
                    && kernel
                        .initramfs
                        .as_ref()
                        .and_then(|file| file.content.as_ref())
                        .is_some_and(|content| content.lvm_script || content.maker == Maker::Dracut)
            });
            let of_root = root_group == Some(group.name.as_str());
            if case.report.roots.is_empty() {
                hits.add(what, seen);
            } else if of_root && by_name {
                hits.add_as(Impact::Advice, format!("{what}; the root's own volume is whole"), seen);
            } else if of_root {
                hits.add(format!("{what}: the initramfs waits for the whole group"), seen);
            } else {
                hits.add_as(Impact::Advice, what, seen);
            }
        }
    }
}

/// lvm.use
pub(super) fn lvm(case: &Case<'_>, hits: &mut Hits) {
    if let Some(Where::Lvm { group, volume }) = case.report.root().map(|root| &root.place) {
        hits.add(
            format!("the root is on {group}/{volume}: it does not grow by itself"),
            Seen::Volume { volume: format!("logical volume {group}/{volume}") },
        );
    }
}

/// lvm.devicesfile
pub(super) fn devices(case: &Case<'_>, hits: &mut Hits) {
    let path = "/etc/lvm/devices/system.devices";
    let Some(text) = case.examination.tree.text(path) else { return };
    let here: Vec<String> = case
        .report
        .volumes
        .iter()
        .filter(|volume| volume.probed.content == Content::LvmPv)
        .map(|volume| volume.probed.uuid.replace('-', ""))
        .collect();
    let on_lvm = matches!(case.report.root().map(|root| &root.place), Some(Where::Lvm { .. }))
        || case.report.mounts.iter().any(|mount| {
            case.report
                .volumes
                .get(mount.volume)
                .is_some_and(|volume| matches!(volume.place, Where::Lvm { .. }))
        });
    for (number, line) in crate::text::lines(&text) {
        let value = |key: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
        };
        let kind = value("IDTYPE").unwrap_or_default();
        let Some(pv) = value("PVID") else { continue };
        let pinned = matches!(kind.as_str(), "sys_wwid" | "sys_serial" | "devname");
        let seen = Seen::line(path, number);
        if pinned && here.contains(&pv) {
            let what = format!(
                "physical volume {pv} is only found by {kind}={}",
                value("IDNAME").unwrap_or_default()
            );
            // Without the file's blessing the volume is not activated; the root is found by dracut without it.
            let root_only = case.report.mounts.iter().all(|mount| {
                mount.at == "/"
                    || !case
                        .report
                        .volumes
                        .get(mount.volume)
                        .is_some_and(|volume| matches!(volume.place, Where::Lvm { .. }))
            });
            if on_lvm && !root_only {
                hits.add(what, seen);
            } else {
                hits.add_as(Impact::Advice, what, seen);
            }
        } else if !here.contains(&pv) {
            hits.add_as(Impact::Advice, format!("physical volume {pv} is not on this disk"), seen);
        }
    }
}

/// The volumes that the start needs.
fn mounted<'a>(case: &'a Case<'_>) -> impl Iterator<Item = (&'a str, &'a Volume)> {
    case.report
        .mounts
        .iter()
        .filter_map(|mount| Some((mount.at.as_str(), case.report.volumes.get(mount.volume)?)))
}

fn volume_seen(volume: &Volume) -> Seen {
    match volume.start() {
        Some(disk_byte) => Seen::Disk { disk_byte },
        None => Seen::Volume { volume: volume.place.to_string() },
    }
}

/// fs.clean
pub(super) fn clean(case: &Case<'_>, hits: &mut Hits) {
    for (at, volume) in mounted(case) {
        let kind = &volume.probed.kind;
        match volume.probed.state {
            Some(FsState::Damaged) => {
                let mut lines = super::mounts::needed(case).filter(|line| case.stops_without(line));
                let needed = at == "/" || lines.any(|line| line.mount_point == at);
                hits.add_as(
                    if needed { Impact::WillNotBoot } else { Impact::Advice },
                    format!("{at} ({kind}): its journal is gone or damaged: the kernel does not mount it"),
                    volume_seen(volume),
                );
            }
            Some(FsState::Errors) => hits.add_as(
                Impact::NoLogin,
                format!("{at} ({kind}): the system itself found errors and may mount it read-only"),
                volume_seen(volume),
            ),
            Some(FsState::NeedsRecovery) => {
                hits.add(
                    format!("{at} ({kind}) was not unmounted: its journal holds changes"),
                    volume_seen(volume),
                );
            }
            Some(FsState::Dirty) => {
                hits.add(format!("{at} ({kind}) was not unmounted"), volume_seen(volume));
            }
            Some(FsState::Clean) | None => {}
        }
    }
}

/// fs.type
pub(super) fn kind(case: &Case<'_>, hits: &mut Hits) {
    let Some(root) = case.report.root() else { return };
    let allowed = case.place.file_systems;
    if !allowed.is_empty() && !allowed.contains(&root.probed.kind.as_str()) {
        hits.add(
            format!("the root is {}; {} takes {}", root.probed.kind, case.place.name, allowed.join(", ")),
            volume_seen(root),
        );
    }
}

/// fs.space
pub(super) fn space(case: &Case<'_>, hits: &mut Hits) {
    let asked = if case.report.windows.is_some() { AWS_FREE_WINDOWS } else { AWS_FREE };
    for (at, volume) in mounted(case) {
        let Some(space) = volume.probed.space else { continue };
        // The ESP and a small /boot are full for good reasons.
        let essential = matches!(at, "/" | "/var" | "/tmp" | "/etc" | "/usr");
        if !essential {
            continue;
        }
        let free = space.free >> 20;
        if at != "/usr" && space.free < MIN_FREE {
            hits.add(format!("{at} has {free} MiB free"), volume_seen(volume));
        } else if at != "/usr" && space.inodes > 0 && space.free_inodes < MIN_INODES {
            hits.add(format!("{at} has {} inodes free", space.free_inodes), volume_seen(volume));
        } else if case.place.id == "aws" && space.free < asked {
            hits.add_as(
                Impact::RejectedAtImport,
                format!("{at} has {free} MiB free; the import asks for {}", asked >> 20),
                volume_seen(volume),
            );
        }
    }
}

/// fs.dup-uuid
pub(super) fn duplicates(case: &Case<'_>, hits: &mut Hits) {
    let volumes = &case.report.volumes;
    for (index, volume) in volumes.iter().enumerate() {
        let id = &volume.probed.uuid;
        let earlier = volumes.iter().take(index).find(|before| !id.is_empty() && before.probed.uuid == *id);
        if let Some(earlier) = earlier {
            hits.add(
                format!("{} and {} have the same id {id}", earlier.place, volume.place),
                volume_seen(volume),
            );
        }
    }
}
