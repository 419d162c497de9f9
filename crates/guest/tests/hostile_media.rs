//! Media made to hurt: directories in circles, areas without end, tables that lead nowhere, bombs, random damage.

use std::path::Path;

use kiln_guest::fs::{FileSystem, FsError, Kind};
use kiln_guest::volume::Content;
use kiln_testkit::iso::{ROOT, Record, continued, directory, entry, named, volume};

#[path = "../fuzz/src/media.rs"]
mod exercise;

use self::exercise::{opened, walk};

/// A volume of 64 blocks whose root holds one thing.
fn one(record: Record, rest: &[(u32, Vec<u8>)]) -> Vec<u8> {
    volume(64, &[record], rest)
}

fn iso(bytes: Vec<u8>) -> Box<dyn FileSystem> {
    opened(bytes, Content::Iso9660).unwrap()
}

#[track_caller]
fn damaged<T>(answer: kiln_guest::fs::Result<T>, words: &str) {
    match answer {
        Err(FsError::Damaged(said)) => assert!(said.contains(words), "{said}"),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was taken"),
    }
}

#[test]
fn iso_directory_that_holds_itself_ends_with_the_path() {
    let own = Record::directory(b"SELF", ROOT, 2048).with(&named(b"self", 0o40_755));
    let fs = iso(one(own.clone(), &[]));
    assert_eq!(fs.stat("/self".repeat(300).as_bytes()).unwrap().kind, Kind::Directory);
    assert!(walk(one(own, &[]), Content::Iso9660) > 10);
    // The directory that was moved here is the one above.
    let moved = Record::file("MOVED", 0, 0)
        .with(&[entry(b"NM", b"\0moved"), entry(b"CL", &[20, 0, 0, 0, 0, 0, 0, 20])]);
    let fs = iso(one(moved.clone(), &[]));
    assert_eq!(fs.stat("/moved".repeat(300).as_bytes()).unwrap().kind, Kind::Directory);
    assert!(walk(one(moved, &[]), Content::Iso9660) > 10);
    // And one that is none.
    let lost = Record::file("LOST", 0, 0)
        .with(&[entry(b"NM", b"\0lost"), entry(b"CL", &[40, 0, 0, 0, 0, 0, 0, 40])]);
    let fs = iso(one(lost, &[]));
    assert_eq!(fs.list(b"/").unwrap().len(), 1);
    damaged(fs.list(b"/lost"), "no directory at byte 81920");
}

#[test]
fn iso_continuation_areas_in_a_circle_are_damage() {
    let file = |entries: &[Vec<u8>]| Record::file("A", 30, 1).with(entries);
    let area = [entry(b"NM", b"\0n"), continued(40, 0, 40)].concat();
    let fs = iso(one(file(&[continued(40, 0, 40)]), &[(40, area.clone())]));
    damaged(fs.list(b"/"), "no end");
    let fs = iso(one(file(&[continued(40, 0, u32::MAX)]), &[(40, area.clone())]));
    damaged(fs.list(b"/"), "no end");
    let fs = iso(one(file(&[continued(u32::MAX, u32::MAX, 40)]), &[(40, area)]));
    damaged(fs.list(b"/"), "not within the volume");
    // A name that is longer than any.
    let long = entry(b"NM", &[b"\x01".as_slice(), &[b'n'; 200]].concat()).repeat(9);
    let fs = iso(one(file(&[continued(40, 0, long.len() as u32)]), &[(40, long)]));
    damaged(fs.list(b"/"), "longer than any may be");
}

#[test]
fn iso_extents_outside_the_volume_are_damage_when_they_are_read() {
    for (block, len) in [(63, 4096), (64, 1), (u32::MAX, u32::MAX), (0, u32::MAX)] {
        let fs = iso(one(Record::file("A", block, len).with(&named(b"a", 0o100_644)), &[]));
        assert_eq!(fs.stat(b"/a").unwrap().len, u64::from(len));
        let mut buf = vec![0; 200_000];
        damaged(fs.read(b"/a", 0, &mut buf), "not within the volume");
        assert_eq!(fs.read(b"/a", u64::from(len), &mut buf).unwrap(), 0);
    }
    let fs = iso(one(Record::directory(b"D", 62, 1 << 20).with(&named(b"d", 0o40_755)), &[]));
    assert!(fs.list(b"/d").is_err());
    let fs = iso(one(Record::directory(b"D", 30, u32::MAX).with(&named(b"d", 0o40_755)), &[]));
    assert!(matches!(fs.list(b"/d"), Err(FsError::TooLong { .. })));
}

