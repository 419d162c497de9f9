//! Removal: the row first, then the manifest, then the layers that nobody needs any more.

use serde::Serialize;

use crate::error::Result;
use crate::id::ImageId;
use crate::index::{Edit, Index};
use crate::job::{Intent, scratch_dir, settle};
use crate::manifest::{LayerRecord, Manifest};
use crate::rights::Action;
use crate::steps::Step;
use crate::store::Store;

/// What removing an image does, or did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// The image.
    pub image: Manifest,
    /// Layers that go with it.
    pub frees: Vec<LayerRecord>,
    /// Layers that stay because other images need them.
    pub keeps: Vec<LayerRecord>,
    /// Bytes of the layers that go.
    pub freed_bytes: u64,
}

impl Store {
    /// What removing the image would do now.
    ///
    /// # Errors
    /// [`crate::Refusal::NotFound`], [`crate::Refusal::Rights`].
    pub fn plan_removal(&self, id: &ImageId) -> Result<Removal> {
        let index = self.index()?;
        let image = self.image_of(&index, id)?;
        self.permit_with(&index, Action::Delete, &image)?;
        removal_of(&index, image.manifest)
    }

    /// Removes an image and the layers that only it had. A layer that another process is reading stays readable
    /// to that process.
    ///
    /// # Errors
    /// [`crate::Refusal::NotFound`], [`crate::Refusal::Rights`], I/O. Once the row is gone the image is gone, whatever error
    /// follows; what could not be cleared away is cleared by the next command.
    pub fn remove(&self, id: &ImageId) -> Result<Removal> {
        let _lock = self.exclusive()?;
        let mut index = self.index()?;
        let image = self.image_of(&index, id)?;
        self.permit_with(&index, Action::Delete, &image)?;
        let removal = removal_of(&index, image.manifest)?;
        let intent = Intent {
            images: vec![id.clone()],
            layers: removal.image.layers.iter().map(|layer| layer.digest.clone()).collect(),
            ..Intent::default()
        };
        let mut job = scratch_dir(&self.layout)?;
        self.steps.before(Step::Intent)?;
        job.announce(&intent)?;
        let removed = self.steps.before(Step::Commit).and_then(|()| index.change(&[Edit::Delete { id }]));
        let settled = settle(self, &index, &intent).and_then(|()| job.settled());
        removed?;
        settled?;
        Ok(removal)
    }
}

fn removal_of(index: &Index, image: Manifest) -> Result<Removal> {
    let mut removal = Removal { image, frees: Vec::new(), keeps: Vec::new(), freed_bytes: 0 };
    for layer in removal.image.layers.clone() {
        if index.holders(&layer.digest)? <= 1 {
            removal.freed_bytes = removal.freed_bytes.saturating_add(layer.byte_len);
            removal.frees.push(layer);
        } else {
            removal.keeps.push(layer);
        }
    }
    Ok(removal)
}
