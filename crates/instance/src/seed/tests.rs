//! The seed, read by others: isoinfo (libcdio's and schilling's rules), bsdtar, blkid and fdisk.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::*;

fn identity() -> Identity {
    Identity {
        instance_id: "ins-abcdefgh".to_owned(),
        uuid: "7546fea7-ae2e-466a-9f95-14a15fb269ba".to_owned(),
        hostname: "web-1".to_owned(),
        ssh_keys: vec!["ssh-ed25519 AAAAC3Nz ada@home".to_owned()],
        nics: vec![
            SeedNic { mac: "52:54:00:01:02:03".to_owned(), connected: true },
            SeedNic { mac: "52:54:00:01:02:04".to_owned(), connected: false },
        ],
    }
}

fn user_data() -> UserData {
    // More than one sector, so that the second one matters.
    let mut text = b"#cloud-config\nusers: []\n# ".to_vec();
    text.extend(std::iter::repeat_n(b'x', 5000));
    UserData::new(text).unwrap()
}

fn run(program: &str, words: &[&str]) -> String {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let output = Command::new(program).env("PATH", path).args(words).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The seed in a folder, and its two volumes as files, cut where its partition table says.
fn on_disk(dir: &Path) -> (PathBuf, [PathBuf; 2]) {
    let bytes = write(&identity(), Some(&user_data())).unwrap();
    let seed = dir.join("seed.img");
    std::fs::write(&seed, &bytes).unwrap();
    let table = run("sfdisk", &["--dump", seed.to_str().unwrap()]);
    let number = |line: &str, word: &str| -> usize {
        let rest = line.split_once(word).unwrap().1.trim_start();
        rest.split(',').next().unwrap().trim().parse().unwrap()
    };
    let parts: Vec<&str> = table.lines().filter(|line| line.contains("type=17")).collect();
    assert_eq!(parts.len(), 2, "{table}");
    let volumes = [0, 1].map(|slot| {
        let (start, len) = (number(parts[slot], "start=") * 512, number(parts[slot], "size=") * 512);
        let path = dir.join(format!("volume{slot}.iso"));
        std::fs::write(&path, &bytes[start..start + len]).unwrap();
        path
    });
    (seed, volumes)
}

#[test]
fn both_data_sources_find_their_label_and_their_files() {
    let dir = tempfile::tempdir().unwrap();
    let (_, volumes) = on_disk(dir.path());
    let expected: [(&str, &[&str]); 2] = [
        ("cidata", &["meta-data", "network-config", "user-data"]),
        (
            "config-2",
            &[
                "openstack/latest/meta_data.json",
                "openstack/latest/network_data.json",
                "openstack/latest/user_data",
            ],
        ),
    ];
    for (volume, (label, files)) in volumes.iter().zip(expected) {
        let volume = volume.to_str().unwrap();
        assert_eq!(run("blkid", &["-p", "-o", "value", "-s", "LABEL", volume]).trim(), label);
        assert_eq!(run("blkid", &["-p", "-o", "value", "-s", "TYPE", volume]).trim(), "iso9660");
        let listed = run("bsdtar", &["-tf", volume]);
        let mut listed: Vec<&str> = listed.lines().filter(|name| files.contains(name)).collect();
        listed.sort_unstable();
        assert_eq!(listed, files, "{label}");
        let info = run("isoinfo", &["-d", "-i", volume]);
        assert!(info.contains("Rock Ridge signatures version 1 found"), "{info}");
        assert!(info.contains(&format!("Volume id: {label}")), "{info}");
    }
}

#[test]
fn three_readers_give_the_same_bytes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (_, volumes) = on_disk(dir.path());
    let user = user_data();
    for (volume, name) in volumes.iter().zip(["user-data", "openstack/latest/user_data"]) {
        let volume = volume.to_str().unwrap();
        let tar = run("bsdtar", &["-xOf", volume, name]);
        let info = run("isoinfo", &["-R", "-i", volume, "-x", &format!("/{name}")]);
        let out = dir.path().join("out");
        let words =
            ["-osirrox", "on", "-indev", volume, "-extract", &format!("/{name}"), out.to_str().unwrap()];
        let xorriso = Command::new("xorriso").args(words).output().expect("xorriso is needed");
        assert!(xorriso.status.success(), "{}", String::from_utf8_lossy(&xorriso.stderr));
        assert_eq!(tar.as_bytes(), user.as_bytes());
        assert_eq!(info.as_bytes(), user.as_bytes());
        assert_eq!(std::fs::read(&out).unwrap(), user.as_bytes());
        let mut permissions = std::fs::metadata(&out).unwrap().permissions();
        #[allow(clippy::permissions_set_readonly_false, reason = "only to remove it")]
        permissions.set_readonly(false);
        std::fs::set_permissions(&out, permissions).unwrap();
        std::fs::remove_file(&out).unwrap();
    }
    let meta = run("bsdtar", &["-xOf", volumes[0].to_str().unwrap(), "meta-data"]);
    let meta: serde_json::Value = serde_json::from_str(&meta).unwrap();
    assert_eq!(meta["instance-id"], "ins-abcdefgh");
    assert_eq!(meta["local-hostname"], "web-1");
    assert_eq!(meta["public-keys"][0], "ssh-ed25519 AAAAC3Nz ada@home");
    let network = run("bsdtar", &["-xOf", volumes[0].to_str().unwrap(), "network-config"]);
    let network: serde_json::Value = serde_json::from_str(&network).unwrap();
    assert_eq!(network["config"].as_array().unwrap().len(), 1, "a card without a cable is not waited for");
    assert_eq!(network["config"][0]["mac_address"], "52:54:00:01:02:03");
}

#[test]
fn the_same_facts_give_the_same_bytes_and_others_do_not() {
    let one = write(&identity(), Some(&user_data())).unwrap();
    assert_eq!(one, write(&identity(), Some(&user_data())).unwrap());
    assert_ne!(one, write(&Identity { instance_id: "ins-other234".to_owned(), ..identity() }, None).unwrap());
    assert_eq!(one.len() % 512, 0);
    assert!(one.len() < 256 << 10, "{}", one.len());
}

#[test]
fn user_data_that_cloud_init_would_ignore_is_refused_without_a_word_of_it() {
    let bad = |bytes: &[u8]| UserData::new(bytes.to_vec()).unwrap_err();
    assert_eq!(bad(b""), UserDataProblem::Empty);
    assert_eq!(bad(b"password: hunter2\n"), UserDataProblem::UnknownKind);
    assert!(!bad(b"password: hunter2\n").to_string().contains("hunter2"));
    assert_eq!(bad(&vec![b'#'; (8 << 20) + 1]), UserDataProblem::TooLong { len: (8 << 20) + 1 });
    for good in [&b"#!/bin/sh\n"[..], b"#cloud-config\n", b"\x1f\x8b\x08", b"MIME-Version: 1.0\n"] {
        UserData::new(good.to_vec()).unwrap();
    }
    let shown = format!("{:?}", UserData::new(b"#!/bin/sh\nhunter2".to_vec()).unwrap());
    assert_eq!(shown, "UserData(17 bytes)");
}
