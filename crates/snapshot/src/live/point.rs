//! What is put into QEMU for a capture, and how it is taken away again.
//!
//! ```text
//! device ── disk0 (raw) ── disk0-overlay (qcow2) ── layers        before, and behind
//! device ── disk0 (raw) ── cbw ── disk0-overlay ── layers         from the point in time on
//!                           ├─ fleece (raw file): what the guest has overwritten since
//!                           └─ snap (snapshot-access) ── NBD export ── this process
//! ```
//! All disks change in one `blockdev-reopen`, which QEMU does in one drained transaction: no write of the guest lies
//! between the points in time of two disks. Another QEMU, whose devices have no such node to turn, gets its filters by
//! setting the property `drive` of each device; of several, while it is paused for some milliseconds.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kiln_disk::os;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::monitor::Monitor;

/// What every name of ours begins with.
pub(crate) const PREFIX: &str = "kiln-";
/// How long a copy before a write may take before the capture is given up for the guest.
const CBW_TIMEOUT_SECONDS: u32 = 5;
/// Granularity of bitmaps: a cluster.
const CLUSTER: u32 = 65_536;

/// A disk of the machine and the names of what is put on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tap {
    /// The node that is captured.
    pub(crate) node: String,
    /// How the device is led to it.
    pub(crate) way: Way,
    /// The file for what the guest overwrites.
    pub(crate) fleece: PathBuf,
    /// Its length: the disk's.
    pub(crate) len: u64,
    /// Number of the disk, for names.
    pub(crate) number: usize,
    /// The bitmap that counts from this point in time on.
    pub(crate) bitmap: Option<String>,
    /// The bitmap that has counted until now.
    pub(crate) counted: Option<String>,
}

/// How a device is led to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// Through a raw node of this name.
    Raw {
        /// The node.
        node: String,
    },
    /// Directly, by the property `drive` of the device at this path.
    Drive {
        /// Its path in the object model.
        path: String,
    },
}

/// Everything that a capture puts into a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rig {
    /// Tells this capture's names from others'.
    pub(crate) token: String,
    /// The disks.
    pub(crate) taps: Vec<Tap>,
    /// For tests: writes to the fleece fail with this error number.
    pub(crate) broken_copy: Option<i32>,
    /// For tests: what then happens to the guest's write.
    pub(crate) guest_pays: bool,
    /// The socket of the NBD server.
    pub(crate) socket: PathBuf,
    /// The same as QEMU is told: relative to its working directory where that is the socket's folder.
    pub(crate) listen: String,
}

impl Rig {
    /// Whether the machine has to be paused for the point in time.
    pub(crate) fn pauses(&self) -> bool {
        self.taps.iter().filter(|tap| matches!(tap.way, Way::Drive { .. })).count() > 1
    }

    /// The bitmaps that count from this point in time on.
    pub(crate) fn since(&self) -> Vec<String> {
        self.taps.iter().filter_map(|tap| tap.bitmap.clone()).collect()
    }

    pub(crate) fn name(&self, what: &str, number: usize) -> String {
        format!("{PREFIX}{}-{what}{number}", self.token)
    }

    /// What can be done before the point in time, so that the guest stands still for less.
    pub(crate) fn prepare(&self, qmp: &mut dyn Monitor) -> kiln_qemu::Result<()> {
        for tap in &self.taps {
            let fleece = self.name("fleece", tap.number);
            let mut file = json!({ "driver": "file", "filename": tap.fleece.display().to_string() });
            if let Some(errno) = self.broken_copy {
                let errors = json!([{ "event": "none", "iotype": "write", "errno": errno }]);
                file = json!({ "driver": "blkdebug", "image": file, "inject-error": errors });
            }
            qmp.execute("blockdev-add", json!({ "driver": "raw", "node-name": fleece, "file": file }))?;
            let (on_error, timeout) = match self.guest_pays {
                false => ("break-snapshot", CBW_TIMEOUT_SECONDS),
                true => ("break-guest-write", 0),
            };
            qmp.execute(
                "blockdev-add",
                json!({ "driver": "copy-before-write", "node-name": self.name("cbw", tap.number),
                        "file": tap.node, "target": fleece,
                        "on-cbw-error": on_error, "cbw-timeout": timeout }),
            )?;
        }
        Ok(())
    }

    /// The point in time. Bitmaps begin just before it: what is written between is counted and captured as well, so
    /// they count too much and never too little.
    pub(crate) fn take(&self, qmp: &mut dyn Monitor) -> kiln_qemu::Result<()> {
        let actions: Vec<Value> = self
            .taps
            .iter()
            .filter_map(|tap| {
                let name = tap.bitmap.as_ref()?;
                Some(json!({ "type": "block-dirty-bitmap-add", "data": {
                    "node": tap.node, "name": name, "granularity": CLUSTER, "persistent": false } }))
            })
            .collect();
        if !actions.is_empty() {
            qmp.execute("transaction", json!({ "actions": actions }))?;
        }
        let cbw = |tap: &Tap| self.name("cbw", tap.number);
        self.lead(qmp, &cbw)
    }

