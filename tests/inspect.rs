//! `kiln inspect`.

use crate::support::{Sandbox, overwrite};

#[test]
fn raw_disk_is_described_for_people_and_for_machines() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 10 << 20);
    let text = sandbox.kiln(["inspect", "disk.raw"]).ok();
    let expected = "\
file          disk.raw
format        raw, flat
seen          no known structure
disk size     10 MiB (10485760 bytes)
file size     10 MiB (10485760 bytes)
";
    assert!(text.starts_with(expected), "{text}");
    let json = sandbox.kiln(["inspect", "--json", "disk.raw"]).exits(0).json("kiln.inspect.v1");
    assert_eq!(json["format"], "raw");
    assert_eq!(json["kind"], "raw");
    assert_eq!(json["disk_bytes"], 10 << 20);
    assert_eq!(json["file_bytes"], 10 << 20);
    assert_eq!(json["references"], serde_json::json!([]));
    assert!(json["allocated_bytes"].as_u64().unwrap() < 10 << 20);
}

#[test]
fn partition_table_is_named() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let json = sandbox.kiln(["inspect", "--json", "disk.raw"]).exits(0).json("kiln.inspect.v1");
    assert_eq!(json["evidence"], serde_json::json!(["a GUID partition table"]));
}

#[test]
fn qemu_form_has_the_values_that_qemu_img_prints() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", (10 << 20) + 512);
    sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    for name in ["disk.raw", "disk.qcow2"] {
        let format = name.rsplit('.').next().unwrap();
        // What was not written yet has no place on the disk yet: the two would count at different moments.
        std::fs::File::open(sandbox.path(name)).unwrap().sync_all().unwrap();
        let theirs: serde_json::Value =
            serde_json::from_str(&sandbox.tool("qemu-img", ["info", "--output=json", "-f", format, name]))
                .unwrap();
        let ours: serde_json::Value =
            serde_json::from_str(&sandbox.kiln(["inspect", "--output", "qemu", name]).ok()).unwrap();
        for key in ["virtual-size", "filename", "format", "actual-size", "dirty-flag", "cluster-size"] {
            assert_eq!(ours.get(key), theirs.get(key), "{name} {key}");
        }
    }
}

#[test]
fn foreign_files_are_named_and_two_formats_at_once_are_a_no() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("a.zip"), b"PK\x03\x04").unwrap();
    let json = sandbox.kiln(["inspect", "--json", "a.zip"]).exits(0).json("kiln.inspect.v1");
    assert_eq!(json["kind"], "foreign");
    assert_eq!(json["format"], serde_json::Value::Null);
    assert_eq!(json["evidence"], serde_json::json!(["a zip archive"]));
    assert_eq!(json["advice"], "unpack it first; the disk image is inside");
    // A gzip stream that is an ISO 9660 file system as well.
    let polyglot = sandbox.path("both");
    std::fs::write(&polyglot, [0x1f, 0x8b, 8]).unwrap();
    std::fs::OpenOptions::new().write(true).open(&polyglot).unwrap().set_len(1 << 20).unwrap();
    overwrite(&polyglot, 0x8001, b"CD001");
    let json = sandbox.kiln(["inspect", "--json", "both"]).exits(1).json("kiln.inspect.v1");
    assert_eq!(json["kind"], "polyglot");
}

#[test]
fn as_raw_reads_what_another_reader_would_not() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("a.gz"), [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]).unwrap();
    let json = sandbox.kiln(["inspect", "--json", "--as", "raw", "a.gz"]).exits(0).json("kiln.inspect.v1");
    assert_eq!((&json["format"], &json["disk_bytes"]), (&"raw".into(), &512.into()));
}

#[test]
fn missing_file_says_where_it_looked() {
    let sandbox = Sandbox::new();
    let ran = sandbox.kiln(["inspect", "no.qcow2"]).exits(3);
    assert_eq!(
        ran.stderr,
        "error: cannot open no.qcow2\n  caused by: No such file or directory (os error 2)\n"
    );
    let ran = sandbox.kiln(["inspect", "--json", "nosuch"]).exits(3);
    assert_eq!(ran.error()["code"], "name.not-found");
    assert_eq!(ran.stdout, b"");
}

#[test]
fn a_fifo_and_a_directory_are_refused_without_waiting() {
    let sandbox = Sandbox::new();
    sandbox.tool("mkfifo", ["pipe.raw"]);
    for name in ["pipe.raw", "./"] {
        let ran = sandbox.kiln(["inspect", "--json", name]).exits(3);
        assert_eq!(ran.error()["code"], "source.kind", "{name}");
    }
}
