//! `kiln convert`.

use std::fs::File;

use serde_json::Value;

use crate::support::{Sandbox, overwrite, run};

const FORMATS: [(&str, &str); 3] = [("raw", "raw"), ("qcow2", "qcow2"), ("vhd", "vpc")];

#[test]
fn every_pair_of_formats_holds_the_same_disk_for_qemu() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    for (ours, theirs) in FORMATS {
        let source = format!("from.{ours}");
        sandbox.kiln(["convert", "-O", ours, "disk.raw", &source]).exits(0);
        for (other, name) in FORMATS {
            let dest = format!("{ours}-to-{other}");
            let report = sandbox.kiln(["convert", "-O", other, &source, &dest]).ok();
            assert!(report.contains("\ndone          written, read back, same disk\n"), "{report}");
            // QEMU reads the size of a VHD from its geometry or its field by creator; the bytes must agree.
            sandbox.tool("qemu-img", ["compare", "-f", "raw", "-F", name, "disk.raw", &dest]);
            std::fs::remove_file(sandbox.path(&dest)).unwrap();
        }
        if theirs == "qcow2" {
            sandbox.tool("qemu-img", ["check", "-q", "-f", theirs, &source]);
        }
    }
}

#[test]
fn report_says_what_was_done() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 3 << 20);
    let ran = sandbox.kiln(["convert", "--json", "--raw-digest", "disk.raw", "out.raw"]).exits(0);
    let json = ran.json("kiln.convert.v1");
    assert_eq!(json["source_format"], "raw");
    assert_eq!(json["destination"], "out.raw");
    assert_eq!(json["disk_bytes"], 3 << 20);
    assert_eq!(json["file_bytes"], 3 << 20);
    assert_eq!(
        (&json["synced"], &json["verified"], &json["dry_run"]),
        (&true.into(), &true.into(), &false.into())
    );
    let sum = sandbox.tool("sha256sum", ["disk.raw"]);
    assert_eq!(json["raw_digest"], format!("sha256:{}", sum.split_whitespace().next().unwrap()));
    let ran =
        sandbox.kiln(["convert", "--json", "--no-sync", "--no-verify", "disk.raw", "weak.raw"]).exits(0);
    let json = ran.json("kiln.convert.v1");
    assert_eq!((&json["synced"], &json["verified"]), (&false.into(), &false.into()));
}

#[test]
fn sparse_disk_stays_sparse() {
    use std::os::unix::fs::MetadataExt;
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 30);
    sandbox.kiln(["convert", "disk.raw", "out.raw"]).exits(0);
    let out = std::fs::metadata(sandbox.path("out.raw")).unwrap();
    assert_eq!(out.len(), 1 << 30);
    assert!(out.blocks() * 512 < 4 << 20, "{} bytes", out.blocks() * 512);
}

#[test]
fn existing_destination_stays_without_force_and_is_replaced_with_it() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    std::fs::write(sandbox.path("out.raw"), "precious").unwrap();
    let ran = sandbox.kiln(["convert", "--json", "disk.raw", "out.raw"]).exits(3);
    assert_eq!(ran.error()["code"], "io.exists");
    assert_eq!(ran.error()["path"], "out.raw");
    assert!(ran.error()["hint"].as_str().unwrap().contains("--force"));
    assert_eq!(std::fs::read(sandbox.path("out.raw")).unwrap(), b"precious");
    sandbox.kiln(["convert", "--force", "disk.raw", "out.raw"]).exits(0);
    sandbox.tool("cmp", ["disk.raw", "out.raw"]);
    assert_eq!(sandbox.names(), ["disk.raw", "out.raw"]);
}

#[test]
fn a_file_can_replace_itself() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    let before = std::fs::read(sandbox.path("disk.raw")).unwrap();
    sandbox.kiln(["convert", "--force", "-O", "raw", "disk.raw", "disk.raw"]).exits(0);
    assert_eq!(std::fs::read(sandbox.path("disk.raw")).unwrap(), before);
}

