//! Layers by their names: what whoever has only a list of them, as an instance's record does, needs to read and to
//! publish them.

use std::sync::Arc;

use kiln_disk::digest::LeafFile;
use kiln_disk::{ByteSource, Disk, Error as DiskError, FileSource};

use crate::error::Result;
use crate::id::LayerId;
use crate::manifest::LayerRecord;
use crate::publish::transport;
use crate::store::Store;
use crate::verify::LayerReader;

impl Store {
    /// What a manifest says about layers, in their order. A layer that no image has any more, only an instance, is
    /// described anew from its files.
    ///
    /// # Errors
    /// `io.not-found` when a layer or its list of block hashes is gone; a list that is damaged.
    pub fn layer_records(&self, layers: &[LayerId]) -> Result<Vec<LayerRecord>> {
        let known: Vec<LayerRecord> =
            self.everything()?.into_iter().flat_map(|image| image.manifest.layers).collect();
        layers
            .iter()
            .map(|id| match known.iter().find(|record| record.digest == *id) {
                Some(record) => Ok(record.clone()),
                None => self.described(id),
            })
            .collect()
    }

    /// Only what was published can be a layer, and all that is published has this format.
    fn described(&self, id: &LayerId) -> Result<LayerRecord> {
        let file = FileSource::open(&self.layout.layer(id))?;
        let leaf_source = FileSource::open(&self.layout.leaves(id))?;
        Ok(LayerRecord {
            digest: id.clone(),
            format: "qcow2".to_owned(),
            style: "plain".to_owned(),
            byte_len: file.byte_len(),
            content: LeafFile::read(&leaf_source)?.content(),
            leaves: transport(&leaf_source, &kiln_disk::Silent)?,
        })
    }

    /// Opens layers as disks, base first.
    ///
    /// # Errors
    /// `io.not-found` when one is gone; whatever the format says.
    pub fn open_stack(&self, layers: &[LayerRecord], reader: &dyn LayerReader) -> Result<Vec<Box<dyn Disk>>> {
        let open = |layer: &LayerRecord| -> Result<Box<dyn Disk>> {
            Ok(reader.open_layer(&layer.format, Arc::new(self.open_layer(layer)?))?)
        };
        layers.iter().map(open).collect()
    }

    /// The block hashes of the disk that a layer gives; `None` when the list is damaged or missing, and so proves
    /// nothing.
    ///
    /// # Errors
    /// I/O.
    pub fn leaf_file(&self, layer: &LayerRecord) -> Result<Option<LeafFile>> {
        let source = match self.open_leaves(layer) {
            Ok(source) => source,
            Err(error) if error.code() == "io.not-found" => return Ok(None),
            Err(error) => return Err(error),
        };
        if transport(&source, &kiln_disk::Silent)? != layer.leaves {
            return Ok(None);
        }
        match LeafFile::read(&source) {
            Ok(leaves) if leaves.content() == layer.content => Ok(Some(leaves)),
            Ok(_) | Err(DiskError::Malformed { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
