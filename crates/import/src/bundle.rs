//! One file with all of an image, for a site that no wire leads to.
//!
//! A bundle is a plain tar archive: `kiln-bundle.json` first, then the manifest as published, then each layer with its
//! list of block hashes. On arrival nothing of it is believed: every file is held against the digest that the list
//! gives, the manifest against its own seal, and each stack of layers is read as a disk and held against the content
//! digest that the manifest names.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_catalog::{
    Account, Action, IfTaken, Image as CatalogImage, LayerId, LayerReader, LayerRecord, Manifest, NameTag,
    NewLayer, OriginKind, Published, Store, draft_of_copy,
};
use kiln_disk::digest::{Algorithm, HashJob, hash_disk, hash_source};
use kiln_disk::{
    Budget, ByteSource, Disk, Durability, Error as DiskError, Event, Existing, FileOffset, FileSource,
    Observer, Silent, StackDisk, StagedFile, go_on,
};
use kiln_format::tar::{Archive, Ending, file_header, list};
use kiln_format::{CheckScope, OpenContext, by_name};
use serde::{Deserialize, Serialize};

use crate::error::{Refusal, Result};
use crate::open::FormatReader;
use kiln_format::layer::LAYER_FORMAT;

/// Name of the first member.
const LIST: &str = "kiln-bundle.json";
const MANIFEST: &str = "manifest.json";
/// The value of `schema` in it.
const SCHEMA: &str = "kiln.bundle.v1";
/// No honest list or manifest is longer, in bytes.
const MAX_TEXT: u64 = 4 << 20;
const BLOCK: u64 = 512;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    schema: String,
    tool: String,
    /// The owner in the store that it comes from.
    owner: Account,
    files: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    byte_len: u64,
    digest: LayerId,
}

/// What a bundle became. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundled {
    /// Its file.
    pub path: PathBuf,
    /// Its length.
    pub byte_len: u64,
    /// SHA-256 of the file.
    pub digest: LayerId,
}

/// Writes an image into one file, which appears whole or not at all and is read again before that.
///
/// # Errors
/// [`kiln_catalog::Refusal::Rights`], as for an export; `bundle.*`; I/O.
pub fn write_bundle(
    store: &Store,
    image: &CatalogImage,
    dest: &Path,
    existing: Existing,
    observer: &dyn Observer,
) -> Result<Bundled> {
    store.permit(Action::Export, image)?;
    let manifest = &image.manifest;
    let what = format!("{} to {}", manifest.title(), dest.display());
    let job = store.begin_job("bundle", &what, vec![manifest.id.clone()], None)?;
    let watched = job.watched(observer);
    let text = store.manifest_text(&manifest.id)?.into_bytes();
    let mut sources: Vec<(String, Arc<dyn ByteSource>)> =
        vec![(MANIFEST.to_owned(), Arc::new(kiln_disk::MemorySource::new(text)))];
    for layer in &manifest.layers {
        let hex = layer.digest.hex();
        sources.push((format!("layers/{hex}.qcow2"), Arc::new(store.open_layer(layer)?)));
        sources.push((format!("layers/{hex}.leaves"), Arc::new(store.open_leaves(layer)?)));
    }
    let mut files = Vec::new();
    for (name, source) in &sources {
        let digest = digest_of(source.as_ref(), &watched)?;
        files.push(Entry { name: name.clone(), byte_len: source.byte_len(), digest });
    }
    // A damaged layer does not go out.
    for layer in &manifest.layers {
        let name = format!("layers/{}.qcow2", layer.digest.hex());
        if let Some(entry) = files.iter().find(|entry| entry.name == name && entry.digest != layer.digest) {
            let (expected, found) = (layer.digest.to_string(), entry.digest.to_string());
            return Err(Refusal::CopyDiffers { expected, found }.into());
        }
    }
    let tool = concat!("kiln ", env!("CARGO_PKG_VERSION")).to_owned();
    let list = List { schema: SCHEMA.to_owned(), tool, owner: image.record.owner.clone(), files };
    let head = serde_json::to_vec_pretty(&list).unwrap_or_default();
    sources.insert(0, (LIST.to_owned(), Arc::new(kiln_disk::MemorySource::new(head))));
    if existing == Existing::Keep && dest.symlink_metadata().is_ok() {
        let taken = std::io::ErrorKind::AlreadyExists;
        return Err(DiskError::io("create", dest.display().to_string(), taken).into());
    }
    let staged = StagedFile::beside(dest)?;
    write_archive(&sources, staged.file(), dest, &watched)?;
    staged.sync()?;
    let file = staged
        .file()
        .try_clone()
        .map_err(|error| DiskError::io("open", dest.display().to_string(), error))?;
    let written: Arc<dyn ByteSource> = Arc::new(FileSource::from_file(file, dest.display().to_string())?);
    // What was written is read again by the reader that will receive it.
    open(&written)?.prove(&watched)?;
    let digest = digest_of(written.as_ref(), &watched)?;
    let byte_len = written.byte_len();
    staged.commit(existing, Durability::Synced)?;
    Ok(Bundled { path: dest.to_owned(), byte_len, digest })
}

