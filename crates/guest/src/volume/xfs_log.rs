//! Whether the log of an XFS is empty. Its superblock does not say; its last record does: an unmount writes one of its
//! own.
//!
//! Source: Linux `fs/xfs/libxfs/xfs_log_format.h` and `xfs_format.h`; how the head is found, `xlog_find_head` of
//! `fs/xfs/xfs_log_recover.c`. The log is a ring of blocks of 512 bytes; the first word of each is a cycle number, but
//! for the headers of records, which begin with a magic number and have it behind that.

use kiln_disk::wire::{be32, be64};
use kiln_disk::{Disk, Result};

use super::probe::{FsState, read};

const BLOCK: u64 = 512;
/// `XLOG_HEADER_MAGIC_NUM`.
const MAGIC: u32 = 0xfeed_babe;
/// `XLOG_UNMOUNT_TRANS`, a flag of an operation's header.
const UNMOUNT: u8 = 0x20;
/// The longest log in bytes (`XFS_MAX_LOG_BYTES`).
const MAX_LOG: u64 = 2 << 30;
/// Blocks that may be on their way at once, and so be written out of order (`XLOG_TOTAL_REC_SHIFT`: 2 MiB).
const IN_FLIGHT: u64 = (2 << 20) / BLOCK;

/// Where the log is, in bytes of the volume.
struct Log<'a> {
    disk: &'a dyn Disk,
    at: u64,
    blocks: u64,
}

/// How the log was left; none when it is on another device or makes no sense.
///
/// # Errors
/// I/O, and a budget that is used up.
pub(super) fn state(disk: &dyn Disk, superblock: &[u8]) -> Result<Option<FsState>> {
    let Some(log) = Log::find(disk, superblock) else { return Ok(None) };
    let Some(head) = log.head()? else { return Ok(None) };
    let Some(newest) = log.newest_record(head)? else { return Ok(None) };
    log.judge(newest)
}

impl<'a> Log<'a> {
    fn find(disk: &'a dyn Disk, sb: &[u8]) -> Option<Self> {
        // sb_blocksize, sb_logstart, sb_agblocks, sb_logblocks, sb_agblklog.
        let (block, start) = (u64::from(be32(sb, 4)?), be64(sb, 48)?);
        let (ag_blocks, log_blocks) = (u64::from(be32(sb, 84)?), u64::from(be32(sb, 96)?));
        let ag_shift = u32::from(*sb.get(124)?);
        let len = log_blocks.checked_mul(block).filter(|len| (1..=MAX_LOG).contains(len))?;
        if start == 0 {
            return None;
        }
        // A file system block number is the group's number and the block in it.
        let group = start.checked_shr(ag_shift)?;
        let inside = start ^ group.checked_shl(ag_shift)?;
        let at = group.checked_mul(ag_blocks)?.checked_add(inside)?.checked_mul(block)?;
        (at.checked_add(len)? <= disk.disk_len()).then_some(Self { disk, at, blocks: len / BLOCK })
    }

    fn read(&self, block: u64, count: u64) -> Result<Vec<u8>> {
        read(self.disk, self.at.saturating_add(block.saturating_mul(BLOCK)), count.saturating_mul(BLOCK))
    }

    fn cycle(&self, block: u64) -> Result<Option<u32>> {
        let bytes = self.read(block, 1)?;
        Ok(be32(&bytes, if be32(&bytes, 0) == Some(MAGIC) { 4 } else { 0 }))
    }

    /// The block that would be written next: the first one with the cycle of the last, unless all have one cycle. What
    /// is behind it was written a round earlier, or never.
    fn head(&self) -> Result<Option<u64>> {
        let last = self.blocks.saturating_sub(1);
        let (Some(newer), Some(older)) = (self.cycle(0)?, self.cycle(last)?) else { return Ok(None) };
        if newer == older {
            return Ok((newer != 0).then_some(self.blocks));
        }
        let (mut before, mut head) = (0, last);
        while head.saturating_sub(before) > 1 {
            let middle = before.midpoint(head);
            match self.cycle(middle)? {
                Some(cycle) if cycle == older => head = middle,
                Some(_) => before = middle,
                None => return Ok(None),
            }
        }
        Ok(Some(head))
    }

    /// The block of the header with the highest log sequence number around the head.
    fn newest_record(&self, head: u64) -> Result<Option<u64>> {
        let window = IN_FLIGHT.saturating_mul(2).min(self.blocks);
        let before = window.div_euclid(2);
        let mut block = head.checked_sub(before).unwrap_or_else(|| {
            // The ring goes on at its end.
            head.saturating_add(self.blocks).saturating_sub(before)
        });
        let mut newest: Option<(u64, u64)> = None;
        let mut left = window;
        while left > 0 {
            block = if block >= self.blocks { block.saturating_sub(self.blocks) } else { block };
            let run = left.min(self.blocks.saturating_sub(block));
            let bytes = self.read(block, run)?;
            for (here, header) in (block..).zip(bytes.chunks_exact(512)) {
                // h_magicno, h_lsn.
                if let (Some(MAGIC), Some(lsn)) = (be32(header, 0), be64(header, 16))
                    && newest.is_none_or(|(best, _)| lsn > best)
                {
                    newest = Some((lsn, here));
                }
            }
            block = block.saturating_add(run);
            left = left.saturating_sub(run);
        }
        Ok(newest.map(|(_, block)| block))
    }

    /// What the record says: empty is a log that ends in one operation, which is an unmount.
    fn judge(&self, record: u64) -> Result<Option<FsState>> {
        let header = self.read(record, 1)?;
        // h_cycle, h_version, h_num_logops, h_size: headers of version 2 take a block for each 32 KiB of record.
        let told = (be32(&header, 4), be32(&header, 8), be32(&header, 40), be32(&header, 320));
        let (Some(cycle), Some(version), Some(operations), Some(size)) = told else { return Ok(None) };
        let headers = if version & 2 != 0 { u64::from(size).div_ceil(32 << 10).max(1) } else { 1 };
        if operations != 1 {
            return Ok(Some(FsState::NeedsRecovery));
        }
        let next = record.saturating_add(headers);
        let body = self.read(if next >= self.blocks { next.saturating_sub(self.blocks) } else { next }, 1)?;
        // The cycle stands in the place of oh_tid; oh_len, oh_clientid, oh_flags follow.
        let whole = be32(&body, 0) == Some(cycle);
        let unmount = body.get(9).is_some_and(|flags| flags & UNMOUNT != 0);
        Ok(Some(if whole && unmount { FsState::Clean } else { FsState::NeedsRecovery }))
    }
}
