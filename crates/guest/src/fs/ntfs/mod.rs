//! NTFS of Windows NT 4 to 11, read only, by a reader of our own.
//!
//! Names are found without regard to case, by the volume's own table (`$UpCase`), short names too. Links lead inside
//! the volume or nowhere. Compressed files are unpacked; those that are encrypted or kept elsewhere (WOF,
//! deduplication) are listed and not read. Sources: Linux `fs/ntfs3/ntfs.h`, the documentation of the Linux-NTFS project, Microsoft MS-FSCC 2.1.2.

mod index;
mod link;
mod lznt1;
mod record;
mod stream;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use kiln_disk::wire::{le16, le64};
use kiln_disk::{Disk, GuestOffset};

use self::index::Directory;
use self::record::{ATTRIBUTE_LIST, Attribute, DATA, REFERENCE, REPARSE_POINT, Record};
use self::record::{VOLUME_INFORMATION, VOLUME_NAME};
use self::stream::Stream;
use super::{Entry, FileSystem, FsError, Kind, Result, Stat};
use crate::volume::{FsState, Probed, Space};

/// Records of the file system's own files.
const MFT: u64 = 0;
const VOLUME: u64 = 3;
const ROOT: u64 = 5;
const CLUSTERS: u64 = 6;
const UPCASE: u64 = 10;

/// Bytes of an attribute list; Windows writes 256 KiB at most.
const MAX_LIST: u64 = 1 << 20;
/// Records that continue one file.
const MAX_CONTINUED: usize = 8192;
/// Records and directories that are remembered.
const MAX_RECORDS: usize = 4096;
const MAX_DIRECTORIES: usize = 64;
const MAX_REMEMBERED_NAMES: usize = 1 << 16;
/// Bytes of the map of clusters: 1 TiB in clusters of 4 KiB has 32 MiB.
const MAX_BITMAP: u64 = 64 << 20;

/// Where the parts of a volume are. Bytes, but for clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    cluster: u64,
    clusters: u64,
    mft_at: u64,
    record: usize,
}

impl Geometry {
    /// Decodes a boot sector; `None` when it is none of an NTFS.
    #[must_use]
    pub fn decode(head: &[u8]) -> Option<Self> {
        if head.get(3..11)? != b"NTFS    " {
            return None;
        }
        let sector = u64::from(le16(head, 11)?);
        // Above 128 it is a negative power of two.
        let sectors = match *head.get(13)? {
            small @ 1..=128 => u64::from(small),
            power @ 0xf4..=0xff => 1_u64.checked_shl(256_u32.checked_sub(u32::from(power))?)?,
            _ => return None,
        };
        let cluster = sector.checked_mul(sectors)?;
        let sane = (512..=4096).contains(&sector) && cluster.is_power_of_two() && cluster <= 2 << 20;
        let record = match i8::from_le_bytes([*head.get(64)?]) {
            clusters @ 1.. => cluster.checked_mul(u64::try_from(clusters).ok()?)?,
            power => 1_u64.checked_shl(u32::from(power.unsigned_abs()))?,
        };
        if !sane || !(512..=4096).contains(&record) || !record.is_power_of_two() {
            return None;
        }
        let clusters = le64(head, 40)?.checked_div(sectors)?;
        let mft = le64(head, 48)?;
        if mft == 0 || mft >= clusters {
            return None;
        }
        let mft_at = mft.checked_mul(cluster)?;
        Some(Self { cluster, clusters, mft_at, record: usize::try_from(record).ok()? })
    }
}

/// An NTFS volume.
pub(super) struct Ntfs {
    disk: Arc<dyn Disk>,
    geometry: Geometry,
    mft: Stream,
    upcase: Vec<u16>,
    records: RefCell<HashMap<u64, Rc<Record>>>,
    directories: RefCell<HashMap<u64, Rc<Directory>>>,
    /// The file read last.
    open: RefCell<Option<(Vec<u8>, Rc<Stream>)>>,
}

/// What a record stands for.
struct What {
    kind: Kind,
    /// Where a link leads.
    target: Option<Vec<u8>>,
    /// Why its bytes cannot be given.
    closed: Option<&'static str>,
}

