//! Views of a disk: a part of it, and one whose small reads are remembered and paid for.

use std::collections::{HashMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::{Budget, Cost, Disk, Extent, ExtentKind, GuestOffset, Result, check_range};

/// A run of bytes of another disk.
pub struct Part {
    disk: Arc<dyn Disk>,
    start: u64,
    len: u64,
}

impl Part {
    /// `len` bytes from `start`, cut where the disk ends.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, start: u64, len: u64) -> Self {
        let len = len.min(disk.disk_len().saturating_sub(start));
        Self { disk, start, len }
    }
}

impl Disk for Part {
    fn disk_len(&self) -> u64 {
        self.len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.len)?;
        self.disk.read_guest(at.saturating_add(self.start), buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.len)?;
        let limit = NonZeroU64::new(limit.get().min(self.len.saturating_sub(at.get()))).unwrap_or(limit);
        let extent = self.disk.extent_at(at.saturating_add(self.start), limit)?;
        Ok(Extent { start: at, ..extent })
    }
}

/// Bytes remembered at a time, and how many of them.
const BLOCK: u64 = 64 << 10;
const BLOCKS: usize = 384;
/// Reads from this length on go past the cache.
const BIG: usize = 256 << 10;

/// A disk whose small reads are remembered, and whose every read is charged.
pub(crate) struct Metered {
    disk: Arc<dyn Disk>,
    budget: Arc<Budget>,
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    held: HashMap<u64, Arc<Vec<u8>>>,
    order: VecDeque<u64>,
}

impl Metered {
    pub(crate) fn new(disk: Arc<dyn Disk>, budget: Arc<Budget>) -> Self {
        Self { disk, budget, blocks: Mutex::default() }
    }

    fn block(&self, index: u64) -> Result<Arc<Vec<u8>>> {
        let held = |blocks: &Blocks| blocks.held.get(&index).cloned();
        if let Some(block) = held(&self.blocks.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(block);
        }
        let at = index.saturating_mul(BLOCK);
        let len = BLOCK.min(self.disk_len().saturating_sub(at));
        self.budget.charge(Cost::MetadataBytes, len)?;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        if !is_hole(self.disk.as_ref(), at, len) {
            self.disk.read_guest(GuestOffset::new(at), &mut bytes)?;
        }
        let block = Arc::new(bytes);
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if blocks.held.len() >= BLOCKS
            && let Some(oldest) = blocks.order.pop_front()
        {
            blocks.held.remove(&oldest);
        }
        blocks.held.insert(index, Arc::clone(&block));
        blocks.order.push_back(index);
        Ok(block)
    }
}

/// Whether nothing but zeros is stored there.
pub(crate) fn is_hole(disk: &dyn Disk, at: u64, len: u64) -> bool {
    let Some(limit) = NonZeroU64::new(len) else { return true };
    disk.extent_at(GuestOffset::new(at), limit)
        .is_ok_and(|extent| matches!(extent.kind, ExtentKind::Hole | ExtentKind::Zero) && extent.len == limit)
}

impl Disk for Metered {
    fn disk_len(&self) -> u64 {
        self.disk.disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        self.budget.charge(Cost::Nodes, 1)?;
        self.budget.check_time()?;
        if buf.len() >= BIG {
            self.budget.charge(Cost::MetadataBytes, u64::try_from(buf.len()).unwrap_or(u64::MAX))?;
            return self.disk.read_guest(at, buf);
        }
        let (mut at, mut rest) = (at.get(), buf);
        while !rest.is_empty() {
            let block = self.block(at / BLOCK)?;
            let from = usize::try_from(at % BLOCK).unwrap_or(0);
            let bytes = block.get(from..).unwrap_or_default();
            let len = bytes.len().min(rest.len());
            let (Some(bytes), Some((target, behind))) = (bytes.get(..len), rest.split_at_mut_checked(len))
            else {
                break;
            };
            if len == 0 {
                break;
            }
            target.copy_from_slice(bytes);
            at = at.saturating_add(u64::try_from(len).unwrap_or(0));
            rest = behind;
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        self.disk.extent_at(at, limit)
    }
}
