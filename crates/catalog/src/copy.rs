//! Copies: into an own image of the same store, and into another store on this host.
//!
//! A copy is an image of its own, with an id of its own; where it comes from stays in its manifest. Between stores
//! the layers' files are copied as they are, and the bytes that arrived must have the digests of those that left.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use kiln_disk::{ByteSource, Error as DiskError, Event, FileOffset, FileSource, Observer, go_on};

use crate::error::{Error, Refusal, Result, io};
use crate::id::ImageId;
use crate::job::Job;
use crate::jobs::{CopyResume, Resume, len_of};
use crate::layout::create_new;
use crate::manifest::{LayerRecord, Manifest, Origin, OriginKind};
use crate::name::NameTag;
use crate::publish::{Birth, Draft, IfTaken, NewLayer, Published, SealedLayer, transport};
use crate::query::Image;
use crate::record::What;
use crate::rights::Action;
use crate::sealed::sha256;
use crate::store::Store;

/// The most ancestors that an origin names.
const MAX_BEFORE: usize = 16;
/// How much is copied at once, and what a resumed copy starts again at.
const STEP: u64 = 1 << 20;

impl Store {
    /// Makes a copy of an image in `to`, on behalf of the account that acts there. The same store is meant when
    /// both are at one place: then no byte is copied.
    ///
    /// # Errors
    /// [`Refusal::Rights`]; [`Refusal::NameTaken`]; [`Refusal::Quota`]; [`Refusal::LayerDiffers`] when what arrived
    /// is not what left; I/O. A copy that was interrupted can be [resumed](Store::resume).
    pub fn copy_image(
        &self,
        id: &ImageId,
        to: &Self,
        name: &NameTag,
        if_taken: IfTaken,
        observer: &dyn Observer,
    ) -> Result<Published> {
        let image = self.image(id.as_str())?;
        self.permit(Action::Copy, &image)?;
        if if_taken == IfTaken::Refuse {
            to.check_free(name)?;
        }
        let what = format!("{} ({}) to {name}", image.manifest.title(), image.manifest.id);
        if same_place(self.path(), to.path()) {
            let job = to.begin_job("copy", &what, vec![id.clone()], None)?;
            let draft = self.copy_draft(&image, name, OriginKind::Copy)?;
            return job.publish_upon(draft, &image.manifest.layers, &[], if_taken, observer);
        }
        let from = std::fs::canonicalize(self.path()).map_err(|source| io("find", self.path(), source))?;
        let replace = if_taken == IfTaken::MoveTag;
        let resume = CopyResume { from, image: id.clone(), name: name.to_string(), replace };
        let job = to.begin_job("copy", &what, Vec::new(), Some(Resume::Copy(resume)))?;
        self.copy_into(&image, to, job, name, if_taken, observer)
    }

