//! File records of NTFS: fix-up, attributes, runs.

use kiln_disk::wire::{le16, le32, le64};

/// Attribute types (`$AttrDef`).
pub(super) const ATTRIBUTE_LIST: u32 = 0x20;
pub(super) const VOLUME_NAME: u32 = 0x60;
pub(super) const VOLUME_INFORMATION: u32 = 0x70;
pub(super) const DATA: u32 = 0x80;
pub(super) const INDEX_ROOT: u32 = 0x90;
pub(super) const INDEX_ALLOCATION: u32 = 0xa0;
pub(super) const BITMAP: u32 = 0xb0;
pub(super) const REPARSE_POINT: u32 = 0xc0;

/// Attribute flags: what is stored is not what is read.
pub(super) const COMPRESSED: u16 = 0x00ff;
pub(super) const LZNT1: u16 = 0x0001;
pub(super) const ENCRYPTED: u16 = 0x4000;

/// Attributes of one record: it holds 4096 bytes at most, an attribute has 24.
const MAX_ATTRIBUTES: usize = 256;
/// Runs of one attribute in one record.
const MAX_RUNS: usize = 64 << 10;
/// The words of a record that the update sequence replaces are 512 bytes apart, whatever the sector.
const STRIDE: usize = 512;

/// A record of the master file table, fix-up done.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) number: u64,
    pub(super) sequence: u16,
    pub(super) directory: bool,
    /// The record that this one continues; 0 for none.
    pub(super) base: u64,
    pub(super) attributes: Vec<Attribute>,
}

/// A piece of an attribute: all of it, or the clusters from `lowest` on.
#[derive(Debug, Clone)]
pub(super) struct Attribute {
    pub(super) kind: u32,
    /// UTF-16.
    pub(super) name: Vec<u16>,
    pub(super) flags: u16,
    pub(super) body: Body,
}

/// Where an attribute's bytes are.
#[derive(Debug, Clone)]
pub(super) enum Body {
    /// In the record.
    Resident(Vec<u8>),
    /// In clusters.
    Runs {
        /// Virtual cluster of the first run.
        lowest: u64,
        runs: Vec<Run>,
        /// Bytes; only the first piece says it.
        len: u64,
        /// Bytes from which on it reads as zeros.
        initialized: u64,
        /// Clusters that are compressed together; 0 for none.
        unit: u64,
    },
}

/// Clusters that follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// First virtual cluster.
    pub(super) first: u64,
    pub(super) clusters: u64,
    /// Where they are; nothing for a hole.
    pub(super) at: Option<u64>,
}

impl Run {
    pub(super) fn end(&self) -> u64 {
        self.first.saturating_add(self.clusters)
    }
}

/// Puts back the words that the update sequence replaced; `None` when the block was torn or is none of its kind.
pub(super) fn fix_up(block: &mut [u8], magic: &[u8; 4]) -> Option<()> {
    if !block.starts_with(magic) {
        return None;
    }
    let (at, count) = (usize::from(le16(block, 4)?), usize::from(le16(block, 6)?));
    if count.checked_sub(1)?.checked_mul(STRIDE)? != block.len() {
        return None;
    }
    let expected = le16(block, at)?;
    for index in 1..count {
        let word = le16(block, index.checked_mul(2)?.checked_add(at)?)?;
        let place = index.checked_mul(STRIDE)?.checked_sub(2)?;
        let target = block.get_mut(place..place.checked_add(2)?)?;
        if target != expected.to_le_bytes() {
            return None;
        }
        target.copy_from_slice(&word.to_le_bytes());
    }
    Some(())
}

