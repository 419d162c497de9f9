//! libguestfs' virt-inspector, which starts a small machine to look into a disk, finds the same in the real one.

use std::fs;
use std::path::Path;
use std::process::Command;

use kiln_testkit::fixtures::Fixture;
use serde_json::Value;

use crate::support::{Sandbox, built};

/// What an XPath expression finds in a file of XML.
fn xpath(xml: &Path, expression: &str) -> String {
    let output = Command::new("xmllint").args(["--xpath", expression]).arg(xml).output().unwrap();
    assert!(output.status.success(), "{expression}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The XML that virt-inspector writes of a raw disk.
fn inspected(disk: &Path, xml: &Path) {
    let output = Command::new("virt-inspector")
        .args(["--format=raw", "-a"])
        .arg(disk)
        // Without libvirt, and without KVM, which may be there and run nothing.
        .envs([("LIBGUESTFS_BACKEND", "direct"), ("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg")])
        .output()
        .expect("virt-inspector (make setup installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::write(xml, output.stdout).unwrap();
}

/// A volume of ours as virt-inspector calls it: the only disk is sda.
fn device(volume: &Value) -> String {
    format!("/dev/sda{}", volume["place"]["number"])
}

#[test]
#[ignore = "e2e: needs the Debian fixture; libguestfs starts a machine"]
fn oracle_virt_inspector_finds_the_same_system() {
    let sandbox = Sandbox::new();
    let disk = built(Fixture::Debian12);
    let xml = sandbox.path("inspected.xml");
    inspected(&disk, &xml);
    let theirs =
        |expression: &str| xpath(&xml, &format!("string(/operatingsystems/operatingsystem{expression})"));
    let all = |what: &'static str| {
        let count: usize = xpath(&xml, &format!("count(//{what})")).parse().unwrap();
        (1..=count).map(move |index| format!("//{what}[{index}]"))
    };
    let one = |expression: &str| xpath(&xml, &format!("string({expression})"));

    let json = sandbox.kiln(["inspect", "--json", disk.to_str().unwrap()]).exits(0).json("kiln.inspect.v1");
    let guest = &json["guest"];
    let (os, volumes) = (&guest["os"], guest["volumes"].as_array().unwrap());

    assert_eq!(xpath(&xml, "count(//operatingsystem)"), "1");
    assert_eq!(os["id"], theirs("/distro"));
    assert_eq!(os["architecture"], theirs("/arch"));
    assert_eq!(os["hostname"], theirs("/hostname"));
    // Theirs has a minor number, which they take from /etc/debian_version; ours is what os-release says.
    assert_eq!(os["version"], theirs("/major_version"));
    assert!(theirs("/product_name").starts_with("12."), "{}", theirs("/product_name"));
    assert_eq!(xpath(&xml, "count(//application)"), guest["packages"].to_string());

    let root = &volumes[usize::try_from(guest["roots"][0].as_u64().unwrap()).unwrap()];
    assert_eq!(device(root), theirs("/root"));

    let mounts = guest["mounts"].as_array().unwrap();
    let mut ours: Vec<_> = mounts
        .iter()
        .map(|mount| {
            let volume = &volumes[usize::try_from(mount["volume"].as_u64().unwrap()).unwrap()];
            (device(volume), mount["at"].as_str().unwrap().to_owned())
        })
        .collect();
    let mut others: Vec<_> =
        all("mountpoint").map(|point| (one(&format!("{point}/@dev")), one(&point))).collect();
    ours.sort();
    others.sort();
    assert_eq!(ours, others);

    // GRUB's core, which lies in a partition of its own, is no file system: we name it, they do not.
    let ours: Vec<_> = volumes
        .iter()
        .filter(|volume| volume["content"] != "grub_core")
        .map(|volume| {
            let text = |field: &str| volume[field].as_str().unwrap().to_owned();
            (device(volume), text("kind"), text("label"), text("uuid"))
        })
        .collect();
    let others: Vec<_> = all("filesystem")
        .map(|at| {
            let field = |name: &str| one(&format!("{at}/{name}"));
            (field("@dev"), field("type"), field("label"), field("uuid"))
        })
        .collect();
    assert_eq!(ours, others);
    assert_eq!((ours.len(), volumes.len()), (2, 3));
}
