//! Rules of the chain from firmware to kernel.

use super::{Case, Firmware, Hits, Impact};
use crate::facts::loader::Entry;
use crate::facts::{Device, Seen};
use crate::grub::Chain;
use crate::initramfs::Maker;
use crate::volume::{Content, Place as Where};

/// Whether a firmware finds something that starts the kernel.
pub(super) fn starts(case: &Case<'_>, firmware: Firmware) -> bool {
    begins(case, firmware) && super::windows::goes_on(case, firmware)
}

/// Whether a firmware finds something to start.
pub(super) fn begins(case: &Case<'_>, firmware: Firmware) -> bool {
    let boot = &case.report.boot;
    match firmware {
        Firmware::Bios => boot.bios,
        Firmware::Uefi => fallback(case),
    }
}

/// The name of the fallback loader of this guest's architecture (UEFI 2.10, 3.5.1.1).
fn fallback_name(case: &Case<'_>) -> &'static str {
    match case.report.os.as_ref().and_then(|os| os.architecture) {
        Some("aarch64") => "/EFI/BOOT/BOOTAA64.EFI",
        Some("riscv64") => "/EFI/BOOT/BOOTRISCV64.EFI",
        _ => "/EFI/BOOT/BOOTX64.EFI",
    }
}

fn fallback(case: &Case<'_>) -> bool {
    fallback_fault(case).is_none()
}

/// Why firmware without variables starts nothing from the EFI system partition.
fn fallback_fault(case: &Case<'_>) -> Option<String> {
    let name = fallback_name(case);
    let boot = &case.report.boot;
    let wanted = match name {
        "/EFI/BOOT/BOOTAA64.EFI" => "aarch64",
        "/EFI/BOOT/BOOTRISCV64.EFI" => "riscv64",
        _ => "x86_64",
    };
    let here = |program: &&crate::facts::boot::EfiProgram| program.path.eq_ignore_ascii_case(name);
    let Some(program) = boot.fallback.iter().find(here) else {
        return Some(format!("{name} is missing on the EFI system partition"));
    };
    let fault = match (program.len, program.architecture, &program.fault) {
        (0, _, _) => "is empty".to_owned(),
        (_, None, _) => "is no program".to_owned(),
        (_, Some(other), _) if other != wanted => format!("is a program for {other}"),
        (_, _, Some(fault)) => format!("is cut: {fault}"),
        _ if program.loader == Some("shim") && wanted == "x86_64" && boot.second_stage.is_none() => {
            "is a shim, and the grubx64.efi that it starts is not beside it".to_owned()
        }
        _ => return None,
    };
    Some(format!("{name} on the EFI system partition {fault}"))
}

/// Whether a loader's configuration decides at this place: what a firmware starts there may be another loader, and
/// its file a leftover. Where no firmware starts anything, or the loader is not known, all files count.
fn counts(case: &Case<'_>, loader: &str) -> bool {
    let starting = |firmware: &Firmware| starts(case, *firmware);
    let mut started: Vec<Firmware> = case.firmwares().filter(starting).collect();
    if started.is_empty() {
        // What is started where it can be started is in use all the same.
        started = [Firmware::Bios, Firmware::Uefi].into_iter().filter(starting).collect();
    }
    if started.is_empty() {
        return true;
    }
    started.into_iter().any(|firmware| match (firmware, started_loader(case, firmware)) {
        (Firmware::Uefi, Some("systemd-boot")) => matches!(loader, "systemd-boot" | "bls"),
        (Firmware::Uefi, Some("unified-kernel")) => loader == "unified-kernel",
        (_, Some("grub2")) => matches!(loader, "grub2" | "bls"),
        (Firmware::Bios, Some("grub-legacy")) => loader == "grub-legacy",
        (Firmware::Bios, _) => loader != "systemd-boot",
        (Firmware::Uefi, _) => true,
    })
}

/// The loader that a firmware starts, where it is known.
fn started_loader(case: &Case<'_>, firmware: Firmware) -> Option<&'static str> {
    let boot = &case.report.boot;
    match firmware {
        Firmware::Bios => case.report.tables.first()?.mbr.loader,
        Firmware::Uefi => {
            let name = fallback_name(case);
            let program = boot.fallback.iter().find(|program| program.path.eq_ignore_ascii_case(name))?;
            match program.loader {
                // shim starts the GRUB beside it, or what the fallback program finds.
                Some("shim") => boot.second_stage.as_ref().map(|_| "grub2"),
                other => other,
            }
        }
    }
}

/// The entries that decide: the default one of each loader's file.
pub(super) fn default_entries<'a>(case: &'a Case<'_>) -> Vec<&'a Entry> {
    let entries = case.report.boot.entries.iter();
    entries.filter(|entry| entry.default && counts(case, entry.loader)).collect()
}

/// Whether something is started on a disk without a root that could come up in spite of that. Not so where no firmware
/// starts anything, where every way ends in a GRUB that stops, and where an initramfs of a known maker is told to mount a
/// volume that is here and holds no system.
pub(super) fn may_make_its_root(case: &Case<'_>) -> bool {
    let boot = &case.report.boot;
    let started: Vec<Firmware> =
        [Firmware::Bios, Firmware::Uefi].into_iter().filter(|firmware| begins(case, *firmware)).collect();
    if started.iter().all(|firmware| grub_stop(case, firmware.word()).is_some()) {
        return false;
    }
    let files = |content| matches!(content, Content::Ext | Content::Xfs | Content::Btrfs | Content::Fat);
    if !boot.uefi && !case.report.volumes.iter().any(|volume| files(volume.probed.content)) {
        return false;
    }
    let entries = default_entries(case);
    !entries.iter().any(|entry| {
        let mounts = super::init::maker(case, entry).is_some_and(|maker| maker != Maker::Unknown)
            && entry
                .argument("root")
                .is_some_and(|root| matches!(case.report.device(root), Device::Volume(_)));
        let words = ["ostree=", "mount.usr", "usr=", "usrhash=", "roothash=", "systemd.volatile"];
        mounts
            && !entry.cmdline.split_whitespace().any(|word| words.iter().any(|known| word.starts_with(known)))
    })
}

/// boot.mode
pub(super) fn mode(case: &Case<'_>, hits: &mut Hits) {
    let boot = &case.report.boot;
    let wanted: Vec<Firmware> = case.firmwares().collect();
    if wanted.iter().any(|firmware| begins(case, *firmware)) {
        return;
    }
    let bios = wanted.contains(&Firmware::Bios);
    let uefi = wanted.contains(&Firmware::Uefi);
    let why_uefi = || match () {
        () if boot.esp.is_none() => "there is no EFI system partition".to_owned(),
        () if boot.uefi => format!("{} is missing", fallback_name(case)),
        () => "the EFI system partition holds no loader".to_owned(),
    };
    match (bios, uefi) {
        (true, true) => hits.add(
            format!("neither BIOS nor UEFI can start it: {}; {}", boot.bios_fault, why_uefi()),
            Seen::Disk { disk_byte: boot.bios_at },
        ),
        (true, false) => hits.add(
            format!("a BIOS cannot start it: {}", boot.bios_fault),
            Seen::Disk { disk_byte: boot.bios_at },
        ),
        // boot.fallback-efi speaks where a partition is there and only the loader is missing.
        (false, true) if boot.esp.is_none() => {
            hits.add(format!("UEFI cannot start it: {}", why_uefi()), Seen::Disk { disk_byte: 0 });
        }
        _ => {}
    }
}

/// boot.fallback-efi
pub(super) fn fallback_efi(case: &Case<'_>, hits: &mut Hits) {
    let boot = &case.report.boot;
    let Some(esp) = boot.esp else { return };
    if !case.firmwares().any(|firmware| firmware == Firmware::Uefi) || fallback(case) {
        return;
    }
    let name = fallback_name(case);
    let mounted = case.report.mounts.iter().find(|mount| mount.volume == esp).map(|mount| mount.at.as_str());
    let place = Seen::file(format!("{}{name}", mounted.unwrap_or("ESP:")));
    let what = fallback_fault(case).unwrap_or_default();
    let by_bios = case.firmwares().any(|firmware| firmware == Firmware::Bios) && boot.bios;
    if by_bios {
        hits.add_as(Impact::Advice, format!("{what}; only a BIOS can start it"), place);
    } else {
        hits.add(what, place);
    }
}

/// boot.active
pub(super) fn active(case: &Case<'_>, hits: &mut Hits) {
    let Some(table) = case.report.tables.first() else { return };
    let bios = case.firmwares().any(|firmware| firmware == Firmware::Bios);
    let mbr = table.scheme == kiln_disk::partition::Scheme::Mbr;
    if bios && mbr && case.report.boot.bios && table.partitions.iter().all(|partition| !partition.active) {
        hits.add_as(
            Impact::Advice,
            "no partition is marked active; some firmware then starts nothing",
            Seen::Disk { disk_byte: 446 },
        );
    }
}

/// boot.loader
pub(super) fn loader(case: &Case<'_>, hits: &mut Hits) {
    if !case.is_linux() {
        return;
    }
    let boot = &case.report.boot;
    let empty = |path: &&String| counts(case, crate::facts::loader::loader_of(path));
    for path in boot.empty_configs.iter().filter(empty) {
        let size = case.examination.tree.stat(path).map_or(0, |stat| stat.len);
        let wrong = case.examination.tree.text(path).and_then(|text| crate::grub::wrong_lines(&text).pop());
        let wrong = wrong.filter(|_| path.ends_with("grub.cfg"));
        let wrong = wrong.map_or_else(String::new, |line| {
            format!(": what begins in line {line} is not closed, or no statement of GRUB's language")
        });
        hits.add(format!("{path} ({size} bytes) names nothing to start{wrong}"), Seen::file(path));
    }
    let entries = boot.entries.iter().any(|entry| counts(case, entry.loader));
    let unified = boot.loaders.contains(&"unified-kernel")
        || boot.fallback.iter().any(|program| program.loader == Some("unified-kernel"));
    if !entries && boot.empty_configs.iter().find(empty).is_none() && !unified {
        if started_loader(case, Firmware::Uefi) == Some("systemd-boot") && !case.report.boot.bios {
            return hits.add("systemd-boot finds no entry to start", Seen::file("ESP:/loader/entries"));
        }
        let place = ["/boot/grub2", "/boot/grub"].into_iter().find(|dir| case.examination.tree.exists(dir));
        match place {
            Some(dir) => {
                let path = format!("{dir}/grub.cfg");
                hits.add(format!("{path} is missing: the loader has nothing to start"), Seen::file(path));
            }
            None => hits.add("no loader's configuration was found", Seen::file("/boot")),
        }
    }
    grub_stops(case, hits);
    if let Some(waits) = boot.syslinux_waits.as_ref().filter(|_| counts(case, "syslinux")) {
        hits.add(waits.why.clone(), waits.seen.clone());
    }
    for entry in default_entries(case) {
        if let Some(search) = entry.search.as_ref().filter(|search| !search.found) {
            let path = match &entry.seen {
                Seen::File { path, .. } => Seen::line(path.clone(), search.line),
                other => other.clone(),
            };
            // GRUB goes on with the partition it came from, where its files most often are.
            hits.add_as(
                Impact::Advice,
                format!("the loader searches for {}, which is not on this disk", search.device),
                path,
            );
        }
    }
}

/// Why the GRUB that a firmware starts stops before its menu.
fn grub_stop(case: &Case<'_>, firmware: &str) -> Option<(String, Seen)> {
    case.report.boot.grub.iter().find_map(|grub| match &grub.chain {
        Chain::Stops { why, seen } if grub.firmware == firmware => Some((why.clone(), seen.clone())),
        _ => None,
    })
}

/// GRUB that stops before its menu, or whose menu starts nothing by itself.
fn grub_stops(case: &Case<'_>, hits: &mut Hits) {
    let boot = &case.report.boot;
    let started: Vec<&str> = case
        .firmwares()
        .filter(|firmware| starts(case, *firmware) && started_loader(case, *firmware) == Some("grub2"))
        .map(Firmware::word)
        .collect();
    let others = case.firmwares().filter(|firmware| starts(case, *firmware)).count() > started.len();
    let fault = |firmware: &str| {
        let stops = grub_stop(case, firmware);
        let waits = boot.waits.iter().find(|(known, _)| *known == firmware || known.is_empty());
        stops.or_else(|| waits.map(|(_, waits)| (waits.why.clone(), waits.seen.clone())))
    };
    let faults: Vec<_> = started.iter().filter_map(|firmware| Some((*firmware, fault(firmware)?))).collect();
    let all = !others && faults.len() == started.len();
    for (index, (firmware, (why, seen))) in faults.iter().enumerate() {
        // What was said of the file itself is not said again.
        if faults.iter().take(index).any(|(_, (before, _))| before == why)
            || boot.empty_configs.iter().any(|path| seen == &Seen::file(path))
        {
            continue;
        }
        if all {
            hits.add(why.clone(), seen.clone());
        } else {
            hits.add_as(Impact::Advice, format!("by {firmware}: {why}"), seen.clone());
        }
    }
}

/// boot.root-arg
pub(super) fn root_arg(case: &Case<'_>, hits: &mut Hits) {
    for entry in default_entries(case) {
        let place = match &entry.seen {
            Seen::File { path, .. } if !matches!(entry.loader, "bls" | "systemd-boot") => {
                Seen::line(path.clone(), entry.kernel_line)
            }
            other => other.clone(),
        };
        let Some(root) = entry.argument("root") else {
            let dracut = entry.cmdline.contains("rd.") || entry.argument("ostree").is_some();
            let content =
                case.report.kernels.iter().find(|kernel| Some(&kernel.path) == entry.kernel_path.as_ref());
            let content = content.and_then(|kernel| kernel.initramfs.as_ref()?.content.as_ref());
            let own = content.is_some_and(|content| {
                content.maker == Maker::InitramfsTools
                    && !content.texts.iter().any(|(_, text)| crate::text::assigned(text, "ROOT").is_some())
            });
            if own && !dracut {
                hits.add("the command line names no root=, and the initramfs knows no other", place);
            } else if !dracut && !entry.kernel.is_empty() {
                hits.add_as(Impact::Advice, "the command line names no root=", place);
            }
            continue;
        };
        match case.report.device(root) {
            Device::Missing => hits.add(format!("root={root} is not on this disk"), place),
            Device::Volume(index) => {
                let root_volume = case.report.roots.contains(&index);
                let node = root.strip_prefix("/dev/").and_then(crate::facts::fstab::disk_and_partition);
                if node.is_some() && !root.contains(case.place.disk_prefix) {
                    hits.add(
                        format!("root={root}: disks are called /dev/{}… there", case.place.disk_prefix),
                        place,
                    );
                } else if !root_volume && !case.report.roots.is_empty() {
                    hits.add(format!("root={root} is a volume without a system"), place);
                } else if let Some(what) = wrong_subvolume(case, index, entry) {
                    hits.add(what, place);
                } else if let Some(what) = wrong_type(case, index, entry) {
                    hits.add(what, place);
                }
            }
            Device::Unknown | Device::NotDisk => {}
        }
    }
}

/// What is wrong when the command line names a file system that the root is not.
fn wrong_type(case: &Case<'_>, index: usize, entry: &Entry) -> Option<String> {
    let named = entry.argument("rootfstype")?;
    let kind = case.report.volumes.get(index)?.probed.kind.as_str();
    let fits = named.split(',').any(|named| crate::facts::fstab::mounts_as(kind, named));
    (!fits).then(|| format!("rootfstype={named}, and the root is {kind}"))
}

/// What is wrong when the root is a btrfs and the system lies in another subvolume than the one that is mounted.
fn wrong_subvolume(case: &Case<'_>, index: usize, entry: &Entry) -> Option<String> {
    let volume = case.report.volumes.get(index).filter(|volume| volume.probed.content == Content::Btrfs)?;
    let flags = entry.argument("rootflags").unwrap_or_default();
    if crate::facts::root::btrfs_shows_system(volume, flags) != Some(false) {
        return None;
    }
    let mounted = match flags {
        "" => "its default subvolume (no rootflags=subvol=...)".to_owned(),
        flags => format!("rootflags={flags}"),
    };
    Some(format!("the root is a btrfs, and {mounted} shows no system"))
}

/// boot.kernel
pub(super) fn kernel(case: &Case<'_>, hits: &mut Hits) {
    let tree = &case.examination.tree;
    for entry in default_entries(case) {
        let path = match &entry.seen {
            Seen::File { path, .. } => path.clone(),
            _ => String::new(),
        };
        if entry.kernel_path.is_none() {
            hits.add(
                format!("{} is not there, and the loader is told to start it", entry.kernel),
                Seen::line(path.clone(), entry.kernel_line),
            );
        }
        if entry.initramfs.len() > entry.initramfs_paths.len() && entry.kernel_path.is_some() {
            let missing = entry.initramfs.last().map_or("", String::as_str);
            hits.add(
                format!("{missing} is not there, and the loader is told to load it"),
                Seen::line(path, entry.initramfs_line),
            );
        }
    }
    for kernel in case.report.kernels.iter().filter(|kernel| is_default(case, &kernel.path)) {
        if let Some(fault) = &kernel.fault {
            hits.add(format!("{}: {fault}", kernel.path), Seen::file(&kernel.path));
            continue;
        }
        if let Some(file) = &kernel.initramfs {
            if let Some(segment) = file.content.as_ref().and_then(|content| unpackable(case, kernel, content))
            {
                let what = format!(
                    "{} is packed with {segment}, and {} says that the kernel does not unpack that",
                    file.path,
                    kernel.config.as_deref().unwrap_or_default()
                );
                hits.add(what, Seen::file(&file.path));
            } else if file.len == 0 {
                hits.add(format!("{} is empty", file.path), Seen::file(&file.path));
            } else if let Some(content) = &file.content {
                if let Some(open) = &content.unread {
                    hits.unknown(format!("{}: {open}", file.path));
                } else if let Some(fault) = &content.fault {
                    hits.add(format!("{} is damaged: {fault}", file.path), Seen::file(&file.path));
                } else if !content.init {
                    hits.add(format!("{} holds no /init", file.path), Seen::file(&file.path));
                } else if let Some(lack) = super::initramfs::lacks(case, kernel, content) {
                    let what = format!("{} holds no {lack}, without which its /init stops", file.path);
                    hits.add(what, Seen::file(&file.path));
                } else if !content.releases.is_empty()
                    && !kernel.release.is_empty()
                    && !content.releases.contains(&kernel.release)
                {
                    let of: Vec<&str> = content.releases.iter().map(String::as_str).collect();
                    hits.add(
                        format!(
                            "{} has modules of {}, the kernel is {}",
                            file.path,
                            of.join(", "),
                            kernel.release
                        ),
                        Seen::file(&file.path),
                    );
                }
            }
        }
        let lost = match (&kernel.modules_dir, kernel.has_modules_dep) {
            (None, _) if !kernel.release.is_empty() && tree.exists("/lib/modules") => Some((
                format!("/lib/modules/{}", kernel.release),
                "is missing: no driver can be loaded after the start",
            )),
            (Some(dir), false) => {
                Some((format!("{dir}/modules.dep"), "is missing or empty: no driver can be loaded by name"))
            }
            _ => None,
        };
        if let Some((path, why)) = lost {
            match mount_without_driver(case, kernel) {
                Some(line) => hits.add(
                    format!("{path} {why}, and {} ({}) cannot be mounted", line.mount_point, line.kind),
                    Seen::file(path),
                ),
                None => hits.add_as(Impact::NoNetwork, format!("{path} {why}"), Seen::file(path)),
            }
        }
        if kernel.release.contains("xen") && kernel.config.is_none() {
            hits.add_as(Impact::Advice, "the kernel may be one for Xen only", Seen::file(&kernel.path));
        }
    }
}

/// The compression of an archive that the kernel's configuration leaves out.
fn unpackable(
    case: &Case<'_>,
    kernel: &crate::facts::kernel::Kernel,
    content: &crate::initramfs::Initramfs,
) -> Option<&'static str> {
    let text = case.examination.tree.text(kernel.config.as_deref()?)?;
    let compressions = content.segments.iter().map(|segment| segment.compression);
    compressions.filter(|compression| *compression != "none").find(|compression| {
        let off = format!("# CONFIG_RD_{} is not set", compression.to_uppercase());
        text.lines().any(|line| line == off)
    })
}

/// A line of fstab that the start needs and whose driver is neither in the kernel nor that of the root.
fn mount_without_driver<'a>(
    case: &'a Case<'_>,
    kernel: &crate::facts::kernel::Kernel,
) -> Option<&'a crate::facts::fstab::Line> {
    let root = case.report.root().map(|root| root.probed.kind.as_str());
    case.report.fstab.iter().find(|line| {
        let known = matches!(line.kind.as_str(), "vfat" | "xfs" | "btrfs" | "ext4" | "f2fs");
        let here = matches!(case.report.device(&line.device), Device::Volume(_));
        known
            && here
            && !line.optional()
            && Some(line.kind.as_str()) != root
            && !kernel.builtin.contains(&line.kind)
    })
}

