//! Compressed files from strangers: bombs, cuts, flipped bits, mutants. Time and memory have a limit.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{ByteSource, Error, FileOffset, MemorySource, Silent};
use kiln_format::wrap::{Place, Unwrapped, WrapProblem, Wrapped, unwrap};
use kiln_testkit::oracle::peak_memory;
use kiln_testkit::wrap::{packed, sample, through};

const ALL: [&str; 5] = ["gzip", "xz", "zstd", "bzip2", "lz4"];

fn open(bytes: Vec<u8>, max_len: u64) -> kiln_disk::Result<Option<Unwrapped>> {
    let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(bytes));
    unwrap(&source, Place { dir: Path::new("/tmp"), max_len, threads: 2 }, &Silent)
}

fn content(bytes: Vec<u8>, max_len: u64) -> kiln_disk::Result<Vec<u8>> {
    let inside = open(bytes, max_len)?.expect("it is wrapped");
    let mut content = vec![0; usize::try_from(inside.source.byte_len()).unwrap()];
    inside.source.read_bytes(FileOffset::ZERO, &mut content)?;
    Ok(content)
}

#[track_caller]
fn code(bytes: Vec<u8>) -> &'static str {
    match content(bytes, 1 << 30) {
        Ok(content) => panic!("{} bytes came out", content.len()),
        Err(error) => error.code(),
    }
}

#[test]
fn a_cut_anywhere_is_named_at_the_end_of_the_file() {
    let plain = sample(20, 150_000);
    for id in ALL {
        let whole = packed(id, &plain);
        let early = 20.min(whole.len());
        for len in (early..whole.len()).step_by((whole.len() / 150).max(1)).chain([whole.len() - 1]) {
            let error = content(whole[..len].to_vec(), 1 << 30).unwrap_err();
            assert_eq!(
                error.problem(),
                Some(&WrapProblem::Truncated { wrapper: id }),
                "{id} {len}: {error:?}"
            );
            assert_eq!(error.offset(), Some(FileOffset::new(len as u64)), "{id} {len}");
            assert!(error.hint().is_some());
        }
    }
}

