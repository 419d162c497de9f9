//! Compressed files made by the real programs: every byte comes out, in every way of taking it.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use kiln_disk::digest::{HashJob, hash_disk};
use kiln_disk::{ByteSource, Disk, FileOffset, FileSource, MemorySource, Observer, Silent};
use kiln_format::Identity;
use kiln_format::raw::RawImage;
use kiln_format::wrap::{MAX_DEPTH, Place, Wrapped, unwrap};
use kiln_testkit::wrap::{packed, sample, through};
use proptest::prelude::*;

const ALL: [&str; 5] = ["gzip", "xz", "zstd", "bzip2", "lz4"];

fn source(bytes: &[u8]) -> Arc<dyn ByteSource> {
    Arc::new(MemorySource::new(bytes.to_vec()))
}

fn spool(bytes: &[u8]) -> kiln_disk::Result<(Vec<&'static str>, Vec<u8>)> {
    let place = Place { dir: Path::new("/tmp"), max_len: 1 << 40, threads: 2 };
    let inside = unwrap(&source(bytes), place, &Silent)?.expect("it is wrapped");
    let mut content = vec![0; usize::try_from(inside.source.byte_len()).unwrap()];
    inside.source.read_bytes(FileOffset::ZERO, &mut content)?;
    Ok((inside.layers, content))
}

#[track_caller]
fn assert_content(wrapped: &[u8], layers: &[&str], content: &[u8]) {
    let (found, bytes) = spool(wrapped).unwrap();
    assert_eq!(found, layers);
    assert!(bytes == content, "{layers:?}: {} bytes for {}", bytes.len(), content.len());
}

#[test]
fn content_of_every_program_comes_out() {
    for len in [0, 1, 511, 70_000, 1 << 20, (5 << 20) + 77] {
        let plain = sample(3, len);
        for id in ALL {
            assert_content(&packed(id, &plain), &[id], &plain);
        }
    }
}

#[test]
fn every_way_that_the_programs_pack_is_read() {
    let plain = sample(4, (9 << 20) + 1);
    let ways: [(&str, &str, &[&str]); 22] = [
        ("gzip", "gzip", &["-1", "-c"]),
        ("gzip", "gzip", &["-9", "-c", "-n"]),
        ("xz", "xz", &["-0", "-c", "--check=crc32"]),
        ("xz", "xz", &["-c", "-T2", "--block-size=1MiB"]),
        ("xz", "xz", &["-c", "-T1", "--block-size=700KiB"]),
        ("xz", "xz", &["-c", "--check=sha256", "-T2", "--block-size=3MiB"]),
        ("xz", "xz", &["-c", "--check=none"]),
        ("xz", "xz", &["-9e", "-c"]),
        ("xz", "xz", &["-c", "--x86", "--lzma2=preset=3"]),
        ("xz", "xz", &["-c", "--delta=dist=4", "--lzma2=preset=1,dict=64MiB"]),
        ("zstd", "zstd", &["-q", "-c", "-1", "--no-check"]),
        ("zstd", "zstd", &["-q", "-c", "-19", "-T2"]),
        ("zstd", "zstd", &["-q", "-c", "--long=26"]),
        ("zstd", "zstd", &["-q", "-c", "--no-content-size"]),
        ("zstd", "pzstd", &["-q", "-c", "-p", "3"]),
        ("bzip2", "bzip2", &["-1", "-c"]),
        ("bzip2", "bzip2", &["-9", "-c"]),
        ("lz4", "lz4", &["-q", "-c", "-B4", "-BD"]),
        ("lz4", "lz4", &["-q", "-c", "-B7", "-BI", "-BX", "--no-frame-crc"]),
        ("lz4", "lz4", &["-q", "-c", "-9", "-BD", "-BX"]),
        ("lz4", "lz4", &["-q", "-c", "-B5", "--fast=5"]),
        ("lz4", "lz4", &["-q", "-c", "-B6", "-BD"]),
    ];
    for (id, program, words) in ways {
        let wrapped = through(program, words, &plain);
        let (layers, content) =
            spool(&wrapped).unwrap_or_else(|error| panic!("{program} {words:?}: {error:?}"));
        assert_eq!(layers, [id]);
        assert!(content == plain, "{program} {words:?}");
    }
}

