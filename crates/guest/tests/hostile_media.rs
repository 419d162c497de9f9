//! Media made to hurt: directories in circles, areas without end, tables that lead nowhere, bombs, random damage.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Disk, Extent, ExtentKind, GuestOffset, Result, check_range};
use kiln_guest::fs::{FileSystem, FsError, Kind, Root, open};
use kiln_guest::volume::Content;
use kiln_testkit::iso::{ROOT, Record, continued, directory, entry, named, volume};

struct Bytes(Vec<u8>);

impl Disk for Bytes {
    fn disk_len(&self) -> u64 {
        self.0.len() as u64
    }
    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        let at = at.get() as usize;
        buf.copy_from_slice(&self.0[at..at + buf.len()]);
        Ok(())
    }
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        Ok(Extent { start: at, len: limit, kind: ExtentKind::Encoded })
    }
}

fn opened(bytes: Vec<u8>, content: Content) -> kiln_guest::fs::Result<Box<dyn FileSystem>> {
    let disk: Arc<dyn Disk> = Arc::new(Bytes(bytes));
    open(&disk, content, &Root::Default)
}

/// Lists and reads all that can be seen, up to some hundred names; how many there were.
fn walk(bytes: Vec<u8>, content: Content) -> usize {
    let started = Instant::now();
    let Ok(fs) = opened(bytes, content) else { return 0 };
    let (mut dirs, mut seen, mut buf) = (vec![Vec::new()], 0, [0; 5000]);
    while let Some(dir) = dirs.pop() {
        let at = if dir.is_empty() { b"/".to_vec() } else { dir.clone() };
        for entry in fs.list(&at).unwrap_or_default() {
            let path = [dir.as_slice(), b"/", &entry.name].concat();
            seen += 1;
            let _ = (fs.stat(&path), fs.read_link(&path), fs.read(&path, 0, &mut buf));
            let _ = fs.read(&path, 1 << 40, &mut [0; 10]);
            if entry.kind == Kind::Directory && seen < 300 && path.len() < 100 {
                dirs.push(path);
            }
        }
    }
    assert!(started.elapsed() < Duration::from_secs(10));
    seen
}

/// A volume of 64 blocks whose root holds one thing.
fn one(record: Record, rest: &[(u32, Vec<u8>)]) -> Vec<u8> {
    volume(64, &[record], rest)
}

fn iso(bytes: Vec<u8>) -> Box<dyn FileSystem> {
    opened(bytes, Content::Iso9660).unwrap()
}

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
