//! What a layer can stand on.

use std::io::Cursor;
use std::sync::Arc;

use kiln_catalog::machine::MachineDisk;
use kiln_catalog::{Image, ImageId, LayerReader, LayerRecord, MAX_DEPTH, Store};
use kiln_disk::digest::{HashJob, LeafFile, LeafWriter, hash_disk};
use kiln_disk::{ByteSource, Disk, MemorySource, Observer, StackDisk};

use crate::error::Result;
use crate::view::differing;

/// Reads layers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FormatReader;

impl LayerReader for FormatReader {
    fn open_layer(&self, format: &str, source: Arc<dyn ByteSource>) -> kiln_disk::Result<Box<dyn Disk>> {
        let image: Box<dyn Disk> = kiln_format::layer::open_layer(format, source)?;
        Ok(image)
    }
}

/// An image, or a stack that was one, that a new layer is put upon.
pub(crate) struct Ground {
    /// The image, when the account sees it.
    pub(crate) image: Option<Image>,
    /// Its layers, base first.
    pub(crate) layers: Vec<LayerRecord>,
    /// Block hashes of its disk.
    pub(crate) leaves: LeafFile,
    /// Where it differs from what is below the disk now.
    pub(crate) apart: Vec<(u64, u64)>,
    /// Whether it is the last capture: what a dirty bitmap counts from.
    pub(crate) is_last: bool,
}

/// What was found below a disk.
pub(crate) struct Below {
    /// The layers below the overlay, as the instance's record lists them.
    pub(crate) layers: Vec<LayerRecord>,
    /// What the new layer will stand on; none when it has to hold everything.
    pub(crate) ground: Option<Ground>,
    /// Why it has to hold everything.
    pub(crate) why_full: Option<&'static str>,
}

impl Below {
    /// Looks at what is below a disk of an instance. The last capture is preferred to the origin, as less differs from
    /// it; a stack as deep as is allowed is passed over.
    pub(crate) fn of(store: &Store, disk: &MachineDisk, observer: &dyn Observer) -> Result<Self> {
        let layers = store.layer_records(&disk.layers)?;
        if layers.is_empty() && disk.captured.is_none() {
            return Ok(Self { layers, ground: None, why_full: Some("the disk began empty") });
        }
        let base = match layers.last() {
            Some(top) => match store.leaf_file(top)? {
                Some(leaves) => leaves,
                None => hashed(store, &layers, observer)?,
            },
            None => empty(disk.disk_bytes)?,
        };
        if let Some(captured) = &disk.captured
            && let Some(ground) = last(store, &captured.image, &base)?
        {
            return Ok(Self { layers, ground: Some(ground), why_full: None });
        }
        if layers.is_empty() {
            return Ok(Self { layers, ground: None, why_full: Some("the disk began empty") });
        }
        if layers.len() >= MAX_DEPTH {
            return Ok(Self {
                layers,
                ground: None,
                why_full: Some("the stack of layers would become too deep"),
            });
        }
        let image = disk.image.as_ref().and_then(|id| seen(store, id));
        let image = image.filter(|image| image.manifest.layers == layers);
        let ground =
            Ground { image, layers: layers.clone(), leaves: base, apart: Vec::new(), is_last: false };
        Ok(Self { layers, ground: Some(ground), why_full: None })
    }

    /// Opens what is below the overlay.
    pub(crate) fn open(&self, store: &Store) -> Result<Vec<Box<dyn Disk>>> {
        Ok(store.open_stack(&self.layers, &FormatReader)?)
    }
}

/// An image that the account sees.
fn seen(store: &Store, id: &ImageId) -> Option<Image> {
    store.image(id.as_str()).ok()
}

/// The last capture as a ground, when it is still there and not too deep.
fn last(store: &Store, id: &ImageId, base: &LeafFile) -> Result<Option<Ground>> {
    let Some(image) = seen(store, id) else { return Ok(None) };
    let layers = image.manifest.layers.clone();
    let Some(top) = layers.last().filter(|_| layers.len() < MAX_DEPTH) else { return Ok(None) };
    let Some(leaves) = store.leaf_file(top)? else { return Ok(None) };
    let apart = differing(&leaves, base);
    Ok(Some(Ground { image: Some(image), layers, leaves, apart, is_last: true }))
}

/// Block hashes computed anew, when the stored list is damaged.
fn hashed(store: &Store, layers: &[LayerRecord], observer: &dyn Observer) -> Result<LeafFile> {
    let stack = StackDisk::new(store.open_stack(layers, &FormatReader)?);
    leaves_of(&stack, observer)
}

fn leaves_of(disk: &dyn Disk, observer: &dyn Observer) -> Result<LeafFile> {
    let mut writer = LeafWriter::new(Cursor::new(Vec::new()), disk.disk_len())?;
    let job = HashJob { leaves: Some(&mut writer), ..HashJob::default() };
    let content = hash_disk(disk, job, observer)?.content;
    let bytes = writer.finish(&content)?.into_inner();
    Ok(LeafFile::read(&MemorySource::new(bytes))?)
}

/// The block hashes of nothing.
fn empty(len: u64) -> Result<LeafFile> {
    let writer = LeafWriter::new(Cursor::new(Vec::new()), len)?;
    let content = kiln_disk::digest::TreeBuilder::new(len).finish();
    Ok(LeafFile::read(&MemorySource::new(writer.finish(&content)?.into_inner()))?)
}
