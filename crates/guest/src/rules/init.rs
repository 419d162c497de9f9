//! Rules of the first program: what the kernel is told to run, whether it can be run, what it is told to start.

use super::boot::default_entries;
use super::systemd::{self, STOPPING};
use super::{Case, Hits, Impact};
use crate::facts::loader::Entry;
use crate::facts::{Seen, program};
use crate::initramfs::Maker;
use crate::tree::Tree;

/// Programs that are no system.
const SHELLS: [&str; 6] = ["sh", "bash", "dash", "ash", "busybox", "zsh"];
/// What is tried when nothing is named, by initramfs-tools and by the kernel (`init/main.c`).
const FIRST: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];
fn place(entry: &Entry) -> Seen {
    match &entry.seen {
        Seen::File { path, .. } if !matches!(entry.loader, "bls" | "systemd-boot") => {
            Seen::line(path.clone(), entry.kernel_line)
        }
        other => other.clone(),
    }
}

/// The initramfs' maker, where a default entry has one.
pub(super) fn maker(case: &Case<'_>, entry: &Entry) -> Option<Maker> {
    let kernel =
        case.report.kernels.iter().find(|kernel| Some(&kernel.path) == entry.kernel_path.as_ref())?;
    Some(kernel.initramfs.as_ref()?.content.as_ref()?.maker)
}

/// boot.cmdline
pub(super) fn cmdline(case: &Case<'_>, hits: &mut Hits) {
    for entry in default_entries(case) {
        for word in entry.cmdline.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let what = match key {
                "single" | "s" | "S" | "1" | "rescue" if value.is_empty() => {
                    "starts the rescue shell, which asks for the password of root"
                }
                "emergency" | "-b" if value.is_empty() => {
                    "starts the emergency shell, which asks for the password of root"
                }
                "break" | "rd.break" => "stops in a shell of the initramfs",
                "systemd.unit" if STOPPING.contains(&value) => "is no unit in which the system is up",
                "init" if SHELLS.contains(&value.rsplit('/').next().unwrap_or_default()) => {
                    "starts a shell in place of the system"
                }
                "rdinit" if !value.is_empty() && value != "/init" => "replaces the initramfs' own program",
                _ => continue,
            };
            hits.add(format!("{word} on the command line {what}"), place(entry));
        }
    }
}

/// boot.rootdelay: Azure's pages ask for it where the root lies on a disk that the hypervisor shows late.
pub(super) fn root_delay(case: &Case<'_>, hits: &mut Hits) {
    for entry in default_entries(case).into_iter().filter(|_| case.place.id == "azure") {
        if entry.argument("rootdelay").is_none() {
            hits.add("no rootdelay=300 on the command line", place(entry));
        }
    }
}

/// The first kernel whose NUMA works with the tables of Hyper-V.
const NUMA: (u32, u32, u32) = (2, 6, 37);

/// boot.numa
pub(super) fn numa(case: &Case<'_>, hits: &mut Hits) {
    for entry in default_entries(case).into_iter().filter(|_| case.place.id == "azure") {
        let kernel = case.report.kernels.iter().find(|it| Some(&it.path) == entry.kernel_path.as_ref());
        let Some(kernel) = kernel else { continue };
        let old = version(&kernel.release).is_some_and(|version| version < NUMA);
        if old && entry.argument("numa") != Some("off") {
            let what = format!("numa=off is not on the command line, and the kernel is {}", kernel.release);
            hits.add(what, place(entry));
        }
    }
}

/// The three numbers that a kernel's release begins with.
fn version(release: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = release.split(['.', '-', '_', '+']).map_while(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?, numbers.next().unwrap_or(0)))
}

/// boot.acpi
pub(super) fn acpi(case: &Case<'_>, hits: &mut Hits) {
    for entry in default_entries(case) {
        if let Some(word) = ["off", "0"].into_iter().find(|word| entry.argument("acpi") == Some(word)) {
            let what = format!("acpi={word} on the command line switches off what the place talks to it by");
            hits.add(what, place(entry));
        }
    }
}

