//! Verification of one image.

use kiln_disk::GuestRange;

use super::*;

fn ids(verdict: &Verification) -> Vec<&'static str> {
    verdict.findings.list().iter().map(|finding| finding.check.id).collect()
}

#[test]
fn intact_image_has_its_content_proved() {
    let (_dir, store) = new_store();
    let image = import(&store, "a", &disk(1)).manifest;
    let verdict = store.verify(&image, &FlatReader, &Silent).unwrap();
    assert!(verdict.intact());
    assert_eq!(verdict.content, Some(image.digests.content));
    assert_eq!(verdict.layers[0].found.as_ref(), Some(&image.layers[0].digest));
}

#[test]
fn damaged_blocks_are_named_as_guest_ranges() {
    let (_dir, store) = new_store();
    let image = import(&store, "a", &disk(1)).manifest;
    let path = store.layer_path(&image.layers[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    // In blocks 0 and 3; the last block is short.
    bytes[10] ^= 1;
    bytes[199 << 10] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let verdict = store.verify(&image, &FlatReader, &Silent).unwrap();
    assert_eq!(ids(&verdict), ["store.layer.digest", "store.content.blocks", "store.content.blocks"]);
    let block = |n: u64, len: u64| GuestRange { start: GuestOffset::new(n * 65_536), len };
    assert_eq!(verdict.damaged, [block(0, 65_536), block(3, (200 << 10) - 3 * 65_536)]);
    assert_eq!(verdict.content, None);
}

#[test]
fn every_flipped_bit_of_a_small_image_is_found() {
    let (_dir, store) = new_store();
    let image = import(&store, "a", &[0x5a; 1500]).manifest;
    let layer = store.layer_path(&image.layers[0]);
    for path in [layer.with_extension("leaves"), store.layout.manifest(&image.id), layer] {
        let sound = std::fs::read(&path).unwrap();
        let step = (sound.len() * 8 / 400).max(1);
        for bit in (0..sound.len() * 8).step_by(step) {
            let mut bytes = sound.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            let verdict = store.verify(&image, &FlatReader, &Silent).unwrap();
            assert!(!verdict.intact(), "{} bit {bit}", path.display());
        }
        std::fs::write(&path, &sound).unwrap();
    }
    assert!(store.verify(&image, &FlatReader, &Silent).unwrap().intact());
}

#[test]
fn damaged_leaf_list_does_not_hide_that_the_disk_is_right_or_wrong() {
    let (_dir, store) = new_store();
    let image = import(&store, "a", &disk(1)).manifest;
    let layer = store.layer_path(&image.layers[0]);
    std::fs::write(layer.with_extension("leaves"), "nothing").unwrap();
    let verdict = store.verify(&image, &FlatReader, &Silent).unwrap();
    assert_eq!((ids(&verdict), verdict.content), (vec!["store.leaves.damaged"], Some(image.digests.content)));
    std::fs::write(&layer, disk(2)).unwrap();
    let verdict = store.verify(&image, &FlatReader, &Silent).unwrap();
    assert_eq!(ids(&verdict), ["store.layer.digest", "store.leaves.damaged", "store.content.digest"]);
}

#[test]
fn missing_layer_is_a_finding() {
    let (_dir, store) = new_store();
    let image = import(&store, "a", &disk(1)).manifest;
    std::fs::remove_file(store.layer_path(&image.layers[0])).unwrap();
    let verdict = store.verify(&image, &FlatReader, &Silent).unwrap();
    assert_eq!(ids(&verdict), ["store.layer.missing"]);
    assert_eq!(verdict.layers[0].found, None);
}
