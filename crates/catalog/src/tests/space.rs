//! Stacks of layers, collection, pruning, usage, copies, jobs, scrubbing.

use super::*;

/// An image of a base and one more layer upon it, which hides the first 64 KiB. Flat layers have no holes, so the
/// upper layer is read by a reader that makes some.
fn stacked(store: &Store, name: &str, base: &Manifest, upper: &[u8]) -> Manifest {
    let job = store.begin().unwrap();
    let sealed = job.seal(layer(&job, upper), &Silent).unwrap();
    let mut draft = draft(name, upper);
    draft.birth.origin = Some(Origin {
        how: OriginKind::Capture,
        image: base.id.clone(),
        owner: store.account().clone(),
        created_at: base.created_at,
        manifest: base.layers[0].digest.clone(),
        before: Vec::new(),
    });
    job.publish_upon(draft, &base.layers, &[sealed], IfTaken::Refuse, &Silent).unwrap().manifest
}

#[test]
fn stack_of_layers_keeps_its_base_alive_and_is_verified() {
    let (_dir, store) = new_store();
    let base = import(&store, "base", &disk(1)).manifest;
    let upper = stacked(&store, "upper", &base, &disk(2));
    assert_eq!(upper.layers.len(), 2);
    assert!(store.verify(&upper, &FlatReader, &Silent).unwrap().intact());
    let removal = store.remove(&base.id).unwrap();
    assert_eq!((removal.freed_bytes, removal.keeps.len()), (0, 1));
    assert!(store.verify(&upper, &FlatReader, &Silent).unwrap().intact());
    assert_eq!(store.remove(&upper.id).unwrap().freed_bytes, 400 << 10);
    assert_eq!(finding_ids(&store), [""; 0]);
}

#[test]
fn nine_layers_are_too_many_and_flattening_makes_one() {
    let (_dir, store) = new_store();
    let mut image = import(&store, "v0", &disk(0)).manifest;
    for n in 1..8 {
        image = stacked(&store, &format!("v{n}"), &image, &disk(n));
    }
    assert_eq!(image.layers.len(), MAX_DEPTH);
    let job = store.begin().unwrap();
    let sealed = job.seal(layer(&job, &disk(9)), &Silent).unwrap();
    let error = job
        .publish_upon(draft("v9", &disk(9)), &image.layers, &[sealed], IfTaken::Refuse, &Silent)
        .unwrap_err();
    assert_eq!(error.code(), "store.layers.depth");
    let job = store.begin().unwrap();
    let sealed = job.seal(layer(&job, &disk(7)), &Silent).unwrap();
    let flat = job.flatten(&image.id, &sealed, &Silent).unwrap();
    assert_eq!(
        (flat.layers.len(), flat.id.clone(), flat.digests.clone()),
        (1, image.id.clone(), image.digests)
    );
    assert_eq!(store.find("v7").unwrap(), flat);
    assert!(store.verify(&flat, &FlatReader, &Silent).unwrap().intact());
    // Another disk is not put in its place.
    let job = store.begin().unwrap();
    let sealed = job.seal(layer(&job, &disk(3)), &Silent).unwrap();
    assert_eq!(job.flatten(&image.id, &sealed, &Silent).unwrap_err().code(), "store.layer.differs");
    assert_eq!(finding_ids(&store), [""; 0]);
    store.rebuild().unwrap();
    assert_eq!(store.find("v7").unwrap(), flat);
}

#[test]
fn lineage_passes_over_a_parent_that_is_gone() {
    let (_dir, store) = new_store();
    let a = import(&store, "a", &disk(1)).manifest;
    let copy = |from: &Manifest, name: &str| {
        let name = name.parse().unwrap();
        store.copy_image(&from.id, &store, &name, IfTaken::Refuse, &Silent).unwrap().manifest
    };
    let b = copy(&a, "b");
    let c = copy(&b, "c");
    let parent = |id: &ImageId| {
        let nodes = store.lineage().unwrap();
        nodes.into_iter().find(|node| node.image.manifest.id == *id).unwrap().parent
    };
    assert_eq!((parent(&a.id), parent(&b.id), parent(&c.id)), (None, Some(a.id.clone()), Some(b.id.clone())));
    store.remove(&b.id).unwrap();
    assert_eq!(parent(&c.id), Some(a.id));
}