#[test]
fn members_and_frames_follow_each_other() {
    let (first, second) = (sample(5, 300_000), sample(6, 1_200_000));
    let both = [first.clone(), second.clone()].concat();
    for id in ALL {
        let empty = packed(id, b"");
        let wrapped = [packed(id, &first), empty.clone(), packed(id, &second), empty].concat();
        assert_content(&wrapped, &[id], &both);
        // Tapes and sectors are filled up with zeros.
        let padded = [wrapped, vec![0; 1024]].concat();
        assert_content(&padded, &[id], &both);
    }
}

#[test]
fn headers_of_gzip_with_every_optional_field_are_passed_over() {
    // RFC 1952, 2.3.1: FHCRC, FEXTRA, FNAME and FCOMMENT, in the order of the fields.
    let plain = sample(7, 10_000);
    let usual = through("gzip", &["-n", "-c"], &plain);
    let mut full = usual[..10].to_vec();
    full[3] = 2 | 4 | 8 | 16;
    full.extend([6, 0]);
    full.extend(b"BC\x02\0ab");
    full.extend(b"disk.raw\0a comment\0");
    let mut crc = flate2::Crc::new();
    crc.update(&full);
    let crc = crc.sum().to_le_bytes();
    full.extend(&crc[..2]);
    let header = full.len();
    full.extend(&usual[10..]);
    assert_content(&full, &["gzip"], &plain);
    full[header - 1] ^= 1;
    let error = spool(&full).unwrap_err();
    assert_eq!((error.code(), error.offset()), ("wrap.checksum", Some(FileOffset::new(header as u64 - 2))));
}

#[test]
fn wrappers_in_wrappers_are_taken_off_up_to_the_limit() {
    let plain = sample(8, 200_000);
    let two = packed("zstd", &packed("gzip", &plain));
    assert_content(&two, &["zstd", "gzip"], &plain);
    let three = packed("xz", &two);
    assert_content(&three, &["xz", "zstd", "gzip"], &plain);
    assert_eq!(MAX_DEPTH, 3);
    let four = packed("lz4", &three);
    assert_eq!(spool(&four).unwrap_err().code(), "wrap.depth");
}

#[test]
fn what_is_not_wrapped_is_left_alone() {
    for bytes in [sample(9, 100_000), vec![], vec![0x1f, 0x8b], b"BZh91AY".to_vec()] {
        assert!(Wrapped::open(&source(&bytes), 1).unwrap().is_none());
    }
}

#[test]
fn lengths_are_known_where_the_file_tells_them() {
    let plain = sample(10, 6 << 20);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plain");
    std::fs::write(&path, &plain).unwrap();
    let file = path.to_str().unwrap();
    let known = |wrapped: &[u8]| Wrapped::open(&source(wrapped), 1).unwrap().unwrap().claimed_len().unwrap();
    let len = Some(plain.len() as u64);
    assert_eq!(known(&through("zstd", &["-q", "-c", file], b"")), len);
    assert_eq!(known(&through("pzstd", &["-q", "-c", file], b"")), None);
    let frames =
        [through("zstd", &["-q", "-c", file], b""), through("zstd", &["-q", "-c", file], b"")].concat();
    assert_eq!(known(&frames), Some(plain.len() as u64 * 2));
    assert_eq!(known(&through("zstd", &["-q", "-c", "--no-content-size", file], b"")), None);
    assert_eq!(known(&packed("xz", &plain)), len);
    let blocks = through("xz", &["-c", "-T2", "--block-size=256KiB"], &plain);
    assert_eq!(known(&blocks), len);
    let streams = [blocks, vec![0; 8], packed("xz", &plain)].concat();
    assert_eq!(known(&streams), Some(plain.len() as u64 * 2));
    assert_eq!(known(&through("lz4", &["-q", "-c", "--content-size", file], b"")), len);
    assert_eq!(known(&packed("lz4", &plain)), None);
    // So short that no other length has these low 32 bits.
    assert_eq!(known(&packed("gzip", &plain)), len);
    assert_eq!(known(&packed("bzip2", &plain)), None);
    assert_eq!(known(&packed("bzip2", b"short")), Some(5));
}

#[test]
fn content_goes_straight_into_a_digest_on_any_number_of_threads() {
    let plain = sample(11, (40 << 20) + 4608);
    let expected = hash_disk(&RawImage::new(source(&plain)), HashJob::default(), &Silent).unwrap();
    for id in ALL {
        let wrapped = packed(id, &plain);
        for threads in [1, 2, 5] {
            let opened = Wrapped::open(&source(&wrapped), 2).unwrap().unwrap();
            assert!(matches!(opened.identity(), Identity::Raw { .. }));
            let disk = opened.into_disk(plain.len() as u64).unwrap();
            let job = HashJob { threads, ..HashJob::default() };
            let found = hash_disk(&disk, job, &Silent).unwrap();
            assert_eq!(found.content, expected.content, "{id} {threads}");
            let ending = disk.finish().unwrap();
            assert_eq!((ending.len, &ending.tail[..]), (plain.len() as u64, &plain[plain.len() - 1024..]));
        }
    }
}

