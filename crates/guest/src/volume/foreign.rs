//! File systems and containers that are named here and not read: who finds one on a disk wants to know what it is, and
//! a root on one may well start.
//!
//! Sources: libblkid of util-linux (its words, and its sample images prove the places), the headers of Linux
//! `include/uapi/linux/magic.h` and of each file system, Microsoft exFAT 1.00, ECMA-167 for UDF, OpenZFS
//! `sys/vdev_impl.h` and `sys/uberblock_impl.h`.

use kiln_disk::wire::{be16, be32, be64, bytes, le32};
use kiln_disk::{Disk, Result};

use super::probe::{Content, Probed, read};
use crate::text::{label, utf16_label, uuid};

/// A superblock that is known by constant bytes.
struct Known {
    word: &'static str,
    at: usize,
    magic: &'static [u8],
    /// First byte of its id of 16 bytes, where it has one that people look for.
    uuid: Option<usize>,
    /// First byte and length of the label.
    label: Option<(usize, usize)>,
}

const fn known(word: &'static str, at: usize, magic: &'static [u8]) -> Known {
    Known { word, at, magic, uuid: None, label: None }
}

const fn named(
    word: &'static str,
    at: usize,
    magic: &'static [u8],
    uuid: usize,
    label: (usize, usize),
) -> Known {
    Known { word, at, magic, uuid: Some(uuid), label: Some(label) }
}

const KIB: usize = 1024;