#[test]
fn iso_records_that_lie_about_their_length_are_damage() {
    // Shorter than its head; with an identifier that is longer than it; longer than the sector.
    for bad in [vec![33_u8; 33], [vec![40; 32], vec![200], vec![0; 7]].concat()] {
        let record = Record::directory(b"D", 30, 2048).with(&named(b"d", 0o40_755));
        let fs = iso(one(record, &[(30, bad)]));
        damaged(fs.list(b"/d"), "cut off");
    }
    let mut sector = vec![0; 2048];
    let good = Record::file("A", 30, 1).bytes();
    let count = 2048 / good.len();
    (0..count).for_each(|index| sector[index * good.len()..][..good.len()].copy_from_slice(&good));
    sector[count * good.len()] = 250;
    let fs = iso(one(Record::directory(b"D", 30, 2048).with(&named(b"d", 0o40_755)), &[(30, sector)]));
    damaged(fs.list(b"/d"), "cut off");
    // A length of nothing: the rest of the sector is not used, and the walk goes on behind it.
    let second = [vec![0; 2048], directory(&[Record::file("B", 30, 1)])].concat();
    let fs = iso(one(Record::directory(b"D", 30, 4096).with(&named(b"d", 0o40_755)), &[(30, second)]));
    assert_eq!(fs.list(b"/d").unwrap()[0].name, b"b");
    // A file whose last extent is missing.
    let open = Record { flags: 0x80, ..Record::file("A", 30, 1) }.with(&named(b"a", 0o100_644));
    damaged(iso(volume(64, std::slice::from_ref(&open), &[])).list(b"/"), "last extent");
    damaged(iso(volume(64, &[open, Record::file("B", 30, 1)], &[])).list(b"/"), "last extent");
}

#[test]
fn iso_names_that_are_paths_are_damage() {
    for name in [&b".."[..], b".", b"a/b", b"../../etc/passwd", b"nul\0", b""] {
        damaged(iso(one(Record::file("A", 30, 1).with(&named(name, 0o100_644)), &[])).list(b"/"), "a name");
    }
    // A component that is longer than its entry.
    let link = [entry(b"NM", b"\0l"), entry(b"PX", &[0; 32]), entry(b"SL", &[0, 0, 250, b'x'])];
    damaged(iso(one(Record::file("L", 30, 0).with(&link), &[])).list(b"/"), "longer than its entry");
}

#[test]
fn mutants_of_an_iso_are_survived() {
    let link = entry(b"SL", b"\0\0\x03etc\x04\0\0\x08passwdxx");
    let inner = [
        Record::directory(&[0], 24, 2048).with(&[entry(b"PX", &[0; 32])]),
        Record::directory(&[1], ROOT, 2048),
        Record::file("B", 31, 4000).with(&named(b"inner", 0o100_600)),
        Record::file("M", 0, 0).with(&[entry(b"NM", b"\0m"), entry(b"CL", &[24, 0, 0, 0, 0, 0, 0, 24])]),
    ];
    let root = [
        Record::directory(b"DIR", 24, 2048).with(&named(b"directory", 0o40_755)),
        Record::file("A", 30, 2000).with(&named(b"a file", 0o100_644)),
        Record::file("L", 0, 0).with(&[&named(b"link", 0o120_777)[..], &[link]].concat()),
        Record::file("N", 30, 1).with(&[continued(40, 0, 30)]),
        Record { flags: 0x80, ..Record::file("X", 30, 2048) },
        Record::file("X", 33, 100),
    ];
    let rest =
        [(24, directory(&inner)), (40, [entry(b"NM", b"\x01conti"), entry(b"NM", b"\0nued")].concat())];
    let good = volume(64, &root, &rest);
    assert!(walk(good.clone(), Content::Iso9660) > 8);
    let (mut state, mut reached) = (0xfeed_u32, 0);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize
    };
    // The descriptor, the directories, the continuation.
    let places = [(16 * 2048, 200), (20 * 2048, 700), (24 * 2048, 500), (40 * 2048, 30)];
    for _ in 0..1500 {
        let mut bytes = good.clone();
        for _ in 0..1 + next() % 4 {
            let (start, len) = places[next() % places.len()];
            bytes[start + next() % len] = next() as u8;
        }
        reached += usize::from(walk(bytes, Content::Iso9660) > 3);
    }
    assert!(reached > 500, "{reached}");
    for len in [0, 2048, 32 << 10, 34 << 10, 36 << 10, ROOT as usize * 2048 + 10, 50 << 10] {
        walk(good[..len].to_vec(), Content::Iso9660);
    }
}

