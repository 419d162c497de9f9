//! Rules of what systemd is told to start, and of what it needs for that.

use super::{Case, Hits, Impact};
use crate::facts::{Seen, program};
use crate::tree::Tree;

/// Units that a start takes whoever requires them.
const ALWAYS: [&str; 3] = ["sysinit.target", "basic.target", "systemd-udevd.service"];
/// Units that are looked at.
const MAX_REQUIRED: usize = 64;
/// Where systemd looks for units, the first first.
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// Targets at which nobody can log in without typing the password of root, or nobody at all.
pub(super) const STOPPING: [&str; 8] = [
    "rescue.target",
    "emergency.target",
    "poweroff.target",
    "reboot.target",
    "halt.target",
    "kexec.target",
    "exit.target",
    "shutdown.target",
];

/// The target of a link that lies in `dir`.
fn absolute(dir: &str, target: &str) -> String {
    if target.starts_with('/') { target.to_owned() } else { format!("{dir}/{target}") }
}

/// Whether a path lies in a directory of units, by whatever way it goes there.
fn among_units(tree: &Tree, path: &str) -> bool {
    let Some((dir, _)) = path.rsplit_once('/') else { return false };
    let real = |dir: &str| tree.resolve(dir.as_bytes(), true).ok();
    real(dir).is_some_and(|found| UNITS.iter().any(|units| real(units).as_ref() == Some(&found)))
}

/// What systemd is told to start.
pub(super) fn targets(case: &Case<'_>, hits: &mut Hits) {
    let tree = &case.examination.tree;
    let masked = |unit: &str| {
        let path = format!("/etc/systemd/system/{unit}");
        tree.read_link(&path).is_ok_and(|target| target == "/dev/null") || {
            tree.exists(&path)
                && tree.stat(&path).is_ok_and(|stat| stat.len == 0 && stat.kind == crate::fs::Kind::File)
        }
    };
    let there = |unit: &str| UNITS.iter().any(|dir| tree.exists(&format!("{dir}/{unit}")));
    let own = "/etc/systemd/system/default.target";
    // A link into a directory of units is another name of the unit that its target is called like, even of one that
    // lies in another of them; a link to elsewhere is the file there (systemd, `unit_file_resolve_symlink`).
    let mut unit = "default.target".to_owned();
    for _ in 0..8 {
        let link = UNITS.iter().find_map(|dir| {
            let path = format!("{dir}/{unit}");
            tree.exists_link(&path).then(|| tree.read_link(&path).ok().map(|target| absolute(dir, &target)))
        });
        match link {
            Some(Some(target)) if target != "/dev/null" && !among_units(tree, &target) => {
                if tree.exists(&target) {
                    break;
                }
                let what = format!(
                    "default.target is {target}, which is not there: systemd goes to its rescue shell"
                );
                return hits.add(what, Seen::file(own));
            }
            Some(Some(target)) => {
                if target == "/dev/null" {
                    return hits.add(
                        "default.target is masked: systemd does not know what to start",
                        Seen::file(own),
                    );
                }
                unit = target.rsplit('/').next().unwrap_or_default().to_owned();
            }
            Some(None) => break,
            None => {
                let what = format!(
                    "default.target leads to {unit}, which is not there: systemd goes to its rescue shell"
                );
                return hits.add(what, Seen::file(own));
            }
        }
    }
    if STOPPING.contains(&unit.as_str()) {
        return hits.add(format!("default.target is {unit}: the system does not come up"), Seen::file(own));
    }
    let needed = required(tree, &unit);
    for Required { unit, by } in &needed {
        if masked(unit) && there(unit) {
            hits.add(
                format!("{unit} is masked: nothing that needs it is started"),
                Seen::file(format!("/etc/systemd/system/{unit}")),
            );
        } else if !there(unit) && !tree.exists_link(&format!("/etc/systemd/system/{unit}")) {
            hits.add(
                format!("{unit} is not there, and {by} requires it: systemd stops"),
                Seen::file(by.clone()),
            );
        }
    }
    programs(case, hits);
}

