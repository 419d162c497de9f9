//! Registry hives of Windows (`regf` 1.3 to 1.6), read only and only where they are asked: a path of keys is followed
//! cell by cell, nothing is loaded whole, nothing recurses.
//!
//! What a hive's logs hold is not replayed: a hive whose two sequence numbers differ says that it may be older than
//! the machine was. Sources: M. Suhanov, "Windows registry file format specification"; libhivex.

mod value;

use std::cell::Cell;

use kiln_disk::wire::{bytes, le16, le32};

pub use value::Value;

/// Where a hive's bytes come from: fills a buffer from a byte of the file, fewer bytes only at its end.
pub trait Source {
    /// Bytes of the file.
    fn len(&self) -> u64;

    /// Reads `len` bytes from byte `at`, fewer where the file ends; `None` when they cannot be read.
    fn read(&self, at: u64, len: usize) -> Option<Vec<u8>>;

    /// Whether the file is empty.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        u64::try_from(<[u8]>::len(self)).unwrap_or(u64::MAX)
    }

    fn read(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let rest = self.get(usize::try_from(at).ok()?..)?;
        rest.get(..len.min(<[u8]>::len(rest))).map(<[u8]>::to_vec)
    }
}

/// What is wrong with a hive.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It does not begin as one.
    #[error("it does not begin as a registry hive (regf)")]
    NoHive,
    /// The first block does not match its sum.
    #[error("the checksum of its first block is wrong")]
    Checksum,
    /// It is shorter than it says, or names a place that is not in it.
    #[error("the cell at byte {at} {why}")]
    Cell {
        /// Byte of the file.
        at: u64,
        /// In what way.
        why: &'static str,
    },
    /// It costs more than an honest hive.
    #[error("it has more cells on the way than are read")]
    Budget,
    /// Its bytes cannot be had.
    #[error("byte {at} cannot be read")]
    Unread {
        /// Byte of the file.
        at: u64,
    },
}

/// Results of this module.
pub type Result<T, E = Fault> = std::result::Result<T, E>;

/// The first block; cells are counted from its end.
const BASE: u64 = 4096;
/// Cells that are read of one hive.
const MAX_CELLS: u32 = 1 << 20;
/// Subkeys or values of one key.
const MAX_CHILDREN: u32 = 64 << 10;
/// Bytes of a cell that is read.
const MAX_CELL: usize = 1 << 20;
/// What is read of a cell at first: most are whole then.
const FIRST: usize = 256;

/// A hive.
pub struct Hive<S> {
    source: S,
    /// Bytes of all cells, behind the first block.
    len: u64,
    root: u32,
    dirty: bool,
    cells: Cell<u32>,
}

/// A key of a hive.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its name.
    pub name: String,
    subkeys: u32,
    subkeys_at: u32,
    values: u32,
    values_at: u32,
}

