//! Buffers for large reads and writes.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Where a buffer begins, in bytes. The kernel copies to a page boundary several times faster than to the 16 bytes
/// behind one that an allocator gives: on AMD processors `rep movsb` is slow for a source and a destination that
/// nearly share their place in the page.
const ALIGNMENT: usize = 4096;

/// A buffer of fixed length that begins at a page boundary.
#[derive(Debug)]
pub struct PageBuffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl PageBuffer {
    /// A buffer of `len` zero bytes.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len.saturating_add(ALIGNMENT)];
        // Answers usize::MAX where it cannot tell; then the buffer begins where the allocation does.
        let start =
            Some(bytes.as_ptr().align_offset(ALIGNMENT)).filter(|start| *start < ALIGNMENT).unwrap_or(0);
        Self { bytes, start, len }
    }
}

impl Deref for PageBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let end = self.start.saturating_add(self.len);
        self.bytes.get(self.start..end).unwrap_or_default()
    }
}

impl DerefMut for PageBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let end = self.start.saturating_add(self.len);
        self.bytes.get_mut(self.start..end).unwrap_or_default()
    }
}

/// Buffers of one size that go round between threads, so that a long job allocates a window's worth once.
#[derive(Debug)]
pub struct BufferPool {
    len: usize,
    free: Mutex<Vec<PageBuffer>>,
}

impl BufferPool {
    /// Buffers of `len` bytes.
    #[must_use]
    pub const fn new(len: usize) -> Self {
        Self { len, free: Mutex::new(Vec::new()) }
    }

    /// A buffer; its content is whatever was in it.
    #[must_use]
    pub fn take(&self) -> PageBuffer {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| PageBuffer::new(self.len))
    }

    /// Puts a buffer back, the first to be taken again: it is the one still in the processor's cache.
    pub fn put(&self, buffer: PageBuffer) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::{BufferPool, PageBuffer};

    #[test]
    fn buffers_begin_at_a_page_and_have_their_length() {
        for len in [0, 1, 4096, 65_537, 1 << 20] {
            let mut buffer = PageBuffer::new(len);
            assert_eq!((buffer.len(), buffer.as_ptr().align_offset(4096)), (len, 0));
            buffer.fill(7);
            assert_eq!(buffer.iter().filter(|byte| **byte == 7).count(), len);
        }
    }

    #[test]
    fn the_buffer_put_back_last_is_taken_first() {
        let pool = BufferPool::new(16);
        let (mut one, two) = (pool.take(), pool.take());
        one[0] = 1;
        pool.put(two);
        pool.put(one);
        assert_eq!(pool.take()[0], 1);
        assert_eq!(pool.take()[0], 0);
    }
}
