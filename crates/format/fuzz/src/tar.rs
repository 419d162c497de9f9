//! Everything that can be done with a tar archive from a stranger. Shared by the fuzz target and the test suite.

use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, FileOffset, Limits, MemorySource, RunKind};
use kiln_format::tar::list;

/// Lists the bytes and reads some of every member. Answers whether they are an archive.
pub(crate) fn tar(bytes: &[u8]) -> bool {
    let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(bytes.to_vec()));
    let Ok(archive) = list(&source, &Budget::new(Limits::INSPECT)) else { return false };
    let mut end = 0;
    for member in &archive.members {
        assert!(member.header_at.get() >= end && member.data_at > member.header_at);
        end = member.data_at.get() + member.stored_len;
        assert!(end <= bytes.len() as u64);
        let _ = (member.name(), member.plain_name());
        walk(member.source().as_ref());
    }
    true
}

/// A bounded walk: runs tile the member, holes read as zeros.
fn walk(source: &dyn ByteSource) {
    let mut at = 0;
    for _ in 0..100 {
        let Some(run) = source.run_at(FileOffset::new(at)).expect("memory is readable") else {
            assert_eq!(at, source.byte_len());
            return;
        };
        let mut buf = vec![1; run.len.get().min(4096) as usize];
        source.read_bytes(FileOffset::new(at), &mut buf).expect("memory is readable");
        assert!(run.kind == RunKind::Data || buf.iter().all(|byte| *byte == 0), "a hole with data");
        at += run.len.get();
        assert!(at <= source.byte_len());
    }
}

/// Puts the checksums of all blocks that look like headers right, so that changes get past them.
pub(crate) fn reseal(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}