/// A small squashfs of everything, made by mksquashfs. With `-noI` its tables are as they are.
fn packed(words: &[&str]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (tree, image) = (dir.path().join("tree"), dir.path().join("image"));
    std::fs::create_dir_all(tree.join("directory/inner")).unwrap();
    // Two blocks and an end in a fragment.
    let bytes: Vec<u8> = (0..LEN).map(|at| ((at * at) >> 7) as u8).collect();
    std::fs::write(tree.join("file"), bytes).unwrap();
    std::fs::write(tree.join("directory/inner/small"), "small").unwrap();
    std::os::unix::fs::symlink("where the link leads", tree.join("link")).unwrap();
    std::fs::create_dir(tree.join("large")).unwrap();
    for index in 0..400 {
        std::fs::write(tree.join(format!("large/a name that takes its place {index:03}")), "").unwrap();
    }
    let output = std::process::Command::new("mksquashfs")
        .args([&tree, &image])
        .args(["-quiet", "-no-progress", "-always-use-fragments", "-b", "4096"])
        .args(words)
        .output()
        .unwrap_or_else(|error| panic!("mksquashfs (make setup installs it): {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(image).unwrap()
}

const LEN: u32 = 2 * 4096 + 777;

/// Places of the superblock.
const BYTES_USED: usize = 40;
const INODES: usize = 64;
const DIRECTORIES: usize = 72;

fn wide(image: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(image[at..at + 8].try_into().unwrap())
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    image[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The one place in the tables where these bytes are.
fn place(image: &[u8], wanted: &[u8]) -> usize {
    let from = wide(image, INODES) as usize;
    let mut found = (from..image.len() - wanted.len()).filter(|at| image[*at..].starts_with(wanted));
    let first = found.next().unwrap();
    assert_eq!(found.next(), None);
    first
}

fn squashfs(bytes: Vec<u8>) -> Box<dyn FileSystem> {
    opened(bytes, Content::Squashfs).unwrap()
}

fn patched(good: &[u8], at: usize, bytes: &[u8]) -> Box<dyn FileSystem> {
    let mut image = good.to_vec();
    put(&mut image, at, bytes);
    squashfs(image)
}

#[test]
fn squashfs_superblocks_that_lie_are_refused_or_lead_to_damage() {
    let good = packed(&["-noI"]);
    let answer = |at: usize, bytes: &[u8]| {
        let mut image = good.clone();
        put(&mut image, at, bytes);
        opened(image, Content::Squashfs).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(answer(0, b"hsqs"), "");
    assert!(answer(28, &[3, 0, 1, 0]).contains("squashfs 3.1"));
    assert!(answer(20, &[9, 0]).contains("compression 9"));
    for (at, bytes) in [(12, [0; 4]), (12, [0xff; 4]), (12, [0, 0, 32, 0]), (22, [64, 0, 0, 0])] {
        assert!(answer(at, &bytes).contains("length of blocks"), "{at} {bytes:?}");
    }
    assert!(answer(BYTES_USED, &[0xff; 8]).contains("are there"));
    assert!(answer(INODES, &[0xff; 8]).contains("places of tables"));
    assert!(answer(DIRECTORIES, &[0xff; 8]).contains("places of tables"));
    assert!(matches!(opened(good[..95].to_vec(), Content::Squashfs), Err(FsError::Damaged(_))));
    // Tables and the root anywhere.
    for at in [32, BYTES_USED, 48, 56, INODES, DIRECTORIES, 80, 88] {
        for value in
            [0, 1, 95, 96, 4096, good.len() as u64 - 1, good.len() as u64, 1 << 32, 1 << 63, u64::MAX]
        {
            let mut image = good.clone();
            put(&mut image, at, &value.to_le_bytes());
            walk(image, Content::Squashfs);
        }
    }
    damaged(patched(&good, 32, &[0xff; 8]).list(b"/"), "not in the table of inodes");
    damaged(patched(&good, 48, &[0xff; 8]).stat(b"/"), "not in the file system");
    damaged(patched(&good, 26, &[0; 2]).stat(b"/"), "no owner");
}

#[test]
fn squashfs_inodes_that_lie_are_damage() {
    let good = packed(&["-noI"]);
    let mut buf = vec![0; LEN as usize];
    assert_eq!(squashfs(good.clone()).read(b"/file", 0, &mut buf).unwrap(), LEN as usize);
    // start_block, fragment, offset, file_size, lengths of blocks
    let inode = place(&good, &LEN.to_le_bytes()) - 28;
    damaged(patched(&good, inode + 16, &[0xff; 4]).read(b"/file", 0, &mut buf), "not in the file system");
    damaged(patched(&good, inode + 20, &[0xfe, 0xff, 0xff, 0xff]).read(b"/file", 0, &mut buf), "no fragment");
    damaged(patched(&good, inode + 24, &[0xff; 4]).read(b"/file", 0, &mut buf), "shorter than what lies");
    damaged(patched(&good, inode + 32, &[0xff; 4]).read(b"/file", 0, &mut buf), "has the length");
    damaged(patched(&good, inode + 32, &[1, 0x20, 0, 0]).read(b"/file", 0, &mut buf), "longer than a block");
    damaged(
        patched(&good, inode + 32, &[1, 0, 0, 1]).read(b"/file", 0, &mut buf),
        "not the length of a block",
    );
    damaged(patched(&good, inode, &[99]).stat(b"/file"), "type 99");
    // A file of 4 GiB whose lengths go on into whatever follows.
    let long = patched(&good, inode + 28, &[0xff; 4]);
    assert_eq!(long.stat(b"/file").unwrap().len, u64::from(u32::MAX));
    assert!(long.read(b"/file", 1 << 31, &mut buf).is_err());
    // A link of 4 GiB, and one of all that follows.
    let link = place(&good, b"where the link leads") - 4;
    damaged(patched(&good, link, &[0xff; 4]).read_link(b"/link"), "longer than any may be");
    assert!(patched(&good, link, &[0xff, 0xff, 0, 0]).read_link(b"/link").is_err());
}

#[test]
fn squashfs_directories_that_lie_end() {
    let good = packed(&["-noI"]);
    let fs = squashfs(good.clone());
    assert_eq!(fs.list(b"/large").unwrap().len(), 400);
    // An entry: offset, difference, type, size - 1, name. Its header is 12 bytes in front of the first one.
    let entry = place(&good, b"\x01\0\x08\0directory") - 4;
    let root = wide(&good, 32);
    let mut own = good.clone();
    put(&mut own, entry, &(root as u16).to_le_bytes());
    let start = ((root >> 16) as u32).to_le_bytes();
    put(&mut own, entry - 8, &start);
    let fs = squashfs(own.clone());
    let deep = "/directory".repeat(300);
    assert_eq!(fs.stat(deep.as_bytes()).unwrap().kind, Kind::Directory);
    assert!(walk(own, Content::Squashfs) > 10);
    damaged(patched(&good, entry - 8, &[0xff; 4]).stat(b"/directory"), "not in the table of inodes");
    damaged(patched(&good, entry - 12, &[0xff, 0xff, 0, 0]).list(b"/"), "a run of 65536");
    damaged(patched(&good, entry + 6, &[0xff, 0xff]).list(b"/"), "longer than any may be");
    damaged(patched(&good, entry + 8, b"../etc/ab").list(b"/"), "an entry of a directory is none");
    // The index of the large directory: index, start_block, size - 1, name. The first one is in the directory's inode.
    let from = wide(&good, INODES) as usize;
    let until = wide(&good, DIRECTORIES) as usize;
    let index = (from..until).find(|at| good[*at..].starts_with(b"a name that takes")).unwrap() - 12;
    let wanted = b"/large/a name that takes its place 399";
    assert!(fs.stat(b"/nothing").is_err() && squashfs(good.clone()).stat(wanted).is_ok());
    for (at, bytes) in [(0, [0xff; 4]), (4, [0xff; 4]), (8, [0xff; 4]), (0, [7, 0, 0, 0]), (4, [1, 0, 0, 0])]
    {
        assert!(patched(&good, index + at, &bytes).stat(wanted).is_err(), "{at} {bytes:?}");
    }
}

#[test]
fn squashfs_bombs_are_cut_off() {
    let squeeze = |len: usize| {
        let mut out = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
        std::io::Write::write_all(&mut out, &vec![0; len]).unwrap();
        out.finish().unwrap()
    };
    // A metadata block of 8 KiB that unpacks to 8 MiB, as the table of inodes.
    let good = packed(&["-noI"]);
    let bomb = squeeze(8 << 20);
    assert!(bomb.len() <= 8192);
    let mut image = good.clone();
    let at = image.len();
    image.extend_from_slice(&(bomb.len() as u16).to_le_bytes());
    image.extend_from_slice(&bomb);
    let behind = image.len() as u64;
    image.resize(image.len() + 4096, 0);
    let len = image.len() as u64;
    put(&mut image, BYTES_USED, &len.to_le_bytes());
    put(&mut image, INODES, &(at as u64).to_le_bytes());
    put(&mut image, DIRECTORIES, &behind.to_le_bytes());
    put(&mut image, 32, &[0; 8]);
    damaged(squashfs(image).list(b"/"), "unpacks to more than 8192 bytes");
    // A block of a file of 4 KiB that unpacks to 4 MiB.
    let bomb = squeeze(4 << 20);
    assert!(bomb.len() > 4000);
    let bomb = squeeze(3_900_000);
    let mut image = good.clone();
    let inode = place(&good, &LEN.to_le_bytes()) - 28;
    put(&mut image, inode + 16, &(good.len() as u32).to_le_bytes());
    put(&mut image, inode + 32, &(bomb.len() as u32).to_le_bytes());
    image.extend_from_slice(&bomb);
    let len = image.len() as u64;
    put(&mut image, BYTES_USED, &len.to_le_bytes());
    damaged(squashfs(image).read(b"/file", 0, &mut [0; 100]), "unpacks to more than 4096 bytes");
}

#[test]
fn mutants_of_a_squashfs_are_survived() {
    let mut state = 0xbeef_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize
    };
    for words in [
        &["-noI", "-noId"][..],
        &["-comp", "gzip"],
        &["-comp", "xz"],
        &["-comp", "zstd"],
        &["-comp", "lz4"],
        &["-comp", "lzo"],
        &["-comp", "lzma"],
    ] {
        let good = packed(words);
        assert!(walk(good.clone(), Content::Squashfs) > 100);
        let tables = wide(&good, INODES) as usize;
        let (rounds, mut reached) = (if words[0] == "-noI" { 400 } else { 60 }, 0);
        for round in 0..rounds {
            let mut image = good.clone();
            for _ in 0..1 + next() % 4 {
                let at = match round % 4 {
                    0 => next() % 96,
                    1 => next() % image.len(),
                    _ => tables + next() % (image.len() - tables),
                };
                image[at] = next() as u8;
            }
            reached += usize::from(walk(image, Content::Squashfs) > 3);
        }
        assert!(reached > rounds / 10, "{words:?}: {reached} of {rounds}");
        for len in [0, 4, 95, 96, 200, tables, tables + 10, good.len() - 1] {
            walk(good[..len].to_vec(), Content::Squashfs);
        }
    }
}

#[test]
fn the_corpora_of_the_fuzz_targets_are_replayed() {
    for target in ["iso", "squashfs"] {
        let run = if target == "iso" { exercise::iso } else { exercise::squashfs };
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let (mut files, mut names) = (0, 0);
        for entry in std::fs::read_dir(dir).expect("the corpus") {
            let bytes = std::fs::read(entry.expect("an entry").path()).expect("a file");
            (files, names) = (files + 1, names + run(&bytes));
        }
        assert!(files >= 2 && names > 4 * files, "{target}: {names} names in {files} files");
    }
}
