//! The archive that Google's cloud takes, as GNU tar, gzip, Python and our own reader see it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kiln_disk::{Budget, ByteSink, ByteSource, FileSink, FileSource, Silent};
use kiln_format::tar::{GcpJob, list, write_gcp};
use kiln_format::{Choice, OpenContext, open};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::{Random, check_disk};
use kiln_testkit::oracle::PYTHON;

/// A disk with data in every `step`-th unit of 64 KiB.
fn content(len: usize, step: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut random = Random(11);
    for unit in bytes.chunks_mut(65_536).step_by(step) {
        unit.iter_mut().take(9_000).for_each(|byte| *byte = random.number() as u8 & 0x3f);
    }
    bytes
}

fn write(path: &Path, bytes: &[u8], threads: usize, unit: usize) -> u64 {
    let file = std::fs::File::create(path).unwrap();
    let sink: Arc<dyn ByteSink> = Arc::new(FileSink::new(file, "out"));
    let disk = ModelDisk::new(bytes.to_vec(), unit);
    write_gcp(&disk, &sink, GcpJob { threads, level: 6 }, &Silent).unwrap().byte_len
}

fn run(dir: &Path, program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).current_dir(dir).output().expect("it runs");
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn gnu_tar_lists_one_sparse_member_and_gives_the_disk_back() {
    // Four runs fit the header; 25 and 26 a full and a fuller extension block; 300 many.
    for (units, step) in [(1, 1), (3, 1), (7, 2), (8, 2), (50, 2), (52, 2), (600, 2), (64, 100), (16, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk.tar.gz");
        let bytes = content(units * 65_536, step);
        let len = write(&path, &bytes, 2, 65_536);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), len);
        run(dir.path(), "gzip", &["-t", "disk.tar.gz"]);
        let listed = run(dir.path(), "tar", &["--numeric-owner", "-tvzf", "disk.tar.gz"]);
        assert_eq!(listed.lines().count(), 1, "{listed}");
        let words: Vec<&str> = listed.split_whitespace().collect();
        assert_eq!((words[0], words[1], words[2]), ("-rw-r--r--", "0/0", bytes.len().to_string().as_str()));
        assert_eq!(words.last(), Some(&"disk.raw"));
        run(dir.path(), "tar", &["-xSzf", "disk.tar.gz"]);
        assert!(std::fs::read(dir.path().join("disk.raw")).unwrap() == bytes, "{units} units, {step}");
        // Python reads several gzip members and one alike; zlib itself reads one.
        let script = "import sys, zlib\nd = zlib.decompressobj(31)\nb = open(sys.argv[1], 'rb').read()\n\
                      open(sys.argv[2], 'wb').write(d.decompress(b))\nassert d.eof and not d.unused_data";
        run(dir.path(), PYTHON, &["-c", script, "disk.tar.gz", "disk.tar"]);
        let tar = std::fs::read(dir.path().join("disk.tar")).unwrap();
        assert_eq!((&tar[257..265], tar[156]), (&b"ustar  \0"[..], b'S'));
        let source: Arc<dyn ByteSource> = Arc::new(FileSource::open(&dir.path().join("disk.tar")).unwrap());
        let archive = list(&source, &Budget::default()).unwrap();
        assert!(archive.members.len() == 1 && archive.members[0].is_sparse());
        check_disk(open(source, Choice::Detect, &OpenContext::new()).unwrap().as_ref(), &bytes);
    }
}

#[test]
fn the_same_disk_gives_the_same_bytes_however_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(5 << 20, 3);
    let mut all = Vec::new();
    for (threads, unit) in [(1, 65_536), (2, 4096), (5, 5 << 20)] {
        let path = dir.path().join(format!("{threads}.tar.gz"));
        write(&path, &bytes, threads, unit);
        all.push(std::fs::read(path).unwrap());
    }
    assert!(all[0] == all[1] && all[1] == all[2]);
}

#[test]
fn an_empty_disk_and_one_of_noise_are_archives_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.tar.gz");
    let mut noise = vec![0; (3 << 20) + 512];
    let mut random = Random(3);
    noise.iter_mut().for_each(|byte| *byte = random.number() as u8);
    for bytes in [vec![0; 1 << 20], noise] {
        write(&path, &bytes, 2, 4096);
        run(dir.path(), "tar", &["-xSzf", "disk.tar.gz"]);
        assert!(std::fs::read(dir.path().join("disk.raw")).unwrap() == bytes);
    }
    let disk = ModelDisk::new(vec![0; 512], 512);
    let sink: Arc<dyn ByteSink> = Arc::new(FileSink::new(tempfile::tempfile().unwrap(), "out"));
    let error = write_gcp(&disk, &sink, GcpJob { threads: 1, level: 10 }, &Silent).unwrap_err();
    assert_eq!(error.code(), "option.value");
}
