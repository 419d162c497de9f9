//! From the store to a file or a pipe.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use kiln_catalog::{LayerId, LayerRecord, Manifest, Store};
use kiln_disk::digest::{Algorithm, ContentDigest, Digest, hash_source};
use kiln_disk::{
    Budget, ByteSource, Durability, Error as DiskError, Event, Existing, FileOffset, FileSource, Observer,
    StagedFile, go_on, os, pipeline,
};
use kiln_format::transfer::{FilePlan, Job, Likeness, read_back, stage_file, write_stream};
use kiln_format::{Format, Image, Options};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Refusal, Result};
use crate::open::open_image;
use kiln_format::layer::{LAYER_FORMAT, LayerStyle, layer_format, options_of};

/// What to export, and how.
pub struct ExportRequest {
    /// The format to write.
    pub format: &'static Format,
    /// Options of its writer, as given.
    pub options: Vec<(String, String)>,
    /// Whether to wait for the device.
    pub durability: Durability,
    /// Read the output again and compare content digests.
    pub read_back: bool,
    /// Threads to use.
    pub threads: usize,
    /// Also compute the plain SHA-256 of the flat disk (not when the layer is copied as it is).
    pub raw_digest: bool,
}

impl ExportRequest {
    /// A request with the defaults: synced, read back.
    #[must_use]
    pub fn new(format: &'static Format) -> Self {
        Self {
            format,
            options: Vec::new(),
            durability: Durability::Synced,
            read_back: true,
            threads: pipeline::default_threads(),
            raw_digest: false,
        }
    }
}

/// How an export is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// The layer's file is what was asked for: its blocks are shared or copied as they are.
    Copy,
    /// Written anew.
    Convert,
}

/// An export that may be run.
pub struct ExportPlan {
    image: Box<dyn Image>,
    layer: LayerRecord,
    layer_path: PathBuf,
    manifest: Manifest,
    request: ExportRequest,
    options: Options,
    how: How,
}

/// What an export did. Sizes are bytes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ExportOutcome {
    /// SHA-256 of the file that was written.
    pub transport: Digest,
    /// Its length.
    pub byte_len: u64,
    /// Content digest of the disk in it.
    pub content: ContentDigest,
    /// Plain SHA-256 of the flat disk, when it was asked for and computed.
    pub raw: Option<Digest>,
    /// How it was made.
    pub how: How,
    /// Whether the copy shares its blocks with the layer.
    pub cloned: bool,
}

/// Looks at what is to be exported.
///
/// # Errors
/// `option.*` of the writer; `format.read-only`; a missing or unreadable layer.
pub fn plan_export(store: &Store, manifest: &Manifest, request: ExportRequest) -> Result<ExportPlan> {
    let Some(layer) = manifest.layers.last().cloned() else {
        return Err(Refusal::LayerCount { layers: 0 }.into());
    };
    let create = request.format.create.ok_or_else(|| DiskError::Unsupported {
        code: "format.read-only",
        feature: format!("writing {}", request.format.id),
        hint: "choose another output format with -O",
    })?;
    let options = options_of(&create, request.options.clone())?;
    let same = manifest.layers.len() == 1
        && request.format.id == LAYER_FORMAT
        && layer.format == LAYER_FORMAT
        && !request.raw_digest;
    let how = if same && style_options(&layer)? == Some(options.clone()) { How::Copy } else { How::Convert };
    Ok(ExportPlan {
        image: open_image(store, manifest)?,
        layer_path: store.layer_path(&layer),
        layer,
        manifest: manifest.clone(),
        request,
        options,
        how,
    })
}

/// The options that the layer was written with.
fn style_options(layer: &LayerRecord) -> Result<Option<Options>> {
    match layer.style.parse::<LayerStyle>() {
        Ok(style) => Ok(Some(options_of(&layer_format()?.1, style.option_pairs())?)),
        Err(_) => Ok(None),
    }
}

