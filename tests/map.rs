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
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
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
