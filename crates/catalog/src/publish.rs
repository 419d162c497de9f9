//! Publication: how a finished layer and its facts become an image.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kiln_disk::digest::{Algorithm, ContentDigest, LeafFile, hash_source};
use kiln_disk::{ByteSource, Existing, FileSource, Observer};

use crate::error::{Error, Refusal, Result, io};
use crate::guest::GuestRecord;
use crate::id::{ImageId, LayerId};
use crate::index::{Edit, Entry, Index, Texts};
use crate::job::{Intent, Job, settle};
use crate::key::PrivateKey;
use crate::layout::{FILE_MODE, Layout, make_dir, remove_file, sync_dir, write_whole};
use crate::manifest::{
    CheckRecord, ImageDigests, ImageType, LayerRecord, Manifest, Origin, Provenance, SCHEMA, SourceRecord,
    State,
};
use crate::name::{MAX_DESCRIPTION, Name, NameTag};
use crate::record::{Record, What};
use crate::rights::Action;
use crate::sealed;
use crate::signature;
use crate::steps::{Step, Steps};
use crate::store::Store;

/// What to do when another image has the name and tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IfTaken {
    /// Refuse; nothing changes.
    #[default]
    Refuse,
    /// The new image gets the tag; the old one stays, found by its id and digests.
    MoveTag,
}

/// What is known about an image before it has an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// Its name and tag.
    pub name: NameTag,
    /// Free text, at most 256 printable characters.
    pub description: String,
    /// Length of the disk in bytes.
    pub disk_bytes: u64,
    /// Its digests.
    pub digests: ImageDigests,
    /// The file it came from.
    pub source: SourceRecord,
    /// Where that came from.
    pub provenance: Provenance,
    /// What the checks said.
    pub checks: CheckRecord,
    /// What it was made from, and what is known about the guest.
    pub birth: Birth,
}

/// What is known about an image beyond its disk, at its publication.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Birth {
    /// The image that it was made from.
    pub origin: Option<Origin>,
    /// The guest's architecture.
    pub architecture: Option<String>,
    /// The guest's operating system.
    pub os: Option<String>,
    /// How the guest boots.
    pub boot_mode: Option<String>,
    /// What the rules about guests say.
    pub guest: Option<GuestRecord>,
    /// The family.
    pub family: Option<Name>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// The most layers of an image. Each costs every read a look; a deeper stack is to be flattened.
pub const MAX_DEPTH: usize = 8;

/// A layer that was just written into a job's directory.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// Its file.
    pub file: PathBuf,
    /// Its leaf file.
    pub leaves: PathBuf,
    /// Id of its format.
    pub format: String,
    /// How its data is stored.
    pub style: String,
    /// Digest of the disk that it gives, proved by reading it.
    pub content: ContentDigest,
}

/// A layer that is on the device and has been read back.
#[derive(Debug)]
pub struct SealedLayer {
    record: LayerRecord,
    source: FileSource,
    file: PathBuf,
    leaves: PathBuf,
}

impl SealedLayer {
    /// What the manifest will say about it.
    #[must_use]
    pub fn record(&self) -> &LayerRecord {
        &self.record
    }
}

/// An image that was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its manifest.
    pub manifest: Manifest,
    /// The image that lost the tag.
    pub untagged: Option<ImageId>,
    /// Bytes that the store grew by: layers that it did not have yet.
    pub new_bytes: u64,
    /// Layers that it had, damaged, and that were replaced by the good copy.
    pub healed: Vec<LayerId>,
}

/// Judges a description.
///
/// # Errors
/// [`Refusal::Description`].
pub fn check_description(text: &str) -> Result<()> {
    let len = text.chars().count();
    if len <= MAX_DESCRIPTION && !text.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Refusal::Description { len, allowed: MAX_DESCRIPTION }.into())
}