/// In the order of how sure their bytes are: long magics first.
const KNOWN: [Known; 33] = [
    named("reiserfs", 64 * KIB + 52, b"ReIsErFs", 64 * KIB + 84, (64 * KIB + 100, 16)),
    named("reiserfs", 64 * KIB + 52, b"ReIsEr2Fs", 64 * KIB + 84, (64 * KIB + 100, 16)),
    named("reiserfs", 64 * KIB + 52, b"ReIsEr3Fs", 64 * KIB + 84, (64 * KIB + 100, 16)),
    named("reiser4", 64 * KIB, b"ReIsEr4", 64 * KIB + 20, (64 * KIB + 36, 16)),
    named("jfs", 32 * KIB, b"JFS1", 32 * KIB + 136, (32 * KIB + 152, 16)),
    named("ocfs2", KIB, b"OCFSV2", KIB + 336, (KIB + 272, 64)),
    named("ocfs2", 2 * KIB, b"OCFSV2", 2 * KIB + 336, (2 * KIB + 272, 64)),
    named("ocfs2", 4 * KIB, b"OCFSV2", 4 * KIB + 336, (4 * KIB + 272, 64)),
    named("ocfs2", 8 * KIB, b"OCFSV2", 8 * KIB + 336, (8 * KIB + 272, 64)),
    // sb_lockproto, sb_locktable: the table's name is what people see.
    named("gfs2", 64 * KIB, b"\x01\x16\x19\x70", 64 * KIB + 256, (64 * KIB + 160, 64)),
    named("bcache", 4 * KIB + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca", 4 * KIB + 40, (4 * KIB + 72, 32)),
    named("bcachefs", 4 * KIB + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9", 4 * KIB + 56, (4 * KIB + 72, 32)),
    named("erofs", KIB, b"\xe2\xe1\xf5\xe0", KIB + 48, (KIB + 64, 16)),
    named("f2fs", KIB, b"\x10\x20\xf5\xf2", KIB + 108, (0, 0)),
    named("apfs", 32, b"NXSB", 72, (0, 0)),
    known("befs", 512 + 32, b"1SFB"),
    known("befs", 512 + 32, b"BFS1"),
    known("befs", 32, b"1SFB"),
    known("ceph_bluestore", 0, b"bluestore block device"),
    known("vdo", 0, b"dmvdo001"),
    known("romfs", 0, b"-rom1fs-"),
    known("zonefs", 0, b"SFOZ"),
    known("ubi", 0, b"UBI#"),
    known("ubifs", 0, b"\x31\x18\x10\x06"),
    known("hpfs", 8 * KIB, b"\x49\xe8\x95\xf9"),
    known("bfs", 0, b"\xce\xfa\xad\x1b"),
    Known { label: Some((48, 16)), ..known("cramfs", 0, b"\x45\x3d\xcd\x28") },
    Known { label: Some((48, 16)), ..known("cramfs", 0, b"\x28\xcd\x3d\x45") },
    known("xfs_external_log", 0, b"\xfe\xed\xba\xbe"),
    // FreeBSD, NetBSD, Solaris: fs_magic of UFS1 and UFS2, in either order of bytes.
    Known { label: Some((64 * KIB + 680, 32)), ..known("ufs", 64 * KIB + 1372, b"\x19\x01\x54\x19") },
    Known { label: Some((64 * KIB + 680, 32)), ..known("ufs", 64 * KIB + 1372, b"\x19\x54\x01\x19") },
    known("ufs", 8 * KIB + 1372, b"\x54\x19\x01\x00"),
    known("ufs", 8 * KIB + 1372, b"\x00\x01\x19\x54"),
];

/// What the first bytes of a volume say, if it is one of these.
pub(super) fn probe(head: &[u8]) -> Option<Probed> {
    let plain =
        KNOWN.iter().find(|known| head.get(known.at..).is_some_and(|rest| rest.starts_with(known.magic)));
    match plain {
        Some(known) => Some(found(known, head)),
        None => nilfs2(head).or_else(|| hfs(head)).or_else(|| udf(head)),
    }
}

/// What is written further inside: read only where the beginning says nothing.
///
/// # Errors
/// I/O, and a budget that is used up.
pub(super) fn probe_deep(disk: &dyn Disk) -> Result<Option<Probed>> {
    for (word, at, magic) in
        [("VMFS", 2 << 20, b"\x5e\xf1\xab\x2f"), ("VMFS_volume_member", 1 << 20, b"\x0d\xd0\x01\xc0")]
    {
        if read(disk, at, 512)?.starts_with(magic) {
            return Ok(Some(Probed::new(Content::Foreign, word)));
        }
    }
    let label = read(disk, 0, 256 << 10)?;
    Ok(zfs(&label))
}

fn found(known: &Known, head: &[u8]) -> Probed {
    let content = match known.word {
        "erofs" => Content::Erofs,
        "f2fs" => Content::F2fs,
        _ => Content::Foreign,
    };
    let mut found = Probed::new(content, known.word);
    let part = |at: usize, len: usize| head.get(at..at.saturating_add(len));
    found.uuid = known.uuid.and_then(|at| part(at, 16)).map(uuid).unwrap_or_default();
    if found.uuid.bytes().all(|byte| matches!(byte, b'0' | b'-')) {
        found.uuid.clear();
    }
    found.label = known.label.and_then(|(at, len)| part(at, len)).map(label).unwrap_or_default();
    match known.word {
        "f2fs" => found.label = part(KIB.saturating_add(124), 1024).map(utf16_label).unwrap_or_default(),
        "romfs" => found.label = part(16, 256).map(label).unwrap_or_default(),
        "ufs" => found.uuid = ufs_id(known, head).unwrap_or_default(),
        _ => {}
    }
    found
}

/// fs_id: two words in the order of the machine that made it.
fn ufs_id(known: &Known, head: &[u8]) -> Option<String> {
    let at = known.at.checked_sub(1372)?.checked_add(144)?;
    let word =
        if known.magic.last() == Some(&0x54) || known.magic.ends_with(b"\x01\x19") { be32 } else { le32 };
    let (first, second) = (word(head, at)?, word(head, at.checked_add(4)?)?);
    (first != 0 || second != 0).then(|| format!("{first:08x}{second:08x}"))
}

/// The magic has two bytes; the revision and the length of the superblock say that they mean it.
fn nilfs2(head: &[u8]) -> Option<Probed> {
    let sb = head.get(KIB..KIB.checked_add(KIB)?)?;
    if le32(sb, 0)? != 2 || sb.get(6..8)? != b"\x34\x34" {
        return None;
    }
    let mut found = Probed::new(Content::Foreign, "nilfs2");
    found.uuid = uuid(sb.get(152..168)?);
    found.label = label(sb.get(168..248)?);
    Some(found)
}

/// HFS+ by its signature and version (TN1150), HFS by its signature and the length of its blocks (Inside Macintosh).
fn hfs(head: &[u8]) -> Option<Probed> {
    let header = head.get(KIB..KIB.checked_add(512)?)?;
    let hfs_plus = |at: usize| {
        let signature = header.get(at..at.checked_add(2)?)?;
        Some(matches!((signature, be16(header, at.checked_add(2)?)?), (b"H+", 4) | (b"HX", 5)))
    };
    if hfs_plus(0)? {
        return Some(Probed::new(Content::Foreign, "hfsplus"));
    }
    let block = be32(header, 20)?;
    if !header.starts_with(b"BD") || block == 0 || block.checked_rem(512) != Some(0) {
        return None;
    }
    // drEmbedSigWord: an HFS wrapper around HFS+.
    if header.get(124..126)? == b"H+" {
        return Some(Probed::new(Content::Foreign, "hfsplus"));
    }
    let mut found = Probed::new(Content::Foreign, "hfs");
    let len = usize::from(*header.get(36)?).min(27);
    found.label = label(header.get(37..37_usize.checked_add(len)?)?);
    Some(found)
}

/// The volume recognition sequence (ECMA-167 part 2): descriptors of 2048 bytes, or of a block, from 32 KiB on. An image
/// that is ISO 9660 as well is a bridge, and UDF to its users.
fn udf(head: &[u8]) -> Option<Probed> {
    let at = |index: usize, step: usize| {
        let at = (32 * KIB).checked_add(index.checked_mul(step)?)?.checked_add(1)?;
        bytes::<5>(head, at)
    };
    for step in [2048, 4096, 8192] {
        let sequence: Vec<[u8; 5]> = (0..16).map_while(|index| at(index, step)).collect();
        let begins = sequence.iter().take_while(|word| *word != b"\0\0\0\0\0").any(|word| word == b"BEA01");
        if begins && sequence.iter().any(|word| word == b"NSR02" || word == b"NSR03") {
            return Some(Probed::new(Content::Foreign, "udf"));
        }
    }
    None
}

/// A label of ZFS: an uberblock in the ring of its second half; the pool's name and id in the list of its first.
fn zfs(first_label: &[u8]) -> Option<Probed> {
    let ring = first_label.get(128 * KIB..)?;
    let written = ring.chunks(KIB).any(|slot| {
        slot.starts_with(b"\x0c\xb1\xba\x00\0\0\0\0") || slot.starts_with(b"\0\0\0\0\x00\xba\xb1\x0c")
    });
    if !written {
        return None;
    }
    let mut found = Probed::new(Content::Foreign, "zfs_member");
    let list = first_label.get(16 * KIB..128 * KIB)?;
    // Pairs of an nvlist in XDR: length of the name, the name, its type (9 a string, 8 a number of 64 bits), a count.
    let after = |pair: &[u8]| {
        let at = list.windows(pair.len()).position(|window| window == pair)?;
        list.get(at.checked_add(pair.len())?..)
    };
    if let Some(value) = after(b"\0\0\0\x04name\0\0\0\x09\0\0\0\x01") {
        let len = usize::try_from(be32(value, 0)?).ok()?.min(255);
        found.label = label(value.get(4..len.checked_add(4)?)?);
    }
    if let Some(value) = after(b"\0\0\0\x09pool_guid\0\0\0\0\0\0\x08\0\0\0\x01") {
        found.uuid = be64(value, 0)?.to_string();
    }
    Some(found)
}

/// The label of an exFAT volume: an entry of type 0x83 in its root directory (section 7.3). Clusters of the root are
/// followed as long as a label may reasonably be behind them.
///
/// # Errors
/// I/O, and a budget that is used up.
pub(super) fn exfat_label(disk: &dyn Disk, head: &[u8]) -> Result<String> {
    const MAX_CLUSTERS: usize = 64;
    let Some(volume) = ExFat::decode(head) else { return Ok(String::new()) };
    let mut cluster = volume.root;
    for _ in 0..MAX_CLUSTERS {
        let Some(at) = volume.place(cluster) else { break };
        let part = read(disk, at, volume.cluster.min(64 << 10))?;
        for entry in part.chunks_exact(32) {
            match entry.first() {
                Some(0) => return Ok(String::new()),
                Some(0x83) => {
                    let units = usize::from(entry.get(1).copied().unwrap_or(0)).min(11);
                    let end = units.saturating_mul(2).saturating_add(2);
                    return Ok(entry.get(2..end).map(utf16_label).unwrap_or_default());
                }
                _ => {}
            }
        }
        let next = read(disk, volume.fat.saturating_add(u64::from(cluster).saturating_mul(4)), 4)?;
        cluster = le32(&next, 0).unwrap_or(u32::MAX);
    }
    Ok(String::new())
}

/// Where the parts of an exFAT volume are, in bytes (section 3.1).
struct ExFat {
    fat: u64,
    heap: u64,
    cluster: u64,
    root: u32,
}

impl ExFat {
    fn decode(head: &[u8]) -> Option<Self> {
        let sector = 1_u64.checked_shl(u32::from(*head.get(108)?).min(12))?;
        Some(Self {
            fat: u64::from(le32(head, 80)?).checked_mul(sector)?,
            heap: u64::from(le32(head, 88)?).checked_mul(sector)?,
            cluster: sector.checked_shl(u32::from(*head.get(109)?).min(16))?,
            root: le32(head, 96)?,
        })
    }

    fn place(&self, cluster: u32) -> Option<u64> {
        let index = u64::from(cluster).checked_sub(2)?;
        self.heap.checked_add(index.checked_mul(self.cluster)?)
    }
}
