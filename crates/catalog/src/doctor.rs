//! Is this host fit to keep images? One row for each thing looked at, none of them an error of the command.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use kiln_disk::os;
use serde::Serialize;

use crate::error::{Error, Result};
use crate::fsck::words;
use crate::jobs::KEPT_DAYS;
use crate::kvm::{self, Verdict};
use crate::lock::{self, Share};
use crate::store::Store;

/// What is thought of one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// As it should be.
    Good,
    /// Works, with a risk or a cost.
    Poor,
    /// Does not work.
    Bad,
    /// Not looked at.
    Unknown,
}

impl Health {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Poor => "poor",
            Self::Bad => "BAD",
            Self::Unknown => "unknown",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its id.
    pub id: &'static str,
    /// What is thought of it.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it.
    pub hint: Option<&'static str>,
}

fn row(id: &'static str, health: Health, found: impl Into<String>, hint: &'static str) -> Row {
    let hint = (!hint.is_empty() && health != Health::Good).then_some(hint);
    Row { id, health, found: found.into(), hint }
}

/// Looks at the store in a directory and at the host. `path` is where programs are looked for.
///
/// # Errors
/// None: what cannot be looked at is a row.
#[must_use]
pub fn examine(store: &Path, path: Option<&OsStr>) -> Vec<Row> {
    let mut rows = Vec::new();
    match Store::open(store) {
        Ok(store) => {
            rows.push(row("store.open", Health::Good, store.path().display().to_string(), ""));
            rows.extend(store_rows(&store));
        }
        Err(error) => {
            let health = if error.code() == "store.missing" { Health::Unknown } else { Health::Bad };
            let hint = "kiln import makes a store; kiln store fsck and rebuild mend one";
            rows.push(row("store.open", health, words(&error), hint));
        }
    }
    let nearest = store.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
    rows.push(file_system(nearest));
    rows.push(space(nearest));
    rows.push(clock());
    let qemu = program("qemu-system-x86_64", path);
    for (id, name, hint) in [
        ("tool.qemu-system", "qemu-system-x86_64", "apt install qemu-system-x86, to launch images"),
        (
            "tool.qemu-img",
            "qemu-img",
            "apt install qemu-utils, to compare with another program; kiln does not need it",
        ),
    ] {
        rows.push(match program(name, path) {
            Some(found) => row(id, Health::Good, found.display().to_string(), ""),
            None => row(id, Health::Poor, format!("{name} is not there"), hint),
        });
    }
    rows.push(kvm(qemu.as_deref(), nearest));
    rows
}

fn store_rows(store: &Store) -> Vec<Row> {
    let mut rows = Vec::new();
    rows.push(match lock::try_now(&store.layout.store_json(), Share::Exclusive) {
        Ok(Some(_)) => row("store.lock", Health::Good, "free", ""),
        Ok(None) => {
            row("store.lock", Health::Unknown, "a command holds it", "kiln jobs shows what is running")
        }
        Err(error) => {
            row("store.lock", Health::Bad, words(&error), "choose a file system with locks for the store")
        }
    });
    let integrity = || -> Result<Vec<String>> { store.index()?.integrity() };
    rows.push(match integrity() {
        Ok(problems) if problems.is_empty() => row("store.index", Health::Good, "sound", ""),
        Ok(problems) => row("store.index", Health::Bad, problems.join("; "), "kiln store rebuild"),
        Err(error) => row("store.index", Health::Bad, words(&error), "kiln store rebuild"),
    });
    rows.push(verified(store).unwrap_or_else(|error: Error| {
        row("store.verified", Health::Unknown, words(&error), "kiln store rebuild")
    }));
    let left = store.jobs().map(|jobs| jobs.iter().filter(|job| !job.running).count()).unwrap_or(0);
    let health = if left == 0 { Health::Good } else { Health::Poor };
    let found = format!("{left} interrupted jobs that can be resumed for {KEPT_DAYS} days");
    rows.push(row("store.jobs", health, found, "kiln jobs; then kiln resume or kiln cancel"));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(store.path()).map_or(0, |metadata| metadata.permissions().mode() & 0o7777);
    let health = if mode & 0o077 == 0 { Health::Good } else { Health::Poor };
    rows.push(row("store.mode", health, format!("mode {mode:04o}"), "chmod go= the store's directory"));
    rows
}

