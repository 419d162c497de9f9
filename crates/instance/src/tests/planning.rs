//! What a plan refuses, and what it says.

use std::collections::BTreeSet;
use std::net::TcpListener;

use kiln_catalog::machine::{Forward, MachineFirmware, Network};
use kiln_disk::Silent;

use super::{blank, names_in, new_store, publish, speaking};
use crate::*;

#[test]
fn amounts_that_no_machine_can_have_are_refused_before_anything_is_made() {
    let (_dir, store) = new_store();
    let image = publish(&store, "e", &blank(1 << 20), &[]);
    let with = |change: &dyn Fn(&mut Request)| {
        let mut request = Request::new(image.clone());
        change(&mut request);
        plan(&store, request).map(|_| ()).unwrap_err().code()
    };
    assert_eq!(with(&|r| r.count = 0), "instance.amount");
    assert_eq!(with(&|r| r.count = 1001), "instance.amount");
    assert_eq!(with(&|r| r.cpus = 0), "instance.amount");
    assert_eq!(with(&|r| r.memory_bytes = 1), "instance.amount");
    assert_eq!(with(&|r| r.memory_bytes = u64::MAX), "instance.amount");
    assert_eq!(with(&|r| r.disk_bytes = Some(u64::MAX)), "instance.amount");
    assert_eq!(with(&|r| r.disk_bytes = Some(4096)), "instance.disk.shrink");
    assert_eq!(with(&|r| r.data_disks = vec![DataDiskWish::Empty(0)]), "instance.amount");
    assert_eq!(with(&|r| r.architecture = Some("\x1b[2J".to_owned())), "instance.architecture");
    assert_eq!(with(&|r| r.network = NetworkWish::Tap("a b".to_owned())), "instance.network");
    assert_eq!(with(&|r| r.network = NetworkWish::Tap("x,script=/bin/sh".to_owned())), "instance.network");
    assert_eq!(with(&|r| r.name = Some("ins-x".parse().unwrap())), "instance.name");
    let forwards = |host| NetworkWish::User(vec![Forward { host, guest: 80 }]);
    assert_eq!(with(&|r| r.network = forwards(0)), "instance.network");
    let held = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = held.local_addr().unwrap().port();
    assert_eq!(with(&|r| r.network = forwards(port)), "instance.port");
    assert!(!store.path().join("instances").exists());
    assert_eq!(names_in(&store.path().join("staging")), Vec::<String>::new());
}

#[test]
fn a_damaged_image_is_refused_unless_forced_and_the_finding_is_named() {
    let (_dir, store) = new_store();
    let image = publish(&store, "e", &blank(1 << 20), &["disk.truncated"]);
    let mut request = Request::new(image);
    let error = plan(&store, request.clone()).map(|_| ()).unwrap_err();
    assert_eq!(error.code(), "instance.image.unsound");
    assert!(error.to_string().contains("disk.truncated"), "{error}");
    request.on_unsound = OnUnsound::Force;
    plan(&store, request).unwrap();
}

#[test]
fn fifty_instances_share_nothing_that_must_be_their_own() {
    let (_dir, store) = new_store();
    let image = publish(&store, "e", &blank(1 << 20), &[]);
    let mut request = Request::new(image);
    request.name = Some("web".parse().unwrap());
    request.count = 50;
    request.network = NetworkWish::User(vec![Forward { host: 18_080, guest: 80 }]);
    let plan = plan(&store, request).unwrap();
    let (mut macs, mut uuids, mut ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (number, planned) in plan.instances().iter().enumerate() {
        assert_eq!(planned.name.as_ref().unwrap().as_str(), format!("web-{}", number + 1));
        let machine = &planned.machine;
        macs.insert(machine.nics[0].mac.clone());
        uuids.insert(machine.uuid.clone());
        let Network::User { forwards } = &machine.nics[0].network else { panic!("{machine:?}") };
        assert_eq!(forwards[0].host, 18_080 + u16::try_from(number).unwrap());
        assert_eq!(forwards[1].guest, 22);
        ports.extend(forwards.iter().map(|forward| forward.host));
        assert_eq!((machine.uuid.len(), &machine.uuid[14..15]), (36, "4"));
    }
    assert_eq!((macs.len(), uuids.len(), ports.len()), (50, 50, 100));
}

#[test]
fn a_taken_name_is_refused_and_free_again_after_the_instance_went() {
    let (_dir, store) = new_store();
    let image = publish(&store, "e", &blank(1 << 20), &[]);
    let host = super::running::host(&store);
    let mut request = Request::new(image);
    request.name = Some("web".parse().unwrap());
    let launched = plan(&store, request.clone()).unwrap().run(Start::No, &host, &Silent).unwrap();
    assert_eq!(plan(&store, request.clone()).map(|_| ()).unwrap_err().code(), "instance.name");
    let record = store.instance("web").unwrap();
    assert_eq!(record.id, launched.instances[0].0.id);
    assert_eq!(store.instance(&record.id.as_str()[..8]).unwrap(), record);
    assert_eq!(store.instance("nobody").unwrap_err().code(), "store.no-instance");
    let other = store.clone().acting_as("eve".parse().unwrap());
    assert_eq!(other.instance("web").unwrap_err().code(), "store.no-instance");
    process::destroy(&store, &record, false, &Silent).unwrap();
    assert!(!store.instance_dir(&record.id).exists());
    plan(&store, request).unwrap();
}

#[test]
fn firmware_is_what_the_record_says_else_what_the_disk_shows() {
    let (_dir, store) = new_store();
    let of = |image: &kiln_catalog::Image| {
        let plan = plan(&store, Request::new(image.clone())).unwrap();
        plan.instances()[0].machine.firmware
    };
    assert_eq!(of(&publish(&store, "code", &speaking(1 << 20), &[])), MachineFirmware::Bios);
    let mut image = publish(&store, "blank", &blank(2 << 20), &[]);
    assert_eq!(of(&image), MachineFirmware::Bios);
    image.manifest.boot_mode = Some("uefi".to_owned());
    assert_eq!(of(&image), MachineFirmware::Uefi);
    // A GPT with an EFI system partition and no code for a BIOS.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gpt.raw");
    std::fs::File::create(&path).unwrap().set_len(64 << 20).unwrap();
    let words = ["--clear", "--new=1:2048:65535", "--typecode=1:ef00"];
    let sgdisk = std::process::Command::new("sgdisk").args(words).arg(&path).output().expect("sgdisk");
    assert!(sgdisk.status.success());
    let image = publish(&store, "gpt", &std::fs::read(&path).unwrap(), &[]);
    assert_eq!(of(&image), MachineFirmware::Uefi);
}

#[test]
fn key_files_give_public_keys_and_never_their_text_in_an_error() {
    let good = "# me\n\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ada@home\necdsa-sha2-nistp256 AAAAE2Vj\n";
    assert_eq!(PublicKeys::from_text(good).unwrap().lines().len(), 2);
    for bad in [
        "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n",
        "",
        "ssh-ed25519 c2VjcmV0 x",
        "secret words",
        "ssh-rsa AAAA\u{1b}[31m",
    ] {
        let error = PublicKeys::from_text(bad).unwrap_err();
        assert_eq!(error.code(), "instance.ssh-key");
        assert!(!error.to_string().contains("c2VjcmV0") && !error.to_string().contains("secret"), "{error}");
    }
    assert_eq!(PublicKeys::from_text(&"ssh-rsa AAAA x\n".repeat(65)).unwrap_err().code(), "instance.ssh-key");
}
