//! Everything that can be done with a VHD from a stranger. Shared by the fuzz target and the test suite.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Budget, GuestOffset, Limits, MemorySource, Silent};
use kiln_format::{AllowList, CheckScope, OpenContext, Resolved, Tolerance, vhd as format};

/// Opens the bytes both ways, walks, reads and checks what opens. Answers whether anything did.
pub(crate) fn vhd(bytes: &[u8]) -> bool {
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    let mut opened = false;
    for tolerance in [Tolerance::Strict, Tolerance::Damaged] {
        // A differencing disk gets itself as its parent: the shortest way to a loop.
        let mut list = AllowList::default();
        list.allow("parent.vhd", Resolved { source: source.clone(), format: None });
        let context = OpenContext {
            resolver: Arc::new(list),
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
    opened
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

/// Puts checksums right, so that changes get past them.
pub(crate) fn reseal(bytes: &mut [u8]) {
    let len = bytes.len();
    for at in [0, len.saturating_sub(512), len.saturating_sub(511)] {
        if bytes[at..].starts_with(b"conectix") {
            seal(bytes, at, 512, 64);
            let offset = bytes
                .get(at + 16..at + 24)
                .map_or(0, |raw| u64::from_be_bytes(raw.try_into().unwrap_or_default()));
            if let Ok(header) = usize::try_from(offset)
                && bytes.get(header..).is_some_and(|rest| rest.starts_with(b"cxsparse"))
            {
                seal(bytes, header, 1024, 36);
            }
        }
    }
}

fn seal(bytes: &mut [u8], at: usize, len: usize, field: usize) {
    let end = bytes.len().min(at + len);
    let Some(structure) = bytes.get_mut(at..end).filter(|structure| structure.len() >= field + 4) else {
        return;
    };
    structure[field..field + 4].fill(0);
    let sum = structure.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    structure[field..field + 4].copy_from_slice(&(!sum).to_be_bytes());
}
