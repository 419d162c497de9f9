//! Disks made to hurt: links that lead round or out, chains that are circles, and random damage everywhere.

use std::num::NonZeroU64;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Budget, Disk, Extent, ExtentKind, GuestOffset, Limits, MemoryDisk, Result, check_range};
use kiln_guest::facts::Depth;
use kiln_guest::fs::{Entry, FileSystem, FsError, Kind, Root, Stat, open};
use kiln_guest::rules::{Options, PLACES};
use kiln_guest::tree::Tree;
use kiln_guest::volume::{Content, probe};
use kiln_guest::{examine, judge};

/// A file system of links and files in memory.
struct Links(Vec<(&'static str, Option<&'static str>)>);

impl FileSystem for Links {
    fn list(&self, _: &[u8]) -> kiln_guest::fs::Result<Vec<Entry>> {
        Ok(Vec::new())
    }
    fn stat(&self, path: &[u8]) -> kiln_guest::fs::Result<Stat> {
        let found = self.0.iter().find(|(known, _)| known.as_bytes() == path);
        let kind = match found {
            Some((_, Some(_))) => Kind::Link,
            Some((name, None)) if name.ends_with("file") => Kind::File,
            Some(_) => Kind::Directory,
            None => return Err(FsError::NotFound),
        };
        Ok(Stat { kind, len: 4, mode: None, uid: None })
    }
    fn read_link(&self, path: &[u8]) -> kiln_guest::fs::Result<Vec<u8>> {
        let found = self.0.iter().find(|(known, _)| known.as_bytes() == path);
        Ok(found.and_then(|(_, target)| *target).unwrap().as_bytes().to_vec())
    }
    fn read(&self, _: &[u8], _: u64, buf: &mut [u8]) -> kiln_guest::fs::Result<usize> {
        let len = buf.len().min(4);
        buf[..len].copy_from_slice(&b"here"[..len]);
        Ok(len)
    }
}

fn tree(links: &[(&'static str, Option<&'static str>)]) -> Tree {
    let mut tree = Tree::default();
    tree.mount("/", 0, Box::new(Links(links.to_vec())));
    tree
}

#[test]
fn links_stay_in_the_image_whatever_they_say() {
    let tree = tree(&[
        ("/etc", Some("/../../../../../../dir")),
        ("/dir", None),
        ("/dir/file", None),
        ("/dir/up", Some("../../../../../../dir/file")),
        ("/dir/slash", Some("/dir/./../dir//file")),
        ("/dir/passwd", Some("/etc/shadow")),
    ]);
    for path in ["/etc/file", "/dir/up", "/dir/slash", "/../../dir/file", "/etc/../dir/file"] {
        assert_eq!(tree.resolve(path.as_bytes(), true).unwrap(), b"/dir/file", "{path}");
        assert_eq!(tree.text(path).as_deref(), Some("here"));
    }
    // The host has this file, the image has not.
    assert!(tree.text("/dir/passwd").is_none());
    assert!(tree.text("/etc/passwd").is_none());
}

#[test]
fn circles_of_links_end_after_forty() {
    let looped =
        tree(&[("/a", Some("/b")), ("/b", Some("/a")), ("/self", Some("self")), ("/long", Some("long/x"))]);
    for path in ["/a", "/self", "/long", "/a/b/c"] {
        assert!(matches!(looped.resolve(path.as_bytes(), true), Err(FsError::Links)), "{path}");
    }
    let names: Vec<&'static str> = (0..=41).map(|index| &*format!("/l{index}").leak()).collect();
    let chain = |length: usize| {
        let mut all: Vec<(&'static str, Option<&'static str>)> =
            (0..length).map(|index| (names[index], Some(names[index + 1]))).collect();
        all.push((names[length], None));
        tree(&all)
    };
    assert!(chain(40).resolve(b"/l0", true).is_ok());
    assert!(matches!(chain(41).resolve(b"/l0", true), Err(FsError::Links)));
}

