//! An image back onto a disk: a file, which is replaced in one step, or a block device, which is written over.
//!
//! Either is proved afterwards: what was written is read again, and its content digest must be the image's.

use std::fs::{File, OpenOptions};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kiln_catalog::rights::Action;
use kiln_catalog::{Image, Store};
use kiln_disk::digest::{ContentDigest, HashJob, hash_disk};
use kiln_disk::os::qemu_lock;
use kiln_disk::{
    Budget, ByteSource, Disk, Durability, Event, Existing, FileOffset, FileSource, Observer, Run, extents,
    go_on, pipeline,
};
use kiln_format::raw::RawImage;
use kiln_format::transfer::{FilePlan, stage_file};
use kiln_format::{Format, Options};
use rustix::fs::{Advice, FallocateFlags};

use crate::error::{Failure, Refusal, Result, io};
use crate::layers;

/// What a restore will write to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file that is not there yet.
    NewFile,
    /// A file that will be replaced.
    File {
        /// Its length in bytes.
        byte_len: u64,
    },
    /// A device that will be written over.
    Device {
        /// Its length in bytes.
        byte_len: u64,
    },
}

/// A restore that was looked at and may be run.
pub struct Plan {
    store: Store,
    image: Image,
    disk: PathBuf,
    place: Place,
    format: &'static Format,
}

/// What a restore did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Digest of what was read back.
    pub content: ContentDigest,
    /// Bytes of data that were written.
    pub written_bytes: u64,
}

/// How much is read and written at a time.
const STEP: NonZeroU64 = NonZeroU64::new(4 << 20).expect("not zero");

/// Looks at an image and the place for it. `format` is for files; devices hold the plain disk.
///
/// # Errors
/// The rights table's, for [`Action::Export`]; [`Refusal::InUse`], [`Refusal::TooSmall`], [`Refusal::NotADisk`]; I/O.
pub fn plan(store: &Store, image: Image, disk: &Path, format: &'static Format) -> Result<Plan> {
    store.permit(Action::Export, &image)?;
    let place = match std::fs::metadata(disk) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Place::NewFile,
        Err(source) => return Err(io("look at", disk, source)),
        Ok(meta) if meta.is_file() => {
            let file = File::open(disk).map_err(|source| io("open", disk, source))?;
            refuse_use(&file, disk)?;
            Place::File { byte_len: meta.len() }
        }
        Ok(meta) if meta.file_type().is_block_device() => {
            let byte_len = FileSource::from_file(open_device(disk)?, disk.display().to_string())?.byte_len();
            let needed = image.manifest.disk_bytes;
            if byte_len < needed {
                return Err(Refusal::TooSmall { path: disk.to_owned(), len: byte_len, needed }.into());
            }
            Place::Device { byte_len }
        }
        Ok(_) => return Err(Refusal::NotADisk { path: disk.to_owned() }.into()),
    };
    // A link stays, and what it leads to is replaced.
    let disk = if place == Place::NewFile { disk.to_owned() } else { real(disk)? };
    Ok(Plan { store: store.clone(), image, disk, place, format })
}

fn real(path: &Path) -> Result<PathBuf> {
    std::fs::canonicalize(path).map_err(|source| io("follow", path, source))
}

/// Opens a device for us alone: the kernel refuses when it is mounted, part of an array, or opened so by another.
fn open_device(path: &Path) -> Result<File> {
    let exclusive = i32::try_from(rustix::fs::OFlags::EXCL.bits()).unwrap_or(0);
    let opened = OpenOptions::new().read(true).write(true).custom_flags(exclusive).open(path);
    let file = opened.map_err(|source| match source.raw_os_error() {
        Some(code) if code == rustix::io::Errno::BUSY.raw_os_error() => {
            Refusal::InUse { path: path.to_owned(), why: "it is mounted, or another program has it" }.into()
        }
        _ => io("open", path, source),
    })?;
    refuse_use(&file, path)?;
    Ok(file)
}

fn refuse_use(file: &File, path: &Path) -> Result<()> {
    // A file system without such locks has none that could be held.
    let lock = qemu_lock(file).unwrap_or_default();
    let why = match (lock.writes, lock.forbids_writing || lock.forbids_reading) {
        (true, _) => "a QEMU process writes to it",
        (_, true) => "a QEMU process reads it and lets nobody write",
        _ => return Ok(()),
    };
    Err(Refusal::InUse { path: path.to_owned(), why }.into())
}