impl Job {
    /// Brings a layer to the device, reads it back for its transport digest and proves its leaf file.
    ///
    /// # Errors
    /// [`Refusal::LayerDiffers`] when the leaves do not add up to `content`; I/O. The job is then worthless: an
    /// error of fsync is never followed by a second try on the same file.
    pub fn seal(&self, layer: NewLayer, observer: &dyn Observer) -> Result<SealedLayer> {
        let steps = &self.store.steps;
        let source = FileSource::open(&layer.file)?;
        let leaf_source = FileSource::open(&layer.leaves)?;
        for (file, path) in [(source.file(), &layer.file), (leaf_source.file(), &layer.leaves)] {
            steps.before(Step::SyncLayer)?;
            file.set_permissions(Permissions::from_mode(FILE_MODE))
                .map_err(|error| io("set the mode of", path, error))?;
            file.sync_all().map_err(|error| io("sync", path, error))?;
        }
        // The mode is part of what `confirm_unchanged` compares.
        let source = FileSource::open(&layer.file)?;
        steps.before(Step::ReadBack)?;
        let digest = transport(&source, observer)?;
        let proved = LeafFile::read(&leaf_source)?.content();
        if proved != layer.content {
            return Err(Refusal::LayerDiffers {
                path: layer.leaves,
                found: proved.to_string(),
                expected: layer.content.to_string(),
            }
            .into());
        }
        let record = LayerRecord {
            digest,
            format: layer.format,
            style: layer.style,
            byte_len: source.byte_len(),
            content: layer.content,
            leaves: transport(&leaf_source, &kiln_disk::Silent)?,
        };
        Ok(SealedLayer { record, source, file: layer.file, leaves: layer.leaves })
    }

    /// Publishes an image of these layers, base first. When this returns the image is there for good; when it
    /// fails nothing of it is to be seen.
    ///
    /// # Errors
    /// [`Refusal::NameTaken`], [`Refusal::Description`], [`Refusal::Quota`], I/O.
    pub fn publish(
        self,
        draft: Draft,
        layers: &[SealedLayer],
        if_taken: IfTaken,
        observer: &dyn Observer,
    ) -> Result<Published> {
        self.publish_upon(draft, &[], layers, if_taken, observer)
    }

