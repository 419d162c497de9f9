//! Rights, sharing and the life of images, through the store.

use std::collections::BTreeMap;

use super::*;
use crate::machine::{DiskRole, Machine, MachineDisk, MachineFirmware};

fn account(name: &str) -> Account {
    name.parse().unwrap()
}

/// The same store for another account.
fn of(store: &Store, name: &str) -> Store {
    store.clone().acting_as(account(name))
}

fn code<T: std::fmt::Debug>(result: Result<T>) -> &'static str {
    result.unwrap_err().code()
}

/// A machine with one disk over an image.
fn machine(image: &Manifest) -> Machine {
    let disk = MachineDisk {
        id: "disk0".to_owned(),
        file: "disk0.qcow2".to_owned(),
        disk_bytes: image.disk_bytes,
        role: DiskRole::Root,
        image: Some(image.id.clone()),
        layers: image.layers.iter().map(|layer| layer.digest.clone()).collect(),
        captured: None,
    };
    Machine {
        architecture: "x86_64".to_owned(),
        cpus: 1,
        memory_bytes: 512 << 20,
        firmware: MachineFirmware::Bios,
        uuid: "00000000-0000-4000-8000-000000000001".to_owned(),
        instance_id: "i-1".to_owned(),
        disks: vec![disk],
        nics: Vec::new(),
        seed: None,
        aside: BTreeMap::new(),
    }
}

#[test]
fn life_of_one_image_from_import_to_its_last_byte() {
    let (_dir, store) = new_store();
    let (ann, ben, eve) = (of(&store, "ann"), of(&store, "ben"), of(&store, "eve"));
    let id = import(&ann, "web:1", &disk(1)).manifest.id;
    let attributes = Attributes {
        description: Some("nginx".to_owned()),
        family: Some(Some("web".parse().unwrap())),
        labels: [("team".to_owned(), Some("shop".to_owned()))].into(),
        ..Attributes::default()
    };
    let image = ann.set_attributes(&id, &attributes).unwrap();
    assert_eq!(
        (image.manifest.description.as_str(), image.record.labels["team"].as_str()),
        ("nginx", "shop")
    );

    // Nobody else sees it before it is shared.
    assert_eq!(code(ben.image("web:1")), "store.not-found");
    assert_eq!(code(ben.image(id.as_str())), "store.not-found");
    assert_eq!(ben.list(&Filter::default()).unwrap(), []);
    ann.share(&id, &[account("ben")]).unwrap();
    let offered = ben.image("web:1").unwrap();
    assert_eq!(offered.relation, Relation::Offered);
    assert_eq!(code(ben.permit(Action::Launch, &offered)), "rights.not-accepted");
    assert_eq!(code(ben.add_instance(&id, None, machine(&image.manifest))), "rights.not-accepted");
    ben.accept(&id).unwrap();
    let received = ben.image("web:1").unwrap();
    assert_eq!((received.relation, received.kind()), (Relation::Receiver, Kind::Shared));
    ben.permit(Action::Launch, &received).unwrap();
    assert_eq!(code(ben.set_attributes(&id, &attributes)), "rights.received");
    assert_eq!(code(ben.share(&id, &[account("eve")])), "rights.received");
    assert_eq!(code(ben.permit(Action::Export, &received)), "rights.received");
    assert_eq!(code(ben.remove(&id)), "rights.received");
    assert_eq!(code(eve.remove(&id)), "store.not-found");

    // Its own owner may not change it now.
    let other = Attributes { description: Some("x".to_owned()), ..Attributes::default() };
    assert_eq!(code(ann.set_attributes(&id, &other)), "rights.shared");
    assert_eq!(code(ann.set_deprecated(&id, true)), "rights.shared");
    assert_eq!(code(ann.tag(&id, &"web:2".parse().unwrap(), IfTaken::Refuse)), "rights.shared");
    assert_eq!(code(ann.remove(&id)), "rights.shared");

    // The receiver's copy is the receiver's, and costs nothing.
    let mine = ben.copy_image(&id, &ben, &"mine".parse().unwrap(), IfTaken::Refuse, &Silent).unwrap();
    assert_eq!(mine.new_bytes, 0);
    let origin = mine.manifest.origin.clone().unwrap();
    assert_eq!((origin.image, origin.owner), (id.clone(), account("ann")));
    assert_eq!(ben.image("mine").unwrap().relation, Relation::Owner);

    // An instance of the receiver keeps the layers, and runs on when the image is revoked.
    let instance = ben.add_instance(&id, Some("i".parse().unwrap()), machine(&image.manifest)).unwrap();
    ann.revoke(&id, &[account("ben")]).unwrap();
    assert_eq!(code(ben.image(id.as_str())), "store.not-found");
    ann.set_deprecated(&id, true).unwrap();
    assert_eq!(ann.image("web:1").unwrap().manifest.state, State::Deprecated);
    assert_eq!(code(ann.share(&id, &[account("ben")])), "rights.deprecated");
    assert_eq!(code(ann.remove(&id)), "rights.in-use");
    ben.drop_instance(&instance.id).unwrap();
    ann.set_protected(&id, true).unwrap();
    assert_eq!(code(ann.remove(&id)), "rights.protected");
    ann.set_protected(&id, false).unwrap();
    let words: Vec<&str> =
        ann.image("web:1").unwrap().record.history.iter().map(|event| event.what.word()).collect();
    assert_eq!(
        words,
        ["published", "changed", "shared", "accepted", "revoked", "deprecated", "protected", "unprotected"]
    );

    // The copy keeps the layer; with it, exactly its bytes go.
    assert_eq!(ann.remove(&id).unwrap().freed_bytes, 0);
    assert_eq!(ben.remove(&mine.manifest.id).unwrap().freed_bytes, 200 << 10);
    assert_eq!(store.collect(false).unwrap(), Collected::default());
    assert_eq!(finding_ids(&store), [""; 0]);
}

