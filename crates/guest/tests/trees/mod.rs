//! Trees of what file systems make difficult, and their listings: by the kernel or a tool, and by our readers.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kiln_disk::{Disk, FileSource};
use kiln_guest::fs::{FileSystem, Kind, Root, open};
use kiln_guest::volume::{Content, probe};
use kiln_testkit::flat::Flat;
use sha2::{Digest, Sha256};

pub(crate) fn tool(program: &str, words: &[&str]) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let output = Command::new(program).args(words).env("PATH", path).env("LC_ALL", "C.UTF-8").output();
    let output = output.unwrap_or_else(|error| panic!("{program} (make setup installs it): {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A mount that goes away.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    pub(crate) fn new(image: &Path, at: PathBuf, options: &str) -> Self {
        std::fs::create_dir_all(&at).unwrap();
        tool("mount", &["-o", options, image.to_str().unwrap(), at.to_str().unwrap()]);
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let step = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    std::iter::repeat_with(step).take(len).collect()
}

/// A tree of everything that a file system makes difficult.
pub(crate) fn fill(root: &Path, unix: bool) {
    let write = |name: &[u8], bytes: &[u8]| {
        let path = root.join(std::ffi::OsStr::from_bytes(name));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write(b"empty", b"");
    write(b"small", b"x");
    write(b"block", &noise(4096, 1));
    write(b"big", &noise(3_000_001, 2));
    write("Grüße and spaces.TXT".as_bytes(), b"umlaut");
    write(b"a.very.long.name.with.many.dots.and.more.than.thirteen.characters", &noise(70_000, 3));
    write(b"deep/er/and/deeper/file", &noise(10_000, 4));
    for index in 0..600 {
        write(format!("many/file-{index:04}").as_bytes(), format!("{index}").as_bytes());
    }
    if unix {
        write(b"newline\nand\ttab", b"odd");
        write(b"latin1-\xe4\xff", b"not utf-8");
        write(&[b'n'; 255], b"longest");
        let sparse = std::fs::File::create(root.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, &noise(5000, 5), 1 << 20).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 9 << 20).unwrap();
        sparse.set_len(12 << 20).unwrap();
        std::fs::hard_link(root.join("big"), root.join("hard link")).unwrap();
        std::os::unix::fs::symlink("small", root.join("link")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join("absolute")).unwrap();
        std::os::unix::fs::symlink("long/".repeat(200), root.join("dangling and long")).unwrap();
    }
}

pub(crate) type Listing = BTreeMap<Vec<u8>, (Kind, u64, Vec<u8>)>;

pub(crate) fn hash(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

/// What the kernel shows.
pub(crate) fn by_kernel(root: &Path) -> Listing {
    let (mut found, mut dirs) = (Listing::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let data = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().as_os_str().to_owned().into_vec();
            let fact = match data.file_type() {
                kind if kind.is_dir() => {
                    dirs.push(path);
                    (Kind::Directory, 0, Vec::new())
                }
                kind if kind.is_symlink() => {
                    let target = std::fs::read_link(&path).unwrap().into_os_string().into_vec();
                    (Kind::Link, target.len() as u64, target)
                }
                _ => (Kind::File, data.len(), hash(&std::fs::read(&path).unwrap())),
            };
            found.insert(name, fact);
        }
    }
    found
}

/// What our reader shows.
pub(crate) fn by_us(fs: &dyn FileSystem) -> Listing {
    let (mut found, mut dirs) = (Listing::new(), vec![Vec::new()]);
    while let Some(dir) = dirs.pop() {
        let at = if dir.is_empty() { b"/".to_vec() } else { [b"/".as_slice(), &dir].concat() };
        for entry in fs.list(&at).unwrap() {
            let name = if dir.is_empty() { entry.name } else { [dir.as_slice(), b"/", &entry.name].concat() };
            let path = [b"/".as_slice(), &name].concat();
            let stat = fs.stat(&path).unwrap();
            assert_eq!(stat.kind, entry.kind, "{}", String::from_utf8_lossy(&path));
            let fact = match stat.kind {
                Kind::Directory => {
                    dirs.push(name.clone());
                    (Kind::Directory, 0, Vec::new())
                }
                Kind::Link => {
                    let target = fs.read_link(&path).unwrap();
                    (Kind::Link, target.len() as u64, target)
                }
                _ => {
                    // In pieces of an odd length, as a stream would.
                    let (mut bytes, mut at) = (Vec::new(), 0);
                    loop {
                        let mut piece = vec![0; 777_777];
                        let read = fs.read(&path, at, &mut piece).unwrap();
                        bytes.extend_from_slice(&piece[..read]);
                        at += read as u64;
                        if read < piece.len() {
                            break;
                        }
                    }
                    (stat.kind, stat.len, hash(&bytes))
                }
            };
            found.insert(name, fact);
        }
    }
    found
}

/// Reads an image and compares.
pub(crate) fn same(image: &Path, content: Content, mut expected: Listing) {
    expected.remove(b"lost+found".as_slice());
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(image).unwrap()));
    assert_eq!(probe(&disk).unwrap().content, content);
    let fs = open(&disk, content, &Root::Default).unwrap();
    let mut found = by_us(fs.as_ref());
    found.remove(b"lost+found".as_slice());
    let without = |these: &Listing, others: &Listing| -> Vec<String> {
        let alone = these.keys().filter(|name| !others.contains_key(*name));
        alone.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    };
    assert_eq!((without(&found, &expected), without(&expected, &found)), (Vec::new(), Vec::new()));
    for (name, fact) in &expected {
        assert_eq!(found[name], *fact, "{}", String::from_utf8_lossy(name));
    }
    assert!(expected.len() > 600);
}