    /// The same, with new layers upon some that the store has.
    ///
    /// # Errors
    /// As [`Job::publish`]; [`Refusal::TooDeep`]; `io.not-found` when a layer below is gone.
    pub fn publish_upon(
        mut self,
        draft: Draft,
        below: &[LayerRecord],
        layers: &[SealedLayer],
        if_taken: IfTaken,
        observer: &dyn Observer,
    ) -> Result<Published> {
        check_description(&draft.description)?;
        let depth = below.len().saturating_add(layers.len());
        if depth > MAX_DEPTH {
            return Err(Refusal::TooDeep { layers: depth, allowed: MAX_DEPTH }.into());
        }
        // Reading old layers takes long, so it is done before others are kept waiting.
        let mut known = Vec::new();
        for layer in layers {
            known.push(Known::look(&self.store.layout, layer, observer)?);
        }
        let store = self.store.clone();
        let _lock = store.exclusive()?;
        let mut index = store.index()?;
        let holder = store.holder(&index, &draft.name)?;
        if let (Some(holder), IfTaken::Refuse) = (&holder, if_taken) {
            return Err(Refusal::NameTaken { name: draft.name.to_string(), holder: holder.clone() }.into());
        }
        for layer in below {
            let path = store.layout.layer(&layer.digest);
            std::fs::metadata(&path).map_err(|source| io("stat", &path, source))?;
        }
        let id = fresh_id(&store.layout, &index)?;
        let stack: Vec<LayerRecord> =
            below.iter().cloned().chain(layers.iter().map(|layer| layer.record.clone())).collect();
        let mut more = 0_u64;
        for layer in &stack {
            if !index.owner_has(store.account.as_str(), &layer.digest)? {
                more = more.saturating_add(layer.byte_len);
            }
        }
        store.check_quota(&index, more)?;
        let untagged = match &holder {
            Some(holder) => {
                let record = store.untagged(&index, holder, &id)?;
                Some(store.amended(&index, record)?)
            }
            None => None,
        };
        let (family, labels) = (draft.birth.family.clone(), draft.birth.labels.clone());
        let manifest = manifest_of(id, draft, stack);
        let mut record = Record::new(&manifest, store.account.clone());
        record.family = family;
        record.labels = labels;
        let texts = Texts {
            manifest: manifest.render(&store.layout.manifest(&manifest.id))?,
            record: Some(sealed::render(&record, &store.layout.record(&manifest.id))?),
        };
        let entry = Entry { manifest, record, texts };
        let intent = Intent {
            images: [entry.manifest.id.clone()].into_iter().chain(holder.clone()).collect(),
            layers: entry.manifest.layers.iter().map(|layer| layer.digest.clone()).collect(),
            ..Intent::default()
        };
        store.steps.before(Step::Intent)?;
        self.dir.announce(&intent)?;
        let change = Change {
            store: &store,
            job: self.dir.path(),
            entry: &entry,
            untagged: untagged.as_ref(),
            signer: self.signer.as_ref(),
        };
        match change.run(&mut index, layers, &known) {
            Ok(outcome) => {
                store.steps.before(Step::Acknowledge)?;
                // Should the intent not go away, the next command finds that the row and the manifest agree.
                let _ = self.dir.settled();
                let (new_bytes, healed) = outcome;
                Ok(Published { manifest: entry.manifest, untagged: holder, new_bytes, healed })
            }
            Err(error) => {
                // The first error is the one to tell; what cannot be undone now is undone by the next command.
                let undone = settle(&store, &index, &intent).and_then(|()| self.dir.settled());
                drop(undone);
                Err(error)
            }
        }
    }
}

impl Job {
    /// Puts one layer with the same disk in the place of an image's layers. The disk that the layer gives is proved
    /// to be the image's; layers that nobody else needs go.
    ///
    /// # Errors
    /// [`Refusal::Rights`]; [`Refusal::LayerDiffers`]; I/O.
    pub fn flatten(mut self, id: &ImageId, layer: &SealedLayer, observer: &dyn Observer) -> Result<Manifest> {
        let known = Known::look(&self.store.layout, layer, observer)?;
        let store = self.store.clone();
        let _lock = store.exclusive()?;
        let mut index = store.index()?;
        let image = store.image_of(&index, id)?;
        store.permit_with(&index, Action::Protect, &image)?;
        let expected = image.manifest.digests.content;
        if layer.record.content != expected {
            return Err(Refusal::LayerDiffers {
                path: layer.file.clone(),
                found: layer.record.content.to_string(),
                expected: expected.to_string(),
            }
            .into());
        }
        let mut record = image.record.clone();
        record.layers = Some(vec![layer.record.clone()]);
        let detail = format!("{} layers to one", image.manifest.layers.len());
        record.note(&store.account, What::Flattened, detail);
        let entry = store.amended(&index, record)?;
        let old = image.manifest.layers.iter().map(|layer| layer.digest.clone());
        let intent = Intent {
            images: vec![id.clone()],
            layers: old.chain([layer.record.digest.clone()]).collect(),
            ..Intent::default()
        };
        store.steps.before(Step::Intent)?;
        self.dir.announce(&intent)?;
        let changed = (|| {
            known.place(&store.layout, &store.steps, layer)?;
            store.steps.before(Step::Record)?;
            store.write_record_file(&entry)?;
            store.steps.before(Step::Commit)?;
            index.change(&[Edit::Amend(&entry)])
        })();
        let settled = settle(&store, &index, &intent).and_then(|()| self.dir.settled());
        changed?;
        settled?;
        Ok(entry.manifest)
    }
}

