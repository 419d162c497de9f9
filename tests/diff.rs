//! `kiln diff`, `kiln measure`, `kiln check --safety`.

use serde_json::json;

use crate::support::{Sandbox, overwrite};

#[test]
fn one_disk_in_two_containers_is_the_same_and_the_containers_differ() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    sandbox.tool("qemu-img", ["convert", "-O", "qcow2", "disk.raw", "disk.qcow2"]);
    let json = sandbox.kiln(["diff", "--json", "disk.raw", "disk.qcow2"]).exits(0).json("kiln.diff.v1");
    assert_eq!((&json["same"], &json["differing"]), (&true.into(), &json!([])));
    assert_eq!(json["partitions"], json!([]));
    let facts = json["facts"].as_array().unwrap();
    let format = facts.iter().find(|fact| fact["name"] == "format").unwrap();
    assert_eq!((&format["first"], &format["second"]), (&"raw".into(), &"qcow2".into()));
}

#[test]
fn differing_blocks_and_tables_are_told_with_their_partition() {
    let sandbox = Sandbox::new();
    let disk = sandbox.guest_disk("disk.raw");
    std::fs::copy(&disk, sandbox.path("other.raw")).unwrap();
    overwrite(&sandbox.path("other.raw"), (10 << 20) + 5, b"other");
    sandbox.tool("sgdisk", ["--typecode=1:8200", "--change-name=1:swap", "other.raw"]);
    let ran = sandbox.kiln(["diff", "--json", "disk.raw", "other.raw"]).exits(1);
    let json = ran.json("kiln.diff.v1");
    assert_eq!(json["partitions"][0]["first"]["type_name"], "Linux");
    assert_eq!(json["partitions"][0]["second"]["type_name"], "Linux swap");
    let inside = json["differing"].as_array().unwrap().iter().find(|one| one["start_bytes"] == 10 << 20);
    let inside = inside.unwrap_or_else(|| panic!("{json:#}"));
    assert_eq!(inside["partition"], "in partition 1 (Linux, ext4)");
    let shares = json["by_partition"].as_array().unwrap();
    assert_eq!((&shares[0]["number"], &shares[0]["differing_bytes"]), (&1.into(), &65_536.into()));
    let text = sandbox.kiln(["diff", "disk.raw", "other.raw"]).exits(1);
    assert!(text.text().ends_with("answer        NOT the same disk\n"), "{}", text.text());
    let against = sandbox.kiln(["verify", "--json", "disk.raw", "--against", "other.raw"]).exits(1);
    let against = against.json("kiln.verify.v1");
    let named = against["against"]["differing"].as_array().unwrap();
    assert!(named.iter().any(|one| one["partition"] == "in partition 1 (Linux, ext4)"), "{against:#}");
}

#[test]
fn what_is_measured_is_what_convert_writes() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    for (name, exact) in
        [("out.qcow2", true), ("out.vhd", true), ("out.vhdx", true), ("out.vdi", true), ("out.raw", true)]
    {
        let json = sandbox.kiln(["measure", "--json", "disk.raw", name]).exits(0).json("kiln.measure.v1");
        sandbox.kiln(["convert", "-q", "--no-sync", "disk.raw", name]).exits(0);
        let len = sandbox.path(name).metadata().unwrap().len();
        assert_eq!((&json["file_bytes"], &json["exact"]), (&len.into(), &exact.into()), "{name}");
        assert_eq!(json["destination"]["fits"], true, "{name}");
    }
    let json =
        sandbox.kiln(["measure", "--json", "-c", "-O", "qcow2", "disk.raw"]).exits(0).json("kiln.measure.v1");
    sandbox.kiln(["convert", "-q", "-c", "--no-sync", "disk.raw", "c.qcow2"]).exits(0);
    let len = sandbox.path("c.qcow2").metadata().unwrap().len();
    let range = |index: usize| json["range_bytes"][index].as_u64().unwrap();
    assert!(range(0) <= len && len <= range(1), "{json:#} {len}");
}

#[test]
fn safety_is_a_yes_or_a_no_rule_by_rule() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let safe = sandbox.kiln(["check", "--safety", "--json", "disk.raw"]).exits(0).json("kiln.safety.v1");
    assert_eq!((&safe["formats"], &safe["rules"][0]["rule"]), (&json!(["gpt"]), &"gpt.mbr".into()));
    sandbox.tool(
        "qemu-img",
        ["convert", "-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse", "disk.raw", "split.vmdk"],
    );
    let unsafe_one =
        sandbox.kiln(["check", "--safety", "--json", "split-s001.vmdk"]).exits(1).json("kiln.safety.v1");
    assert_eq!(unsafe_one["rules"][0]["rule"], "vmdk.descriptor");
    assert_eq!(unsafe_one["safe"], false);
}
