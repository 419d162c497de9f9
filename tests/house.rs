//! The house: which crate may know which, and what lies at the top of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Every crate, and the crates of this workspace that it may depend on. Imports run down only.
const ALLOWED: [(&str, &[&str]); 10] = [
    ("kiln-disk", &[]),
    ("kiln-target", &[]),
    ("kiln-format", &["kiln-disk"]),
    ("kiln-catalog", &["kiln-disk", "kiln-target"]),
    ("kiln-guest", &["kiln-disk", "kiln-target"]),
    ("kiln-qemu", &["kiln-disk"]),
    ("kiln-import", &["kiln-catalog", "kiln-disk", "kiln-format", "kiln-guest", "kiln-target"]),
    ("kiln-instance", &["kiln-catalog", "kiln-disk", "kiln-format", "kiln-qemu"]),
    ("kiln-snapshot", &["kiln-catalog", "kiln-disk", "kiln-format", "kiln-guest", "kiln-qemu"]),
    (
        "kiln-cli",
        &[
            "kiln-catalog",
            "kiln-disk",
            "kiln-format",
            "kiln-guest",
            "kiln-import",
            "kiln-instance",
            "kiln-snapshot",
            "kiln-target",
        ],
    ),
];

/// Crates for tests and chores: they may use any other, and only as a development dependency may others use them.
const DEVELOPMENT: [&str; 2] = ["kiln-testkit", "kiln-xtask"];

/// What the top of the repository holds, besides dot-files of tools.
const TOP: [&str; 8] =
    ["Cargo.lock", "Cargo.toml", "LICENSE", "Makefile", "README.md", "crates", "fixtures", "tests"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn metadata() -> serde_json::Value {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn crates_depend_only_on_the_floors_below() {
    let allowed: BTreeMap<&str, BTreeSet<&str>> =
        ALLOWED.iter().map(|(name, below)| (*name, below.iter().copied().collect())).collect();
    let metadata = metadata();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        seen.insert(name);
        if DEVELOPMENT.contains(&name) {
            continue;
        }
        let Some(below) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let other = dependency["name"].as_str().unwrap();
            let development = dependency["kind"] == "dev";
            if !other.starts_with("kiln-") {
                continue;
            }
            let fine = if development {
                DEVELOPMENT.contains(&other) || below.contains(other)
            } else {
                below.contains(other)
            };
            if !fine {
                wrong.push(format!("{name} depends on {other}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
    let expected: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).chain(DEVELOPMENT).collect();
    assert_eq!(seen, expected);
}

#[test]
fn packages_are_named_after_their_folders() {
    for package in metadata()["packages"].as_array().unwrap() {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap());
        let folder = manifest.parent().unwrap().file_name().unwrap().to_str().unwrap();
        assert_eq!(package["name"], format!("kiln-{folder}"));
    }
}

#[test]
fn every_crate_of_the_map_is_described_and_every_lint_is_shared() {
    let map = std::fs::read_to_string(root().join("crates/README.md")).unwrap();
    for (name, _) in ALLOWED {
        let folder = name.trim_start_matches("kiln-");
        assert!(map.contains(&format!("`{folder}`")), "crates/README.md does not speak of {folder}");
        let manifest =
            std::fs::read_to_string(root().join("crates").join(folder).join("Cargo.toml")).unwrap();
        assert!(manifest.contains("[lints]\nworkspace = true"), "{folder} has lints of its own");
    }
}

#[test]
fn top_of_the_repository_holds_nothing_else() {
    let output = Command::new("git").args(["ls-files"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let files = String::from_utf8(output.stdout).unwrap();
    let top: BTreeSet<&str> = files.lines().filter_map(|path| path.split('/').next()).collect();
    let foreign: Vec<&str> =
        top.iter().copied().filter(|name| !name.starts_with('.') && !TOP.contains(name)).collect();
    assert_eq!(foreign, Vec::<&str>::new());
}

#[test]
fn every_file_of_tests_is_part_of_the_suite() {
    let main = std::fs::read_to_string(root().join("tests/main.rs")).unwrap();
    for name in crate::support::names_in(&root().join("tests")) {
        let Some(module) = name.strip_suffix(".rs").filter(|module| *module != "main") else { continue };
        assert!(main.contains(&format!("\nmod {module};")), "tests/main.rs does not name {module}");
    }
}
