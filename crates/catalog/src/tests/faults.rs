//! A publication or a removal that fails or dies at any step leaves nothing to be seen.

use std::process::Command;
use std::sync::Mutex;

use super::*;

/// Every step that a publication of one layer over a taken tag passes, in order.
const PUBLISH: [Step; 10] = [
    Step::SyncLayer,
    Step::SyncLayer,
    Step::ReadBack,
    Step::Intent,
    Step::LinkLeaves,
    Step::LinkLayer,
    Step::Manifest,
    Step::Record,
    Step::Commit,
    Step::Acknowledge,
];

/// Every step of a removal.
const REMOVE: [Step; 4] = [Step::Intent, Step::Commit, Step::RemoveManifest, Step::RemoveLayer];

fn failure() -> Error {
    kiln_disk::Error::io("write", "a test", std::io::ErrorKind::StorageFull).into()
}

/// A store whose `nth` step does `act`.
fn at_step(store: &Store, nth: usize, act: fn() -> Result<()>) -> Store {
    let count = Mutex::new(0);
    hooked(store, move |_| {
        let mut count = count.lock().unwrap();
        *count += 1;
        if *count == nth + 1 { act() } else { Ok(()) }
    })
}

#[test]
fn publication_and_removal_pass_the_steps_that_the_tests_break() {
    let (_dir, store) = new_store();
    let old = import(&store, "a", &disk(1)).manifest;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    let watched = hooked(&store, move |step| {
        log.lock().unwrap().push(step);
        Ok(())
    });
    add(&watched, "a", &disk(2), IfTaken::MoveTag).unwrap();
    assert_eq!(std::mem::take(&mut *seen.lock().unwrap()), PUBLISH);
    watched.remove(&old.id).unwrap();
    assert_eq!(*seen.lock().unwrap(), REMOVE);
}

#[test]
fn publication_that_fails_at_any_step_leaves_the_store_as_it_was() {
    // Behind the commit there is nothing left that could fail.
    for (nth, step) in PUBLISH.into_iter().enumerate().take_while(|(_, step)| *step != Step::Acknowledge) {
        let (_dir, store) = new_store();
        import(&store, "a", &disk(1));
        let (files, listing) = (tree(store.path()), titles(&store));
        let error =
            add(&at_step(&store, nth, || Err(failure())), "a", &disk(2), IfTaken::MoveTag).unwrap_err();
        assert_eq!(error.code(), "io.no-space", "step {nth}");
        let left: Vec<_> = tree(store.path()).into_iter().filter(|name| !is_layer_folder(name)).collect();
        let files: Vec<_> = files.into_iter().filter(|name| !is_layer_folder(name)).collect();
        assert_eq!(left, files, "{step:?}");
        assert_eq!(titles(&store), listing, "step {nth}");
        assert_eq!(finding_ids(&store), [""; 0], "step {nth}");
        let again = add(&store, "a", &disk(2), IfTaken::MoveTag).unwrap();
        assert_eq!(store.find("a").unwrap(), again.manifest, "step {nth}");
    }
}

/// `layers/ab`: an empty folder of a layer stays for the next one.
fn is_layer_folder(name: &str) -> bool {
    name.len() == 9 && name.starts_with("layers/")
}

#[test]
fn removal_that_fails_before_its_commit_removes_nothing() {
    for nth in 0..2 {
        let (_dir, store) = new_store();
        let image = import(&store, "a", &disk(1)).manifest;
        let files = tree(store.path());
        let error = at_step(&store, nth, || Err(failure())).remove(&image.id).unwrap_err();
        assert_eq!(error.code(), "io.no-space");
        assert_eq!(tree(store.path()), files, "step {nth}");
        assert_eq!(store.find("a").unwrap(), image);
    }
}

