//! Is an image what it was when it was published?

use std::sync::Arc;

use kiln_disk::digest::{BLOCK_LEN, ContentDigest, HashJob, LeafFile, damaged_blocks, hash_disk};
use kiln_disk::{
    ByteSource, Disk, Error as DiskError, FileSource, Findings, GuestOffset, GuestRange, Observer,
};

use crate::checks;
use crate::error::{Error, Refusal, Result};
use crate::fsck::{there, words};
use crate::id::LayerId;
use crate::manifest::{LayerRecord, Manifest};
use crate::publish::transport;
use crate::store::Store;

/// Reads layers as disks. The store knows files and digests; whoever knows formats lends it this.
pub trait LayerReader {
    /// The disk in a layer of the format `format`.
    ///
    /// # Errors
    /// Whatever the format says.
    fn open_layer(&self, format: &str, source: Arc<dyn ByteSource>) -> kiln_disk::Result<Box<dyn Disk>>;
}

/// What became of one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerVerdict {
    /// The layer, by the digest that it should have.
    pub digest: LayerId,
    /// The digest that its bytes have; none when it is missing.
    pub found: Option<LayerId>,
}

/// What a verification says.
#[derive(Debug, Default)]
pub struct Verification {
    /// Everything found, each with an id of [`crate::checks`]. None that fails: the image is intact.
    pub findings: Findings,
    /// Its layers, base first.
    pub layers: Vec<LayerVerdict>,
    /// The content digest, when the disk was proved to have it.
    pub content: Option<ContentDigest>,
    /// All damaged 64 KiB blocks, merged.
    pub damaged: Vec<GuestRange>,
}

impl Verification {
    /// Whether the image is what it was.
    #[must_use]
    pub fn intact(&self) -> bool {
        !self.findings.fails()
    }
}

impl Store {
    /// Reads all of an image: the bytes of its layers against their names, and the disk that they give against
    /// the list of block hashes, which in turn must add up to the content digest.
    ///
    /// # Errors
    /// I/O and `Cancelled`; damage is a finding.
    pub fn verify(
        &self,
        image: &Manifest,
        reader: &dyn LayerReader,
        observer: &dyn Observer,
    ) -> Result<Verification> {
        let mut verdict = Verification::default();
        self.verify_manifest(image, &mut verdict)?;
        self.judge_signatures(image, &mut verdict.findings)?;
        let [layer] = image.layers.as_slice() else {
            return Err(Refusal::LayerCount { id: image.id.clone(), layers: image.layers.len() }.into());
        };
        let Some(source) = there(FileSource::open(&self.layout.layer(&layer.digest)))? else {
            verdict.findings.push(checks::LAYER_MISSING.found(layer.digest.to_string()));
            verdict.layers.push(LayerVerdict { digest: layer.digest.clone(), found: None });
            return Ok(verdict);
        };
        if source.byte_len() != layer.byte_len {
            verdict.findings.push(checks::LAYER_LENGTH.found(format!(
                "{}: {} bytes, its manifest says {}",
                layer.digest,
                source.byte_len(),
                layer.byte_len
            )));
        }
        let found = transport(&source, observer)?;
        if found != layer.digest {
            let detail = format!("{} has the bytes of {found}", layer.digest);
            verdict.findings.push(checks::LAYER_DIGEST.found(detail));
        }
        verdict.layers.push(LayerVerdict { digest: layer.digest.clone(), found: Some(found) });
        let leaves = self.verify_leaves(layer, &mut verdict)?;
        match reader.open_layer(&layer.format, Arc::new(source)) {
            Ok(disk) => verify_content(image, disk.as_ref(), leaves.as_ref(), &mut verdict, observer)?,
            Err(error @ (DiskError::Io { .. } | DiskError::Cancelled)) => return Err(error.into()),
            Err(error) => {
                let detail = format!("{}: {}", layer.digest, words(&error));
                let finding = checks::LAYER_UNREADABLE.found(detail);
                verdict.findings.push(finding.guest(GuestOffset::ZERO, image.disk_bytes));
                verdict.damaged = vec![GuestRange { start: GuestOffset::ZERO, len: image.disk_bytes }];
            }
        }
        Ok(verdict)
    }

