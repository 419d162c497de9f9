//! How long the content of a wrapper is, without decoding it.
//!
//! Answers are claims: whoever uses one holds it against what comes out. A structure that makes no sense gives no
//! answer; the decoder will say what is wrong with it.

use kiln_disk::{ByteSource, FileOffset, Result};

use super::lz4::content_size;
use super::zst;
use crate::partitions::primaries;
use crate::wire::{bytes, le32, le64};

/// What can be said of a file of which only the beginning has come: `outer` is its first bytes, `head` those of its
/// content, `ends` a way to read its last bytes, if there is one. A single zstd frame is assumed; where a partition
/// table says that the disk goes on, nothing is.
pub(super) fn early(
    wrapper: &str,
    outer: &[u8],
    head: &[u8],
    ends: Option<&dyn ByteSource>,
) -> Result<Option<u64>> {
    let claim = match (wrapper, ends) {
        ("gzip", Some(ends)) => gzip(ends, head)?,
        ("xz", Some(ends)) => xz(ends)?,
        ("zstd", _) => zstd_header(outer).map(|(_, content, _)| content),
        ("lz4", _) => content_size(outer),
        _ => None,
    };
    Ok(claim.filter(|claim| disk_end(head).is_none_or(|end| end <= *claim)))
}

/// The sum of all streams' indexes ("The .xz File Format" 2.1.2, 4), from the last to the first.
pub(super) fn xz(source: &dyn ByteSource) -> Result<Option<u64>> {
    /// An index of more than a million blocks.
    const MAX_INDEX: u64 = 16 << 20;
    let mut end = source.byte_len();
    let mut total = 0_u64;
    while end > 0 {
        let Some(footer) = part(source, end.checked_sub(12), 12)? else { return Ok(None) };
        if footer.ends_with(&[0; 4]) {
            // Stream Padding.
            end = end.saturating_sub(4);
            continue;
        }
        let Some(backward) = le32(&footer, 4).filter(|_| footer.ends_with(b"YZ")) else { return Ok(None) };
        let index_len = u64::from(backward).saturating_add(1).saturating_mul(4);
        let index_at = end.checked_sub(12).and_then(|at| at.checked_sub(index_len));
        if index_len > MAX_INDEX {
            return Ok(None);
        }
        let Some(index) = part(source, index_at, index_len)? else { return Ok(None) };
        let Some((blocks, content)) = xz_index(&index) else { return Ok(None) };
        let sum = total.checked_add(content);
        let start = index_at.and_then(|at| at.checked_sub(blocks)).and_then(|at| at.checked_sub(12));
        let (Some(sum), Some(start)) = (sum, start) else { return Ok(None) };
        (total, end) = (sum, start);
    }
    Ok(Some(total))
}

/// Bytes of all blocks of an index, in the file and unpacked.
fn xz_index(index: &[u8]) -> Option<(u64, u64)> {
    let mut rest = index.strip_prefix(&[0])?;
    let records = varint(&mut rest)?;
    let (mut blocks, mut content) = (0_u64, 0_u64);
    for _ in 0..records {
        let unpadded = varint(&mut rest)?;
        blocks = blocks.checked_add(unpadded.checked_next_multiple_of(4)?)?;
        content = content.checked_add(varint(&mut rest)?)?;
    }
    Some((blocks, content))
}