/// A unit that another requires.
struct Required {
    unit: String,
    /// The file of the other.
    by: String,
}

/// The targets that the start of one takes, by `Requires=` and the directory beside it; the unit of devices as well, for
/// which everything waits.
fn required(tree: &Tree, unit: &str) -> Vec<Required> {
    let mut found = vec![Required { unit: unit.to_owned(), by: "default.target".to_owned() }];
    let mut at = 0;
    while let Some(unit) = found.get(at).map(|one| one.unit.clone()).filter(|_| found.len() < MAX_REQUIRED) {
        at = at.saturating_add(1);
        let Some((path, text)) = file(tree, &unit) else { continue };
        let listed = text.lines().filter_map(|line| line.trim().strip_prefix("Requires="));
        let mut names: Vec<String> =
            listed.flat_map(|value| value.split_whitespace().map(str::to_owned)).collect();
        for dir in UNITS {
            names.extend(tree.names(&format!("{dir}/{unit}.requires")));
        }
        for name in names.into_iter().filter(|name| name.ends_with(".target")) {
            if !found.iter().any(|known| known.unit == name) {
                found.push(Required { unit: name, by: path.clone() });
            }
        }
    }
    for name in ALWAYS {
        if !found.iter().any(|known| known.unit == name)
            && UNITS.iter().any(|dir| tree.exists(&format!("{dir}/{name}")))
        {
            found.push(Required { unit: name.to_owned(), by: String::new() });
        }
    }
    found
}

/// A unit's file: where it is, and its text.
fn file(tree: &Tree, unit: &str) -> Option<(String, String)> {
    let mut paths = UNITS.iter().map(|dir| format!("{dir}/{unit}"));
    paths.find_map(|path| tree.text(&path).map(|text| (path, text)))
}

/// The program that a unit starts: in `ExecStart=` it stands behind signs (systemd.service(5)).
fn starts(tree: &Tree, unit: &str) -> Option<String> {
    let (_, text) = file(tree, unit)?;
    let value = text.lines().find_map(|line| line.trim().strip_prefix("ExecStart="))?;
    let signs = ['@', '-', ':', '+', '!', '|'];
    value.trim_start_matches(signs).split_whitespace().next().map(str::to_owned)
}

/// Programs without which a start by systemd does not come to its end.
fn programs(case: &Case<'_>, hits: &mut Hits) {
    let tree = &case.examination.tree;
    let started = starts(tree, "systemd-udevd.service").and_then(|program| program::fault(tree, &program));
    if let Some(fault) = started {
        let what =
            format!("{} {}: udev does not start, and systemd waits for every device", fault.path, fault.why);
        hits.add(what, Seen::file(fault.path));
    }
    let mounted = super::mounts::needed(case).any(|line| case.stops_without(line));
    if let (true, Some(fault)) = (mounted, program::fault(tree, "/bin/mount")) {
        let what = format!("{} {}: what fstab names cannot be mounted", fault.path, fault.why);
        hits.add(what, Seen::file(fault.path));
    }
    // A system that asks at no console is made so; one that has the program's unit was not.
    let prompt = starts(tree, "getty@.service").and_then(|program| match program::fault(tree, &program) {
        Some(fault) => Some((format!("{} {}", fault.path, fault.why), fault.path)),
        None if file(tree, "getty.target").is_none() => {
            Some(("getty.target is not there".to_owned(), "/usr/lib/systemd/system/getty.target".to_owned()))
        }
        None => None,
    });
    if let Some((what, path)) = prompt {
        let impact = if case.report.ssh.enabled { Impact::Advice } else { Impact::NoLogin };
        hits.add_as(impact, format!("{what}: no console asks for a login"), Seen::file(path));
    }
}