#[test]
fn dry_run_writes_nothing() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    let json = sandbox
        .kiln(["convert", "--json", "--dry-run", "disk.raw", "out.raw"])
        .exits(0)
        .json("kiln.convert.v1");
    assert_eq!((&json["dry_run"], &json["file_bytes"]), (&true.into(), &Value::Null));
    assert_eq!(sandbox.names(), ["disk.raw"]);
}

#[test]
fn pipes_work_on_both_sides() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("disk.raw", 5_000_192);
    let bytes = std::fs::read(&disk).unwrap();
    let ran = sandbox.kiln_with_input(["convert", "-O", "raw", "-", "-"], &bytes).exits(0);
    assert!(ran.stdout == bytes, "{} bytes", ran.stdout.len());
    assert!(ran.stderr.contains("to            standard output (raw)"), "{}", ran.stderr);
    // With JSON the report is on standard error too: standard output is the image.
    let ran = sandbox.kiln_with_input(["convert", "--json", "-O", "raw", "-", "-"], &bytes).exits(0);
    assert!(ran.stdout == bytes);
    assert!(ran.stderr.starts_with("{\n  \"schema\": \"kiln.convert.v1\""), "{}", ran.stderr);
    // A file as standard input is read in place.
    let input = File::open(&disk).unwrap();
    let ran = run(sandbox.kiln_command(["convert", "-O", "raw", "-", "copy.raw"]).stdin(input)).exits(0);
    assert_eq!(ran.stderr, "");
    sandbox.tool("cmp", ["disk.raw", "copy.raw"]);
    assert_eq!(sandbox.names(), ["copy.raw", "disk.raw"]);
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
}

#[test]
fn piped_qcow2_is_the_file_that_a_conversion_to_a_file_makes() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("disk.raw", 5 << 20);
    sandbox.kiln(["convert", "disk.raw", "file.qcow2"]).exits(0);
    let ran =
        sandbox.kiln_with_input(["convert", "-O", "qcow2", "-", "-"], &std::fs::read(disk).unwrap()).exits(0);
    assert!(ran.stdout == std::fs::read(sandbox.path("file.qcow2")).unwrap(), "{}", ran.stderr);
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
}

#[test]
fn output_does_not_depend_on_the_number_of_threads() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    for (name, extra) in
        [("plain", &[][..]), ("zstd", &["-c"]), ("zlib", &["-c", "-o", "compression_type=zlib"])]
    {
        let mut made = Vec::new();
        for threads in ["1", "2", "5"] {
            let dest = format!("{name}-{threads}.qcow2");
            let words = ["convert", "-O", "qcow2", "--threads", threads, "disk.raw", &dest];
            sandbox.kiln(words.iter().chain(extra)).exits(0);
            made.push(std::fs::read(sandbox.path(&dest)).unwrap());
        }
        assert!(made.windows(2).all(|pair| pair[0] == pair[1]), "{name}");
    }
}

#[test]
fn compression_is_zstd_unless_told_and_only_where_there_is_one() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    for (extra, kind) in [(&[][..], "zstd"), (&["-o", "compression_type=zlib"], "zlib")] {
        let dest = format!("{kind}.qcow2");
        let words = ["convert", "-c", "disk.raw", &dest];
        sandbox.kiln(words.iter().chain(extra)).exits(0);
        let info: Value =
            serde_json::from_str(&sandbox.tool("qemu-img", ["info", "--output=json", &dest])).unwrap();
        assert_eq!(info["format-specific"]["data"]["compression-type"], kind);
        sandbox.tool("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", "disk.raw", &dest]);
    }
    let ran = sandbox.kiln(["convert", "--json", "-c", "-O", "vhd", "disk.raw", "out.vhd"]).exits(2);
    assert_eq!(ran.error()["code"], "option.compress");
}

