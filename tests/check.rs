//! `kiln check`.

use crate::support::{Sandbox, cut};

#[test]
fn sound_disk_is_fit() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    assert_eq!(
        sandbox.kiln(["check", "disk.raw"]).ok(),
        "\
file          disk.raw
format        raw
disk size     64 MiB (67108864 bytes)
answer        fit: nothing found
"
    );
    let json = sandbox.kiln(["check", "--json", "disk.raw"]).exits(0).json("kiln.check.v1");
    assert_eq!((&json["fit"], &json["format"]), (&true.into(), &"raw".into()));
    assert_eq!(json["findings"], serde_json::json!([]));
}

#[test]
fn raw_disk_cut_inside_its_partitions_is_not_fit() {
    let sandbox = Sandbox::new();
    let disk = sandbox.guest_disk("disk.raw");
    let len = cut(&disk, 70);
    let json = sandbox.kiln(["check", "--json", "disk.raw"]).exits(1).json("kiln.check.v1");
    assert_eq!(json["fit"], false);
    let findings = json["findings"].as_array().unwrap();
    let bad =
        |finding: &&serde_json::Value| finding["severity"] == "damage" || finding["severity"] == "fatal";
    let finding = findings.iter().find(bad).unwrap_or_else(|| panic!("{json:#}"));
    assert!(finding["offset_bytes"].as_u64().is_some_and(|at| at <= len), "{finding}");
}