impl ExportPlan {
    /// How it will be made when it goes to a file.
    #[must_use]
    pub fn how(&self) -> How {
        self.how
    }

    /// The image.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Writes a file, which appears whole or not at all.
    ///
    /// # Errors
    /// `io.exists`; [`Refusal::ImageDamaged`]; I/O; `Cancelled`.
    pub fn to_file(self, dest: &Path, existing: Existing, observer: &dyn Observer) -> Result<ExportOutcome> {
        let (staged, outcome) = match self.how {
            How::Copy => self.copy(dest, existing, observer)?,
            How::Convert => self.convert(dest, existing, observer)?,
        };
        staged.commit(existing, self.request.durability)?;
        Ok(outcome)
    }

    fn convert(
        &self,
        dest: &Path,
        existing: Existing,
        observer: &dyn Observer,
    ) -> Result<(StagedFile, ExportOutcome)> {
        let budget = Budget::default();
        let plan = FilePlan {
            disk: self.image.as_ref(),
            format: self.request.format,
            options: &self.options,
            dest,
            existing,
            durability: self.request.durability,
            read_back: self.request.read_back,
            threads: self.request.threads.max(1),
            content_digest: true,
            raw_digest: self.request.raw_digest,
            leaves: None,
            budget: &budget,
        };
        let (staged, outcome) = stage_file(plan, observer)?;
        let digests = outcome.digests.ok_or(Error::Disk(DiskError::Cancelled))?;
        self.expect_content(digests.content)?;
        let source = FileSource::from_file(clone_of(&staged)?, dest.display().to_string())?;
        let outcome = ExportOutcome {
            transport: sha256_of(&source, observer)?,
            byte_len: source.byte_len(),
            content: digests.content,
            raw: digests.raw,
            how: How::Convert,
            cloned: false,
        };
        Ok((staged, outcome))
    }

    /// The layer's file as it is. Ours and finished, so the kernel may copy it; its SHA-256 then proves that it is
    /// the layer, and reading it as a disk that the layer still holds the image.
    fn copy(
        &self,
        dest: &Path,
        existing: Existing,
        observer: &dyn Observer,
    ) -> Result<(StagedFile, ExportOutcome)> {
        if existing == Existing::Keep && dest.symlink_metadata().is_ok() {
            let taken = std::io::ErrorKind::AlreadyExists;
            return Err(DiskError::io("create", dest.display().to_string(), taken).into());
        }
        let label = self.layer_path.display().to_string();
        let layer = File::open(&self.layer_path).map_err(|source| DiskError::io("open", &label, source))?;
        let staged = StagedFile::beside(dest)?;
        let cloned = os::clone_file(&layer, staged.file())
            .map_err(|source| DiskError::io("copy", dest.display().to_string(), source))?;
        if !cloned {
            copy_bytes(&FileSource::from_file(layer, label)?, &staged, observer)?;
        }
        if self.request.durability == Durability::Synced {
            staged.sync()?;
        }
        let source = FileSource::from_file(clone_of(&staged)?, dest.display().to_string())?;
        let transport = sha256_of(&source, observer)?;
        let found: Option<LayerId> = transport.to_string().parse().ok();
        if found.as_ref() != Some(&self.layer.digest) {
            return Err(Refusal::CopyDiffers {
                expected: self.layer.digest.to_string(),
                found: transport.to_string(),
            }
            .into());
        }
        let content = self.manifest.digests.content;
        let byte_len = source.byte_len();
        if self.request.read_back {
            let threads = self.request.threads.max(1);
            let len = self.manifest.disk_bytes;
            let expected = Likeness::Content(content);
            read_back(Arc::new(source), self.request.format, len, expected, threads, observer)?;
        }
        let outcome = ExportOutcome { transport, byte_len, content, raw: None, how: How::Copy, cloned };
        Ok((staged, outcome))
    }

