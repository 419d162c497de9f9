//! A guest that writes, the faults that are tried on its captures, and what must be as before after each.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kiln_disk::{Event, Observer, Silent};
use kiln_snapshot::{Error, Outcome, Request, Subject, plan};
use serde_json::json;

use super::super::live::{micro, numbers, qmp};
use super::super::*;
use crate::support::Ran;

/// How long a guest under TCG may take for three synced writes.
pub(super) const BREATH: Duration = Duration::from_secs(60);

/// Does something when the layer begins to be written, once: the point in time is behind, the disk is not read yet.
struct At<'a> {
    act: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
}

impl Observer for At<'_> {
    fn event(&self, event: Event<'_>) {
        if matches!(event, Event::Started { phase: "convert", .. })
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
    }
}

/// A writing guest, and what there was before.
pub(super) struct Bench {
    pub(super) sandbox: Sandbox,
    pub(super) vm: Instance,
    pub(super) guest: Guest,
    pub(super) images: usize,
    /// How often each kind of fault struck.
    struck: BTreeMap<&'static str, usize>,
    next: usize,
    /// How long it may take until all is as before.
    pub(super) breath: Duration,
}

impl Bench {
    pub(super) fn new(words: &str) -> Self {
        let sandbox = Sandbox::new();
        // All calls of a capture are more than the images that an account may have.
        let config = sandbox.work().join("../home/.config/kiln");
        std::fs::create_dir_all(&config).unwrap();
        std::fs::write(config.join("config.toml"), "[quota]\nimages = 100000\n").unwrap();
        let image = micro(&sandbox, "ext4");
        let vm = Instance::new(&sandbox, &[&image]);
        let mut guest = vm.start(&sandbox, words);
        if words.contains("kiln.mode=one") {
            guest.wait_for_ack(3);
        }
        let images = store(&sandbox).everything().unwrap().len();
        Self { sandbox, vm, guest, images, struck: BTreeMap::new(), next: 0, breath: BREATH }
    }

    pub(super) fn request(&self, name: &str) -> Request {
        let mut request = Request::new(name.parse().unwrap());
        request.watchdog = Some(vec![env!("CARGO_BIN_EXE_kiln").to_owned(), "watch-capture".to_owned()]);
        request
    }

    /// Captures through the library, and acts between the point in time and the reading.
    pub(super) fn capture(&self, request: Request, act: impl FnOnce() + Send) -> Result<Outcome, Error> {
        let store = store(&self.sandbox);
        let subject = Subject::Instance(Box::new(store.instance("vm").unwrap()));
        let observer = At { act: Mutex::new(Some(Box::new(act))) };
        plan(&store, subject, request, &Silent)?.run(&observer)
    }

    /// Captures with the program, which may do it or not: an image is there when it says so, and only then.
    pub(super) fn tried(&mut self, name: &str, about: &str) -> Ran {
        let ran = self.sandbox.kiln(["capture", "vm", "--name", name, "--json"]);
        let there = store(&self.sandbox).find(name).is_ok();
        assert_eq!(ran.code == Some(0), there, "{about}: {ran:?}");
        self.images += usize::from(there);
        ran
    }

    /// What is not as it was before a capture. The images are those that were acknowledged.
    pub(super) fn disturbances(&self) -> Vec<String> {
        let mut found = Vec::new();
        let began = Instant::now();
        let acked = self.guest.acked();
        while self.guest.acked() < acked + 3 && began.elapsed() < self.breath {
            std::thread::sleep(Duration::from_millis(20));
        }
        if self.guest.acked() < acked + 3 {
            found.push(format!("the guest does not go on: {} ACKs", self.guest.acked() - acked));
        }
        if self.guest.console().contains("WRITE ERROR") {
            found.push("the guest was given an error".to_owned());
        }
        let status = qmp(&self.vm, "query-status", json!({}));
        if status["status"] != "running" {
            found.push(format!("the machine is not running: {status}"));
        }
        // A watchdog may still be at it.
        while !self.nodes_and_jobs().is_empty() && began.elapsed() < self.breath {
            std::thread::sleep(Duration::from_millis(100));
        }
        found.extend(self.nodes_and_jobs());
        found.extend(self.store_remains());
        found
    }

    /// What of a capture is in QEMU, but for bitmaps.
    fn nodes_and_jobs(&self) -> Vec<String> {
        let ask = |command: &str| qmp(&self.vm, command, json!({}));
        let ours = live::nodes(&self.vm);
        let ours = ours.into_iter().filter(|name| name.starts_with("kiln-"));
        let mut found: Vec<String> = ours.map(|name| format!("node {name}")).collect();
        for (what, command) in
            [("export", "query-block-exports"), ("job", "query-jobs"), ("block job", "query-block-jobs")]
        {
            found.extend(ask(command).as_array().into_iter().flatten().map(|one| format!("{what} {one}")));
        }
        found
    }

