//! Slices of L1 and L2 tables in memory: bounded, paid for, shared by all threads.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use kiln_disk::{Budget, Cost, Result};

use super::geometry::as_bytes;

/// Table entries in the machine's byte order.
pub(super) type Slice = Arc<[u64]>;

/// Shards, so that threads at different places of the disk do not meet at one lock.
const SHARDS: usize = 8;
/// Most bytes of table entries held by one image.
const CAPACITY: u64 = 8 << 20;

struct Held {
    slice: Slice,
    last_used: AtomicU64,
}

#[derive(Default)]
struct Shard {
    slices: HashMap<u64, Held>,
    bytes: u64,
}

/// The cache. What it holds is charged to [`Cost::Memory`] and given back on eviction and drop; when the budget has
/// no room, slices are handed out without being kept.
pub(super) struct TableCache {
    shards: [RwLock<Shard>; SHARDS],
    clock: AtomicU64,
    budget: Arc<Budget>,
}

impl TableCache {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self { shards: Default::default(), clock: AtomicU64::new(0), budget }
    }

    /// The slice that starts at byte `at` of the file, loaded when it is not held.
    ///
    /// # Errors
    /// Those of `load`.
    pub(super) fn get(&self, at: u64, load: impl FnOnce() -> Result<Slice>) -> Result<Slice> {
        let shard = self.shard(at);
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        if let Some(held) = shard.read().unwrap_or_else(PoisonError::into_inner).slices.get(&at) {
            held.last_used.store(now, Ordering::Relaxed);
            return Ok(Arc::clone(&held.slice));
        }
        // Two threads may load the same slice at once; that costs a read, a lock held over it would cost more.
        let slice = load()?;
        self.keep(shard, at, now, &slice);
        Ok(slice)
    }

    fn keep(&self, shard: &RwLock<Shard>, at: u64, now: u64, slice: &Slice) {
        let cost = bytes_of(slice);
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        if shard.slices.contains_key(&at) {
            return;
        }
        while shard.bytes.saturating_add(cost) > CAPACITY / 8 {
            let oldest = shard.slices.iter().min_by_key(|(_, held)| held.last_used.load(Ordering::Relaxed));
            let Some(oldest) = oldest.map(|(at, _)| *at) else { break };
            if let Some(held) = shard.slices.remove(&oldest) {
                let freed = bytes_of(&held.slice);
                shard.bytes = shard.bytes.saturating_sub(freed);
                self.budget.release(freed);
            }
        }
        if self.budget.charge(Cost::Memory, cost).is_ok() {
            shard.bytes = shard.bytes.saturating_add(cost);
            shard.slices.insert(at, Held { slice: Arc::clone(slice), last_used: AtomicU64::new(now) });
        }
    }

    fn shard(&self, at: u64) -> &RwLock<Shard> {
        // Fibonacci hashing: neighbouring slices differ in few low bits only.
        let [top, ..] = at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        let [first, rest @ ..] = &self.shards;
        match usize::from(top & 7).checked_sub(1).and_then(|index| rest.get(index)) {
            Some(shard) => shard,
            None => first,
        }
    }
}

impl Drop for TableCache {
    fn drop(&mut self) {
        for shard in &mut self.shards {
            self.budget.release(shard.get_mut().unwrap_or_else(PoisonError::into_inner).bytes);
        }
    }
}

fn bytes_of(slice: &Slice) -> u64 {
    as_bytes(slice.len()).saturating_mul(8)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kiln_disk::{Budget, Cost, Limits};

    use super::{CAPACITY, TableCache};

    #[test]
    fn a_held_slice_is_not_loaded_again() {
        let cache = TableCache::new(Arc::new(Budget::default()));
        for _ in 0..3 {
            let mut loads = 0;
            let slice = cache.get(4096, || {
                loads += 1;
                Ok(Arc::from(vec![7; 8]))
            });
            assert_eq!(slice.unwrap().as_ref(), [7; 8]);
            assert!(loads <= 1);
        }
        assert!(cache.get(4096, || panic!("held")).is_ok());
    }

    #[test]
    fn the_cache_stays_within_its_capacity_and_gives_everything_back() {
        let budget = Arc::new(Budget::new(Limits { memory: CAPACITY, ..Limits::STANDARD }));
        let cache = TableCache::new(Arc::clone(&budget));
        for n in 0..1024_u64 {
            cache.get(n << 16, || Ok(Arc::from(vec![n; 8192]))).unwrap();
        }
        assert!(budget.charge(Cost::Memory, CAPACITY).is_err());
        drop(cache);
        assert!(budget.charge(Cost::Memory, CAPACITY).is_ok());
    }

    #[test]
    fn without_budget_slices_are_handed_out_and_not_kept() {
        let cache = TableCache::new(Arc::new(Budget::new(Limits { memory: 0, ..Limits::STANDARD })));
        for n in 0..4_u64 {
            assert_eq!(cache.get(0, || Ok(Arc::from(vec![n]))).unwrap().as_ref(), [n]);
        }
    }
}