    /// The manifest file is sound and says what the caller was told.
    fn verify_manifest(&self, image: &Manifest, verdict: &mut Verification) -> Result<()> {
        match Manifest::read(&self.layout.manifest(&image.id), &image.id) {
            Ok((file, _)) if file == *image => {}
            Ok(_) => verdict.findings.push(checks::ROW_DIFFERS.found(image.id.to_string())),
            Err(error @ (Error::Malformed { .. } | Error::Unsupported { .. })) => {
                let detail = format!("{}: {}", image.id, words(&error));
                verdict.findings.push(checks::MANIFEST_DAMAGED.found(detail));
            }
            Err(error) if error.code() == "io.not-found" => {
                verdict.findings.push(checks::MANIFEST_MISSING.found(image.id.to_string()));
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn verify_leaves(&self, layer: &LayerRecord, verdict: &mut Verification) -> Result<Option<LeafFile>> {
        let Some(source) = there(FileSource::open(&self.layout.leaves(&layer.digest)))? else {
            verdict.findings.push(checks::LEAVES_MISSING.found(layer.digest.to_string()));
            return Ok(None);
        };
        if transport(&source, &kiln_disk::Silent)? != layer.leaves {
            let detail = format!("{}: it is not the list that was written", layer.digest);
            verdict.findings.push(checks::LEAVES_DAMAGED.found(detail));
            return Ok(None);
        }
        match LeafFile::read(&source) {
            Ok(leaves) if leaves.content() == layer.content => Ok(Some(leaves)),
            Ok(leaves) => {
                let detail = format!("{}: it adds up to {}", layer.digest, leaves.content());
                verdict.findings.push(checks::LEAVES_DAMAGED.found(detail));
                Ok(None)
            }
            Err(error @ DiskError::Malformed { .. }) => {
                let detail = format!("{}: {}", layer.digest, words(&error));
                verdict.findings.push(checks::LEAVES_DAMAGED.found(detail));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn verify_content(
    image: &Manifest,
    disk: &dyn Disk,
    leaves: Option<&LeafFile>,
    verdict: &mut Verification,
    observer: &dyn Observer,
) -> Result<()> {
    let expected = image.digests.content;
    if disk.disk_len() != image.disk_bytes {
        verdict.findings.push(checks::CONTENT_DIGEST.found(format!(
            "the disk is {} bytes long, the manifest says {}",
            disk.disk_len(),
            image.disk_bytes
        )));
    }
    match leaves {
        Some(leaves) if leaves.content() == expected => {
            verdict.damaged = damaged_blocks(disk, leaves, observer)?;
            for range in &verdict.damaged {
                let blocks = range.len.div_ceil(BLOCK_LEN);
                let detail = format!("{blocks} blocks of 64 KiB, from guest byte {}", range.start);
                verdict.findings.push(checks::CONTENT_BLOCKS.found(detail).guest(range.start, range.len));
            }
            if verdict.damaged.is_empty() && disk.disk_len() == image.disk_bytes {
                verdict.content = Some(expected);
            }
        }
        _ => match hash_disk(disk, HashJob::default(), observer) {
            Ok(found) if found.content == expected => verdict.content = Some(expected),
            Ok(found) => {
                let detail = format!("{}, the manifest says {expected}", found.content);
                verdict.findings.push(checks::CONTENT_DIGEST.found(detail));
            }
            Err(error @ (DiskError::Io { .. } | DiskError::Cancelled)) => return Err(error.into()),
            Err(error) => verdict.findings.push(checks::LAYER_UNREADABLE.found(words(&error))),
        },
    }
    Ok(())
}
