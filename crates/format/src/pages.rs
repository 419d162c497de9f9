//! Tables of a file, read page by page when somebody asks and kept within a bound.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::{Budget, ByteSource, Cost, FileOffset, Result};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Pages kept at once: 2 MiB, as much as the bitmaps or the table of half the largest VHD.
const MAX_PAGES: usize = 512;

/// A bounded cache over the parts of a file that are tables. Any number of threads may read.
pub(crate) struct Pages {
    source: Arc<dyn ByteSource>,
    budget: Arc<Budget>,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    pages: HashMap<u64, (Arc<[u8]>, u64)>,
    clock: u64,
}

impl Pages {
    pub(crate) fn new(source: Arc<dyn ByteSource>, budget: Arc<Budget>) -> Self {
        Self { source, budget, kept: Mutex::default() }
    }

    /// Fills `buf` from byte `at` of the file.
    pub(crate) fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let mut at = at;
        let mut rest = buf;
        while !rest.is_empty() {
            let start = at & !(PAGE - 1);
            let page = self.page(start)?;
            let skip = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
            let have = page.get(skip..).unwrap_or_default();
            let len = have.len().min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            match have.get(..len) {
                Some(bytes) if len > 0 => now.copy_from_slice(bytes),
                // Past the end of the file: let the source say so.
                _ => return self.source.read_bytes(FileOffset::new(at), later),
            }
            rest = later;
            at = at.saturating_add(u64::try_from(len).unwrap_or(u64::MAX));
        }
        Ok(())
    }

    fn page(&self, start: u64) -> Result<Arc<[u8]>> {
        if let Some(page) = self.lock().get(start) {
            return Ok(page);
        }
        // Two threads may read the same page at once: cheaper than holding the lock over a read.
        let len = self.source.byte_len().saturating_sub(start).min(PAGE);
        self.budget.charge(Cost::MetadataBytes, len)?;
        let mut page = vec![0; usize::try_from(len).unwrap_or(0)];
        self.source.read_bytes(FileOffset::new(start), &mut page)?;
        let page: Arc<[u8]> = page.into();
        let mut kept = self.lock();
        let full = kept.pages.len() >= MAX_PAGES || self.budget.charge(Cost::Memory, PAGE).is_err();
        if kept.put(start, Arc::clone(&page), full) {
            // Somebody else had put it there, or there was nothing to make room with.
            if !full {
                self.budget.release(PAGE);
            }
        }
        Ok(page)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // A panic elsewhere cannot leave a page half inserted.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn get(&mut self, start: u64) -> Option<Arc<[u8]>> {
        self.clock = self.clock.wrapping_add(1);
        let now = self.clock;
        self.pages.get_mut(&start).map(|(page, used)| {
            *used = now;
            Arc::clone(page)
        })
    }

    /// Keeps a page, in place of the least recently used one when `full`. Answers whether the number of pages
    /// stayed as it was.
    fn put(&mut self, start: u64, page: Arc<[u8]>, full: bool) -> bool {
        if self.pages.contains_key(&start) {
            return true;
        }
        if full {
            let oldest = self.pages.iter().min_by_key(|(_, (_, used))| *used).map(|(start, _)| *start);
            match oldest {
                Some(oldest) => self.pages.remove(&oldest),
                None => return true,
            };
        }
        self.pages.insert(start, (page, self.clock));
        full
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let count = u64::try_from(self.lock().pages.len()).unwrap_or(0);
        self.budget.release(count.saturating_mul(PAGE));
    }
}

#[cfg(test)]
mod tests {
    use kiln_disk::{Limits, MemorySource};

    use super::*;

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|n| (n / 7 % 251) as u8).collect()
    }

    #[test]
    fn reads_across_pages_are_exact_and_past_the_end_is_an_error() {
        let data = bytes(10_000);
        let pages = Pages::new(Arc::new(MemorySource::new(data.clone())), Arc::default());
        let mut buf = vec![0; 5000];
        pages.read(4000, &mut buf).unwrap();
        assert_eq!(buf, data[4000..9000]);
        assert_eq!(pages.read(6000, &mut buf).unwrap_err().code(), "io.short-read");
        assert_eq!(pages.read(1 << 40, &mut buf).unwrap_err().code(), "io.short-read");
    }

    #[test]
    fn memory_is_bounded_by_the_budget_and_given_back() {
        let limits = Limits { memory: 3 * PAGE, ..Limits::STANDARD };
        let budget = Arc::new(Budget::new(limits));
        let data = bytes(100 * PAGE as usize);
        let pages = Pages::new(Arc::new(MemorySource::new(data.clone())), Arc::clone(&budget));
        let mut buf = [0; 4];
        for round in 0..3_u64 {
            for page in 0..100 {
                let at = page * PAGE + round;
                pages.read(at, &mut buf).unwrap();
                assert_eq!(buf, data[at as usize..][..4]);
            }
        }
        assert_eq!(pages.lock().pages.len(), 3);
        drop(pages);
        budget.charge(Cost::Memory, 3 * PAGE).unwrap();
    }
}