#[test]
fn output_format_is_never_guessed() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    for dest in ["out", "out.zip", "-"] {
        let ran = sandbox.kiln(["convert", "--json", "disk.raw", dest]).exits(2);
        assert_eq!(ran.error()["code"], "usage.output-format");
    }
    let ran = sandbox.kiln(["convert", "--json", "-f", "floppy", "disk.raw", "out.raw"]).exits(2);
    assert_eq!(ran.error()["code"], "usage.format");
    assert_eq!(sandbox.names(), ["disk.raw"]);
}

#[test]
fn declared_format_must_be_the_one_found() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    let ran = sandbox.kiln(["convert", "--json", "-f", "qcow2", "disk.raw", "out.raw"]).exits(1);
    assert_eq!(ran.error()["code"], "format.mismatch");
    sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let ran = sandbox.kiln(["convert", "--json", "-f", "raw", "disk.qcow2", "out.raw"]).exits(1);
    assert_eq!(ran.error()["code"], "format.mismatch");
    sandbox.kiln(["convert", "--as", "raw", "disk.qcow2", "out.raw"]).exits(0);
    sandbox.tool("cmp", ["disk.qcow2", "out.raw"]);
}

#[test]
fn an_archive_is_refused_by_name() {
    let sandbox = Sandbox::new();
    let head = b"PK\x03\x04 and so on";
    std::fs::write(sandbox.path("disk.zip"), head).unwrap();
    let ran = sandbox.kiln(["convert", "--json", "disk.zip", "out.raw"]).exits(3);
    assert_eq!(ran.error()["code"], "format.foreign");
    assert!(ran.error()["message"].as_str().unwrap().contains("zip"), "{}", ran.stderr);
    assert_eq!(sandbox.names(), ["disk.zip"]);
}

#[test]
fn snapshot_is_read_by_name() {
    let sandbox = Sandbox::new();
    sandbox.disk("old.raw", 4 << 20);
    sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "old.raw", "disk.qcow2"]);
    sandbox.tool("qemu-img", ["snapshot", "-c", "before", "disk.qcow2"]);
    sandbox.tool("qemu-io", ["-c", "write -P 7 1M 64k", "disk.qcow2"]);
    sandbox.kiln(["convert", "--snapshot", "before", "disk.qcow2", "then.raw"]).exits(0);
    sandbox.kiln(["convert", "disk.qcow2", "now.raw"]).exits(0);
    sandbox.tool("cmp", ["old.raw", "then.raw"]);
    let now = std::fs::read(sandbox.path("now.raw")).unwrap();
    assert!(now[1 << 20..(1 << 20) + 65_536].iter().all(|byte| *byte == 7));
    let ran = sandbox.kiln(["convert", "--snapshot", "nosuch", "disk.qcow2", "x.raw"]);
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert!(!sandbox.path("x.raw").exists());
}

