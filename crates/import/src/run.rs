//! The import itself.

use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kiln_catalog::{
    ApplianceRecord, Checksum, Draft, ImageDigests, ImageId, Job, LayerId, Manifest, NewLayer, Provenance,
    SealedLayer, SourceRecord,
};
use kiln_disk::digest::{Algorithm, DiskDigests, LeafWriter, hash_source};
use kiln_disk::{
    Budget, ByteSource, Disk, Durability, Error as DiskError, Existing, FileSource, Finding, Findings,
    Observer, PaddedDisk,
};
use kiln_format::transfer::{FilePlan, stage_file};
use kiln_format::wrap::Place;
use kiln_format::{Facts, OpenContext, completeness};

use crate::appliance;
use crate::arrival::Arrival;
use crate::error::{Error, Result};
use crate::passing::OnItsWay;
use crate::plan::{Content, Plan, PlanFacts, Rules, Wishes, check_record, compare, judge_inside, pass};
use kiln_format::layer::{LAYER_FORMAT, layer_format, options_of};

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
        let Some(mut arrival) = self.arrival.take() else { return self.store_it(None, observer) };
        let tap = arrival.tap.clone();
        let stored = tap.watched(observer, || self.store_it(Some(&arrival), observer));
        tap.stop();
        stored.map_err(|error| {
            let error = arrival.error(error);
            arrival.give_up(&error);
            error
        })
    }

    fn store_it(self, arrival: Option<&Arrival>, observer: &dyn Observer) -> Result<Outcome> {
        let Self {
            mut job,
            source,
            signer,
            key,
            content,
            guest,
            rules,
            budget,
            request,
            mut facts,
            started,
            arrival: _,
        } = self;
        if let Some(key) = key {
            job.sign_with(key);
        }
        let watched = job.watched(observer);
        let observer: &dyn Observer = &watched;
        let appliance = match &content {
            Content::Image(image) => {
                appliance::record(image.as_ref(), request.part.as_deref(), &facts.findings)
            }
            Content::Stream { .. } => None,
        };
        let maker = Maker { job: &job, source, arrival, rules: &rules, budget: &budget, request: &request };
        // The source's own digest is one thread's work and the longest: everything else is done beside it.
        let failed = AtomicBool::new(false);
        let (made, source_digest) = std::thread::scope(|scope| {
            let source = maker.source.clone().filter(|_| request.hash_source);
            let hashing = source.map(|source| {
                let observer = Beside { observer, failed: &failed };
                scope.spawn(move || hash_source(source.as_ref(), &[Algorithm::Sha256], &observer))
            });
            let made = maker.make(content, &mut facts, observer);
            // One look at the guest is enough: the layer holds what the source holds.
            let made = made.and_then(|made| match guest {
                Some(guest) => Ok((made, guest)),
                None => Ok((made, request.guest.admit_layer(&job.dir().join(LAYER))?)),
            });
            failed.store(made.is_err(), Ordering::Relaxed);
            (made, hashing.map(|hashing| hashing.join().unwrap_or(Err(DiskError::Cancelled))))
        });
        let (Made { sealed, disk: written, convert, seal, appliance: met }, guest) = made?;
        facts.guest = guest.judgements;
        if let Some(source) = &maker.source {
            source.confirm_unchanged()?;
        }
        let content = written.content;
        if let Some(arrival) = arrival {
            facts.passage.scratch_bytes = facts.passage.scratch_bytes.saturating_add(arrival.copied_bytes());
            facts.passage.traffic = arrival.traffic();
            if arrival.copied_bytes() > 0 {
                let why = "the download is kept until it is done, to be gone on with";
                facts.passage.reason.get_or_insert_with(|| why.to_owned());
            }
        }
        let begun = Instant::now();
        let checksum = facts.proved.first().map_or(Checksum::Unverified, crate::checksum::Expected::record);
        let mut digests = facts.digests.clone();
        digests.extend(source_digest.transpose()?.into_iter().flatten());
        let draft = Draft {
            name: request.name,
            description: request.description,
            disk_bytes: facts.container.disk_bytes,
            digests: ImageDigests { content, raw: written.raw },
            source: SourceRecord {
                file_name: facts.file_name.clone(),
                format: facts.format.id.to_owned(),
                byte_len: facts.byte_len,
                digests,
            },
            provenance: Provenance {
                tool: request.tool,
                checksum,
                appliance: appliance.or(met),
                download: arrival.and_then(Arrival::record),
                signer,
                capture: None,
            },
            checks: check_record(&facts),
            birth: guest.birth,
        };
        let published = job.publish(draft, &[sealed], request.if_taken, observer)?;
        Ok(Outcome {
            manifest: published.manifest,
            data_bytes: written.data_bytes,
            new_bytes: published.new_bytes,
            untagged: published.untagged,
            healed: published.healed,
            timings: Timings {
                plan: facts.took,
                convert,
                seal,
                publish: begun.elapsed(),
                total: started.elapsed(),
            },
            facts,
        })
    }
}

