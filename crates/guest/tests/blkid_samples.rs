//! What volumes are called, against libblkid: the sample volumes of its own tests, made by some eighty tools and systems,
//! with what it must say of each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use kiln_disk::{Disk, FileSource};
use kiln_guest::fs::{Root, open};
use kiln_guest::volume::{Content, probe};
use kiln_testkit::fixtures::Fixture;
use kiln_testkit::flat::Flat;

/// Kinds that blkid knows and this crate does not: controllers' RAIDs (their members are disks of machines, not machine
/// images), cluster storage, and two systems without a magic worth the name.
const UNNAMED: [&str; 16] = [
    "adaptec_raid_member",
    "ddf_raid_member",
    "drbd",
    "drbdmanage_control_volume",
    "hpt37x_raid_member",
    "hpt45x_raid_member",
    "isw_raid_member",
    "jmicron_raid_member",
    "lsi_mega_raid_member",
    "minix",
    "mpool",
    "nss",
    "nvidia_raid_member",
    "promise_fasttrack_raid_member",
    "silicon_medley_raid_member",
    "via_raid_member",
];

/// Kinds whose id or label nobody writes into an fstab: blkid makes them from fields of its own choice.
const ONLY_NAMED: [&str; 11] =
    ["udf", "hfs", "hfsplus", "hpfs", "befs", "VMFS", "VMFS_volume_member", "vdo", "ubi", "ubifs", "iso9660"];

/// As blkid calls it.
fn word(kind: &str) -> &str {
    match kind {
        "LVM2" => "LVM2_member",
        "md RAID" => "linux_raid_member",
        "LUKS1" | "LUKS2" => "crypto_LUKS",
        other => other,
    }
}

fn expected(path: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read(path).unwrap();
    let lines = String::from_utf8_lossy(&text).into_owned();
    lines
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

#[test]
fn volumes_are_called_as_blkid_calls_them() {
    let dir = Fixture::BlkidSamples.ensure().unwrap();
    let (mut held, mut wrong) = (0, Vec::new());
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let answer = path.with_extension("blkid");
        if path.extension().is_none_or(|extension| extension != "img") || !answer.exists() {
            continue;
        }
        let expected = expected(&answer);
        let said = |key: &str| expected.get(key).map_or("", String::as_str);
        let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(&path).unwrap()));
        let mut found = probe(&disk).unwrap();
        // The label of an NTFS is a file in it.
        if found.content == Content::Ntfs {
            open(&disk, found.content, &Root::Default).unwrap().describe(&mut found).unwrap();
        }
        let kind = said("ID_FS_TYPE");
        let named = if UNNAMED.contains(&kind) { kind } else { word(&found.kind) };
        // blkid spells a blank in a name as a line below, and what is no UTF-8 likewise.
        let label: String =
            found.label.chars().map(|c| if c == ' ' || c == '\u{fffd}' { '_' } else { c }).collect();
        let names = (found.uuid.as_str(), label.as_str());
        let wanted = (said("ID_FS_UUID"), said("ID_FS_LABEL"));
        if named != kind || !(UNNAMED.contains(&kind) || ONLY_NAMED.contains(&kind) || names == wanted) {
            wrong.push(format!("{}: {named} {names:?}, blkid says {kind} {wanted:?}", path.display()));
        }
        held += 1;
    }
    assert!(wrong.is_empty(), "{} of {held}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(held > 100, "only {held} samples");
}
