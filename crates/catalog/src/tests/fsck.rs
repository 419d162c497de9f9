//! What the check of a store finds: one planted fault, exactly one finding.

use std::os::unix::fs::PermissionsExt;

use super::*;

/// A store with two images, and the manifest of the second.
fn planted(fault: impl Fn(&Store, &Manifest)) -> Vec<&'static str> {
    let (_dir, store) = new_store();
    import(&store, "a", &disk(1));
    let image = import(&store, "b", &disk(2)).manifest;
    assert_eq!(finding_ids(&store), [""; 0]);
    fault(&store, &image);
    finding_ids(&store)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn every_planted_fault_is_found_by_its_id() {
    let leaves =
        |store: &Store, image: &Manifest| store.layer_path(&image.layers[0]).with_extension("leaves");
    assert_eq!(
        planted(|store, image| std::fs::remove_file(store.layer_path(&image.layers[0])).unwrap()),
        ["store.layer.missing"]
    );
    assert_eq!(planted(|store, image| flip(&store.layer_path(&image.layers[0]), 77)), ["store.layer.digest"]);
    assert_eq!(
        planted(|store, image| {
            let file =
                std::fs::OpenOptions::new().write(true).open(store.layer_path(&image.layers[0])).unwrap();
            file.set_len(1000).unwrap();
        }),
        ["store.layer.length", "store.layer.digest"]
    );
    assert_eq!(
        planted(|store, image| std::fs::remove_file(leaves(store, image)).unwrap()),
        ["store.leaves.missing"]
    );
    assert_eq!(planted(|store, image| flip(&leaves(store, image), 60)), ["store.leaves.damaged"]);
    assert_eq!(
        planted(|store, image| flip(&store.layout.manifest(&image.id), 200)),
        // Its layer now seems to belong to nobody.
        ["store.manifest.damaged", "store.layer.unreferenced"]
    );
    assert_eq!(
        planted(|store, image| std::fs::remove_dir_all(store.layout.image(&image.id)).unwrap()),
        ["store.manifest.missing", "store.layer.unreferenced"]
    );
    assert_eq!(
        planted(|store, image| sql(store, &format!("DELETE FROM images WHERE id = '{}'", image.id))),
        ["store.row.missing"]
    );
    assert_eq!(
        planted(|store, image| {
            sql(store, &format!("UPDATE texts SET manifest = manifest || ' ' WHERE image = '{}'", image.id));
        }),
        ["store.row.differs"]
    );
    assert_eq!(
        planted(|store, _| std::fs::write(store.path().join("notes.txt"), "").unwrap()),
        ["store.stray"]
    );
    assert_eq!(
        planted(|store, _| {
            std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        }),
        ["store.mode"]
    );
    assert_eq!(
        planted(|store, _| {
            let dir = store.layout.staging().join("1-0");
            std::fs::create_dir(&dir).unwrap();
            std::fs::write(dir.join("intent.json"), "{").unwrap();
        }),
        ["store.staging.leftover"]
    );
}

fn sql(store: &Store, text: &str) {
    let raw = rusqlite::Connection::open(store.layout.index()).unwrap();
    raw.execute_batch(&format!("PRAGMA foreign_keys = ON; {text}")).unwrap();
}

#[test]
fn two_manifests_of_one_name_are_found_and_a_rebuild_serves_the_older() {
    let (_dir, store) = new_store();
    let a = import(&store, "a", &disk(1)).manifest;
    let b = import(&store, "b", &disk(2)).manifest;
    let mut record = store.image("b").unwrap().record;
    record.name = a.name.clone();
    let path = store.layout.record(&b.id);
    std::fs::write(&path, sealed::render(&record, &path).unwrap()).unwrap();
    assert_eq!(finding_ids(&store), ["store.name.duplicate", "store.row.differs"]);
    store.rebuild().unwrap();
    assert_eq!(finding_ids(&store), ["store.name.duplicate"]);
    assert_eq!(store.find("a").unwrap().id, a.id);
    assert_eq!(store.find(b.id.as_str()).unwrap(), record.amend(b));
}

#[test]
fn unreferenced_layer_is_removed_by_repair_and_only_by_repair() {
    let (_dir, store) = new_store();
    import(&store, "a", &disk(1));
    let hex = "ab".repeat(32);
    let dir = store.layout.layers().join("ab");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("{hex}.qcow2")), vec![1; 4096]).unwrap();
    assert_eq!(finding_ids(&store), ["store.layer.unreferenced"]);
    let report = store.fsck(FsckOptions { read_data: false, repair: true }, &Silent).unwrap();
    assert_eq!(
        report.repaired,
        [Repaired { id: "store.layer.unreferenced", what: format!("sha256:{hex}"), freed_bytes: 4096 }]
    );
    assert_eq!((report.images, report.layers, report.layer_bytes), (1, 1, 200 << 10));
    assert_eq!(finding_ids(&store), [""; 0]);
}

#[test]
fn repair_keeps_layers_that_a_damaged_manifest_may_need() {
    let (_dir, store) = new_store();
    let image = import(&store, "a", &disk(1)).manifest;
    flip(&store.layout.manifest(&image.id), 200);
    let report = store.fsck(FsckOptions { read_data: false, repair: true }, &Silent).unwrap();
    assert_eq!(report.repaired, []);
    assert!(store.layer_path(&image.layers[0]).exists());
}
