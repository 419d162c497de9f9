//! L1 and L2 table entries: one or two big-endian words in, meaning out.

use super::geometry::Geometry;
use super::problem::Qcow2Problem;

/// Bits 9 to 55: a place in the file.
pub(super) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
/// Bit 63: the refcount of what the entry leads to is exactly one.
pub(super) const COPIED: u64 = 1 << 63;
/// Bit 62: a compressed cluster.
pub(super) const COMPRESSED: u64 = 1 << 62;
/// Bit 0: a zero cluster.
pub(super) const ZERO: u64 = 1;

/// What decides how an L2 entry is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryRules {
    pub(super) geometry: Geometry,
    pub(super) version: u32,
    /// Whether guest clusters are in an external data file.
    pub(super) external: bool,
}

/// A compressed cluster's data: `len` bytes from `at`, to the end of its last sector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Compressed {
    pub(super) at: u64,
    pub(super) len: u64,
}

/// What an L2 entry says about its guest cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cluster {
    /// Nothing: the backing file's, or zeros.
    Unallocated,
    /// Zeros; `host` is a preallocated place.
    Zero { host: Option<u64> },
    /// Stored as it is at `host`.
    Data { host: u64 },
    /// Stored compressed.
    Compressed(Compressed),
    /// A state for each of 32 subclusters, by bit; `host` is there when any is allocated.
    Subclusters { host: Option<u64>, allocated: u32, zero: u32 },
}

impl Cluster {
    /// The cluster of the file that the entry owns, when it owns a whole one.
    pub(super) const fn host(self) -> Option<u64> {
        match self {
            Self::Data { host } => Some(host),
            Self::Zero { host } | Self::Subclusters { host, .. } => host,
            Self::Unallocated | Self::Compressed(_) => None,
        }
    }
}

impl EntryRules {
    /// Takes an L2 entry apart; `bitmap` is its second word, 0 without extended entries.
    ///
    /// # Errors
    /// The [`Qcow2Problem`] of an entry that means nothing.
    pub(super) fn decode(&self, entry: u64, bitmap: u64) -> Result<Cluster, Qcow2Problem> {
        if entry & COMPRESSED != 0 {
            return self.decode_compressed(entry, bitmap).map(Cluster::Compressed);
        }
        let extended = self.geometry.extended();
        let zero_flag_allowed = self.version >= 3 && !extended;
        let allowed = OFFSET_MASK | COPIED | if zero_flag_allowed { ZERO } else { 0 };
        if entry & !allowed != 0 {
            return Err(Qcow2Problem::L2Reserved { entry });
        }
        let start = entry & OFFSET_MASK;
        if !self.geometry.is_aligned(start) {
            let cluster_len = self.geometry.cluster_len();
            return Err(Qcow2Problem::L2Unaligned { entry, start, cluster_len });
        }
        let host = match (start, entry & COPIED != 0) {
            (0, false) => None,
            (0, true) if self.external => Some(0),
            (0, true) => return Err(Qcow2Problem::L2Zero { entry }),
            _ => Some(start),
        };
        if extended {
            return self.decode_subclusters(host, bitmap);
        }
        Ok(match (entry & ZERO != 0, host) {
            (true, host) => Cluster::Zero { host },
            (false, Some(host)) => Cluster::Data { host },
            (false, None) => Cluster::Unallocated,
        })
    }

    fn decode_subclusters(&self, host: Option<u64>, bitmap: u64) -> Result<Cluster, Qcow2Problem> {
        let (zero, allocated) = halves(bitmap);
        if zero & allocated != 0 {
            return Err(Qcow2Problem::SubclusterBoth { bitmap });
        }
        if allocated != 0 && host.is_none() {
            return Err(Qcow2Problem::SubclusterNowhere { bitmap });
        }
        Ok(match (host, allocated, zero) {
            (Some(host), u32::MAX, _) => Cluster::Data { host },
            (host, _, u32::MAX) => Cluster::Zero { host },
            (None, 0, 0) => Cluster::Unallocated,
            (host, allocated, zero) => Cluster::Subclusters { host, allocated, zero },
        })
    }

    fn decode_compressed(&self, entry: u64, bitmap: u64) -> Result<Compressed, Qcow2Problem> {
        if self.external {
            return Err(Qcow2Problem::CompressedExternal { entry });
        }
        if bitmap != 0 {
            return Err(Qcow2Problem::L2Reserved { entry: bitmap });
        }
        let sector_bits = self.geometry.cluster_bits().saturating_sub(8);
        let offset_bits = 62_u32.saturating_sub(sector_bits);
        let low = |bits: u32| 1_u64.unbounded_shl(bits).wrapping_sub(1);
        let at = entry & low(offset_bits);
        if at & !low(56) != 0 {
            return Err(Qcow2Problem::L2Reserved { entry });
        }
        let more_sectors = entry.unbounded_shr(offset_bits) & low(sector_bits);
        // At most 2^13 sectors of 2^9 bytes.
        let len = more_sectors.saturating_add(1).saturating_mul(512).saturating_sub(at & 511);
        Ok(Compressed { at, len })
    }
}

