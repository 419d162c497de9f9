//! Damaged files that other tools call fine: each is rebuilt here and must be answered with a no, a place in the
//! file, and words. The source is a GPT disk with an ext4 that holds files.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use kiln_testkit::damage::{Damage, MORE, ROWS, Workshop};
use serde_json::Value;

use crate::support::{Sandbox, cut, overwrite};

/// `kiln check` says no, with a failing finding that has an offset inside (or just behind) the file.
#[track_caller]
fn check_says_no(sandbox: &Sandbox, name: &str) -> Value {
    let json = sandbox.kiln(["check", "--json", name]).exits(1).json("kiln.check.v1");
    assert_eq!(json["fit"], false);
    let failing = json["findings"].as_array().unwrap().iter().find(|finding| {
        matches!(finding["severity"].as_str(), Some("damage" | "fatal")) && finding["offset_bytes"].is_u64()
    });
    let finding = failing.unwrap_or_else(|| panic!("no failing finding with an offset: {json:#}")).clone();
    for key in ["id", "summary", "effect", "fix"] {
        assert!(!finding[key].as_str().unwrap().is_empty(), "{key}: {finding}");
    }
    // verify says no as well.
    let verified = sandbox.kiln(["verify", "--json", name]).exits(1).json("kiln.verify.v1");
    assert_eq!(verified["intact"], false);
    finding
}

fn guest(sandbox: &Sandbox) {
    sandbox.guest_disk("disk.raw");
}

fn qemu_convert(sandbox: &Sandbox, words: &[&str]) {
    sandbox.tool("qemu-img", ["convert"].iter().chain(words));
}