/// The part of a publication that changes names.
struct Change<'a> {
    store: &'a Store,
    job: &'a Path,
    entry: &'a Entry,
    /// The image that loses its tag to this one, as it will be.
    untagged: Option<&'a Entry>,
    signer: Option<&'a PrivateKey>,
}

impl Change<'_> {
    fn run(&self, index: &mut Index, layers: &[SealedLayer], known: &[Known]) -> Result<(u64, Vec<LayerId>)> {
        let layout = &self.store.layout;
        let steps = &self.store.steps;
        let mut new_bytes = 0_u64;
        let mut healed = Vec::new();
        for (layer, known) in layers.iter().zip(known) {
            match known.place(layout, steps, layer)? {
                Placed::Shared => {}
                Placed::New => new_bytes = new_bytes.saturating_add(layer.record.byte_len),
                Placed::Healed => healed.push(layer.record.digest.clone()),
            }
        }
        steps.before(Step::Manifest)?;
        let staged = self.job.join("image");
        make_dir(&staged)?;
        let texts = &self.entry.texts;
        for (name, text) in [("manifest.json", Some(&texts.manifest)), ("record.json", texts.record.as_ref())]
        {
            let Some(text) = text else { continue };
            let path = staged.join(name);
            write_whole(&path, text, Existing::Keep)?;
            read_back(&path, text)?;
        }
        if let Some(key) = self.signer {
            signature::write_first(&staged, &self.entry.manifest, key)?;
        }
        let place = layout.image(&self.entry.manifest.id);
        std::fs::rename(&staged, &place).map_err(|source| io("publish", &place, source))?;
        sync_dir(&layout.images())?;
        let mut edits = Vec::new();
        if let Some(untagged) = self.untagged {
            steps.before(Step::Record)?;
            self.store.write_record_file(untagged)?;
            edits.push(Edit::Amend(untagged));
        }
        steps.before(Step::Commit)?;
        edits.push(Edit::Insert(self.entry));
        index.change(&edits)?;
        Ok((new_bytes, healed))
    }
}

/// What was at a layer's place when it was looked at without the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    /// The right bytes, in this inode.
    Good(u64),
    /// Other bytes than its name says, in this inode.
    Damaged(u64),
}

enum Placed {
    New,
    Shared,
    Healed,
}

impl Known {
    fn look(layout: &Layout, layer: &SealedLayer, observer: &dyn Observer) -> Result<Self> {
        let path = layout.layer(&layer.record.digest);
        let there = match FileSource::open(&path) {
            Ok(there) => there,
            Err(error) if error.code() == "io.not-found" => return Ok(Self::Nothing),
            Err(error) => return Err(error.into()),
        };
        let inode = there.file().metadata().map_err(|source| io("stat", &path, source))?.ino();
        let good = there.byte_len() == layer.record.byte_len
            && transport(&there, observer)? == layer.record.digest
            && leaves_are(layout, layer)?;
        Ok(if good { Self::Good(inode) } else { Self::Damaged(inode) })
    }

    /// Sees to it that the layer is in its place, with the lock held.
    fn place(self, layout: &Layout, steps: &Steps, layer: &SealedLayer) -> Result<Placed> {
        let digest = &layer.record.digest;
        let (path, leaves) = (layout.layer(digest), layout.leaves(digest));
        let there = match std::fs::metadata(&path) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(io("stat", &path, error)),
        };
        let placed = match (there, self) {
            (Some(metadata), Self::Good(inode)) if metadata.ino() == inode => return Ok(Placed::Shared),
            (Some(metadata), Self::Damaged(inode)) if metadata.ino() == inode => Placed::Healed,
            // Published by another process since we looked: it read its file back as we did ours.
            (Some(metadata), _) if metadata.len() == layer.record.byte_len && leaves_are(layout, layer)? => {
                return Ok(Placed::Shared);
            }
            (Some(_), _) => Placed::Healed,
            (None, _) => Placed::New,
        };
        layer.source.confirm_unchanged()?;
        make_dir(&layout.layer_dir(digest))?;
        steps.before(Step::LinkLeaves)?;
        put(&layer.leaves, &leaves, Existing::Replace)?;
        steps.before(Step::LinkLayer)?;
        let existing = if matches!(placed, Placed::Healed) { Existing::Replace } else { Existing::Keep };
        put(&layer.file, &path, existing)?;
        sync_dir(&layout.layer_dir(digest))?;
        Ok(placed)
    }
}