    /// Leads every device to what `to` names for it.
    fn lead(&self, qmp: &mut dyn Monitor, to: &dyn Fn(&Tap) -> String) -> kiln_qemu::Result<()> {
        let raw: Vec<Value> = self
            .taps
            .iter()
            .filter_map(|tap| match &tap.way {
                Way::Raw { node } => Some(json!({
                    "driver": "raw", "node-name": node, "discard": "unmap", "file": to(tap) })),
                Way::Drive { .. } => None,
            })
            .collect();
        if !raw.is_empty() {
            qmp.execute("blockdev-reopen", json!({ "options": raw }))?;
        }
        let drives: Vec<(&str, String)> = self
            .taps
            .iter()
            .filter_map(|tap| match &tap.way {
                Way::Drive { path } => Some((path.as_str(), to(tap))),
                Way::Raw { .. } => None,
            })
            .collect();
        let paused = drives.len() > 1 && running(qmp)?;
        if paused {
            qmp.execute("stop", json!({}))?;
        }
        let mut led = Ok(());
        for (path, node) in drives {
            let set = json!({ "path": path, "property": "drive", "value": node });
            led = led.and_then(|()| qmp.execute("qom-set", set).map(drop));
        }
        if paused {
            // Whatever became of the rest.
            qmp.execute("cont", json!({}))?;
        }
        led
    }

    /// Opens the point in time for reading.
    pub(crate) fn open(&self, qmp: &mut dyn Monitor) -> kiln_qemu::Result<()> {
        let start = json!({ "addr": { "type": "unix", "data": { "path": self.listen } } });
        qmp.execute("nbd-server-start", start)?;
        for tap in &self.taps {
            let snap = self.name("snap", tap.number);
            qmp.execute(
                "blockdev-add",
                json!({ "driver": "snapshot-access", "node-name": snap, "file": self.name("cbw", tap.number) }),
            )?;
            let mut export = json!({ "type": "nbd", "id": self.name("disk", tap.number), "node-name": snap,
                                     "name": format!("disk{}", tap.number), "writable": false });
            if let Some(counted) = &tap.counted {
                let copy = self.name("counted", tap.number);
                qmp.execute(
                    "transaction",
                    json!({ "actions": [
                        { "type": "block-dirty-bitmap-add", "data": { "node": tap.node, "name": copy,
                          "granularity": CLUSTER, "persistent": false, "disabled": true } },
                        { "type": "block-dirty-bitmap-merge", "data": { "node": tap.node, "target": copy,
                          "bitmaps": [counted] } } ] }),
                )?;
                if let Some(fields) = export.as_object_mut() {
                    fields.insert("bitmaps".to_owned(), json!([{ "node": tap.node, "name": copy }]));
                }
            }
            qmp.execute("block-export-add", export)?;
            qmp.execute(
                "block-export-add",
                json!({ "type": "nbd", "id": self.name("now", tap.number), "node-name": tap.node,
                        "name": format!("now{}", tap.number), "writable": false, "allocation-depth": true }),
            )?;
        }
        Ok(())
    }

    /// Takes everything away, whatever of it is there; also what captures before it left, when `all`. The bitmaps in
    /// `keep` stay. Can be repeated.
    ///
    /// # Errors
    /// The first step that failed; the others were tried.
    pub(crate) fn undo(&self, qmp: &mut dyn Monitor, keep: &[String], all: bool) -> kiln_qemu::Result<()> {
        let prefix = if all { PREFIX.to_owned() } else { format!("{PREFIX}{}-", self.token) };
        let mut first = Ok(());
        let mut note = |result: kiln_qemu::Result<()>| {
            if first.is_ok() {
                first = result;
            }
        };
        let nodes = nodes(qmp)?;
        await_targets(&self.taps, &nodes, &prefix);
        note(remove_exports(qmp, &prefix, self.socket.exists()));
        let ours: Vec<&str> = nodes
            .iter()
            .filter_map(|node| node_name(node))
            .filter(|name| name.starts_with(&prefix))
            .collect();
        let part = |what: &str| {
            let is = |name: &&&str| name.rsplit('-').next().is_some_and(|last| last.starts_with(what));
            ours.iter().filter(is).map(|name| (*name).to_owned()).collect::<Vec<String>>()
        };
        for snap in part("snap") {
            note(delete(qmp, &snap));
        }
        if !part("cbw").is_empty() {
            note(self.lead(qmp, &|tap| tap.node.clone()));
        }
        for node in part("cbw").into_iter().chain(part("fleece")) {
            note(delete(qmp, &node));
        }
        for tap in &self.taps {
            let bitmaps = nodes.iter().find(|node| node_name(node) == Some(&tap.node)).map(bitmaps_of);
            for bitmap in bitmaps.into_iter().flatten() {
                let is_ours =
                    bitmap.name.starts_with(&prefix) || tap.counted.as_deref() == Some(bitmap.name.as_str());
                if is_ours && !keep.contains(&bitmap.name) {
                    let named = json!({ "node": tap.node, "name": bitmap.name });
                    note(qmp.execute("block-dirty-bitmap-remove", named).map(drop));
                }
            }
        }
        first
    }
}

