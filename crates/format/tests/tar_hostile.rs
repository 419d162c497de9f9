//! Tar archives made to break their reader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Budget, ByteSource, Cost, Error, FileOffset, Limits, MemorySource, RunKind};
use kiln_format::tar::{Archive, MAX_MEMBERS, MAX_NAME_LEN, MemberKind, TarProblem, list};
use kiln_testkit::laws::Random;
use kiln_testkit::oracle::peak_memory;
use kiln_testkit::tar::{BLOCK, HeaderBuilder, TarBuilder};

#[path = "../fuzz/src/tar.rs"]
mod exercise;

fn read(bytes: &[u8]) -> kiln_disk::Result<Archive> {
    let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(bytes.to_vec()));
    list(&source, &Budget::new(Limits::INSPECT))
}

#[track_caller]
fn refusal(bytes: &[u8]) -> Error {
    let error = read(bytes).expect_err("a refusal");
    assert!(error.hint().is_some(), "{error} has no hint");
    error
}

#[track_caller]
fn problem(bytes: &[u8]) -> (TarProblem, u64) {
    let error = refusal(bytes);
    let problem = error.problem::<TarProblem>().unwrap_or_else(|| panic!("{error} is no tar problem"));
    (problem.clone(), error.offset().map_or(0, FileOffset::get))
}

#[test]
fn t_arc_01_two_sizes_for_one_member_are_refused() {
    // The smuggler's archive (CVE-2025-62518): by the header the next member starts where by the pax record the
    // content of this one does.
    let hidden = TarBuilder::default().file("hidden", b"1").bytes.clone();
    let mut builder = TarBuilder::default();
    builder.pax(&[("size", &hidden.len().to_string())]);
    builder.blocks(&HeaderBuilder::posix("a", 0).seal()).blocks(&hidden);
    let expected = TarProblem::SizesDiffer { header: 0, pax: hidden.len() as u64 };
    assert_eq!(problem(&builder.finish()), (expected, 1024));
    for (header, pax) in [(512, 0), (512, 1024), (1, 8 << 30), ((8 << 30) - 1, 512)] {
        let mut builder = TarBuilder::default();
        builder.pax(&[("size", &u64::to_string(&pax))]).blocks(&HeaderBuilder::posix("a", header).seal());
        assert_eq!(problem(&builder.finish()), (TarProblem::SizesDiffer { header, pax }, 1024));
    }
}

#[test]
fn t_arc_01_extensions_reach_their_own_member_or_none() {
    type Case<'a> = (&'a dyn Fn(&mut TarBuilder), TarProblem, u64);
    let cases: [Case<'_>; 6] = [
        (
            &|b| {
                b.pax(&[("path", "p")]);
            },
            TarProblem::Dangling { kind: 'x' },
            0,
        ),
        (
            &|b| {
                b.extension(b'L', b"n\0");
            },
            TarProblem::Dangling { kind: 'L' },
            0,
        ),
        (
            &|b| {
                b.extension(b'L', b"n\0").extension(b'g', b"").file("a", b"");
            },
            TarProblem::Dangling { kind: 'L' },
            0,
        ),
        (
            &|b| {
                b.pax(&[("path", "p")]).pax(&[("path", "p")]).file("a", b"");
            },
            TarProblem::Twice { what: "pax properties" },
            1024,
        ),
        (
            &|b| {
                b.extension(b'K', b"k\0").extension(b'K', b"k\0").file("a", b"");
            },
            TarProblem::Twice { what: "link" },
            1024,
        ),
        (
            &|b| {
                b.extension(b'L', b"n\0").pax(&[("path", "p")]).file("a", b"");
            },
            TarProblem::Twice { what: "name" },
            2048,
        ),
    ];
    for (build, expected, at) in cases {
        let mut builder = TarBuilder::default();
        build(&mut builder);
        assert_eq!(problem(&builder.finish()), (expected, at));
    }
    let mut global = TarBuilder::default();
    global.extension(b'g', b"9 size=3\n").file("a", b"");
    assert_eq!(problem(&global.finish()), (TarProblem::GlobalKey { key: "size".to_owned() }, 512));
}

#[test]
fn t_arc_02_names_links_and_devices_are_named_and_lead_nowhere() {
    let mut builder = TarBuilder::default();
    let names = ["/etc/passwd", "../x", "a/../../x", "a//b", "./x/./y", "C:\\x", "a\\b", "x\ny", "\u{202e}x"];
    for name in names {
        builder.file(name, b"1");
    }
    builder.special("link", b'2', "/etc/passwd").special("hard", b'1', "../../x").special("dev", b'3', "");
    builder.file("twice", b"one").file("./twice", b"two");
    let archive = read(&builder.finish()).unwrap();
    let plain: Vec<_> = archive.members.iter().map(|member| member.plain_name()).collect();
    assert_eq!(plain[..8], [None; 8]);
    assert_eq!(plain[8..], ["\u{202e}x", "link", "hard", "dev", "twice", "twice"].map(Some));
    for (member, kind) in archive.members[9..12].iter().zip([
        MemberKind::SymbolicLink,
        MemberKind::HardLink,
        MemberKind::Device,
    ]) {
        assert_eq!((member.kind, member.is_file(), member.source().byte_len()), (kind, false, 0));
    }
}

