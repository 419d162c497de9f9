//! The committed fixtures agree with their manifest and stay small.

use std::collections::BTreeSet;
use std::path::Path;

fn top() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn names(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir)
        .unwrap_or_else(|error| panic!("{} is read: {error}", dir.display()))
        .map(|entry| entry.expect("an entry is read").file_name().into_string().expect("names are UTF-8"))
        .collect()
}

#[test]
fn every_committed_fixture_is_in_the_manifest_and_the_sums() {
    let fixtures = top().join("fixtures");
    let manifest: serde_json::Value = serde_json::from_slice(
        &std::fs::read(fixtures.join("manifest.json")).expect("the manifest is there"),
    )
    .expect("the manifest is JSON");
    let listed: BTreeSet<String> = manifest["fixtures"]
        .as_array()
        .expect("fixtures is a list")
        .iter()
        .map(|entry| format!("{}.gz", entry["name"].as_str().expect("a fixture has a name")))
        .collect();
    let summed: BTreeSet<String> = std::fs::read_to_string(fixtures.join("SHA256SUMS"))
        .expect("the sums are there")
        .lines()
        .filter_map(|line| line.split_once("  ").map(|(_, name)| name.to_owned()))
        .collect();
    let kept: BTreeSet<String> = names(&fixtures).into_iter().filter(|name| name.ends_with(".gz")).collect();
    assert_eq!((&listed, &summed), (&kept, &kept));
    assert!(!kept.is_empty());
}

#[test]
fn committed_fixtures_stay_under_one_mebibyte() {
    let fixtures = top().join("fixtures");
    let bytes: u64 = names(&fixtures)
        .iter()
        .map(|name| std::fs::metadata(fixtures.join(name)).expect("a fixture is there").len())
        .sum();
    assert!(bytes < 1 << 20, "{bytes} bytes");
}
