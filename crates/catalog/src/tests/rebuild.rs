//! The index made again from the manifests.

use super::*;

fn filled() -> (tempfile::TempDir, Store) {
    let (dir, store) = new_store();
    import(&store, "a", &disk(1));
    import(&store, "b:1", &disk(1));
    add(&store, "a", &disk(2), IfTaken::MoveTag).unwrap();
    (dir, store)
}

#[test]
fn rebuilt_index_gives_the_same_listing() {
    let (_dir, store) = filled();
    let before = store.list(&Filter::default()).unwrap();
    let rebuilt = store.rebuild().unwrap();
    assert_eq!((rebuilt.images, rebuilt.kept_aside, rebuilt.left_out.len()), (3, None, 0));
    assert_eq!(store.list(&Filter::default()).unwrap(), before);
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(store.path().join(format!("catalog.sqlite{suffix}")));
    }
    assert_eq!(store.list(&Filter::default()).unwrap_err().code(), "store.index.missing");
    store.rebuild().unwrap();
    assert_eq!(store.list(&Filter::default()).unwrap(), before);
}

#[test]
fn damaged_index_is_told_and_kept_aside_by_the_rebuild() {
    let (_dir, store) = filled();
    let before = store.list(&Filter::default()).unwrap();
    let path = store.layout.index();
    for damage in [b"this is no database".to_vec(), Vec::new(), vec![0xff; 8192]] {
        std::fs::write(&path, &damage).unwrap();
        let error = store.list(&Filter::default()).unwrap_err();
        let expected = if damage.is_empty() { "store.index.foreign" } else { "store.index.damaged" };
        assert_eq!(error.code(), expected);
        assert!(error.hint().unwrap().contains("kiln store rebuild"));
        assert_eq!(finding_ids(&store), [expected]);
        // Opening the store still works: it is the way to the rebuild.
        let rebuilt = Store::open(store.path()).unwrap().rebuild().unwrap();
        assert_eq!(std::fs::read(rebuilt.kept_aside.unwrap()).unwrap(), damage);
        assert_eq!(store.list(&Filter::default()).unwrap(), before);
        assert_eq!(finding_ids(&store), [""; 0]);
    }
}

#[test]
fn every_page_of_the_index_overwritten_is_an_error_or_the_same_listing_and_never_a_panic() {
    let (_dir, store) = filled();
    let before = store.list(&Filter::default()).unwrap();
    let path = store.layout.index();
    let sound = std::fs::read(&path).unwrap();
    for page in 0..sound.len() / 4096 {
        let mut bytes = sound.clone();
        for byte in &mut bytes[page * 4096..(page + 1) * 4096] {
            *byte ^= 0x5a;
        }
        std::fs::write(&path, &bytes).unwrap();
        match store.list(&Filter::default()) {
            Ok(listed) => assert_eq!(listed, before, "page {page}"),
            Err(error) => assert_eq!(error.code(), "store.index.damaged", "page {page}"),
        }
        store.rebuild().unwrap();
        assert_eq!(store.list(&Filter::default()).unwrap(), before, "page {page}");
    }
}

#[test]
fn database_of_another_program_is_kept_aside_unchanged() {
    let (_dir, store) = filled();
    let path = store.layout.index();
    std::fs::remove_file(&path).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("PRAGMA application_id = 7; CREATE TABLE images (photo BLOB);").unwrap();
    drop(other);
    let bytes = std::fs::read(&path).unwrap();
    let error = store.find("a").unwrap_err();
    assert_eq!(error.code(), "store.index.foreign");
    assert!(matches!(
        error,
        Error::Malformed { problem: Malformation::IndexForeign { application_id: 7 }, .. }
    ));
    let rebuilt = store.rebuild().unwrap();
    assert_eq!(std::fs::read(rebuilt.kept_aside.unwrap()).unwrap(), bytes);
    assert!(store.find("a").is_ok());
}

#[test]
fn index_of_a_newer_version_is_unsupported_and_stays_when_nobody_rebuilds() {
    let (_dir, store) = filled();
    let raw = rusqlite::Connection::open(store.layout.index()).unwrap();
    raw.execute_batch("PRAGMA user_version = 9;").unwrap();
    drop(raw);
    let error = store.find("a").unwrap_err();
    assert_eq!((error.code(), error.family()), ("store.index.version", Family::Unsupported));
    assert_eq!(finding_ids(&store), ["store.index.version"]);
}

#[test]
fn image_with_a_damaged_manifest_is_left_out_and_named() {
    let (_dir, store) = filled();
    let image = store.find("b:1").unwrap();
    std::fs::write(store.layout.manifest(&image.id), "{}").unwrap();
    let rebuilt = store.rebuild().unwrap();
    assert_eq!(rebuilt.images, 2);
    assert_eq!(rebuilt.left_out.len(), 1);
    assert_eq!(rebuilt.left_out[0].0, image.id);
    assert_eq!(rebuilt.left_out[0].1.code(), "store.manifest.damaged");
}
