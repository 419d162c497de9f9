//! ISO 9660 (ECMA-119) with Rock Ridge or, where there is none, Joliet. Directories are read one at a time.
//!
//! Names of ISO 9660 alone are shown as Linux shows them: small letters, without the version. They and those of Joliet
//! are found without regard to case, as Linux does where no Rock Ridge says how they are spelt.

mod record;
mod rock;
pub mod volume;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::interned::Word;
use kiln_disk::{Disk, GuestOffset};

use self::record::{Node, Record, Run, joliet, plain};
use self::rock::{Areas, Rock};
use self::volume::{Descriptors, read};
use super::{Entry, FileSystem, FsError, Kind, Result, Stat};

/// Bytes in a logical sector: no record crosses the end of one (ECMA-119, 6.8.1.1).
const SECTOR: u64 = 2048;
/// The longest directory, in bytes, and the most names in one.
const MAX_DIRECTORY: u64 = 32 << 20;
const MAX_ENTRIES: usize = 1 << 18;
/// Bytes that the names and nodes of one directory take.
const MAX_WEIGHT: usize = 64 << 20;
/// Bytes of directories that are remembered, by [`Listing::weight`].
const MAX_KNOWN: usize = 16 << 20;

/// Whose names are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// Rock Ridge; bytes in front of each system use area that are not its own.
    RockRidge(usize),
    Joliet,
    Plain,
}

/// Names with what they stand for.
type Directory = Arc<Vec<(Vec<u8>, Node)>>;

/// Directories by first byte and length, and what they take in all.
#[derive(Default)]
struct Known {
    directories: HashMap<(u64, u64), Directory>,
    weight: usize,
}

/// An ISO 9660 volume.
pub struct Iso {
    disk: Arc<dyn Disk>,
    descriptors: Descriptors,
    block: u64,
    names: Names,
    root: Node,
    known: Mutex<Known>,
}

impl Iso {
    /// Reads the descriptors and the head of the root directory.
    ///
    /// # Errors
    /// [`FsError`].
    pub fn open(disk: &Arc<dyn Disk>) -> Result<Self> {
        let descriptors = volume::descriptors(disk.as_ref())?;
        let node = |record: &[u8; 34], block| {
            let record = Record::decode(record).filter(Record::is_directory);
            let record =
                record.ok_or_else(|| FsError::Damaged("the root has no directory record".to_owned()))?;
            Ok::<_, FsError>(record.node(block, Rock::default()))
        };
        let block = descriptors.primary.block;
        let mut iso = Self {
            root: node(&descriptors.primary.root, block)?,
            disk: Arc::clone(disk),
            block,
            names: Names::Plain,
            descriptors,
            known: Mutex::default(),
        };
        let (root, skip) = iso.dot(iso.root.first.at)?;
        if let Some(skip) = skip {
            iso.names = Names::RockRidge(skip);
            (iso.root.mode, iso.root.uid) = (root.mode, root.uid);
        } else if let Some(joliet) = &iso.descriptors.joliet {
            (iso.root, iso.block, iso.names) =
                (node(&joliet.root, joliet.block)?, joliet.block, Names::Joliet);
        }
        Ok(iso)
    }

    /// What the volume descriptors say.
    pub fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// Where the names come from.
    pub fn names(&self) -> Word {
        match self.names {
            Names::RockRidge(_) => "Rock Ridge",
            Names::Joliet => "Joliet",
            Names::Plain => "ISO 9660",
        }
    }

