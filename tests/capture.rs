//! `kiln capture`: what a machine's disk was becomes an image, whether the machine runs or not.
//!
//! Live captures are held against what a guest acknowledged: the micro guest (`testkit::micro`) syncs a number before it
//! prints it. `KILN_CAPTURES` says how many captures at random moments are made; the ignored tests make more.

#![allow(clippy::print_stdout, reason = "the counts are what these tests are read for")]

mod faults;
mod libvirt;
mod live;
mod stopped;
mod workload;

use std::path::PathBuf;

use kiln_catalog::machine::{DiskRole, Machine, MachineDisk, MachineFirmware};
use kiln_catalog::{InstanceRecord, Manifest, Store};
use kiln_testkit::micro::{Disk, Guest, Start};

use crate::support::Sandbox;

/// An instance whose record and overlays are made here, as `kiln launch` makes them.
struct Instance {
    record: InstanceRecord,
    dir: PathBuf,
}

/// Imports a raw disk and answers its image.
fn import(sandbox: &Sandbox, file: &std::path::Path, name: &str) -> Manifest {
    let words = ["import", file.to_str().unwrap(), "--name", name, "--json"];
    sandbox.kiln(words).ok();
    store(sandbox).find(name).unwrap()
}

fn store(sandbox: &Sandbox) -> Store {
    Store::open(&sandbox.store()).unwrap()
}

impl Instance {
    /// An instance called `vm` with an overlay over each image.
    fn new(sandbox: &Sandbox, images: &[&Manifest]) -> Self {
        let store = store(sandbox);
        let disks = images.iter().enumerate().map(|(number, image)| MachineDisk {
            id: format!("disk{number}"),
            file: format!("disk{number}.qcow2"),
            disk_bytes: image.disk_bytes,
            role: if number == 0 { DiskRole::Root } else { DiskRole::Data },
            image: Some(image.id.clone()),
            layers: image.layers.iter().map(|layer| layer.digest.clone()).collect(),
            captured: None,
        });
        let machine = Machine {
            architecture: "x86_64".to_owned(),
            cpus: 1,
            memory_bytes: 256 << 20,
            firmware: MachineFirmware::Bios,
            uuid: "6b696c6e-0000-4000-8000-000000000061".to_owned(),
            instance_id: "iid-test".to_owned(),
            disks: disks.collect(),
            nics: Vec::new(),
            seed: None,
            aside: std::collections::BTreeMap::new(),
        };
        let record = store.add_instance(&images[0].id, Some("vm".parse().unwrap()), machine).unwrap();
        let dir = store.instance_dir(&record.id);
        for disk in &record.machine.disks {
            let path = dir.join(&disk.file);
            let words = ["create", "-q", "-f", "qcow2", path.to_str().unwrap(), &disk.disk_bytes.to_string()];
            sandbox.tool("qemu-img", words);
        }
        Self { record, dir }
    }

    fn layers(sandbox: &Sandbox, disk: &MachineDisk) -> Vec<PathBuf> {
        let store = store(sandbox);
        let records = store.layer_records(&disk.layers).unwrap();
        records.iter().map(|layer| store.layer_path(layer)).collect()
    }

    /// The words by which QEMU's tools open a disk with what is below it.
    fn options(&self, sandbox: &Sandbox, number: usize) -> String {
        let disk = &self.record.machine.disks[number];
        let mut words = format!("driver=qcow2,file.filename={}", self.dir.join(&disk.file).display());
        let mut prefix = "backing".to_owned();
        for layer in Self::layers(sandbox, disk).iter().rev() {
            words += &format!(",{prefix}.driver=qcow2,{prefix}.file.filename={}", layer.display());
            prefix += ".backing";
        }
        words
    }

    /// Lets QEMU change the disk, as a guest would.
    fn qemu_io(&self, sandbox: &Sandbox, commands: &[String]) {
        let options = self.options(sandbox, 0);
        let mut words = vec!["--image-opts", &options];
        for command in commands {
            words.extend(["-c", command.as_str()]);
        }
        sandbox.tool("qemu-io", words);
    }

    /// The whole disk as QEMU reads it, imported: its content digest is that of a full capture.
    fn full_digest(&self, sandbox: &Sandbox, name: &str) -> String {
        let raw = sandbox.path(&format!("{name}.raw"));
        let options = self.options(sandbox, 0);
        sandbox.tool("qemu-img", ["convert", "--image-opts", &options, "-O", "raw", raw.to_str().unwrap()]);
        let digest = import(sandbox, &raw, name).digests.content.to_string();
        std::fs::remove_file(raw).unwrap();
        digest
    }

    /// Starts the micro guest on its disks.
    fn start(&self, sandbox: &Sandbox, words: &str) -> Guest {
        self.start_as(sandbox, words, false, false)
    }

    /// With `sqlite3` and QEMU's agent in it.
    fn start_full(&self, sandbox: &Sandbox, words: &str) -> Guest {
        self.start_as(sandbox, words, false, true)
    }

    /// With nodes as another program has them.
    fn start_foreign(&self, sandbox: &Sandbox, words: &str) -> Guest {
        self.start_as(sandbox, words, true, false)
    }

    fn start_as(&self, sandbox: &Sandbox, words: &str, foreign: bool, full: bool) -> Guest {
        let disks = self.record.machine.disks.iter().map(|disk| Disk {
            id: disk.id.clone(),
            overlay: self.dir.join(&disk.file),
            layers: Self::layers(sandbox, disk),
        });
        for name in ["console.log", "qmp.sock", "agent.sock"] {
            let _ = std::fs::remove_file(self.dir.join(name));
        }
        let start =
            Start { dir: self.dir.clone(), disks: disks.collect(), words: words.to_owned(), foreign, full };
        Guest::start(&start).unwrap()
    }
}

/// The image of a name, proved to be intact.
fn intact(sandbox: &Sandbox, name: &str) -> Manifest {
    sandbox.kiln(["verify", name, "-q"]).ok();
    store(sandbox).find(name).unwrap()
}

/// The disk of an image under QEMU's own eyes: exported as raw.
fn exported(sandbox: &Sandbox, name: &str, file: &str) -> PathBuf {
    let path = sandbox.path(file);
    sandbox.kiln(["export", name, path.to_str().unwrap(), "-O", "raw", "-q"]).ok();
    path
}

/// No command has left anything.
fn assert_tidy(sandbox: &Sandbox) {
    sandbox.kiln(["store", "fsck"]).ok();
    assert_eq!(crate::support::names_in(&sandbox.store().join("staging")), Vec::<String>::new());
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
}