fn write_archive(
    sources: &[(String, Arc<dyn ByteSource>)],
    mut file: &File,
    dest: &Path,
    observer: &dyn Observer,
) -> Result<()> {
    let failed = |error| DiskError::io("write", dest.display().to_string(), error);
    let total = sources.iter().map(|(_, source)| source.byte_len()).fold(0, u64::saturating_add);
    observer.event(Event::Started { phase: "bundle", total });
    for (name, source) in sources {
        file.write_all(&file_header(name, source.byte_len())?).map_err(failed)?;
        copy(source.as_ref(), observer, |bytes, _| file.write_all(bytes).map_err(failed))?;
        let rest = source.byte_len() % BLOCK;
        if rest > 0 {
            let zeros = [0_u8; 512];
            let pad = usize::try_from(BLOCK - rest).unwrap_or(0);
            file.write_all(zeros.get(..pad).unwrap_or_default()).map_err(failed)?;
        }
    }
    file.write_all(&[0; 1024]).map_err(failed)?;
    observer.event(Event::Finished);
    Ok(())
}

fn copy(
    source: &dyn ByteSource,
    observer: &dyn Observer,
    mut write: impl FnMut(&[u8], u64) -> std::result::Result<(), DiskError>,
) -> Result<()> {
    const STEP: u64 = 1 << 20;
    let mut buffer = vec![0; usize::try_from(STEP.min(source.byte_len())).unwrap_or(0)];
    let mut at = 0;
    while at < source.byte_len() {
        go_on(observer)?;
        let step = STEP.min(source.byte_len() - at);
        let bytes = buffer.get_mut(..usize::try_from(step).unwrap_or(0)).unwrap_or_default();
        source.read_bytes(FileOffset::new(at), bytes)?;
        write(bytes, at)?;
        at += step;
        observer.event(Event::Advanced { bytes: step });
    }
    Ok(())
}

fn digest_of(source: &dyn ByteSource, observer: &dyn Observer) -> Result<LayerId> {
    let digests = hash_source(source, &[Algorithm::Sha256], observer)?;
    let text = digests.first().map(ToString::to_string).unwrap_or_default();
    text.parse().map_err(|_| Refusal::Bundle { problem: "a digest could not be computed".to_owned() }.into())
}

/// Whether a file begins as a bundle does.
///
/// # Errors
/// I/O.
pub fn is_bundle(source: &dyn ByteSource) -> Result<bool> {
    if source.byte_len() < 2 * BLOCK {
        return Ok(false);
    }
    let mut head = [0_u8; 257 + 5];
    source.read_bytes(FileOffset::ZERO, &mut head)?;
    let name = LIST.as_bytes();
    Ok(head.starts_with(name) && head.get(name.len()) == Some(&0) && head.ends_with(b"ustar"))
}

/// A bundle whose list was read.
struct Bundle {
    list: List,
    archive: Archive,
}

fn bad(problem: impl Into<String>) -> crate::error::Error {
    Refusal::Bundle { problem: problem.into() }.into()
}

fn open(source: &Arc<dyn ByteSource>) -> Result<Bundle> {
    let archive = list(source, &Budget::default())?;
    if archive.ending != Ending::Marked {
        return Err(bad("it was cut off: its end is missing"));
    }
    let Some(first) = archive.members.first().filter(|member| member.plain_name() == Some(LIST)) else {
        return Err(bad(format!("its first member is not {LIST}")));
    };
    let list: List =
        serde_json::from_slice(&text_of(first)?).map_err(|error| bad(format!("{LIST}: {error}")))?;
    if list.schema != SCHEMA {
        return Err(bad(format!("it has the schema {:?}, this version reads {SCHEMA}", list.schema)));
    }
    let names: Vec<&str> = archive.members.iter().skip(1).filter_map(|member| member.plain_name()).collect();
    if names.len() + 1 != archive.members.len() || !names.iter().eq(list.files.iter().map(|file| &file.name))
    {
        return Err(bad("its members are not the files of its list"));
    }
    Ok(Bundle { list, archive })
}

fn text_of(member: &kiln_format::tar::Member) -> Result<Vec<u8>> {
    let source = member.source();
    if source.byte_len() > MAX_TEXT {
        return Err(bad(format!("{:?} has {} bytes", member.name(), source.byte_len())));
    }
    let mut bytes = vec![0; usize::try_from(source.byte_len()).unwrap_or(0)];
    source.read_bytes(FileOffset::ZERO, &mut bytes)?;
    Ok(bytes)
}

impl Bundle {
    fn member(&self, name: &str) -> Result<(Arc<dyn ByteSource>, &Entry)> {
        let found = self.archive.members.iter().skip(1).zip(&self.list.files);
        found
            .filter(|(_, entry)| entry.name == name)
            .map(|(member, entry)| (member.source(), entry))
            .next()
            .ok_or_else(|| bad(format!("{name} is not in it")))
    }

