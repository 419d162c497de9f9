//! What the first program of an initramfs needs to find in it.

use super::Case;
use super::boot::default_entries;
use crate::facts::kernel::Kernel;
use crate::initramfs::{Initramfs, Maker};

/// What the `/init` of initramfs-tools cannot do without and does not find (its `init`, `scripts/functions`,
/// `scripts/local`, `scripts/init-top/udev`).
pub(super) fn lacks(case: &Case<'_>, kernel: &Kernel, content: &Initramfs) -> Option<String> {
    if content.maker != Maker::InitramfsTools {
        return None;
    }
    // Names are kept without `usr/`.
    let holds = |name: &str| content.names.contains(name);
    let program = |name: &str| {
        ["bin", "sbin", "lib/klibc/bin"].iter().any(|dir| content.names.contains(&format!("{dir}/{name}")))
    };
    // `boot=` names the script that mounts the root.
    let mut entries = default_entries(case).into_iter();
    let entry = entries.find(|entry| entry.kernel_path.as_ref() == Some(&kernel.path));
    let script = format!("scripts/{}", entry.and_then(|entry| entry.argument("boot")).unwrap_or("local"));
    let texts = ["conf/initramfs.conf", "scripts/functions", &script];
    if let Some(missing) = texts.iter().find(|name| !holds(name)) {
        return Some((*missing).to_owned());
    }
    if !program("busybox")
        && let Some(missing) = ["sh", "mount", "run-init"].iter().find(|name| !program(name))
    {
        return Some(format!("program {missing}"));
    }
    if holds("scripts/init-top/udev") {
        let udevd = ["lib/systemd/systemd-udevd", "lib/udev/udevd", "sbin/udevd"];
        if !udevd.iter().any(|name| holds(name)) || !program("udevadm") {
            return Some("udev".to_owned());
        }
        let loader = |name: &String| name.rsplit('/').next().is_some_and(|base| base.starts_with("ld-"));
        if !content.names.iter().any(loader) {
            return Some("loader of dynamic programs".to_owned());
        }
    }
    None
}