/// init.systemd
pub(super) fn init(case: &Case<'_>, hits: &mut Hits) {
    if !case.is_linux() {
        return;
    }
    let tree = &case.examination.tree;
    let entries = default_entries(case);
    let named = entries.iter().find_map(|entry| Some((entry.argument("init")?, entry)));
    let mut first = None;
    if let Some((path, entry)) = named {
        if SHELLS.contains(&path.rsplit('/').next().unwrap_or_default()) {
            return;
        }
        if tree.exists(path) {
            first = Some(path.to_owned());
        } else if maker(case, entry).is_none() {
            return hits.add(format!("init={path} is not there: the kernel stops"), place(entry));
        } else {
            hits.add_as(
                Impact::Advice,
                format!("init={path} is not there: the initramfs takes /sbin/init"),
                place(entry),
            );
        }
    }
    let systemd = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
    // What initramfs-tools or the kernel itself would take; dracut with systemd inside looks for systemd first.
    let dracut = entries.iter().any(|entry| maker(case, entry) == Some(Maker::Dracut));
    let usual = FIRST
        .iter()
        .filter(|path| {
            program::fault(tree, path).is_none_or(|fault| fault.path != **path) && tree.exists(path)
        })
        .map(|path| (*path).to_owned())
        .next();
    let usual = match (dracut, systemd.iter().find(|path| tree.exists(path))) {
        (true, Some(path)) => Some((*path).to_owned()),
        _ => usual,
    };
    let Some(path) = first.or(usual).filter(|path| path != "/bin/sh") else {
        let why = match program::fault(tree, "/sbin/init") {
            Some(fault) if fault.why != "is not there" => format!("{} {}", fault.path, fault.why),
            _ => "/sbin/init is not there".to_owned(),
        };
        return hits.add(format!("{why}: the kernel has nothing to run"), Seen::file("/sbin/init"));
    };
    if let Some(fault) = program::fault(tree, &path) {
        let what = match fault.path == path {
            true => format!("{} {}", fault.path, fault.why),
            false => format!("{} {}: {path} cannot be run", fault.path, fault.why),
        };
        return hits.add(what, Seen::file(fault.path));
    }
    if let Some(of) = program::architecture(tree, &path) {
        let runs = |kernel: &str| kernel == of || (kernel == "x86_64" && of == "i386");
        let kernels = case.report.kernels.iter().filter(|kernel| super::boot::is_default(case, &kernel.path));
        if let Some(other) = kernels.filter_map(|kernel| kernel.architecture).find(|kernel| !runs(kernel)) {
            let what = format!("{path} is a program for {of}, the kernel is for {other}");
            return hits.add(what, Seen::file(path));
        }
    }
    for dir in ["/dev", "/proc", "/sys", "/run"] {
        if tree.list("/").is_ok() && !tree.exists(dir) {
            hits.add(
                format!("the directory {dir} is missing: nothing can be mounted there"),
                Seen::file(dir),
            );
        }
    }
    if says(tree, &path, SYSVINIT) {
        return runlevel(tree, hits);
    }
    if says(tree, &path, RUNIT) {
        if let Some(fault) = program::fault(tree, STAGE_2) {
            let what = format!("{} {}: runit goes on to its last stage, and off", fault.path, fault.why);
            hits.add(what, Seen::file(fault.path));
        }
        return;
    }
    if case.report.os.as_ref().is_some_and(|os| os.init == Some("systemd"))
        && !entries.iter().any(|entry| entry.argument("systemd.unit").is_some())
    {
        systemd::targets(case, hits);
    }
}

/// What no other program than System V's init asks.
const SYSVINIT: &[u8] = b"Enter runlevel";
/// What runit's first program starts.
const RUNIT: &[u8] = b"/sbin/runit";
/// What runs the services of runit.
const STAGE_2: &str = "/etc/runit/2";

/// Whether a program holds these words.
fn says(tree: &Tree, path: &str, words: &[u8]) -> bool {
    tree.read(path, 4 << 20).is_ok_and(|bytes| bytes.windows(words.len()).any(|here| here == words))
}

/// What the table of System V's init tells it to come to (inittab(5): `id:runlevels:action:process`).
fn runlevel(tree: &Tree, hits: &mut Hits) {
    const TABLE: &str = "/etc/inittab";
    let Some(text) = tree.text(TABLE) else {
        let what = "/etc/inittab is missing: init asks the console for a runlevel, and waits";
        return hits.add(what, Seen::file(TABLE));
    };
    for (number, line) in (1..).zip(text.lines()) {
        let mut fields = line.split(':');
        let (id, levels, action) = (fields.next(), fields.next(), fields.next());
        if id.is_none_or(|id| id.starts_with('#')) || action != Some("initdefault") {
            continue;
        }
        // Of several levels init takes the highest (sysvinit `init.c`, get_init_default).
        let what = match levels.unwrap_or_default().chars().max() {
            None => break,
            Some('0') => "0, which is off",
            Some('6') => "6: the machine starts again and again",
            Some('1' | 's' | 'S') => "for one user, who is asked for the password of root",
            _ => return,
        };
        return hits.add(format!("the default runlevel is {what}"), Seen::line(TABLE, number));
    }
    hits.add("no default runlevel is named: init asks the console for one, and waits", Seen::file(TABLE));
}

#[cfg(test)]
mod tests {
    use super::{NUMA, version};

    #[test]
    fn kernels_without_a_working_numa_are_those_before_2_6_37() {
        for (release, old) in [
            ("2.6.32-754.el6.x86_64", Some(true)),
            ("2.6.37-1", Some(false)),
            ("3.10.0-1160.el7.x86_64", Some(false)),
            ("6.1.0-40-cloud-amd64", Some(false)),
            ("6.12", Some(false)),
            ("next", None),
        ] {
            assert_eq!(version(release).map(|version| version < NUMA), old, "{release}");
        }
    }
}
