//! FAT12, FAT16 and FAT32 with long names. Sources: Microsoft "FAT: General Overview of On-Disk Format" 1.03.
//!
//! Names are compared without regard to case, as firmware does.

use std::sync::Arc;

use kiln_disk::wire::{bytes, le16, le32};
use kiln_disk::{Disk, GuestOffset};

use super::{Entry, FileSystem, FsError, Kind, Result, Stat};
use crate::text::label;
use crate::volume::Space;

/// Directory entries that are read of one directory.
const MAX_ENTRIES: usize = 65536;
/// The table is read whole up to this length; FAT32 of 2 TiB in 32 KiB clusters needs it.
const MAX_TABLE: u64 = 256 << 20;

/// Where the parts of a volume are. Bytes, but for clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    sector: u64,
    cluster: u64,
    table_at: u64,
    table_len: u64,
    root_at: u64,
    root_len: u64,
    data_at: u64,
    clusters: u32,
    root_cluster: u32,
    bits: u8,
}

impl Geometry {
    /// Decodes a boot sector (the BIOS parameter block at 11); `None` when it is none of a FAT.
    #[must_use]
    pub fn decode(head: &[u8]) -> Option<Self> {
        let sector = u64::from(le16(head, 11)?);
        let per_cluster = u64::from(*head.get(13)?);
        let (reserved, tables) = (u64::from(le16(head, 14)?), u64::from(*head.get(16)?));
        let jump = matches!(head.first()?, 0xeb | 0xe9);
        let media = matches!(head.get(21)?, 0xf0 | 0xf8..=0xff);
        let plausible = matches!(sector, 512 | 1024 | 2048 | 4096) && per_cluster.is_power_of_two();
        if !jump || !media || !plausible || reserved == 0 || !matches!(tables, 1 | 2) {
            return None;
        }
        let total = match le16(head, 19)? {
            0 => u64::from(le32(head, 32)?),
            small => u64::from(small),
        };
        let table_sectors = match le16(head, 22)? {
            0 => u64::from(le32(head, 36)?),
            small => u64::from(small),
        };
        let root_entries = u64::from(le16(head, 17)?);
        let root_len = root_entries.checked_mul(32)?;
        let root_sectors = root_len.div_ceil(sector);
        let before = reserved.checked_add(tables.checked_mul(table_sectors)?)?.checked_add(root_sectors)?;
        let clusters = u32::try_from(total.checked_sub(before)?.checked_div(per_cluster)?).ok()?;
        // The number of clusters alone decides the kind; FAT32 has no fixed root, and old tools make small ones.
        let bits = match clusters {
            _ if root_entries == 0 => 32,
            0..=4084 => 12,
            _ => 16,
        };
        let table_len = table_sectors.checked_mul(sector)?;
        if clusters == 0 || table_len == 0 || table_len > MAX_TABLE {
            return None;
        }
        Some(Self {
            sector,
            cluster: sector.checked_mul(per_cluster)?,
            table_at: reserved.checked_mul(sector)?,
            table_len,
            root_at: before.checked_sub(root_sectors)?.checked_mul(sector)?,
            root_len,
            data_at: before.checked_mul(sector)?,
            clusters,
            root_cluster: if bits == 32 { le32(head, 44)? } else { 0 },
            bits,
        })
    }

    /// Whether it is FAT32.
    #[must_use]
    pub const fn is_fat32(&self) -> bool {
        self.bits == 32
    }
}

/// A FAT volume.
pub(super) struct Fat {
    disk: Arc<dyn Disk>,
    geometry: Geometry,
}

/// A file or directory: first cluster (0: the fixed root, or an empty file), length.
#[derive(Debug, Clone, Copy)]
struct Node {
    first: u32,
    len: u64,
    directory: bool,
}