#[test]
fn collection_takes_what_nobody_needs_and_nothing_else() {
    let (_dir, store) = new_store();
    import(&store, "a", &disk(1));
    let hex = "cd".repeat(32);
    let dir = store.layout.layers().join("cd");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join(format!("{hex}.qcow2")), vec![1; 4096]).unwrap();
    std::fs::write(dir.join(format!("{hex}.leaves")), vec![1; 64]).unwrap();
    let job = store.begin().unwrap();
    let plan = store.collect(true).unwrap();
    assert_eq!((plan.freed_bytes, plan.layers.len()), (4096, 1));
    assert_eq!(store.collect(false).unwrap(), plan);
    assert!(job.dir().exists(), "a running job is left alone");
    assert_eq!(store.collect(false).unwrap(), Collected::default());
    assert_eq!(finding_ids(&store), [""; 0]);
    std::fs::write(store.layout.manifest(&store.find("a").unwrap().id), "{}").unwrap();
    assert_eq!(store.collect(false).unwrap_err().code(), "store.not-clean");
}

#[test]
fn collection_beside_imports_of_one_layer_loses_nothing() {
    let (_dir, store) = new_store();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let store = &store;
            scope.spawn(move || {
                for round in 0..6 {
                    let image = import(store, &format!("i{thread}-{round}"), &disk(7)).manifest;
                    assert!(store.verify(&image, &FlatReader, &Silent).unwrap().intact());
                    store.remove(&image.id).unwrap();
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..20 {
                store.collect(false).unwrap();
            }
        });
    });
    assert_eq!(titles(&store), [""; 0]);
    assert_eq!(finding_ids(&store), [""; 0]);
}

fn verdicts(store: &Store, policy: &PrunePolicy) -> Vec<(String, bool, u64)> {
    let plan = store.plan_prune(policy).unwrap();
    plan.iter().map(|verdict| (verdict.image.title(), verdict.goes, verdict.frees)).collect()
}

#[test]
fn pruning_keeps_the_newest_and_stops_at_the_budget() {
    let (_dir, store) = new_store();
    for n in 1..=4 {
        import(&store, &format!("web:{n}"), &disk(n));
    }
    import(&store, "db:1", &disk(1));
    let all = 200 << 10;
    let keep = PrunePolicy { keep: Some(2), ..PrunePolicy::default() };
    let expected = [
        ("web:1", true, 0),
        ("web:2", true, all),
        ("web:3", false, 0),
        ("web:4", false, 0),
        ("db:1", false, 0),
    ];
    let own = |list: &[(&str, bool, u64)]| -> Vec<(String, bool, u64)> {
        list.iter().map(|(name, goes, frees)| ((*name).to_owned(), *goes, *frees)).collect()
    };
    assert_eq!(verdicts(&store, &keep), own(&expected));
    // web:1 shares its layer with db:1, so its going frees nothing and web:2 must go as well.
    let budget = PrunePolicy { budget: Some(3 * all), ..PrunePolicy::default() };
    assert_eq!(
        verdicts(&store, &budget),
        own(&[
            ("web:1", true, 0),
            ("web:2", true, all),
            ("web:3", false, 0),
            ("web:4", false, 0),
            ("db:1", false, 0)
        ])
    );
    let old = PrunePolicy { before: Some("2020-01-01T00:00:00Z".parse().unwrap()), ..PrunePolicy::default() };
    assert!(verdicts(&store, &old).iter().all(|(_, goes, _)| !goes));
    assert!(verdicts(&store, &PrunePolicy::default()).iter().all(|(_, goes, _)| !goes));
    // Protected images stay, whatever the rules say.
    store.set_protected(&store.find("web:2").unwrap().id, true).unwrap();
    let plan = store.plan_prune(&keep).unwrap();
    assert_eq!(plan[1].why, "it is protected");
    let removed = store.prune(&plan).unwrap();
    assert_eq!(removed.len(), 1);
    assert_eq!(store.find("web:1").unwrap_err().code(), "store.not-found");
}

