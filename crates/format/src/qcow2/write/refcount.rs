//! Allocation of host clusters and their reference counts, 16 bits each, for a file that only grows.

use std::collections::VecDeque;

use kiln_disk::{ByteSink, Error, FileOffset, Result};

/// QEMU opens no image with more bytes of refcount table (QCOW_MAX_REFTABLE_SIZE).
const MAX_TABLE_BYTES: u64 = 8 << 20;

/// Counts the references to every cluster handed out; holds only what can still change.
pub(super) struct Refcounts {
    cluster_size: u64,
    /// Clusters handed out; the next one has this number.
    clusters: u64,
    /// Offsets of the blocks written so far.
    table: Vec<u64>,
    /// Counts of the clusters behind those that written blocks cover.
    counts: VecDeque<u16>,
}

impl Refcounts {
    pub(super) fn new(cluster_size: u64) -> Self {
        Self { cluster_size, clusters: 0, table: Vec::new(), counts: VecDeque::new() }
    }

    /// Clusters that one block counts.
    fn per_block(&self) -> u64 {
        self.cluster_size / 2
    }

    /// The first cluster that no written block covers.
    fn base(&self) -> u64 {
        u64::try_from(self.table.len()).unwrap_or(u64::MAX).saturating_mul(self.per_block())
    }

    /// The offset that the next cluster will have: the length of the file.
    pub(super) fn next(&self) -> u64 {
        self.clusters.saturating_mul(self.cluster_size)
    }

    /// Hands out `count` clusters in a row, each with one reference; answers the offset of the first.
    pub(super) fn allocate(&mut self, count: u64) -> Result<u64> {
        let at = self.next();
        let end = self.clusters.saturating_add(count);
        let blocks = end.div_ceil(self.per_block());
        // Entries hold offsets of 56 bits; the table's limit comes long before.
        if blocks.saturating_mul(8) > MAX_TABLE_BYTES {
            return Err(Error::Refused {
                code: "qcow2.size.file",
                what: "bytes of file in clusters this small".to_owned(),
                asked: end.saturating_mul(self.cluster_size),
                allowed: (MAX_TABLE_BYTES / 8)
                    .saturating_mul(self.per_block())
                    .saturating_mul(self.cluster_size),
                hint: "choose a larger cluster_size",
            });
        }
        for _ in 0..count {
            self.counts.push_back(1);
        }
        self.clusters = end;
        Ok(at)
    }

    fn count_of(&mut self, cluster: u64) -> Option<&mut u16> {
        let index = cluster.checked_sub(self.base())?;
        self.counts.get_mut(usize::try_from(index).ok()?)
    }

    /// Whether one more piece of compressed data may share this cluster.
    pub(super) fn can_share(&mut self, cluster: u64) -> bool {
        self.count_of(cluster).is_some_and(|count| *count < u16::MAX)
    }

    /// Adds a reference.
    pub(super) fn share(&mut self, cluster: u64) {
        if let Some(count) = self.count_of(cluster) {
            *count = count.saturating_add(1);
        }
    }

    /// Writes the blocks whose clusters are all handed out and numbered below `settled`.
    pub(super) fn retire(&mut self, settled: u64, sink: &dyn ByteSink) -> Result<()> {
        while self.base().saturating_add(self.per_block()) <= settled.min(self.clusters) {
            let at = self.allocate(1)?;
            self.write_block(at, sink)?;
        }
        Ok(())
    }

    fn write_block(&mut self, at: u64, sink: &dyn ByteSink) -> Result<()> {
        let take = usize::try_from(self.per_block()).unwrap_or(usize::MAX).min(self.counts.len());
        let bytes: Vec<u8> = self.counts.drain(..take).flat_map(u16::to_be_bytes).collect();
        sink.write_bytes(FileOffset::new(at), &bytes)?;
        self.table.push(at);
        Ok(())
    }

    /// Writes what is left: the remaining blocks, then the table, both counted in themselves. Answers the table's
    /// offset and its length in clusters.
    pub(super) fn finish(&mut self, sink: &dyn ByteSink) -> Result<(u64, u64)> {
        let written = u64::try_from(self.table.len()).unwrap_or(u64::MAX);
        let (mut blocks, mut table_clusters) = (written, 1_u64);
        // More blocks need more clusters need more blocks: grows at most a few times.
        loop {
            let new_blocks = blocks.saturating_sub(written);
            let clusters = self.clusters.saturating_add(new_blocks).saturating_add(table_clusters);
            let (more, wider) = (
                clusters.div_ceil(self.per_block()),
                blocks.saturating_mul(8).div_ceil(self.cluster_size).max(1),
            );
            if more <= blocks && wider <= table_clusters {
                break;
            }
            blocks = blocks.max(more);
            table_clusters = table_clusters.max(wider);
        }
        let new_blocks = blocks.saturating_sub(written);
        let blocks_at = self.allocate(new_blocks)?;
        let table_at = self.allocate(table_clusters)?;
        for number in 0..new_blocks {
            self.write_block(blocks_at.saturating_add(number.saturating_mul(self.cluster_size)), sink)?;
        }
        let table: Vec<u8> = self.table.iter().flat_map(|at| at.to_be_bytes()).collect();
        sink.write_bytes(FileOffset::new(table_at), &table)?;
        Ok((table_at, table_clusters))
    }
}
