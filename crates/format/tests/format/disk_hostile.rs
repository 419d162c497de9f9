//! Partition tables and superblocks of strangers: damaged ones never panic, loop or send a look astray.

use kiln_testkit::damage::Workshop;

#[path = "../../fuzz/src/disk.rs"]
mod exercise;

/// 5,000 mutants of the first and last bytes of a real disk, the same each time.
#[test]
fn mutants_of_a_real_disk_are_looked_at_without_harm() {
    let dir = tempfile::tempdir().unwrap();
    let shop = Workshop::new(dir.path());
    let whole = std::fs::read(shop.path("disk.raw")).unwrap();
    // The table, the beginning of the file system, and the backup of the table: 96 KiB stand for all of it.
    let mut seed = whole[..64 << 10].to_vec();
    seed.extend_from_slice(&whole[1 << 20..(1 << 20) + (16 << 10)]);
    seed.extend_from_slice(&whole[whole.len() - (16 << 10)..]);
    assert_eq!(exercise::disk(&seed), 1);
    let interesting = [0_u8, 1, 2, 0x7f, 0x80, 0xee, 0xff];
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap()
    };
    // Where there is something to misread: boot record, header, entries, superblock, backup.
    let places =
        [446..512, 512..604, 1024..1280, 65_536 + 1024..65_536 + 1400, seed.len() - 512..seed.len() - 420];
    for _ in 0..5_000 {
        let mut bytes = seed.clone();
        for _ in 0..=next() % 6 {
            let place = &places[next() % places.len()];
            let at = place.start + next() % place.len();
            bytes[at] = if next() % 2 == 0 {
                interesting[next() % interesting.len()]
            } else {
                next().to_le_bytes()[0]
            };
        }
        if next() % 8 == 0 {
            bytes.truncate(next() % bytes.len());
        }
        exercise::disk(&bytes);
    }
}

/// A file system without a table, cut down by a copy that was stopped: the copies of its superblock tell.
#[test]
fn ext4_whose_end_was_never_written_is_told_by_its_copies() {
    use kiln_disk::{MemorySource, Silent};
    use kiln_format::deep::{DeepJob, verify};
    use kiln_format::{Choice, OpenContext};
    use std::sync::Arc;

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fs.raw");
    for (kind, word) in [("ext4", "ext4"), ("ext2", "ext2")] {
        std::fs::File::create(&path).unwrap().set_len(96 << 20).unwrap();
        let made = std::process::Command::new("mke2fs").args(["-q", "-F", "-t", kind]).arg(&path).status();
        assert!(made.expect("mke2fs is needed; `make setup` installs it").success());
        let look = |bytes: Vec<u8>| {
            let source = Arc::new(MemorySource::new(bytes));
            let job = DeepJob::default();
            verify(source.as_ref(), source.clone(), Choice::AsRaw, &OpenContext::new(), job, &Silent).unwrap()
        };
        let good = std::fs::read(&path).unwrap();
        let report = look(good.clone());
        assert!(report.check.findings.list().is_empty(), "{:?}", report.check.findings);
        assert!(report.digests.is_some());
        let mut stopped = good;
        stopped[40 << 20..].fill(0);
        let report = look(stopped);
        let found = &report.check.findings.list()[0];
        assert_eq!(found.check.id, "disk.fs.copy-missing");
        assert_eq!(found.file_at.unwrap().get(), 0);
        let words = report.check.layout.unwrap().words(found.guest.unwrap()).unwrap();
        assert_eq!(words, format!("in the volume ({word})"));
        assert!(report.digests.is_none());
    }
}
