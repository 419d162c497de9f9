//! Removal frees what only the image had.

use super::*;

#[test]
fn shared_layer_stays_until_its_last_image_goes() {
    let (_dir, store) = new_store();
    let a = import(&store, "a", &disk(1)).manifest;
    let b = import(&store, "b", &disk(1)).manifest;
    let path = store.layer_path(&a.layers[0]);
    let removal = store.remove(&a.id).unwrap();
    assert_eq!((removal.freed_bytes, removal.frees.len(), removal.keeps.len()), (0, 0, 1));
    assert!(path.exists());
    assert!(store.verify(&b, &FlatReader, &Silent).unwrap().intact());
    let removal = store.remove(&b.id).unwrap();
    assert_eq!((removal.freed_bytes, removal.frees.len(), removal.keeps.len()), (200 << 10, 1, 0));
    assert!(!path.exists());
    assert!(!path.with_extension("leaves").exists());
    assert_eq!(finding_ids(&store), [""; 0]);
}

#[test]
fn plan_says_what_the_removal_then_does() {
    let (_dir, store) = new_store();
    let a = import(&store, "a", &disk(1)).manifest;
    let files = tree(store.path());
    let plan = store.plan_removal(&a.id).unwrap();
    assert_eq!(tree(store.path()), files);
    assert_eq!(store.remove(&a.id).unwrap(), plan);
}

#[test]
fn removed_image_is_not_found_twice_and_its_name_is_free() {
    let (_dir, store) = new_store();
    let a = import(&store, "a", &disk(1)).manifest;
    store.remove(&a.id).unwrap();
    assert_eq!(store.remove(&a.id).unwrap_err().code(), "store.not-found");
    import(&store, "a", &disk(2));
}

#[test]
fn reader_of_a_layer_is_not_disturbed_by_its_removal() {
    let (_dir, store) = new_store();
    let a = import(&store, "a", &disk(1)).manifest;
    let source = store.open_layer(&a.layers[0]).unwrap();
    store.remove(&a.id).unwrap();
    let mut bytes = vec![0; 200 << 10];
    source.read_bytes(FileOffset::ZERO, &mut bytes).unwrap();
    assert_eq!(bytes, disk(1));
    assert_eq!(store.open_layer(&a.layers[0]).unwrap_err().code(), "io.not-found");
}