    /// Every file has the digest that the list gives.
    fn prove(&self, observer: &dyn Observer) -> Result<()> {
        for (member, entry) in self.archive.members.iter().skip(1).zip(&self.list.files) {
            let source = member.source();
            if source.byte_len() != entry.byte_len || digest_of(source.as_ref(), observer)? != entry.digest {
                return Err(bad(format!("{:?} is not the file that was put into it", entry.name)));
            }
        }
        Ok(())
    }
}

/// Takes the image of a bundle into a store, as an image of the account.
///
/// # Errors
/// [`Refusal::Bundle`] for anything that does not hold together; [`kiln_catalog::Refusal`]; I/O.
pub fn import_bundle(
    store: &Store,
    source: &Arc<dyn ByteSource>,
    name: &NameTag,
    if_taken: IfTaken,
    observer: &dyn Observer,
) -> Result<Published> {
    if if_taken == IfTaken::Refuse {
        store.check_free(name)?;
    }
    let bundle = open(source)?;
    let (file, entry) = bundle.member(MANIFEST)?;
    let mut text = vec![0; usize::try_from(file.byte_len().min(MAX_TEXT)).unwrap_or(0)];
    file.read_bytes(FileOffset::ZERO, &mut text)?;
    if digest_of(file.as_ref(), &Silent)? != entry.digest {
        return Err(bad("its manifest is not the one that was put into it"));
    }
    let text = String::from_utf8(text).map_err(|_| bad("its manifest is no text"))?;
    let manifest = Manifest::from_text(&text, Path::new(MANIFEST))?;
    let layers = manifest.layers.clone();
    if layers.is_empty() || layers.len() > kiln_catalog::MAX_DEPTH {
        return Err(bad(format!("its image has {} layers", layers.len())));
    }
    let job = store.begin_job("import", &format!("a bundle to {name}"), Vec::new(), None)?;
    let watched = job.watched(observer);
    let mut sealed = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let (file, leaves) = (format!("layer-{number}.qcow2"), format!("layer-{number}.leaves"));
        for (kind, to, expected) in [("qcow2", &file, &layer.digest), ("leaves", &leaves, &layer.leaves)] {
            let (from, entry) = bundle.member(&format!("layers/{}.{kind}", layer.digest.hex()))?;
            if entry.digest != *expected {
                return Err(bad(format!("{:?} is not the file of the manifest", entry.name)));
            }
            let (out, path) = job.create_file(to)?;
            let failed = |error| DiskError::io("write", path.display().to_string(), error);
            copy(from.as_ref(), &watched, |bytes, at| out.write_all_at(bytes, at).map_err(failed))?;
        }
        screen(&job.dir().join(&file), layer, &watched)?;
        let new = NewLayer {
            file: job.dir().join(&file),
            leaves: job.dir().join(&leaves),
            format: layer.format.clone(),
            style: layer.style.clone(),
            content: layer.content,
        };
        let layer_sealed = job.seal(new, &watched)?;
        if layer_sealed.record() != layer {
            return Err(bad(format!("layer {} is not the one of the manifest", layer.digest)));
        }
        sealed.push(layer_sealed);
        prove_disk(&job, layers.get(..=number).unwrap_or_default(), &manifest, &watched)?;
    }
    let draft = draft_of_copy(&manifest, bundle.list.owner.clone(), &text, name, OriginKind::Bundle, &None)?;
    Ok(job.publish(draft, &sealed, if_taken, observer)?)
}

/// A layer from elsewhere is a stranger's file like any other: its structure is checked, and it leads nowhere.
fn screen(path: &Path, layer: &LayerRecord, observer: &dyn Observer) -> Result<()> {
    let format = by_name(&layer.format).filter(|format| format.id == LAYER_FORMAT);
    let format = format.ok_or_else(|| Refusal::LayerFormat { format: layer.format.clone() })?;
    let image = (format.open)(Arc::new(FileSource::open(path)?), &OpenContext::new())?;
    let findings = image.check(CheckScope::Metadata, observer)?;
    match findings.list().iter().find(|finding| finding.check.severity.fails()) {
        None => Ok(()),
        Some(finding) => Err(bad(format!("layer {}: {}", layer.digest, finding.check.summary))),
    }
}

/// The layers so far give the disk that the uppermost is said to give.
fn prove_disk(
    job: &kiln_catalog::Job,
    layers: &[LayerRecord],
    manifest: &Manifest,
    observer: &dyn Observer,
) -> Result<()> {
    let mut stack: Vec<Box<dyn Disk>> = Vec::new();
    for (number, layer) in layers.iter().enumerate() {
        let file = FileSource::open(&job.dir().join(format!("layer-{number}.qcow2")))?;
        stack.push(FormatReader.open_layer(&layer.format, Arc::new(file))?);
    }
    let disk = StackDisk::new(stack);
    let expected = layers.last().map(|layer| layer.content);
    let found = hash_disk(&disk, HashJob::default(), observer)?.content;
    let whole = layers.len() == manifest.layers.len();
    if expected != Some(found)
        || (whole && (found != manifest.digests.content || disk.disk_len() != manifest.disk_bytes))
    {
        return Err(bad(format!("its disk has {found}, which is not what its manifest says")));
    }
    Ok(())
}
