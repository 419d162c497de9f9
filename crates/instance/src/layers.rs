//! The layers of an image as one disk.

use std::sync::Arc;

use kiln_catalog::{Manifest, Store};
use kiln_disk::{Disk, StackDisk};
use kiln_format::{OpenContext, by_name};

use crate::error::Result;

/// The disk of an image. It stays readable when the image is removed meanwhile.
///
/// # Errors
/// `io.not-found` when a layer is missing; whatever the format says.
pub(crate) fn open(store: &Store, image: &Manifest) -> Result<Box<dyn Disk>> {
    let mut stack: Vec<Box<dyn Disk>> = Vec::new();
    for layer in &image.layers {
        let format = by_name(&layer.format).ok_or_else(|| kiln_disk::Error::Unsupported {
            code: "store.layer.format",
            feature: format!("the layer format {:?}", layer.format),
            hint: "use a newer kiln",
        })?;
        let source = store.open_layer(layer)?;
        let disk: Box<dyn Disk> = (format.open)(Arc::new(source), &OpenContext::new())?;
        stack.push(disk);
    }
    Ok(Box::new(StackDisk::new(stack)))
}