    /// Writes to a pipe. What went out cannot be called back: when this fails, the receiver's copy is worthless.
    ///
    /// # Errors
    /// As [`ExportPlan::to_file`]; I/O of the pipe. `spool_dir` takes a temporary file where the format needs one.
    pub fn to_stream(
        self,
        out: Box<dyn Write + Send>,
        spool_dir: &Path,
        observer: &dyn Observer,
    ) -> Result<ExportOutcome> {
        let tally = Arc::new(Mutex::new(Tally { hasher: Sha256::new(), byte_len: 0 }));
        let out = Box::new(Hashing { out, tally: Arc::clone(&tally) });
        let budget = Budget::default();
        let job = Job {
            disk: self.image.as_ref(),
            format: self.request.format,
            options: &self.options,
            threads: self.request.threads.max(1),
            content_digest: true,
            raw_digest: self.request.raw_digest,
            fingerprint: false,
            leaves: None,
            budget: &budget,
        };
        let outcome = write_stream(job, out, spool_dir, observer)?;
        let digests = outcome.digests.ok_or(Error::Disk(DiskError::Cancelled))?;
        self.expect_content(digests.content)?;
        let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        let hash = tally.hasher.clone().finalize().to_vec();
        let transport = Digest::new(Algorithm::Sha256, hash).ok_or(Error::Disk(DiskError::Cancelled))?;
        Ok(ExportOutcome {
            transport,
            byte_len: tally.byte_len,
            content: digests.content,
            raw: digests.raw,
            how: How::Convert,
            cloned: false,
        })
    }

    /// The disk that was read is the one that was published.
    fn expect_content(&self, found: ContentDigest) -> Result<()> {
        let expected = self.manifest.digests.content;
        if found == expected && self.image.disk_len() == self.manifest.disk_bytes {
            return Ok(());
        }
        Err(Refusal::ImageDamaged { expected, found }.into())
    }
}

fn clone_of(staged: &StagedFile) -> Result<File> {
    let label = || staged.dest().display().to_string();
    Ok(staged.file().try_clone().map_err(|source| DiskError::io("duplicate", label(), source))?)
}

pub(crate) fn sha256_of(source: &FileSource, observer: &dyn Observer) -> Result<Digest> {
    let digests = hash_source(source, &[Algorithm::Sha256], observer)?;
    digests.into_iter().next().ok_or(Error::Disk(DiskError::Cancelled))
}

/// Copies by the kernel where it can, by hand where it cannot.
fn copy_bytes(layer: &FileSource, staged: &StagedFile, observer: &dyn Observer) -> Result<()> {
    use std::os::unix::fs::FileExt;
    const STEP: u64 = 16 << 20;
    let len = layer.byte_len();
    let dest = || staged.dest().display().to_string();
    observer.event(Event::Started { phase: "copy", total: len });
    let mut at = 0_u64;
    let mut by_kernel = true;
    let mut buffer = Vec::new();
    while at < len {
        go_on(observer)?;
        let step = STEP.min(len - at);
        let mut moved = 0;
        if by_kernel {
            moved = os::copy_range(layer.file(), at, staged.file(), at, step)
                .map_err(|source| DiskError::io("copy", dest(), source))?;
            by_kernel = moved > 0;
        }
        if !by_kernel {
            buffer.resize(usize::try_from(step).unwrap_or(0), 0);
            layer.read_bytes(FileOffset::new(at), &mut buffer)?;
            staged
                .file()
                .write_all_at(&buffer, at)
                .map_err(|source| DiskError::io("write", dest(), source))?;
            moved = step;
        }
        at += moved;
        observer.event(Event::Advanced { bytes: moved });
    }
    observer.event(Event::Finished);
    Ok(())
}

struct Tally {
    hasher: Sha256,
    byte_len: u64,
}

/// Hashes what goes through.
struct Hashing {
    out: Box<dyn Write + Send>,
    tally: Arc<Mutex<Tally>>,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.out.write(bytes)?;
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.hasher.update(bytes.get(..written).unwrap_or_default());
        tally.byte_len = tally.byte_len.saturating_add(u64::try_from(written).unwrap_or(u64::MAX));
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}
