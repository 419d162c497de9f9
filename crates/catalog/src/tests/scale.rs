//! A store with very many images stays quick. Run by hand or by a benchmark:
//! `cargo test --release -p kiln-catalog scale -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::*;
use crate::index::{Entry, Index, Texts};

fn entry(base: &Manifest, number: usize, owner: &str) -> Entry {
    let mut manifest = base.clone();
    let letters = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut id = String::from("img-");
    let mut rest = number;
    for _ in 0..8 {
        id.push(char::from(letters[rest % 32]));
        rest /= 32;
    }
    manifest.id = id.parse().unwrap();
    manifest.name = format!("image-{}", number / 10).parse().unwrap();
    manifest.tag = Some(format!("v{}", number % 10).parse().unwrap());
    manifest.layers[0].digest = format!("sha256:{number:064x}").parse().unwrap();
    let mut record = Record::new(&manifest, owner.parse().unwrap());
    record.os = Some(format!("Os {}", number % 1000));
    let path = Path::new("m");
    let texts = Texts {
        manifest: manifest.render(path).unwrap(),
        record: Some(sealed::render(&record, path).unwrap()),
    };
    Entry { manifest: record.amend(manifest), record, texts }
}

/// The quickest of five: what the code costs, not what else the machine does.
fn quickest(mut work: impl FnMut()) -> Duration {
    (0..5)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed()
        })
        .min()
        .unwrap()
}

#[test]
#[ignore = "bench: a minute, and figures that mean something on a quiet machine only"]
fn a_hundred_thousand_images_are_listed_shown_and_shared_at_once() {
    let (_dir, store) = new_store();
    let base = import(&store, "base", &disk(1)).manifest;
    let owner = store.account().to_string();
    let entries: Vec<Entry> = (0..100_000).map(|number| entry(&base, number, &owner)).collect();
    let id = entries[50_000].manifest.id.clone();
    let path = store.path().join("staging/new.sqlite");
    Index::build(&path, &entries, &[]).unwrap();
    Index::install(&store.layout, &path, None).unwrap();
    let filter = Filter { name: Some("image-777".to_owned()), ..Filter::default() };
    assert_eq!(store.list(&filter).unwrap().len(), 110);
    let list = quickest(|| drop(store.list(&filter).unwrap()));
    let by_os = Filter { os: Some("os 77".to_owned()), tag: Some("v7".to_owned()), ..Filter::default() };
    assert_eq!(store.list(&by_os).unwrap().len(), 200);
    let filtered = quickest(|| drop(store.list(&by_os).unwrap()));
    let show = quickest(|| drop(store.image("image-5000:v0").unwrap()));
    let mut number = 0;
    let share = quickest(|| {
        number += 1;
        drop(store.share(&id, &[format!("account-{number}").parse().unwrap()]).unwrap());
    });
    println!(
        "100,000 images: ls --name {list:?}, ls --os --tag {filtered:?}, show {show:?}, share {share:?}"
    );

    let (_dir, other) = new_store();
    for entry in entries.iter().take(10_000) {
        let dir = other.layout.image(&entry.manifest.id);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("manifest.json"), &entry.texts.manifest).unwrap();
        std::fs::write(dir.join("record.json"), entry.texts.record.as_ref().unwrap()).unwrap();
    }
    let started = Instant::now();
    assert_eq!(other.rebuild().unwrap().images, 10_000);
    let rebuild = started.elapsed();
    println!("10,000 images: rebuild {rebuild:?}");
    assert!(list.max(filtered) <= Duration::from_millis(100), "ls takes {list:?}, {filtered:?}");
    assert!(show <= Duration::from_millis(20), "show takes {show:?}");
    assert!(share <= Duration::from_millis(20), "share takes {share:?}");
    assert!(rebuild <= Duration::from_secs(10), "rebuild takes {rebuild:?}");
}
