//! The capture itself.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use kiln_catalog::machine::CapturedDisk;
use kiln_catalog::{
    Birth, CaptureRecord, CaptureSource, Checksum, Consistency, Draft, FoundBy, FreezeRecord, ImageDigests,
    ImageId, InstanceRecord, Job, MachineFacts, Manifest, Provenance, SourceRecord, Store,
};
use kiln_disk::Observer;

use crate::error::Result;
use crate::ground::Below;
use crate::layer::{How, Stored, store_disk};
use crate::live;
use crate::plan::{Plan, Prepared, name_of, plan};
use crate::request::{Request, Subject};
use crate::state::{Looked, Quieted, judge, look};
use crate::stopped::{Taken, machine_of};

/// What a capture did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The images, in the order of the disks.
    pub images: Vec<Captured>,
    /// How consistent they are: the least of them.
    pub consistency: Consistency,
    /// How long the guest's file systems stood still.
    pub frozen: Option<Duration>,
    /// All of it.
    pub elapsed: Duration,
}

/// An image that a disk became.
#[derive(Debug, Clone)]
pub struct Captured {
    /// It.
    pub manifest: Manifest,
    /// What the store grew by.
    pub new_bytes: u64,
    /// The image that lost its tag to it.
    pub untagged: Option<ImageId>,
}

/// What is known of the machine at the point in time.
pub(crate) struct Story {
    pub(crate) point: Timestamp,
    pub(crate) running: bool,
    pub(crate) quieted: Quieted,
    pub(crate) freeze: Option<FreezeRecord>,
    pub(crate) machine: Option<MachineFacts>,
}

impl Plan {
    /// Captures. When this returns the images are in the store for good; when it fails, nothing of it is to be seen,
    /// and a running machine is as it was.
    ///
    /// # Errors
    /// As [`plan`]; `source.changed` when somebody wrote meanwhile; [`crate::Refusal::Lost`]; I/O; `Cancelled`.
    pub fn run(self, observer: &dyn Observer) -> Result<Outcome> {
        let begun = Instant::now();
        let Self { store, request, facts: _, what } = self;
        let mut outcome = match what {
            Prepared::Stopped { disks, instance } => {
                stopped(&store, &request, &disks, instance.as_deref(), observer)?
            }
            Prepared::Live(target) => live::capture(&store, &request, &target, observer)?,
            Prepared::ToStop(record) => {
                live::shut_down(&store, &record, request.patience, observer)?;
                let again = plan(&store, Subject::Instance(record), request, observer)?;
                return again.run(observer);
            }
        };
        outcome.elapsed = begun.elapsed();
        Ok(outcome)
    }
}

fn stopped(
    store: &Store,
    request: &Request,
    disks: &[Taken],
    instance: Option<&InstanceRecord>,
    observer: &dyn Observer,
) -> Result<Outcome> {
    let story = Story {
        point: Timestamp::now(),
        running: false,
        quieted: Quieted::Stopped,
        freeze: None,
        machine: instance.map(machine_of),
    };
    let jobs =
        disks.iter().map(|taken| begin(store, request, &taken.id, &taken.below)).collect::<Result<_>>()?;
    let kept = keep(request, disks, jobs, observer)?;
    for taken in disks {
        if let Some(file) = &taken.still {
            file.confirm_unchanged()?;
        }
    }
    let images = publish(store, request, disks, kept, &story, observer)?;
    if let Some(record) = instance {
        remember(store, record, disks, &images, &[], story.point)?;
    }
    Ok(outcome(images, None))
}

pub(crate) fn outcome(images: Vec<Captured>, frozen: Option<Duration>) -> Outcome {
    let of = |one: &Captured| one.manifest.provenance.capture.as_ref().map(|capture| capture.consistency);
    let consistency = images.iter().filter_map(of).min().unwrap_or(Consistency::Crash);
    Outcome { images, consistency, frozen, elapsed: Duration::ZERO }
}

/// A disk as a layer in the directory of its job.
pub(crate) struct Kept {
    job: Job,
    stored: Stored,
    disk_len: u64,
    looked: Looked,
}

/// A job for a capture: it holds the images that a layer will stand on.
pub(crate) fn begin(store: &Store, request: &Request, id: &str, below: &Below) -> Result<Job> {
    let what = format!("{id} to {}", request.name);
    let needed = below.ground.iter().filter_map(|ground| Some(ground.image.as_ref()?.manifest.id.clone()));
    Ok(store.begin_job("capture", &what, needed.collect(), None)?)
}

/// Reads the disks and writes their layers; nothing is published.
pub(crate) fn keep(
    request: &Request,
    disks: &[Taken],
    jobs: Vec<Job>,
    observer: &dyn Observer,
) -> Result<Vec<Kept>> {
    let mut kept = Vec::new();
    for (taken, job) in disks.iter().zip(jobs) {
        let watched = job.watched(observer);
        let ground = taken.below.ground.as_ref();
        let below = ground.and_then(|ground| ground.layers.last()).map(|layer| layer.style.as_str());
        let how = How { style: request.style_word(below), threads: request.threads };
        let stored = store_disk(&job, taken.disk.as_ref(), ground, taken.places.as_ref(), how, &watched)?;
        let looked = look(&taken.disk, &request.reader)?;
        drop(watched);
        kept.push(Kept { job, stored, disk_len: taken.disk.disk_len(), looked });
    }
    Ok(kept)
}

