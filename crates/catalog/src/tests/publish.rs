//! Opening a store and publishing into it.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn published_image_is_listed_with_exact_files_and_private_modes() {
    let (_dir, store) = new_store();
    let published = import(&store, "debian:12", &disk(1));
    let manifest = &published.manifest;
    let hex = manifest.layers[0].digest.hex().to_owned();
    assert_eq!(
        tree(store.path()),
        [
            "images".to_owned(),
            format!("images/{}", manifest.id),
            format!("images/{}/manifest.json", manifest.id),
            format!("images/{}/record.json", manifest.id),
            "layers".to_owned(),
            format!("layers/{}", &hex[..2]),
            format!("layers/{}/{hex}.leaves", &hex[..2]),
            format!("layers/{}/{hex}.qcow2", &hex[..2]),
            "staging".to_owned(),
            "store.json".to_owned(),
        ]
    );
    let mut open = vec![store.path().to_owned()];
    while let Some(path) = open.pop() {
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        let expected = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(mode, expected, "{}", path.display());
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    assert_eq!(titles(&store), [format!("debian:12 {}", manifest.id)]);
    assert_eq!(manifest.state, State::Normal);
    assert_eq!(published.new_bytes, 200 << 10);
    assert_eq!(finding_ids(&store), [""; 0]);
}

#[test]
fn same_content_twice_shares_one_layer_and_is_counted_once() {
    let (_dir, store) = new_store();
    let first = import(&store, "a", &disk(1));
    assert_eq!(store.list(&Filter::default()).unwrap()[0].own_bytes, 200 << 10);
    let second = import(&store, "b", &disk(1));
    assert_eq!(second.new_bytes, 0);
    assert_eq!(first.manifest.layers, second.manifest.layers);
    assert_ne!(first.manifest.id, second.manifest.id);
    for entry in store.list(&Filter::default()).unwrap() {
        assert_eq!((entry.own_bytes, entry.stored_bytes), (0, 200 << 10));
    }
}

#[test]
fn taken_name_is_refused_and_nothing_changes() {
    let (_dir, store) = new_store();
    let first = import(&store, "a", &disk(1));
    let before = tree(store.path());
    let error = add(&store, "a", &disk(2), IfTaken::Refuse).unwrap_err();
    match &error {
        Error::Refused(Refusal::NameTaken { name, holder }) => {
            assert_eq!((name.as_str(), holder), ("a:latest", &first.manifest.id));
        }
        other => panic!("{other:?}"),
    }
    assert!(error.hint().unwrap().contains("--replace"));
    assert_eq!(tree(store.path()), before);
}

#[test]
fn moved_tag_leaves_the_old_image_reachable_by_id() {
    let (_dir, store) = new_store();
    let old = import(&store, "a", &disk(1)).manifest;
    let moved = add(&store, "a", &disk(2), IfTaken::MoveTag).unwrap();
    assert_eq!(moved.untagged, Some(old.id.clone()));
    assert_eq!(store.find("a").unwrap().id, moved.manifest.id);
    let found = store.find(old.id.as_str()).unwrap();
    assert_eq!((found.title(), found.tag), ("a".to_owned(), None));
    assert_eq!(finding_ids(&store), [""; 0]);
}

#[test]
fn damaged_layer_is_replaced_when_the_same_content_comes_again() {
    let (_dir, store) = new_store();
    let first = import(&store, "a", &disk(1)).manifest;
    let path = store.layer_path(&first.layers[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[5] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(finding_ids(&store), ["store.layer.digest"]);
    let second = import(&store, "b", &disk(1));
    assert_eq!(second.healed, [first.layers[0].digest.clone()]);
    assert_eq!(std::fs::read(&path).unwrap(), disk(1));
    assert_eq!(finding_ids(&store), [""; 0]);
}

#[test]
fn layer_whose_leaves_belong_to_another_disk_is_refused() {
    let (_dir, store) = new_store();
    let job = store.begin().unwrap();
    let mut new = layer(&job, &disk(1));
    new.content = draft("x", &disk(2)).digests.content;
    let error = job.seal(new, &Silent).unwrap_err();
    assert_eq!(error.code(), "store.layer.differs");
}

#[test]
fn staged_layer_that_changes_before_publication_is_refused() {
    let (_dir, store) = new_store();
    let job = store.begin().unwrap();
    let new = layer(&job, &disk(1));
    let path = new.file.clone();
    let sealed = job.seal(new, &Silent).unwrap();
    std::fs::write(&path, disk(3)).unwrap();
    let error = job.publish(draft("a", &disk(1)), &[sealed], IfTaken::Refuse, &Silent).unwrap_err();
    assert_eq!(error.code(), "source.changed");
    assert_eq!(tree(store.path()), ["images", "layers", "staging", "store.json"]);
    assert_eq!(titles(&store), [""; 0]);
}

#[test]
fn description_with_line_breaks_or_of_257_characters_is_refused() {
    assert!(check_description(&"é".repeat(256)).is_ok());
    assert_eq!(check_description(&"é".repeat(257)).unwrap_err().code(), "name.description");
    assert_eq!(check_description("a\nb").unwrap_err().code(), "name.description");
    assert_eq!(check_description("a\u{1b}[2J").unwrap_err().code(), "name.description");
}

#[test]
fn directory_of_something_else_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
    assert_eq!(Store::open_or_create(dir.path()).unwrap_err().code(), "store.foreign");
    assert_eq!(Store::open(dir.path()).unwrap_err().code(), "store.foreign");
    assert_eq!(tree(dir.path()), ["thesis.txt"]);
}

#[test]
fn place_without_a_store_is_only_filled_by_who_may_create() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b");
    assert_eq!(Store::open(&path).unwrap_err().code(), "store.missing");
    assert!(!path.exists());
    Store::open_or_create(&path).unwrap();
    assert_eq!(titles(&Store::open(&path).unwrap()), [""; 0]);
}

#[test]
fn store_of_another_version_is_refused_and_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let label = r#"{"schema":"kiln.store.v9","version":9,"zone":"eu"}"#;
    std::fs::write(dir.path().join("store.json"), label).unwrap();
    let error = Store::open_or_create(dir.path()).unwrap_err();
    assert_eq!(error.code(), "store.version");
    assert_eq!(
        error.to_string(),
        format!(
            "{} was written by another version of Kiln (\"kiln.store.v9 version 9\"; this one reads \"kiln.store.v2 version 2\")",
            dir.path().join("store.json").display()
        )
    );
    assert_eq!(tree(dir.path()), ["store.json"]);
}

#[test]
fn store_json_that_is_no_json_is_malformed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("store.json"), "{").unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert_eq!((error.code(), error.family()), ("store.json.damaged", Family::Malformed));
}
