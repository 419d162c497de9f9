//! The check of a whole store.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use kiln_disk::digest::LeafFile;
use kiln_disk::{FileSource, Findings, Observer};
use serde::Serialize;

use crate::checks;
use crate::error::{Error, Malformation, Result, io};
use crate::id::{ImageId, LayerId};
use crate::index::{Entry, Index, Texts};
use crate::job::{remove_layer, sweep_locked};
use crate::layout::names_in;
use crate::manifest::{LayerRecord, Manifest};
use crate::publish::transport;
use crate::record::Record;
use crate::sealed;
use crate::store::Store;

/// How far a check of the store goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FsckOptions {
    /// Also read every layer and compare its bytes with its name.
    pub read_data: bool,
    /// Remove layers that belong to no image.
    pub repair: bool,
}

/// What a check of the store says.
#[derive(Debug, Default)]
pub struct FsckReport {
    /// Everything found, each with an id of [`crate::checks`].
    pub findings: Findings,
    /// Images with a sound manifest.
    pub images: u64,
    /// Layers that they need.
    pub layers: u64,
    /// Bytes of those.
    pub layer_bytes: u64,
    /// Left-overs of dead processes that were cleared away.
    pub swept: u64,
    /// What was repaired.
    pub repaired: Vec<Repaired>,
}

/// Something that was put right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repaired {
    /// Id of the finding.
    pub id: &'static str,
    /// What was removed.
    pub what: String,
    /// Bytes that it freed.
    pub freed_bytes: u64,
}

impl Store {
    /// Checks that everything in the store fits together. Left-overs of dead processes are cleared away first.
    ///
    /// Structure is looked at with the store's lock held, data (with `read_data`) without it.
    ///
    /// # Errors
    /// I/O and `Cancelled`; whatever is wrong with the store itself is a finding.
    pub fn fsck(&self, options: FsckOptions, observer: &dyn Observer) -> Result<FsckReport> {
        let mut report = FsckReport::default();
        let layers = {
            let _lock = self.exclusive()?;
            let index = self.judge_index(&mut report)?;
            self.judge_staging(index, &mut report)?;
            let images = self.judge_manifests(options, &mut report)?;
            let instances = self.judge_instances(&mut report)?;
            self.judge_rows(&images, &mut report)?;
            let layers = self.judge_layers(&images, &mut report)?;
            self.judge_strays(&layers, &instances, options, &mut report)?;
            self.judge_modes(&mut report)?;
            layers
        };
        if options.read_data {
            for layer in layers.values() {
                self.judge_data(layer, observer, &mut report)?;
            }
        }
        Ok(report)
    }

