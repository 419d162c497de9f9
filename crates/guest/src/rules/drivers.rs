//! Rules of drivers: in the kernel, in the initramfs, in `/lib/modules`.

use super::boot::is_default;
use super::{Case, Hits, Impact};
use crate::facts::Seen;
use crate::facts::kernel::{Kernel, When};
use crate::volume::{Content, Place as Where};

/// The default kernels that can be judged.
fn kernels<'a>(case: &'a Case<'_>) -> impl Iterator<Item = &'a Kernel> {
    case.report.kernels.iter().filter(|kernel| is_default(case, &kernel.path) && kernel.fault.is_none())
}

/// The needs of a place that one rule speaks for.
fn needs(case: &Case<'_>, rule: &str, hits: &mut Hits) {
    for need in case.place.needs.iter().filter(|need| need.rule == rule) {
        for kernel in kernels(case) {
            if damaged(case, kernel) {
                continue;
            }
            if !kernel.known(need.when) {
                hits.unknown(format!("the drivers of {} cannot be listed", kernel.path));
                continue;
            }
            let mut missing = Vec::new();
            for group in need.groups {
                let found: Vec<Result<(), String>> =
                    group.iter().map(|module| kernel.has(module, need.when)).collect();
                if found.iter().all(Result::is_err) {
                    let names: Vec<String> = found.into_iter().filter_map(Result::err).collect();
                    missing.push(names.join(" or "));
                }
            }
            if missing.is_empty() {
                continue;
            }
            let what = missing.join(", ");
            match need.when {
                When::Early => {
                    let place = match &kernel.initramfs {
                        Some(file) => format!("in {} or in the kernel {}", file.path, kernel.release),
                        None => {
                            format!("in the kernel {}, which is started without initramfs", kernel.release)
                        }
                    };
                    let loadable = need
                        .groups
                        .iter()
                        .all(|group| group.iter().any(|module| kernel.has(module, When::Late).is_ok()));
                    let fix = early_fix(case, need.groups, loadable, &kernel.release);
                    hits.add_fix(format!("{what}: not {place}"), kernel.early_place(), fix);
                }
                When::Late => {
                    let dir = kernel
                        .modules_dir
                        .clone()
                        .unwrap_or_else(|| format!("/lib/modules/{}", kernel.release));
                    hits.add(format!("{what}: not in {dir} or in the kernel"), Seen::file(dir));
                }
            }
        }
    }
}

/// Commands for this guest's way of making an initramfs.
fn early_fix(case: &Case<'_>, groups: &[&[&str]], loadable: bool, release: &str) -> String {
    let modules: Vec<&str> = groups.iter().filter_map(|group| group.first().copied()).collect();
    let names = modules.join(" ");
    let tree = &case.examination.tree;
    if !loadable {
        return format!(
            "install a kernel that has {names}, for example: apt install linux-image-amd64, or dnf install kernel-modules"
        );
    }
    if tree.exists("/usr/sbin/update-initramfs") {
        return format!(
            "printf '%s\\n' {names} >>/etc/initramfs-tools/modules && update-initramfs -u -k {release}"
        );
    }
    if tree.exists("/usr/bin/mkinitcpio") {
        return format!("add {names} to MODULES=() in /etc/mkinitcpio.conf, then: mkinitcpio -P");
    }
    if ["/usr/bin/dracut", "/usr/sbin/dracut"].iter().any(|dracut| tree.exists(dracut)) {
        return format!(
            "echo 'add_drivers+=\" {names} \"' >/etc/dracut.conf.d/kiln.conf && dracut -f --kver {release}"
        );
    }
    format!("have the program that makes this guest's initramfs put {names} into that of {release}")
}

/// Whether the initramfs is missing or stops early: what is not in it then says nothing, and boot.kernel has named it.
fn damaged(case: &Case<'_>, kernel: &Kernel) -> bool {
    let unread = kernel.initramfs.as_ref().is_some_and(|file| {
        file.len == 0 || file.content.as_ref().is_some_and(|content| content.fault.is_some() || !content.init)
    });
    unread
        || case.report.boot.entries.iter().any(|entry| {
            entry.kernel_path.as_deref() == Some(&kernel.path)
                && entry.initramfs.len() > entry.initramfs_paths.len()
        })
}

macro_rules! needing {
    ($($name:ident => $id:literal),* $(,)?) => {
        $(
            #[doc = $id]
            pub(super) fn $name(case: &Case<'_>, hits: &mut Hits) {
                needs(case, $id, hits);
            }
        )*
    };
}

needing! {
    virtio => "kmod.virtio",
    scsi_virtio => "kmod.scsi-virtio",
    nvme => "kmod.nvme",
    ena => "kmod.ena",
    gve => "kmod.gve",
    xen => "kmod.xen",
    hyperv => "kmod.hyperv",
    vmware => "kmod.vmware",
    net => "kmod.net",
}