impl Fat {
    pub(super) fn open(disk: &Arc<dyn Disk>) -> Result<Self> {
        let mut head = vec![0; 512];
        disk.read_guest(GuestOffset::ZERO, &mut head)?;
        let geometry =
            Geometry::decode(&head).ok_or_else(|| FsError::Damaged("the FAT boot sector".to_owned()))?;
        Ok(Self { disk: Arc::clone(disk), geometry })
    }

    fn root(&self) -> Node {
        Node { first: self.geometry.root_cluster, len: self.geometry.root_len, directory: true }
    }

    /// What follows `cluster` in its chain; `None` at the end.
    fn next(&self, cluster: u32) -> Result<Option<u32>> {
        let index = u64::from(cluster);
        let (at, len) = match self.geometry.bits {
            12 => (index.saturating_mul(3) / 2, 2),
            16 => (index.saturating_mul(2), 2),
            _ => (index.saturating_mul(4), 4),
        };
        if at.saturating_add(len) > self.geometry.table_len {
            return Err(FsError::Damaged(format!("cluster {cluster} is not in the FAT")));
        }
        let mut entry = [0_u8; 4];
        let target = entry.get_mut(..usize::try_from(len).unwrap_or(4)).unwrap_or_default();
        self.disk.read_guest(GuestOffset::new(self.geometry.table_at.saturating_add(at)), target)?;
        let raw = u32::from_le_bytes(entry);
        let (value, end) = match self.geometry.bits {
            12 if index & 1 == 1 => (raw >> 4, 0xff8),
            12 => (raw & 0xfff, 0xff8),
            16 => (raw, 0xfff8),
            _ => (raw & 0x0fff_ffff, 0x0fff_fff8),
        };
        match value {
            _ if value >= end => Ok(None),
            0 | 1 => Err(FsError::Damaged(format!("the chain at cluster {cluster} leads to a free cluster"))),
            _ => Ok(Some(value)),
        }
    }

    /// The byte of a cluster.
    fn place(&self, cluster: u32) -> Result<u64> {
        let index = cluster.checked_sub(2).filter(|index| *index < self.geometry.clusters);
        let index =
            index.ok_or_else(|| FsError::Damaged(format!("cluster {cluster} is outside the volume")))?;
        Ok(self.geometry.data_at.saturating_add(u64::from(index).saturating_mul(self.geometry.cluster)))
    }

    /// The clusters of a chain, at most `limit`; a chain longer than the volume is a circle.
    fn chain(&self, first: u32, limit: u64) -> Result<Vec<u32>> {
        let (mut clusters, mut cluster) = (Vec::new(), Some(first).filter(|first| *first != 0));
        while let Some(current) = cluster {
            if u64::try_from(clusters.len()).unwrap_or(u64::MAX) >= limit {
                break;
            }
            if clusters.len() > usize::try_from(self.geometry.clusters).unwrap_or(usize::MAX) {
                return Err(FsError::Damaged(format!("the chain from cluster {first} is a circle")));
            }
            self.place(current)?;
            clusters.push(current);
            cluster = self.next(current)?;
        }
        Ok(clusters)
    }

    /// The bytes of a directory.
    fn directory(&self, node: Node) -> Result<Vec<u8>> {
        if node.first == 0 {
            let mut table = vec![0; usize::try_from(self.geometry.root_len).unwrap_or(0)];
            self.disk.read_guest(GuestOffset::new(self.geometry.root_at), &mut table)?;
            return Ok(table);
        }
        let table_len = u64::try_from(MAX_ENTRIES).unwrap_or(0).saturating_mul(32);
        let most = table_len.checked_div(self.geometry.cluster).unwrap_or(0);
        let clusters = self.chain(node.first, most.saturating_add(1))?;
        let mut table = Vec::new();
        for cluster in clusters {
            let mut part = vec![0; usize::try_from(self.geometry.cluster).unwrap_or(0)];
            self.disk.read_guest(GuestOffset::new(self.place(cluster)?), &mut part)?;
            table.extend_from_slice(&part);
        }
        Ok(table)
    }

