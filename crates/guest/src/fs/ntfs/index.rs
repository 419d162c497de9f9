//! Directories of NTFS. All index blocks in use are read, in their order: the tree over them is not walked, so that
//! no circle in it can lead anywhere.

use std::collections::HashMap;

use kiln_disk::wire::{le16, le32, le64};

use super::record::{BITMAP, INDEX_ALLOCATION, INDEX_ROOT, fix_up, units};
use super::{FsError, Ntfs, Result};

/// Names in one directory.
const MAX_NAMES: usize = 1 << 18;
/// Bytes of the index of one directory; WinSxS, the largest on the way to anything, has some 10 MiB.
const MAX_INDEX: u64 = 32 << 20;
/// `FILE_ATTRIBUTE_REPARSE_POINT`, and the bit that NTFS sets for directories in an index.
const REPARSE: u32 = 0x400;
const DIRECTORY: u32 = 0x1000_0000;
/// Name spaces (`$FILE_NAME`): the short name of a file that has a long one too.
const DOS_ONLY: u8 = 2;
/// Records below this one are the file system's own.
const FIRST_USER: u64 = 16;

/// A name in a directory.
#[derive(Debug, Clone)]
pub(super) struct Name {
    /// As bytes: UTF-8; halves of surrogate pairs as WTF-8 has them.
    pub(super) bytes: Vec<u8>,
    /// Record and sequence number.
    pub(super) reference: u64,
    pub(super) directory: bool,
    pub(super) reparse: bool,
}

/// The names of a directory.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) names: Vec<Name>,
    exact: HashMap<Vec<u8>, usize>,
    folded: HashMap<Vec<u16>, usize>,
}

impl Directory {
    /// The name that is meant: the same one, or the first that differs in case alone. Short names count.
    pub(super) fn find(&self, ntfs: &Ntfs, name: &[u8]) -> Option<&Name> {
        let index = self.exact.get(name).or_else(|| {
            let text = std::str::from_utf8(name).ok()?;
            let folded: Vec<u16> = text.encode_utf16().map(|unit| ntfs.upper(unit)).collect();
            self.folded.get(&folded)
        });
        self.names.get(*index?)
    }

    /// Reads the index of record `number`.
    pub(super) fn read(ntfs: &Ntfs, number: u64) -> Result<Self> {
        let i30: Vec<u16> = "$I30".encode_utf16().collect();
        let record = ntfs.record(number)?;
        if !record.directory {
            return Err(FsError::WrongKind);
        }
        let attributes = ntfs.attributes(&record)?;
        let stream = |kind| ntfs.stream_of(&attributes, kind, &i30);
        let root = stream(INDEX_ROOT)?.ok_or_else(|| damaged("a directory has no index"))?;
        let root = root.all(&ntfs.disk, ntfs.geometry.cluster, 1 << 20)?;
        let mut found = Self::default();
        let mut short = Vec::new();
        found.take(ntfs, root.get(16..).unwrap_or_default(), &mut short)?;
        if let Some(blocks) = stream(INDEX_ALLOCATION)? {
            let size = le32(&root, 8).filter(|size| size.is_power_of_two() && (512..=65536).contains(size));
            let size = u64::from(size.ok_or_else(|| damaged("index blocks of no usual size"))?);
            if blocks.len() > MAX_INDEX {
                return Err(FsError::TooLong { len: blocks.len(), limit: MAX_INDEX });
            }
            let used = match stream(BITMAP)? {
                Some(bitmap) => bitmap.all(&ntfs.disk, ntfs.geometry.cluster, MAX_INDEX)?,
                None => Vec::new(),
            };
            let mut block = vec![0; usize::try_from(size).unwrap_or(0)];
            for index in 0..blocks.len().checked_div(size).unwrap_or(0) {
                let byte = usize::try_from(index / 8).ok().and_then(|at| used.get(at)).copied().unwrap_or(0);
                if byte & (1 << (index % 8)) == 0 {
                    continue;
                }
                let at = index.saturating_mul(size);
                blocks.read(&ntfs.disk, ntfs.geometry.cluster, at, &mut block)?;
                fix_up(&mut block, b"INDX").ok_or_else(|| damaged("an index block is torn"))?;
                found.take(ntfs, block.get(24..).unwrap_or_default(), &mut short)?;
            }
        }
        // A short name is another name of a file that is listed by its long one.
        if !short.is_empty() {
            let long = found.names.iter().enumerate().map(|(index, name)| (name.reference, index));
            let long: HashMap<u64, usize> = long.collect();
            for (folded, reference) in short {
                if let Some(index) = long.get(&reference) {
                    found.folded.entry(folded).or_insert(*index);
                }
            }
        }
        Ok(found)
    }