#[test]
fn no_flipped_bit_gives_other_bytes() {
    let plain = sample(21, 60_000);
    for id in ALL {
        let whole = packed(id, &plain);
        let mut refused = 0;
        for at in (0..whole.len()).step_by((whole.len() / 300).max(1)) {
            for bit in [0, 3, 7] {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                // No longer a wrapper, or a field without meaning for the content: both are fine.
                match open(bytes, 1 << 30) {
                    Ok(None) => refused += 1,
                    Ok(Some(inside)) => {
                        let mut content = vec![0; usize::try_from(inside.source.byte_len()).unwrap()];
                        inside.source.read_bytes(FileOffset::ZERO, &mut content).unwrap();
                        assert!(content == plain, "{id}: bit {bit} of byte {at}");
                    }
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > 500, "{id}: only {refused} noticed");
    }
}

#[test]
fn what_follows_is_named_with_its_place() {
    let plain = sample(22, 30_000);
    for id in ALL {
        let whole = packed(id, &plain);
        let len = whole.len() as u64;
        for garbage in [&b"garbage"[..], &[0, 0, 0, 0, 0, 0, 0, 1], &[0x1f], &[0x28, 0xb5, 0x2f]] {
            let error = content([&whole, garbage].concat(), 1 << 30).unwrap_err();
            assert!(matches!(error.code(), "wrap.trailing" | "wrap.data"), "{id} {garbage:?}: {error:?}");
            let at = error.offset().unwrap().get();
            assert!((len..=len + garbage.len() as u64).contains(&at), "{id} {garbage:?}: {at}");
        }
    }
}

#[test]
fn t_dos_05_a_gibibyte_of_zeros_stops_at_the_limit_in_little_memory() {
    for id in ALL {
        // Made in pieces: a gibibyte of content in a test's memory would hide what the reader takes.
        let piece = packed(id, &vec![0; 64 << 20]);
        let bomb: Vec<u8> = std::iter::repeat_n(piece, 16).flatten().collect();
        let begun = Instant::now();
        let error = open(bomb.clone(), 100 << 20).err().unwrap();
        assert_eq!(error.code(), "wrap.too-long", "{id}");
        assert!(begun.elapsed() < Duration::from_secs(20), "{id}: {:?}", begun.elapsed());
        // Nominal length alone is no crime: it is a hole.
        if id != "bzip2" {
            let inside = open(bomb, 2 << 30).unwrap().unwrap();
            assert_eq!(inside.source.byte_len(), 1 << 30, "{id}");
        }
    }
}

#[test]
fn t_dos_05_a_tebibyte_is_known_by_its_head_at_once() {
    let frame = through("sh", &["-c", "head -c 1073741824 /dev/zero | zstd -q -c"], b"");
    let bomb: Vec<u8> = std::iter::repeat_n(frame, 1024).flatten().collect();
    let begun = Instant::now();
    let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(bomb));
    let wrapped = Wrapped::open(&source, 1).unwrap().unwrap();
    assert_eq!(wrapped.layers(), ["zstd"]);
    assert!(begun.elapsed() < Duration::from_secs(2));
    let error = wrapped.spool(Path::new("/tmp"), 4 << 30, &Silent).unwrap_err();
    assert_eq!(error.code(), "wrap.too-long");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn t_dos_05_wrappers_that_each_compress_well_are_a_bomb() {
    // Three deep: 4 GiB of zeros, whose gzip is megabytes of repetition, and so on.
    let command = "head -c 4294967296 /dev/zero | lz4 -q -c | gzip -1 -c | zstd -q -c";
    let bomb = through("sh", &["-c", command], b"");
    assert!(bomb.len() < 200_000, "{}", bomb.len());
    let begun = Instant::now();
    let error = open(bomb, 1 << 40).err().map(|error| error.code());
    assert!(matches!(error, Some("wrap.ratio") | None), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
}

#[test]
fn t_dos_05_a_million_empty_members_are_refused() {
    for id in ALL {
        let empty = packed(id, b"");
        let bomb: Vec<u8> = std::iter::repeat_n(empty, 1_000_000).flatten().collect();
        let begun = Instant::now();
        let error = open(bomb, 1 << 30).err().unwrap();
        assert_eq!(error.code(), "wrap.members", "{id}: {error:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{id}");
    }
    // Skippable frames, of no content at all (RFC 8878, 3.1.2).
    let skippable = [0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0];
    let frame = packed("zstd", &sample(23, 5000));
    let bomb = [frame, skippable.repeat(1_000_000)].concat();
    assert_eq!(code(bomb), "wrap.members");
}

#[test]
fn t_dos_05_windows_and_dictionaries_beyond_the_limit_are_refused_before_they_are_made() {
    let before = peak_memory();
    // Window_Descriptor (RFC 8878, 3.1.1.1.2): exponent 21 is a window of 2^31 bytes.
    let zstd = [&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3][..], &[0; 70_000]].concat();
    assert_eq!(code(zstd), "wrap.memory");
    // xz with a dictionary of 1.5 GiB, made by the real program from little data: only the header says so.
    let xz = through(
        "xz",
        &["-c", "--format=xz", "--lzma2=preset=0,dict=1536MiB", "--no-warn"],
        &sample(24, 5000),
    );
    assert_eq!(code(xz), "wrap.memory");
    assert!(peak_memory() - before < 128 << 20);
}

#[test]
fn headers_that_make_no_sense_are_named() {
    let gzip = packed("gzip", b"abc");
    let with = |at: usize, value: u8| {
        let mut bytes = gzip.clone();
        bytes[at] = value;
        bytes
    };
    assert_eq!(code(with(3, 0x20)), "wrap.header");
    assert_eq!(code([&[0x1f, 0x8b, 8, 8, 0, 0, 0, 0, 0, 3][..], &[b'a'; 200_000]].concat()), "wrap.header");
    let end = gzip.len();
    assert_eq!(code(with(end - 8, gzip[end - 8] ^ 1)), "wrap.checksum");
    assert_eq!(code(with(end - 1, 7)), "wrap.length");
    let lz4 = packed("lz4", &sample(25, 1000));
    for (at, xor, found) in [(4, 0x80, "wrap.header"), (5, 0x80, "wrap.header"), (6, 1, "wrap.checksum")] {
        let mut bytes = lz4.clone();
        bytes[at] ^= xor;
        assert_eq!(code(bytes), found, "{at}");
    }
    let mut content_checksum = lz4.clone();
    let end = lz4.len();
    content_checksum[end - 1] ^= 1;
    assert_eq!(code(content_checksum), "wrap.checksum");
}

/// 5,000 mutants over the codecs: any answer but a panic, a hang, or other bytes under a sound checksum.
#[test]
fn mutants_are_refused_or_give_the_same_bytes() {
    let plain = sample(26, 20_000);
    let begun = Instant::now();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    let mut outcomes = [0; 3];
    for id in ALL {
        let whole = packed(id, &plain);
        for _ in 0..1000 {
            let mut bytes = whole.clone();
            for _ in 0..=random(4) {
                let at = if random(2) == 0 { random(64.min(bytes.len())) } else { random(bytes.len()) };
                match random(5) {
                    0 => bytes[at] = 0xff,
                    1 => bytes[at] = 0,
                    2 => bytes[at] ^= 1 << random(8),
                    3 => bytes.truncate(at.max(16)),
                    _ => {
                        let from = random(bytes.len());
                        let len = random(64).min(bytes.len() - from);
                        let part = bytes[from..from + len].to_vec();
                        bytes.splice(at..at, part);
                    }
                }
            }
            match open(bytes, 1 << 26) {
                Ok(None) => outcomes[0] += 1,
                Ok(Some(inside)) => {
                    outcomes[1] += 1;
                    assert!(inside.source.byte_len() <= 1 << 26);
                }
                Err(Error::Io { source, .. }) => panic!("{id}: {source}"),
                Err(error) => {
                    outcomes[2] += 1;
                    assert!(!error.code().is_empty());
                }
            }
        }
    }
    assert_eq!(outcomes.iter().sum::<i32>(), 5000);
    assert!(outcomes[2] > 2000, "{outcomes:?}");
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
}
