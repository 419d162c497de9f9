//! Images of several layers, and bundles.

use std::io::BufWriter;

use kiln_catalog::{Birth, Draft, IfTaken, Manifest, NewLayer};
use kiln_disk::MemorySource;
use kiln_disk::digest::LeafWriter;

use super::*;

/// An image of `base` with one 64 KiB block changed, as one more layer that holds nothing else; and its bytes.
fn upon(bench: &Bench, base: &Manifest, bytes: &[u8], block: usize, name: &str) -> (Manifest, Vec<u8>) {
    let mut changed = bytes.to_vec();
    let range = block * 65_536..(block + 1) * 65_536;
    for byte in &mut changed[range.clone()] {
        *byte ^= 0x5a;
    }
    let mut alone = vec![0; bytes.len()];
    alone[range.clone()].copy_from_slice(&changed[range]);
    let raw = bench.file(&format!("{name}-alone.raw"), &alone);
    let upper = bench.container(&raw, &format!("{name}-alone.qcow2"), "qcow2", &[]);
    let job = bench.store.begin().unwrap();
    let file = job.dir().join("layer.qcow2");
    std::fs::rename(upper, &file).unwrap();
    let flat =
        (by_name("raw").unwrap().open)(Arc::new(MemorySource::new(changed.clone())), &OpenContext::new());
    let flat = flat.unwrap();
    let (leaf_file, leaves) = job.create_file("layer.leaves").unwrap();
    let mut writer = LeafWriter::new(BufWriter::new(leaf_file), changed.len() as u64).unwrap();
    let hash = HashJob { leaves: Some(&mut writer), ..HashJob::default() };
    let content = hash_disk(flat.as_ref(), hash, &Silent).unwrap().content;
    writer.finish(&content).unwrap().into_inner().unwrap();
    let new = NewLayer { file, leaves, format: "qcow2".to_owned(), style: "plain".to_owned(), content };
    let sealed = job.seal(new, &Silent).unwrap();
    let draft = Draft {
        name: name.parse().unwrap(),
        description: String::new(),
        disk_bytes: base.disk_bytes,
        digests: kiln_catalog::ImageDigests { content, raw: None },
        source: base.source.clone(),
        provenance: base.provenance.clone(),
        checks: base.checks.clone(),
        birth: Birth::default(),
    };
    let published = job.publish_upon(draft, &base.layers, &[sealed], IfTaken::Refuse, &Silent).unwrap();
    (published.manifest, changed)
}

/// A bench with a base, and an image of three layers with its bytes.
fn three() -> (Bench, Manifest, Vec<u8>) {
    let bench = Bench::new();
    let bytes = disk(1);
    let base = bench.import(&bench.file("base.raw", &bytes), "base").manifest;
    let (second, bytes) = upon(&bench, &base, &bytes, 3, "second");
    let (third, bytes) = upon(&bench, &second, &bytes, 40, "third");
    assert_eq!(third.layers.len(), 3);
    (bench, third, bytes)
}

#[test]
fn stack_is_read_verified_exported_and_flattened() {
    let (bench, image, bytes) = three();
    assert_eq!(bytes_of(open_image(&bench.store, &image).unwrap().as_ref()), bytes);
    let verdict = verify_image(&bench.store, &image, &Silent).unwrap();
    assert!(verdict.intact(), "{:?}", verdict.findings.list());
    assert_eq!((verdict.layers.len(), verdict.content), (3, Some(image.digests.content)));
    for format in ["raw", "qcow2"] {
        let plan = plan_export(&bench.store, &image, ExportRequest::new(by_name(format).unwrap())).unwrap();
        assert_eq!(plan.how(), How::Convert);
        let dest = bench.path(&format!("out.{format}"));
        let outcome = plan.to_file(&dest, Existing::Keep, &Silent).unwrap();
        assert_eq!(outcome.content, image.digests.content);
    }
    assert_eq!(std::fs::read(bench.path("out.raw")).unwrap(), bytes);
    let flat = flatten(&bench.store, &image, LayerStyle::Plain, &Silent).unwrap();
    assert_eq!((flat.layers.len(), &flat.id, &flat.digests), (1, &image.id, &image.digests));
    assert_eq!(bytes_of(open_image(&bench.store, &flat).unwrap().as_ref()), bytes);
    assert!(!screen_image(&bench.store, &flat, &Silent).unwrap().record.rule_set.is_empty());
    bench.assert_clean();
}