/// A variable-length integer (1.2).
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..63).step_by(7) {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The sum of Frame_Content_Size (RFC 8878, 3.1.1.1.4) of all frames, going from block header to block header.
pub(super) fn zstd(source: &dyn ByteSource) -> Result<Option<u64>> {
    let mut walk = Walk { source, window: Vec::new(), window_at: 0, at: 0 };
    let mut total = 0_u64;
    while walk.at < source.byte_len() {
        let head = walk.look(18)?;
        if let Some(len) = zst::skippable(head) {
            walk.at = walk.at.saturating_add(len);
            continue;
        }
        let Some((header_len, content, checksum)) = zstd_header(head) else { return Ok(None) };
        let Some(sum) = total.checked_add(content) else { return Ok(None) };
        total = sum;
        walk.at = walk.at.saturating_add(header_len);
        loop {
            // Block_Header (3.1.1.2): Last_Block, Block_Type, Block_Size.
            let Some([low, middle, high]) = walk.look(3)?.first_chunk::<3>().copied() else {
                return Ok(None);
            };
            let word = u32::from_le_bytes([low, middle, high, 0]);
            let stored = if (word >> 1) & 3 == 1 { 1 } else { u64::from(word >> 3) };
            walk.at = walk.at.saturating_add(stored).saturating_add(3);
            if word & 1 == 1 {
                break;
            }
        }
        walk.at = walk.at.saturating_add(checksum);
    }
    Ok((walk.at == source.byte_len()).then_some(total))
}

/// Length of a frame header, the content size it gives, and the length of the checksum at the end (3.1.1.1).
fn zstd_header(head: &[u8]) -> Option<(u64, u64, u64)> {
    let rest = head.strip_prefix(&zst::MAGIC)?;
    let descriptor = *rest.first()?;
    let single = descriptor & 0x20 != 0;
    let window = usize::from(!single);
    let dictionary = match descriptor & 3 {
        0 => 0_usize,
        1 => 1,
        2 => 2,
        _ => 4,
    };
    let size_at = window.saturating_add(dictionary).saturating_add(1);
    let field = rest.get(size_at..)?;
    let (size_len, size) = match descriptor >> 6 {
        0 if single => (1_usize, u64::from(*field.first()?)),
        0 => return None,
        1 => (2, u64::from(u16::from_le_bytes(*field.first_chunk()?)).saturating_add(256)),
        2 => (4, u64::from(u32::from_le_bytes(*field.first_chunk()?))),
        _ => (8, u64::from_le_bytes(*field.first_chunk()?)),
    };
    let header = size_at.saturating_add(size_len).saturating_add(zst::MAGIC.len());
    let checksum = if descriptor & 4 == 0 { 0 } else { 4 };
    Some((u64::try_from(header).ok()?, size, checksum))
}

/// Small reads at ascending places.
struct Walk<'a> {
    source: &'a dyn ByteSource,
    window: Vec<u8>,
    window_at: u64,
    at: u64,
}

impl Walk<'_> {
    /// The next `len` bytes, or what is left.
    fn look(&mut self, len: usize) -> Result<&[u8]> {
        const WINDOW: usize = 4096;
        let inside = |walk: &Self| {
            let skip = usize::try_from(walk.at.checked_sub(walk.window_at)?).ok()?;
            let end = skip.checked_add(len)?;
            (end <= walk.window.len()).then_some(skip..end)
        };
        if let Some(range) = inside(self) {
            return Ok(self.window.get(range).unwrap_or_default());
        }
        let left = self.source.byte_len().saturating_sub(self.at);
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(WINDOW);
        self.window.resize(take, 0);
        self.window_at = self.at;
        self.source.read_bytes(FileOffset::new(self.at), &mut self.window)?;
        Ok(self.window.get(..len.min(take)).unwrap_or_default())
    }
}

/// "Content Size" of the first frame.
pub(super) fn lz4(source: &dyn ByteSource) -> Result<Option<u64>> {
    Ok(part(source, Some(0), 14.min(source.byte_len()))?.and_then(|head| content_size(&head)))
}

/// ISIZE (RFC 1952, 2.3.1) is the length modulo 2^32. What is missing comes from the disk: it is as long as its
/// partition table says, or a little longer. Without a table the answer is only given where deflate's limit of
/// 1032 bytes for one leaves no other.
pub(super) fn gzip(source: &dyn ByteSource, head: &[u8]) -> Result<Option<u64>> {
    const STEP: u64 = 1 << 32;
    let file_len = source.byte_len();
    let Some(stored) = part(source, file_len.checked_sub(4), 4)?.and_then(|tail| le32(&tail, 0)) else {
        return Ok(None);
    };
    let stored = u64::from(stored);
    let Some(least) = disk_end(head) else {
        let most = file_len.saturating_mul(1032);
        return Ok((most < stored.saturating_add(STEP)).then_some(stored));
    };
    let missing = least.saturating_sub(stored).div_ceil(STEP);
    Ok(missing.checked_mul(STEP).and_then(|more| stored.checked_add(more)))
}

/// Where the partition table at the beginning of a disk says that the disk, or its last partition, ends.
fn disk_end(head: &[u8]) -> Option<u64> {
    for sector in [512_u64, 4096] {
        let header = usize::try_from(sector).ok().and_then(|at| head.get(at..)).unwrap_or_default();
        if bytes(header, 0) == Some(*b"EFI PART") {
            // AlternateLBA: the backup header is in the last sector.
            return le64(header, 32)?.checked_add(1)?.checked_mul(sector);
        }
    }
    primaries(head)?.iter().map(|entry| entry.end_bytes()).max()
}

/// `len` bytes from `at`, when they are in the file.
fn part(source: &dyn ByteSource, at: Option<u64>, len: u64) -> Result<Option<Vec<u8>>> {
    let Some(at) = at.filter(|at| at.checked_add(len).is_some_and(|end| end <= source.byte_len())) else {
        return Ok(None);
    };
    let mut found = vec![0; usize::try_from(len).unwrap_or(0)];
    source.read_bytes(FileOffset::new(at), &mut found)?;
    Ok(Some(found))
}
