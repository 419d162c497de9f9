//! Whether an XFS log is empty. Its superblock does not say; its last record does: an unmount writes one of its own.
//!
//! Source: the kernel's `fs/xfs/libxfs/xfs_log_format.h` and `xfs_format.h`. The log lies in blocks of 512 bytes; the
//! first word of each is a cycle number, but for the headers of records, which begin with a magic number.

use kiln_disk::Disk;

use super::piece;
use crate::error::Result;

const BLOCK: usize = 512;
/// `XLOG_HEADER_MAGIC_NUM`.
const MAGIC: u32 = 0xfeed_babe;
/// `XLOG_UNMOUNT_TRANS`, a flag of an operation's header.
const UNMOUNT: u8 = 0x20;
/// The longest log (`XFS_MAX_LOG_BYTES`).
const MAX_LOG: u64 = 2 << 30;
/// How much is read at once.
const STEP: usize = 1 << 20;

/// `clean`, `needs_recovery`, or `unknown` when the log is elsewhere or makes no sense.
pub(super) fn state(disk: &dyn Disk) -> Result<&'static str> {
    let Some(sb) = piece(disk, 0, BLOCK)? else { return Ok("unknown") };
    let be32 = |bytes: &[u8], at: usize| {
        bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u32::from_be_bytes(*word))
    };
    let be64 = |bytes: &[u8], at: usize| {
        bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_be_bytes(*word))
    };
    // sb_blocksize, sb_logstart, sb_agblocks, sb_logblocks, sb_agblklog.
    let (block, start, ag_blocks, log_blocks) =
        (u64::from(be32(&sb, 4)), be64(&sb, 48), u64::from(be32(&sb, 84)), u64::from(be32(&sb, 96)));
    let ag_shift = u32::from(sb.get(124).copied().unwrap_or(0));
    let len = log_blocks.saturating_mul(block);
    if start == 0 || len == 0 || len > MAX_LOG || ag_shift >= 32 {
        return Ok("unknown");
    }
    // A file system block number is the group's number and the block in it.
    let (group, inside) = (start >> ag_shift, start & ((1 << ag_shift) - 1));
    let Some(at) =
        group.checked_mul(ag_blocks).and_then(|first| first.checked_add(inside)?.checked_mul(block))
    else {
        return Ok("unknown");
    };
    // The newest record: the highest log sequence number (h_lsn: cycle, block).
    let mut newest: Option<(u64, u64)> = None;
    let mut from = 0_u64;
    while from < len {
        let step = STEP.min(usize::try_from(len - from).unwrap_or(STEP));
        let Some(bytes) = piece(disk, at.saturating_add(from), step)? else { return Ok("unknown") };
        for (index, header) in (0_u64..).zip(bytes.chunks(BLOCK)) {
            if be32(header, 0) == MAGIC {
                let (lsn, place) = (be64(header, 16), from + index * 512);
                if newest.is_none_or(|(best, _)| lsn > best) {
                    newest = Some((lsn, place));
                }
            }
        }
        from += u64::try_from(step).unwrap_or(len);
    }
    let Some((_, place)) = newest else { return Ok("unknown") };
    let Some(header) = piece(disk, at.saturating_add(place), BLOCK)? else { return Ok("unknown") };
    // h_version, h_len, h_num_logops, h_size: headers of version 2 take a block for each 32 KiB of record.
    let (version, size, operations) = (be32(&header, 8), be32(&header, 320), be32(&header, 40));
    let headers = if version & 2 != 0 { u64::from(size).div_ceil(32 << 10).max(1) } else { 1 };
    if operations != 1 {
        return Ok("needs_recovery");
    }
    let next = (place + headers * 512) % len;
    let Some(body) = piece(disk, at.saturating_add(next), BLOCK)? else { return Ok("unknown") };
    // oh_tid, oh_len, oh_clientid, oh_flags. The first word stands in the header, which does not matter here.
    let flags = body.get(9).copied().unwrap_or(0);
    Ok(if flags & UNMOUNT != 0 { "clean" } else { "needs_recovery" })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;
    use std::process::Command;

    use kiln_disk::{ByteSource, Extent, ExtentKind, FileOffset, FileSource, GuestOffset, check_range};

    use super::*;

    struct Flat(FileSource);

    impl Disk for Flat {
        fn disk_len(&self) -> u64 {
            self.0.byte_len()
        }
        fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
            check_range(at, buf.len(), self.disk_len())?;
            self.0.read_bytes(FileOffset::new(at.get()), buf)
        }
        fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> kiln_disk::Result<Extent> {
            Ok(Extent { start: at, len: limit, kind: ExtentKind::Encoded })
        }
    }

    /// mkfs leaves an empty log; a log with anything else in it than an unmount is not empty, and xfs_logprint agrees.
    #[test]
    fn a_new_file_system_has_an_empty_log_and_a_record_makes_it_dirty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("xfs.img");
        std::fs::File::create(&path).unwrap().set_len(320 << 20).unwrap();
        let made =
            Command::new("mkfs.xfs").arg("-q").arg(&path).output().expect("mkfs.xfs (package xfsprogs)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let look = |path: &std::path::Path| state(&Flat(FileSource::open(path).unwrap())).unwrap();
        assert_eq!(look(&path), "clean");
        let printed = Command::new("xfs_logprint").arg("-t").arg(&path).output().unwrap();
        let printed = String::from_utf8_lossy(&printed.stdout).into_owned();
        assert!(printed.contains("<CLEAN>"), "{printed}");
        // Take the flag away from the unmount record: some other operation ends the log.
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.chunks(512).position(|block| block.starts_with(&MAGIC.to_be_bytes())).unwrap() * 512;
        let mut dirty = bytes.clone();
        dirty[at + 512 + 9] &= !UNMOUNT;
        std::fs::write(&path, &dirty).unwrap();
        assert_eq!(look(&path), "needs_recovery");
        let mut none = bytes;
        none[48..56].fill(0);
        std::fs::write(&path, &none).unwrap();
        assert_eq!(look(&path), "unknown");
    }
}