/// Whether a default entry starts this kernel.
pub(super) fn is_default(case: &Case<'_>, path: &str) -> bool {
    default_entries(case).iter().any(|entry| entry.kernel_path.as_deref() == Some(path))
}

/// boot.console
pub(super) fn console(case: &Case<'_>, hits: &mut Hits) {
    if !matches!(case.place.id, "gcp" | "azure" | "aws" | "openstack" | "oracle") {
        return;
    }
    for entry in default_entries(case) {
        let serial = entry.arguments("console").iter().any(|console| {
            console.starts_with("ttyS") || console.starts_with("ttyAMA") || console.starts_with("hvc")
        });
        let place = match &entry.seen {
            Seen::File { path, .. } => Seen::line(path.clone(), entry.kernel_line),
            other => other.clone(),
        };
        if !serial {
            hits.add("no console=ttyS0 on the command line: the place's console shows nothing", place);
        } else if matches!(case.place.id, "gcp" | "azure")
            && let Some(word) = ["quiet", "rhgb", "splashimage"]
                .into_iter()
                .find(|word| entry.has(word) || entry.argument(word).is_some())
        {
            hits.add(format!("{word} on the command line keeps the start from being told"), place);
        }
    }
}

/// boot.crypt
pub(super) fn crypt(case: &Case<'_>, hits: &mut Hits) {
    for volume in &case.report.volumes {
        if matches!(volume.probed.content, Content::Luks | Content::BitLocker) {
            let at = volume.start().map_or(Seen::Volume { volume: volume.place.to_string() }, |disk_byte| {
                Seen::Disk { disk_byte }
            });
            let root = case.report.roots.is_empty();
            let what = format!("{} is encrypted ({})", volume.place, volume.probed.kind);
            if root {
                hits.add(format!("{what}: somebody must type its passphrase at every start"), at);
            } else {
                hits.add_as(Impact::Advice, what, at);
            }
        }
    }
    for line in &case.report.crypttab {
        if line.optional || case.report.device(&line.device) != Device::Missing {
            continue;
        }
        let seen = Seen::line("/etc/crypttab", line.line);
        let what = format!("{} ({}) is not on this disk", line.device, line.name);
        let mapped = format!("/dev/mapper/{}", line.name);
        let needed = case.report.fstab.iter().any(|mount| mount.device == mapped && !mount.optional());
        if needed {
            hits.add(format!("{what}, and fstab mounts it"), seen);
        } else {
            hits.add_as(Impact::Advice, format!("{what}: the start waits 90 seconds for it"), seen);
        }
    }
}

/// boot.dual
pub(super) fn dual(case: &Case<'_>, hits: &mut Hits) {
    if let Some(second) = case.report.roots.get(1).and_then(|index| case.report.volumes.get(*index)) {
        let seen = match &second.place {
            Where::Partition { start, .. } => Seen::Disk { disk_byte: *start },
            other => Seen::Volume { volume: other.to_string() },
        };
        hits.add(format!("{} holds a second system", second.place), seen);
    }
}
