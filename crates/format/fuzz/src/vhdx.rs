//! Everything that can be done with a VHDX from a stranger. Shared by the fuzz target and the test suite.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{Budget, Error, Limits, MemorySource, Silent};
use kiln_format::{AllowList, CheckScope, Image, OpenContext, Resolved, Tolerance, vhdx as format};

/// Opens the bytes both ways, walks, reads and checks what opens. Answers whether anything did.
///
/// Invariants: no panic; the disk keeps its laws; a check ends with findings or by its budget.
pub(crate) fn vhdx(bytes: &[u8]) -> bool {
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    let mut opened = false;
    for tolerance in [Tolerance::Strict, Tolerance::Damaged] {
        // The image is its own parent: the shortest way to a loop.
        let mut list = AllowList::default();
        list.allow("parent.vhdx", Resolved { source: source.clone(), format: None });
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
        match image.check(CheckScope::Data, &Silent) {
            Ok(_) | Err(Error::Refused { .. }) => {}
            Err(other) => panic!("a check ended with {other}"),
        }
    }
    opened
}

/// A bounded walk that holds the disk to its laws.
fn walk(image: &dyn Image) {
    let mut buf = vec![0; 70_000];
    for extent in kiln_disk::extents(image, NonZeroU64::MAX).take(300) {
        let Ok(extent) = extent else { break };
        assert!(extent.end().get() <= image.disk_len());
        let len = usize::try_from(extent.len.get()).unwrap_or(usize::MAX).min(buf.len());
        let read = image.read_guest(extent.start, &mut buf[..len]);
        if !extent.kind.is_data() {
            read.expect("a hole of a known map reads");
            assert!(kiln_disk::zero::is_zero(&buf[..len]), "a hole with data at {}", extent.start);
        }
    }
}

/// An input in a few bytes: structures without the mebibytes of zeros between them. Each record is a place in units
/// of 4 KiB (two bytes, little-endian), a length in units of 16 bytes (one byte), and the bytes.
pub(crate) fn expand(records: &[u8]) -> Vec<u8> {
    let mut file = vec![0; 6 << 20];
    let mut rest = records;
    while let [low, high, units, more @ ..] = rest {
        let at = usize::from(u16::from_le_bytes([*low, *high])) * 4096;
        let len = (usize::from(*units) * 16).min(more.len());
        let end = (at + len).min(file.len());
        if at < end {
            file[at..end].copy_from_slice(&more[..end - at]);
        }
        rest = &more[len..];
    }
    file
}

/// Puts checksums right, so that changes get past them: headers, region tables, and entries of the log.
pub(crate) fn reseal(bytes: &mut [u8]) {
    for (at, len) in [(64 << 10, 4096), (128 << 10, 4096), (192 << 10, 65_536), (256 << 10, 65_536)] {
        seal(bytes, at, len);
    }
    let log = 1 << 20..2 << 20;
    let mut at = log.start;
    while at + 4096 <= bytes.len().min(log.end) {
        let mut step = 4096;
        if bytes[at..].starts_with(b"loge") {
            let len = u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap_or_default()) as usize;
            if len > 0 && len.is_multiple_of(4096) && at + len <= bytes.len().min(log.end) {
                seal(bytes, at, len);
                step = len;
            }
        }
        at += step;
    }
}

fn seal(bytes: &mut [u8], at: usize, len: usize) {
    let Some(structure) = bytes.get_mut(at..at + len) else { return };
    structure[4..8].fill(0);
    let sum = crc32c(structure);
    structure[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// CRC-32C, a byte at a time.
fn crc32c(bytes: &[u8]) -> u32 {
    static TABLE: std::sync::LazyLock<Vec<u32>> = std::sync::LazyLock::new(|| {
        let entry = |n: u32| (0..8).fold(n, |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()));
        (0..256).map(entry).collect()
    });
    !bytes.iter().fold(u32::MAX, |sum, byte| (sum >> 8) ^ TABLE[((sum ^ u32::from(*byte)) & 0xff) as usize])
}
