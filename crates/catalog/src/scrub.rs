//! Scrubbing: reading the store's layers in their turn, gently, and putting damaged ones aside.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kiln_disk::digest::{Algorithm, Part, hash_source};
use kiln_disk::{ByteSource, FileOffset, FileSource, Observer};

use crate::error::{Result, io};
use crate::fsck::there;
use crate::id::{ImageId, LayerId};
use crate::layout::{make_dir, sync_dir};
use crate::record::{Verified, What};
use crate::store::Store;

/// How to scrub.
#[derive(Debug, Clone, Copy)]
pub struct ScrubOptions {
    /// Read no more than so many bytes a second.
    pub rate: Option<u64>,
    /// Read only one of several equal parts of the layers.
    pub part: Part,
    /// Put damaged layers aside.
    pub quarantine: bool,
}

/// A layer that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedLayer {
    /// The layer, by the digest that it should have.
    pub digest: LayerId,
    /// The digest that its bytes have; none when it is missing.
    pub found: Option<LayerId>,
    /// The images that it hits, with their names.
    pub images: Vec<(ImageId, String)>,
    /// Where it was put.
    pub aside: Option<PathBuf>,
}

/// What a scrub did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Layers that were read.
    pub layers: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Images of which all was read.
    pub images: u64,
    /// Layers that are not what they were.
    pub damaged: Vec<DamagedLayer>,
}

impl Store {
    /// Reads the layers of the store and compares their bytes with their names. Images whose layers are all sound
    /// are marked as verified, those that a damaged layer hits as damaged. Runs beside other commands.
    ///
    /// # Errors
    /// I/O and `Cancelled`; damage is an answer.
    pub fn scrub(&self, options: ScrubOptions, observer: &dyn Observer) -> Result<Scrubbed> {
        let mut images: BTreeMap<ImageId, (String, Vec<LayerId>)> = BTreeMap::new();
        let mut layers: BTreeSet<LayerId> = BTreeSet::new();
        for (id, texts) in self.index()?.all()? {
            let manifest = self.entry_of(&id, texts)?.manifest;
            let own: Vec<LayerId> = manifest.layers.iter().map(|layer| layer.digest.clone()).collect();
            layers.extend(own.iter().cloned());
            images.insert(manifest.id.clone(), (manifest.title(), own));
        }
        let mut scrubbed = Scrubbed::default();
        let mut sound: BTreeSet<LayerId> = BTreeSet::new();
        for layer in layers.iter().filter(|layer| options.part.has_name(layer.hex())) {
            let Some(source) = there(FileSource::open(&self.layout.layer(layer)))? else {
                // Removed since by another process, or lost.
                if self.index()?.holders(layer)? > 0 {
                    scrubbed.damaged.push(damaged(layer, None, &images));
                }
                continue;
            };
            scrubbed.layers = scrubbed.layers.saturating_add(1);
            scrubbed.bytes = scrubbed.bytes.saturating_add(source.byte_len());
            let path = self.layout.layer(layer);
            let inode = source.file().metadata().map_err(|error| io("stat", &path, error))?.ino();
            let gentle = Gentle { source: &source, rate: options.rate, since: Instant::now() };
            let digests = hash_source(&gentle, &[Algorithm::Sha256], observer)?;
            let found: Option<LayerId> = digests.first().and_then(|digest| digest.to_string().parse().ok());
            if found.as_ref() == Some(layer) {
                sound.insert(layer.clone());
                continue;
            }
            let mut damage = damaged(layer, found, &images);
            if options.quarantine {
                damage.aside = self.put_aside(layer, inode)?;
            }
            scrubbed.damaged.push(damage);
        }
        let bad: BTreeSet<&LayerId> = scrubbed.damaged.iter().map(|damage| &damage.digest).collect();
        let mut marks = Vec::new();
        for (id, (_, layers)) in &images {
            if layers.iter().any(|layer| bad.contains(layer)) {
                marks.push((id.clone(), false));
            } else if layers.iter().all(|layer| sound.contains(layer)) {
                marks.push((id.clone(), true));
            }
        }
        scrubbed.images = u64::try_from(marks.len()).unwrap_or(u64::MAX);
        // A hundred at a time, so that nobody waits long for the lock.
        for marks in marks.chunks(100) {
            self.mark(marks)?;
        }
        Ok(scrubbed)
    }

    /// Writes down what reading the layers said, whosever the images are.
    fn mark(&self, marks: &[(ImageId, bool)]) -> Result<()> {
        let _lock = self.exclusive()?;
        let mut index = self.index()?;
        let mut records = Vec::new();
        for (id, intact) in marks {
            let Some(texts) = index.texts(id)? else { continue };
            let mut record = self.entry_of(id.as_str(), texts)?.record;
            record.verified = Some(Verified { at: Timestamp::now(), intact: *intact });
            if !intact {
                record.note(&self.account, What::Verified, "damaged: a layer is not what it was");
            }
            records.push(record);
        }
        if records.is_empty() { Ok(()) } else { self.write_records(&mut index, records) }
    }

    /// Moves a damaged layer out of the way, unless a good one took its place meanwhile.
    fn put_aside(&self, layer: &LayerId, inode: u64) -> Result<Option<PathBuf>> {
        let _lock = self.exclusive()?;
        let path = self.layout.layer(layer);
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.ino() == inode => {}
            _ => return Ok(None),
        }
        make_dir(&self.layout.quarantine())?;
        let aside = self.layout.quarantine().join(format!("{}.qcow2", layer.hex()));
        std::fs::rename(&path, &aside).map_err(|error| io("put aside", &path, error))?;
        sync_dir(&self.layout.quarantine())?;
        sync_dir(&self.layout.layer_dir(layer))?;
        Ok(Some(aside))
    }
}

fn damaged(
    layer: &LayerId,
    found: Option<LayerId>,
    images: &BTreeMap<ImageId, (String, Vec<LayerId>)>,
) -> DamagedLayer {
    let hit = images.iter().filter(|(_, (_, layers))| layers.contains(layer));
    let images = hit.map(|(id, (title, _))| (id.clone(), title.clone())).collect();
    DamagedLayer { digest: layer.clone(), found, images, aside: None }
}

/// A file that is read no faster than a rate.
struct Gentle<'a> {
    source: &'a FileSource,
    rate: Option<u64>,
    since: Instant,
}

impl ByteSource for Gentle<'_> {
    fn label(&self) -> &str {
        self.source.label()
    }

    fn byte_len(&self) -> u64 {
        self.source.byte_len()
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
        self.source.read_bytes(at, buf)?;
        if let Some(rate) = self.rate.filter(|rate| *rate > 0) {
            let done = at.get().saturating_add(u64::try_from(buf.len()).unwrap_or(0));
            let millis = done.saturating_mul(1000) / rate;
            let due = Duration::from_millis(millis);
            if let Some(wait) = due.checked_sub(self.since.elapsed()) {
                std::thread::sleep(wait);
            }
        }
        Ok(())
    }
}
