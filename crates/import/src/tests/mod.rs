//! Imports and exports with the real formats.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_catalog::{Filter, FsckOptions, Store};
use kiln_disk::digest::{ContentDigest, HashJob, hash_disk};
use kiln_disk::{Budget, Disk, Durability, Existing, FileSource, Silent};
use kiln_format::transfer::{FilePlan, write_file};
use kiln_format::{Choice, OpenContext, Options, by_name};

use crate::*;

mod bad;
mod export;
mod import;
mod target;

pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_or_create(&dir.path().join("store")).unwrap();
        Self { dir, store }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file next to the store.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// The disk of `raw` as another container.
    pub(crate) fn container(
        &self,
        raw: &Path,
        name: &str,
        format: &str,
        options: &[(&str, &str)],
    ) -> PathBuf {
        let path = self.path(name);
        let source = Arc::new(FileSource::open(raw).unwrap());
        let image = kiln_format::open(source, Choice::AsRaw, &OpenContext::new()).unwrap();
        let format = by_name(format).unwrap();
        let pairs = options.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
        let options = Options::new(format.create.unwrap().options, pairs).unwrap();
        let plan = FilePlan {
            disk: image.as_ref(),
            format,
            options: &options,
            dest: &path,
            existing: Existing::Keep,
            durability: Durability::Unsynced,
            read_back: true,
            threads: 2,
            content_digest: false,
            raw_digest: false,
            leaves: None,
            budget: &Budget::default(),
        };
        write_file(plan, &|| Ok(()), &Silent).unwrap();
        path
    }

    pub(crate) fn request(&self, path: &Path, name: &str) -> Request {
        Request::new(Input::File(path.to_owned()), name.parse().unwrap())
    }

    pub(crate) fn run(&self, request: Request) -> Result<Outcome> {
        plan(&self.store, request, &Silent)?.run(&Silent)
    }

    pub(crate) fn import(&self, path: &Path, name: &str) -> Outcome {
        self.run(self.request(path, name)).unwrap()
    }

    /// Nothing is listed, nothing is staged, and a full check finds nothing.
    pub(crate) fn assert_untouched(&self) {
        assert_eq!(self.store.list(&Filter::default()).unwrap(), []);
        assert_eq!(std::fs::read_dir(self.store.path().join("staging")).unwrap().count(), 0);
        self.assert_clean();
    }

    pub(crate) fn assert_clean(&self) {
        let report = self.store.fsck(FsckOptions { read_data: true, repair: false }, &Silent).unwrap();
        assert_eq!(report.findings.list(), []);
    }
}

/// Three megabytes and a bit: data, zeros, data that compresses, an odd end.
pub(crate) fn disk(seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut bytes = vec![0_u8; (3 << 20) + 4608];
    for byte in &mut bytes[..1 << 20] {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        *byte = (state >> 24) as u8;
    }
    for (n, byte) in bytes[2 << 20..].iter_mut().enumerate() {
        *byte = (n / 1000) as u8;
    }
    bytes
}

pub(crate) fn content_of(disk: &dyn Disk) -> ContentDigest {
    hash_disk(disk, HashJob::default(), &Silent).unwrap().content
}

/// The bytes of a disk.
pub(crate) fn bytes_of(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.disk_len()).unwrap()];
    disk.read_guest(kiln_disk::GuestOffset::ZERO, &mut bytes).unwrap();
    bytes
}

pub(crate) fn sha256_of(bytes: &[u8]) -> String {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Changes one byte of a guest block in the layer of an image of [`disk`]\ `(seed)`.
pub(crate) fn damage(store: &Store, image: &kiln_catalog::Manifest, seed: u32, block: usize) {
    let path = store.layer_path(&image.layers[0]);
    let mut layer = std::fs::read(&path).unwrap();
    let block = disk(seed)[block * 65_536..(block + 1) * 65_536].to_vec();
    let at = layer.windows(65_536).step_by(512).position(|window| window == block).unwrap() * 512;
    layer[at + 1000] ^= 4;
    std::fs::write(&path, layer).unwrap();
}