#[test]
fn usage_counts_every_layer_once() {
    let (_dir, store) = new_store();
    let ann = store.clone().acting_as("ann".parse().unwrap());
    import(&store, "a", &disk(1));
    import(&store, "b", &disk(1));
    import(&store, "c", &disk(2));
    let shared = import(&ann, "d", &disk(2)).manifest.id;
    ann.share(&shared, &[store.account().clone()]).unwrap();
    let (images, accounts) = store.usage().unwrap();
    let sizes: Vec<_> = images.iter().map(|usage| (usage.own_bytes, usage.shared_bytes)).collect();
    assert_eq!(sizes, [(0, 200 << 10); 4]);
    let own = accounts.iter().find(|usage| usage.account == *store.account()).unwrap();
    assert_eq!((own.images, own.own_bytes, own.shared_bytes), (3, 200 << 10, 200 << 10));
    assert_eq!(monthly_cost(1 << 30, 0.5), 0.5);
}

#[test]
fn copy_into_another_store_is_independent_and_tied_to_its_origin() {
    let (_dir, store) = new_store();
    let (_other_dir, other) = new_store();
    let image = import(&store, "a", &disk(1)).manifest;
    let name: NameTag = "copy".parse().unwrap();
    let copied = store.copy_image(&image.id, &other, &name, IfTaken::Refuse, &Silent).unwrap();
    assert_ne!(copied.manifest.id, image.id);
    assert_eq!((copied.manifest.layers.clone(), copied.new_bytes), (image.layers.clone(), 200 << 10));
    assert_eq!((&copied.manifest.source, &copied.manifest.checks), (&image.source, &image.checks));
    let origin = copied.manifest.origin.clone().unwrap();
    let text = store.manifest_text(&image.id).unwrap();
    assert_eq!(origin.manifest.to_string(), sealed::sha256(text.into_bytes()).unwrap());
    store.remove(&image.id).unwrap();
    assert!(other.verify(&copied.manifest, &FlatReader, &Silent).unwrap().intact());
    assert_eq!((finding_ids(&store), finding_ids(&other)), (vec![], vec![]));
    assert_eq!(other.jobs().unwrap(), []);
}