#[test]
fn instance_keeps_the_layers_of_an_image_that_is_lost() {
    let (_dir, store) = new_store();
    let a = import(&store, "a", &disk(1)).manifest;
    let instance = store.add_instance(&a.id, None, machine(&a)).unwrap();
    // Only damage can take the image away from under its instance: the rights table keeps everybody else from it.
    let raw = rusqlite::Connection::open(store.layout.index()).unwrap();
    raw.execute_batch(&format!("PRAGMA foreign_keys = ON; DELETE FROM images WHERE id = '{}'", a.id))
        .unwrap();
    drop(raw);
    std::fs::remove_dir_all(store.layout.image(&a.id)).unwrap();
    assert_eq!(store.collect(false).unwrap().layers, []);
    assert!(store.layer_path(&a.layers[0]).exists());
    store.rebuild().unwrap();
    assert_eq!(store.instances().unwrap(), std::slice::from_ref(&instance));
    assert_eq!(finding_ids(&store), [""; 0]);
    store.drop_instance(&instance.id).unwrap();
    assert!(!store.layer_path(&a.layers[0]).exists());
}

#[test]
fn public_needs_sound_checks_and_an_audit_and_is_everyones() {
    let (_dir, store) = new_store();
    let (ann, ben) = (of(&store, "ann"), of(&store, "ben"));
    let id = import(&ann, "base", &disk(1)).manifest.id;
    assert_eq!(code(ann.make_public(&id)), "rights.unaudited");
    ann.audit(&id, "looked at it").unwrap();
    ann.make_public(&id).unwrap();
    let seen = ben.image("base").unwrap();
    assert_eq!((seen.relation, seen.kind()), (Relation::Everyone, Kind::Public));
    for action in [Action::Launch, Action::Copy, Action::Read, Action::Verify] {
        ben.permit(action, &seen).unwrap();
    }
    assert_eq!(code(ben.permit(Action::Export, &seen)), "rights.not-owner");
    assert_eq!(code(ann.remove(&id)), "rights.public");
    assert_eq!(code(ann.share(&id, &[account("ben")])), "rights.public");
    ann.make_private(&id).unwrap();
    assert_eq!(code(ben.image("base")), "store.not-found");

    let job = ann.begin().unwrap();
    let sealed = job.seal(layer(&job, &disk(2)), &Silent).unwrap();
    let mut forced = draft("bad", &disk(2));
    forced.checks.forced = true;
    let bad = job.publish(forced, &[sealed], IfTaken::Refuse, &Silent).unwrap().manifest.id;
    ann.audit(&bad, "looks fine").unwrap();
    assert_eq!(code(ann.make_public(&bad)), "rights.unsound");
}