/// Waits until copies that were begun can end. Taking a node away makes QEMU wait for what is under way on it, and the
/// guest with it; so while a target does not answer, it is this process that waits. A file beside the fleece tells:
/// when it can be written and synced, so can the fleece.
fn await_targets(taps: &[Tap], nodes: &[Value], prefix: &str) {
    let is_fleece = |node: &&Value| {
        node_name(node).is_some_and(|name| name.starts_with(prefix) && name.contains("-fleece"))
    };
    let named = nodes.iter().filter(is_fleece).filter_map(|node| node.get("file")?.as_str());
    // Of nodes that a capture before left, only QEMU knows the file.
    let files: Vec<&Path> = named.map(Path::new).filter(|path| path.is_absolute()).collect();
    if !nodes.iter().any(|node| is_fleece(&node)) {
        return;
    }
    let ours = taps.iter().map(|tap| tap.fleece.as_path());
    let dirs: BTreeSet<&Path> = files.into_iter().chain(ours).filter_map(Path::parent).collect();
    for dir in dirs {
        // A full or broken target answers as well: with an error. The folder of a job that died may be gone.
        let _ = dir.ancestors().find(|dir| dir.is_dir()).map(probe);
    }
}

/// Writes a byte into a folder's file system and waits until it is there.
fn probe(dir: &Path) -> std::io::Result<()> {
    let named = dir.join("probe");
    let (mut file, has_name) = match os::unnamed(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => (File::create_new(&named)?, true),
        other => (other?, false),
    };
    let written = file.write_all(&[0]).and_then(|()| file.sync_all());
    if has_name {
        std::fs::remove_file(&named)?;
    }
    written
}

/// Exports end when their last reader has gone. With the last of all captures' exports goes the server; who speaks to
/// the machine protocol has it alone meanwhile.
fn remove_exports(qmp: &mut dyn Monitor, prefix: &str, serves: bool) -> kiln_qemu::Result<()> {
    let began = Instant::now();
    let mut removed = serves;
    let mut others;
    loop {
        let exports = qmp.execute("query-block-exports", json!({}))?;
        let (ids, rest): (Vec<String>, Vec<String>) = exports
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|export| Some(export.get("id")?.as_str()?.to_owned()))
            .partition(|id| id.starts_with(prefix));
        others = rest.iter().any(|id| id.starts_with(PREFIX));
        if ids.is_empty() {
            break;
        }
        for id in ids {
            // It may be on its way already.
            let _ = qmp.execute("block-export-del", json!({ "id": id, "mode": "hard" }));
        }
        removed = true;
        if began.elapsed() > Duration::from_secs(5) {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    if removed && !others {
        // It may never have been started.
        let _ = qmp.execute("nbd-server-stop", json!({}));
    }
    Ok(())
}

fn delete(qmp: &mut dyn Monitor, node: &str) -> kiln_qemu::Result<()> {
    qmp.execute("blockdev-del", json!({ "node-name": node })).map(drop)
}

/// Whether the machine runs.
pub(crate) fn running(qmp: &mut dyn Monitor) -> kiln_qemu::Result<bool> {
    let status = qmp.execute("query-status", json!({}))?;
    Ok(status.get("running").and_then(Value::as_bool).unwrap_or(false))
}

/// All named nodes.
pub(crate) fn nodes(qmp: &mut dyn Monitor) -> kiln_qemu::Result<Vec<Value>> {
    let nodes = qmp.execute("query-named-block-nodes", json!({ "flat": true }))?;
    Ok(match nodes {
        Value::Array(nodes) => nodes,
        _ => Vec::new(),
    })
}

pub(crate) fn node_name(node: &Value) -> Option<&str> {
    node.get("node-name")?.as_str()
}

/// A dirty bitmap of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitmap {
    pub(crate) name: String,
    /// It has counted every write of this QEMU since it was made, and belongs to nobody else now.
    pub(crate) sound: bool,
    /// Bytes that it has counted.
    pub(crate) bytes: u64,
}

/// The bitmaps of a node.
pub(crate) fn bitmaps_of(node: &Value) -> Vec<Bitmap> {
    let list = node.get("dirty-bitmaps").and_then(Value::as_array);
    let flag = |one: &Value, name: &str| one.get(name).and_then(Value::as_bool).unwrap_or(false);
    list.into_iter()
        .flatten()
        .filter_map(|one| {
            let name = one.get("name")?.as_str()?.to_owned();
            let sound = flag(one, "recording")
                && !flag(one, "busy")
                && !flag(one, "inconsistent")
                && !flag(one, "persistent");
            Some(Bitmap { name, sound, bytes: one.get("count").and_then(Value::as_u64).unwrap_or(u64::MAX) })
        })
        .collect()
}