fn made(command: &str, megabytes: u64) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let (image, tree) = (dir.path().join("image"), dir.path().join("tree"));
    std::fs::create_dir_all(tree.join("etc/cloud")).unwrap();
    std::fs::create_dir_all(tree.join("boot/grub")).unwrap();
    std::fs::create_dir_all(tree.join("usr/bin")).unwrap();
    std::fs::write(tree.join("etc/os-release"), "ID=debian\nVERSION_ID=12\n").unwrap();
    std::fs::write(tree.join("etc/fstab"), "UUID=x / ext4 defaults 0 1\n").unwrap();
    std::fs::write(tree.join("boot/grub/grub.cfg"), "menuentry 'a' {\nlinux /boot/vmlinuz root=UUID=x\n}\n")
        .unwrap();
    std::fs::write(tree.join("boot/vmlinuz"), vec![7; 100_000]).unwrap();
    std::os::unix::fs::symlink("../etc/os-release", tree.join("usr/release")).unwrap();
    std::fs::File::create(&image).unwrap().set_len(megabytes << 20).unwrap();
    let command = command.replace("IMAGE", image.to_str().unwrap()).replace("TREE", tree.to_str().unwrap());
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new("sh").args(["-c", &command]).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(image).unwrap()
}

fn limits() -> Limits {
    Limits { time: Duration::from_secs(20), ..Limits::INSPECT }
}

/// Looks at a disk in every way; nothing may panic or run on.
fn survive(bytes: Vec<u8>) {
    let started = Instant::now();
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
    let budget = Arc::new(Budget::new(limits()));
    if let Ok(examination) = examine(&[disk], &budget, Depth::Full) {
        for place in PLACES {
            let _ = judge(&examination, place, &Options::default());
        }
        serde_json::to_string(&examination.report).unwrap();
    }
    assert!(started.elapsed() < Duration::from_secs(30));
}

fn mutants(good: &[u8], rounds: u32, metadata: usize) {
    let mut state = 0xfeed_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    for _ in 0..rounds {
        let mut bytes = good.to_vec();
        for _ in 0..1 + next() % 6 {
            let at = next() as usize % metadata.min(bytes.len());
            bytes[at] = next() as u8;
        }
        survive(bytes);
    }
}

#[test]
fn mutants_of_ext4_are_survived() {
    mutants(&made("mke2fs -q -t ext4 -F -d TREE IMAGE", 8), 120, 2 << 20);
}

#[test]
fn mutants_of_btrfs_are_survived() {
    mutants(&made("mkfs.btrfs -q -r TREE IMAGE", 120), 15, 32 << 20);
}

#[test]
fn mutants_of_fat_are_survived() {
    let good = made("mkfs.vfat -F 16 IMAGE >/dev/null && mcopy -s -i IMAGE TREE/etc TREE/boot ::/", 16);
    mutants(&good, 60, 200 << 10);
}

#[test]
fn truncated_disks_are_survived() {
    let good = made("mke2fs -q -t ext4 -F -d TREE IMAGE", 8);
    for len in [0, 1, 511, 512, 1023, 1024, 2047, 4096, 65535, 1 << 20, (8 << 20) - 1] {
        survive(good[..len].to_vec());
    }
}

#[test]
fn fat_chain_in_a_circle_is_damage() {
    let mut bytes =
        made("mkfs.vfat -F 16 -s 1 IMAGE >/dev/null && mcopy -i IMAGE TREE/boot/vmlinuz ::/file", 16);
    let reserved = u16::from_le_bytes([bytes[14], bytes[15]]) as usize * 512;
    // Cluster 3 leads back to 2, where the file begins.
    bytes[reserved + 6..reserved + 8].copy_from_slice(&2_u16.to_le_bytes());
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
    assert_eq!(probe(&disk).unwrap().content, Content::Fat);
    let fs = open(&disk, Content::Fat, &Root::Default).unwrap();
    let mut buf = vec![0; 100_000];
    // The file's own length bounds the walk: its bytes repeat, and nothing runs on.
    assert_eq!(fs.read(b"/file", 0, &mut buf).unwrap(), 100_000);
}