    /// The directory at a byte, by its own first record; what each system use area skips, where Rock Ridge is in use.
    fn dot(&self, at: u64) -> Result<(Node, Option<usize>)> {
        let head = read(self.disk.as_ref(), at, SECTOR, "a directory")?;
        let record = Record::decode(&head).filter(|record| record.is_directory() && record.name == [0]);
        let record = record.ok_or_else(|| FsError::Damaged(format!("there is no directory at byte {at}")))?;
        // The root's own SP stands in front of what the others skip.
        let (skip, from) = match self.names {
            Names::RockRidge(skip) => (Some(skip), skip),
            _ => (rock::skip(record.system_use), 0),
        };
        let Some(skip) = skip else { return Ok((record.node(self.block, Rock::default()), None)) };
        let mut areas = Areas { disk: &self.disk, block: self.block, left: MAX_DIRECTORY };
        let rock = rock::parse(record.system_use.get(from..).unwrap_or_default(), &mut areas)?;
        let in_use = rock.extension;
        Ok((record.node(self.block, rock), in_use.then_some(skip)))
    }

    /// The names in a directory.
    fn directory(&self, node: &Node) -> Result<Directory> {
        if node.kind != Kind::Directory {
            return Err(FsError::WrongKind);
        }
        let key = (node.first.at, node.first.len);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = known.directories.get(&key) {
            return Ok(Arc::clone(directory));
        }
        let listing = self.read_directory(node.first)?;
        let directory = Arc::new(listing.done);
        if listing.weight <= MAX_KNOWN {
            if known.weight.saturating_add(listing.weight) > MAX_KNOWN {
                *known = Known::default();
            }
            known.weight = known.weight.saturating_add(listing.weight);
            known.directories.insert(key, Arc::clone(&directory));
        }
        Ok(directory)
    }

    fn read_directory(&self, run: Run) -> Result<Listing> {
        if run.len > MAX_DIRECTORY {
            return Err(FsError::TooLong { len: run.len, limit: MAX_DIRECTORY });
        }
        let left = run.len.saturating_mul(16).saturating_add(1 << 20);
        let mut areas = Areas { disk: &self.disk, block: self.block, left };
        let mut listing = Listing::default();
        let mut at = 0_u64;
        while at < run.len {
            let len = SECTOR.min(run.len.saturating_sub(at));
            let sector = read(self.disk.as_ref(), run.at.saturating_add(at), len, "a directory")?;
            let mut rest = sector.as_slice();
            // A length of 0: the rest of the sector is not used.
            while rest.first().is_some_and(|len| *len != 0) {
                let record = Record::decode(rest);
                let record = record.ok_or_else(|| {
                    FsError::Damaged(format!("a record of the directory at byte {} is cut off", run.at))
                })?;
                self.take(&record, &mut areas, &mut listing)?;
                rest = rest.get(record.len..).unwrap_or_default();
            }
            at = at.saturating_add(SECTOR);
        }
        if listing.open.is_some() {
            return Err(FsError::Damaged("the last extent of a file is missing".to_owned()));
        }
        Ok(listing)
    }

    /// Puts a record into a listing.
    fn take(&self, record: &Record<'_>, areas: &mut Areas<'_>, listing: &mut Listing) -> Result<()> {
        // `.` and `..`; associated files, which Linux does not show either.
        if matches!(record.name, [0] | [1]) || record.flags & 0x4 != 0 {
            return Ok(());
        }
        let run = record.run(self.block);
        if let Some((identifier, name, mut node)) = listing.open.take() {
            if identifier != record.name {
                return Err(FsError::Damaged("the last extent of a file is missing".to_owned()));
            }
            node.len = node.len.saturating_add(run.len);
            node.more.push(run);
            return listing.put(record, name, node);
        }
        let mut rock = Rock::default();
        let name = match self.names {
            Names::RockRidge(skip) => {
                rock = rock::parse(record.system_use.get(skip..).unwrap_or_default(), areas)?;
                rock.name.take().unwrap_or_else(|| plain(record.name))
            }
            Names::Joliet => joliet(record.name),
            Names::Plain => plain(record.name),
        };
        if rock.relocated {
            return Ok(());
        }
        if matches!(name.as_slice(), b"" | b"." | b"..") || name.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(FsError::Damaged("a name in a directory is none".to_owned()));
        }
        listing.put(record, name, record.node(self.block, rock))
    }

    fn find(&self, path: &[u8]) -> Result<Node> {
        let mut node = self.root.clone();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            if node.kind != Kind::Directory {
                return Err(FsError::NotFound);
            }
            let directory = self.directory(&node)?;
            let matches = |known: &[u8]| match self.names {
                Names::RockRidge(_) => known == name,
                _ => {
                    known.eq_ignore_ascii_case(name)
                        || String::from_utf8_lossy(known).to_lowercase()
                            == String::from_utf8_lossy(name).to_lowercase()
                }
            };
            let found = directory.iter().find(|(known, _)| matches(known));
            node = found.ok_or(FsError::NotFound)?.1.clone();
            if let Some(child) = node.child {
                node = self.dot(u64::from(child).saturating_mul(self.block))?.0;
            }
        }
        Ok(node)
    }
}