impl Record {
    /// Decodes a record as it lies on the disk. `clusters` bounds what its runs may name.
    pub(super) fn decode(number: u64, mut block: Vec<u8>, clusters: u64) -> Result<Self, &'static str> {
        fix_up(&mut block, b"FILE").ok_or("is torn or holds no file record")?;
        let head = |at| le16(&block, at).ok_or("is too short");
        let flags = head(0x16)?;
        if flags & 1 == 0 {
            return Err("is not in use");
        }
        let mut attributes = Vec::new();
        let mut at = usize::from(head(0x14)?);
        while attributes.len() < MAX_ATTRIBUTES {
            let kind = le32(&block, at).ok_or("has no end")?;
            if kind == u32::MAX {
                break;
            }
            let len = le32(&block, at.saturating_add(4)).and_then(|len| usize::try_from(len).ok());
            let len = len.filter(|len| *len >= 24).ok_or("holds an attribute without length")?;
            let end = at.saturating_add(len);
            let bytes = block.get(at..end).ok_or("holds an attribute that leaves it")?;
            attributes.push(attribute(bytes, kind, clusters).ok_or("holds a damaged attribute")?);
            at = end;
        }
        Ok(Self {
            number,
            sequence: head(0x10)?,
            directory: flags & 2 != 0,
            base: le64(&block, 0x20).unwrap_or(0) & REFERENCE,
            attributes,
        })
    }
}

/// The record number in a reference; above it is the sequence number.
pub(super) const REFERENCE: u64 = (1 << 48) - 1;

fn attribute(bytes: &[u8], kind: u32, clusters: u64) -> Option<Attribute> {
    let name_at = usize::from(le16(bytes, 10)?);
    let name_len = usize::from(*bytes.get(9)?).checked_mul(2)?;
    let name = match name_len {
        0 => Vec::new(),
        _ => units(bytes.get(name_at..name_at.checked_add(name_len)?)?),
    };
    let body = if *bytes.get(8)? == 0 {
        let (len, at) = (usize::try_from(le32(bytes, 16)?).ok()?, usize::from(le16(bytes, 20)?));
        Body::Resident(bytes.get(at..at.checked_add(len)?)?.to_vec())
    } else {
        let lowest = le64(bytes, 16)?;
        let runs = runs(bytes.get(usize::from(le16(bytes, 32)?)..)?, lowest, clusters)?;
        let (len, initialized) = match lowest {
            0 => (le64(bytes, 48)?, le64(bytes, 56)?),
            _ => (0, 0),
        };
        let unit = match le16(bytes, 34)? {
            0 => 0,
            power => 1_u64.checked_shl(u32::from(power))?,
        };
        Body::Runs { lowest, runs, len, initialized, unit }
    };
    Some(Attribute { kind, name, flags: le16(bytes, 12)?, body })
}

/// UTF-16 as it is stored.
pub(super) fn units(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|unit| le16(unit, 0).unwrap_or(0)).collect()
}

/// Decodes mapping pairs: a byte of two lengths, then a count of clusters and the distance to the run before.
fn runs(bytes: &[u8], lowest: u64, clusters: u64) -> Option<Vec<Run>> {
    let (mut runs, mut at, mut first, mut place) = (Vec::new(), 0_usize, lowest, 0_i64);
    while let Some(head) = bytes.get(at).copied().filter(|head| *head != 0) {
        let (count_len, step_len) = (usize::from(head & 15), usize::from(head >> 4));
        let count_at = at.checked_add(1)?;
        let step_at = count_at.checked_add(count_len)?;
        let end = step_at.checked_add(step_len)?;
        let count = u64::try_from(number(bytes.get(count_at..step_at)?)?).ok().filter(|count| *count > 0)?;
        let mut run = Run { first, clusters: count, at: None };
        if step_len > 0 {
            place = place.checked_add(number(bytes.get(step_at..end)?)?)?;
            let start = u64::try_from(place).ok()?;
            // One cluster more than counted may hold the second boot sector.
            if start.checked_add(count)? > clusters.checked_add(1)? {
                return None;
            }
            run.at = Some(start);
        }
        first = first.checked_add(count)?;
        runs.push(run);
        if runs.len() > MAX_RUNS {
            return None;
        }
        at = end;
    }
    Some(runs)
}

