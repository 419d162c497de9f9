//! Several threads and processes on one store.

use std::process::{Command, Stdio};

use super::*;

#[test]
fn threads_that_import_different_content_all_get_their_image() {
    let (_dir, store) = new_store();
    std::thread::scope(|scope| {
        for seed in 0..8_u8 {
            let store = &store;
            scope.spawn(move || import(store, &format!("image-{seed}"), &disk(seed)));
        }
    });
    assert_eq!(store.list(&Filter::default()).unwrap().len(), 8);
    assert_eq!(finding_ids(&store), [""; 0]);
}

#[test]
fn of_threads_that_want_one_name_exactly_one_gets_it() {
    let (_dir, store) = new_store();
    let results: Vec<_> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..6_u8)
            .map(|seed| {
                let store = &store;
                scope.spawn(move || add(store, "one", &disk(seed), IfTaken::Refuse))
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    let lost: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).map(Error::code).collect();
    assert_eq!(lost, ["store.name-taken"; 5]);
    assert_eq!(store.list(&Filter::default()).unwrap().len(), 1);
    assert_eq!(finding_ids(&store), [""; 0]);
}

#[test]
fn import_of_a_layer_that_is_being_removed_keeps_a_whole_layer() {
    let (_dir, store) = new_store();
    for round in 0..10 {
        let doomed = import(&store, "doomed", &disk(9)).manifest;
        std::thread::scope(|scope| {
            let name = format!("kept-{round}");
            let remover = &store;
            scope.spawn(move || remover.remove(&doomed.id).unwrap());
            let importer = &store;
            scope.spawn(move || import(importer, &name, &disk(9)));
        });
        let kept = store.find(&format!("kept-{round}")).unwrap();
        let verdict = store.verify(&kept, &FlatReader, &Silent).unwrap();
        assert!(verdict.intact(), "round {round}: {:?}", verdict.findings);
        store.remove(&kept.id).unwrap();
        assert_eq!(titles(&store), [""; 0]);
    }
    assert_eq!(finding_ids(&store), [""; 0]);
}

/// Not a test of its own: one of many processes. Told by its environment what to do.
#[test]
fn busy_child() {
    let Ok(task) = std::env::var("KILN_TEST_BUSY") else { return };
    let (number, path) = task.split_once(' ').unwrap();
    let number: u8 = number.parse().unwrap();
    for round in 0..4_u8 {
        let store = Store::open_or_create(Path::new(path)).unwrap();
        let own = import(&store, &format!("p{number}-{round}"), &disk(number)).manifest;
        import(&store, &format!("shared-{number}-{round}"), &disk(200));
        store.list(&Filter::default()).unwrap();
        if round % 2 == 1 {
            store.remove(&own.id).unwrap();
        }
        if number == 0 {
            store.rebuild().unwrap();
        }
        store.fsck(FsckOptions::default(), &Silent).unwrap();
    }
}

#[test]
fn processes_that_create_import_remove_and_rebuild_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let children: Vec<_> = (0..6)
        .map(|number| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "tests::processes::busy_child", "--nocapture"])
                .env("KILN_TEST_BUSY", format!("{number} {}", path.display()))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{text}");
    }
    let store = Store::open(&path).unwrap();
    let mut expected = Vec::new();
    for number in 0..6 {
        for round in 0..4 {
            expected.push(format!("shared-{number}-{round}:latest"));
            if round % 2 == 0 {
                expected.push(format!("p{number}-{round}:latest"));
            }
        }
    }
    expected.sort();
    let mut found: Vec<_> =
        store.list(&Filter::default()).unwrap().iter().map(|entry| entry.manifest.title()).collect();
    found.sort();
    assert_eq!(found, expected);
    assert_eq!(finding_ids(&store), [""; 0]);
    for entry in store.list(&Filter::default()).unwrap() {
        assert!(store.verify(&entry.manifest, &FlatReader, &Silent).unwrap().intact());
    }
}

#[test]
fn job_of_a_living_process_is_not_swept() {
    let (_dir, store) = new_store();
    let job = store.begin().unwrap();
    let (_, path) = job.create_file("layer.qcow2").unwrap();
    Store::open(store.path()).unwrap();
    assert_eq!(finding_ids(&store), [""; 0]);
    assert!(path.exists());
    let dir = job.dir().to_owned();
    drop(job);
    assert!(!dir.exists());
}

#[test]
fn job_of_a_dead_process_is_swept_by_the_next_command() {
    let (_dir, store) = new_store();
    let dead = store.layout.staging().join("999999-0");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("lock"), "").unwrap();
    std::fs::write(dead.join("layer.qcow2"), vec![1; 4096]).unwrap();
    Store::open(store.path()).unwrap();
    assert!(!dead.exists());
}