/// Publishes all; when one cannot be, those before it are taken back.
pub(crate) fn publish(
    store: &Store,
    request: &Request,
    disks: &[Taken],
    kept: Vec<Kept>,
    story: &Story,
    observer: &dyn Observer,
) -> Result<Vec<Captured>> {
    let mut images: Vec<Captured> = Vec::new();
    for (taken, kept) in disks.iter().zip(kept) {
        match publish_one(store, request, taken, kept, story, disks.len(), observer) {
            Ok(image) => images.push(image),
            Err(error) => {
                for image in images {
                    // The first error is the one to tell.
                    let _ = store.remove(&image.manifest.id);
                }
                return Err(error);
            }
        }
    }
    Ok(images)
}

fn publish_one(
    store: &Store,
    request: &Request,
    taken: &Taken,
    kept: Kept,
    story: &Story,
    disks: usize,
    observer: &dyn Observer,
) -> Result<Captured> {
    let Kept { job, stored, disk_len, looked } = kept;
    let (consistency, because) = judge(&story.quieted, &looked);
    let ground = taken.below.ground.as_ref();
    let parent = ground.and_then(|ground| ground.image.as_ref());
    let record = CaptureRecord {
        source: taken.source.clone(),
        point: story.point,
        running: story.running,
        consistency,
        because,
        freeze: story.freeze.clone(),
        file_systems: looked.file_systems,
        identity: looked.identity,
        parent: parent.map(|image| image.manifest.id.clone()),
        found_by: match (ground, taken.by_bitmap) {
            (None, _) => FoundBy::Everything,
            (Some(_), true) => FoundBy::Bitmap,
            (Some(_), false) => FoundBy::Overlay,
        },
        changed_bytes: stored.changed_bytes,
        zeroed_bytes: stored.zeroed_bytes,
        same_bytes: stored.same_bytes,
        machine: story.machine.clone(),
        disks: u32::try_from(disks).unwrap_or(u32::MAX),
    };
    let name = name_of(&taken.id, request, disks)?;
    let (file_name, format, byte_len) = taken.file.clone();
    let provenance = Provenance {
        tool: request.tool.clone(),
        checksum: Checksum::Unverified,
        appliance: None,
        download: None,
        signer: None,
        capture: Some(record),
    };
    let birth = match parent {
        // The family moves on to images that are put there, not to every backup.
        Some(image) => Birth { family: None, ..store.capture_draft(image, &name)?.birth },
        None => Birth {
            architecture: story.machine.as_ref().and_then(|machine| machine.architecture.clone()),
            ..Birth::default()
        },
    };
    let draft = Draft {
        name,
        description: request.description.clone(),
        disk_bytes: disk_len,
        digests: ImageDigests { content: stored.content, raw: None },
        source: SourceRecord { file_name: Some(file_name), format, byte_len, digests: Vec::new() },
        provenance,
        checks: taken.checks.clone(),
        birth,
    };
    let below = ground.map(|ground| ground.layers.as_slice()).unwrap_or_default();
    // A layer that would hold nothing is none.
    let nothing = !below.is_empty()
        && below.last().is_some_and(|top| top.content == stored.content)
        && ground.is_some_and(|ground| ground.leaves.disk_len() == disk_len);
    let layers = [stored.sealed];
    let layers = if nothing { &[] } else { layers.as_slice() };
    let published = job.publish_upon(draft, below, layers, request.if_taken, observer)?;
    Ok(Captured {
        manifest: published.manifest,
        new_bytes: published.new_bytes,
        untagged: published.untagged,
    })
}

/// Writes down in the instance's record what its disks were captured as, so that the next captures stand on that.
pub(crate) fn remember(
    store: &Store,
    record: &InstanceRecord,
    disks: &[Taken],
    images: &[Captured],
    bitmaps: &[Option<String>],
    at: Timestamp,
) -> Result<()> {
    let bitmap = |index: usize| bitmaps.get(index).cloned().flatten();
    let captured: Vec<(String, CapturedDisk)> = disks
        .iter()
        .zip(images)
        .enumerate()
        .filter_map(|(index, (taken, image))| match &taken.source {
            CaptureSource::Instance { disk, .. } => {
                let captured = CapturedDisk { image: image.manifest.id.clone(), bitmap: bitmap(index), at };
                Some((disk.clone(), captured))
            }
            _ => None,
        })
        .collect();
    store.update_instance(&record.id, |machine| {
        for (id, captured) in captured {
            if let Some(disk) = machine.disks.iter_mut().find(|disk| disk.id == id) {
                disk.captured = Some(captured);
            }
        }
    })?;
    Ok(())
}