#[test]
fn exhausted_budget_is_an_error_with_its_code() {
    let bytes = made("mke2fs -q -t ext4 -F -d TREE IMAGE", 8);
    let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
    let budget = Arc::new(Budget::new(Limits { metadata_bytes: 64 << 10, ..Limits::INSPECT }));
    let error = examine(&[disk], &budget, Depth::Full).err().map(|error| error.code());
    assert_eq!(error, Some("budget.metadata"));
}

/// A disk with a few bytes that are others.
struct Patched {
    good: Arc<Vec<u8>>,
    patches: Vec<(usize, Vec<u8>)>,
}

impl Disk for Patched {
    fn disk_len(&self) -> u64 {
        self.good.len() as u64
    }
    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        let at = at.get() as usize;
        buf.copy_from_slice(&self.good[at..at + buf.len()]);
        for (place, bytes) in &self.patches {
            for (index, byte) in bytes.iter().enumerate() {
                if let Some(target) = (place + index).checked_sub(at).and_then(|at| buf.get_mut(at)) {
                    *target = *byte;
                }
            }
        }
        Ok(())
    }
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        Ok(Extent { start: at, len: limit, kind: ExtentKind::Encoded })
    }
}

/// Drive C of a small Windows, without the disk around it.
fn drive() -> Arc<Vec<u8>> {
    let dir = tempfile::tempdir().unwrap();
    let disk = kiln_testkit::windows::Windows::new(false).write(dir.path(), "windows");
    let bytes = std::fs::read(disk).unwrap();
    Arc::new(bytes[kiln_testkit::windows::FIRST as usize..].to_vec())
}

/// Lists and reads all that can be seen, up to a thousand names.
fn walk(patched: Patched) {
    let started = Instant::now();
    let disk: Arc<dyn Disk> = Arc::new(patched);
    let Ok(fs) = open(&disk, Content::Ntfs, &Root::Default) else { return };
    let _ = (fs.space(), fs.describe(&mut probe(&disk).unwrap()));
    let (mut dirs, mut seen) = (vec![Vec::new()], 0);
    while let Some(dir) = dirs.pop() {
        let at = if dir.is_empty() { b"/".to_vec() } else { dir.clone() };
        for entry in fs.list(&at).unwrap_or_default() {
            let path = [dir.as_slice(), b"/", &entry.name].concat();
            seen += 1;
            let _ = (fs.stat(&path), fs.read_link(&path), fs.read(&path, 0, &mut [0; 70_000]));
            if entry.kind == Kind::Directory && seen < 1000 && path.len() < 1000 {
                dirs.push(path);
            }
        }
    }
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// Byte of the master file table on such a drive.
fn table(good: &[u8]) -> usize {
    u64::from_le_bytes(good[48..56].try_into().unwrap()) as usize * 4096
}

#[test]
fn every_field_of_the_first_ntfs_records_may_lie() {
    let good = drive();
    let table = table(&good);
    for at in (0..90).chain(510..512) {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            walk(Patched { good: Arc::clone(&good), patches: vec![(at, vec![value])] });
        }
    }
    // Head and first attributes of the table itself, of the root directory, and of the first file of a user's.
    for record in [0, 5, 64, 65] {
        for field in (0..0x40_usize).step_by(2).chain((0x40..0x200).step_by(6)) {
            for value in [0_u16, 0xffff] {
                let at = table + record * 1024 + field;
                let patches = vec![(at, value.to_le_bytes().to_vec())];
                walk(Patched { good: Arc::clone(&good), patches });
            }
        }
    }
}

