//! Tar archives of other programs, and odd ones: the same member list as theirs, or a refusal.

use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, FileOffset, FileSource, MemorySource, RunKind};
use kiln_format::tar::{Archive, Ending, Member, MemberKind, list};
use kiln_testkit::laws::Random;
use kiln_testkit::oracle::PYTHON;
use kiln_testkit::tar::{BLOCK, HeaderBuilder, TarBuilder, number, pax_record};

fn read(bytes: &[u8]) -> kiln_disk::Result<Archive> {
    let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(bytes.to_vec()));
    list(&source, &Budget::default())
}

fn content(member: &Member) -> Vec<u8> {
    let source = member.source();
    let mut bytes = vec![0xa5; source.byte_len() as usize];
    source.read_bytes(FileOffset::ZERO, &mut bytes).unwrap();
    bytes
}

/// Name without the slash at its end, and length of files.
type Row = (Vec<u8>, Option<u64>);

fn row(name: &[u8], len: Option<u64>) -> Row {
    let end = name.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    (name[..end].to_vec(), len)
}

fn ours(archive: &Archive) -> Vec<Row> {
    archive
        .members
        .iter()
        .map(|member| row(&member.raw_name, member.is_file().then(|| member.byte_len())))
        .collect()
}

/// What Python's `tarfile` lists; none when it refuses.
fn python(path: &Path) -> Option<Vec<Row>> {
    const SCRIPT: &str = r#"
import sys, tarfile
with tarfile.open(sys.argv[1], "r:", encoding="utf-8", errors="surrogateescape") as archive:
    for m in archive:
        name = m.name.encode("utf-8", "surrogateescape").hex()
        print(name, m.size if m.isreg() else "-")
"#;
    let output =
        Command::new(PYTHON).args(["-I", "-S", "-c", SCRIPT]).arg(path).output().expect("python3 runs");
    output.status.success().then(|| {
        let text = String::from_utf8(output.stdout).unwrap();
        let unhex = |hex: &str| -> Vec<u8> {
            (0..hex.len()).step_by(2).map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap()).collect()
        };
        text.lines()
            .map(|line| {
                let (name, len) = line.split_once(' ').unwrap();
                row(&unhex(name), len.parse().ok())
            })
            .collect()
    })
}

/// What GNU tar lists; none when it refuses.
fn gnu(path: &Path) -> Option<Vec<Row>> {
    let output = Command::new("tar")
        .args(["--numeric-owner", "--full-time", "--quoting-style=c", "-tvf"])
        .arg(path)
        .env("LC_ALL", "C")
        .output()
        .expect("tar runs");
    assert_ne!(output.status.code(), None, "tar was killed");
    output.status.success().then(|| {
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines()
            .map(|line| {
                let start = line.find('"').unwrap();
                let len = line[..start].split_whitespace().nth(2).unwrap();
                row(&unquote(&line[start..]), line.starts_with(['-', 'C']).then(|| len.parse().unwrap()))
            })
            .collect()
    })
}

/// The bytes of a string in C's quotes.
fn unquote(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text[1..].bytes().peekable();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => return bytes,
            b'\\' => match rest.next().unwrap() {
                b'n' => bytes.push(b'\n'),
                b't' => bytes.push(b'\t'),
                digit @ b'0'..=b'7' => {
                    let mut value = u32::from(digit - b'0');
                    for _ in 0..2 {
                        value = value * 8 + u32::from(rest.next().unwrap() - b'0');
                    }
                    bytes.push(value as u8);
                }
                other => bytes.push(other),
            },
            other => bytes.push(other),
        }
    }
    panic!("no closing quote in {text}");
}

/// What bsdtar lists: names only, in C's escapes as far as it has any; none when it refuses.
fn bsd(path: &Path) -> Option<Vec<Vec<u8>>> {
    let output = Command::new("bsdtar").arg("-tf").arg(path).env("LC_ALL", "C.UTF-8").output();
    let output = output.expect("bsdtar runs (install libarchive-tools)");
    output.status.success().then(|| {
        let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| row(line, None).0).collect()
    })
}

