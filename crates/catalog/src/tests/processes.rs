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

/// Not a test of its own: one of a storm of processes, some of which are killed.
#[test]
fn storm_child() {
    let Ok(task) = std::env::var("KILN_TEST_STORM") else { return };
    let (number, path) = task.split_once(' ').unwrap();
    let number: u8 = number.parse().unwrap();
    let fine = |error: &Error| {
        let code = error.code();
        assert!(
            code.starts_with("rights.") || matches!(code, "store.not-found" | "store.name-taken"),
            "process {number}: {code}: {error}"
        );
    };
    for round in 0..3_u8 {
        let store = Store::open_or_create(Path::new(path)).unwrap();
        // A few contents only, so that layers are shared and lost by several processes at once.
        let content = disk((number + round) % 5);
        let own = add(&store, &format!("p{number}:{round}"), &content, IfTaken::MoveTag).unwrap().manifest;
        let _ = add(&store, "hot:1", &content, IfTaken::MoveTag).map_err(|error| fine(&error));
        let _ = store.share(&own.id, &["ann".parse().unwrap()]).map_err(|error| fine(&error));
        let _ =
            store.tag(&own.id, &"warm:1".parse().unwrap(), IfTaken::MoveTag).map_err(|error| fine(&error));
        let _ = store.collect(false).map_err(|error| fine(&error));
        let _ = store.revoke(&own.id, &["ann".parse().unwrap()]).map_err(|error| fine(&error));
        if round % 2 == 0 {
            let _ = store.remove(&own.id).map_err(|error| fine(&error));
        }
        store.list(&Filter::default()).unwrap();
    }
}

fn child_of(test: &str, variable: &str, task: String) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("tests::processes::{test}"), "--nocapture"])
        .env(variable, task)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn sixteen_processes_at_once_a_tenth_of_them_killed_leave_a_sound_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    Store::open_or_create(&path).unwrap();
    let mut children: Vec<_> = (0..16)
        .map(|number| child_of("storm_child", "KILN_TEST_STORM", format!("{number} {}", path.display())))
        .collect();
    let mut killed = 0;
    for number in [3, 11] {
        std::thread::sleep(std::time::Duration::from_millis(150 + 90 * number as u64));
        children[number].kill().unwrap();
        killed += 1;
    }
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        let spared = ![3, 11].contains(&number);
        assert!(!spared || output.status.success(), "process {number}: {text}");
        assert!(!text.contains("database is locked"), "{text}");
    }
    let store = Store::open(&path).unwrap();
    assert_eq!(finding_ids(&store), [""; 0]);
    let listed = store.list(&Filter::default()).unwrap();
    for entry in &listed {
        assert!(store.verify(&entry.manifest, &FlatReader, &Silent).unwrap().intact());
    }
    store.rebuild().unwrap();
    assert_eq!(store.list(&Filter::default()).unwrap(), listed);
    println!("16 processes, {killed} killed: {} images, all sound", listed.len());
}

/// Not a test of its own: one of many processes that import the same.
#[test]
fn same_child() {
    let Ok(task) = std::env::var("KILN_TEST_SAME") else { return };
    let (number, path) = task.split_once(' ').unwrap();
    let store = Store::open_or_create(Path::new(path)).unwrap();
    import(&store, &format!("same-{number}"), &disk(77));
}

#[test]
fn same_content_imported_by_32_processes_at_once_is_one_layer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let children: Vec<_> = (0..32)
        .map(|number| child_of("same_child", "KILN_TEST_SAME", format!("{number} {}", path.display())))
        .collect();
    for child in children {
        assert!(child.wait_with_output().unwrap().status.success());
    }
    let store = Store::open(&path).unwrap();
    let listed = store.list(&Filter::default()).unwrap();
    let layers: std::collections::BTreeSet<_> =
        listed.iter().map(|entry| entry.manifest.layers[0].digest.clone()).collect();
    assert_eq!((listed.len(), layers.len()), (32, 1));
    assert_eq!(finding_ids(&store), [""; 0]);
}