/// Gives a staged file its place. The caller holds the store's exclusive lock.
fn put(staged: &Path, place: &Path, existing: Existing) -> Result<()> {
    if existing == Existing::Replace {
        return std::fs::rename(staged, place).map_err(|source| io("publish", place, source));
    }
    match std::fs::hard_link(staged, place) {
        Ok(()) => remove_file(staged).map(drop),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Err(io("publish", place, error)),
        // File systems without hard links. Under the lock nobody can have come between.
        Err(_) => std::fs::rename(staged, place).map_err(|source| io("publish", place, source)),
    }
}

fn leaves_are(layout: &Layout, layer: &SealedLayer) -> Result<bool> {
    match FileSource::open(&layout.leaves(&layer.record.digest)) {
        Ok(source) => Ok(transport(&source, &kiln_disk::Silent)? == layer.record.leaves),
        Err(error) if error.code() == "io.not-found" => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn read_back(path: &Path, text: &str) -> Result<()> {
    let found = std::fs::read(path).map_err(|source| io("read back", path, source))?;
    if found == text.as_bytes() {
        return Ok(());
    }
    let damaged = Refusal::LayerDiffers {
        path: path.to_owned(),
        found: format!("{} other bytes", found.len()),
        expected: format!("the {} bytes of the manifest", text.len()),
    };
    Err(damaged.into())
}

/// The transport digest of a file as a layer's id.
pub(crate) fn transport(source: &FileSource, observer: &dyn Observer) -> Result<LayerId> {
    let digests = hash_source(source, &[Algorithm::Sha256], observer)?;
    let text = digests.first().map(ToString::to_string).unwrap_or_default();
    text.parse().map_err(|_| {
        Error::from(Refusal::LayerDiffers {
            path: PathBuf::from(source.label()),
            found: text,
            expected: "a SHA-256 digest".to_owned(),
        })
    })
}

/// Eight bytes that nobody can foretell; `about` is for the error.
pub(crate) fn random_bytes(about: &Path) -> Result<[u8; 8]> {
    let mut random = [0_u8; 8];
    let mut filled = 0;
    while filled < random.len() {
        let rest = random.get_mut(filled..).unwrap_or_default();
        filled += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| io("read random bytes for", about, errno.into()))?;
    }
    Ok(random)
}

fn fresh_id(layout: &Layout, index: &Index) -> Result<ImageId> {
    loop {
        let id = ImageId::from_random(random_bytes(layout.root())?);
        if index.texts(&id)?.is_none() && !layout.image(&id).exists() {
            return Ok(id);
        }
    }
}

fn manifest_of(id: ImageId, draft: Draft, layers: Vec<LayerRecord>) -> Manifest {
    Manifest {
        schema: SCHEMA.to_owned(),
        id,
        name: draft.name.name,
        tag: Some(draft.name.tag),
        description: draft.description,
        image_type: ImageType::Custom,
        state: State::Normal,
        created_at: Timestamp::now(),
        disk_bytes: draft.disk_bytes,
        architecture: draft.birth.architecture,
        os: draft.birth.os,
        boot_mode: draft.birth.boot_mode,
        digests: draft.digests,
        source: draft.source,
        provenance: draft.provenance,
        checks: draft.checks,
        guest: draft.birth.guest,
        origin: draft.birth.origin,
        layers,
    }
}
