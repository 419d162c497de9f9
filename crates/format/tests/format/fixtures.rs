//! The images of `fixtures/` and QEMU's own samples give the bytes that their lists say.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use kiln_disk::digest::{Algorithm, HashJob, hash_disk, hash_source};
use kiln_disk::{ByteSource, Error, FileSource, MemorySource, Silent};
use kiln_format::{
    AllowList, CheckScope, Choice, Image, OpenContext, Resolved, Scratch, by_name, check, open,
};
use kiln_testkit::fixtures::{Fixture, committed_dir};
use serde::Deserialize;

#[derive(Deserialize)]
struct Manifest {
    fixtures: Vec<Entry>,
}

#[derive(Deserialize)]
struct Samples {
    samples: Vec<Entry>,
    refused: Vec<RefusedEntry>,
}

#[derive(Deserialize)]
struct RefusedEntry {
    name: String,
    format: String,
}

#[derive(Deserialize)]
struct Entry {
    name: String,
    format: String,
    image_bytes: u64,
    image_sha256: String,
    virtual_size: u64,
    content_sha256: String,
    content_fsverity_sha256_64k: Option<String>,
    #[serde(default)]
    needs: Vec<String>,
    #[serde(default)]
    snapshots: Vec<SnapshotEntry>,
}

#[derive(Deserialize)]
struct SnapshotEntry {
    name: String,
    content_sha256: String,
}

fn read_json<T: for<'de> Deserialize<'de>>(name: &str) -> T {
    let text = std::fs::read_to_string(committed_dir().join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// All committed images, unpacked.
fn unpacked(entries: &[Entry]) -> BTreeMap<&str, Arc<dyn ByteSource>> {
    let unpack = |entry: &Entry| {
        let packed = std::fs::read(committed_dir().join(format!("{}.gz", entry.name))).unwrap();
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, entry.image_bytes, "{}", entry.name);
        Arc::new(MemorySource::new(bytes)) as Arc<dyn ByteSource>
    };
    entries.iter().map(|entry| (entry.name.as_str(), unpack(entry))).collect()
}

fn content_sha256(image: &dyn Image) -> String {
    let job = HashJob { raw: true, ..HashJob::default() };
    hash_disk(image, job, &Silent).unwrap().raw.unwrap().hex()
}

#[test]
fn committed_images_hold_the_bytes_of_their_manifest() {
    let manifest: Manifest = read_json("manifest.json");
    let sources = unpacked(&manifest.fixtures);
    let mut snapshots = 0;
    for entry in &manifest.fixtures {
        let source = &sources[entry.name.as_str()];
        let transport = hash_source(source.as_ref(), &[Algorithm::Sha256], &Silent).unwrap();
        assert_eq!(transport[0].hex(), entry.image_sha256, "{}", entry.name);
        let mut allowed = AllowList::default();
        for name in &entry.needs {
            let format = manifest.fixtures.iter().find(|other| other.name == *name).unwrap().format.as_str();
            let resolved = Resolved { source: Arc::clone(&sources[name.as_str()]), format: by_name(format) };
            allowed.allow(name.as_str(), resolved);
        }
        let room = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(room.path().to_owned(), 1 << 30, 1, Arc::default());
        let context = OpenContext {
            resolver: Arc::new(allowed),
            scratch: Some(Arc::new(scratch)),
            ..OpenContext::new()
        };
        // A data file has no header of its own: its bytes are whatever the guest wrote.
        let format = by_name(&entry.format).unwrap();
        let choice = if format.id == "raw" { Choice::AsRaw } else { Choice::Declared(format) };
        let image = open(Arc::clone(source), choice, &context)
            .unwrap_or_else(|error| panic!("{}: {error:?}", entry.name));
        assert_eq!(image.disk_len(), entry.virtual_size, "{}", entry.name);
        assert_eq!(content_sha256(image.as_ref()), entry.content_sha256, "{}", entry.name);
        for snapshot in &entry.snapshots {
            snapshots += 1;
            let context = OpenContext { snapshot: Some(snapshot.name.clone()), ..context.clone() };
            let image = open(Arc::clone(source), choice, &context).unwrap();
            assert_eq!(content_sha256(image.as_ref()), snapshot.content_sha256, "{}", snapshot.name);
        }
        let report = check(Arc::clone(source), choice, &context, CheckScope::Data, &Silent).unwrap();
        assert!(!report.findings.fails(), "{}: {:?}", entry.name, report.findings.list());
    }
    assert!(manifest.fixtures.len() >= 53 && snapshots >= 2, "{snapshots} snapshots");
}

#[test]
fn images_that_need_others_open_none_unasked() {
    let manifest: Manifest = read_json("manifest.json");
    let sources = unpacked(&manifest.fixtures);
    let mut tried = 0;
    for entry in manifest.fixtures.iter().filter(|entry| !entry.needs.is_empty()) {
        let choice = Choice::Declared(by_name(&entry.format).unwrap());
        let error =
            open(Arc::clone(&sources[entry.name.as_str()]), choice, &OpenContext::new()).err().unwrap();
        assert_eq!(error.code(), "reference.denied", "{}", entry.name);
        tried += 1;
    }
    assert_eq!(tried, 9);
}

/// Disks that Hyper-V, Virtual PC, Disk2VHD and QEMU itself made.
#[test]
fn qemu_samples_hold_the_bytes_of_their_list() {
    let dir = Fixture::QemuSamples.ensure().unwrap();
    let list: Samples = read_json("qemu-samples.json");
    assert!(list.samples.len() >= 8);
    for entry in &list.samples {
        sample_holds_its_bytes(&dir, entry);
    }
    assert!(!list.refused.is_empty());
    for entry in &list.refused {
        let source = Arc::new(FileSource::open(&dir.join(&entry.name)).unwrap());
        let choice = Choice::Declared(by_name(&entry.format).unwrap());
        let error = open(source, choice, &OpenContext::new()).err().unwrap();
        assert!(matches!(error, Error::Malformed { .. } | Error::Refused { .. }), "{}: {error}", entry.name);
    }
}

fn sample_holds_its_bytes(dir: &Path, entry: &Entry) {
    let source = Arc::new(FileSource::open(&dir.join(&entry.name)).unwrap());
    assert_eq!(source.byte_len(), entry.image_bytes, "{}", entry.name);
    let choice = Choice::Declared(by_name(&entry.format).unwrap());
    let image = open(source, choice, &OpenContext::new()).unwrap();
    assert_eq!(image.disk_len(), entry.virtual_size, "{}", entry.name);
    // Plain SHA-256 of the larger ones takes minutes; the content digest does not.
    let raw = entry.virtual_size <= 1 << 30;
    let digests = hash_disk(image.as_ref(), HashJob { raw, ..HashJob::default() }, &Silent).unwrap();
    assert_eq!(Some(digests.content.hex()), entry.content_fsverity_sha256_64k, "{}", entry.name);
    if let Some(raw) = digests.raw {
        assert_eq!(raw.hex(), entry.content_sha256, "{}", entry.name);
    }
}