impl<S: Source> Hive<S> {
    /// Opens a hive.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn open(source: S) -> Result<Self> {
        let head = source.read(0, 4096).ok_or(Fault::Unread { at: 0 })?;
        if !head.starts_with(b"regf") {
            return Err(Fault::NoHive);
        }
        let word = |at: usize| le32(&head, at).ok_or(Fault::NoHive);
        let sum = head
            .get(..508)
            .unwrap_or_default()
            .chunks_exact(4)
            .fold(0, |sum, word| sum ^ le32(word, 0).unwrap_or(0));
        let sum = match sum {
            0 => 1,
            u32::MAX => u32::MAX.saturating_sub(1),
            sum => sum,
        };
        if sum != word(508)? {
            return Err(Fault::Checksum);
        }
        let len = u64::from(word(40)?).min(source.len().saturating_sub(BASE));
        let hive =
            Self { len, root: word(36)?, dirty: word(4)? != word(8)?, cells: Cell::new(MAX_CELLS), source };
        hive.key_at(hive.root)?;
        Ok(hive)
    }

    /// Whether it was being written: its logs hold more than it does.
    #[must_use]
    pub const fn is_dirty(&self) -> bool {
        self.dirty
    }

    /// The first key.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn root(&self) -> Result<Key> {
        self.key_at(self.root)
    }

    /// The key at a path with backslashes, from the root; case does not count. `None` when there is no such key.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn key(&self, path: &str) -> Result<Option<Key>> {
        let mut here = self.root()?;
        for name in path.split('\\').filter(|name| !name.is_empty()) {
            match self.subkey(&here, name)? {
                Some(key) => here = key,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// The key of a name below another.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn subkey(&self, key: &Key, name: &str) -> Result<Option<Key>> {
        let wanted = name.to_uppercase();
        for at in self.children(key)? {
            let child = self.key_at(at)?;
            if child.name.to_uppercase() == wanted {
                return Ok(Some(child));
            }
        }
        Ok(None)
    }

    /// All keys below another.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn subkeys(&self, key: &Key) -> Result<Vec<Key>> {
        self.children(key)?.into_iter().map(|at| self.key_at(at)).collect()
    }

    /// A value of a key; the empty name is its default one. `None` when there is no such value.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn value(&self, key: &Key, name: &str) -> Result<Option<Value>> {
        let wanted = name.to_uppercase();
        for at in self.values_of(key)? {
            let (name, cell) = self.value_at(at)?;
            if name.to_uppercase() == wanted {
                return self.decode(&cell).map(Some);
            }
        }
        Ok(None)
    }

    /// The values of a key with their names, at most `limit` of them.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn values(&self, key: &Key, limit: usize) -> Result<Vec<(String, Value)>> {
        let places = self.values_of(key)?.into_iter().take(limit);
        places.map(|at| self.value_at(at).and_then(|(name, cell)| Ok((name, self.decode(&cell)?)))).collect()
    }

    /// Places of the values of a key.
    fn values_of(&self, key: &Key) -> Result<Vec<u32>> {
        if key.values == 0 {
            return Ok(Vec::new());
        }
        let count = usize::try_from(key.values.min(MAX_CHILDREN)).unwrap_or(0);
        let list = self.cell(key.values_at, count.saturating_mul(4))?;
        Ok(list.chunks_exact(4).take(count).filter_map(|entry| le32(entry, 0)).collect())
    }

    /// A value's name and its cell.
    fn value_at(&self, at: u32) -> Result<(String, Vec<u8>)> {
        let cell = self.cell(at, FIRST)?;
        let broken = |why| Fault::Cell { at: place(at), why };
        if !cell.starts_with(b"vk") {
            return Err(broken("holds no value"));
        }
        let len = usize::from(le16(&cell, 2).unwrap_or(0));
        let latin = le16(&cell, 16).is_some_and(|flags| flags & 1 != 0);
        let cell =
            if len.saturating_add(20) > cell.len() { self.cell(at, len.saturating_add(20))? } else { cell };
        let text = cell.get(20..len.saturating_add(20)).ok_or_else(|| broken("has a name that leaves it"))?;
        Ok((value::text(text, latin), cell))
    }

    /// The data of a value's cell.
    fn decode(&self, cell: &[u8]) -> Result<Value> {
        let (size, at) = (le32(cell, 4).unwrap_or(0), le32(cell, 8).unwrap_or(0));
        let kind = le32(cell, 12).unwrap_or(0);
        // The highest bit: up to four bytes that stand where the place would.
        if size & 0x8000_0000 != 0 {
            let len = usize::try_from(size & 0x7fff_ffff).unwrap_or(0).min(4);
            return Ok(Value { kind, data: at.to_le_bytes().get(..len).unwrap_or_default().to_vec() });
        }
        let len = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_CELL);
        let data = match len {
            0 => Vec::new(),
            // In pieces (hives of version 1.4 and later).
            16345.. => match self.cell(at, 12)? {
                head if head.starts_with(b"db") => self.pieces(&head, len)?,
                _ => self.cell(at, len)?,
            },
            _ => self.cell(at, len)?,
        };
        let data = data.get(..len).map(<[u8]>::to_vec);
        Ok(Value { kind, data: data.ok_or(Fault::Cell { at: place(at), why: "is shorter than its value" })? })
    }

    fn pieces(&self, head: &[u8], len: usize) -> Result<Vec<u8>> {
        let count = usize::from(le16(head, 2).unwrap_or(0));
        let list = self.cell(le32(head, 4).unwrap_or(0), count.saturating_mul(4))?;
        let mut data = Vec::new();
        for at in list.chunks_exact(4).take(count).filter_map(|entry| le32(entry, 0)) {
            if data.len() >= len {
                break;
            }
            let piece = self.cell(at, 16344)?;
            data.extend_from_slice(piece.get(..16344).unwrap_or(&piece));
        }
        Ok(data)
    }

    /// Places of the keys below one.
    fn children(&self, key: &Key) -> Result<Vec<u32>> {
        let mut all = Vec::new();
        if key.subkeys == 0 {
            return Ok(all);
        }
        let head = self.list(key.subkeys_at)?;
        if !head.starts_with(b"ri") {
            take_list(&head, key.subkeys_at, &mut all)?;
            return Ok(all);
        }
        // A list of lists; those of lists are no lists of lists.
        let mut lists = Vec::new();
        take_list(&head, key.subkeys_at, &mut lists)?;
        for at in lists {
            let list = self.list(at)?;
            if list.starts_with(b"ri") {
                return Err(Fault::Cell { at: place(at), why: "is a list of lists in another" });
            }
            take_list(&list, at, &mut all)?;
            if all.len() > usize::try_from(MAX_CHILDREN).unwrap_or(0) {
                return Err(Fault::Budget);
            }
        }
        Ok(all)
    }

    /// A list's cell, whole.
    fn list(&self, at: u32) -> Result<Vec<u8>> {
        let head = self.cell(at, FIRST)?;
        let each: usize = if head.starts_with(b"lf") || head.starts_with(b"lh") { 8 } else { 4 };
        let len = usize::from(le16(&head, 2).unwrap_or(0)).saturating_mul(each).saturating_add(4);
        if len > head.len() { self.cell(at, len) } else { Ok(head) }
    }

    fn key_at(&self, at: u32) -> Result<Key> {
        let broken = |why| Fault::Cell { at: place(at), why };
        let mut cell = self.cell(at, FIRST)?;
        if !cell.starts_with(b"nk") {
            return Err(broken("holds no key"));
        }
        let len = usize::from(le16(&cell, 72).ok_or_else(|| broken("is too short for a key"))?);
        let end = len.saturating_add(76);
        if end > cell.len() {
            cell = self.cell(at, end)?;
        }
        let word = |at| le32(&cell, at).unwrap_or(0);
        let name = cell.get(76..end).ok_or_else(|| broken("has a name that leaves it"))?;
        let latin = le16(&cell, 2).is_some_and(|flags| flags & 0x20 != 0);
        Ok(Key {
            name: value::text(name, latin),
            subkeys: word(20),
            subkeys_at: word(28),
            values: word(36),
            values_at: word(40),
        })
    }

    /// The data of the cell at `at`, its first `want` bytes at most.
    fn cell(&self, at: u32, want: usize) -> Result<Vec<u8>> {
        self.cells.set(self.cells.get().checked_sub(1).ok_or(Fault::Budget)?);
        let broken = |why| Fault::Cell { at: place(at), why };
        let left = self.len.checked_sub(u64::from(at)).filter(|left| *left >= 8);
        let left = left.ok_or_else(|| broken("lies behind the hive"))?;
        let want = want.min(MAX_CELL).saturating_add(4);
        let len = want.min(usize::try_from(left).unwrap_or(usize::MAX));
        let cell = self.source.read(place(at), len).ok_or(Fault::Unread { at: place(at) })?;
        // Negative: in use.
        let size = i32::from_le_bytes(bytes::<4>(&cell, 0).ok_or_else(|| broken("is cut"))?);
        if size >= 0 {
            return Err(broken("is not in use"));
        }
        let size = u64::from(size.unsigned_abs());
        if size > left || size < 8 {
            return Err(broken("has a length that leaves the hive"));
        }
        let end = usize::try_from(size).unwrap_or(usize::MAX).min(cell.len());
        Ok(cell.get(4..end).unwrap_or_default().to_vec())
    }
}

/// The byte of the file.
fn place(at: u32) -> u64 {
    u64::from(at).saturating_add(BASE)
}

fn take_list(list: &[u8], at: u32, all: &mut Vec<u32>) -> Result<()> {
    let each = match list.get(..2) {
        Some(b"lf" | b"lh") => 8,
        Some(b"li" | b"ri") => 4,
        _ => return Err(Fault::Cell { at: place(at), why: "holds no list of keys" }),
    };
    let count = usize::from(le16(list, 2).unwrap_or(0));
    let entries = list.get(4..).unwrap_or_default().chunks_exact(each).take(count);
    let before = all.len();
    all.extend(entries.filter_map(|entry| le32(entry, 0)));
    if all.len().saturating_sub(before) < count {
        return Err(Fault::Cell { at: place(at), why: "is shorter than its list" });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