#[test]
fn qcow2_with_three_bytes_of_data_changed_is_caught_by_a_digest_recorded_earlier() {
    let sandbox = Sandbox::new();
    guest(&sandbox);
    qemu_convert(&sandbox, &["-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let before = sandbox.kiln(["verify", "--json", "disk.qcow2", "--save-leaves", "disk.leaves"]).exits(0);
    let digest = before.json("kiln.verify.v1")["content_digest"].as_str().unwrap().to_owned();
    let map = sandbox.kiln(["map", "--json", "disk.qcow2"]).exits(0).json("kiln.map.v1");
    let extent = map["extents"].as_array().unwrap().iter().rfind(|extent| extent["kind"] == "data").unwrap();
    let (guest, at) = (extent["start_bytes"].as_u64().unwrap(), extent["offset_bytes"].as_u64().unwrap());
    let path = sandbox.path("disk.qcow2");
    overwrite(&path, at + 100, &[0xde, 0xad, 0x01]);
    // No structure is hurt.
    sandbox.tool("qemu-img", ["check", "-q", "disk.qcow2"]);
    sandbox.kiln(["check", "disk.qcow2"]).exits(0);
    let json = sandbox
        .kiln(["verify", "--json", "disk.qcow2", "--content-digest", &digest])
        .exits(1)
        .json("kiln.verify.v1");
    assert_eq!(json["comparisons"][0]["matches"], false);
    let json = sandbox
        .kiln(["verify", "--json", "disk.qcow2", "--leaves", "disk.leaves"])
        .exits(1)
        .json("kiln.verify.v1");
    let start = guest / 65_536 * 65_536;
    assert_eq!(
        json["damaged"],
        serde_json::json!([{
            "start_bytes": start, "length_bytes": 65_536, "offset_bytes": at - (guest - start),
            "partition": json["damaged"][0]["partition"],
        }])
    );
}

#[test]
fn qcow2_cut_to_70_percent_is_not_fit() {
    let sandbox = Sandbox::new();
    guest(&sandbox);
    qemu_convert(&sandbox, &["-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let len = cut(&sandbox.path("disk.qcow2"), 70);
    let finding = check_says_no(&sandbox, "disk.qcow2");
    assert!(finding["offset_bytes"].as_u64().unwrap() <= len, "{finding}");
    let ran = sandbox.kiln(["convert", "--json", "disk.qcow2", "out.raw"]).exits(1);
    assert!(ran.error()["offset_bytes"].is_u64(), "{}", ran.stderr);
    assert!(!sandbox.path("out.raw").exists());
}

#[test]
fn compressed_qcow2_cut_to_70_percent_is_not_fit() {
    let sandbox = Sandbox::new();
    guest(&sandbox);
    for kind in ["zlib", "zstd"] {
        let name = format!("{kind}.qcow2");
        let option = format!("compression_type={kind}");
        qemu_convert(&sandbox, &["-c", "-O", "qcow2", "-o", &option, "disk.raw", &name]);
        cut(&sandbox.path(&name), 70);
        check_says_no(&sandbox, &name);
    }
}

#[test]
fn fixed_vhd_without_its_footer_is_not_fit() {
    let sandbox = Sandbox::new();
    guest(&sandbox);
    qemu_convert(&sandbox, &["-O", "vpc", "-o", "subformat=fixed,force_size=on", "disk.raw", "disk.vhd"]);
    sandbox.kiln(["check", "disk.vhd"]).exits(0);
    cut(&sandbox.path("disk.vhd"), 70);
    check_says_no(&sandbox, "disk.vhd");
}

#[test]
fn dynamic_vhd_cut_to_70_percent_is_not_fit() {
    let sandbox = Sandbox::new();
    guest(&sandbox);
    qemu_convert(&sandbox, &["-O", "vpc", "-o", "subformat=dynamic,force_size=on", "disk.raw", "disk.vhd"]);
    sandbox.kiln(["check", "disk.vhd"]).exits(0);
    cut(&sandbox.path("disk.vhd"), 70);
    check_says_no(&sandbox, "disk.vhd");
}

/// Starts a slow conversion and stops it in the middle with a signal.
fn stopped_conversion(sandbox: &Sandbox, signal: &str) {
    let mut child = sandbox
        .command("qemu-img")
        .args(["convert", "-c", "-r", "4M", "-O", "qcow2", "disk.raw", "stopped.qcow2"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().unwrap().is_none(), "the conversion was not slow enough");
    sandbox.tool("kill", [&format!("-{signal}"), &child.id().to_string()]);
    let _ = child.wait().unwrap();
}

#[test]
fn stopped_compressed_conversion_is_not_fit() {
    for signal in ["TERM", "KILL"] {
        let sandbox = Sandbox::new();
        guest(&sandbox);
        stopped_conversion(&sandbox, signal);
        let info = sandbox.tool("qemu-img", ["info", "-U", "--output=json", "stopped.qcow2"]);
        let info: Value = serde_json::from_str(&info).unwrap();
        assert_eq!(info["virtual-size"], 64 << 20, "the file looks whole");
        check_says_no(&sandbox, "stopped.qcow2");
        let ran = sandbox.kiln(["import", "--json", "stopped.qcow2", "--name", "x"]).exits(1);
        assert!(!ran.error()["code"].as_str().unwrap().is_empty());
    }
}

#[test]
fn gzip_wrapped_qcow2_is_looked_into_and_a_cut_one_is_a_no() {
    let sandbox = Sandbox::new();
    guest(&sandbox);
    qemu_convert(&sandbox, &["-O", "qcow2", "disk.raw", "disk.qcow2"]);
    sandbox.tool("gzip", ["-1", "disk.qcow2"]);
    let json = sandbox.kiln(["check", "--json", "disk.qcow2.gz"]).exits(0).json("kiln.check.v1");
    assert_eq!((&json["format"], &json["wrappers"]), (&"qcow2".into(), &serde_json::json!(["gzip"])));
    let len = cut(&sandbox.path("disk.qcow2.gz"), 60);
    let finding = check_says_no(&sandbox, "disk.qcow2.gz");
    assert_eq!((&finding["id"], &finding["offset_bytes"]), (&"wrap.truncated".into(), &len.into()));
}

#[test]
fn ova_whose_descriptor_has_no_disk_is_a_no() {
    let sandbox = Sandbox::new();
    guest(&sandbox);
    qemu_convert(&sandbox, &["-O", "vmdk", "-o", "subformat=streamOptimized", "disk.raw", "disk-1.vmdk"]);
    std::fs::write(sandbox.path("box.ovf"), "<?xml version=\"1.0\"?><Envelope/>\n").unwrap();
    sandbox.tool("tar", ["--format=ustar", "-cf", "box.ova", "box.ovf", "disk-1.vmdk"]);
    let finding = check_says_no(&sandbox, "box.ova");
    assert!(finding["detail"].as_str().unwrap().contains("an appliance without a disk file"), "{finding}");
}

#[test]
fn qcow2_over_a_host_file_is_refused_and_the_host_file_stays_out() {
    let sandbox = Sandbox::new();
    std::fs::write(sandbox.path("host.txt"), "host secret\n".repeat(1000)).unwrap();
    let host = sandbox.path("host.txt");
    let host = host.to_str().unwrap();
    sandbox
        .tool("qemu-img", ["create", "-q", "-u", "-f", "qcow2", "-b", host, "-F", "raw", "leak.qcow2", "1M"]);
    let ran = sandbox.kiln(["verify", "--json", "leak.qcow2"]).exits(1);
    let said = format!("{}{}", ran.text(), ran.stderr);
    assert!(said.contains("host.txt"), "{said}");
    assert!(!said.contains("host secret"), "{said}");
    assert!(no_secret_in(&sandbox.work()));
    let json = sandbox.kiln(["check", "--json", "leak.qcow2"]).exits(1).json("kiln.check.v1");
    assert_eq!(json["findings"][0]["id"], "format.reference");
    assert!(json["findings"][0]["offset_bytes"].as_u64().is_some(), "{json}");
    let ran = sandbox.kiln(["convert", "leak.qcow2", "out.raw"]).exits(1);
    assert!(ran.stderr.contains("--allow-backing"), "{}", ran.stderr);
    assert!(!sandbox.path("out.raw").exists());
}

/// Whether no file but the secret itself holds the secret.
fn no_secret_in(dir: &Path) -> bool {
    crate::support::names_in(dir).iter().filter(|name| *name != "host.txt").all(|name| {
        let bytes = std::fs::read(dir.join(name)).unwrap();
        !bytes.windows(11).any(|window| window == b"host secret")
    })
}

/// The table of damaged files: every one is a no with a place, and those that hold a partition table name whose bytes
/// are lost. What `cargo xtask damage` prints.
#[test]
fn every_row_of_the_damage_table_is_a_no_with_an_offset() {
    rows(ROWS);
}

#[test]
fn the_same_damage_in_other_containers_is_a_no_with_an_offset() {
    rows(MORE);
}

#[track_caller]
fn rows(rows: &[Damage]) {
    let dir = tempfile::tempdir().unwrap();
    let shop = Workshop::new(dir.path());
    let kiln = Path::new(env!("CARGO_BIN_EXE_kiln"));
    let mut passed = Vec::new();
    for row in rows {
        let (path, answer) = shop.judge(row, kiln);
        let len = path.metadata().unwrap().len();
        // Of several files the one that was named is only the descriptor. What lies in compressed data has a place
        // on the disk.
        let in_file = answer.offset.is_some_and(|at| at <= len)
            || ["flat", "split"].iter().any(|one| row.id.starts_with(one));
        let placed = if answer.offset.is_some() { in_file } else { answer.disk_byte.is_some() };
        if answer.exit != Some(1) || !placed || answer.id.is_empty() {
            passed.push((row.id, answer));
        }
    }
    assert!(passed.is_empty(), "{passed:#?}");
}

#[test]
fn a_deep_look_names_what_is_lost_and_whose_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let shop = Workshop::new(dir.path());
    let row = ROWS.iter().find(|row| row.id == "06-vdi-cut").unwrap();
    let path = shop.build(row, |_| ());
    let sandbox = Sandbox::new();
    let ran = sandbox.kiln(["verify", "--deep", "--json", path.to_str().unwrap()]).exits(1);
    let json = ran.json("kiln.verify.v1");
    assert_eq!((&json["deep"], &json["content_digest"]), (&true.into(), &Value::Null));
    assert_eq!(json["layout"]["partitions"][0]["filesystem"], "ext4");
    let lost = json["unreadable"].as_array().unwrap();
    assert!(!lost.is_empty(), "{json:#}");
    assert_eq!(lost[0]["partition"], "in partition 1 (Linux, ext4)");
    for range in lost {
        assert!(range["length_bytes"].as_u64().unwrap() > 0);
        assert!(range["partition"].is_string(), "{range}");
    }
    let text = sandbox.kiln(["verify", "--deep", path.to_str().unwrap()]).exits(1);
    assert!(text.text().contains("in partition 1 (Linux, ext4)"), "{}", text.text());
    assert!(text.text().contains("\nLOST "), "{}", text.text());
    // The whole disk in the same look has the digests that verify has without it.
    let good = shop.path("disk.raw");
    let good = good.to_str().unwrap();
    let deep = sandbox.kiln(["verify", "--deep", "--json", good]).exits(0).json("kiln.verify.v1");
    let plain = sandbox.kiln(["verify", "--json", good]).exits(0).json("kiln.verify.v1");
    for key in ["content_digest", "file_digests", "data_bytes", "intact"] {
        assert_eq!(deep[key], plain[key], "{key}");
    }
}