    /// Takes the entries of one node; `node` begins with its header.
    fn take(&mut self, ntfs: &Ntfs, node: &[u8], short: &mut Vec<(Vec<u16>, u64)>) -> Result<()> {
        let cut = || damaged("an index node is cut");
        let offset = |at| le32(node, at).and_then(|value| usize::try_from(value).ok()).ok_or_else(cut);
        let (mut at, end) = (offset(0)?, offset(4)?);
        let node = node.get(..end).ok_or_else(cut)?;
        while let Some(entry) = node.get(at..).filter(|entry| !entry.is_empty()) {
            let (len, flags) = (le16(entry, 8).ok_or_else(cut)?, le16(entry, 12).ok_or_else(cut)?);
            if flags & 2 != 0 {
                break;
            }
            if len < 16 {
                return Err(damaged("an index entry has no length"));
            }
            let entry = entry.get(..usize::from(len)).ok_or_else(cut)?;
            let key = entry.get(16..).unwrap_or_default();
            let parsed = name(key).ok_or_else(cut)?;
            let reference = le64(entry, 0).ok_or_else(cut)?;
            self.add(ntfs, &parsed, reference, short)?;
            at = at.saturating_add(usize::from(len));
        }
        Ok(())
    }

    fn add(
        &mut self,
        ntfs: &Ntfs,
        key: &Key,
        reference: u64,
        short: &mut Vec<(Vec<u16>, u64)>,
    ) -> Result<()> {
        let bytes = wtf8(&key.units);
        let odd = bytes.is_empty() || bytes == b"." || bytes == b".." || bytes.contains(&b'/');
        if odd || bytes.contains(&0) || reference & super::record::REFERENCE < FIRST_USER {
            return Ok(());
        }
        let folded: Vec<u16> = key.units.iter().map(|unit| ntfs.upper(*unit)).collect();
        if key.space == DOS_ONLY {
            short.push((folded, reference));
            return Ok(());
        }
        let index = self.names.len();
        if index >= MAX_NAMES {
            return Err(damaged("a directory has more names than are read"));
        }
        // The same name twice is damage; the first one is kept.
        if self.exact.contains_key(&bytes) {
            return Ok(());
        }
        self.exact.insert(bytes.clone(), index);
        self.folded.entry(folded).or_insert(index);
        let (directory, reparse) = (key.flags & DIRECTORY != 0, key.flags & REPARSE != 0);
        self.names.push(Name { bytes, reference, directory, reparse });
        Ok(())
    }
}

struct Key {
    units: Vec<u16>,
    space: u8,
    flags: u32,
}

fn name(key: &[u8]) -> Option<Key> {
    let len = usize::from(*key.get(64)?).checked_mul(2)?;
    let units = units(key.get(66..len.checked_add(66)?)?);
    Some(Key { units, space: *key.get(65)?, flags: le32(key, 56)? })
}

fn damaged(why: &str) -> FsError {
    FsError::Damaged(why.to_owned())
}

/// UTF-16 as bytes; a half of a pair alone becomes the three bytes that UTF-8 would have for it.
pub(super) fn wtf8(units: &[u16]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(units.len());
    for unit in char::decode_utf16(units.iter().copied()) {
        match unit {
            Ok(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            Err(half) => {
                let low = |shift: u32| u8::try_from((half.unpaired_surrogate() >> shift) & 0x3f).unwrap_or(0);
                bytes.extend_from_slice(&[0xed, 0x80 | low(6), 0x80 | low(0)]);
            }
        }
    }
    bytes
}