#[test]
fn names_belong_to_accounts_and_the_own_image_comes_first() {
    let (_dir, store) = new_store();
    let (ann, ben) = (of(&store, "ann"), of(&store, "ben"));
    let a = import(&ann, "web", &disk(1)).manifest;
    let b = import(&ben, "web", &disk(2)).manifest;
    assert_eq!((ann.find("web").unwrap().id, ben.find("web").unwrap().id), (a.id.clone(), b.id.clone()));
    ann.share(&a.id, &[account("ben")]).unwrap();
    assert_eq!(ben.find("web").unwrap().id, b.id);
    assert_eq!(finding_ids(&store), [""; 0]);
    ben.remove(&b.id).unwrap();
    assert_eq!(ben.find("web").unwrap().id, a.id);
}

#[test]
fn knowing_a_digest_or_an_id_shows_nothing() {
    let (_dir, store) = new_store();
    let (ann, eve) = (of(&store, "ann"), of(&store, "eve"));
    let image = import(&ann, "secret", &disk(1)).manifest;
    for query in [
        image.id.to_string(),
        image.id.as_str()[..8].to_owned(),
        image.digests.content.to_string(),
        image.layers[0].digest.to_string(),
        "secret".to_owned(),
        "secret:other".to_owned(),
    ] {
        match eve.image(&query).unwrap_err() {
            Error::Refused(Refusal::NotFound { near, .. }) => assert_eq!(near, [""; 0], "{query}"),
            other => panic!("{query}: {other:?}"),
        }
    }
    // Importing the same content tells nothing either: it is published like any other.
    assert_eq!(import(&eve, "mine", &disk(1)).manifest.layers, image.layers);
}

#[test]
fn quotas_of_images_shares_and_bytes_are_kept() {
    let (_dir, store) = new_store();
    let tight = store.clone().with_quota(Quota { images: 2, shares: 1, bytes: u64::MAX });
    let a = import(&tight, "a", &disk(1)).manifest;
    import(&tight, "b", &disk(2));
    assert_eq!(code(add(&tight, "c", &disk(3), IfTaken::Refuse)), "store.quota");
    tight.share(&a.id, &[account("ann")]).unwrap();
    assert_eq!(code(tight.share(&a.id, &[account("ben")])), "store.quota");
    // What others share takes nothing of one's own quota.
    let ann = of(&tight, "ann");
    import(&ann, "x", &disk(4));
    import(&ann, "y", &disk(5));
    let small = store.clone().with_quota(Quota { bytes: 450 << 10, ..Quota::default() });
    assert_eq!(code(add(&small, "d", &disk(6), IfTaken::Refuse)), "store.quota");
    // The same content again takes no more.
    add(&small, "d", &disk(1), IfTaken::Refuse).unwrap();
    assert_eq!(finding_ids(&store), [""; 0]);
}

#[test]
fn own_account_and_unknown_shares_are_refused() {
    let (_dir, store) = new_store();
    let ann = of(&store, "ann");
    let id = import(&ann, "a", &disk(1)).manifest.id;
    assert_eq!(code(ann.share(&id, &[account("ann")])), "rights.own-account");
    assert_eq!(code(ann.revoke(&id, &[account("ben")])), "rights.not-shared");
    assert_eq!(code(ann.accept(&id)), "rights.nothing-to-accept");
}

#[test]
fn family_gives_the_latest_image_that_is_usable() {
    let (_dir, store) = new_store();
    let family = Attributes { family: Some(Some("web".parse().unwrap())), ..Attributes::default() };
    let ids: Vec<ImageId> = (1..=3)
        .map(|n| {
            let id = import(&store, &format!("web:{n}"), &disk(n)).manifest.id;
            store.set_attributes(&id, &family).unwrap();
            id
        })
        .collect();
    let latest = || store.find("family:web").unwrap().id;
    assert_eq!(latest(), ids[2]);
    store.set_deprecated(&ids[2], true).unwrap();
    assert_eq!(latest(), ids[1]);
    let past = Some(Some("2020-01-01T00:00:00Z".parse().unwrap()));
    store.set_attributes(&ids[1], &Attributes { expires_at: past, ..Attributes::default() }).unwrap();
    assert_eq!(latest(), ids[0]);
    assert_eq!(code(store.permit(Action::Launch, &store.image("web:2").unwrap())), "rights.expired");
    store.remove(&ids[0]).unwrap();
    assert_eq!(code(store.find("family:web")), "store.not-found");
}