/// kmod.fs
pub(super) fn fs(case: &Case<'_>, hits: &mut Hits) {
    let Some(root) = case.report.root() else { return };
    let module = match (root.probed.content, root.probed.kind.as_str()) {
        // One driver reads all three where ext4 is built so; the older ones have their own.
        (Content::Ext, _) => "ext4",
        (Content::Xfs, _) => "xfs",
        (Content::Btrfs, _) => "btrfs",
        _ => return,
    };
    for kernel in kernels(case) {
        if damaged(case, kernel) {
            continue;
        }
        if !kernel.known(When::Early) {
            hits.unknown(format!("the drivers of {} cannot be listed", kernel.path));
            continue;
        }
        if let Err(missing) = kernel.has(module, When::Early) {
            let older = root.probed.kind != "ext4" && kernel.has(&root.probed.kind, When::Early).is_ok();
            if !older {
                let fix = early_fix(case, &[&[module]], true, &kernel.release);
                hits.add_fix(
                    format!(
                        "{missing}: the root is {}, and its driver is not in the initramfs",
                        root.probed.kind
                    ),
                    kernel.early_place(),
                    fix,
                );
            }
        }
        if matches!(root.place, Where::Lvm { .. }) {
            if let Err(missing) = kernel.has("dm_mod", When::Early) {
                let fix = early_fix(case, &[&["dm_mod"]], true, &kernel.release);
                hits.add_fix(format!("{missing}: the root is a logical volume"), kernel.early_place(), fix);
            }
            let content = kernel.initramfs.as_ref().and_then(|file| file.content.as_ref());
            if content.is_some_and(|content| !content.has_lvm) {
                let fix = if case.examination.tree.exists("/usr/sbin/update-initramfs") {
                    "apt install lvm2 && update-initramfs -u -k all".to_owned()
                } else {
                    format!("dracut -f --add lvm --kver {}", kernel.release)
                };
                hits.add_fix(
                    "lvm: the root is a logical volume, and the initramfs cannot activate it",
                    kernel.early_place(),
                    fix,
                );
            }
        }
    }
}

/// kmod.blacklist
pub(super) fn blacklist(case: &Case<'_>, hits: &mut Hits) {
    if case.place.id == "azure" {
        seed(case, hits);
    }
    let early: Vec<&str> = case
        .place
        .needs
        .iter()
        .filter(|need| {
            need.when == When::Early
                && case
                    .options
                    .severities
                    .of(case.place, need.rule, Impact::WillNotBoot)
                    .is_some_and(Impact::stops)
        })
        .flat_map(|need| {
            need.groups.iter().filter(|group| group.len() == 1).flat_map(|group| group.iter().copied())
        })
        .collect();
    for entry in case.report.boot.entries.iter().filter(|entry| entry.default) {
        for key in ["module_blacklist", "modprobe.blacklist", "rd.driver.blacklist"] {
            for value in entry.arguments(key) {
                for module in value.split(',').map(|module| module.replace('-', "_")) {
                    let built_in = kernels(case).any(|kernel| kernel.builtin.contains(&module));
                    if early.contains(&module.as_str()) && !built_in {
                        let place = match &entry.seen {
                            Seen::File { path, .. } => Seen::line(path.clone(), entry.kernel_line),
                            other => other.clone(),
                        };
                        hits.add(
                            format!("{key}={module} on the command line forbids a driver that is needed"),
                            place,
                        );
                    }
                }
            }
        }
    }
    for kernel in kernels(case) {
        let Some(content) = kernel.initramfs.as_ref().and_then(|file| file.content.as_ref()) else {
            continue;
        };
        for module in content.blacklist.iter().filter(|module| early.contains(&module.as_str())) {
            if !kernel.builtin.contains(module) {
                hits.add(
                    format!("the configuration inside the initramfs forbids {module}, which is needed"),
                    kernel.early_place(),
                );
            }
        }
    }
}

/// Azure gives a new machine its user on a disk of UDF, and its agent reads VFAT: neither may be forbidden ("Prepare
/// Linux for imaging").
fn seed(case: &Case<'_>, hits: &mut Hits) {
    let tree = &case.examination.tree;
    for dir in ["/etc/modprobe.d", "/usr/lib/modprobe.d"] {
        for name in tree.names(dir).iter().filter(|name| name.ends_with(".conf")) {
            let path = format!("{dir}/{name}");
            let text = tree.text(&path).unwrap_or_default();
            for (number, line) in crate::text::lines(&text) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let module = match words.as_slice() {
                    ["blacklist", module, ..] => module,
                    ["install", module, program, ..]
                        if ["/true", "/false"].iter().any(|end| program.ends_with(end)) =>
                    {
                        module
                    }
                    _ => continue,
                };
                if matches!(*module, "udf" | "vfat") {
                    let what = format!("{module} is forbidden, and by it the machine gets its user");
                    hits.add_as(Impact::NoLogin, what, Seen::line(path.clone(), number));
                }
            }
        }
    }
}