#[test]
fn ntfs_directory_that_holds_itself_ends_with_the_path() {
    let good = drive();
    let disk: Arc<dyn Disk> = Arc::new(Patched { good: Arc::clone(&good), patches: Vec::new() });
    let fs = open(&disk, Content::Ntfs, &Root::Default).unwrap();
    assert_eq!(fs.stat(b"/windows").unwrap().kind, Kind::Directory);
    // An entry of an index, at a multiple of 8 bytes: reference, lengths, and 66 bytes of the key before the name.
    let entries = |name: &str, lengths: [u8; 4]| -> Vec<usize> {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let places = (0..good.len() - 128).step_by(8).filter(|at| good[at + 8..at + 12] == lengths);
        places.filter(|at| good[at + 82..].starts_with(&name)).collect()
    };
    // System32 is led back to the directory that it is in.
    let windows = entries("Windows", [0x60, 0, 0x50, 0])[0];
    let patches: Vec<(usize, Vec<u8>)> = entries("System32", [0x68, 0, 0x52, 0])
        .into_iter()
        .map(|entry| (entry, good[windows..windows + 8].to_vec()))
        .collect();
    assert!(!patches.is_empty());
    // A name of a file that was deleted, and whose record holds another one.
    let stale = patches.iter().map(|(entry, reference)| {
        let sequence = good[entry + 6].wrapping_add(1);
        (*entry, [&good[*entry..entry + 6], &[sequence], &reference[7..]].concat())
    });
    let disk: Arc<dyn Disk> = Arc::new(Patched { patches: stale.collect(), good: Arc::clone(&good) });
    let fs = open(&disk, Content::Ntfs, &Root::Default).unwrap();
    assert!(matches!(fs.stat(b"/windows/system32"), Err(FsError::Damaged(_))));
    let disk: Arc<dyn Disk> = Arc::new(Patched { good, patches });
    let fs = open(&disk, Content::Ntfs, &Root::Default).unwrap();
    let deep = format!("/windows{}", "/system32".repeat(512));
    assert_eq!(fs.stat(deep.as_bytes()).unwrap().kind, Kind::Directory);
    let mut tree = Tree::default();
    tree.mount("/", 0, fs);
    assert!(tree.stat(&deep).is_err());
}

#[test]
fn mutants_of_a_windows_are_survived() {
    let good = drive();
    let table = table(&good);
    let mut state = 0x5eed_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize
    };
    // Where the hives lie: their blocks begin with a word.
    let bins: Vec<usize> =
        (0..good.len()).step_by(4096).filter(|at| matches!(&good[*at..*at + 4], b"regf" | b"hbin")).collect();
    assert!(bins.len() > 6);
    for round in 0..200 {
        let patches = (0..1 + next() % 6)
            .map(|_| {
                let at = match round % 2 {
                    0 => table + next() % (128 << 10),
                    _ => bins[next() % bins.len()] + next() % 4096,
                };
                (at, vec![next() as u8])
            })
            .collect();
        let started = Instant::now();
        let disk: Arc<dyn Disk> = Arc::new(Patched { good: Arc::clone(&good), patches });
        let budget = Arc::new(Budget::new(limits()));
        if let Ok(examination) = examine(&[disk], &budget, Depth::Full) {
            for place in PLACES {
                let _ = judge(&examination, place, &Options::default());
            }
            serde_json::to_string(&examination.report).unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}

/// What the reader of ext would hold in memory is bounded before it is asked.
#[test]
fn ext_that_asks_for_memory_no_file_system_needs_is_refused() {
    let good = made("mke2fs -q -F -t ext4 -O ^metadata_csum,64bit -d TREE IMAGE", 8);
    let cases: [(usize, &[u8], &str); 4] = [
        (0x18, &20_u32.to_le_bytes(), "the file system is damaged: blocks of 2^20 KiB"),
        (0xfe, &32_768_u16.to_le_bytes(), "the file system is damaged: group descriptors of 32768 bytes"),
        (
            0x150,
            &4_u32.to_le_bytes(),
            "the file system cannot be read: 2097153 block groups, more than 1048576",
        ),
        (0x20, &1_u32.to_le_bytes(), ""),
    ];
    for (at, value, expected) in cases {
        let mut bytes = good.clone();
        bytes[1024 + at..][..value.len()].copy_from_slice(value);
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::new(bytes));
        let answer = open(&disk, Content::Ext, &Root::Default).err().map(|error| error.to_string());
        assert_eq!(answer.unwrap_or_default(), expected, "{at:#x}");
    }
}