#[test]
fn listing_filters_and_sorts_by_every_word() {
    let (_dir, store) = new_store();
    let (ann, ben) = (of(&store, "ann"), of(&store, "ben"));
    let one = import(&ann, "Debian-12:x", &disk(1)).manifest.id;
    let two = import(&ann, "alma:9", &disk(2)).manifest.id;
    let facts = Attributes {
        os: Some("Debian GNU/Linux 12".to_owned()),
        architecture: Some("x86_64".to_owned()),
        boot_mode: Some("uefi".to_owned()),
        family: Some(Some("base".parse().unwrap())),
        ..Attributes::default()
    };
    ann.set_attributes(&one, &facts).unwrap();
    ann.set_deprecated(&two, true).unwrap();
    ann.share(&one, &[account("ben")]).unwrap();
    import(&ben, "own", &disk(3));
    let names = |store: &Store, filter: Filter| -> Vec<String> {
        store.list(&filter).unwrap().iter().map(|entry| entry.manifest.name.to_string()).collect()
    };
    let all = Filter::default;
    let both = ["Debian-12", "alma"];
    assert_eq!(names(&ann, all()), both);
    assert_eq!(names(&ann, Filter { name: Some("DEB".to_owned()), ..all() }), ["Debian-12"]);
    assert_eq!(names(&ann, Filter { os: Some("debian".to_owned()), ..all() }), ["Debian-12"]);
    assert_eq!(names(&ann, Filter { architecture: Some("x86_64".to_owned()), ..all() }), ["Debian-12"]);
    assert_eq!(names(&ann, Filter { boot_mode: Some("bios".to_owned()), ..all() }), [""; 0]);
    assert_eq!(names(&ann, Filter { tag: Some("9".to_owned()), ..all() }), ["alma"]);
    assert_eq!(names(&ann, Filter { states: vec![State::Deprecated], ..all() }), ["alma"]);
    assert_eq!(names(&ann, Filter { family: Some("base".parse().unwrap()), ..all() }), ["Debian-12"]);
    assert_eq!(names(&ben, Filter { kinds: vec![Kind::Shared], ..all() }), ["Debian-12"]);
    assert_eq!(names(&ben, Filter { kinds: vec![Kind::Custom], ..all() }), ["own"]);
    assert_eq!(names(&ben, Filter { owner: Some(account("ann")), ..all() }), ["Debian-12"]);
    assert_eq!(
        names(&ann, Filter { before: Some("2020-01-01T00:00:00Z".parse().unwrap()), ..all() }),
        [""; 0]
    );
    assert_eq!(names(&ann, Filter { patterns: vec!["[Dd]*".to_owned()], ..all() }), [""; 0]);
    for (_, key) in SortKey::WORDS {
        for descending in [false, true] {
            let filter = Filter { sort: vec![Sort { key, descending }], ..all() };
            assert_eq!(names(&ann, filter).len(), 2);
        }
    }
    let newest = Filter { sort: vec![Sort { key: SortKey::Created, descending: true }], ..all() };
    assert_eq!(names(&ann, newest), ["alma", "Debian-12"]);
}

#[test]
fn tag_that_is_taken_is_moved_only_when_asked_and_never_from_a_shared_image() {
    let (_dir, store) = new_store();
    let a = import(&store, "web:1", &disk(1)).manifest;
    let b = import(&store, "web:2", &disk(2)).manifest;
    let name = "web:1".parse().unwrap();
    assert_eq!(code(store.tag(&b.id, &name, IfTaken::Refuse)), "store.name-taken");
    store.share(&a.id, &[account("ann")]).unwrap();
    assert_eq!(code(store.tag(&b.id, &name, IfTaken::MoveTag)), "rights.shared");
    assert_eq!(code(add(&store, "web:1", &disk(3), IfTaken::MoveTag)), "rights.shared");
    store.revoke(&a.id, &[account("ann")]).unwrap();
    let (image, untagged) = store.tag(&b.id, &name, IfTaken::MoveTag).unwrap();
    assert_eq!((image.manifest.title().as_str(), untagged), ("web:1", Some(a.id.clone())));
    assert_eq!(store.find(a.id.as_str()).unwrap().tag, None);
    store.untag(&b.id).unwrap();
    assert_eq!(code(store.find("web:1")), "store.not-found");
    assert_eq!(finding_ids(&store), [""; 0]);
    let before = store.list(&Filter::default()).unwrap();
    store.rebuild().unwrap();
    assert_eq!(store.list(&Filter::default()).unwrap(), before);
}

