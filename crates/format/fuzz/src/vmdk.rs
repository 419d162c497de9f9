//! Everything that can be done with a VMDK from a stranger. Shared by the fuzz target and the test suite.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Budget, GuestOffset, Limits, MemorySource, Silent};
use kiln_format::wrap::{Arriving, ByteStream, Wrapped};
use kiln_format::{CheckScope, ExternalRef, OpenContext, Resolved, Resolver, Tolerance, vmdk as format};

/// Whatever is asked for is the file itself: the shortest way to a loop.
struct Itself(Arc<MemorySource>);

impl Resolver for Itself {
    fn resolve(&self, _reference: &ExternalRef) -> kiln_disk::Result<Resolved> {
        Ok(Resolved { source: self.0.clone(), format: None })
    }
}

/// Opens the bytes both ways, walks, reads and checks what opens. Answers whether anything did.
pub(crate) fn vmdk(bytes: &[u8]) -> bool {
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    let mut opened = false;
    for tolerance in [Tolerance::Strict, Tolerance::Damaged] {
        let context = OpenContext {
            resolver: Arc::new(Itself(Arc::clone(&source))),
            budget: Arc::new(Budget::new(Limits::INSPECT)),
            tolerance,
            ..OpenContext::new()
        };
        let Ok(image) = (format::FORMAT.open)(source.clone(), &context) else { continue };
        opened = true;
        assert_eq!(image.facts().disk_bytes, image.disk_len());
        walk(image.as_ref());
        let _ = image.check(CheckScope::Data, &Silent);
    }
    stream(bytes);
    opened
}

/// Bytes that come once.
struct Once(Vec<u8>, usize);

impl ByteStream for Once {
    fn read_some(&mut self, buf: &mut [u8]) -> kiln_disk::Result<usize> {
        let len = buf.len().min(self.0.len() - self.1).min(5000);
        buf[..len].copy_from_slice(&self.0[self.1..self.1 + len]);
        self.1 += len;
        Ok(len)
    }
}

/// Reads the bytes front to back, up to their first fault.
fn stream(bytes: &[u8]) {
    let stream = Box::new(Once(bytes.to_vec(), 0));
    let file = Arriving { stream, label: "x".to_owned(), byte_len: None, ends: None };
    let Ok(wrapped) = Wrapped::arriving(file, 1) else { return };
    let Some(facts) = wrapped.streamed() else { return };
    if let Ok(disk) = wrapped.into_disk(facts.disk_bytes) {
        let _ = disk.finish();
    }
}

/// A bounded walk that holds the disk to its laws.
fn walk(image: &dyn kiln_format::Image) {
    let mut buf = vec![0; 4096];
    let limit = NonZeroU64::new(1 << 24).expect("not zero");
    let mut at = 0;
    for _ in 0..200 {
        if at >= image.disk_len() {
            break;
        }
        let len = (image.disk_len() - at).min(buf.len() as u64) as usize;
        let read = image.read_guest(GuestOffset::new(at), &mut buf[..len]);
        match image.extent_at(GuestOffset::new(at), limit) {
            Ok(extent) => {
                assert_eq!(extent.start.get(), at);
                assert!(extent.len <= limit && extent.end().get() <= image.disk_len());
                let seen = len.min(extent.len.get() as usize);
                if read.is_ok() && !extent.kind.is_data() {
                    assert!(buf[..seen].iter().all(|byte| *byte == 0), "a hole with data at {at:#x}");
                }
                at = extent.end().get();
            }
            Err(_) => at += len as u64,
        }
    }
}