    fn find(&self, path: &[u8]) -> Result<Node> {
        let mut node = self.root();
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            if !node.directory {
                return Err(FsError::WrongKind);
            }
            let wanted = String::from_utf8_lossy(name).to_lowercase();
            let entries = entries(&self.directory(node)?);
            let found = entries.into_iter().find(|(known, _)| known.to_lowercase() == wanted);
            node = found.ok_or(FsError::NotFound)?.1;
        }
        Ok(node)
    }
}

/// The label in the root directory, without the blanks at its end; empty where there is none.
///
/// # Errors
/// [`FsError`].
pub(crate) fn volume_label(disk: &Arc<dyn Disk>) -> Result<String> {
    let fat = Fat::open(disk)?;
    let table = fat.directory(fat.root())?;
    let entry = table.chunks_exact(32).take_while(|entry| entry.first() != Some(&0)).find(|entry| {
        let attributes = entry.get(11).copied().unwrap_or(0);
        // ATTR_VOLUME_ID alone; a part of a long name has it as well. No cluster belongs to it.
        entry.first() != Some(&0xe5)
            && attributes & 0x3f != 0x0f
            && attributes & 0x18 == 0x08
            && (le16(entry, 20), le16(entry, 26)) == (Some(0), Some(0))
    });
    let mut name = entry.and_then(|entry| bytes::<11>(entry, 0)).unwrap_or_default();
    if let [first @ 0x05, ..] = &mut name {
        *first = 0xe5;
    }
    Ok(label(&name))
}

/// The files in a directory's bytes: deleted entries, volume labels, `.` and `..` are left out.
fn entries(table: &[u8]) -> Vec<(String, Node)> {
    let (mut found, mut long) = (Vec::new(), Vec::<(u8, [u16; 13], u8)>::new());
    for entry in table.chunks_exact(32).take(MAX_ENTRIES) {
        let (Some(first), Some(attributes)) = (entry.first(), entry.get(11)) else { break };
        match (*first, *attributes) {
            (0, _) => break,
            (0xe5, _) => long.clear(),
            (sequence, 0x0f) => {
                if sequence & 0x40 != 0 {
                    long.clear();
                }
                long.push((sequence & 0x1f, long_units(entry), entry.get(13).copied().unwrap_or(0)));
            }
            (_, attributes) if attributes & 0x08 != 0 => long.clear(),
            (_, attributes) => {
                let name = long_name(&long, entry).unwrap_or_else(|| short_name(entry));
                long.clear();
                let high = u32::from(le16(entry, 20).unwrap_or(0)) << 16;
                let node = Node {
                    first: high | u32::from(le16(entry, 26).unwrap_or(0)),
                    len: u64::from(le32(entry, 28).unwrap_or(0)),
                    directory: attributes & 0x10 != 0,
                };
                if name != "." && name != ".." && !name.is_empty() {
                    found.push((name, node));
                }
            }
        }
    }
    found
}