#[test]
fn damage_in_any_layer_of_a_stack_is_told_with_its_block() {
    let (bench, image, _) = three();
    damage(&bench.store, &image, 1, 7);
    let verdict = verify_image(&bench.store, &image, &Silent).unwrap();
    assert!(!verdict.intact());
    assert_eq!(verdict.damaged.len(), 1);
    assert_eq!(verdict.damaged[0].start.get(), 7 * 65_536);
    std::fs::remove_file(bench.store.layer_path(&image.layers[1])).unwrap();
    let verdict = verify_image(&bench.store, &image, &Silent).unwrap();
    assert!(verdict.findings.list().iter().any(|finding| finding.check.id == "store.layer.missing"));
}

fn bundled(bench: &Bench, name: &str) -> (PathBuf, Manifest) {
    let image = bench.store.image(name).unwrap();
    let path = bench.path("image.kiln");
    write_bundle(&bench.store, &image, &path, Existing::Keep, &Silent).unwrap();
    (path, image.manifest)
}

fn take(store: &Store, bytes: Vec<u8>) -> Result<kiln_catalog::Published> {
    let source: Arc<dyn kiln_disk::ByteSource> = Arc::new(MemorySource::new(bytes));
    import_bundle(store, &source, &"got:1".parse().unwrap(), IfTaken::Refuse, &Silent)
}

#[test]
fn bundle_brings_the_image_with_its_layers_and_where_it_comes_from() {
    let (bench, image, bytes) = three();
    let (path, _) = bundled(&bench, "third");
    let source = FileSource::open(&path).unwrap();
    assert!(is_bundle(&source).unwrap());
    // Any program that reads tar reads it.
    let listed = std::process::Command::new("tar").arg("-tf").arg(&path).output().unwrap();
    assert_eq!(String::from_utf8(listed.stdout).unwrap().lines().count(), 2 + 2 * 3);
    let other = Bench::new();
    let got = take(&other.store, std::fs::read(&path).unwrap()).unwrap().manifest;
    assert_eq!((&got.layers, &got.source, &got.digests), (&image.layers, &image.source, &image.digests));
    assert_eq!(got.origin.as_ref().unwrap().image, image.id);
    assert_eq!(bytes_of(open_image(&other.store, &got).unwrap().as_ref()), bytes);
    other.assert_clean();
}

#[test]
fn bundle_that_was_changed_anywhere_is_refused_and_leaves_nothing() {
    let bench = Bench::new();
    bench.import(&bench.file("small.raw", &disk(2)[..131_072]), "small");
    let (path, _) = bundled(&bench, "small");
    let sound = std::fs::read(&path).unwrap();
    let other = Bench::new();
    let mut refused = 0;
    let places = (0..sound.len()).step_by(4093).chain((0..2048).step_by(5)).chain((2048..8192).step_by(31));
    for at in places {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x21;
        match take(&other.store, bytes) {
            Err(error) => {
                refused += 1;
                assert!(!error.code().is_empty());
            }
            // Padding and fields of tar headers that say nothing about the content may change; the image does not.
            Ok(published) => {
                assert!(verify_image(&other.store, &published.manifest, &Silent).unwrap().intact());
                other.store.remove(&published.manifest.id).unwrap();
            }
        }
    }
    assert!(refused > 300, "{refused}");
    for len in [0, 511, 1024, sound.len() / 2, sound.len() - 1024, sound.len() - 1] {
        let cut = sound[..len].to_vec();
        if let Ok(published) = take(&other.store, cut) {
            // Only the last zeros behind the end may be missing.
            assert!(len == sound.len() - 1, "{len}");
            other.store.remove(&published.manifest.id).unwrap();
        }
    }
    other.assert_untouched();
}
