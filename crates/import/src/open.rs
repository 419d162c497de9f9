//! Images of the store as disks.

use std::sync::Arc;

use kiln_catalog::{LayerReader, LayerRecord, MAX_DEPTH, Manifest, Store, Verification};
use kiln_disk::digest::Part;
use kiln_disk::{ByteSource, Disk, Extent, Findings, GuestOffset, Observer, StackDisk};
use kiln_format::{CheckScope, Facts, Format, Image, OpenContext, by_name};

use crate::error::{Refusal, Result};

/// Reads layers of the formats of [`kiln_format::FORMATS`]. The recorded format is used, never a guess, and no
/// layer leads to another file.
#[derive(Debug, Clone, Copy, Default)]
pub struct FormatReader;

impl LayerReader for FormatReader {
    fn open_layer(&self, format: &str, source: Arc<dyn ByteSource>) -> kiln_disk::Result<Box<dyn Disk>> {
        let format = by_name(format).ok_or_else(|| kiln_disk::Error::Unsupported {
            code: "store.layer.format",
            feature: format!("the layer format {format:?}"),
            hint: "use a newer kiln",
        })?;
        let image: Box<dyn Disk> = (format.open)(source, &OpenContext::new())?;
        Ok(image)
    }
}

/// Opens an image of the store: a disk that can also tell about its layer file, the uppermost of several. It stays
/// readable when the image is removed meanwhile. What lies below a layer is said by the manifest, never by a name
/// in the layer's file.
///
/// # Errors
/// `io.not-found` when a layer is missing; [`kiln_catalog::Refusal::TooDeep`]; whatever the format says.
pub fn open_image(store: &Store, image: &Manifest) -> Result<Box<dyn Image>> {
    if image.layers.len() > MAX_DEPTH {
        let (layers, allowed) = (image.layers.len(), MAX_DEPTH);
        return Err(kiln_catalog::Error::from(kiln_catalog::Refusal::TooDeep { layers, allowed }).into());
    }
    let Some((top, below)) = image.layers.split_last() else {
        return Err(Refusal::LayerCount { layers: 0 }.into());
    };
    let top = open_layer(store, top)?;
    if below.is_empty() {
        return Ok(top);
    }
    let (format, facts) = (top.format(), top.facts());
    let below = below.iter().map(|layer| open_layer(store, layer));
    let layers: Vec<Arc<dyn Image>> =
        below.chain([Ok(top)]).map(|layer| layer.map(Arc::from)).collect::<Result<_>>()?;
    let stack = layers.iter().map(|layer| Box::new(Arc::clone(layer)) as Box<dyn Disk>).collect();
    Ok(Box::new(StackedImage { stack: StackDisk::new(stack), layers, format, facts }))
}

/// The layers of an image, each as the file that it is, base first.
///
/// # Errors
/// As [`open_image`].
pub(crate) fn open_layers(store: &Store, image: &Manifest) -> Result<Vec<Box<dyn Image>>> {
    image.layers.iter().map(|layer| open_layer(store, layer)).collect()
}

fn open_layer(store: &Store, layer: &LayerRecord) -> Result<Box<dyn Image>> {
    let format =
        by_name(&layer.format).ok_or_else(|| Refusal::LayerFormat { format: layer.format.clone() })?;
    let source = store.open_layer(layer)?;
    Ok((format.open)(Arc::new(source), &OpenContext::new())?)
}

/// A stack of layers that tells about its uppermost.
struct StackedImage {
    stack: StackDisk,
    /// The same layers, base first.
    layers: Vec<Arc<dyn Image>>,
    format: &'static Format,
    facts: Facts,
}

impl Disk for StackedImage {
    fn disk_len(&self) -> u64 {
        self.stack.disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
        self.stack.read_guest(at, buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: std::num::NonZeroU64) -> kiln_disk::Result<Extent> {
        self.stack.extent_at(at, limit)
    }
}

impl Image for StackedImage {
    fn format(&self) -> &'static Format {
        self.format
    }

    fn facts(&self) -> Facts {
        self.facts.clone()
    }

    /// Each layer is checked as the file that it is; a stack has no structure of its own.
    fn check(&self, scope: CheckScope, observer: &dyn Observer) -> kiln_disk::Result<Findings> {
        let mut findings = Findings::default();
        for layer in &self.layers {
            findings.extend(layer.check(scope, observer)?);
        }
        Ok(findings)
    }
}

/// Reads all of an image and says whether it is what was published.
///
/// # Errors
/// I/O and `Cancelled`; damage is a finding.
pub fn verify_image(store: &Store, image: &Manifest, observer: &dyn Observer) -> Result<Verification> {
    Ok(store.verify(image, &FormatReader, observer)?)
}

/// Reads one part of an image's disk.
///
/// # Errors
/// I/O and `Cancelled`; damage is a finding.
pub fn verify_part(
    store: &Store,
    image: &Manifest,
    part: Part,
    observer: &dyn Observer,
) -> Result<Verification> {
    Ok(store.verify_part(image, part, &FormatReader, observer)?)
}