/// A signed number of 1 to 8 bytes, low byte first; 0 of none.
fn number(bytes: &[u8]) -> Option<i64> {
    if bytes.len() > 8 {
        return None;
    }
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut all = [if negative { 0xff } else { 0 }; 8];
    all.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(all))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_decoded_as_the_documentation_of_the_format_shows() {
        // 0x30 clusters at 0x20, 0x60 clusters of a hole, 0x10 clusters at 0x20 + 0x1e0.
        let bytes = [0x21, 0x30, 0x20, 0x00, 0x01, 0x60, 0x22, 0x10, 0x00, 0xe0, 0x01, 0x00];
        let run = |first, clusters, at| Run { first, clusters, at };
        assert_eq!(
            runs(&bytes, 5, 0x210).unwrap(),
            [run(5, 0x30, Some(0x20)), run(0x35, 0x60, None), run(0x95, 0x10, Some(0x200))]
        );
        // A run behind the volume; one before it; none of clusters; one of nine bytes; one that is cut.
        assert!(runs(&bytes, 5, 0x20e).is_none());
        assert!(runs(&[0x11, 1, 0xff, 0], 0, 100).is_none());
        assert!(runs(&[0x11, 0, 1, 0], 0, 100).is_none());
        assert!(runs(&[0x19, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 0, 100).is_none());
        assert!(runs(&[0x41, 1, 1], 0, 100).is_none());
    }

    #[test]
    fn runs_whose_sums_pass_the_largest_number_are_no_runs() {
        let most = [0xff_u8; 8];
        let long = |length: &[u8], place: &[u8]| {
            let head = u8::try_from(place.len() << 4 | length.len()).unwrap();
            [&[head], length, place, &[0]].concat()
        };
        // Lengths and places of eight bytes, negative and as large as there are; a first cluster that leaves no room.
        let large = i64::MAX.to_le_bytes();
        for (bytes, first) in [
            (long(&most, &[1]), 0),
            (long(&large, &[1]), u64::MAX),
            (long(&[1], &most), 0),
            (long(&[1], &large), 0),
            (long(&[1], &i64::MIN.to_le_bytes()), 0),
            (long(&large, &large), 1),
            (long(&most, &[]), u64::MAX),
            ([long(&[1], &[0x7f]).as_slice().split_last().unwrap().1, &long(&[1], &large)].concat(), 0),
        ] {
            assert!(
                runs(&bytes, first, u64::MAX).is_none_or(|runs| runs.iter().all(|run| {
                    run.first.checked_add(run.clusters).is_some()
                        && run.at.is_none_or(|at| at.checked_add(run.clusters).is_some())
                })),
                "{bytes:x?} from {first}"
            );
        }
        // Every first byte: no length has more than eight bytes, and nothing is read behind the end.
        for head in 0..=255_u8 {
            let bytes = [&[head][..], &[1; 30]].concat();
            let wide = head & 15 > 8 || head >> 4 > 8 || head & 15 == 0;
            assert!(!wide || head == 0 || runs(&bytes, 0, u64::MAX).is_none(), "{head:x}");
            assert!(head == 0 || runs(&[head], 0, u64::MAX).is_none(), "{head:x}");
        }
    }

    #[test]
    fn every_place_and_count_of_a_fix_up_is_an_answer() {
        let mut block = vec![0_u8; 1024];
        block[..8].copy_from_slice(&[b'F', b'I', b'L', b'E', 0x30, 0, 3, 0]);
        // Only three words for two sectors, before the end of the first of them, are a table.
        for place in (0..=u16::MAX).step_by(1) {
            let mut bad = block.clone();
            bad[4..6].copy_from_slice(&place.to_le_bytes());
            let good = fix_up(&mut bad, b"FILE").is_some();
            assert!(!good || usize::from(place) + 6 <= 1024, "{place}");
        }
        for count in 0..=u16::MAX {
            let mut bad = block.clone();
            bad[6..8].copy_from_slice(&count.to_le_bytes());
            assert_eq!(fix_up(&mut bad, b"FILE").is_some(), count == 3, "{count}");
        }
    }

    #[test]
    fn torn_blocks_are_told() {
        let mut block = vec![0_u8; 1024];
        block[..8].copy_from_slice(&[b'F', b'I', b'L', b'E', 0x30, 0, 3, 0]);
        block[0x30..0x36].copy_from_slice(&[7, 7, 1, 2, 3, 4]);
        block[510..512].copy_from_slice(&[7, 7]);
        block[1022..].copy_from_slice(&[7, 7]);
        let good = block.clone();
        fix_up(&mut block, b"FILE").unwrap();
        assert_eq!((&block[510..512], &block[1022..]), (&[1, 2][..], &[3, 4][..]));
        for (at, value) in [(510, 8), (1023, 8), (0, b'B'), (6, 2), (6, 0), (5, 0xff)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(fix_up(&mut bad, b"FILE").is_none(), "{at}");
        }
    }
}
