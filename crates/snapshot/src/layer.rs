//! A disk at its point in time becomes a layer in a job's directory.

use std::io::BufWriter;

use kiln_catalog::{Job, NewLayer, SealedLayer};
use kiln_disk::digest::{ContentDigest, LeafWriter};
use kiln_disk::{Budget, Disk, Durability, Error as DiskError, Existing, Limits, Observer};
use kiln_format::layer::{LAYER_FORMAT, LayerStyle, layer_format, options_of};
use kiln_format::transfer::{FilePlan, stage_file, stage_layer};

use crate::error::{Error, Result};
use crate::ground::Ground;
use crate::view::{Places, View};

/// What a layer holds. Sizes are bytes.
pub(crate) struct Stored {
    pub(crate) sealed: SealedLayer,
    /// Digest of the whole disk.
    pub(crate) content: ContentDigest,
    /// Data that it holds, before compression.
    pub(crate) changed_bytes: u64,
    /// Zeros that hide data below.
    pub(crate) zeroed_bytes: u64,
    /// What was read and is as below.
    pub(crate) same_bytes: u64,
}

/// How to write.
#[derive(Clone, Copy)]
pub(crate) struct How {
    pub(crate) style: LayerStyle,
    pub(crate) threads: usize,
}

/// Writes the layer, brings it to the device and reads it back. Of the disk only `places` are read: the rest is as in
/// the ground, or zeros when there is none.
pub(crate) fn store_disk(
    job: &Job,
    disk: &dyn Disk,
    upon: Option<&Ground>,
    places: Option<&Places>,
    how: How,
    observer: &dyn Observer,
) -> Result<Stored> {
    let (format, create) = layer_format()?;
    let options = options_of(&create, how.style.option_pairs())?;
    let (leaf_file, leaves) = job.create_file("layer.leaves")?;
    let mut writer = LeafWriter::new(BufWriter::new(leaf_file), disk.disk_len())?;
    let file = job.dir().join("layer.qcow2");
    let budget = Budget::new(Limits { non_zero_output: u64::MAX, ..Limits::STANDARD });
    let view = places.map(|places| View::new(disk, places));
    let plan = FilePlan {
        disk: view.as_ref().map_or(disk, |view| view),
        format,
        options: &options,
        dest: &file,
        existing: Existing::Keep,
        durability: Durability::Synced,
        read_back: true,
        threads: how.threads,
        content_digest: true,
        raw_digest: false,
        leaves: Some(&mut writer),
        budget: &budget,
    };
    let (staged, outcome) = match upon {
        Some(ground) => stage_layer(plan, &ground.leaves, observer)?,
        None => stage_file(plan, observer)?,
    };
    // Asked for above, so they are there.
    let content = outcome.digests.ok_or(Error::Disk(DiskError::Cancelled))?.content;
    drop(
        writer
            .finish(&content)?
            .into_inner()
            .map_err(|error| DiskError::io("write", leaves.display().to_string(), error.into_error()))?,
    );
    staged.commit(Existing::Keep, Durability::Unsynced)?;
    let layer = NewLayer {
        file,
        leaves,
        format: LAYER_FORMAT.to_owned(),
        style: how.style.word().to_owned(),
        content,
    };
    let sealed = job.seal(layer, observer)?;
    Ok(Stored {
        sealed,
        content,
        changed_bytes: outcome.stored_bytes,
        zeroed_bytes: outcome.hidden.iter().map(|range| range.len).fold(0, u64::saturating_add),
        same_bytes: outcome.same_bytes,
    })
}
