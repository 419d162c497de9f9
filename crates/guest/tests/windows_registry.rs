//! What the registry of a Windows says beside the way to its start: where it is found, and what is said when it cannot be
//! read. What each case comes to is in `windows.rs`.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use kiln_disk::{Budget, Disk, FileSource, Limits};
use kiln_guest::facts::{Depth, Seen};
use kiln_guest::rules::{Options, Verdict, place};
use kiln_guest::{Judgement, examine, judge};
use kiln_testkit::flat::Flat;
use kiln_testkit::windows::{FIREWALL, SERVICING, Windows, texts};

const SERVICES: &str = "ControlSet001\\Services";
const RESTRICTIONS: &str = "Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions";

fn said(disk: &Path, target: &str) -> Judgement {
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(disk).unwrap()));
    let examination = examine(&[disk], &Arc::new(Budget::new(Limits::INSPECT)), Depth::Full).unwrap();
    judge(&examination, place(target).unwrap(), &Options::default())
}

/// Hive and key are named so that a person finds them.
#[test]
fn findings_of_the_registry_name_hive_and_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut windows = Windows::new(false);
    windows.software.set("Microsoft\\Windows NT\\CurrentVersion", "CurrentBuildNumber", "string:7601");
    windows.software.package("Package_for_KB5014738~31bf3856ad364e35~amd64~~6.1.1.4", 0x80);
    windows.system.set(&format!("{SERVICES}\\PlugPlay\\Parameters"), "DeviceInstallDisabled", "dword:2");
    windows.software.set(RESTRICTIONS, "DenyUnspecified", "dword:1");
    windows.system.remove(&format!("{FIREWALL}\\FirewallRules"));
    let memory = "ControlSet001\\Control\\Session Manager\\Memory Management";
    windows.system.set(memory, "PagingFiles", &texts(&["E:\\pagefile.sys"]));
    let judgement = said(&windows.write(dir.path(), "keys"), "openstack");
    let found: Vec<(&str, Seen)> =
        judgement.findings.iter().map(|finding| (finding.id, finding.at.clone())).collect();
    let key = |hive: &str, key: &str| Seen::file(format!("/Windows/System32/config/{hive}\\{key}"));
    let package = format!("{SERVICING}\\Packages");
    assert_eq!(
        found,
        [
            ("win.firewall", key("SYSTEM", &format!("{FIREWALL}\\PublicProfile"))),
            (
                "win.hotfix",
                key("SOFTWARE", &format!("{package}\\Package_for_KB5014738~31bf3856ad364e35~amd64~~6.1.1.4"))
            ),
            ("win.sha2", key("SOFTWARE", &package)),
            ("win.devinstall", key("SYSTEM", &format!("{SERVICES}\\PlugPlay\\Parameters"))),
            ("win.devinstall", key("SOFTWARE", &format!("{RESTRICTIONS}\\DenyUnspecified"))),
            ("win.pagefile", key("SYSTEM", memory)),
        ]
    );
}

/// A list of updates that is damaged says nothing about the start, and is not passed over either.
#[test]
fn damaged_list_of_updates_is_an_open_question_and_no_damaged_hive() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Windows::new(false).write(dir.path(), "windows");
    let bytes = std::fs::read(&disk).unwrap();
    let name = b"Package_for_RollupFix";
    let places: Vec<usize> =
        (76..bytes.len() - name.len()).filter(|at| bytes[*at..].starts_with(name)).collect();
    let file = std::fs::OpenOptions::new().write(true).open(&disk).unwrap();
    for at in places {
        assert_eq!(&bytes[at - 76..at - 74], b"nk");
        file.write_all_at(b"xx", at as u64 - 76).unwrap();
    }
    let judgement = said(&disk, "kvm");
    assert_eq!((judgement.verdict, judgement.findings.as_slice()), (Verdict::Boots, &[][..]));
    let open: Vec<(&str, &str)> =
        judgement.unanswered.iter().map(|open| (open.id, open.why.as_str())).collect();
    assert!(
        matches!(open.as_slice(), [("win.hotfix", why)] if why.contains("the list of updates cannot be read") && why.contains("holds no key")),
        "{open:?}"
    );
}