/// All attributes of a file: those of its record, and of the records that continue it.
type Attributes = Vec<Rc<Record>>;

fn damaged(why: impl Into<String>) -> FsError {
    FsError::Damaged(why.into())
}

impl Ntfs {
    pub(super) fn open(disk: &Arc<dyn Disk>) -> Result<Self> {
        let mut head = vec![0; 512];
        disk.read_guest(GuestOffset::ZERO, &mut head)?;
        let geometry = Geometry::decode(&head).ok_or_else(|| damaged("the NTFS boot sector"))?;
        let mut block = vec![0; geometry.record];
        disk.read_guest(GuestOffset::new(geometry.mft_at), &mut block)?;
        let first = decode(MFT, block, &geometry)?;
        let own: Vec<&Attribute> = first.attributes.iter().filter(|known| is(known, DATA, &[])).collect();
        let mft = Stream::join(own)?.ok_or_else(|| damaged("the master file table has no data"))?;
        let mut ntfs = Self {
            disk: Arc::clone(disk),
            geometry,
            mft,
            upcase: Vec::new(),
            records: RefCell::default(),
            directories: RefCell::default(),
            open: RefCell::default(),
        };
        ntfs.complete_mft(&first)?;
        let upcase = ntfs.stream(UPCASE, DATA).ok().flatten();
        let table = upcase.and_then(|table| table.all(disk, geometry.cluster, 128 << 10).ok());
        ntfs.upcase = table.map(|table| record::units(&table)).unwrap_or_default();
        Ok(ntfs)
    }

    /// A table in many pieces: the records that describe the later ones lie in the earlier ones.
    fn complete_mft(&mut self, first: &Record) -> Result<()> {
        let Some(list) = self.list(first)? else { return Ok(()) };
        let mut records = vec![Rc::new(first.clone())];
        for number in list {
            records.push(self.record(number)?);
            let pieces: Vec<&Attribute> = pieces(&records, DATA, &[]);
            self.mft = Stream::join(pieces)?.ok_or_else(|| damaged("the master file table has no data"))?;
        }
        Ok(())
    }

    /// A record of the master file table.
    fn record(&self, number: u64) -> Result<Rc<Record>> {
        if let Some(known) = self.records.borrow().get(&number) {
            return Ok(Rc::clone(known));
        }
        let size = u64::try_from(self.geometry.record).unwrap_or(4096);
        let mut block = vec![0; self.geometry.record];
        let at = number.checked_mul(size).ok_or(FsError::NotFound)?;
        if self.mft.read(&self.disk, self.geometry.cluster, at, &mut block)? < block.len() {
            return Err(damaged(format!("record {number} lies behind the master file table")));
        }
        let record = Rc::new(decode(number, block, &self.geometry)?);
        let mut records = self.records.borrow_mut();
        if records.len() >= MAX_RECORDS {
            records.clear();
        }
        records.insert(number, Rc::clone(&record));
        Ok(record)
    }

    /// The records that continue a file, in the order of its list; `None` when it needs none.
    fn list(&self, record: &Record) -> Result<Option<Vec<u64>>> {
        let own: Vec<&Attribute> =
            record.attributes.iter().filter(|known| known.kind == ATTRIBUTE_LIST).collect();
        let Some(list) = Stream::join(own)? else { return Ok(None) };
        let bytes = list.all(&self.disk, self.geometry.cluster, MAX_LIST)?;
        let (mut found, mut known, mut at) = (Vec::new(), HashSet::from([record.number]), 0_usize);
        while let Some(entry) = bytes.get(at..).filter(|entry| entry.len() >= 26) {
            let number = le64(entry, 16).unwrap_or(0) & REFERENCE;
            if known.insert(number) {
                found.push(number);
            }
            let len = le16(entry, 4).filter(|len| *len >= 26);
            at = at.saturating_add(usize::from(len.ok_or_else(|| damaged("an attribute list is cut"))?));
            if found.len() > MAX_CONTINUED {
                return Err(damaged("an attribute list names too many records"));
            }
        }
        Ok(Some(found))
    }