    /// Goes on with a copy into this store that was interrupted.
    ///
    /// # Errors
    /// [`Refusal::NoJob`], [`Refusal::NotResumable`]; as [`Store::copy_image`].
    pub fn resume(&self, job: &str, observer: &dyn Observer) -> Result<Published> {
        let (mut job, resume) = self.take_over(job)?;
        let ready = (|| {
            let from = Self::open(&resume.from)?.acting_as(self.account.clone());
            let image = from.image(resume.image.as_str())?;
            from.permit(Action::Copy, &image)?;
            Ok((from, image, resume.name.parse()?))
        })();
        let (from, image, name): (Self, Image, NameTag) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                // The other store may only be unplugged: what has arrived waits.
                job.dir.keep();
                return Err(error);
            }
        };
        let if_taken = if resume.replace { IfTaken::MoveTag } else { IfTaken::Refuse };
        from.copy_into(&image, self, job, &name, if_taken, observer)
    }

    fn copy_into(
        &self,
        image: &Image,
        to: &Self,
        mut job: Job,
        name: &NameTag,
        if_taken: IfTaken,
        observer: &dyn Observer,
    ) -> Result<Published> {
        // A lease: while this lives, the image cannot be removed.
        let id = &image.manifest.id;
        let what = format!("{} to {}", image.manifest.title(), to.path().display());
        let _lease = self.begin_job("copy-out", &what, vec![id.clone()], None)?;
        let done = (|| {
            let watched = job.watched(observer);
            let mut below: Vec<LayerRecord> = Vec::new();
            let mut sealed = Vec::new();
            for (number, layer) in image.manifest.layers.iter().enumerate() {
                if sealed.is_empty() && to.has_sound(layer, &watched)? {
                    below.push(layer.clone());
                } else {
                    sealed.push(self.copy_layer(layer, &job, number, &watched)?);
                }
            }
            Ok((below, sealed))
        })();
        let (below, sealed) = match done {
            Ok(done) => done,
            Err(error) => {
                // What has arrived is kept for `resume`, unless it is no use or was asked to go.
                let worth = matches!(error, Error::Disk(DiskError::Io { .. } | DiskError::Cancelled));
                if worth && !job.dir().join("cancel").exists() {
                    job.dir.keep();
                }
                return Err(error);
            }
        };
        let draft = self.copy_draft(image, name, OriginKind::Copy)?;
        let published = job.publish_upon(draft, &below, &sealed, if_taken, observer)?;
        // The copy is there, whatever becomes of this note.
        let detail = format!("to {} in {}", published.manifest.id, to.path().display());
        let _ = self.note_copied(id, &detail);
        Ok(published)
    }

    fn note_copied(&self, id: &ImageId, detail: &str) -> Result<Image> {
        self.change(id, Action::Copy, |_| Ok(vec![(What::Copied, detail.to_owned())]))
    }

    /// Whether this store has a layer, whole.
    fn has_sound(&self, layer: &LayerRecord, observer: &dyn Observer) -> Result<bool> {
        let open = |path: &Path| match FileSource::open(path) {
            Ok(source) => Ok(Some(source)),
            Err(error) if error.code() == "io.not-found" => Ok(None),
            Err(error) => Err(Error::from(error)),
        };
        let (Some(file), Some(leaves)) =
            (open(&self.layout.layer(&layer.digest))?, open(&self.layout.leaves(&layer.digest))?)
        else {
            return Ok(false);
        };
        Ok(file.byte_len() == layer.byte_len
            && transport(&file, observer)? == layer.digest
            && transport(&leaves, &kiln_disk::Silent)? == layer.leaves)
    }

    /// Copies the files of a layer into a job of another store, going on where an earlier try stopped.
    fn copy_layer(
        &self,
        layer: &LayerRecord,
        job: &Job,
        number: usize,
        observer: &dyn Observer,
    ) -> Result<SealedLayer> {
        let file = job.dir().join(format!("layer-{number}.qcow2"));
        let leaves = job.dir().join(format!("layer-{number}.leaves"));
        copy_file(&self.open_layer(layer)?, &file, observer)?;
        copy_file(&FileSource::open(&self.layout.leaves(&layer.digest))?, &leaves, &kiln_disk::Silent)?;
        let new = NewLayer {
            file: file.clone(),
            leaves: leaves.clone(),
            format: layer.format.clone(),
            style: layer.style.clone(),
            content: layer.content,
        };
        let sealed = job.seal(new, observer);
        match &sealed {
            Ok(sealed) if sealed.record() == layer => {}
            Ok(_) | Err(Error::Refused(Refusal::LayerDiffers { .. })) => {
                // A part from an earlier try must not spoil the next one.
                let _ = std::fs::remove_file(&file);
                let _ = std::fs::remove_file(&leaves);
                let source = self.open_layer(layer)?;
                let found = transport(&source, observer)?;
                let path = self.layer_path(layer);
                let (path, found) = match &sealed {
                    Ok(sealed) if found == layer.digest => (file, sealed.record().digest.to_string()),
                    _ => (path, found.to_string()),
                };
                let expected = layer.digest.to_string();
                return Err(Refusal::LayerDiffers { path, found, expected }.into());
            }
            Err(_) => {}
        }
        sealed
    }

    /// What the copy of an image is published with.
    pub(crate) fn copy_draft(&self, image: &Image, name: &NameTag, how: OriginKind) -> Result<Draft> {
        let texts = self.index()?.texts(&image.manifest.id)?;
        let text = texts.map(|texts| texts.manifest).unwrap_or_default();
        draft_of_copy(&image.manifest, image.record.owner.clone(), &text, name, how, &image.record.family)
    }

    /// What a capture that stands on an image is published with: all that is known about that image, which is its
    /// origin.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] when the account may not see it.
    pub fn capture_draft(&self, image: &Image, name: &NameTag) -> Result<Draft> {
        self.permit(Action::See, image)?;
        self.copy_draft(image, name, OriginKind::Capture)
    }

    /// The manifest of an image as published, its bytes: what a copy is tied to, and a signature is over.
    ///
    /// # Errors
    /// [`Refusal::NotFound`].
    pub fn manifest_text(&self, id: &ImageId) -> Result<String> {
        let index = self.index()?;
        let image = self.image_of(&index, id)?;
        Ok(index.texts(&image.manifest.id)?.map(|texts| texts.manifest).unwrap_or_default())
    }
}

