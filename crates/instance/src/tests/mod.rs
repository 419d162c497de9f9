//! The plan, the command line, a QEMU that really runs.

mod arguments;
mod planning;
mod running;

use std::path::Path;
use std::sync::Arc;

use kiln_catalog::{
    Birth, CheckRecord, Checksum, Draft, FindingCount, IfTaken, Image, ImageDigests, NewLayer, Provenance,
    SourceRecord, Store,
};
use kiln_disk::digest::{HashJob, LeafWriter, hash_disk};
use kiln_disk::{Budget, FileSink, MemorySource, Severity, Silent};
use kiln_format::raw::RawImage;
use kiln_format::transfer::{Job, write_container};
use kiln_format::{Options, by_name};

/// A store in a folder of its own.
fn new_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(&dir.path().join("store")).unwrap();
    (dir, store)
}

/// An image of this disk, stored as imports store it. `findings`: ids of damage that was passed over.
fn publish(store: &Store, name: &str, bytes: &[u8], findings: &[&str]) -> Image {
    let disk = RawImage::new(Arc::new(MemorySource::new(bytes.to_vec())));
    let job = store.begin().unwrap();
    let (file, path) = job.create_file("layer.qcow2").unwrap();
    let (leaf_file, leaves) = job.create_file("layer.leaves").unwrap();
    let mut writer = LeafWriter::new(leaf_file, bytes.len() as u64).unwrap();
    let hash = HashJob { leaves: Some(&mut writer), ..HashJob::default() };
    let content = hash_disk(&disk, hash, &Silent).unwrap().content;
    writer.finish(&content).unwrap();
    let format = by_name("qcow2").unwrap();
    let options = Options::defaults(format.create.unwrap().options);
    let sink: Arc<dyn kiln_disk::ByteSink> = Arc::new(FileSink::new(file, "layer"));
    let budget = Budget::default();
    let copy = Job {
        disk: &disk,
        format,
        options: &options,
        threads: 1,
        content_digest: false,
        raw_digest: false,
        fingerprint: false,
        leaves: None,
        budget: &budget,
    };
    write_container(copy, &sink, &Silent).unwrap();
    let layer =
        NewLayer { file: path, leaves, format: "qcow2".to_owned(), style: "plain".to_owned(), content };
    let sealed = job.seal(layer, &Silent).unwrap();
    let finding = |id: &&str| FindingCount { id: (*id).to_owned(), severity: Severity::Damage, count: 1 };
    let draft = Draft {
        name: name.parse().unwrap(),
        description: String::new(),
        disk_bytes: bytes.len() as u64,
        digests: ImageDigests { content, raw: None },
        source: SourceRecord {
            file_name: None,
            format: "raw".to_owned(),
            byte_len: bytes.len() as u64,
            digests: Vec::new(),
        },
        provenance: Provenance {
            tool: "test 1".to_owned(),
            checksum: Checksum::Unverified,
            appliance: None,
            download: None,
            signer: None,
            capture: None,
        },
        checks: CheckRecord {
            rule_set: "1".to_owned(),
            scope: "metadata".to_owned(),
            forced: !findings.is_empty(),
            findings: findings.iter().map(finding).collect(),
        },
        birth: Birth::default(),
    };
    job.publish(draft, &[sealed], IfTaken::Refuse, &Silent).unwrap();
    store.image(name).unwrap()
}

/// A disk without anything to start.
fn blank(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    bytes[100_000] = 1;
    bytes
}

/// A disk whose first sector writes `H` to the serial port and halts; a BIOS starts it.
fn speaking(len: usize) -> Vec<u8> {
    let mut bytes = blank(len);
    // mov dx, 0x3f8; mov al, 'H'; out dx, al; hlt; jmp to the hlt
    bytes[..9].copy_from_slice(&[0xba, 0xf8, 0x03, 0xb0, b'H', 0xee, 0xf4, 0xeb, 0xfd]);
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