    /// All attributes of a file.
    fn attributes(&self, record: &Rc<Record>) -> Result<Attributes> {
        let mut all = vec![Rc::clone(record)];
        for number in self.list(record)?.unwrap_or_default() {
            let continued = self.record(number)?;
            if continued.base != record.number {
                return Err(damaged(format!("record {number} does not continue record {}", record.number)));
            }
            all.push(continued);
        }
        Ok(all)
    }

    /// One attribute of a file.
    fn stream_of(&self, attributes: &Attributes, kind: u32, name: &[u16]) -> Result<Option<Stream>> {
        let _ = self;
        Stream::join(pieces(attributes, kind, name))
    }

    /// One attribute without a name of a file of a known record.
    fn stream(&self, number: u64, kind: u32) -> Result<Option<Stream>> {
        let attributes = self.attributes(&self.record(number)?)?;
        self.stream_of(&attributes, kind, &[])
    }

    /// A UTF-16 unit as it is compared.
    fn upper(&self, unit: u16) -> u16 {
        let known = self.upcase.get(usize::from(unit)).copied();
        known.unwrap_or_else(|| u8::try_from(unit).map_or(unit, |byte| u16::from(byte.to_ascii_uppercase())))
    }

    fn directory(&self, number: u64) -> Result<Rc<Directory>> {
        if let Some(known) = self.directories.borrow().get(&number) {
            return Ok(Rc::clone(known));
        }
        let read = Rc::new(Directory::read(self, number)?);
        let mut directories = self.directories.borrow_mut();
        let names: usize = directories.values().map(|directory| directory.names.len()).sum();
        if directories.len() >= MAX_DIRECTORIES || names > MAX_REMEMBERED_NAMES {
            directories.clear();
        }
        directories.insert(number, Rc::clone(&read));
        Ok(read)
    }

    /// The record that a path leads to. No link is followed.
    fn find(&self, path: &[u8]) -> Result<Rc<Record>> {
        let mut here = self.record(ROOT)?;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let reparse = here.attributes.iter().any(|attribute| attribute.kind == REPARSE_POINT);
            // Behind a link there is nothing here; whoever follows it comes by another path.
            if !here.directory || (reparse && self.kind(&here)?.kind != Kind::Directory) {
                return Err(FsError::NotFound);
            }
            let directory = self.directory(here.number)?;
            let reference = directory.find(self, name).ok_or(FsError::NotFound)?.reference;
            here = self.referred(reference)?;
        }
        Ok(here)
    }

    /// The record of a reference, if it still is the file that was meant.
    fn referred(&self, reference: u64) -> Result<Rc<Record>> {
        let record = self.record(reference & REFERENCE)?;
        let sequence = reference >> 48;
        if sequence != 0 && sequence != u64::from(record.sequence) {
            return Err(damaged(format!(
                "a name leads to record {}, which holds another file",
                record.number
            )));
        }
        Ok(record)
    }

    /// What a record is: kind, and where it leads when it is a link.
    fn kind(&self, record: &Rc<Record>) -> Result<What> {
        let own = if record.directory { Kind::Directory } else { Kind::File };
        let attributes = self.attributes(record)?;
        let Some(reparse) = self.stream_of(&attributes, REPARSE_POINT, &[])? else {
            return Ok(What { kind: own, target: None, closed: None });
        };
        let bytes = reparse.all(&self.disk, self.geometry.cluster, 16 << 10)?;
        Ok(match link::reparse(&bytes) {
            link::Reparse::Link(target) => What { kind: Kind::Link, target: Some(target), closed: None },
            link::Reparse::Elsewhere => What { kind: Kind::Special, target: None, closed: None },
            link::Reparse::Stored(why) => What { kind: own, target: None, closed: Some(why) },
            link::Reparse::Plain => What { kind: own, target: None, closed: None },
        })
    }
}

fn decode(number: u64, block: Vec<u8>, geometry: &Geometry) -> Result<Record> {
    Record::decode(number, block, geometry.clusters)
        .map_err(|why| damaged(format!("record {number} of the master file table {why}")))
}

fn is(attribute: &Attribute, kind: u32, name: &[u16]) -> bool {
    attribute.kind == kind && attribute.name == name
}

fn pieces<'a>(records: &'a [Rc<Record>], kind: u32, name: &[u16]) -> Vec<&'a Attribute> {
    let all = records.iter().flat_map(|record| &record.attributes);
    all.filter(|attribute| is(attribute, kind, name)).collect()
}

