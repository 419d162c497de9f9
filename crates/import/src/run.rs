//! The import itself.

use std::io::BufWriter;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kiln_catalog::{
    Checksum, Draft, ImageDigests, ImageId, Job, LayerId, Manifest, NewLayer, Provenance, SealedLayer,
    SourceRecord,
};
use kiln_disk::digest::{Algorithm, DiskDigests, LeafWriter, hash_source};
use kiln_disk::{Durability, Error as DiskError, Existing, Observer};
use kiln_format::transfer::{FilePlan, stage_file};

use crate::appliance;
use crate::error::{Error, Result};
use crate::plan::{Plan, PlanFacts, check_record};
use crate::style::{LAYER_FORMAT, layer_format, options_of};

/// What an import did. Sizes are bytes.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The image, with all its digests.
    pub manifest: Manifest,
    /// What was known before the import.
    pub facts: PlanFacts,
    /// Data of the disk: its non-zero 64 KiB blocks.
    pub data_bytes: u64,
    /// What the store grew by; 0 when it had the same layer already.
    pub new_bytes: u64,
    /// The image that lost its tag to this one.
    pub untagged: Option<ImageId>,
    /// Damaged layers that this import replaced by good ones.
    pub healed: Vec<LayerId>,
    /// How long it took.
    pub timings: Timings,
}

/// Wall times of the parts of an import.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Checksum, identification, check.
    pub plan: Duration,
    /// Writing the layer, bringing it to the device and reading it back as a disk.
    pub convert: Duration,
    /// Reading the layer back as a file.
    pub seal: Duration,
    /// Giving everything its name.
    pub publish: Duration,
    /// All of it.
    pub total: Duration,
}

impl Plan {
    /// Converts, proves and publishes. When this returns the image is in the store for good; when it fails,
    /// nothing of it is to be seen.
    ///
    /// # Errors
    /// I/O; `source.changed`; `output.differs`; [`kiln_catalog::Refusal::NameTaken`]; `Cancelled`.
    pub fn run(mut self, observer: &dyn Observer) -> Result<Outcome> {
        let job = match self.job.take() {
            Some(job) => job,
            None => self.store.begin()?,
        };
        // The source's own digest is one thread's work and the longest: everything else is done beside it.
        let failed = AtomicBool::new(false);
        let (made, source_digest) = std::thread::scope(|scope| {
            let hashing = self.request.hash_source.then(|| {
                let observer = Beside { observer, failed: &failed };
                let source = Arc::clone(&self.source);
                scope.spawn(move || hash_source(source.as_ref(), &[Algorithm::Sha256], &observer))
            });
            let made = self.make_layer(&job, observer);
            failed.store(made.is_err(), Ordering::Relaxed);
            (made, hashing.map(|hashing| hashing.join().unwrap_or(Err(DiskError::Cancelled))))
        });
        let Made { sealed, disk: written, convert, seal } = made?;
        self.source.confirm_unchanged()?;
        let content = written.content;
        let begun = Instant::now();
        let checksum =
            self.facts.proved.first().map_or(Checksum::Unverified, crate::checksum::Expected::record);
        let mut digests = self.facts.digests.clone();
        digests.extend(source_digest.transpose()?.into_iter().flatten());
        let draft = Draft {
            name: self.request.name,
            description: self.request.description,
            disk_bytes: self.image.disk_len(),
            digests: ImageDigests { content, raw: written.raw },
            source: SourceRecord {
                file_name: self.facts.file_name.clone(),
                format: self.facts.format.id.to_owned(),
                byte_len: self.facts.byte_len,
                digests,
            },
            provenance: Provenance {
                tool: self.request.tool,
                checksum,
                appliance: appliance::record(
                    self.image.as_ref(),
                    self.request.part.as_deref(),
                    &self.facts.findings,
                ),
            },
            checks: check_record(&self.facts),
        };
        let published = job.publish(draft, &[sealed], self.request.if_taken, observer)?;
        Ok(Outcome {
            manifest: published.manifest,
            data_bytes: written.data_bytes,
            new_bytes: published.new_bytes,
            untagged: published.untagged,
            healed: published.healed,
            timings: Timings {
                plan: self.facts.took,
                convert,
                seal,
                publish: begun.elapsed(),
                total: self.started.elapsed(),
            },
            facts: self.facts,
        })
    }

    /// Writes layer and leaf list into the job, and brings them to the device.
    fn make_layer(&self, job: &Job, observer: &dyn Observer) -> Result<Made> {
        let begun = Instant::now();
        let (file, leaves, disk) = self.write_layer(job, observer)?;
        let convert = begun.elapsed();
        let begun = Instant::now();
        let layer = NewLayer {
            file,
            leaves,
            format: LAYER_FORMAT.to_owned(),
            style: self.request.style.word().to_owned(),
            content: disk.content,
        };
        let sealed = job.seal(layer, observer)?;
        Ok(Made { sealed, disk, convert, seal: begun.elapsed() })
    }

    /// Writes layer and leaf list: their paths, and the digests of the disk in them.
    fn write_layer(&self, job: &Job, observer: &dyn Observer) -> Result<(PathBuf, PathBuf, DiskDigests)> {
        let (format, create) = layer_format()?;
        let options = options_of(&create, self.request.style.option_pairs())?;
        let disk_len = self.image.disk_len();
        let (leaf_file, leaf_path) = job.create_file("layer.leaves")?;
        let mut leaves = LeafWriter::new(BufWriter::new(leaf_file), disk_len)?;
        let dest = job.dir().join("layer.qcow2");
        let plan = FilePlan {
            disk: self.image.as_ref(),
            format,
            options: &options,
            dest: &dest,
            existing: Existing::Keep,
            durability: Durability::Synced,
            read_back: true,
            threads: self.request.threads,
            content_digest: true,
            raw_digest: self.request.raw_digest,
            leaves: Some(&mut leaves),
            budget: &self.budget,
        };
        let (staged, outcome) = stage_file(plan, observer)?;
        // Asked for above, so it is there.
        let digests = outcome.digests.ok_or(Error::Disk(DiskError::Cancelled))?;
        let leaf_file = leaves
            .finish(&digests.content)?
            .into_inner()
            .map_err(|error| DiskError::io("write", leaf_path.display().to_string(), error.into_error()))?;
        drop(leaf_file);
        staged.commit(Existing::Keep, Durability::Unsynced)?;
        Ok((dest, leaf_path, digests))
    }
}

/// A layer that is on the device.
struct Made {
    sealed: SealedLayer,
    disk: DiskDigests,
    convert: Duration,
    seal: Duration,
}

/// For work beside the conversion, which is what the events are about. Stops when the conversion failed.
struct Beside<'a> {
    observer: &'a dyn Observer,
    failed: &'a AtomicBool,
}

impl Observer for Beside<'_> {
    fn event(&self, _event: kiln_disk::Event<'_>) {}

    fn is_cancelled(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.observer.is_cancelled()
    }
}