/// The upper and the lower 32 bits.
fn halves(word: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = word.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

/// The place of the L2 table in an L1 entry; `None` when there is none.
///
/// # Errors
/// [`Qcow2Problem::L1Reserved`].
pub(super) fn l2_table(index: u64, entry: u64) -> Result<Option<u64>, Qcow2Problem> {
    if entry & !(OFFSET_MASK | COPIED) != 0 {
        return Err(Qcow2Problem::L1Reserved { index, entry });
    }
    Ok(Some(entry & OFFSET_MASK).filter(|at| *at != 0))
}

#[cfg(test)]
mod tests {
    use super::{COMPRESSED, COPIED, Cluster, Compressed, EntryRules, ZERO, l2_table};
    use crate::qcow2::geometry::Geometry;
    use crate::qcow2::problem::Qcow2Problem;

    fn rules(cluster_bits: u32, extended: bool, version: u32) -> EntryRules {
        EntryRules { geometry: Geometry::new(cluster_bits, extended).unwrap(), version, external: false }
    }

    #[test]
    fn standard_entries_decode_to_their_meaning() {
        let rules = rules(16, false, 3);
        assert_eq!(rules.decode(0, 0), Ok(Cluster::Unallocated));
        assert_eq!(rules.decode(ZERO, 0), Ok(Cluster::Zero { host: None }));
        assert_eq!(rules.decode(COPIED | 0x5_0001, 0), Ok(Cluster::Zero { host: Some(0x5_0000) }));
        assert_eq!(rules.decode(0x5_0000, 0), Ok(Cluster::Data { host: 0x5_0000 }));
        assert_eq!(rules.decode(COPIED, 0), Err(Qcow2Problem::L2Zero { entry: COPIED }));
        let unaligned = 0x5_0200;
        assert_eq!(
            rules.decode(unaligned, 0),
            Err(Qcow2Problem::L2Unaligned { entry: unaligned, start: unaligned, cluster_len: 0x1_0000 })
        );
        for bit in (1..9).chain(56..62) {
            let entry = 0x5_0000 | (1 << bit);
            assert_eq!(rules.decode(entry, 0), Err(Qcow2Problem::L2Reserved { entry }));
        }
    }

    #[test]
    fn a_zero_flag_in_version_2_is_a_reserved_bit() {
        assert_eq!(rules(16, false, 2).decode(ZERO, 0), Err(Qcow2Problem::L2Reserved { entry: ZERO }));
        assert_eq!(rules(16, true, 3).decode(ZERO, 0), Err(Qcow2Problem::L2Reserved { entry: ZERO }));
    }

    #[test]
    fn compressed_entries_split_at_the_bit_that_the_cluster_size_says() {
        for bits in 9..=21 {
            let x = 62 - (bits - 8);
            let entry = COMPRESSED | (1 << x) | 0x1234;
            let expected = Compressed { at: 0x1234, len: 1024 - (0x1234 % 512) };
            assert_eq!(rules(bits, false, 3).decode(entry, 0), Ok(Cluster::Compressed(expected)), "{bits}");
        }
        let entry = COMPRESSED | (1 << 57);
        assert_eq!(rules(9, false, 3).decode(entry, 0), Err(Qcow2Problem::L2Reserved { entry }));
    }

    #[test]
    fn subclusters_must_not_be_two_things() {
        let rules = rules(16, true, 3);
        let both = (1 << 32) | 1;
        assert_eq!(rules.decode(0x5_0000, both), Err(Qcow2Problem::SubclusterBoth { bitmap: both }));
        assert_eq!(rules.decode(0, 2), Err(Qcow2Problem::SubclusterNowhere { bitmap: 2 }));
        assert_eq!(
            rules.decode(0x5_0000, (4 << 32) | 1),
            Ok(Cluster::Subclusters { host: Some(0x5_0000), allocated: 1, zero: 4 })
        );
        assert_eq!(rules.decode(0x5_0000, 0xffff_ffff), Ok(Cluster::Data { host: 0x5_0000 }));
        assert_eq!(rules.decode(0, 0xffff_ffff << 32), Ok(Cluster::Zero { host: None }));
    }

    #[test]
    fn l1_entries_with_reserved_bits_are_refused() {
        assert_eq!(l2_table(0, COPIED | 0x3_0000), Ok(Some(0x3_0000)));
        assert_eq!(l2_table(0, 0), Ok(None));
        for bit in (0..9).chain(56..63) {
            let entry = 0x3_0000 | (1_u64 << bit);
            assert_eq!(l2_table(7, entry), Err(Qcow2Problem::L1Reserved { index: 7, entry }));
        }
    }
}