    /// Bitmaps that no record of a capture names.
    fn stray_bitmaps(&self) -> Vec<String> {
        let record = store(&self.sandbox).instance("vm").unwrap();
        let recorded = |name: &str| {
            let mut captured = record.machine.disks.iter().filter_map(|disk| disk.captured.as_ref());
            captured.any(|captured| captured.bitmap.as_deref() == Some(name))
        };
        let nodes = qmp(&self.vm, "query-named-block-nodes", json!({ "flat": true }));
        let bitmaps = nodes.as_array().unwrap().iter().flat_map(|node| node["dirty-bitmaps"].as_array());
        let names = bitmaps.flatten().map(|bitmap| bitmap["name"].as_str().unwrap_or_default().to_owned());
        names.filter(|name| !recorded(name)).collect()
    }

    /// What of a capture is in the store and among temporary files. The check of the store takes away what died.
    fn store_remains(&self) -> Vec<String> {
        let fsck = self.sandbox.kiln(["store", "fsck"]);
        let mut found = Vec::new();
        if fsck.code != Some(0) {
            found.push(format!("the store is damaged: {fsck:?}"));
        }
        let count = store(&self.sandbox).everything().unwrap().len();
        if count != self.images {
            found.push(format!("{count} images, and {} were acknowledged", self.images));
        }
        let staging = crate::support::names_in(&self.sandbox.store().join("staging"));
        found.extend(staging.into_iter().map(|name| format!("staging {name}")));
        found.extend(self.sandbox.temporary_names().into_iter().map(|name| format!("temporary {name}")));
        found
    }

    /// After a fault: nothing is disturbed, and the next capture holds what was acknowledged.
    pub(super) fn assert_recovered(&mut self, kind: &'static str, about: &str) {
        assert_eq!(self.disturbances(), Vec::<String>::new(), "{about}\n{}", self.guest.console());
        self.assert_next_works(about);
        *self.struck.entry(kind).or_default() += 1;
    }

    pub(super) fn assert_next_works(&mut self, about: &str) {
        self.next += 1;
        let name = format!("next{}", self.next);
        let before = self.guest.acked();
        let ran = self.sandbox.kiln(["capture", "vm", "--name", &name, "-q"]);
        assert_eq!(ran.code, Some(0), "{about}: the next capture: {ran:?}");
        self.images += 1;
        let found = numbers(&self.sandbox, &name);
        assert!(before <= found, "{about}: {before} <= {found}");
        // A capture that dies between its record and its word to the watchdog leaves one to the next.
        assert_eq!(self.stray_bitmaps(), Vec::<String>::new(), "{about}");
    }

    /// The chain of all captures, whole ones and those behind a fault, ends in what the disk is.
    pub(super) fn assert_chain_is_the_disk(&mut self) {
        self.guest.kill();
        self.sandbox.kiln(["capture", "vm", "--name", "off", "-q"]).ok();
        let digest = intact(&self.sandbox, "off").digests.content.to_string();
        assert_eq!(digest, self.vm.full_digest(&self.sandbox, "full"));
    }

    /// One line with the counts.
    pub(super) fn counts(&self) -> String {
        let all: usize = self.struck.values().sum();
        let kinds: Vec<String> = self.struck.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        format!("{all} faults ({}); each time the guest went on and the next capture works", kinds.join(", "))
    }

    pub(super) fn count(&mut self, kind: &'static str) {
        *self.struck.entry(kind).or_default() += 1;
    }
}

/// Waits until a guest has overwritten something since now: the journal of its file system at least.
pub(super) fn overwrite(guest: &Guest, acks: u64) {
    let (before, began) = (guest.acked(), Instant::now());
    while guest.acked() < before + acks && began.elapsed() < BREATH {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A file system that goes with the value. Needs root.
pub(super) struct Mount {
    pub(super) dir: PathBuf,
}

impl Mount {
    pub(super) fn new(sandbox: &Sandbox, name: &str, words: &[&str]) -> Self {
        let dir = sandbox.path(name);
        std::fs::create_dir(&dir).unwrap();
        sandbox.tool("mount", words.iter().copied().chain([dir.to_str().unwrap()]));
        Self { dir }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Whatever a test that failed left in it.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.dir).status();
    }
}