/// A draft with all that is known about an image, its origin being that image.
///
/// # Errors
/// None in practice.
pub fn draft_of_copy(
    manifest: &Manifest,
    owner: crate::Account,
    text: &str,
    name: &NameTag,
    how: OriginKind,
    family: &Option<crate::Name>,
) -> Result<Draft> {
    let digest = sha256(text.as_bytes().to_vec())?;
    let malformed = |_| Refusal::LayerDiffers {
        path: "the manifest".into(),
        found: digest.clone(),
        expected: "a SHA-256 digest".to_owned(),
    };
    let mut before: Vec<ImageId> = manifest
        .origin
        .iter()
        .flat_map(|origin| [&origin.image].into_iter().chain(&origin.before))
        .cloned()
        .collect();
    before.truncate(MAX_BEFORE);
    let origin = Origin {
        how,
        image: manifest.id.clone(),
        owner,
        created_at: manifest.created_at,
        manifest: digest.parse().map_err(malformed)?,
        before,
    };
    Ok(Draft {
        name: name.clone(),
        description: manifest.description.clone(),
        disk_bytes: manifest.disk_bytes,
        digests: manifest.digests.clone(),
        source: manifest.source.clone(),
        provenance: manifest.provenance.clone(),
        checks: manifest.checks.clone(),
        birth: Birth {
            origin: Some(origin),
            architecture: manifest.architecture.clone(),
            os: manifest.os.clone(),
            boot_mode: manifest.boot_mode.clone(),
            guest: manifest.guest.clone(),
            family: family.clone(),
            labels: std::collections::BTreeMap::new(),
        },
    })
}

/// Copies a file of a store; what is there already of an earlier try is kept. The digest is compared by the caller.
fn copy_file(source: &FileSource, dest: &Path, observer: &dyn Observer) -> Result<()> {
    let len = source.byte_len();
    let there = len_of(dest)?;
    let file = if there == 0 && !dest.exists() {
        create_new(dest)?
    } else {
        OpenOptions::new().write(true).open(dest).map_err(|error| io("open", dest, error))?
    };
    // Of the last step, only part may have reached the file.
    let mut at = if there > len { 0 } else { there - there % STEP };
    observer.event(Event::Started { phase: "copy", total: len });
    observer.event(Event::Advanced { bytes: at });
    let mut buffer = vec![0; usize::try_from(STEP).unwrap_or(0)];
    while at < len {
        go_on(observer)?;
        let step = STEP.min(len - at);
        let bytes = buffer.get_mut(..usize::try_from(step).unwrap_or(0)).unwrap_or_default();
        source.read_bytes(FileOffset::new(at), bytes)?;
        write_at(&file, bytes, at, dest)?;
        at += step;
        observer.event(Event::Advanced { bytes: step });
    }
    file.set_len(len).map_err(|error| io("set the length of", dest, error))?;
    observer.event(Event::Finished);
    Ok(())
}

fn write_at(file: &File, bytes: &[u8], at: u64, dest: &Path) -> Result<()> {
    file.write_all_at(bytes, at).map_err(|error| io("write", dest, error))
}

fn same_place(a: &Path, b: &Path) -> bool {
    match (std::fs::canonicalize(a), std::fs::canonicalize(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}
