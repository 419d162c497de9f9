//! Joining the layers of an image to one.

use std::io::BufWriter;

use kiln_catalog::{Manifest, NewLayer, Store};
use kiln_disk::digest::LeafWriter;
use kiln_disk::{Budget, Durability, Error as DiskError, Existing, Observer, pipeline};
use kiln_format::transfer::{FilePlan, stage_file};

use crate::error::{Error, Refusal, Result};
use crate::open::open_image;
use kiln_format::layer::{LAYER_FORMAT, LayerStyle, layer_format, options_of};

/// Writes the disk of an image into one layer, which takes the place of its layers. The image stays what it is: its
/// id, its digests, its life.
///
/// # Errors
/// [`Refusal::ImageDamaged`]; [`kiln_catalog::Refusal::Rights`]; I/O; `Cancelled`.
pub fn flatten(
    store: &Store,
    image: &Manifest,
    style: LayerStyle,
    observer: &dyn Observer,
) -> Result<Manifest> {
    let what = format!("{} ({})", image.title(), image.id);
    let job = store.begin_job("flatten", &what, vec![image.id.clone()], None)?;
    let watched = job.watched(observer);
    let disk = open_image(store, image)?;
    let (format, create) = layer_format()?;
    let options = options_of(&create, style.option_pairs())?;
    let (leaf_file, leaves) = job.create_file("layer.leaves")?;
    let mut writer = LeafWriter::new(BufWriter::new(leaf_file), disk.disk_len())?;
    let file = job.dir().join("layer.qcow2");
    let budget = Budget::default();
    let plan = FilePlan {
        disk: disk.as_ref(),
        format,
        options: &options,
        dest: &file,
        existing: Existing::Keep,
        durability: Durability::Synced,
        read_back: true,
        threads: pipeline::default_threads(),
        content_digest: true,
        raw_digest: false,
        leaves: Some(&mut writer),
        budget: &budget,
    };
    let (staged, outcome) = stage_file(plan, &watched)?;
    let digests = outcome.digests.ok_or(Error::Disk(DiskError::Cancelled))?;
    if digests.content != image.digests.content {
        let (expected, found) = (image.digests.content, digests.content);
        return Err(Refusal::ImageDamaged { expected, found }.into());
    }
    drop(
        writer
            .finish(&digests.content)?
            .into_inner()
            .map_err(|error| DiskError::io("write", leaves.display().to_string(), error.into_error()))?,
    );
    staged.commit(Existing::Keep, Durability::Unsynced)?;
    let layer = NewLayer {
        file,
        leaves,
        format: LAYER_FORMAT.to_owned(),
        style: style.word().to_owned(),
        content: digests.content,
    };
    let sealed = job.seal(layer, &watched)?;
    Ok(job.flatten(&image.id, &sealed, &watched)?)
}