impl Plan {
    /// What will be written to.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The format of the file; raw for a device.
    #[must_use]
    pub fn format(&self) -> &'static Format {
        match self.place {
            Place::Device { .. } => &kiln_format::raw::FORMAT,
            _ => self.format,
        }
    }

    /// Writes the image and proves it. A file is only replaced when the new one is proved; a device that could not be
    /// written to its end holds neither what it held nor the image.
    ///
    /// # Errors
    /// [`Refusal::InUse`]; [`Failure::ReadsBackOtherwise`]; I/O; `Cancelled`.
    pub fn run(self, observer: &dyn Observer) -> Result<Restored> {
        let source = layers::open(&self.store, &self.image.manifest)?;
        let expected = self.image.manifest.digests.content;
        match self.place {
            Place::Device { .. } => {
                let device = open_device(&self.disk)?;
                let written_bytes = write_over(source.as_ref(), &device, &self.disk, observer)?;
                // What comes back should come from the device and not from memory; advice, so failure is passed over.
                let _ = rustix::fs::fadvise(&device, 0, None, Advice::DontNeed);
                let content = digest_of(device, &self.disk, source.disk_len(), observer)?;
                self.expect(expected, content)?;
                Ok(Restored { content, written_bytes })
            }
            Place::NewFile | Place::File { .. } => {
                let existing = if self.place == Place::NewFile { Existing::Keep } else { Existing::Replace };
                let create = self.format.create.as_ref();
                let options = Options::defaults(create.map_or(&[], |create| create.options));
                let plan = FilePlan {
                    disk: source.as_ref(),
                    format: self.format,
                    options: &options,
                    dest: &self.disk,
                    existing,
                    durability: Durability::Synced,
                    read_back: true,
                    threads: pipeline::default_threads(),
                    content_digest: true,
                    raw_digest: false,
                    leaves: None,
                    budget: &Budget::default(),
                };
                let (staged, outcome) = stage_file(plan, observer)?;
                let content = outcome.digests.map(|digests| digests.content);
                let content = content.ok_or(kiln_disk::Error::Cancelled)?;
                self.expect(expected, content)?;
                if existing == Existing::Replace {
                    let old = File::open(&self.disk).map_err(|source| io("open", &self.disk, source))?;
                    refuse_use(&old, &self.disk)?;
                }
                staged.commit(existing, Durability::Synced)?;
                Ok(Restored { content, written_bytes: outcome.stored_bytes })
            }
        }
    }

    fn expect(&self, expected: ContentDigest, found: ContentDigest) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(Failure::ReadsBackOtherwise { path: self.disk.clone(), expected, found }.into())
    }
}

/// Writes a disk over the beginning of `target`, zeros as well; answers how many bytes of data that were.
fn write_over(disk: &dyn Disk, target: &File, path: &Path, observer: &dyn Observer) -> Result<u64> {
    observer.event(Event::Started { phase: "restore", total: disk.disk_len() });
    let mut buffer = vec![0; usize::try_from(STEP.get()).unwrap_or(usize::MAX)];
    let mut data = 0_u64;
    for extent in extents(disk, STEP) {
        go_on(observer)?;
        let extent = extent?;
        let len = usize::try_from(extent.len.get()).unwrap_or(usize::MAX);
        let bytes = buffer.get_mut(..len).unwrap_or_default();
        if extent.kind.is_data() {
            disk.read_guest(extent.start, bytes)?;
            target.write_all_at(bytes, extent.start.get()).map_err(|source| io("write", path, source))?;
            data = data.saturating_add(extent.len.get());
        } else {
            zero(target, extent.start.get(), bytes).map_err(|source| io("write", path, source))?;
        }
        observer.event(Event::Advanced { bytes: extent.len.get() });
    }
    target.sync_all().map_err(|source| io("sync", path, source))?;
    observer.event(Event::Finished);
    Ok(data)
}

/// Makes a range zeros: by the kernel where it can, which lets a device do it without being sent them.
fn zero(target: &File, at: u64, room: &mut [u8]) -> std::io::Result<()> {
    let len = u64::try_from(room.len()).unwrap_or(u64::MAX);
    let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
    if rustix::fs::fallocate(target, flags, at, len).is_ok() {
        return Ok(());
    }
    room.fill(0);
    target.write_all_at(room, at)
}

fn digest_of(file: File, path: &Path, len: u64, observer: &dyn Observer) -> Result<ContentDigest> {
    let whole = FileSource::from_file(file, path.display().to_string())?;
    let disk = RawImage::new(Arc::new(Beginning { whole, len }));
    Ok(hash_disk(&disk, HashJob::default(), observer)?.content)
}

/// The first bytes of a source.
struct Beginning {
    whole: FileSource,
    len: u64,
}

impl ByteSource for Beginning {
    fn byte_len(&self) -> u64 {
        self.len
    }

    fn read_bytes(&self, at: FileOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
        self.whole.read_bytes(at, buf)
    }

    fn run_at(&self, at: FileOffset) -> kiln_disk::Result<Option<Run>> {
        let Some(rest) = self.len.checked_sub(at.get()).and_then(NonZeroU64::new) else { return Ok(None) };
        Ok(self.whole.run_at(at)?.map(|run| Run { len: run.len.min(rest), ..run }))
    }

    fn label(&self) -> &str {
        self.whole.label()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kiln_disk::{MemorySource, Silent};

    #[test]
    fn a_longer_device_full_of_other_data_begins_with_the_disk_afterwards() {
        let mut bytes = vec![0_u8; 9 << 20];
        bytes[..70_000].fill(7);
        bytes[(8 << 20) + 3] = 9;
        let disk = RawImage::new(Arc::new(MemorySource::new(bytes.clone())));
        let expected = hash_disk(&disk, HashJob::default(), &Silent).unwrap().content;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("device");
        std::fs::write(&path, vec![0xee; 12 << 20]).unwrap();
        let device = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        write_over(&disk, &device, &path, &Silent).unwrap();
        assert_eq!(digest_of(device, &path, bytes.len() as u64, &Silent).unwrap(), expected);
        let after = std::fs::read(&path).unwrap();
        assert!(after[..bytes.len()] == bytes && after[bytes.len()..].iter().all(|byte| *byte == 0xee));
    }
}
