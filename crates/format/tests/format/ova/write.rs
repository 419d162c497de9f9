//! Appliances that Kiln writes: what GNU tar, sha256sum, qemu-img and our own reader say of them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use kiln_disk::{Budget, ByteSource, Durability, Existing, FileSource, Silent};
use kiln_format::ova::{self, Firmware};
use kiln_format::transfer::{FilePlan, write_file};
use kiln_format::{CheckScope, Choice, OpenContext, Options, check, open};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::{Random, check_disk};
use kiln_testkit::oracle::{PYTHON, assert_qemu_identical, text};

fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut random = Random(5);
    for start in (0..len).step_by(700_000) {
        let end = len.min(start + 150_000);
        for word in bytes[start..end].chunks_mut(8) {
            // Compressible, and not all the same.
            let number = random.number() & 0x0f0f_0f0f_0f0f_0f0f;
            let take = word.len();
            word.copy_from_slice(&number.to_le_bytes()[..take]);
        }
    }
    bytes[..512].fill(0);
    bytes
}

fn write(dest: &Path, bytes: &[u8], given: &[(&str, &str)], threads: usize) -> kiln_disk::Result<()> {
    let options = Options::new(
        ova::FORMAT.create.unwrap().options,
        given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    )?;
    let disk = ModelDisk::new(bytes.to_vec(), 65_536);
    let plan = FilePlan {
        disk: &disk,
        format: &ova::FORMAT,
        options: &options,
        dest,
        existing: Existing::Replace,
        durability: Durability::Unsynced,
        read_back: true,
        threads,
        content_digest: true,
        raw_digest: false,
        leaves: None,
        budget: &Budget::default(),
    };
    write_file(plan, &|| Ok(()), &Silent).map(|_| ())
}

fn run(dir: &Path, program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).current_dir(dir).output().expect("it runs");
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn other_programs_take_it_apart_and_find_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let ova = dir.path().join("box.ova");
    let bytes = content(9 << 20);
    write(&ova, &bytes, &[("name", "box"), ("firmware", "efi")], 2).unwrap();
    assert_eq!(run(dir.path(), "tar", &["-tf", "box.ova"]), "box.ovf\nbox.mf\nbox-disk1.vmdk\n");
    assert_eq!(run(dir.path(), "bsdtar", &["-tf", "box.ova"]), "box.ovf\nbox.mf\nbox-disk1.vmdk\n");
    let script =
        "import sys, tarfile\nprint([(m.name, m.mtime, m.isreg()) for m in tarfile.open(sys.argv[1], 'r:')])";
    let listed = run(dir.path(), PYTHON, &["-c", script, "box.ova"]);
    assert_eq!(listed.trim(), "[('box.ovf', 0, True), ('box.mf', 0, True), ('box-disk1.vmdk', 0, True)]");
    run(dir.path(), "tar", &["-xf", "box.ova"]);
    let manifest = std::fs::read_to_string(dir.path().join("box.mf")).unwrap();
    let sums = run(dir.path(), "sha256sum", &["box.ovf", "box-disk1.vmdk"]);
    let expected: String = sums
        .lines()
        .map(|line| {
            let (hex, name) = line.split_once("  ").unwrap();
            format!("SHA256({name})= {hex}\n")
        })
        .collect();
    assert_eq!(manifest, expected);
    std::fs::write(dir.path().join("disk.raw"), &bytes).unwrap();
    assert_qemu_identical(&dir.path().join("box-disk1.vmdk"), "vmdk", &dir.path().join("disk.raw"), "raw");
    let descriptor = std::fs::read_to_string(dir.path().join("box.ovf")).unwrap();
    let vmdk_len = std::fs::metadata(dir.path().join("box-disk1.vmdk")).unwrap().len();
    for words in [
        format!("ovf:size=\"{vmdk_len}\""),
        format!("ovf:capacity=\"{}\"", bytes.len()),
        "vmdk.html#streamOptimized".to_owned(),
        "vmw:key=\"firmware\" vmw:value=\"efi\"".to_owned(),
    ] {
        assert!(descriptor.contains(&words), "{words}: {descriptor}");
    }
    // The last sector of the disk's file is the end-of-stream marker.
    let vmdk = std::fs::read(dir.path().join("box-disk1.vmdk")).unwrap();
    assert!(vmdk[vmdk.len() - 512..].iter().all(|byte| *byte == 0));
    assert!(vmdk[vmdk.len() - 1024..vmdk.len() - 512].starts_with(b"KDMV"));
}

#[test]
fn our_own_reader_gets_everything_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("box.ova");
    let bytes = content(3 << 20);
    for manifest in ["sha256", "sha512", "sha1", "none"] {
        write(&path, &bytes, &[("manifest", manifest), ("cpus", "4"), ("memory", "512M")], 2).unwrap();
        let source: Arc<dyn ByteSource> = Arc::new(FileSource::open(&path).unwrap());
        let image = open(Arc::clone(&source), Choice::Detect, &OpenContext::new()).unwrap();
        check_disk(image.as_ref(), &bytes);
        let appliance = image.appliance().unwrap();
        let hardware = appliance.descriptor.systems[0].hardware.as_ref().unwrap();
        assert_eq!((hardware.cpus, hardware.memory_bytes), (Some(4), Some(512 << 20)));
        assert_eq!((hardware.firmware, hardware.family.as_deref()), (None::<Firmware>, Some("vmx-13")));
        assert_eq!(hardware.controller_of("vmdisk1").unwrap().model.as_deref(), Some("VirtualSCSI"));
        let report = check(source, Choice::Detect, &OpenContext::new(), CheckScope::Data, &Silent).unwrap();
        let expected: &[(&str, u64)] = match manifest {
            "sha1" => &[("ova.mf.sha1", 1)],
            "none" => &[("ova.mf.absent", 1)],
            _ => &[],
        };
        assert_eq!(report.findings.counts(), expected, "{manifest}");
    }
}

#[test]
fn the_file_is_the_same_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(20 << 20);
    let mut all = Vec::new();
    for threads in [1, 2, 5] {
        let path = dir.path().join(format!("{threads}.ova"));
        write(&path, &bytes, &[], threads).unwrap();
        all.push(std::fs::read(path).unwrap());
    }
    assert!(all[0] == all[1] && all[1] == all[2]);
}

#[test]
fn values_that_no_machine_can_have_are_refused_before_a_byte_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.ova");
    for (name, value) in [
        ("manifest", "md5"),
        ("name", "../x"),
        ("name", ""),
        ("name", "a\"b"),
        ("name", ".x"),
        ("firmware", "coreboot"),
        ("cpus", "0"),
        ("cpus", "two"),
        ("memory", "1"),
        ("controller", "usb"),
        ("network", "a b"),
        ("hardware", "qemu-9"),
        ("os_type", "<x>"),
        ("compression_level", "13"),
        ("color", "red"),
    ] {
        let error = write(&path, &[1; 4096], &[(name, value)], 1).unwrap_err();
        assert!(error.code().starts_with("option."), "{name}={value}: {error}");
        assert!(!path.exists());
    }
    assert_eq!(write(&path, &[1; 1000], &[], 1).unwrap_err().code(), "vmdk.create.sectors");
    assert_eq!(text(&path).rsplit('/').next(), Some("x.ova"));
}
