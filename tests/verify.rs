//! `kiln verify`.

use crate::support::{Sandbox, overwrite};

/// The value of a line of a report.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with(' ')))
        .unwrap_or_else(|| panic!("no {name} in {text}"))
        .trim()
}

#[test]
fn digests_are_the_ones_that_sha256sum_and_fsverity_print() {
    let sandbox = Sandbox::new();
    for len in [512, 65_536, 66_048, 10_000_384] {
        let name = format!("{len}.raw");
        sandbox.disk(&name, len);
        let text = sandbox.kiln(["verify", "--raw-digest", &name]).ok();
        let sum = sandbox.tool("sha256sum", [&name]);
        let sum = sum.split_whitespace().next().unwrap();
        assert_eq!(field(&text, "raw"), format!("sha256:{sum}"));
        assert_eq!(field(&text, "file digest"), format!("sha256:{sum}"));
        let words = ["digest", "--compact", "--hash-alg=sha256", "--block-size=65536", &name];
        let fsverity = sandbox.tool("fsverity", words);
        assert_eq!(field(&text, "content"), format!("fsverity-sha256-64k:{}", fsverity.trim()));
    }
}

#[test]
fn one_disk_in_two_formats_has_one_content_digest() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 5 << 20);
    sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let raw = sandbox.kiln(["verify", "disk.raw"]).ok();
    let qcow2 = sandbox.kiln(["checksum", "--raw-digest", "disk.qcow2"]).ok();
    assert_eq!(field(&raw, "content"), field(&qcow2, "content"));
    assert_eq!(field(&raw, "file digest"), field(&qcow2, "raw"));
    assert_ne!(field(&raw, "file digest"), field(&qcow2, "file digest"));
    let json = sandbox
        .kiln(["verify", "--json", "disk.qcow2", "--against", "disk.raw"])
        .exits(0)
        .json("kiln.verify.v1");
    assert_eq!(json["intact"], true);
    assert_eq!(json["against"]["same"], true);
    assert_eq!(json["against"]["differing"], serde_json::json!([]));
    assert_eq!(json["content_digest"], field(&raw, "content"));
}

#[test]
fn differing_blocks_are_named() {
    let sandbox = Sandbox::new();
    sandbox.disk("a.raw", 4 << 20);
    std::fs::write(sandbox.path("b.raw"), std::fs::read(sandbox.path("a.raw")).unwrap()).unwrap();
    overwrite(&sandbox.path("b.raw"), 1_000_000, b"three");
    overwrite(&sandbox.path("b.raw"), 65_536 * 40 - 1, b"xy");
    let ran = sandbox.kiln(["verify", "--json", "a.raw", "--against", "b.raw"]).exits(1);
    let json = ran.json("kiln.verify.v1");
    assert_eq!(json["intact"], false);
    assert_eq!(
        json["against"]["differing"],
        serde_json::json!([
            {"start_bytes": 983_040, "length_bytes": 65_536},
            {"start_bytes": 65_536 * 39, "length_bytes": 131_072},
        ])
    );
    let text = sandbox.kiln(["verify", "a.raw", "--against", "b.raw"]).exits(1);
    assert!(text.text().contains("disk bytes 983040 to 1048576 (64 KiB, from 0xf0000)"), "{}", text.text());
    assert!(text.text().ends_with("answer        NOT the same disk\n"), "{}", text.text());
}

#[test]
fn a_longer_disk_of_zeros_is_another_disk() {
    let sandbox = Sandbox::new();
    let a = sandbox.disk("a.raw", 4 << 20);
    std::fs::write(sandbox.path("b.raw"), std::fs::read(&a).unwrap()).unwrap();
    std::fs::OpenOptions::new()
        .write(true)
        .open(sandbox.path("b.raw"))
        .unwrap()
        .set_len((4 << 20) + 512)
        .unwrap();
    let json =
        sandbox.kiln(["verify", "--json", "a.raw", "--against", "b.raw"]).exits(1).json("kiln.verify.v1");
    assert_eq!(json["against"]["same"], false);
    assert_eq!(json["against"]["disk_bytes"], (4 << 20) + 512);
    assert_eq!(json["against"]["differing"][0]["start_bytes"], 4 << 20);
}

#[test]
fn given_digests_must_match() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    let sum = sandbox.tool("sha256sum", ["disk.raw"]);
    let sum = sum.split_whitespace().next().unwrap();
    let text = sandbox.kiln(["verify", "disk.raw", "--sha256", sum]).ok();
    assert!(text.contains("matches       file digest of --sha256"), "{text}");
    let content = field(&text, "content").to_owned();
    sandbox.kiln(["verify", "disk.raw", "--content-digest", &content]).exits(0);
    let wrong = format!("{:0>64}", 1);
    let ran = sandbox.kiln(["verify", "disk.raw", "--sha256", &wrong]).exits(1);
    assert!(ran.text().contains(&format!("expected sha256:{wrong}")), "{}", ran.text());
    let wrong = format!("fsverity-sha256-64k:{wrong}");
    let json = sandbox
        .kiln(["verify", "--json", "disk.raw", "--content-digest", &wrong])
        .exits(1)
        .json("kiln.verify.v1");
    assert_eq!(json["comparisons"][0]["matches"], false);
    assert_eq!(json["comparisons"][0]["expected"], wrong);
    assert_eq!(json["comparisons"][0]["found"], content);
    let ran = sandbox.kiln(["verify", "--json", "disk.raw", "--sha256", "12"]).exits(2);
    assert_eq!(ran.error()["code"], "usage.sha256");
}

#[test]
fn saved_leaves_name_the_damaged_blocks_later() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("disk.raw", 4 << 20);
    sandbox.kiln(["verify", "disk.raw", "--save-leaves", "disk.leaves"]).exits(0);
    let ran = sandbox.kiln(["verify", "--json", "disk.raw", "--save-leaves", "disk.leaves"]).exits(3);
    assert_eq!(ran.error()["code"], "io.exists");
    sandbox.kiln(["verify", "disk.raw", "--leaves", "disk.leaves"]).exits(0);
    overwrite(&disk, 2_000_000, b"bad");
    let json = sandbox
        .kiln(["verify", "--json", "disk.raw", "--leaves", "disk.leaves"])
        .exits(1)
        .json("kiln.verify.v1");
    assert_eq!(json["damaged"], serde_json::json!([{"start_bytes": 1_966_080, "length_bytes": 65_536}]));
    // A damaged list is told from a damaged disk.
    overwrite(&sandbox.path("disk.leaves"), 100, b"?");
    let ran = sandbox.kiln(["verify", "--json", "disk.raw", "--leaves", "disk.leaves"]).exits(1);
    assert!(ran.error()["code"].as_str().unwrap().starts_with("leaves."), "{}", ran.stderr);
}

#[test]
fn standard_input_is_verified_like_a_file() {
    let sandbox = Sandbox::new();
    let disk = sandbox.disk("disk.raw", 3_000_001);
    let bytes = std::fs::read(disk).unwrap();
    let file = sandbox.kiln(["verify", "disk.raw"]).ok();
    let pipe = sandbox.kiln_with_input(["verify", "-"], &bytes).ok();
    assert_eq!(field(&file, "content"), field(&pipe, "content"));
    assert_eq!(field(&file, "file digest"), field(&pipe, "file digest"));
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
}