#[test]
fn record_that_is_damaged_is_told_and_written_again_from_the_index() {
    let (_dir, store) = new_store();
    let id = import(&store, "a", &disk(1)).manifest.id;
    store.set_protected(&id, true).unwrap();
    let path = store.layout.record(&id);
    let sound = std::fs::read(&path).unwrap();
    for at in (0..sound.len()).step_by(97) {
        let mut bytes = sound.clone();
        bytes[at] ^= 4;
        std::fs::write(&path, &bytes).unwrap();
        let found = finding_ids(&store);
        assert_eq!(found.first(), Some(&"store.record.damaged"), "byte {at}: {found:?}");
        let report = store.fsck(FsckOptions { read_data: false, repair: true }, &Silent).unwrap();
        assert_eq!(report.repaired[0].id, "store.record.damaged");
        assert_eq!(std::fs::read(&path).unwrap(), sound);
        assert_eq!(finding_ids(&store), [""; 0]);
    }
}

#[test]
fn hostile_words_are_refused_or_kept_as_they_are() {
    let (_dir, store) = new_store();
    let id = import(&store, "a", &disk(1)).manifest.id;
    let mut strings: Vec<String> = [
        "..",
        "../../etc/passwd",
        "-rf",
        "--help",
        "a\0b",
        "a\nb",
        "\u{202e}gpj",
        "CON",
        "NUL.txt",
        "$(id)",
        "`id`",
        "a;b",
        "'; DROP TABLE images; --",
        "%s%n",
        "{}",
        "<script>",
        "\u{1b}[2J",
        "a/b",
        "~",
        "*",
        "",
    ]
    .map(str::to_owned)
    .into();
    strings.push("x".repeat(4096));
    let mut state = 1_u64;
    while strings.len() < 2000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let len = (state >> 59) as usize;
        let text: String = (0..len)
            .map(|n| char::from_u32(((state >> (n % 40)) & 0x2fff) as u32).unwrap_or('\u{fffd}'))
            .collect();
        strings.push(text);
    }
    let (mut kept, mut refused) = (Vec::new(), 0);
    for text in &strings {
        let codes = [
            text.parse::<NameTag>().err().map(|error| error.code()),
            text.parse::<Account>().err().map(|error| error.code()),
        ];
        for code in codes.into_iter().flatten() {
            assert!(code.starts_with("name."), "{text:?}");
        }
        if record::check_text("label", text, MAX_DESCRIPTION).is_ok() {
            kept.push(text.clone());
        } else if !text.is_empty() {
            refused += 1;
            let labels = [("k".to_owned(), Some(text.clone()))].into();
            let label = Attributes { labels, ..Attributes::default() };
            assert_eq!(code(store.set_attributes(&id, &label)), "name.text", "{text:?}");
        }
        let _ = store.find(text).map_err(|error| {
            let code = error.code();
            assert!(code.starts_with("name.") || code.starts_with("store."), "{text:?} {error}");
        });
        let filter = Filter { patterns: vec![text.clone()], name: Some(text.clone()), ..Filter::default() };
        store.list(&filter).unwrap();
    }
    assert_eq!(strings.len(), 2000);
    assert!(kept.len() > 100 && refused > 100, "{} kept, {refused} refused", kept.len());
    for texts in kept.chunks(MAX_LABELS) {
        let labels = texts.iter().enumerate().map(|(n, text)| (format!("k{n}"), Some(text.clone())));
        let wanted = Attributes { labels: labels.collect(), ..Attributes::default() };
        let image = store.set_attributes(&id, &wanted).unwrap();
        for (n, text) in texts.iter().enumerate() {
            assert_eq!(&image.record.labels[&format!("k{n}")], text);
        }
    }
    // Nothing but the known files came of them, and all of it can be read back.
    assert_eq!(store.find("a").unwrap().id, id);
    assert_eq!(finding_ids(&store), [""; 0]);
    let before = store.list(&Filter::default()).unwrap();
    store.rebuild().unwrap();
    assert_eq!(store.list(&Filter::default()).unwrap(), before);
}
