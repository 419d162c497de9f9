//! Second opinions on qcow2: other implementations read what Kiln writes, and Kiln reads what they write.
//!
//! What each of them cannot do is asserted as well, so that a new release that can is noticed.

mod peers;

use std::path::Path;
use std::sync::Arc;

use kiln_disk::{Budget, ByteSink, FileSink, FileSource, Silent};
use kiln_format::transfer::{Job, write_container};
use kiln_format::{CheckScope, Choice, OpenContext, Options, by_name};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::{Random, check_disk};
use kiln_testkit::oracle::{qemu_img, text};
use peers::{Answer, read_by_imago, read_by_qcow2_core, read_by_qcow2_rs, write_by_imago, write_by_qcow2_rs};
use tempfile::TempDir;

const LEN: usize = 5 * (1 << 20) + 3 * 512;

/// Text, noise and zeros; starts and ends inside clusters of every size.
fn content() -> Vec<u8> {
    let mut random = Random(0x71_636f_7732);
    let mut bytes = vec![0; LEN];
    for (n, byte) in bytes[700_000..2_500_000].iter_mut().enumerate() {
        *byte = (n / 300 % 97) as u8;
    }
    bytes[3_000_001..3_400_000].iter_mut().for_each(|byte| *byte = random.number() as u8);
    bytes[LEN - 1000..].fill(0x55);
    bytes
}

fn write_by_kiln(path: &Path, content: &[u8], pairs: &[(&str, &str)]) {
    let qcow2 = by_name("qcow2").unwrap();
    let given = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options = Options::new(qcow2.create.unwrap().options, given).unwrap();
    let sink: Arc<dyn ByteSink> = Arc::new(FileSink::new(std::fs::File::create(path).unwrap(), text(path)));
    let disk = ModelDisk::new(content.to_vec(), 4096);
    let job = Job {
        disk: &disk,
        format: qcow2,
        options: &options,
        threads: 2,
        content_digest: false,
        raw_digest: false,
        fingerprint: false,
        leaves: None,
        budget: &Budget::default(),
    };
    write_container(job, &sink, &Silent).unwrap();
}

type Reader = fn(&Path) -> Answer<Vec<u8>>;

/// Asserts that every reader but those named gives the content, and that those named do not.
#[track_caller]
fn all_read(pairs: &[(&str, &str)], cannot: &[&str]) {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.qcow2");
    let content = content();
    write_by_kiln(&path, &content, pairs);
    let readers: [(&str, Reader); 3] =
        [("qcow2-rs", read_by_qcow2_rs), ("imago", read_by_imago), ("qcow2-core", read_by_qcow2_core)];
    for (name, read) in readers {
        match (read(&path), cannot.contains(&name)) {
            (Ok(bytes), false) => assert!(bytes == content, "{name} reads other bytes from {pairs:?}"),
            (Err(_), true) => {}
            (Ok(_), true) => panic!("{name} reads {pairs:?} now: take it off the list"),
            (Err(error), false) => panic!("{name} cannot read {pairs:?}: {error}"),
        }
    }
}

#[test]
fn others_read_version_3_in_clusters_of_every_size() {
    for size in ["512", "4k", "64k", "1M"] {
        all_read(&[("cluster_size", size)], &[]);
    }
    all_read(&[("cluster_size", "2M")], &["qcow2-core"]);
}

#[test]
fn others_read_version_2() {
    for size in ["4k", "64k", "1M"] {
        all_read(&[("compat", "0.10"), ("cluster_size", size)], &[]);
    }
}

#[test]
fn others_read_zlib_clusters_of_both_versions() {
    for compat in ["0.10", "1.1"] {
        for size in ["4k", "64k", "1M"] {
            let codec = ("compression_type", "zlib");
            all_read(&[("compat", compat), ("cluster_size", size), ("compress", "on"), codec], &[]);
        }
    }
}

#[test]
fn nobody_else_reads_zstd_clusters() {
    let zstd = [("compress", "on"), ("compression_type", "zstd")];
    all_read(&zstd, &["qcow2-rs", "imago", "qcow2-core"]);
}

fn kiln_reads(path: &Path, content: &[u8]) {
    let source = Arc::new(FileSource::open(path).unwrap());
    let image = kiln_format::open(source, Choice::Detect, &OpenContext::new()).unwrap();
    assert_eq!(image.format().id, "qcow2");
    check_disk(image.as_ref(), content);
    let findings = image.check(CheckScope::Data, &Silent).unwrap();
    assert!(!findings.fails(), "{:?}", findings.list());
}

#[test]
fn kiln_reads_what_imago_writes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.qcow2");
    for bits in [9, 12, 16, 21] {
        write_by_imago(&path, &content(), 1 << bits).unwrap();
        qemu_img(&["check", "-f", "qcow2", text(&path)]);
        kiln_reads(&path, &content());
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
fn kiln_reads_what_qcow2_rs_writes() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("disk.qcow2");
    for bits in [12, 16, 20] {
        write_by_qcow2_rs(&path, &content(), bits).unwrap();
        kiln_reads(&path, &content());
    }
}

#[test]
fn none_of_them_is_linked_into_kiln() {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "kiln-cli", "--edges", "normal,build", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    assert!(tree.contains("kiln-format v"), "{tree}");
    for name in ["qcow2-rs", "qcow2-core", "imago", "kiln-testkit"] {
        assert!(!tree.lines().any(|line| line.starts_with(&format!("{name} v"))), "{name}:\n{tree}");
    }
}
