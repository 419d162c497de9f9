//! File systems that contradict themselves, one field at a time: for each the exact answer, in bounded time.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kiln_disk::{Budget, Disk, Limits, MemoryDisk};
use kiln_guest::examine;
use kiln_guest::facts::Depth;
use kiln_guest::fs::{Entry, FileSystem, FsError, Kind, Root, Stat, open};
use kiln_guest::tree::Tree;
use kiln_guest::volume::{Content, probe};

fn run(program: &str, words: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program).args(words).env("PATH", path).output().unwrap();
    // e2fsck answers 1 when it changed something, which is what it is asked for.
    let good = output.status.success() || (program == "e2fsck" && output.status.code() == Some(1));
    assert!(good, "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Time that this thread was on a processor (`proc_pid_schedstat`): other tests and machines under load do not count.
fn processor_time() -> Duration {
    let all = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(all.split(' ').next().unwrap().parse().unwrap())
}

/// What an operation came to, in a word; whatever it is, it must come in time.
fn outcome<T: std::fmt::Debug>(work: impl FnOnce() -> kiln_guest::fs::Result<T>) -> String {
    let started = processor_time();
    let answer = work();
    let took = processor_time() - started;
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    match answer {
        Ok(value) => format!("{value:?}"),
        Err(FsError::Damaged(_)) => "damaged".to_owned(),
        Err(FsError::Disk(error)) => error.code().to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

/// An ext4 with blocks of 1024 bytes: a file of three blocks, a link, a directory of many names with its index.
struct Ext {
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
}

impl Ext {
    fn new(features: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (image, tree) = (dir.path().join("image"), dir.path().join("tree"));
        std::fs::create_dir_all(tree.join("many")).unwrap();
        std::fs::create_dir_all(tree.join("few/below")).unwrap();
        std::fs::write(tree.join("file"), vec![b'f'; 3000]).unwrap();
        std::fs::write(tree.join("few/one"), b"1").unwrap();
        symlink("/few/one", tree.join("link")).unwrap();
        for index in 0..300 {
            std::fs::write(tree.join(format!("many/a-name-of-some-length-{index:04}")), b"").unwrap();
        }
        let (image, tree) = (image.to_str().unwrap(), tree.to_str().unwrap());
        let words =
            ["-q", "-F", "-t", "ext4", "-b", "1024", "-I", "256", "-O", features, "-d", tree, image, "8M"];
        run("mke2fs", &words);
        run("e2fsck", &["-fyD", image]);
        let bytes = std::fs::read(image).unwrap();
        Self { dir, bytes }
    }

    fn debugfs(&self, request: &str) -> String {
        run("debugfs", &["-R", request, self.dir.path().join("image").to_str().unwrap()])
    }

    /// First byte of an inode, by debugfs: "located at block 42, offset 0x0c00".
    fn inode(&self, path: &str) -> usize {
        let said = self.debugfs(&format!("imap {path}"));
        let said = said.split("located").nth(1).unwrap();
        let words: Vec<&str> = said.split([' ', ',', '\n']).filter(|word| !word.is_empty()).collect();
        let after = |name: &str| words[words.iter().position(|word| *word == name).unwrap() + 1];
        let offset = usize::from_str_radix(after("offset").trim_start_matches("0x"), 16).unwrap();
        after("block").parse::<usize>().unwrap() * 1024 + offset
    }

    /// First byte of a block of a file.
    fn block(&self, path: &str, index: u32) -> usize {
        self.debugfs(&format!("bmap {path} {index}")).trim().parse::<usize>().unwrap() * 1024
    }

    /// The file system with some bytes changed.
    fn with(&self, patches: &[(usize, &[u8])]) -> Box<dyn FileSystem> {
        let mut bytes = self.bytes.clone();
        for (at, patch) in patches {
            bytes[*at..at + patch.len()].copy_from_slice(patch);
        }
        open(&(Arc::new(MemoryDisk::new(bytes)) as Arc<dyn Disk>), Content::Ext, &Root::Default).unwrap()
    }
}

/// Bytes and where they are written.
type Patches = Vec<(usize, Vec<u8>)>;

fn read(fs: &dyn FileSystem, path: &str) -> String {
    let mut buf = vec![0xee; 4096];
    outcome(|| {
        let len = fs.read(path.as_bytes(), 0, &mut buf)?;
        let all = &buf[..len];
        let uniform = all.iter().all(|byte| *byte == all[0]);
        Ok((len, if uniform { char::from(all[0]) } else { '*' }))
    })
}

#[test]
fn extent_trees_of_ext4_that_lie_are_damage() {
    let ext = Ext::new("^metadata_csum");
    // The header of the tree in the inode: magic, entries, room, depth; then an entry of 12 bytes.
    let tree = ext.inode("/file") + 0x28;
    assert_eq!(ext.bytes[tree..tree + 2], [0x0a, 0xf3]);
    assert_eq!(read(ext.with(&[]).as_ref(), "/file"), "(3000, 'f')");
    let own = (ext.inode("/file") / 1024) as u32;
    // A block that is a node, and its own child.
    let child = ext.block("/file", 0);
    let entry = |block: u32| [&[0, 0, 0, 0], &block.to_le_bytes()[..], &[0, 0, 0, 0]].concat();
    let node =
        |depth: u8, below: u32| [&[0x0a, 0xf3, 1, 0, 4, 0, depth, 0, 0, 0, 0, 0], &entry(below)[..]].concat();
    let block = (child / 1024) as u32;
    let cases: [(&str, Patches, &str); 12] = [
        ("no magic", vec![(tree, vec![0, 0])], "damaged"),
        ("deeper than 5", vec![(tree + 6, vec![6, 0])], "damaged"),
        ("more entries than room", vec![(tree + 2, vec![5, 0])], "damaged"),
        ("65535 entries", vec![(tree + 2, vec![0xff, 0xff])], "damaged"),
        (
            "a child that is its parent's equal",
            vec![(tree, node(1, block)), (child, node(1, block))],
            "damaged",
        ),
        (
            "five nodes down, each its own child",
            vec![(tree, node(5, block)), (child, node(5, block))],
            "damaged",
        ),
        ("a child that is no node", vec![(tree, node(1, own))], "damaged"),
        ("a child behind the end", vec![(tree, node(1, u32::MAX))], "damaged"),
        ("an extent behind the end", vec![(tree + 12 + 8, vec![0xff; 4])], "damaged"),
        ("an extent behind the end, by its high half", vec![(tree + 12 + 6, vec![0xff; 2])], "damaged"),
        (
            "an extent that begins in the boot sector: what lies there",
            vec![(tree + 12 + 8, vec![0; 4])],
            "(3000, '*')",
        ),
        ("an extent of no length: a hole", vec![(tree + 12 + 4, vec![0, 0])], "(3000, '\\0')"),
    ];
    let mut wrong = Vec::new();
    for (name, patches, expected) in cases {
        let patches: Vec<(usize, &[u8])> =
            patches.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
        let said = read(ext.with(&patches).as_ref(), "/file");
        if said != expected {
            wrong.push(format!("{name}: {said}, not {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // The other files are what they were.
    assert_eq!(read(ext.with(&[(tree, &[0, 0])]).as_ref(), "/few/one"), "(1, '1')");
}

#[test]
fn directories_of_ext4_that_lie_are_damage_or_end() {
    let ext = Ext::new("^metadata_csum");
    let list =
        |fs: &dyn FileSystem, path: &str| outcome(|| fs.list(path.as_bytes()).map(|names| names.len()));
    let good = ext.with(&[]);
    assert_eq!(
        (list(good.as_ref(), "/many"), list(good.as_ref(), "/few")),
        ("300".to_owned(), "2".to_owned())
    );
    let few = ext.block("/few", 0);
    // Inode, length of the entry, length of the name, kind; "." and ".." first, of 12 bytes each.
    let third = few + 24;
    let next = u16::from_le_bytes([ext.bytes[third + 4], ext.bytes[third + 5]]);
    let root = ext.block("/many", 0);
    // dx_root_info at 24: levels at 30; then limit, count, and the block of the first hash.
    assert!(ext.bytes[root + 30] == 0 && ext.bytes[root + 34] > 1, "the directory has no index");
    let many = "/many/a-name-of-some-length-0123";
    let stat = |fs: &dyn FileSystem, path: &str| outcome(|| fs.stat(path.as_bytes()).map(|stat| stat.kind));
    assert_eq!(stat(good.as_ref(), many), "File");
    let mut wrong = Vec::new();
    let mut is = |name: &str, said: String, expected: &str| {
        if said != expected {
            wrong.push(format!("{name}: {said}, not {expected}"));
        }
    };
    for (name, at, bytes, expected) in [
        ("an entry of no length", third + 4, vec![0, 0], "damaged"),
        ("an entry longer than its block", third + 4, vec![0, 0xff], "1"),
        ("an entry that is not aligned", third + 4, vec![13, 0], "damaged"),
        ("a name longer than its entry", third + 6, vec![255], if next > 263 { "2" } else { "damaged" }),
        ("an entry of no inode", third, vec![0; 4], "1"),
    ] {
        is(name, list(ext.with(&[(at, &bytes)]).as_ref(), "/few"), expected);
    }
    for (name, patches, expected) in [
        (
            "an index that leads to its own root",
            vec![(root + 30, vec![1]), (root + 36, vec![0; 4])],
            "damaged",
        ),
        ("an index behind the directory", vec![(root + 36, vec![0xff; 4])], "damaged"),
        ("an index of no entries", vec![(root + 34, vec![0, 0])], "damaged"),
        ("an index of more entries than room", vec![(root + 34, vec![0xff, 0xff])], "damaged"),
        ("an index of 255 levels", vec![(root + 30, vec![255])], "damaged"),
    ] {
        // Every name goes by the index: those of the hashes that the first entry covers are among them.
        let patches: Vec<(usize, &[u8])> =
            patches.iter().map(|(at, bytes)| (*at, bytes.as_slice())).collect();
        let fs = ext.with(&patches);
        let all = (0..300).map(|index| stat(fs.as_ref(), &format!("/many/a-name-of-some-length-{index:04}")));
        let mut said: Vec<String> = all.collect();
        said.sort();
        said.dedup();
        said.retain(|said| said != "File");
        is(name, said.join(" "), expected);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn links_of_ext4_that_say_they_are_long_cost_nothing() {
    let ext = Ext::new("^metadata_csum");
    let link = ext.inode("/link");
    let said = |size: u32| {
        let fs = ext.with(&[(link + 4, &size.to_le_bytes())]);
        outcome(|| fs.read_link(b"/link").map(|target| String::from_utf8_lossy(&target).into_owned()))
    };
    assert_eq!(said(8), "\"/few/one\"");
    assert_eq!(said(0), "damaged");
    // Before the reader makes room for them.
    for size in [u32::MAX, 1 << 31, 4097] {
        let answer = ext.with(&[(link + 4, &size.to_le_bytes())]).read_link(b"/link");
        let Err(FsError::Damaged(why)) = answer else { panic!("{size}: {answer:?}") };
        assert_eq!(why, format!("a link of {size} bytes"));
    }
    // Not inline any longer: its bytes are no extent tree.
    assert_eq!(said(60), "damaged");
}

#[test]
fn checksums_of_ext4_are_held_against_its_bytes() {
    let ext = Ext::new("metadata_csum");
    let inode = ext.inode("/file");
    assert_eq!(read(ext.with(&[]).as_ref(), "/file"), "(3000, 'f')");
    // A bit of its time of change, which nothing but the checksum covers.
    assert_eq!(read(ext.with(&[(inode + 0x10, &[0xa5])]).as_ref(), "/file"), "damaged");
    let fs = ext.with(&[(ext.block("/few", 0) + 32, b"X")]);
    assert_eq!(outcome(|| fs.list(b"/few").map(|names| names.len())), "damaged");
    let mut bytes = ext.bytes.clone();
    // Its label, inside the superblock's checksum.
    bytes[1024 + 0x78] ^= 1;
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
    assert_eq!(outcome(|| open(&disk, Content::Ext, &Root::Default).map(|_| ())), "damaged");
}

#[test]
fn directory_of_ext4_that_holds_itself_ends_with_the_path() {
    let ext = Ext::new("^metadata_csum");
    // The directory below is led back to the one that it is in, and so is the name of a file.
    let few = ext.block("/few", 0);
    let own: Vec<u8> = ext.bytes[few..few + 4].to_vec();
    let places: Vec<usize> = [&b"below"[..], b"one"]
        .iter()
        .map(|name| (few..few + 1024).find(|at| ext.bytes[*at..].starts_with(name)).unwrap() - 8)
        .collect();
    let fs = ext.with(&[(places[0], &own), (places[1], &own)]);
    assert_eq!(fs.list(b"/few").unwrap().len(), 2);
    let mut tree = Tree::default();
    tree.mount("/", 0, fs);
    let started = processor_time();
    assert_eq!(tree.stat(&format!("/few{}", "/below".repeat(600))).unwrap().kind, Kind::Directory);
    assert!(matches!(tree.stat(&format!("/few{}", "/below".repeat(700))), Err(FsError::Links)));
    assert!(processor_time() - started < Duration::from_secs(10));
}

/// A file system in which every name is there, and is a directory.
struct Endless;

impl FileSystem for Endless {
    fn list(&self, _: &[u8]) -> kiln_guest::fs::Result<Vec<Entry>> {
        Ok((0..1_000_000)
            .rev()
            .map(|index| Entry { name: format!("{index:07}").into_bytes(), kind: Kind::File })
            .collect())
    }
    fn stat(&self, _: &[u8]) -> kiln_guest::fs::Result<Stat> {
        Ok(Stat { kind: Kind::Directory, len: 0, mode: Some(0o755), uid: Some(0) })
    }
    fn read_link(&self, _: &[u8]) -> kiln_guest::fs::Result<Vec<u8>> {
        Err(FsError::WrongKind)
    }
    fn read(&self, _: &[u8], _: u64, _: &mut [u8]) -> kiln_guest::fs::Result<usize> {
        Err(FsError::WrongKind)
    }
}

#[test]
fn path_of_4096_levels_and_directory_of_a_million_names_end() {
    let mut tree = Tree::default();
    tree.mount("/", 0, Box::new(Endless));
    let started = processor_time();
    assert!(tree.stat(&"/a".repeat(2048)).is_ok());
    assert!(matches!(tree.stat(&"/a".repeat(4096)), Err(FsError::Links)));
    assert!(matches!(tree.stat(&"/a".repeat(1 << 20)), Err(FsError::Links)));
    let names = tree.names("/any");
    assert_eq!((names.len(), names[0].as_str()), (1_000_000, "0000000"));
    // What looks at each name asks for some.
    assert_eq!(tree.list_stat("/any", 1000).unwrap().len(), 1000);
    assert!(processor_time() - started < Duration::from_secs(20));
}

/// A FAT16 with a directory below the root.
fn fat() -> (Vec<u8>, usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(16 << 20).unwrap();
    let image = image.to_str().unwrap();
    run("mkfs.vfat", &["-F", "16", "-s", "1", image]);
    run("mmd", &["-i", image, "::/d"]);
    run("mmd", &["-i", image, "::/d/e"]);
    let bytes = std::fs::read(image).unwrap();
    let word = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]) as usize;
    let table = word(14) * 512;
    let root = table + bytes[16] as usize * word(22) * 512;
    let data = root + word(17) * 32;
    (bytes, table, data)
}

#[test]
fn chains_and_directories_of_fat_that_are_circles_end() {
    let (good, table, data) = fat();
    let opened = |patches: &[(usize, &[u8])]| {
        let mut bytes = good.clone();
        for (at, patch) in patches {
            bytes[*at..at + patch.len()].copy_from_slice(patch);
        }
        open(&(Arc::new(MemoryDisk::new(bytes)) as Arc<dyn Disk>), Content::Fat, &Root::Default).unwrap()
    };
    let list = |fs: &dyn FileSystem| outcome(|| fs.list(b"/d").map(|names| names.len()));
    assert_eq!(list(opened(&[]).as_ref()), "1");
    // Directory d is cluster 2, of 16 entries; they are all filled, so that its chain counts.
    let full: Vec<u8> = (0..16)
        .flat_map(|index| [format!("N{index:<7}   ").as_bytes(), &[0x20; 1], &[0; 20]].concat())
        .collect();
    // A circle is read until a directory is as long as one can be: 2 MiB.
    let circle = opened(&[(data, &full), (table + 4, &[2, 0])]);
    assert_eq!(list(circle.as_ref()), "65536");
    assert_eq!(list(opened(&[(data, &full), (table + 4, &[0, 0])]).as_ref()), "damaged");
    assert_eq!(list(opened(&[(data, &full), (table + 4, &[0xf0, 0xff])]).as_ref()), "damaged");
    // e, in cluster 3, is d.
    let entry = (data..data + 512).step_by(32).find(|at| good[*at..].starts_with(b"E  ")).unwrap();
    let mut tree = Tree::default();
    tree.mount("/", 0, opened(&[(entry + 26, &[2, 0])]));
    let started = processor_time();
    assert_eq!(tree.stat(&format!("/d{}", "/e".repeat(500))).unwrap().kind, Kind::Directory);
    assert!(matches!(tree.stat(&format!("/d{}", "/e".repeat(3000))), Err(FsError::Links)));
    assert!(processor_time() - started < Duration::from_secs(10));
}

/// The master file table's own record, with a list of attributes that names the record itself, and others.
#[test]
fn table_of_ntfs_that_lists_itself_is_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let disk = kiln_testkit::windows::Windows::new(false).write(dir.path(), "windows");
    let good = std::fs::read(disk).unwrap()[kiln_testkit::windows::FIRST as usize..].to_vec();
    let table = u64::from_le_bytes(good[48..56].try_into().unwrap()) as usize * 4096;
    let word = |at: usize| u32::from_le_bytes(good[at..at + 4].try_into().unwrap());
    // Behind its standard information, as attributes are in the order of their kinds.
    let first = table + usize::from(u16::from_le_bytes([good[table + 20], good[table + 21]]));
    assert_eq!(word(first), 0x10);
    let at = first + word(first + 4) as usize;
    let used = word(table + 24) as usize;
    let said = |references: &[u64]| {
        let entry = |reference: &u64| {
            [&0x80_u32.to_le_bytes()[..], &[32, 0, 0, 26], &[0; 8], &reference.to_le_bytes(), &[0; 8]]
                .concat()
        };
        let entries: Vec<u8> = references.iter().flat_map(entry).collect();
        let len = 24 + entries.len();
        let head = [0x20_u32.to_le_bytes(), (len as u32).to_le_bytes(), [0; 4], [0, 0, 9, 0]].concat();
        let rest = [(entries.len() as u32).to_le_bytes(), [24, 0, 0, 0]].concat();
        let attribute = [head, rest, entries].concat();
        // The last two bytes of each sector stand in the record's head, and its number in their place.
        let mut bytes = good.clone();
        let fix = table + usize::from(u16::from_le_bytes([good[table + 4], good[table + 5]]));
        let ends = [(table + 510, fix + 2), (table + 1022, fix + 4)];
        for (end, kept) in ends {
            bytes.copy_within(kept..kept + 2, end);
        }
        bytes.copy_within(at..table + used, at + len);
        bytes[at..at + len].copy_from_slice(&attribute);
        bytes[table + 24..table + 28].copy_from_slice(&((used + len) as u32).to_le_bytes());
        for (end, kept) in ends {
            bytes.copy_within(end..end + 2, kept);
            bytes.copy_within(fix..fix + 2, end);
        }
        assert!(used + len < 1000, "the record is full");
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
        outcome(|| open(&disk, Content::Ntfs, &Root::Default)?.stat(b"/windows").map(|stat| stat.kind))
    };
    let own = 1_u64 << 48;
    assert_eq!(said(&[own]), "Directory");
    assert_eq!(said(&[own, own, own]), "Directory");
    // A record that is not there, and one behind all tables that there can be.
    assert_eq!(said(&[0x00ff_ffff]), "damaged");
    assert_eq!(said(&[0xffff_ffff_ffff]), "damaged");
}

/// CRC-32C, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn trees_of_btrfs_that_lead_to_themselves_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    std::fs::File::create(&image).unwrap().set_len(120 << 20).unwrap();
    run("mkfs.btrfs", &["-q", "-m", "single", "-d", "single", image.to_str().unwrap()]);
    let good = std::fs::read(&image).unwrap();
    let word = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().unwrap());
    let sb = 0x10000;
    // sys_chunk_array: a key of 17 bytes, then the chunk; the offset of its first stripe is at 48 + 8.
    let (logical, stripe) = (word(sb + 0x32b + 9), word(sb + 0x32b + 17 + 56));
    let chunk_root = word(sb + 0x58);
    let at = (chunk_root - logical + stripe) as usize;
    let node = 16384;
    assert_eq!(u32::from_le_bytes(good[sb + 0x94..sb + 0x98].try_into().unwrap()) as usize, node);
    // The leaf becomes a node of a level with one pointer: its key, its block, its generation.
    let with = |level: u8, target: u64| {
        let mut bytes = good.clone();
        let generation = word(at + 0x50);
        bytes[at + 0x60..at + 0x64].copy_from_slice(&1_u32.to_le_bytes());
        bytes[at + 0x64] = level;
        bytes[at + 0x65 + 17..at + 0x65 + 25].copy_from_slice(&target.to_le_bytes());
        bytes[at + 0x65 + 25..at + 0x65 + 33].copy_from_slice(&generation.to_le_bytes());
        let sum = crc32c(&bytes[at + 32..at + node]);
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
        bytes[sb + 0xc6 + 1] = level;
        let sum = crc32c(&bytes[sb + 32..sb + 4096]);
        bytes[sb..sb + 4].copy_from_slice(&sum.to_le_bytes());
        bytes
    };
    let said = |bytes: Vec<u8>| {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
        outcome(|| open(&disk, Content::Btrfs, &Root::Default)?.list(b"/").map(|names| names.len()))
    };
    assert_eq!(said(good.clone()), "0");
    for (level, target) in
        [(1, chunk_root), (7, chunk_root), (8, chunk_root), (255, chunk_root), (1, u64::MAX), (1, 0)]
    {
        assert_eq!(said(with(level, target)), "damaged", "level {level} to {target}");
    }
    // A leaf of another checksum than its bytes have.
    let mut bytes = good.clone();
    bytes[at + 0x70] ^= 1;
    assert_eq!(said(bytes), "damaged");
}

#[test]
fn directory_of_xfs_that_holds_itself_ends_with_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let (image, proto) = (dir.path().join("image"), dir.path().join("proto"));
    std::fs::write(&proto, "/\n0 0\nd--755 0 0\nd d--755 0 0\ne d--755 0 0\n$\n$\n$\n").unwrap();
    std::fs::File::create(&image).unwrap().set_len(300 << 20).unwrap();
    let words = ["-q", "-f", "-p", proto.to_str().unwrap(), image.to_str().unwrap()];
    run("mkfs.xfs", &words);
    let said = |command: &str| run("xfs_db", &["-r", "-c", command, image.to_str().unwrap()]);
    let root: u64 = said("sb 0\np rootino").rsplit('=').next().unwrap().trim().parse().unwrap_or(128);
    let mut bytes = std::fs::read(&image).unwrap();
    // Inodes of 512 bytes lie in their order; those of d and e are found by their magic and what they hold.
    let inodes: Vec<usize> =
        (0..bytes.len()).step_by(512).filter(|at| bytes[*at..].starts_with(b"IN\x41\xed")).collect();
    let number = |at: usize| u64::from_be_bytes(bytes[at + 152..at + 160].try_into().unwrap());
    let d = *inodes.iter().find(|at| number(**at) != root && bytes[**at + 176] == 1).unwrap();
    // Short form: count, count of long numbers, parent (4), then length, offset (2), name, kind, number (4).
    assert_eq!((bytes[d + 176 + 6], bytes[d + 176 + 9]), (1, b'e'));
    let own = number(d) as u32;
    bytes[d + 176 + 11..d + 176 + 15].copy_from_slice(&own.to_be_bytes());
    let damaged = bytes.clone();
    let mut head = bytes[d..d + 512].to_vec();
    head[100..104].fill(0);
    let sum = crc32c(&head);
    bytes[d + 100..d + 104].copy_from_slice(&sum.to_le_bytes());
    let fs = |bytes: Vec<u8>| {
        open(&(Arc::new(MemoryDisk::new(bytes)) as Arc<dyn Disk>), Content::Xfs, &Root::Default).unwrap()
    };
    assert_eq!(outcome(|| fs(damaged).list(b"/d").map(|names| names.len())), "damaged");
    let mut tree = Tree::default();
    tree.mount("/", 0, fs(bytes));
    let started = processor_time();
    assert_eq!(tree.stat(&format!("/d{}", "/e".repeat(200))).unwrap().kind, Kind::Directory);
    assert!(matches!(tree.stat(&format!("/d{}", "/e".repeat(3000))), Err(FsError::Links)));
    assert!(processor_time() - started < Duration::from_secs(20));
}

/// Links of every kind at places that are read, on a real file system; a file of the host that they name.
#[test]
fn links_of_every_kind_lead_to_no_file_of_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    std::fs::write(&canary, "ID=canary\nPRETTY_NAME=canary\nroot:canary:0:0::/:/bin/sh\n").unwrap();
    let absolute = canary.to_str().unwrap();
    let climbing = format!("{}{absolute}", "../".repeat(64));
    let bad = std::ffi::OsStr::from_bytes(b"/etc/\xff\xfe").to_owned();
    let targets: Vec<(&str, std::ffi::OsString)> = vec![
        ("absolute", absolute.into()),
        ("climbing", climbing.into()),
        ("itself", "/etc/os-release".into()),
        ("device", "/dev/zero".into()),
        ("pipe", "/run/pipe".into()),
        ("slash at the end", "/etc/real/".into()),
        ("no UTF-8", bad),
        ("a place of every process", "/proc/self/environ".into()),
        ("NUL", "/etc/realXrest".into()),
    ];
    for (name, target) in targets {
        let tree = dir.path().join("tree");
        let _ = std::fs::remove_dir_all(&tree);
        for path in ["etc", "dev", "run", "usr/bin", "proc"] {
            std::fs::create_dir_all(tree.join(path)).unwrap();
        }
        for path in ["etc/os-release", "etc/passwd", "etc/fstab", "etc/hostname"] {
            symlink(&target, tree.join(path)).unwrap();
        }
        std::fs::write(tree.join("etc/real"), "ID=real\n").unwrap();
        run("mkfifo", &[tree.join("run/pipe").to_str().unwrap()]);
        run("mknod", &[tree.join("dev/zero").to_str().unwrap(), "c", "1", "5"]);
        let image = dir.path().join("image");
        let words = ["-q", "-F", "-t", "ext4", "-O", "^metadata_csum", "-d"];
        run("mke2fs", &[&words[..], &[tree.to_str().unwrap(), image.to_str().unwrap(), "8M"]].concat());
        let mut bytes = std::fs::read(&image).unwrap();
        for at in 0..bytes.len() - 16 {
            if bytes[at..].starts_with(b"/etc/realXrest") {
                bytes[at + 9] = 0;
            }
        }
        let started = processor_time();
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
        assert_eq!(probe(&disk).unwrap().content, Content::Ext);
        let report = examine(&[disk], &Arc::new(Budget::new(Limits::INSPECT)), Depth::Full).unwrap().report;
        assert!(processor_time() - started < Duration::from_secs(10), "{name}");
        let told = serde_json::to_string(&report).unwrap();
        assert!(
            !told.contains("canary") || told.matches("canary").count() == told.matches(absolute).count(),
            "{name}"
        );
        // Where the link leads to a file of the image, that is what is read: here none but the one with a slash behind.
        let id = report.os.as_ref().map(|os| os.id.clone()).unwrap_or_default();
        assert_eq!(id, if name == "slash at the end" { "real" } else { "" }, "{name}");
        assert!(report.accounts.is_empty() && report.fstab.is_empty(), "{name}");
    }
}