#[test]
fn removal_that_fails_after_its_commit_is_completed_by_the_next_command() {
    for nth in 2..REMOVE.len() {
        let (_dir, store) = new_store();
        let image = import(&store, "a", &disk(1)).manifest;
        at_step(&store, nth, || Err(failure())).remove(&image.id).unwrap_err();
        assert_eq!(store.find("a").unwrap_err().code(), "store.not-found");
        let store = Store::open(store.path()).unwrap();
        let left: Vec<_> = tree(store.path()).into_iter().filter(|name| !is_layer_folder(name)).collect();
        assert_eq!(left, ["images", "layers", "staging", "store.json"], "step {nth}");
        assert_eq!(finding_ids(&store), [""; 0]);
    }
}

/// Not a test of its own: the process that dies. Told by its environment what to do.
#[test]
fn dying_child() {
    let Ok(task) = std::env::var("KILN_TEST_DIES") else { return };
    let mut words = task.split(' ');
    let (what, nth, path) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
    let store = Store::open(Path::new(path)).unwrap();
    let store = at_step(&store, nth.parse().unwrap(), || std::process::abort());
    match what {
        "publish" => drop(add(&store, "a", &disk(2), IfTaken::MoveTag)),
        _ => drop(store.remove(&store.find("a").unwrap().id)),
    }
}

/// Runs a child that aborts at a step; nothing of it, no destructor either, runs after that.
fn die(what: &str, nth: usize, store: &Store) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::faults::dying_child", "--nocapture"])
        .env("KILN_TEST_DIES", format!("{what} {nth} {}", store.path().display()))
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), None, "{what} {nth}: the child was to be killed");
}

#[test]
fn publication_that_dies_at_any_step_is_undone_by_the_next_command() {
    for (nth, step) in PUBLISH.into_iter().enumerate() {
        let (_dir, store) = new_store();
        let old = import(&store, "a", &disk(1)).manifest;
        let files = tree(store.path());
        die("publish", nth, &store);
        assert_ne!(tree(store.path()), files, "the dead left something");
        let store = Store::open(store.path()).unwrap();
        assert_eq!(finding_ids(&store), [""; 0], "{step:?}");
        let found = store.find("a").unwrap();
        if step == Step::Acknowledge {
            // The row was there: the image is, although nobody was told.
            assert_ne!(found.id, old.id);
            assert_eq!(store.find(old.id.as_str()).unwrap().tag, None);
        } else {
            assert_eq!(found, old, "{step:?}");
            let left: Vec<_> = tree(store.path()).into_iter().filter(|name| !is_layer_folder(name)).collect();
            let files: Vec<_> = files.into_iter().filter(|name| !is_layer_folder(name)).collect();
            assert_eq!(left, files, "{step:?}");
        }
        let listing = titles(&store);
        store.rebuild().unwrap();
        assert_eq!(titles(&store), listing, "{step:?}");
        add(&store, "a", &disk(2), IfTaken::MoveTag).unwrap();
        assert_eq!(finding_ids(&store), [""; 0], "{step:?}");
    }
}

#[test]
fn removal_that_dies_at_any_step_is_whole_or_nothing() {
    for (nth, step) in REMOVE.into_iter().enumerate() {
        let (_dir, store) = new_store();
        let image = import(&store, "a", &disk(1)).manifest;
        die("remove", nth, &store);
        let store = Store::open(store.path()).unwrap();
        assert_eq!(finding_ids(&store), [""; 0], "{step:?}");
        match step {
            Step::Intent | Step::Commit => assert_eq!(store.find("a").unwrap(), image),
            _ => assert_eq!(store.find("a").unwrap_err().code(), "store.not-found"),
        }
    }
}

#[test]
fn index_lost_while_a_publication_died_keeps_what_the_manifests_say() {
    let (_dir, store) = new_store();
    let old = import(&store, "a", &disk(1)).manifest;
    // Manifest in place, row not.
    die("publish", PUBLISH.iter().position(|step| *step == Step::Commit).unwrap(), &store);
    std::fs::write(store.layout.index(), "not a database").unwrap();
    let store = Store::open(store.path()).unwrap();
    store.rebuild().unwrap();
    // Nothing is thrown away on the word of an index that cannot be read.
    assert_eq!(store.list(&Filter::default()).unwrap().len(), 2);
    assert!(store.find(old.id.as_str()).is_ok());
    assert_eq!(finding_ids(&store), [""; 0]);
}
