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

/// A medium is no disk image; what it is, is said all the same.
#[test]
fn medium_is_described_with_the_system_on_it() {
    let sandbox = Sandbox::new();
    let write = |path: &str, bytes: &str| {
        let path = sandbox.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    write(
        "root/etc/os-release",
        "ID=debian\nVERSION_ID=12\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n",
    );
    write("tree/.disk/info", "Debian GNU/Linux 12.5.0 \"Bookworm\" - Live amd64\n");
    write("tree/boot.img", &"x".repeat(2048));
    std::fs::create_dir(sandbox.path("tree/live")).unwrap();
    let image = "tree/live/filesystem.squashfs";
    sandbox.tool("mksquashfs", ["root", image, "-quiet", "-no-progress", "-comp", "xz"]);
    let words = "-as mkisofs -quiet -R -V LIVE -b boot.img -no-emul-boot -boot-load-size 4 -o live.iso tree";
    sandbox.tool("xorriso", words.split(' '));
    let text = sandbox.kiln(["inspect", "live.iso"]).ok();
    for line in [
        "medium        Debian GNU/Linux 12.5.0 \"Bookworm\", a live system",
        "label         \"LIVE\"",
        "says          /.disk/info: Debian GNU/Linux 12.5.0 \"Bookworm\" - Live amd64",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}: {text}");
    }
    assert!(text.contains("BIOS, emulation: none, sector "), "{text}");
    assert!(
        text.contains(": squashfs (xz), ") && text.contains(", Debian GNU/Linux 12 (bookworm)"),
        "{text}"
    );
    let json = sandbox.kiln(["inspect", "--json", "live.iso"]).exits(0).json("kiln.inspect.v1");
    assert_eq!(json["kind"], "foreign");
    let media = &json["guest"]["media"];
    assert_eq!((&media["kind"], &media["volume"]["label"]), (&"live".into(), &"LIVE".into()));
    assert_eq!(media["boot"][0]["load_sectors"], 4);
    assert_eq!(media["images"][0]["release"]["version"], "12");
    let json = sandbox.kiln(["inspect", "--json", "--no-guest", "live.iso"]).exits(0).json("kiln.inspect.v1");
    assert!(json.get("guest").is_none());
    // A disk has no medium.
    sandbox.guest_disk("disk.raw");
    let json = sandbox.kiln(["inspect", "--json", "disk.raw"]).exits(0).json("kiln.inspect.v1");
    assert!(json["guest"].get("media").is_none());
}
