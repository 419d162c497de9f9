//! The store as a whole. Layers here are flat disks; the real format is `import`'s to bring.

use std::io::BufWriter;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use kiln_disk::digest::{HashJob, LeafWriter, hash_disk};
use kiln_disk::{
    ByteSource, Disk, Extent, ExtentKind, FileOffset, GuestOffset, MemorySource, Silent, check_range,
};

use crate::steps::{Step, Steps};
use crate::*;

mod faults;
mod fsck;
mod life;
mod lookup;
mod processes;
mod publish;
mod rebuild;
mod remove;
mod scale;
mod space;
mod verify;

/// All bytes of a source as a disk.
pub(crate) struct Flat(Arc<dyn ByteSource>);

impl Disk for Flat {
    fn disk_len(&self) -> u64 {
        self.0.byte_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        self.0.read_bytes(FileOffset::new(at.get()), buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> kiln_disk::Result<Extent> {
        check_range(at, 1, self.disk_len())?;
        let rest = NonZeroU64::new(self.disk_len() - at.get()).unwrap();
        let kind = ExtentKind::Data { file: 0, at: FileOffset::new(at.get()) };
        Ok(Extent { start: at, len: rest.min(limit), kind })
    }
}

pub(crate) struct FlatReader;

impl LayerReader for FlatReader {
    fn open_layer(&self, _format: &str, source: Arc<dyn ByteSource>) -> kiln_disk::Result<Box<dyn Disk>> {
        Ok(Box::new(Flat(source)))
    }
}

/// A disk of 200 KiB that depends on `seed`.
pub(crate) fn disk(seed: u8) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..200 << 10).map(|n: usize| (n % 251) as u8 ^ seed).collect();
    bytes[70_000..140_000].fill(0);
    bytes
}

pub(crate) fn draft(name: &str, bytes: &[u8]) -> Draft {
    let flat = Flat(Arc::new(MemorySource::new(bytes.to_vec())));
    let content = hash_disk(&flat, HashJob::default(), &Silent).unwrap().content;
    Draft {
        name: name.parse().unwrap(),
        description: "a test".to_owned(),
        disk_bytes: bytes.len() as u64,
        digests: ImageDigests { content, raw: None },
        source: SourceRecord {
            file_name: Some("disk.raw".to_owned()),
            format: "raw".to_owned(),
            byte_len: bytes.len() as u64,
            digests: vec![sealed::sha256(bytes.to_vec()).unwrap().parse().unwrap()],
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
            forced: false,
            findings: Vec::new(),
        },
        birth: Birth::default(),
    }
}

/// Writes a layer into a job.
pub(crate) fn layer(job: &Job, bytes: &[u8]) -> NewLayer {
    let (_, file) = job.create_file("layer.qcow2").unwrap();
    std::fs::write(&file, bytes).unwrap();
    let (leaf_file, leaves) = job.create_file("layer.leaves").unwrap();
    let mut writer = LeafWriter::new(BufWriter::new(leaf_file), bytes.len() as u64).unwrap();
    let flat = Flat(Arc::new(MemorySource::new(bytes.to_vec())));
    let hash = HashJob { leaves: Some(&mut writer), ..HashJob::default() };
    let content = hash_disk(&flat, hash, &Silent).unwrap().content;
    writer.finish(&content).unwrap().into_inner().unwrap();
    NewLayer { file, leaves, format: "flat".to_owned(), style: "plain".to_owned(), content }
}

pub(crate) fn add(store: &Store, name: &str, bytes: &[u8], if_taken: IfTaken) -> Result<Published> {
    let job = store.begin()?;
    let sealed = job.seal(layer(&job, bytes), &Silent)?;
    job.publish(draft(name, bytes), &[sealed], if_taken, &Silent)
}

pub(crate) fn import(store: &Store, name: &str, bytes: &[u8]) -> Published {
    add(store, name, bytes, IfTaken::Refuse).unwrap()
}

/// The store with a step that is asked before it is done.
pub(crate) fn hooked(store: &Store, hook: impl Fn(Step) -> Result<()> + Send + Sync + 'static) -> Store {
    Store { steps: Steps { hook: Some(Arc::new(hook)) }, ..store.clone() }
}

/// Names and ids, as a listing shows them.
pub(crate) fn titles(store: &Store) -> Vec<String> {
    let listed = store.list(&Filter::default()).unwrap();
    listed.iter().map(|entry| format!("{} {}", entry.manifest.title(), entry.manifest.id)).collect()
}

/// Every file and folder below `root`, without those of SQLite and locks.
pub(crate) fn tree(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if path.is_dir() {
                open.push(path);
            }
            if !name.starts_with("catalog.") {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

/// Everything that a full check of the store finds, ids only.
pub(crate) fn finding_ids(store: &Store) -> Vec<&'static str> {
    let options = FsckOptions { read_data: true, repair: false };
    let report = store.fsck(options, &Silent).unwrap();
    report.findings.list().iter().map(|finding| finding.check.id).collect()
}

pub(crate) fn new_store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(&dir.path().join("store")).unwrap();
    (dir, store)
}