#[test]
fn t_arc_02_long_names_and_many_members_are_refused_before_they_cost_anything() {
    for len in [MAX_NAME_LEN + 1, 64 << 10, 1 << 20] {
        let name = vec![b'n'; len];
        let mut gnu = TarBuilder::default();
        gnu.extension(b'L', &name).file("a", b"");
        let mut pax = TarBuilder::default();
        pax.pax(&[("path", std::str::from_utf8(&name).unwrap())]).file("a", b"");
        for bytes in [gnu.finish(), pax.finish()] {
            match refusal(&bytes) {
                Error::Refused { code, asked, .. } => {
                    assert_eq!((code, asked), ("tar.name-length", len as u64));
                }
                other => panic!("{other}"),
            }
        }
    }
    let mut huge = TarBuilder::default();
    huge.blocks(HeaderBuilder::posix("x", 1 << 40).kind(b'x').seal().as_slice());
    assert_eq!(refusal(&huge.finish()).code(), "tar.extension-length");
    let mut many = TarBuilder::default();
    for _ in 0..MAX_MEMBERS {
        many.file("a", b"");
    }
    assert_eq!(read(&many.finish()).unwrap().members.len(), MAX_MEMBERS);
    assert_eq!(refusal(&many.file("a", b"").finish()).code(), "tar.members");
}

#[test]
fn t_arc_02_content_where_no_content_can_be_is_refused() {
    for kind in [b'1', b'2', b'3', b'4', b'5', b'6'] {
        let mut header = HeaderBuilder::posix("a", 512);
        header.kind(kind);
        let mut builder = TarBuilder::default();
        builder.member(&header, &[1; 512]);
        let expected = TarProblem::SizeOfNoFile { kind: char::from(kind), size: 512 };
        assert_eq!(problem(&builder.finish()), (expected, 0));
    }
    let mut builder = TarBuilder::default();
    builder.member(&HeaderBuilder::posix("dir/", 512), &[1; 512]);
    assert_eq!(problem(&builder.finish()), (TarProblem::SizeOfNoFile { kind: '/', size: 512 }, 0));
}

#[test]
fn t_dos_07_a_sparse_member_of_8_eib_costs_nothing() {
    let real = i64::MAX as u64;
    let begun = Instant::now();
    let mut builder = TarBuilder::default();
    builder.old_sparse("disk.raw", real, &[(0, 512), (1 << 60, 512), (real, 0)], &[7; 1024]);
    let archive = read(&builder.finish()).unwrap();
    let source = archive.members[0].source();
    assert_eq!((source.byte_len(), archive.members[0].stored_len), (real, 1024));
    let runs: Vec<_> =
        std::iter::successors(source.run_at(FileOffset::ZERO).unwrap().map(|run| (0, run)), |(at, run)| {
            let next = at + run.len.get();
            source.run_at(FileOffset::new(next)).unwrap().map(|run| (next, run))
        })
        .map(|(at, run)| (at, run.kind))
        .collect();
    let hole = RunKind::Hole;
    assert_eq!(runs, [(0, RunKind::Data), (512, hole), (1 << 60, RunKind::Data), ((1 << 60) + 512, hole)]);
    let mut bytes = [1; 4];
    source.read_bytes(FileOffset::new((1 << 60) + 510), &mut bytes).unwrap();
    assert_eq!(bytes, [7, 7, 0, 0]);
    assert!(begun.elapsed() < Duration::from_secs(1));
    // One byte more is a number that GNU tar does not take either.
    let mut beyond = TarBuilder::default();
    beyond.old_sparse("disk.raw", real + 1, &[(0, 512)], &[7; 512]);
    assert_eq!(problem(&beyond.finish()), (TarProblem::Number { field: "realsize" }, 0));
}