/// What makes a layer.
struct Maker<'a> {
    job: &'a Job,
    source: Option<Arc<FileSource>>,
    arrival: Option<&'a Arrival>,
    rules: &'a Rules,
    budget: &'a Arc<Budget>,
    request: &'a Wishes,
}

impl Maker<'_> {
    fn make(&self, content: Content, facts: &mut PlanFacts, observer: &dyn Observer) -> Result<Made> {
        let (wrapped, disk_len) = match content {
            Content::Image(image) => return self.make_layer(image.as_ref(), &|_| Ok(()), observer),
            Content::Stream { wrapped, disk_len } => (wrapped, disk_len),
        };
        let opened = OnItsWay::open(wrapped, disk_len, self.job.dir(), self.budget);
        let passing = match opened {
            Ok(passing) => passing,
            Err(error) => return Err(self.judged(facts, error.into(), observer)?),
        };
        let mut found = Findings::default();
        let made = {
            let found = Mutex::new(&mut found);
            let confirm = |layer: &Path| -> Result<()> {
                // All of it has been decoded now, and its end is known.
                let mut findings = passing.finish(observer)?;
                self.prove(facts)?;
                completeness_of(layer, &mut findings)?;
                **found.lock().unwrap_or_else(PoisonError::into_inner) = findings;
                Ok(())
            };
            let whole = PaddedDisk::new(passing.disk(), facts.container.disk_bytes);
            self.make_layer(&whole, &confirm, observer)
        };
        let made = match made {
            Err(error) => Err(self.after_failure(error, &passing, facts, observer)?),
            Ok(made) => Ok(made),
        };
        match made {
            Ok(made) => {
                self.received(facts);
                let mut made = made;
                if let Some(image) = passing.image() {
                    facts.container = Facts { disk_bytes: facts.container.disk_bytes, ..image.facts() };
                    made.appliance = appliance::record(image, None, &found);
                }
                if passing.spilled_bytes() > 0 {
                    facts
                        .passage
                        .spooled(passing.spilled_bytes(), "its parts do not come in the order of the disk");
                }
                facts.forced = pass(&found, self.rules, &self.label())?;
                facts.findings = found;
                Ok(made)
            }
            Err(Error::Disk(DiskError::Refused {
                code: "stream.length" | "stream.layout" | STREAM_KIND,
                ..
            })) if self.arrival.is_none_or(|arrival| arrival.copied_bytes() > 0) => {
                drop(passing);
                self.make_unpacked(facts, observer)
            }
            Err(error) => {
                drop(passing);
                Err(self.judged(facts, error, observer)?)
            }
        }
    }

    /// The error to tell when a disk could not be stored: the decoder's own word comes before what it led to, and
    /// what a check of the whole file finds before the first thing that a read of it stumbled over.
    fn after_failure(
        &self,
        error: Error,
        passing: &OnItsWay,
        facts: &PlanFacts,
        observer: &dyn Observer,
    ) -> Result<Error> {
        if matches!(error, Error::Disk(DiskError::Cancelled)) {
            match self.arrival {
                Some(arrival) => arrival.tap.stop(),
                // Nobody would hear a wish to stop until the end of the file.
                None if observer.is_cancelled() => return Ok(error),
                None => {}
            }
        }
        Ok(match passing.finish(observer) {
            Err(DiskError::Cancelled) => error,
            Err(own) => own.into(),
            Ok(findings) if findings.fails() && is_judgement(&error) => {
                self.prove(facts)?;
                pass(&findings, self.rules, &self.label()).err().unwrap_or(error)
            }
            Ok(_) => error,
        })
    }

    fn label(&self) -> String {
        match (&self.source, self.arrival) {
            (Some(source), _) => source.label().to_owned(),
            (None, Some(arrival)) => arrival.label.clone(),
            (None, None) => String::new(),
        }
    }

    /// Holds a file that went by against what it must be. Nothing is published before.
    fn prove(&self, facts: &PlanFacts) -> Result<()> {
        match self.arrival.filter(|_| self.source.is_none()) {
            Some(arrival) => compare(&arrival.label, &arrival.tap, &facts.proved),
            None => Ok(()),
        }
    }

    /// Takes down what is known of a file now that it went by.
    fn received(&self, facts: &mut PlanFacts) {
        let gone = self.arrival.filter(|_| self.source.is_none()).and_then(|arrival| arrival.tap.digests());
        if let Some((byte_len, digests)) = gone {
            facts.byte_len = byte_len;
            facts.digests = digests;
        }
    }

    /// A file that could not be decoded may be another one than was promised: that is then the answer, and else its
    /// own error.
    fn judged(&self, facts: &PlanFacts, error: Error, observer: &dyn Observer) -> Result<Error> {
        let Some(arrival) = self.arrival.filter(|_| self.source.is_none()) else { return Ok(error) };
        if is_judgement(&error) && !facts.proved.is_empty() {
            arrival.tap.drain(observer)?;
            self.prove(facts)?;
        }
        Ok(error)
    }

    /// The other way, when the end of a stream was not what its beginning promised.
    fn make_unpacked(&self, facts: &mut PlanFacts, observer: &dyn Observer) -> Result<Made> {
        for name in [LEAVES, LAYER] {
            match std::fs::remove_file(self.job.dir().join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(DiskError::io("remove", name, error).into());
                }
                _ => {}
            }
        }
        let bytes: Arc<dyn ByteSource> = match (&self.source, self.arrival) {
            (Some(source), _) => Arc::<FileSource>::clone(source),
            (None, Some(arrival)) => {
                let landed = arrival.land(self.job, observer)?;
                self.prove(facts)?;
                self.received(facts);
                landed.source
            }
            (None, None) => return Err(not_raw().into()),
        };
        let place =
            Place { dir: self.job.dir(), max_len: self.rules.max_disk_bytes, threads: self.request.threads };
        let (judged, inside) = judge_inside(&bytes, self.rules, place, self.budget, observer)?;
        facts.passage.one_pass = false;
        facts.judged(&judged, &inside, Some("its end was not what its beginning promised".to_owned()));
        self.make_layer(judged.image.as_ref(), &|_| Ok(()), observer)
    }

    /// Writes layer and leaf list into the job, and brings them to the device. `confirm` has the last word on the
    /// written layer.
    fn make_layer(
        &self,
        disk: &dyn Disk,
        confirm: &dyn Fn(&Path) -> Result<()>,
        observer: &dyn Observer,
    ) -> Result<Made> {
        let job = self.job;
        let begun = Instant::now();
        let (file, leaves, disk) = self.write_layer(disk, observer)?;
        confirm(&file)?;
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
        Ok(Made { sealed, disk, convert, seal: begun.elapsed(), appliance: None })
    }

    /// Writes layer and leaf list: their paths, and the digests of the disk in them.
    fn write_layer(
        &self,
        disk: &dyn Disk,
        observer: &dyn Observer,
    ) -> Result<(PathBuf, PathBuf, DiskDigests)> {
        let job = self.job;
        let (format, create) = layer_format()?;
        let options = options_of(&create, self.request.style.option_pairs())?;
        let disk_len = disk.disk_len();
        let (leaf_file, leaf_path) = job.create_file(LEAVES)?;
        let mut leaves = LeafWriter::new(BufWriter::new(leaf_file), disk_len)?;
        let dest = job.dir().join(LAYER);
        let plan = FilePlan {
            disk,
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
            budget: self.budget,
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

/// Whether an error is about the file.
fn is_judgement(error: &Error) -> bool {
    matches!(error, Error::Disk(DiskError::Malformed { .. } | DiskError::Refused { .. }))
}

/// Names in the job's directory.
const LEAVES: &str = "layer.leaves";
const LAYER: &str = "layer.qcow2";

/// Code of a stream that looked like a raw disk and has the mark of something else at its end.
const STREAM_KIND: &str = "stream.kind";

pub(crate) fn not_raw() -> DiskError {
    DiskError::Refused {
        code: STREAM_KIND,
        what: "what is inside is not what its beginning looked like".to_owned(),
        asked: 0,
        allowed: 0,
        hint: "unpack the file first",
    }
}

/// Whether the disk in a written layer reaches as far as its partition table says. The places are the guest's: those
/// in the layer are nobody's business.
fn completeness_of(layer: &Path, findings: &mut Findings) -> Result<()> {
    let (format, _) = layer_format()?;
    let image = (format.open)(Arc::new(FileSource::open(layer)?), &OpenContext::new())?;
    let mut found = Findings::default();
    completeness::check(image.as_ref(), &mut found)?;
    for finding in found.list() {
        findings.push(Finding { file_at: None, ..finding.clone() });
    }
    Ok(())
}

/// A layer that is on the device.
struct Made {
    sealed: SealedLayer,
    disk: DiskDigests,
    convert: Duration,
    seal: Duration,
    /// The machine that the disk belongs to, where that was only known at the end.
    appliance: Option<ApplianceRecord>,
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