fn long_units(entry: &[u8]) -> [u16; 13] {
    let mut units = [0xffff; 13];
    let places = [1_usize, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
    for (unit, at) in units.iter_mut().zip(places) {
        *unit = le16(entry, at).unwrap_or(0xffff);
    }
    units
}

/// The long name, when its parts are complete and belong to this short name.
fn long_name(parts: &[(u8, [u16; 13], u8)], entry: &[u8]) -> Option<String> {
    let sum = bytes::<11>(entry, 0)?.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let count = parts.len();
    let ordered = parts.iter().zip(1_usize..).all(|((sequence, _, check), index)| {
        usize::from(*sequence) == count.saturating_sub(index).saturating_add(1) && *check == sum
    });
    if count == 0 || !ordered {
        return None;
    }
    let units: Vec<u16> =
        parts.iter().rev().flat_map(|(_, units, _)| *units).take_while(|unit| *unit != 0).collect();
    Some(String::from_utf16_lossy(&units))
}

fn short_name(entry: &[u8]) -> String {
    let flags = entry.get(12).copied().unwrap_or(0);
    let part = |range: std::ops::Range<usize>, lower: bool| -> String {
        let letters = entry.get(range).unwrap_or_default().iter().map(|byte| match byte {
            0x20..=0x7e => char::from(*byte),
            0x05 => '\u{e5}',
            _ => '_',
        });
        let text = letters.collect::<String>().trim_end().to_owned();
        if lower { text.to_lowercase() } else { text }
    };
    let (base, extension) = (part(0..8, flags & 8 != 0), part(8..11, flags & 16 != 0));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}

impl FileSystem for Fat {
    fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let node = self.find(path)?;
        if !node.directory {
            return Err(FsError::WrongKind);
        }
        let kind = |node: Node| if node.directory { Kind::Directory } else { Kind::File };
        let entries = entries(&self.directory(node)?);
        Ok(entries
            .into_iter()
            .map(|(name, node)| Entry { name: name.into_bytes(), kind: kind(node) })
            .collect())
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let node = self.find(path)?;
        let kind = if node.directory { Kind::Directory } else { Kind::File };
        Ok(Stat { kind, len: if node.directory { 0 } else { node.len }, mode: None, uid: None })
    }

    fn read_link(&self, _: &[u8]) -> Result<Vec<u8>> {
        Err(FsError::WrongKind)
    }

    fn read(&self, path: &[u8], at: u64, buf: &mut [u8]) -> Result<usize> {
        let node = self.find(path)?;
        if node.directory {
            return Err(FsError::WrongKind);
        }
        let want = node.len.saturating_sub(at).min(u64::try_from(buf.len()).unwrap_or(u64::MAX));
        let end = at.saturating_add(want);
        let clusters = self.chain(node.first, end.div_ceil(self.geometry.cluster.max(1)))?;
        let (mut at, mut done) = (at, 0_usize);
        while at < end {
            let index =
                usize::try_from(at.checked_div(self.geometry.cluster).unwrap_or(0)).unwrap_or(usize::MAX);
            let inside = at.checked_rem(self.geometry.cluster).unwrap_or(0);
            let cluster = clusters.get(index).ok_or_else(|| {
                FsError::Damaged(format!("the chain from cluster {} is shorter than its file", node.first))
            })?;
            let run = self.geometry.cluster.saturating_sub(inside).min(end.saturating_sub(at));
            let next = done.saturating_add(usize::try_from(run).unwrap_or(0));
            let Some(target) = buf.get_mut(done..next) else { break };
            self.disk.read_guest(GuestOffset::new(self.place(*cluster)?.saturating_add(inside)), target)?;
            (done, at) = (next, at.saturating_add(run));
        }
        Ok(done)
    }

    fn space(&self) -> Result<Option<Space>> {
        // The sum that FAT32 keeps is a hint; a count of more clusters would take longer than it is worth.
        const MAX_COUNTED: u32 = 1 << 20;
        if self.geometry.clusters > MAX_COUNTED {
            return Ok(None);
        }
        let mut free = 0_u64;
        for cluster in 2..self.geometry.clusters.saturating_add(2) {
            let index = u64::from(cluster);
            let bits = u64::from(self.geometry.bits);
            let at = index.saturating_mul(bits) / 8;
            let mut entry = [0_u8; 4];
            let len = if bits == 32 { 4 } else { 2 };
            let target = entry.get_mut(..len).unwrap_or_default();
            self.disk.read_guest(GuestOffset::new(self.geometry.table_at.saturating_add(at)), target)?;
            let raw = u32::from_le_bytes(entry);
            let value = match self.geometry.bits {
                12 if index & 1 == 1 => raw >> 4,
                12 => raw & 0xfff,
                16 => raw,
                _ => raw & 0x0fff_ffff,
            };
            free = free.saturating_add(u64::from(value == 0));
        }
        let total = u64::from(self.geometry.clusters).saturating_mul(self.geometry.cluster);
        let free = free.saturating_mul(self.geometry.cluster);
        Ok(Some(Space { total, free, inodes: 0, free_inodes: 0 }))
    }
}
