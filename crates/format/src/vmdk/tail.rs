//! The end of a stream: footer marker, footer, end-of-stream marker.
//!
//! VMware, "Virtual Disk Format 5.0", "Stream-Optimized Compressed Sparse Extents": a stream whose length was not
//! known at its start says so in its header, and ends with a copy of the header that names the grain directory,
//! followed by one sector of zeros.

use kiln_disk::{ByteSource, FileOffset, Result, zero};

use super::header::{HEADER_LEN, Header, SECTOR, marker, read_marker};
use crate::wire::{as_bytes, in_memory, le32};

/// A footer and what surrounds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) footer: Header,
    /// First byte of the footer.
    pub(super) at: u64,
    /// Its marker is in the sector before it.
    pub(super) marked: bool,
    /// Bytes of zeros behind it; 512 of them are the end-of-stream marker.
    pub(super) zeros: u64,
}

/// How far behind the footer zeros may go on: programs pad files to blocks of at most this.
const MAX_PADDING: u64 = 1 << 20;

impl Tail {
    /// The footer of a stream, which is the last sector that is not zeros; `None` when that is something else.
    pub(super) fn find(source: &dyn ByteSource) -> Result<Option<Self>> {
        let file_len = source.byte_len();
        let first = file_len.saturating_sub(MAX_PADDING).next_multiple_of(SECTOR);
        let mut raw = vec![0; in_memory(file_len.saturating_sub(first))];
        source.read_bytes(FileOffset::new(first), &mut raw)?;
        let Some(last) = raw.chunks(HEADER_LEN).rposition(|sector| !zero::is_zero(sector)) else {
            return Ok(None);
        };
        let mut sectors = raw.chunks_exact(HEADER_LEN);
        let before = last.checked_sub(1).and_then(|index| sectors.clone().nth(index));
        let footer = sectors.nth(last).and_then(|sector| Header::read(sector.first_chunk()?));
        let at = first.saturating_add(as_bytes(last).saturating_mul(SECTOR));
        Ok(footer.filter(|_| at > 0).map(|footer| Self {
            footer,
            at,
            marked: before.is_some_and(is_footer_marker),
            zeros: file_len.saturating_sub(at).saturating_sub(SECTOR),
        }))
    }

    /// First byte of the footer's marker, or of the footer.
    pub(super) const fn start(&self) -> u64 {
        if self.marked { self.at.saturating_sub(SECTOR) } else { self.at }
    }
}

fn is_footer_marker(sector: &[u8]) -> bool {
    matches!(read_marker(sector), Some((_, 0))) && le32(sector, 12) == Some(marker::FOOTER)
}