/// Reads an archive with all programs. Answers whether ours took it.
#[track_caller]
fn agrees(label: &str, bytes: &[u8]) -> bool {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let archive = match read(bytes) {
        Ok(archive) => archive,
        Err(error) => {
            assert!(error.offset().is_some() || error.code().starts_with("tar."), "{label}: {error}");
            assert!(error.hint().is_some(), "{label}: {error} has no hint");
            return false;
        }
    };
    let mine = ours(&archive);
    if let Some(theirs) = python(file.path()) {
        assert_eq!(mine, theirs, "{label}: Python lists other members");
    }
    if let Some(theirs) = gnu(file.path()) {
        assert_eq!(mine, theirs, "{label}: GNU tar lists other members");
    }
    // bsdtar refuses an archive without members, and prints names that are no text in escapes of its own.
    let plain =
        mine.iter().all(|(name, _)| name.iter().all(|byte| (b' '..0x7f).contains(byte) && *byte != b'\\'));
    if let Some(theirs) = bsd(file.path()).filter(|_| plain) {
        let names: Vec<_> = mine.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, theirs, "{label}: bsdtar lists other members");
    }
    true
}

/// Header fields, each with what odd programs put into it.
fn odd_headers() -> Vec<(String, HeaderBuilder)> {
    let mut all = Vec::new();
    for (magic, base) in [
        ("posix", HeaderBuilder::posix("a", 3)),
        ("gnu", HeaderBuilder::gnu("a", 3)),
        ("v7", HeaderBuilder::posix("a", 3).field(257, &[0; 8]).clone()),
        ("star", HeaderBuilder::posix("a", 3).field(508, b"tar\0").clone()),
    ] {
        let mut put = |what: &str, at: usize, bytes: &[u8]| {
            all.push((format!("{magic}, {what}"), base.clone().field(at, bytes).clone()));
        };
        put("as it is", 0, b"a");
        put("full name", 0, &[b'n'; 100]);
        put("name with a space", 0, b"a b");
        put("name of bytes", 0, &[0xff, 0xfe]);
        put("name that climbs", 0, b"../../etc/passwd");
        put("absolute name", 0, b"/etc/passwd");
        put("name with a dot", 0, b"./a");
        put("name with two slashes", 0, b"a//b");
        put("name of a drive", 0, b"C:\\a");
        put("name with a line feed", 0, b"a\nb");
        put("bytes behind the name", 0, b"a\0bcd");
        put("empty name", 0, b"\0");
        put("name like a directory", 0, b"a/");
        put("prefix", 345, b"dir");
        put("full prefix", 345, &[b'p'; 155]);
        put("bytes behind the prefix", 345, b"dir\0x");
        put("size in spaces", 124, b"         3 \0");
        put("size without an end", 124, b"000000000003");
        put("size in base 256", 124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        put("size in base 256 with high bits", 124, &[0x80, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        put("size with seven bits", 124, &[0x81, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        put("negative size", 124, &[0xff, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 253]);
        put("signed size", 124, b"-0000000003\0");
        put("size with a plus", 124, b"+0000000003\0");
        put("size with an underscore", 124, b"0000_000003\0");
        put("size in two words", 124, b"3 4        \0");
        put("size of spaces", 124, b"            ");
        put("size of NULs", 124, &[0; 12]);
        put("size behind a NUL", 124, b"\x00000000003\0");
        put("size in hex", 124, b"0x3\0\0\0\0\0\0\0\0\0");
        put("size with garbage behind it", 124, b"3\0garbage\0\0\0");
        put("odd owner", 108, b"zzzzzzz\0");
        put("odd mode", 100, b"        ");
        put("odd time", 136, &[0x80, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]);
        put("negative time", 136, &[0xff, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255]);
        put("odd magic", 257, b"ustar\x0012");
        put("magic of its own", 257, b"ustarXYZ");
        for kind in [
            0, b'1', b'2', b'3', b'4', b'5', b'6', b'7', b'8', b'A', b'D', b'I', b'M', b'N', b'S', b'V',
            b'Z', b'k', 0x80,
        ] {
            all.push((format!("{magic}, type {kind:#x} with content"), base.clone().kind(kind).clone()));
            let mut empty = base.clone();
            empty.kind(kind).size(0).field(157, b"other");
            all.push((format!("{magic}, type {kind:#x}"), empty));
        }
    }
    all
}

#[test]
fn t_arc_01_odd_headers_are_read_as_others_do_or_refused() {
    let (mut taken, mut all) = (0, 0);
    for (label, header) in odd_headers() {
        let size_field = header.seal()[124..136].to_vec();
        let content =
            if size_field.ends_with(b"0\0") && !size_field.contains(&b'3') { &b""[..] } else { b"abc" };
        let mut builder = TarBuilder::default();
        builder.file("before", b"1").member(&header, content).file("behind", b"12");
        // GNU tar lists a volume label as a member of its own making; we do as the others.
        if label.contains("0x56") || label.contains("0x44") {
            continue;
        }
        all += 1;
        taken += usize::from(agrees(&label, &builder.finish()));
    }
    assert!(all > 200 && taken > all / 3, "{taken} of {all} were taken");
}

/// Extension headers before a member `a` of three bytes, and what is between.
fn odd_extensions() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut put = |label: &str, build: &dyn Fn(&mut TarBuilder)| {
        for size in [0_u64, 3, 512, 1024] {
            let mut builder = TarBuilder::default();
            builder.file("before", b"1");
            build(&mut builder);
            let content = vec![b'c'; size as usize];
            builder.file("a", &content).file("behind", b"12");
            all.push((format!("{label}, {size} bytes"), builder.finish()));
        }
    };
    put("nothing", &|_| {});
    put("pax path", &|b| {
        b.pax(&[("path", "p")]);
    });
    put("pax path of bytes", &|b| {
        b.extension(b'x', b"10 path=\xff\n");
    });
    put("pax path that climbs", &|b| {
        b.pax(&[("path", "../../p")]);
    });
    put("two pax paths", &|b| {
        b.pax(&[("path", "p"), ("path", "q")]);
    });
    put("pax comment", &|b| {
        b.pax(&[("comment", "hello"), ("mtime", "1.5")]);
    });
    for size in ["0", "3", "512", "1024", "8589934592", "-1", "x", "", "18446744073709551616", "0x3", " 3"] {
        put(&format!("pax size {size:?}"), &|b| {
            b.pax(&[("size", size)]);
        });
    }
    put("pax twice", &|b| {
        b.pax(&[("path", "p")]).pax(&[("path", "q")]);
    });
    put("pax, then global", &|b| {
        b.pax(&[("path", "p")]).extension(b'g', &pax_record("comment", "x"));
    });
    put("global, then pax", &|b| {
        b.extension(b'g', &pax_record("comment", "x")).pax(&[("path", "p")]);
    });
    put("global size", &|b| {
        b.extension(b'g', &pax_record("size", "3"));
    });
    put("global path", &|b| {
        b.extension(b'g', &pax_record("path", "p"));
    });
    put("pax, then long name", &|b| {
        b.pax(&[("size", "3")]).extension(b'L', b"long\0");
    });
    put("long name, then pax", &|b| {
        b.extension(b'L', b"long\0").pax(&[("path", "p")]);
    });
    put("long name, then pax size", &|b| {
        b.extension(b'L', b"long\0").pax(&[("size", "1024")]);
    });
    put("long name", &|b| {
        b.extension(b'L', &[&[b'l'; 300][..], b"\0"].concat());
    });
    put("long name without NUL", &|b| {
        b.extension(b'L', &[b'l'; 300]);
    });
    put("long name twice", &|b| {
        b.extension(b'L', b"one\0").extension(b'L', b"two\0");
    });
    put("long link and name", &|b| {
        b.extension(b'K', b"link\0").extension(b'L', b"name\0");
    });
    put("empty long name", &|b| {
        b.extension(b'L', b"\0");
    });
    put("pax of Solaris", &|b| {
        b.extension(b'X', &pax_record("path", "p"));
    });
    put("empty pax", &|b| {
        b.extension(b'x', b"");
    });
    put("pax with NULs behind", &|b| {
        b.extension(b'x', b"9 path=p\n\0\0\0");
    });
    put("pax record too long", &|b| {
        b.extension(b'x', b"90 path=p\n");
    });
    put("pax record too short", &|b| {
        b.extension(b'x', b"8 path=p\n");
    });
    put("sparse keywords without a map", &|b| {
        b.pax(&[("GNU.sparse.size", "3")]);
    });
    put("sparse of a version to come", &|b| {
        b.pax(&[("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "9")]);
    });
    put("block of zeros", &|b| {
        b.blocks(&[0; BLOCK]);
    });
    put("two blocks of zeros", &|b| {
        b.blocks(&[0; 2 * BLOCK]);
    });
    put("a directory with a pax size", &|b| {
        b.pax(&[("size", "512")]).special("d", b'5', "");
    });
    put("a link with a pax path", &|b| {
        b.pax(&[("path", "l"), ("linkpath", "/etc")]).special("x", b'2', "y");
    });
    put("same name", &|b| {
        b.file("a", b"other");
    });
    put("old sparse", &|b| {
        b.old_sparse("s", 4096, &[(512, 512), (4096, 0)], &[7; 512]);
    });
    all
}

#[test]
fn t_arc_01_odd_extensions_are_read_as_others_do_or_refused() {
    let (mut taken, mut all) = (0, 0);
    for (label, bytes) in odd_extensions() {
        all += 1;
        taken += usize::from(agrees(&label, &bytes));
    }
    assert!(all > 150 && taken > all / 4, "{taken} of {all} were taken");
}

/// A directory of files that exercise what formats have: long names, holes, links.
fn sample_tree(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let deep = format!("{}/{}", "d".repeat(60), "e".repeat(70));
    std::fs::create_dir_all(dir.join(&deep)).unwrap();
    let mut sparse = vec![0; 3 << 20];
    let mut random = Random(7);
    for at in [0, 64 << 10, 700 << 10, 1 << 20, (1 << 20) + (300 << 10), 2 << 20, (3 << 20) - 4096] {
        sparse[at..at + 4096].iter_mut().for_each(|byte| *byte = random.number() as u8);
    }
    let mut ends_in_hole = vec![0; 1 << 20];
    ends_in_hole[8192..8292].fill(9);
    let files = vec![
        ("disk.raw".to_owned(), sparse),
        ("hole-at-end.raw".to_owned(), ends_in_hole),
        ("empty".to_owned(), Vec::new()),
        ("small".to_owned(), b"hello\n".to_vec()),
        ("a name with spaces".to_owned(), vec![1; 513]),
        (format!("{deep}/{}", "f".repeat(60)), vec![2; 1024]),
    ];
    for (name, bytes) in &files {
        let file = std::fs::File::create(dir.join(name)).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        for (n, block) in bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|b| *b != 0)) {
            file.write_all_at(block, n as u64 * 4096).unwrap();
        }
    }
    std::os::unix::fs::symlink("small", dir.join("link")).unwrap();
    std::fs::hard_link(dir.join("small"), dir.join("hard")).unwrap();
    files
}

#[test]
fn archives_of_every_program_and_format_give_the_files_back() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let files = sample_tree(&tree);
    let mut tools: Vec<(String, Vec<String>)> = Vec::new();
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    for format in ["ustar", "oldgnu", "gnu", "posix"] {
        tools.push((format!("tar {format}"), words(&format!("tar --format={format} --sort=name -cf"))));
    }
    for format in ["oldgnu", "gnu"] {
        tools.push((
            format!("tar sparse {format}"),
            words(&format!("tar --format={format} -S --sort=name -cf")),
        ));
    }
    for version in ["0.0", "0.1", "1.0"] {
        let line = format!("tar --format=posix -S --sparse-version={version} --sort=name -cf");
        tools.push((format!("tar sparse {version}"), words(&line)));
    }
    for format in ["ustar", "pax", "gnutar"] {
        tools.push((format!("bsdtar {format}"), words(&format!("bsdtar --format={format} -cf"))));
    }
    for format in ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"] {
        let script = format!(
            "import sys, tarfile\nt = tarfile.open(sys.argv[1], 'w', format=tarfile.{format})\n\
             [t.add(n) for n in sys.argv[2:]]\nt.close()"
        );
        tools.push((format!("python {format}"), vec![PYTHON.to_owned(), "-c".to_owned(), script]));
    }
    for (label, command) in tools {
        let path = dir.path().join("out.tar");
        let status =
            Command::new(&command[0]).args(&command[1..]).arg(&path).arg(".").current_dir(&tree).status();
        assert!(status.expect("it runs").success(), "{label}");
        let source: Arc<dyn ByteSource> = Arc::new(FileSource::open(&path).unwrap());
        let archive = list(&source, &Budget::default()).unwrap_or_else(|error| panic!("{label}: {error}"));
        assert_eq!((archive.ending, archive.hidden), (Ending::Marked, None), "{label}");
        for (name, bytes) in &files {
            let found = archive.members.iter().find(|member| member.plain_name() == Some(name.as_str()));
            let member = found.unwrap_or_else(|| panic!("{label}: no {name}"));
            if name == "small" && member.kind == MemberKind::HardLink {
                continue;
            }
            assert!(content(member) == *bytes, "{label}: {name}");
            if label.contains("sparse") && name == "disk.raw" {
                assert!(member.is_sparse() && member.stored_len < 1 << 20, "{label}");
                runs_are_true(member, bytes);
            }
        }
        assert!(agrees(&label, &std::fs::read(&path).unwrap()), "{label}");
    }
}

/// Holes read as zeros, runs tile the file.
fn runs_are_true(member: &Member, bytes: &[u8]) {
    let source = member.source();
    let (mut at, mut holes) = (0, 0);
    while let Some(run) = source.run_at(FileOffset::new(at as u64)).unwrap() {
        let len = run.len.get() as usize;
        if run.kind == RunKind::Hole {
            assert!(bytes[at..at + len].iter().all(|byte| *byte == 0), "a hole with data at {at:#x}");
            holes += 1;
        }
        let mut random = Random(at as u64 + 1);
        for _ in 0..4 {
            let start = (at as u64 + random.below(len as u64)) as usize;
            let take = (random.below(70_000) as usize).min(bytes.len() - start);
            let mut part = vec![0xa5; take];
            source.read_bytes(FileOffset::new(start as u64), &mut part).unwrap();
            assert!(part == bytes[start..start + take], "{take} bytes at {start:#x}");
        }
        at += len;
    }
    assert_eq!(at, bytes.len());
    assert!(holes > 2);
    let past = source.read_bytes(FileOffset::new(at as u64), &mut [0]).unwrap_err();
    assert_eq!(past.code(), "io.short-read");
}

#[test]
fn places_and_kinds_are_as_stored() {
    let mut builder = TarBuilder::default();
    builder
        .file("one", &[1; 513])
        .special("dir/", b'5', "")
        .special("sym", b'2', "/etc/passwd")
        .special("hard", b'1', "one")
        .special("pipe", b'6', "")
        .extension(b'L', &[&[b'n'; 200][..], b"\0"].concat())
        .file("short", b"xy");
    let archive = read(&builder.finish()).unwrap();
    let kinds: Vec<_> = archive.members.iter().map(|member| member.kind).collect();
    assert_eq!(
        kinds,
        [
            MemberKind::File,
            MemberKind::Directory,
            MemberKind::SymbolicLink,
            MemberKind::HardLink,
            MemberKind::Device,
            MemberKind::File
        ]
    );
    let places: Vec<_> = archive.members.iter().map(|m| (m.header_at.get(), m.data_at.get())).collect();
    assert_eq!(places[0], (0, 512));
    assert_eq!(places[5], (7 * 512 + 1024, 8 * 512 + 1024));
    assert_eq!(archive.members[2].raw_link, b"/etc/passwd");
    assert_eq!(archive.members[2].source().byte_len(), 0);
    assert_eq!((archive.members[5].raw_name.len(), content(&archive.members[5])), (200, b"xy".to_vec()));
    assert_eq!(archive.end.get(), builder.bytes.len() as u64);
}

#[test]
fn large_sizes_come_in_base_256_or_in_a_pax_record() {
    let len = (8_u64 << 30) + 7;
    let file = tempfile::NamedTempFile::new().unwrap();
    for (header, pax) in [(len, None), (0, Some(len.to_string())), (len, Some(len.to_string()))] {
        let mut builder = TarBuilder::default();
        if let Some(size) = &pax {
            builder.pax(&[("size", size)]);
        }
        builder.blocks(&HeaderBuilder::posix("big", header).seal());
        file.as_file().set_len(0).unwrap();
        file.as_file().write_all_at(&builder.bytes, 0).unwrap();
        let end = builder.bytes.len() as u64 + len.next_multiple_of(512);
        let behind = TarBuilder::default().file("behind", b"1").finish();
        file.as_file().write_all_at(&behind, end).unwrap();
        let source: Arc<dyn ByteSource> = Arc::new(FileSource::open(file.path()).unwrap());
        let archive = list(&source, &Budget::default()).unwrap();
        assert_eq!(archive.members[0].byte_len(), len);
        assert_eq!(Some(ours(&archive)), gnu(file.path()));
        assert_eq!(Some(ours(&archive)), python(file.path()));
    }
}

#[test]
fn the_end_is_marked_or_said_to_be_missing_and_what_hides_behind_it_is_seen() {
    let mut builder = TarBuilder::default();
    builder.file("a", b"abc");
    let ending = |bytes: &[u8]| {
        let archive = read(bytes).unwrap();
        (archive.members.len(), archive.ending, archive.hidden.map(FileOffset::get))
    };
    assert_eq!(ending(&builder.finish()), (1, Ending::Marked, None));
    assert_eq!(ending(&builder.bytes), (1, Ending::Unmarked, None));
    // The filling of the last block may be missing.
    assert_eq!(ending(&builder.bytes[..515]), (1, Ending::Unmarked, None));
    let two = [builder.finish(), TarBuilder::default().file("b", b"").finish()].concat();
    assert_eq!(ending(&two), (1, Ending::Marked, Some(builder.finish().len() as u64)));
    let padded = [builder.finish(), vec![0; 10_240]].concat();
    assert_eq!(ending(&padded), (1, Ending::Marked, None));
    assert_eq!(ending(b""), (0, Ending::Unmarked, None));
    assert_eq!(number(9)[..11], *b"00000000011");
}

mod disk_in_an_archive {
    use kiln_disk::{ByteSource, FileOffset, MemorySource, Silent};
    use kiln_format::{CheckScope, Choice, OpenContext, check, open};
    use kiln_testkit::laws::check_disk;
    use kiln_testkit::ova::OvaBuilder;
    use kiln_testkit::vhd::VhdBuilder;

    use super::{Arc, TarBuilder};

    fn content() -> Vec<u8> {
        let mut bytes = vec![0; 300_032];
        bytes[1000..70_000].fill(3);
        bytes[250_000..250_100].fill(4);
        bytes
    }

    fn opened(bytes: &[u8], part: Option<&str>) -> kiln_disk::Result<Box<dyn kiln_format::Image>> {
        let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(bytes.to_vec()));
        let context = OpenContext { part: part.map(str::to_owned), ..OpenContext::new() };
        open(source, Choice::Detect, &context)
    }

    #[test]
    fn the_only_disk_is_the_disk() {
        let raw = content();
        let vhd = VhdBuilder { block_size: 64 << 10, ..VhdBuilder::default() }.dynamic(&raw[..262_144]).bytes;
        let mut plain = TarBuilder::default();
        plain.file("./disk.raw", &raw).file("SHA256SUMS", &[b'x'; 600]);
        let mut sparse = TarBuilder::default();
        let stored = [&raw[..70_144], &raw[249_856..250_368], &[]].concat();
        sparse.old_sparse("disk.raw", 300_032, &[(0, 70_144), (249_856, 512), (300_032, 0)], &stored);
        let mut inside = TarBuilder::default();
        inside.file("readme", &[b'x'; 600]).file("folder/disk.vhd", &vhd);
        for (bytes, len, kind) in
            [(plain, 300_032, "raw"), (sparse, 300_032, "raw"), (inside, 262_144, "vhd")]
        {
            let image = opened(&bytes.finish(), None).unwrap();
            check_disk(image.as_ref(), &raw[..len]);
            let facts = image.facts();
            assert_eq!((facts.format, facts.variant), ("tar", format!("with {kind}")));
        }
    }

    #[test]
    fn of_several_disks_one_is_chosen_and_none_is_guessed() {
        let mut two = TarBuilder::default();
        two.file("a.raw", &content()).file("b.img", &[7; 1024]).file("notes", &[9; 2000]);
        let bytes = two.finish();
        let error = opened(&bytes, None).err().unwrap();
        assert_eq!(error.code(), "tar.which-disk");
        assert!(error.to_string().contains("1 is a.raw, 300032 bytes; 2 is b.img, 1024 bytes"), "{error}");
        for (part, len) in [("1", 300_032), ("2", 1024), ("b.img", 1024), ("notes", 2048)] {
            assert_eq!(opened(&bytes, Some(part)).unwrap().disk_len(), len, "{part}");
        }
        for part in ["0", "3", "c", "../a.raw"] {
            assert_eq!(opened(&bytes, Some(part)).err().unwrap().code(), "tar.no-such-disk", "{part}");
        }
        let code = |builder: &mut TarBuilder| opened(&builder.finish(), None).err().unwrap().code();
        assert_eq!(code(TarBuilder::default().file("notes", &[9; 2000])), "tar.no-disk");
        assert_eq!(code(TarBuilder::default().special("disk.raw", b'2', "/dev/sda")), "tar.no-disk");
        assert_eq!(code(TarBuilder::default().file("../disk.raw", &content())), "tar.no-disk");
        let inner = TarBuilder::default().file("disk.raw", &content()).finish();
        assert_eq!(code(TarBuilder::default().file("inner.tar", &inner)), "tar.nested");
        let mut same = TarBuilder::default();
        same.file("a.raw", &content()).file("./a.raw", &[7; 1024]);
        assert_eq!(opened(&same.finish(), Some("a.raw")).err().unwrap().code(), "tar.which-disk");
    }

    #[test]
    fn an_appliance_is_seen_however_far_behind_its_descriptor_is() {
        let files = OvaBuilder::default().disk("disk.raw", content(), 300_032).files();
        let mut late = TarBuilder::default();
        late.file(&files[2].0, &files[2].1).file(&files[1].0, &files[1].1).file(&files[0].0, &files[0].1);
        let bytes = late.finish();
        let image = opened(&bytes, None).unwrap();
        assert_eq!(image.facts().format, "ova");
        check_disk(image.as_ref(), &content());
        let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(bytes));
        let report =
            check(source, Choice::Detect, &OpenContext::new(), CheckScope::Metadata, &Silent).unwrap();
        assert_eq!(report.findings.counts(), [("ova.order", 1)]);
        assert_eq!(report.findings.list()[0].file_at, Some(FileOffset::ZERO));
    }
}