#[test]
fn a_source_that_changes_meanwhile_gives_no_output() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("disk.raw", 64 << 20);
    // The change comes while the conversion waits for its pipe.
    let child = sandbox
        .kiln_command(["convert", "--json", "-O", "raw", "disk.raw", "-"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    overwrite(&disk, 5, b"changed");
    let ran = crate::support::Ran::from(child.wait_with_output().unwrap()).exits(3);
    assert_eq!(ran.error()["code"], "source.changed");
}

#[test]
fn archive_for_gcp_is_one_sparse_member_with_the_same_disk_for_gnu_tar() {
    let sandbox = Sandbox::new();
    // Without a partition table, which would move.
    sandbox.disk("disk.raw", 64 << 20);
    // More runs of data than the map in the header (4) and its first extension (21) hold.
    let file = std::fs::OpenOptions::new().write(true).open(sandbox.path("disk.raw")).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len + (200 << 20) + 512).unwrap();
    drop(file);
    for number in 0..40_u64 {
        overwrite(&sandbox.path("disk.raw"), len + number * (4 << 20) + 3, &[number as u8 + 1; 3000]);
    }
    let report = sandbox.kiln(["convert", "--for", "gcp", "disk.raw", "image.tar.gz"]).ok();
    assert!(report.contains("\ndone          written, read back, same disk\n"), "{report}");
    let header = sandbox.tool("sh", ["-c", "gzip -dc image.tar.gz | head -c 512 | od -An -c -j 156 -N 1"]);
    assert_eq!(header.trim(), "S");
    let magic = sandbox.tool("sh", ["-c", "gzip -dc image.tar.gz | head -c 265 | tail -c 8 | od -An -tx1"]);
    assert_eq!(magic.trim(), "75 73 74 61 72 20 20 00");
    assert_eq!(sandbox.tool("tar", ["-tzf", "image.tar.gz"]), "disk.raw\n");
    let listed = sandbox.tool("tar", ["-tvzf", "image.tar.gz"]);
    assert!(listed.contains(&format!(" {} ", 1_u64 << 30)), "{listed}");
    std::fs::create_dir(sandbox.path("unpacked")).unwrap();
    sandbox.tool("tar", ["-xSzf", "image.tar.gz", "-C", "unpacked"]);
    std::fs::OpenOptions::new().write(true).open(sandbox.path("disk.raw")).unwrap().set_len(1 << 30).unwrap();
    sandbox.tool("cmp", ["disk.raw", "unpacked/disk.raw"]);
    // The same bytes from one thread and from five, to a file and to a pipe.
    let one = sandbox.kiln(["convert", "--for", "gcp", "--threads", "1", "disk.raw", "one.tar.gz"]).ok();
    assert!(one.contains("same disk"), "{one}");
    sandbox.kiln(["convert", "--for", "gcp", "--threads", "5", "disk.raw", "five.tar.gz"]).ok();
    sandbox.tool("cmp", ["one.tar.gz", "five.tar.gz"]);
    let error = sandbox.kiln(["convert", "--json", "--for", "gcp", "disk.raw", "image.zip"]).exits(2).error();
    assert_eq!(error["code"], "target.name");
}