impl FileSystem for Ntfs {
    fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let record = self.find(path)?;
        let directory = self.directory(record.number)?;
        let entries = directory.names.iter().map(|name| {
            let kind = match (name.reparse, name.directory) {
                (true, _) => self.kind(&self.referred(name.reference)?)?.kind,
                (false, true) => Kind::Directory,
                (false, false) => Kind::File,
            };
            Ok(Entry { name: name.bytes.clone(), kind })
        });
        entries.collect()
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let record = self.find(path)?;
        let What { kind, target, .. } = self.kind(&record)?;
        let len = match (kind, target) {
            (_, Some(target)) => u64::try_from(target.len()).unwrap_or(0),
            (Kind::File, _) => {
                let data = self.stream_of(&self.attributes(&record)?, DATA, &[])?;
                data.map_or(0, |data| data.len())
            }
            _ => 0,
        };
        Ok(Stat { kind, len, mode: None, uid: None })
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.kind(&self.find(path)?)?.target.ok_or(FsError::WrongKind)
    }

    fn read(&self, path: &[u8], at: u64, buf: &mut [u8]) -> Result<usize> {
        let held =
            self.open.borrow().as_ref().filter(|(known, _)| known == path).map(|(_, it)| Rc::clone(it));
        let stream = match held {
            Some(stream) => stream,
            None => {
                let record = self.find(path)?;
                let What { kind, closed, .. } = self.kind(&record)?;
                if kind != Kind::File {
                    return Err(FsError::WrongKind);
                }
                if let Some(why) = closed {
                    return Err(FsError::Unsupported(why.to_owned()));
                }
                let data = self.stream_of(&self.attributes(&record)?, DATA, &[])?;
                let Some(data) = data else { return Ok(0) };
                let stream = Rc::new(data);
                *self.open.borrow_mut() = Some((path.to_vec(), Rc::clone(&stream)));
                stream
            }
        };
        stream.read(&self.disk, self.geometry.cluster, at, buf)
    }

    fn space(&self) -> Result<Option<Space>> {
        let Some(map) = self.stream(CLUSTERS, DATA)? else { return Ok(None) };
        let bytes = self.geometry.clusters.div_ceil(8);
        if bytes > MAX_BITMAP || map.len() < bytes {
            return Ok(None);
        }
        let (mut used, mut at, mut piece) = (0_u64, 0_u64, vec![0; 64 << 10]);
        while at < bytes {
            let len = usize::try_from(bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(piece.len());
            let Some(part) = piece.get_mut(..len) else { break };
            map.read(&self.disk, self.geometry.cluster, at, part)?;
            // The bits behind the last cluster are set.
            used = used.saturating_add(part.iter().map(|byte| u64::from(byte.count_ones())).sum());
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        }
        let behind = bytes.saturating_mul(8).saturating_sub(self.geometry.clusters);
        let used = used.saturating_sub(behind).min(self.geometry.clusters);
        let free = self.geometry.clusters.saturating_sub(used).saturating_mul(self.geometry.cluster);
        let total = self.geometry.clusters.saturating_mul(self.geometry.cluster);
        Ok(Some(Space { total, free, inodes: 0, free_inodes: 0 }))
    }

    fn describe(&self, probed: &mut Probed) -> Result<()> {
        if let Some(name) = self.stream(VOLUME, VOLUME_NAME)? {
            let units = record::units(&name.all(&self.disk, self.geometry.cluster, 512)?);
            probed.label = crate::text::lossy(&index::wtf8(&units));
        }
        // Version 3.1 since Windows XP; flag 1: it was not unmounted, or chkdsk is asked for.
        if let Some(information) = self.stream(VOLUME, VOLUME_INFORMATION)? {
            let information = information.all(&self.disk, self.geometry.cluster, 512)?;
            let dirty = le16(&information, 10).is_some_and(|flags| flags & 1 != 0);
            probed.state = Some(if dirty { FsState::Dirty } else { FsState::Clean });
            if let (Some(major), Some(minor)) = (information.get(8), information.get(9)) {
                probed.version = Some(format!("{major}.{minor}"));
            }
        }
        Ok(())
    }
}
