//! Disks made to hurt: links that lead round or out, chains that are circles, and random damage everywhere.

use std::num::NonZeroU64;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Budget, Disk, Extent, ExtentKind, GuestOffset, Limits, Result, check_range};
use kiln_guest::facts::Depth;
use kiln_guest::fs::{Entry, FileSystem, FsError, Kind, Root, Stat, open};
use kiln_guest::rules::{Options, PLACES};
use kiln_guest::tree::Tree;
use kiln_guest::volume::{Content, probe};
use kiln_guest::{examine, judge};

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
    let disk: Arc<dyn Disk> = Arc::new(Bytes(bytes));
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
    let disk: Arc<dyn Disk> = Arc::new(Bytes(bytes));
    assert_eq!(probe(&disk).unwrap().content, Content::Fat);
    let fs = open(&disk, Content::Fat, &Root::Default).unwrap();
    let mut buf = vec![0; 100_000];
    // The file's own length bounds the walk: its bytes repeat, and nothing runs on.
    assert_eq!(fs.read(b"/file", 0, &mut buf).unwrap(), 100_000);
}

#[test]
fn exhausted_budget_is_an_error_with_its_code() {
    let bytes = made("mke2fs -q -t ext4 -F -d TREE IMAGE", 8);
    let disk: Arc<dyn Disk> = Arc::new(Bytes(bytes));
    let budget = Arc::new(Budget::new(Limits { metadata_bytes: 64 << 10, ..Limits::INSPECT }));
    let error = examine(&[disk], &budget, Depth::Full).err().map(|error| error.code());
    assert_eq!(error, Some("budget.metadata"));
}
