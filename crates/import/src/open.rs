//! Images of the store as disks.

use std::sync::Arc;

use kiln_catalog::{LayerReader, LayerRecord, Manifest, Store, Verification};
use kiln_disk::{ByteSource, Disk, Observer};
use kiln_format::{Image, OpenContext, by_name};

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

/// The one layer of an image.
///
/// # Errors
/// [`Refusal::LayerCount`].
pub fn only_layer(image: &Manifest) -> Result<&LayerRecord> {
    match image.layers.as_slice() {
        [layer] => Ok(layer),
        layers => Err(Refusal::LayerCount { layers: layers.len() }.into()),
    }
}

/// Opens an image of the store: a disk that can also tell about its layer file. It stays readable when the image is
/// removed meanwhile.
///
/// # Errors
/// `io.not-found` when the layer is missing; whatever the format says.
pub fn open_image(store: &Store, image: &Manifest) -> Result<Box<dyn Image>> {
    let layer = only_layer(image)?;
    let format =
        by_name(&layer.format).ok_or_else(|| Refusal::LayerFormat { format: layer.format.clone() })?;
    let source = store.open_layer(layer)?;
    Ok((format.open)(Arc::new(source), &OpenContext::new())?)
}

/// Reads all of an image and says whether it is what was published.
///
/// # Errors
/// I/O and `Cancelled`; damage is a finding.
pub fn verify_image(store: &Store, image: &Manifest, observer: &dyn Observer) -> Result<Verification> {
    Ok(store.verify(image, &FormatReader, observer)?)
}