    fn judge_index(&self, report: &mut FsckReport) -> Result<Option<Index>> {
        let problem = match self.index() {
            Ok(index) => match index.integrity() {
                Ok(problems) => {
                    for problem in problems {
                        report.findings.push(checks::INDEX_DAMAGED.found(problem));
                    }
                    return Ok(Some(index));
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let check = match &problem {
            Error::Malformed { problem: Malformation::IndexMissing, .. } => &checks::INDEX_MISSING,
            Error::Malformed { problem: Malformation::IndexForeign { .. }, .. } => &checks::INDEX_FOREIGN,
            Error::Malformed { .. } => &checks::INDEX_DAMAGED,
            Error::Unsupported { .. } => &checks::INDEX_VERSION,
            _ => return Err(problem),
        };
        report.findings.push(check.found(words(&problem)));
        Ok(None)
    }

    fn judge_staging(&self, index: Option<Index>, report: &mut FsckReport) -> Result<()> {
        // Without an index nobody can say what the dead meant to do.
        let Some(index) = index else { return Ok(()) };
        let swept = match sweep_locked(self, Some(index)) {
            Ok(swept) => swept,
            Err(Error::Malformed { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        report.swept = u64::try_from(swept.cleared.len()).unwrap_or(u64::MAX);
        for (name, error) in swept.left {
            report.findings.push(checks::STAGING_LEFT.found(format!("staging/{name}: {}", words(&error))));
        }
        Ok(())
    }

    fn judge_manifests(&self, options: FsckOptions, report: &mut FsckReport) -> Result<Vec<Entry>> {
        let (mut images, damaged) = self.entries()?;
        for (id, error) in damaged {
            let record = matches!(error, Error::Malformed { structure: "record", .. })
                || (error.code() == "io.not-found" && self.layout.manifest(&id).exists());
            if record
                && options.repair
                && let Some(entry) = self.restored(&id)?
            {
                report.repaired.push(Repaired {
                    id: checks::RECORD_DAMAGED.id,
                    what: id.to_string(),
                    freed_bytes: 0,
                });
                images.push(entry);
                continue;
            }
            let check = if record { &checks::RECORD_DAMAGED } else { &checks::MANIFEST_DAMAGED };
            report.findings.push(check.found(format!("{id}: {}", words(&error))));
        }
        let mut names = BTreeMap::new();
        for Entry { manifest, record, .. } in &images {
            if let Some(name) = manifest.name_tag()
                && let Some(first) = names.insert((&record.owner, name.to_string()), &manifest.id)
            {
                let detail = format!("{name}: {first} and {}", manifest.id);
                report.findings.push(checks::NAME_TWICE.found(detail));
            }
        }
        for Entry { manifest, .. } in &images {
            self.judge_signatures(manifest, &mut report.findings)?;
        }
        report.images = u64::try_from(images.len()).unwrap_or(u64::MAX);
        Ok(images)
    }

    /// Whether all signatures of an image are good; whose they are is another question.
    pub(crate) fn judge_signatures(&self, image: &Manifest, findings: &mut Findings) -> Result<()> {
        match self.signatures(image) {
            Ok(signatures) => {
                for signed in signatures.iter().filter(|signed| !signed.valid) {
                    findings
                        .push(checks::SIGNATURE_BAD.found(format!("{}: of {}", image.id, signed.record.key)));
                }
                Ok(())
            }
            Err(error @ (Error::Malformed { .. } | Error::Unsupported { .. })) => {
                findings.push(checks::SIGNATURE_BAD.found(format!("{}: {}", image.id, words(&error))));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Writes the record of an image again from its row, when that is sound.
    fn restored(&self, id: &ImageId) -> Result<Option<Entry>> {
        let Ok(index) = self.index() else { return Ok(None) };
        let Ok(Some(texts)) = index.texts(id) else { return Ok(None) };
        if texts.record.is_none() {
            return Ok(None);
        }
        match self.entry_of(id.as_str(), texts) {
            Ok(entry) => {
                self.write_record_file(&entry)?;
                Ok(Some(entry))
            }
            Err(_) => Ok(None),
        }
    }

    /// The layers that instances keep.
    fn judge_instances(&self, report: &mut FsckReport) -> Result<BTreeSet<LayerId>> {
        let (instances, damaged) = self.instance_files()?;
        for (name, error) in damaged {
            report.findings.push(checks::INSTANCE_DAMAGED.found(format!("{name}: {}", words(&error))));
        }
        if let Ok(rows) = self.index().and_then(|index| index.instances()) {
            let rows: BTreeMap<String, String> = rows.into_iter().collect();
            for (record, text) in &instances {
                if rows.get(record.id.as_str()) != Some(text) {
                    report.findings.push(checks::ROW_DIFFERS.found(record.id.to_string()));
                }
            }
        }
        let mut layers = BTreeSet::new();
        for (record, _) in instances {
            for layer in record.layers {
                if !self.layout.layer(&layer).exists() {
                    let detail = format!("{layer} of {}", record.id);
                    report.findings.push(checks::LAYER_MISSING.found(detail));
                }
                layers.insert(layer);
            }
        }
        Ok(layers)
    }

    /// All sound images as they are on disk, oldest first, and what is wrong with the others.
    #[allow(clippy::type_complexity, reason = "two lists, used twice")]
    pub(crate) fn entries(&self) -> Result<(Vec<Entry>, Vec<(ImageId, Error)>)> {
        let (mut sound, mut damaged) = (Vec::new(), Vec::new());
        for name in names_in(&self.layout.images())? {
            let Ok(id) = name.parse::<ImageId>() else { continue };
            match self.entry_on_disk(&id) {
                Ok(entry) => sound.push(entry),
                Err(error) => damaged.push((id, error)),
            }
        }
        sound.sort_by(|a, b| {
            (a.manifest.created_at, &a.manifest.id).cmp(&(b.manifest.created_at, &b.manifest.id))
        });
        Ok((sound, damaged))
    }

    /// An image as its files say.
    pub(crate) fn entry_on_disk(&self, id: &ImageId) -> Result<Entry> {
        let (manifest, text) = Manifest::read(&self.layout.manifest(id), id)?;
        let path = self.layout.record(id);
        let (record, record_text) = match sealed::read::<Record>(&path) {
            Ok((record, _)) if record.id != *id => {
                let found = record.id;
                return Err(sealed::malformed::<Record>(&path, Malformation::WrongImage { found }));
            }
            Ok((record, text)) => (record, Some(text)),
            Err(error) if error.code() == "io.not-found" => {
                (Record::new(&manifest, self.first_owner.clone()), None)
            }
            Err(error) => return Err(error),
        };
        Ok(Entry {
            manifest: record.amend(manifest),
            record,
            texts: Texts { manifest: text, record: record_text },
        })
    }

    fn judge_rows(&self, images: &[Entry], report: &mut FsckReport) -> Result<()> {
        let rows = match self.index().and_then(|index| index.all()) {
            Ok(rows) => rows,
            // Already found.
            Err(Error::Malformed { .. } | Error::Unsupported { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let rows: BTreeMap<String, Texts> = rows.into_iter().collect();
        for Entry { manifest, texts, .. } in images {
            match rows.get(manifest.id.as_str()) {
                None => report.findings.push(checks::ROW_MISSING.found(manifest.id.to_string())),
                Some(row) if row != texts => {
                    report.findings.push(checks::ROW_DIFFERS.found(manifest.id.to_string()));
                }
                Some(_) => {}
            }
        }
        for id in rows.keys() {
            let there = id.parse().is_ok_and(|id| self.layout.image(&id).exists());
            if !there {
                report.findings.push(checks::MANIFEST_MISSING.found(format!("{id:?}")));
            }
        }
        Ok(())
    }

    fn judge_layers(
        &self,
        images: &[Entry],
        report: &mut FsckReport,
    ) -> Result<BTreeMap<LayerId, LayerRecord>> {
        let mut layers = BTreeMap::new();
        for Entry { manifest, .. } in images {
            for layer in &manifest.layers {
                if layers.insert(layer.digest.clone(), layer.clone()).is_some() {
                    continue;
                }
                report.layers = report.layers.saturating_add(1);
                report.layer_bytes = report.layer_bytes.saturating_add(layer.byte_len);
                let path = self.layout.layer(&layer.digest);
                match std::fs::metadata(&path) {
                    Ok(metadata) if metadata.len() == layer.byte_len => {}
                    Ok(metadata) => report.findings.push(checks::LAYER_LENGTH.found(format!(
                        "{} of {}: {} bytes, its manifest says {}",
                        layer.digest,
                        manifest.id,
                        metadata.len(),
                        layer.byte_len
                    ))),
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                        let aside = self.layout.quarantine().join(format!("{}.qcow2", layer.digest.hex()));
                        let mut detail = format!("{} of {}", layer.digest, manifest.id);
                        if aside.exists() {
                            detail += ": it was damaged and is in quarantine";
                        }
                        report.findings.push(checks::LAYER_MISSING.found(detail));
                    }
                    Err(error) => return Err(io("stat", &path, error)),
                }
                if !self.layout.leaves(&layer.digest).exists() {
                    let detail = format!("{} of {}", layer.digest, manifest.id);
                    report.findings.push(checks::LEAVES_MISSING.found(detail));
                }
            }
        }
        Ok(layers)
    }

    fn judge_strays(
        &self,
        layers: &BTreeMap<LayerId, LayerRecord>,
        instances: &BTreeSet<LayerId>,
        options: FsckOptions,
        report: &mut FsckReport,
    ) -> Result<()> {
        let mut strays = Vec::new();
        let known = ["store.json", "layers", "images", "instances", "quarantine", "staging", "kvm.json"];
        for name in names_in(self.layout.root())? {
            if !known.contains(&name.as_str()) && !name.starts_with("catalog.") {
                strays.push(name);
            }
        }
        for name in names_in(&self.layout.images())? {
            if name.parse::<ImageId>().is_err() {
                strays.push(format!("images/{name}"));
            }
        }
        let mut unreferenced = BTreeSet::new();
        for dir in names_in(&self.layout.layers())? {
            for name in names_in(&self.layout.layers().join(&dir)).unwrap_or_else(|_| vec![String::new()]) {
                let stem = name.strip_suffix(".qcow2").or_else(|| name.strip_suffix(".leaves"));
                let id = stem
                    .filter(|stem| stem.starts_with(&dir))
                    .and_then(|stem| format!("sha256:{stem}").parse::<LayerId>().ok());
                match id {
                    None => strays.push(format!("layers/{dir}/{name}")),
                    Some(id) if !layers.contains_key(&id) && !instances.contains(&id) => {
                        unreferenced.insert(id);
                    }
                    Some(_) => {}
                }
            }
        }
        for stray in strays {
            report.findings.push(checks::STRAY.found(format!("{stray:?}")));
        }
        // A layer may belong to an image whose manifest cannot be read, or that only the index knows.
        let certain = !report.findings.fails();
        for id in unreferenced {
            if options.repair && certain {
                let freed_bytes = remove_layer(&self.layout, &id)?;
                report.repaired.push(Repaired {
                    id: checks::LAYER_UNREFERENCED.id,
                    what: id.to_string(),
                    freed_bytes,
                });
            } else {
                report.findings.push(checks::LAYER_UNREFERENCED.found(id.to_string()));
            }
        }
        Ok(())
    }

    fn judge_modes(&self, report: &mut FsckReport) -> Result<()> {
        let root = self.layout.root();
        let mode = std::fs::metadata(root).map_err(|source| io("stat", root, source))?.permissions().mode();
        if mode & 0o077 != 0 {
            let detail = format!("the store's directory has mode {:04o}", mode & 0o7777);
            report.findings.push(checks::MODE.found(detail));
        }
        Ok(())
    }

    fn judge_data(
        &self,
        layer: &LayerRecord,
        observer: &dyn Observer,
        report: &mut FsckReport,
    ) -> Result<()> {
        // What is missing has been found already, or was removed since by another process.
        if let Some(source) = there(FileSource::open(&self.layout.layer(&layer.digest)))? {
            let found = transport(&source, observer)?;
            if found != layer.digest {
                report
                    .findings
                    .push(checks::LAYER_DIGEST.found(format!("{} has the bytes of {found}", layer.digest)));
            }
        }
        if let Some(source) = there(FileSource::open(&self.layout.leaves(&layer.digest)))? {
            let sound = transport(&source, &kiln_disk::Silent)? == layer.leaves
                && LeafFile::read(&source).is_ok_and(|leaves| leaves.content() == layer.content);
            if !sound {
                report.findings.push(checks::LEAVES_DAMAGED.found(layer.digest.to_string()));
            }
        }
        Ok(())
    }
}

/// `None` for a file that is not there.
pub(crate) fn there<T>(opened: kiln_disk::Result<T>) -> Result<Option<T>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(error) if error.code() == "io.not-found" => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// An error and its causes in one line.
pub(crate) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