/// A directory that is being read.
#[derive(Default)]
struct Listing {
    done: Vec<(Vec<u8>, Node)>,
    /// A file of which more extents follow: identifier, name, what is known.
    open: Option<(Vec<u8>, Vec<u8>, Node)>,
    /// Bytes that it takes.
    weight: usize,
}

impl Listing {
    fn put(&mut self, record: &Record<'_>, name: Vec<u8>, node: Node) -> Result<()> {
        // Flag 7: not the last extent.
        if record.flags & 0x80 != 0 {
            self.open = Some((record.name.to_vec(), name, node));
            return Ok(());
        }
        let own = size_of::<(Vec<u8>, Node)>().saturating_add(name.len()).saturating_add(node.link.len());
        let runs = node.more.len().saturating_mul(size_of::<Run>());
        self.weight = self.weight.saturating_add(own).saturating_add(runs);
        if self.done.len() >= MAX_ENTRIES || self.weight > MAX_WEIGHT {
            return Err(FsError::Unsupported("a directory with more names than are read".to_owned()));
        }
        self.done.push((name, node));
        Ok(())
    }
}

impl FileSystem for Iso {
    fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let directory = self.directory(&self.find(path)?)?;
        Ok(directory.iter().map(|(name, node)| Entry { name: name.clone(), kind: node.kind }).collect())
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let node = self.find(path)?;
        let len =
            if node.kind == Kind::Link { u64::try_from(node.link.len()).unwrap_or(0) } else { node.len };
        Ok(Stat { kind: node.kind, len, mode: node.mode, uid: node.uid })
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let node = self.find(path)?;
        if node.kind == Kind::Link { Ok(node.link) } else { Err(FsError::WrongKind) }
    }

    fn read(&self, path: &[u8], at: u64, buf: &mut [u8]) -> Result<usize> {
        let node = self.find(path)?;
        if node.kind != Kind::File {
            return Err(FsError::WrongKind);
        }
        if let Some(why) = node.closed {
            return Err(FsError::Unsupported(why.to_owned()));
        }
        let (mut before, mut done) = (0_u64, 0_usize);
        for run in std::iter::once(&node.first).chain(&node.more) {
            let end = before.saturating_add(run.len);
            let place = at.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
            if let (Some(inside), Some(rest)) = (place.checked_sub(before), buf.get_mut(done..)) {
                let here = usize::try_from(end.saturating_sub(place)).unwrap_or(usize::MAX).min(rest.len());
                let from = run.at.saturating_add(inside);
                if let Some(target) = rest.get_mut(..here).filter(|target| !target.is_empty()) {
                    if from.saturating_add(u64::try_from(here).unwrap_or(u64::MAX)) > self.disk.disk_len() {
                        return Err(FsError::Damaged(format!(
                            "a file at byte {from} is not within the volume"
                        )));
                    }
                    self.disk.read_guest(GuestOffset::new(from), target)?;
                    done = done.saturating_add(here);
                }
            }
            before = end;
        }
        Ok(done)
    }
}
