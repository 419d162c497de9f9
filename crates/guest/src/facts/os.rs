//! Which system it is.

use kiln_disk::interned::Word;
use kiln_disk::wire::{be16, le16};
use serde::{Deserialize, Serialize};

use crate::text::assigned;
use crate::tree::Tree;

/// A system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Os {
    /// `ID` of os-release: "debian".
    pub id: String,
    /// `ID_LIKE`, split.
    pub like: Vec<String>,
    /// `VERSION_ID`.
    pub version: String,
    /// `PRETTY_NAME`.
    pub name: String,
    /// What its programs run on: "x86_64", "aarch64", "i386", ...
    #[serde(deserialize_with = "kiln_disk::interned::maybe", default)]
    pub architecture: Option<Word>,
    /// The program that told the architecture.
    pub architecture_from: Option<String>,
    /// The last day of its maker's updates, "YYYY-MM-DD", where known here.
    #[serde(deserialize_with = "kiln_disk::interned::maybe", default)]
    pub end_of_life: Option<Word>,
    /// `/etc/hostname`.
    pub hostname: Option<String>,
    /// The init system: "systemd", "openrc", "busybox" or "other".
    #[serde(deserialize_with = "kiln_disk::interned::maybe", default)]
    pub init: Option<Word>,
}

/// Last days of updates, long-term support by the maker included, without what must be bought. From the makers'
/// pages, July 2026: Debian LTS wiki, ubuntu.com/about/release-cycle, access.redhat.com/support/policy,
/// en.opensuse.org/Lifetime, almalinux.org, rockylinux.org.
const END_OF_LIFE: [(&str, &str, &str); 31] = [
    ("debian", "8", "2020-06-30"),
    ("debian", "9", "2022-06-30"),
    ("debian", "10", "2024-06-30"),
    ("debian", "11", "2026-08-31"),
    ("debian", "12", "2028-06-30"),
    ("debian", "13", "2030-06-30"),
    ("ubuntu", "14.04", "2019-04-25"),
    ("ubuntu", "16.04", "2021-04-30"),
    ("ubuntu", "18.04", "2023-05-31"),
    ("ubuntu", "20.04", "2025-05-31"),
    ("ubuntu", "22.04", "2027-04-30"),
    ("ubuntu", "24.04", "2029-04-30"),
    ("centos", "6", "2020-11-30"),
    ("centos", "7", "2024-06-30"),
    ("centos", "8", "2021-12-31"),
    ("centos", "9", "2027-05-31"),
    ("rhel", "6", "2020-11-30"),
    ("rhel", "7", "2024-06-30"),
    ("rhel", "8", "2029-05-31"),
    ("rhel", "9", "2032-05-31"),
    ("rhel", "10", "2035-05-31"),
    ("rocky", "8", "2029-05-31"),
    ("rocky", "9", "2032-05-31"),
    ("rocky", "10", "2035-05-31"),
    ("almalinux", "8", "2029-05-31"),
    ("almalinux", "9", "2032-05-31"),
    ("almalinux", "10", "2035-05-31"),
    ("opensuse-leap", "15.4", "2023-12-07"),
    ("opensuse-leap", "15.5", "2024-12-31"),
    ("opensuse-leap", "15.6", "2026-04-30"),
    ("amzn", "2", "2026-06-30"),
];

/// Reads the system's description; `None` when there is no tree.
#[must_use]
pub fn read(tree: &Tree) -> Option<Os> {
    tree.mounts().next()?;
    let release = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| tree.text(path));
    let release = release.unwrap_or_default();
    let value = |key| assigned(&release, key).unwrap_or_default();
    let (mut id, mut version, mut name) = (value("ID"), value("VERSION_ID"), value("PRETTY_NAME"));
    if id.is_empty() {
        (id, version, name) = older(tree);
    }
    let major = version.split('.').next().unwrap_or_default();
    let end = END_OF_LIFE
        .iter()
        .find(|(known, release, _)| *known == id && (*release == version || *release == major))
        .map(|(_, _, end)| *end);
    let (architecture, architecture_from) = architecture(tree).unzip();
    Some(Os {
        id,
        like: value("ID_LIKE").split_whitespace().map(str::to_owned).collect(),
        version,
        name,
        architecture,
        architecture_from,
        end_of_life: end,
        hostname: tree
            .text("/etc/hostname")
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty()),
        init: init(tree),
    })
}

/// Systems from before os-release.
fn older(tree: &Tree) -> (String, String, String) {
    let files = [
        ("/etc/centos-release", "centos"),
        ("/etc/redhat-release", "rhel"),
        ("/etc/SuSE-release", "sles"),
        ("/etc/debian_version", "debian"),
        ("/etc/alpine-release", "alpine"),
        ("/etc/arch-release", "arch"),
    ];
    for (path, id) in files {
        let Some(text) = tree.text(path) else { continue };
        let first = text.lines().next().unwrap_or_default().trim().to_owned();
        let version = first.split(|c: char| !c.is_ascii_digit() && c != '.').find(|word| !word.is_empty());
        return (id.to_owned(), version.unwrap_or_default().to_owned(), first);
    }
    (String::new(), String::new(), String::new())
}

/// Programs that every system of its kind has.
const PROGRAMS: [&str; 8] = [
    "/usr/lib/systemd/systemd",
    "/lib/systemd/systemd",
    "/sbin/init",
    "/bin/sh",
    "/bin/busybox",
    "/usr/bin/ls",
    "/bin/ls",
    "/usr/bin/bash",
];

fn architecture(tree: &Tree) -> Option<(&'static str, String)> {
    PROGRAMS.iter().find_map(|path| Some((elf(&tree.head(path, 20).ok()?)?, (*path).to_owned())))
}

/// What an ELF file runs on (e_machine, System V ABI).
#[must_use]
pub fn elf(head: &[u8]) -> Option<&'static str> {
    if !head.starts_with(b"\x7fELF") {
        return None;
    }
    let machine = if head.get(5) == Some(&2) { be16(head, 18)? } else { le16(head, 18)? };
    Some(match (machine, head.get(4)) {
        (62, Some(2)) => "x86_64",
        (62 | 3, _) => "i386",
        (183, _) => "aarch64",
        (40, _) => "arm",
        (243, _) => "riscv64",
        (21, _) => "ppc64",
        (22, _) => "s390x",
        (258, _) => "loongarch64",
        _ => "other",
    })
}

fn init(tree: &Tree) -> Option<&'static str> {
    let systemd = ["/usr/lib/systemd/systemd", "/lib/systemd/systemd"];
    if systemd.iter().any(|path| tree.exists(path)) {
        return Some("systemd");
    }
    if ["/sbin/openrc", "/usr/sbin/openrc", "/usr/bin/openrc"].iter().any(|path| tree.exists(path)) {
        return Some("openrc");
    }
    if tree.read_link("/sbin/init").is_ok_and(|target| target.ends_with("busybox")) {
        return Some("busybox");
    }
    tree.exists("/sbin/init").then_some("other")
}

/// Installed packages by dpkg's or apk's own list.
#[must_use]
pub fn packages(tree: &Tree) -> Option<u64> {
    let count = |path: &str, line: &str| {
        let bytes = tree.read(path, 64 << 20).ok()?;
        let found =
            bytes.split(|byte| *byte == b'\n').filter(|found| found.starts_with(line.as_bytes())).count();
        u64::try_from(found).ok()
    };
    count("/var/lib/dpkg/status", "Status: install ok installed")
        .or_else(|| count("/lib/apk/db/installed", "P:"))
}