#[test]
fn a_length_that_was_wrong_is_an_error_and_never_a_disk() {
    let plain = sample(12, 3 << 20);
    let wrapped = packed("gzip", &plain);
    for claimed in [1 << 20, (3 << 20) - 1, (3 << 20) + 1, 64 << 20] {
        let disk = Wrapped::open(&source(&wrapped), 1).unwrap().unwrap().into_disk(claimed).unwrap();
        let hashed = hash_disk(&disk, HashJob { threads: 2, ..HashJob::default() }, &Silent);
        assert!(hashed.is_ok() || hashed.unwrap_err().code() == "stream.length");
        assert_eq!(disk.finish().unwrap_err().code(), "stream.length", "{claimed}");
    }
}

#[test]
fn a_second_read_of_the_same_bytes_is_refused() {
    let wrapped = packed("gzip", &sample(13, 3 << 20));
    let disk = Wrapped::open(&source(&wrapped), 1).unwrap().unwrap().into_disk(3 << 20).unwrap();
    let mut buf = vec![0; 1 << 20];
    disk.read_guest(kiln_disk::GuestOffset::ZERO, &mut buf).unwrap();
    let error = disk.read_guest(kiln_disk::GuestOffset::ZERO, &mut buf).unwrap_err();
    assert_eq!(error.code(), "stream.order");
}

#[test]
fn a_disk_that_nobody_reads_to_the_end_lets_go_of_its_thread() {
    let wrapped = packed("lz4", &sample(14, 60 << 20));
    for _ in 0..20 {
        let disk = Wrapped::open(&source(&wrapped), 1).unwrap().unwrap().into_disk(60 << 20).unwrap();
        disk.extent_at(kiln_disk::GuestOffset::ZERO, std::num::NonZeroU64::MAX).unwrap();
    }
}

#[test]
fn zeros_become_holes_of_the_temporary_file() {
    let plain = [sample(15, 1 << 20), vec![0; 200 << 20]].concat();
    let place = Place { dir: Path::new("/tmp"), max_len: 1 << 40, threads: 1 };
    let wrapped = Wrapped::open(&source(&packed("zstd", &plain)), 1).unwrap().unwrap();
    let file: FileSource = wrapped.spool(place.dir, place.max_len, &Silent).unwrap();
    assert_eq!(file.byte_len(), plain.len() as u64);
    assert!(file.allocated_len().unwrap() < 2 << 20);
}

#[test]
fn a_wish_to_stop_is_heard_while_unpacking() {
    struct Stop(std::sync::atomic::AtomicU32);
    impl Observer for Stop {
        fn event(&self, _event: kiln_disk::Event<'_>) {}
        fn is_cancelled(&self) -> bool {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 5
        }
    }
    let wrapped = Wrapped::open(&source(&packed("gzip", &sample(16, 30 << 20))), 1).unwrap().unwrap();
    let error = wrapped.spool(Path::new("/tmp"), u64::MAX, &Stop(0.into())).unwrap_err();
    assert_eq!(error.code(), "cancelled");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any bytes, cut into any members, padded or not.
    #[test]
    fn random_content_in_random_members_comes_out(
        runs in proptest::collection::vec((any::<u8>(), 1_usize..60_000, any::<bool>()), 0..12),
        cuts in proptest::collection::vec(0_usize..400_000, 0..4),
        which in 0_usize..5,
        padding in 0_usize..3,
    ) {
        let mut plain = Vec::new();
        for (seed, len, noise) in runs {
            if noise {
                plain.extend(sample(seed.into(), len));
            } else {
                plain.extend(std::iter::repeat_n(seed, len));
            }
        }
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(plain.len())).collect();
        cuts.sort_unstable();
        let id = ALL[which];
        let mut wrapped = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([plain.len()]) {
            wrapped.write_all(&packed(id, &plain[from..cut])).unwrap();
            from = cut;
        }
        wrapped.extend(vec![0; padding * 512]);
        let (layers, content) = spool(&wrapped).unwrap();
        prop_assert_eq!(layers, vec![id]);
        prop_assert!(content == plain);
    }
}
