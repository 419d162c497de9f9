//! `kiln map`.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::support::Sandbox;

#[test]
fn extents_tile_the_disk_and_say_where_the_bytes_are() {
    let sandbox = Sandbox::new();
    let file = File::create(sandbox.path("disk.raw")).unwrap();
    file.set_len(4 << 20).unwrap();
    file.write_all_at(&[7; 65536], 1 << 20).unwrap();
    let text = sandbox.kiln(["map", "disk.raw"]).ok();
    let (list, totals) = text.split_once("\n\n").unwrap();
    assert!(
        totals
            .starts_with("disk size     4 MiB (4194304 bytes)\ndata          64 KiB (65536 bytes), 1.5 %\n")
    );
    let rows: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [
            vec!["START", "LENGTH", "KIND", "FILE", "OFFSET"],
            vec!["0", "1048576", "hole"],
            vec!["1048576", "65536", "data", "0", "1048576"],
            vec!["1114112", "3080192", "hole"],
        ]
    );
    let json = sandbox.kiln(["map", "--json", "disk.raw"]).exits(0).json("kiln.map.v1");
    assert_eq!(json["disk_bytes"], 4 << 20);
    assert_eq!(
        json["extents"][1],
        serde_json::json!({
            "start_bytes": 1 << 20, "length_bytes": 65536, "kind": "data", "file": 0, "offset_bytes": 1 << 20
        })
    );
}

#[test]
fn empty_disk_has_no_extents() {
    let sandbox = Sandbox::new();
    File::create(sandbox.path("empty.raw")).unwrap();
    let json = sandbox.kiln(["map", "--json", "empty.raw"]).exits(0).json("kiln.map.v1");
    assert_eq!(json["extents"], serde_json::json!([]));
}

#[test]
fn data_of_a_qcow2_is_where_qemu_img_finds_it() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 8 << 20);
    sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let theirs: serde_json::Value = serde_json::from_str(
        &sandbox.tool("qemu-img", ["map", "--output=json", "-f", "qcow2", "disk.qcow2"]),
    )
    .unwrap();
    let ours = sandbox.kiln(["map", "--json", "disk.qcow2"]).exits(0).json("kiln.map.v1");
    let stored = |list: &serde_json::Value, start: &str, len: &str, at: &str| -> Vec<(u64, u64, u64)> {
        let number = |extent: &serde_json::Value, key: &str| extent[key].as_u64().unwrap();
        list.as_array()
            .unwrap()
            .iter()
            .filter(|extent| extent[at].is_u64())
            .map(|extent| (number(extent, start), number(extent, len), number(extent, at)))
            .collect()
    };
    let theirs = stored(&theirs, "start", "length", "offset");
    assert!(!theirs.is_empty());
    assert_eq!(stored(&ours["extents"], "start_bytes", "length_bytes", "offset_bytes"), theirs);
}

/// Entry for entry, key for key; the exceptions are in `kiln_format::qemu`.
#[test]
fn qemu_form_is_what_qemu_img_prints() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let forms: [(&str, &str, &[&str]); 11] = [
        ("a.qcow2", "qcow2", &[]),
        ("zlib.qcow2", "qcow2", &["-c"]),
        ("small.qcow2", "qcow2", &["-o", "cluster_size=4k"]),
        ("a.vmdk", "vmdk", &[]),
        ("stream.vmdk", "vmdk", &["-o", "subformat=streamOptimized"]),
        ("a.vdi", "vdi", &[]),
        ("a.vhdx", "vhdx", &[]),
        ("fixed.vhdx", "vhdx", &["-o", "subformat=fixed"]),
        ("a.vhd", "vpc", &["-o", "force_size=on"]),
        ("fixed.vhd", "vpc", &["-o", "subformat=fixed,force_size=on"]),
        ("b.raw", "raw", &[]),
    ];
    for (name, format, options) in forms {
        let words = [&["convert", "-O", format], options, &["disk.raw", name]].concat();
        sandbox.tool("qemu-img", words);
        let theirs = sandbox.tool("qemu-img", ["map", "--output=json", "-f", format, name]);
        let ours = sandbox.kiln(["map", "--output", "qemu", name]).ok();
        let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parsed(&ours), parsed(&theirs), "{name}");
        if format == "vpc" || format == "raw" {
            continue;
        }
        let theirs = parsed(&sandbox.tool("qemu-img", ["check", "--output=json", "-f", format, name]));
        let ours = parsed(&sandbox.kiln(["check", "--output", "qemu", name]).ok());
        assert_eq!(ours, theirs, "{name}");
    }
    // Clusters that are written twice are not in order any more.
    sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "odd.qcow2", "8M"]);
    sandbox
        .tool("qemu-io", ["-c", "write 1M 64k", "-c", "write 0 128k", "-c", "write -z 2M 64k", "odd.qcow2"]);
    for verb in ["map", "check"] {
        let theirs = sandbox.tool("qemu-img", [verb, "--output=json", "odd.qcow2"]);
        let ours = sandbox.kiln([verb, "--output", "qemu", "odd.qcow2"]).ok();
        let parsed = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parsed(&ours), parsed(&theirs), "{verb}");
    }
}

#[test]
fn a_picture_is_bounded_and_stands_alone() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    sandbox.kiln(["map", "-q", "--svg", "disk.svg", "disk.raw"]).exits(0);
    let svg = std::fs::read_to_string(sandbox.path("disk.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("1 ext4") && svg.contains("Partition 1 (Linux, ext4)"), "the partition is named");
    assert!(!svg.contains("href") && !svg.contains("<script"));
    // It is there already, and stays.
    sandbox.kiln(["map", "--svg", "disk.svg", "disk.raw"]).exits(3);
    // 64 TiB make no larger picture.
    sandbox.tool("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", "huge.qcow2", "60T"]);
    let huge = sandbox.kiln(["map", "--svg", "-", "huge.qcow2"]).ok();
    assert!(huge.len() < 1 << 20, "{}", huge.len());
}