#[test]
fn damaged_layer_is_not_copied() {
    let (_dir, store) = new_store();
    let (_other_dir, other) = new_store();
    let image = import(&store, "a", &disk(1)).manifest;
    let path = store.layer_path(&image.layers[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[9] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let name = "a".parse().unwrap();
    let error = store.copy_image(&image.id, &other, &name, IfTaken::Refuse, &Silent).unwrap_err();
    match error {
        Error::Refused(Refusal::LayerDiffers { path: told, .. }) => assert_eq!(told, path),
        other => panic!("{other:?}"),
    }
    assert_eq!((titles(&other), finding_ids(&other)), (vec![], vec![]));
}

/// Cancels when so many bytes have gone through.
struct After(std::sync::atomic::AtomicU64, u64);

impl kiln_disk::Observer for After {
    fn event(&self, event: kiln_disk::Event<'_>) {
        if let kiln_disk::Event::Advanced { bytes } = event {
            self.0.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
        }
    }
    fn is_cancelled(&self) -> bool {
        self.0.load(std::sync::atomic::Ordering::Relaxed) >= self.1
    }
}

fn large(seed: u8) -> Vec<u8> {
    (0..5 << 20).map(|n: usize| (n % 253) as u8 ^ seed).collect()
}

#[test]
fn interrupted_copy_is_a_job_that_goes_on_or_is_cleared_away() {
    let (_dir, store) = new_store();
    let (_other_dir, other) = new_store();
    let image = import(&store, "a", &large(1)).manifest;
    let name: NameTag = "a".parse().unwrap();
    let stop = After(0.into(), 2 << 20);
    let error = store.copy_image(&image.id, &other, &name, IfTaken::Refuse, &stop).unwrap_err();
    assert_eq!(error.family(), Family::Cancelled);
    // The next command leaves it where it is.
    let other = Store::open(other.path()).unwrap();
    let jobs = other.jobs().unwrap();
    assert_eq!(jobs.len(), 1);
    assert!(!jobs[0].running && jobs[0].facts.resume.is_some());
    assert_eq!(finding_ids(&other), [""; 0]);
    // Only its own account may go on with it.
    let eve = other.clone().acting_as("eve".parse().unwrap());
    assert_eq!(eve.resume(&jobs[0].id, &Silent).unwrap_err().code(), "store.no-job");
    let part = other.layout.staging().join(&jobs[0].id).join("layer-0.qcow2");
    assert!(std::fs::metadata(&part).unwrap().len() >= 2 << 20);
    let published = other.resume(&jobs[0].id, &Silent).unwrap();
    assert!(other.verify(&published.manifest, &FlatReader, &Silent).unwrap().intact());
    assert_eq!(other.jobs().unwrap(), []);
    assert_eq!(tree(&other.layout.staging()), [""; 0]);

    // Another one, spoiled meanwhile: the damage is seen, and the next try begins anew.
    let second = import(&store, "b", &large(2)).manifest;
    let stop = After(0.into(), 2 << 20);
    let name: NameTag = "b".parse().unwrap();
    store.copy_image(&second.id, &other, &name, IfTaken::Refuse, &stop).unwrap_err();
    let job = other.jobs().unwrap().remove(0);
    let part = other.layout.staging().join(&job.id).join("layer-0.qcow2");
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    assert_eq!(other.resume(&job.id, &Silent).unwrap_err().code(), "store.layer.differs");
    assert_eq!(titles(&other).len(), 1);

    let stop = After(0.into(), 1 << 20);
    store.copy_image(&second.id, &other, &name, IfTaken::Refuse, &stop).unwrap_err();
    let job = other.jobs().unwrap().remove(0);
    other.cancel_job(&job.id).unwrap();
    assert_eq!(other.jobs().unwrap(), []);
    assert_eq!(finding_ids(&other), [""; 0]);
}

#[test]
fn running_job_is_seen_keeps_its_image_and_listens() {
    let (_dir, store) = new_store();
    let image = import(&store, "a", &disk(1)).manifest;
    let job = store.begin_job("test", "something long", vec![image.id.clone()], None).unwrap();
    let watched = job.watched(&Silent);
    use kiln_disk::{Event, Observer};
    watched.event(Event::Started { phase: "copy", total: 100 });
    let seen = store.jobs().unwrap();
    assert_eq!((seen.len(), seen[0].running, seen[0].facts.kind.as_str()), (1, true, "test"));
    assert_eq!(seen[0].progress.as_ref().unwrap().total, 100);
    assert_eq!(store.remove(&image.id).unwrap_err().code(), "rights.busy");
    assert_eq!(store.resume(&seen[0].id, &Silent).unwrap_err().code(), "store.job.not-resumable");
    assert!(!watched.is_cancelled());
    store.cancel_job(&seen[0].id).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(250));
    assert!(watched.is_cancelled());
    drop(job);
    assert_eq!(store.jobs().unwrap(), []);
    store.remove(&image.id).unwrap();
    assert_eq!(store.cancel_job("1-0").unwrap_err().code(), "store.no-job");
}

#[test]
fn scrub_puts_a_damaged_layer_aside_names_its_images_and_an_import_mends_it() {
    let (_dir, store) = new_store();
    let a = import(&store, "a", &disk(1)).manifest;
    import(&store, "b", &disk(1));
    import(&store, "c", &disk(2));
    let options = ScrubOptions { rate: None, part: kiln_disk::digest::Part::WHOLE, quarantine: true };
    let scrubbed = store.scrub(options, &Silent).unwrap();
    assert_eq!((scrubbed.layers, scrubbed.images, scrubbed.damaged.len()), (2, 3, 0));
    assert!(store.image("a").unwrap().record.verified.unwrap().intact);
    let path = store.layer_path(&a.layers[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[77] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let scrubbed = store.scrub(options, &Silent).unwrap();
    assert_eq!(scrubbed.damaged.len(), 1);
    let damage = &scrubbed.damaged[0];
    let mut names: Vec<&str> = damage.images.iter().map(|(_, title)| title.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["a:latest", "b:latest"]);
    assert_eq!(std::fs::read(damage.aside.as_ref().unwrap()).unwrap(), bytes);
    assert!(!path.exists());
    assert!(!store.image("b").unwrap().record.verified.unwrap().intact);
    assert_eq!(finding_ids(&store), ["store.layer.missing"]);
    import(&store, "d", &disk(1));
    assert_eq!(finding_ids(&store), [""; 0]);
    assert!(store.verify(&a, &FlatReader, &Silent).is_ok());
}

#[test]
fn parts_of_a_scrub_and_of_a_verification_make_up_the_whole() {
    let (_dir, store) = new_store();
    let image = import(&store, "a", &large(3)).manifest;
    let path = store.layer_path(&image.layers[0]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[3 << 20] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let part = |n, of| kiln_disk::digest::Part::new(n, of).unwrap();
    let hit: Vec<u64> = (1..=5)
        .filter(|n| !store.verify_part(&image, part(*n, 5), &FlatReader, &Silent).unwrap().intact())
        .collect();
    assert_eq!(hit, [4]);
    let read: u64 = (1..=3)
        .map(|n| {
            let options = ScrubOptions { rate: None, part: part(n, 3), quarantine: false };
            store.scrub(options, &Silent).unwrap().layers
        })
        .sum();
    assert_eq!(read, 1);
    assert_eq!(kiln_disk::digest::Part::new(0, 3), None);
    assert_eq!(kiln_disk::digest::Part::new(4, 3), None);
}

#[test]
fn store_of_version_1_is_brought_over_with_all_that_is_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/store-v1.tar.gz");
    let unpack = || {
        let status =
            std::process::Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(dir.path()).status();
        assert!(status.unwrap().success());
    };
    unpack();
    let path = dir.path().join("store");
    let store = Store::open(&path).unwrap();
    let listed = store.list(&Filter::default()).unwrap();
    let names: Vec<String> = listed.iter().map(|entry| entry.manifest.title()).collect();
    assert_eq!(names, ["debian:12", "web:latest", "web"]);
    assert!(listed.iter().all(Listed::is_own));
    assert_eq!(listed[2].manifest.description, "of version 1");
    assert_eq!(finding_ids(&store), [""; 0]);
    let label = std::fs::read_to_string(path.join("store.json")).unwrap();
    assert!(label.contains("\"kiln.store.v2\"") && label.contains("\"owner\""), "{label}");
    // Images get a record with their first change.
    let web = &listed[1].manifest.id;
    assert!(!store.layout.record(web).exists());
    store.share(web, &["ann".parse().unwrap()]).unwrap();
    assert!(store.layout.record(web).exists());
    let before = store.list(&Filter::default()).unwrap();
    store.rebuild().unwrap();
    assert_eq!(store.list(&Filter::default()).unwrap(), before);

    // The same with its index lost: the store opens, and a rebuild brings everything back.
    std::fs::remove_dir_all(&path).unwrap();
    unpack();
    std::fs::write(path.join("catalog.sqlite"), "no database").unwrap();
    let store = Store::open(&path).unwrap();
    assert_eq!(store.list(&Filter::default()).unwrap_err().code(), "store.index.damaged");
    store.rebuild().unwrap();
    let names: Vec<String> =
        store.list(&Filter::default()).unwrap().iter().map(|entry| entry.manifest.title()).collect();
    assert_eq!(names, ["debian:12", "web:latest", "web"]);
}