/// A copy that was cut, a newline behind the last byte, a tool that does not fill up: every way in takes the disk
/// that qemu-img takes, and says what was added.
#[test]
fn a_raw_disk_of_odd_length_is_the_disk_that_qemu_img_makes_of_it_by_every_way() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("odd.raw", (9 << 20) + 300);
    sandbox.tool("qemu-img", ["convert", "-f", "raw", "-O", "raw", "odd.raw", "whole.raw"]);
    let whole = sandbox.kiln(["verify", "--json", "--raw-digest", "whole.raw"]).exits(0);
    let whole = whole.json("kiln.verify.v1");
    let content = &whole["content_digest"];
    let padded = |findings: &Value, at: u64| {
        let found: Vec<&Value> =
            findings.as_array().unwrap().iter().filter(|f| f["id"] == "disk.length.padded").collect();
        assert_eq!(found.len(), 1, "{findings:#}");
        assert_eq!(found[0]["offset_bytes"], at, "{findings:#}");
        assert_eq!(found[0]["guest"]["length_bytes"], 212, "{findings:#}");
        assert_eq!(found[0]["severity"], "advice");
    };
    let len = (9 << 20) + 300;
    for (name, command) in [
        ("odd.raw.gz", "gzip -1 -c odd.raw"),
        ("odd.raw.xz", "xz -0 -c odd.raw"),
        ("odd.raw.zst", "zstd -q -c odd.raw"),
        ("odd.raw.bz2", "bzip2 -1 -c odd.raw"),
    ] {
        sandbox.tool("sh", ["-c", &format!("{command} > {name}")]);
    }
    std::fs::write(sandbox.path("disk.raw"), std::fs::read(&disk).unwrap()).unwrap();
    sandbox.tool("tar", ["-cf", "odd.tar", "disk.raw"]);
    for name in ["odd.raw", "odd.raw.gz", "odd.raw.xz", "odd.raw.zst", "odd.raw.bz2", "odd.tar"] {
        let at = if name == "odd.tar" { len + 512 } else { len };
        let bytes = std::fs::read(sandbox.path(name)).unwrap();
        let verified =
            sandbox.kiln(["verify", "--json", "--raw-digest", name]).exits(0).json("kiln.verify.v1");
        assert_eq!((&verified["content_digest"], &verified["raw_digest"]), (content, &whole["raw_digest"]));
        padded(&verified["findings"], at);
        let sum = sandbox.tool("sha256sum", [name]);
        assert!(
            verified.to_string().contains(sum.split(' ').next().unwrap()),
            "{name}: the file's own digest"
        );
        sandbox.kiln(["verify", "--deep", "-q", name]).exits(0);
        sandbox.kiln(["verify", "-q", name, "--against", "whole.raw"]).exits(0);
        sandbox.kiln(["verify", "-q", "whole.raw", "--against", name]).exits(0);
        sandbox.kiln(["check", "-q", name]).exits(0);
        for format in ["raw", "qcow2", "vhd", "vhdx", "vmdk", "vdi"] {
            let out = format!("out.{format}");
            let words = ["convert", "--json", "-O", format, name, &out];
            let done = sandbox.kiln(words).exits(0).json("kiln.convert.v1");
            assert_eq!(&done["content_digest"], content, "{name} to {format}");
            padded(&done["findings"], at);
            std::fs::remove_file(sandbox.path(&out)).unwrap();
        }
        let piped = sandbox.kiln_with_input(["convert", "-q", "-O", "raw", "-", "out.raw"], &bytes);
        piped.exits(0);
        sandbox.tool("cmp", ["out.raw", "whole.raw"]);
        std::fs::remove_file(sandbox.path("out.raw")).unwrap();

        let sha = sum.split(' ').next().unwrap();
        let words = ["import", "--json", name, "--name", "x", "--replace", "--sha256", sha];
        let done = sandbox.kiln(words).exits(0).json("kiln.import.v1");
        assert_eq!(&done["content_digest"], content, "{name}");
        padded(&done["findings"], at);
        let words = ["import", "--json", "-", "--name", "x", "--replace", "--sha256", sha];
        let done = sandbox.kiln_with_input(words, &bytes).exits(0).json("kiln.import.v1");
        assert_eq!(&done["content_digest"], content, "{name}, pipe");
        padded(&done["findings"], at);
        let server = kiln_testkit::http::Server::start();
        server.put("/f", kiln_testkit::http::Served::new(bytes));
        let url = server.url("/f");
        let words = ["import", "--json", &url, "--name", "x", "--replace", "--sha256", sha];
        let done = sandbox.kiln(words).exits(0).json("kiln.import.v1");
        assert_eq!(&done["content_digest"], content, "{name}, server");
        padded(&done["findings"], at);
    }
    let text = sandbox.kiln(["convert", "odd.raw", "out.qcow2"]).exits(0);
    let said = format!("{}{}", text.text(), text.stderr);
    assert!(said.contains("ADVICE  disk.length.padded") && said.contains("212 zeros are added"), "{said}");
    sandbox.tool("qemu-img", ["compare", "-f", "raw", "-F", "qcow2", "odd.raw", "out.qcow2"]);
    let words = ["import", "--json", "-", "--name", "y", "--source-bytes", &len.to_string()];
    let bytes = std::fs::read(&disk).unwrap();
    let done = sandbox.kiln_with_input(words, &bytes).exits(0).json("kiln.import.v1");
    assert_eq!(
        (&done["content_digest"], &done["source"]["passage"]["one_pass"]),
        (content, &Value::Bool(true))
    );
    sandbox.kiln(["verify", "-q", "y", "--against", "odd.raw"]).exits(0);
    let inspected = sandbox.kiln(["inspect", "--json", "odd.raw"]).exits(0).json("kiln.inspect.v1");
    assert_eq!(
        (&inspected["disk_bytes"], &inspected["details"]["padding_bytes"]),
        (&(len + 212).into(), &212.into())
    );
}