/// How long ago the images were read.
fn verified(store: &Store) -> Result<Row> {
    let id = "store.verified";
    let sql = "SELECT count(*) FROM images WHERE verified_at IS NULL OR verified_at < ?1";
    let index = store.index()?;
    let limit = Timestamp::now() - SignedDuration::from_hours(24 * 30);
    let count = |sql: &str, at: i64| -> Result<u64> { index.count(sql, at) };
    let stale = count(sql, limit.as_microsecond())?;
    let all = count("SELECT count(*) FROM images WHERE ?1 <> -1", 0)?;
    let found = format!("{stale} of {all} images were not read for 30 days");
    let health = if stale == 0 { Health::Good } else { Health::Poor };
    Ok(row(id, health, found, "kiln store scrub reads all layers"))
}

fn file_system(path: &Path) -> Row {
    let id = "store.filesystem";
    let Ok(name) = os::file_system_name(path) else {
        return row(id, Health::Unknown, "cannot be told", "");
    };
    let (health, hint) = match name {
        "ext4" | "xfs" | "btrfs" | "f2fs" | "bcachefs" => (Health::Good, ""),
        "zfs" => (
            Health::Poor,
            "OpenZFS before 2.2.2 reported holes over fresh data: use a newer one (kiln reads all it has not made)",
        ),
        "tmpfs" => (Health::Poor, "everything is gone after a reboot: use a disk"),
        "overlay" => (Health::Poor, "a container's own layer: mount a volume for the store"),
        "nfs" | "smb" | "cifs" | "fuse" | "9p" | "ceph" => {
            (Health::Bad, "locks and durability are another machine's word: keep the store on a local disk")
        }
        _ => (Health::Unknown, "not a file system that kiln was tried on"),
    };
    row(id, health, format!("{name} at {}", path.display()), hint)
}

fn space(path: &Path) -> Row {
    let id = "store.space";
    match os::free_space(path) {
        Err(error) => row(id, Health::Unknown, error.to_string(), ""),
        Ok((free, total)) => {
            let health = match (free < 1 << 30, free < total / 20) {
                (true, _) => Health::Bad,
                (_, true) => Health::Poor,
                _ => Health::Good,
            };
            let found = format!("{} MiB of {} MiB are free", free >> 20, total >> 20);
            row(id, health, found, "kiln gc, kiln prune --dry-run and kiln usage show what can go")
        }
    }
}

fn clock() -> Row {
    // The year of this program; a clock before it is wrong, and retention rules go by the clock.
    let health = if Timestamp::now().as_second() < 1_767_225_600 { Health::Bad } else { Health::Good };
    row("host.clock", health, Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), "set the clock")
}

fn program(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    std::env::split_paths(path?)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|p| p.is_file())
}

/// Boots a guest of one sector under KVM: a device node that opens proves nothing.
fn kvm(qemu: Option<&Path>, scratch: &Path) -> Row {
    let id = "host.kvm";
    let hint = "guests run without KVM as well, ten times slower";
    let Some(qemu) = qemu else {
        return row(id, Health::Unknown, "not probed: needs qemu-system-x86_64", hint);
    };
    match kvm::probe(qemu, scratch) {
        Ok(Verdict::Works) => row(id, Health::Good, "a guest booted", ""),
        Ok(Verdict::Absent) => row(id, Health::Poor, "there is no /dev/kvm", hint),
        Ok(Verdict::Broken(why)) => row(id, Health::Poor, format!("no guest boots: {why}"), hint),
        Err(error) => row(id, Health::Unknown, format!("not probed: {}", words(&error)), hint),
    }
}
