//! Arithmetic on clusters and tables. Nothing here can overflow: shifts are by checked numbers of bits.

pub(super) use crate::wire::{as_bytes, in_memory};

use super::problem::Qcow2Problem;

/// The sizes that follow from `cluster_bits` (9 to 21 by construction) and the width of an L2 entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    cluster_bits: u32,
    entry_bits: u32,
}

/// L2 entries per table slice that is read and cached at once.
const SLICE_BITS: u32 = 16;

impl Geometry {
    /// # Errors
    /// [`Qcow2Problem::ClusterBits`], [`Qcow2Problem::ClusterBitsExtended`].
    pub(super) fn new(cluster_bits: u32, extended: bool) -> Result<Self, Qcow2Problem> {
        if !(9..=21).contains(&cluster_bits) {
            return Err(Qcow2Problem::ClusterBits { actual: cluster_bits });
        }
        if extended && cluster_bits < 14 {
            return Err(Qcow2Problem::ClusterBitsExtended { actual: cluster_bits });
        }
        Ok(Self { cluster_bits, entry_bits: if extended { 4 } else { 3 } })
    }

    pub(super) const fn cluster_bits(self) -> u32 {
        self.cluster_bits
    }

    /// Whether L2 entries have 16 bytes and clusters 32 subclusters.
    pub(super) const fn extended(self) -> bool {
        self.entry_bits == 4
    }

    /// Bytes of a cluster.
    pub(super) const fn cluster_len(self) -> u64 {
        1_u64.unbounded_shl(self.cluster_bits)
    }

    /// Bytes of a subcluster; of a cluster where there are none.
    pub(super) const fn subcluster_len(self) -> u64 {
        1_u64.unbounded_shl(self.subcluster_bits())
    }

    const fn subcluster_bits(self) -> u32 {
        if self.extended() { self.cluster_bits.saturating_sub(5) } else { self.cluster_bits }
    }

    /// Position inside the cluster.
    pub(super) const fn in_cluster(self, at: u64) -> u64 {
        at & self.cluster_len().wrapping_sub(1)
    }

    /// Which subcluster of its cluster `at` is in: 0 to 31.
    pub(super) const fn subcluster(self, at: u64) -> u32 {
        let index = self.in_cluster(at).unbounded_shr(self.subcluster_bits());
        // Five bits are left of a position inside a cluster of 32 subclusters.
        let [low, ..] = index.to_le_bytes();
        u32::from_le_bytes([low & 31, 0, 0, 0])
    }

    /// Whether `at` is the first byte of a cluster.
    pub(super) const fn is_aligned(self, at: u64) -> bool {
        self.in_cluster(at) == 0
    }

    /// The cluster that `at` is in.
    pub(super) const fn cluster_of(self, at: u64) -> u64 {
        at.unbounded_shr(self.cluster_bits)
    }

    /// First byte of cluster `index`; `None` past 2^64.
    pub(super) const fn cluster_start(self, index: u64) -> Option<u64> {
        index.checked_mul(self.cluster_len())
    }

    /// Clusters that `len` bytes touch when they start at a boundary.
    pub(super) const fn clusters(self, len: u64) -> u64 {
        let whole = self.cluster_of(len);
        if self.is_aligned(len) { whole } else { whole.saturating_add(1) }
    }

    /// Bytes of an L2 entry: 8 or 16.
    pub(super) const fn entry_len(self) -> u64 {
        1_u64.unbounded_shl(self.entry_bits)
    }

    /// Entries of an L2 table.
    pub(super) const fn l2_entries(self) -> u64 {
        1_u64.unbounded_shl(self.l2_bits())
    }

    const fn l2_bits(self) -> u32 {
        self.cluster_bits.saturating_sub(self.entry_bits)
    }

    /// Guest bytes under one L2 table.
    pub(super) const fn l2_span(self) -> u64 {
        1_u64.unbounded_shl(self.l2_bits().saturating_add(self.cluster_bits))
    }

    /// The L1 entry for guest byte `at`.
    pub(super) const fn l1_index(self, at: u64) -> u64 {
        at.unbounded_shr(self.l2_bits().saturating_add(self.cluster_bits))
    }

    /// The entry for guest byte `at` in its L2 table.
    pub(super) const fn l2_index(self, at: u64) -> u64 {
        self.cluster_of(at) & self.l2_entries().wrapping_sub(1)
    }

    /// L1 entries that a disk of `len` bytes needs.
    pub(super) const fn l1_needed(self, len: u64) -> u64 {
        let whole = self.l1_index(len);
        if len & self.l2_span().wrapping_sub(1) == 0 { whole } else { whole.saturating_add(1) }
    }

    /// Bytes of an L2 table that are read at once: a cluster, at most 64 KiB.
    pub(super) const fn l2_slice_len(self) -> u64 {
        let bits = if self.cluster_bits < SLICE_BITS { self.cluster_bits } else { SLICE_BITS };
        1_u64.unbounded_shl(bits)
    }

    /// L2 entries that are read at once.
    pub(super) const fn l2_slice_entries(self) -> u64 {
        self.l2_slice_len().unbounded_shr(self.entry_bits)
    }
}

/// Bytes of an L1 table that are read at once.
pub(super) const L1_SLICE_LEN: u64 = 1 << SLICE_BITS;
/// L1 entries that are read at once.
pub(super) const L1_SLICE_ENTRIES: u64 = L1_SLICE_LEN >> 3;

#[cfg(test)]
mod tests {
    use super::Geometry;
    use crate::qcow2::problem::Qcow2Problem;

    #[test]
    fn every_cluster_size_has_consistent_tables() {
        for bits in 9..=21 {
            for extended in [false, true] {
                let Ok(geometry) = Geometry::new(bits, extended) else {
                    assert!(extended && bits < 14);
                    continue;
                };
                assert_eq!(geometry.cluster_len(), 1 << bits);
                assert_eq!(geometry.l2_entries() * geometry.entry_len(), geometry.cluster_len());
                assert_eq!(geometry.l2_span(), geometry.l2_entries() * geometry.cluster_len());
                assert_eq!(geometry.l1_needed(geometry.l2_span()), 1);
                assert_eq!(geometry.l1_needed(geometry.l2_span() + 1), 2);
                assert_eq!(geometry.l1_needed(0), 0);
                assert_eq!(geometry.l2_index(geometry.l2_span() - 1), geometry.l2_entries() - 1);
                assert_eq!(geometry.l1_index(geometry.l2_span()), 1);
                if extended {
                    assert_eq!(geometry.subcluster(geometry.cluster_len() - 1), 31);
                }
            }
        }
    }

    #[test]
    fn cluster_bits_out_of_range_are_refused() {
        for bits in (0..9).chain(22..=255).chain([u32::MAX, 64, 65, 1 << 31]) {
            assert_eq!(Geometry::new(bits, false), Err(Qcow2Problem::ClusterBits { actual: bits }));
        }
        for bits in 9..14 {
            assert_eq!(Geometry::new(bits, true), Err(Qcow2Problem::ClusterBitsExtended { actual: bits }));
        }
    }
}