#[test]
fn sparse_maps_that_describe_no_file_are_refused() {
    let map = |entries: &[(u64, u64)], stored: usize, expected: TarProblem| {
        let mut builder = TarBuilder::default();
        builder.old_sparse("s", 1 << 20, entries, &vec![1; stored]);
        assert_eq!(problem(&builder.finish()), (expected, 0), "{entries:?}");
    };
    let sparse = |entry, what| TarProblem::Sparse { entry, what };
    map(&[(0, 512)], 1024, TarProblem::SparseSum { mapped: 512, stored: 1024 });
    map(&[(0, 1024)], 512, TarProblem::SparseSum { mapped: 1024, stored: 512 });
    map(&[(1024, 512), (0, 512)], 1024, sparse(1, "goes backwards"));
    map(&[(0, 1024), (512, 512)], 1536, sparse(1, "goes backwards"));
    map(&[(1 << 20, 1)], 1, sparse(0, "leaves the file"));
    map(&[(u64::MAX >> 1, u64::MAX >> 1)], 512, sparse(0, "leaves the file"));
    map(&[(0, 100), (1024, 512)], 612, sparse(1, "follows a run that is no number of blocks"));
    let pax = |records: &[(&str, &str)], content: &[u8], what| {
        let mut builder = TarBuilder::default();
        builder.pax(records).file("s", content);
        let (problem, _) = problem(&builder.finish());
        assert_eq!(problem, sparse(0, what), "{records:?}");
    };
    let one = |size| [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", size)];
    pax(&one("9"), b"18446744073709551615\n", "has a line that is no number");
    pax(&one("9"), b"9223372036854775807\n", "has more entries than its member can hold");
    pax(&one("9"), b"100\n", "has more entries than its member can hold");
    pax(&one("9"), &[b"1\n0\n".as_slice(), &[b'1'; 600]].concat(), "has a line that is no number");
    pax(&one("9"), b"1\n0\n\n", "has a line that is no number");
    pax(&one("9"), &[b'1'; 512], "has a line that is no number");
    pax(
        &[("GNU.sparse.size", "9"), ("GNU.sparse.numblocks", "2")],
        b"",
        "has another number of entries than it says",
    );
    pax(&[("GNU.sparse.map", "0,9")], b"123456789", "has no size of the file");
}

#[test]
fn an_endless_sparse_map_is_stopped_by_the_budget() {
    let entries: Vec<_> = (0..200_000_u64).map(|n| (n * 1024, 512)).collect();
    let mut builder = TarBuilder::default();
    builder.old_sparse("s", 1 << 40, &entries, &[]);
    let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(builder.finish()));
    let budget = Budget::new(Limits { memory: 1 << 20, ..Limits::INSPECT });
    assert_eq!(list(&source, &budget).unwrap_err().code(), "budget.memory");
    assert!(budget.charge(Cost::Memory, 1 << 20).is_err());
}

#[test]
fn every_cut_is_a_refusal_or_falls_between_members() {
    let mut builder = TarBuilder::default();
    builder.pax(&[("path", "p")]).file("a", &[1; 700]).old_sparse(
        "s",
        9000,
        &[(512, 512), (8192, 100)],
        &[2; 612],
    );
    let whole = builder.finish();
    for len in 0..whole.len() {
        let end_of_a = 3 * BLOCK + 700;
        match read(&whole[..len]) {
            Ok(archive) => {
                let members = archive.members.len();
                let allowed = match members {
                    0 => len == 0,
                    1 => (end_of_a..=end_of_a.next_multiple_of(BLOCK)).contains(&len),
                    _ => len >= 3 * BLOCK + 1024 + BLOCK + 612,
                };
                assert!(allowed, "{members} members in {len} bytes");
            }
            Err(error) => {
                let allowed = ["tar.truncated", "tar.extension.dangling"];
                assert!(allowed.contains(&error.code()), "{len}: {error}");
                assert!(error.offset().is_some());
            }
        }
    }
}

#[test]
fn mutants_are_read_or_refused_in_time() {
    let mut builder = TarBuilder::default();
    builder
        .extension(b'g', b"13 comment=x\n")
        .pax(&[("path", "p"), ("mtime", "1.5")])
        .file("a", &[1; 700])
        .extension(b'L', b"long/name\0")
        .file("b", b"xyz")
        .old_sparse(
            "s",
            1 << 20,
            &[(512, 512), (4096, 512), (8192, 512), (16384, 512), (32768, 100)],
            &[3; 2148],
        )
        .pax(&[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "t"),
            ("GNU.sparse.realsize", "9000"),
        ])
        .file("t", &[b"1\n0\n512\n".as_slice(), &[0; 504], &[9; 512]].concat())
        .special("l", b'2', "x");
    let good = builder.finish();
    assert!(exercise::tar(&good));
    let mut random = Random(2024);
    let (mut opened, mut slowest) = (0, Duration::ZERO);
    for _ in 0..5_000 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(3) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(5) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.number() as u8,
                2 => bytes.truncate(at.max(1)),
                3 => {
                    let block = at / BLOCK * BLOCK;
                    let copy = bytes[block..bytes.len().min(block + BLOCK)].to_vec();
                    bytes.splice(block..block, copy);
                }
                _ => bytes[at] = *b"0179 \0\xff\x80".get(random.below(8) as usize).unwrap(),
            }
        }
        exercise::reseal(&mut bytes);
        let begun = Instant::now();
        opened += u32::from(exercise::tar(&bytes));
        slowest = slowest.max(begun.elapsed());
    }
    assert!((500..4_900).contains(&opened), "{opened} of 5000 were read");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(peak_memory() < 512 << 20);
}

#[test]
fn the_corpus_of_the_fuzz_target_is_replayed() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/tar");
    let mut count = 0;
    for entry in std::fs::read_dir(dir).expect("the corpus") {
        exercise::tar(&std::fs::read(entry.expect("an entry").path()).expect("a file"));
        count += 1;
    }
    assert!(count >= 8, "{count} inputs");
}
