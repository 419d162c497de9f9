//! Machines that really run: a sector that speaks, under the QEMU of this host.

use std::time::{Duration, Instant};

use kiln_catalog::machine::{CONSOLE_LOG, DiskRole};
use kiln_catalog::{InstanceRecord, Store};
use kiln_disk::Silent;

use super::{blank, names_in, new_store, publish, speaking};
use crate::process::{self, Stopped};
use crate::rebuild::{self, OldDisk};
use crate::*;

/// This host, translating: what a test needs, whatever KVM does.
pub(super) fn host(_: &Store) -> Host {
    Host::told(command::Accelerator::Tcg, std::env::var_os("PATH").as_deref()).unwrap()
}

fn launch(store: &Store, request: Request) -> InstanceRecord {
    let host = host(store);
    let one = std::num::NonZeroUsize::MIN;
    let mut launched = plan(store, request).unwrap().run(Start::AtATime(one), &host, &Silent).unwrap();
    let (record, started) = launched.instances.remove(0);
    started.unwrap();
    record
}

fn until(what: &str, mut so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn console(store: &Store, record: &InstanceRecord) -> String {
    process::tail(&store.instance_dir(&record.id).join(CONSOLE_LOG), 1 << 20)
}

#[test]
fn the_lock_lives_as_long_as_the_process_and_the_guest_has_its_layers() {
    let (_dir, store) = new_store();
    let image = publish(&store, "s", &speaking(1 << 20), &[]);
    let mut request = Request::new(image);
    request.name = Some("talker".parse().unwrap());
    request.memory_bytes = 64 << 20;
    request.data_disks = vec![DataDiskWish::Empty(3 << 20)];
    let record = launch(&store, request);
    until("the guest's letter", || console(&store, &record).contains('H'));
    assert!(store.instance_running(&record.id).unwrap());
    assert!(store.hold_instance(&record.id).unwrap().is_none());
    let again = process::start(&store, &record, &host(&store)).unwrap_err();
    assert_eq!(again.code(), "instance.running");
    assert_eq!(process::destroy(&store, &record, false, &Silent).unwrap_err().code(), "instance.running");
    assert_eq!(record.machine.disks[1].role, DiskRole::Data);
    let picture = screenshot::take(&store, &record).unwrap();
    assert_eq!(&picture[1..4], b"PNG");

    // QEMU dies without a word: the lock goes with it, and it can be started again.
    let pid = process::pid(&store.instance_dir(&record.id)).unwrap();
    let killed = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(killed.success());
    until("the lock to go", || !store.instance_running(&record.id).unwrap());
    process::start(&store, &record, &host(&store)).unwrap();
    until("the letter of the second run", || console(&store, &record) == "H");
    // The sector knows no power button.
    let how = process::stop(&store, &record, Duration::from_millis(300), &Silent).unwrap();
    assert_eq!(how, Stopped::Quit);
    let how = process::stop(&store, &record, Duration::from_secs(9), &Silent).unwrap();
    assert_eq!(how, Stopped::WasNotRunning);
}

#[test]
fn a_uefi_machine_has_variables_of_its_own() {
    let (_dir, store) = new_store();
    let image = publish(&store, "s", &blank(1 << 20), &[]);
    let mut request = Request::new(image);
    request.firmware = FirmwareWish::Given(kiln_catalog::machine::MachineFirmware::Uefi);
    // Its disk is larger than the layer below.
    request.disk_bytes = Some(5 << 20);
    let record = launch(&store, request);
    let vars = std::fs::read(store.instance_dir(&record.id).join("vars.fd")).unwrap();
    assert!(vars.windows(4).any(|word| word == b"_FVH"), "a firmware volume");
    until("a word of the firmware", || console(&store, &record).contains("Bds"));
    process::destroy(&store, &record, true, &Silent).unwrap();
}

#[test]
fn a_qemu_that_does_not_listen_is_killed() {
    let (_dir, store) = new_store();
    let image = publish(&store, "s", &blank(1 << 20), &[]);
    let record = launch(&store, Request::new(image));
    let pid = process::pid(&store.instance_dir(&record.id)).unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    // Its queues are full: whoever comes now cannot even connect.
    let dir = store.instance_dir(&record.id);
    let tries = (0..64).map(|_| kiln_qemu::socket::connect(&dir, "control.sock", Duration::ZERO));
    let queued: Vec<_> = tries.take_while(Result::is_ok).collect();
    assert!(queued.len() < 64);
    let how = process::stop(&store, &record, Duration::ZERO, &Silent).unwrap();
    assert_eq!(how, Stopped::Killed);
    assert!(!store.instance_running(&record.id).unwrap());
}

#[test]
fn a_machine_that_does_not_start_says_why_and_stays_startable() {
    let (_dir, store) = new_store();
    let image = publish(&store, "s", &blank(1 << 20), &[]);
    let host = host(&store);
    let mut launched = plan(&store, Request::new(image)).unwrap().run(Start::No, &host, &Silent).unwrap();
    let record = launched.instances.remove(0).0;
    let dir = store.instance_dir(&record.id);
    std::fs::rename(dir.join("disk0.qcow2"), dir.join("away")).unwrap();
    let error = process::start(&store, &record, &host).unwrap_err();
    assert_eq!(error.code(), "instance.qemu");
    assert!(error.to_string().contains("disk0.qcow2"), "{error}");
    std::fs::rename(dir.join("away"), dir.join("disk0.qcow2")).unwrap();
    process::start(&store, &record, &host).unwrap();
    process::destroy(&store, &record, true, &Silent).unwrap();
    assert_eq!(names_in(&store.path().join("instances")), Vec::<String>::new());
}

#[test]
fn a_rebuilt_machine_is_the_same_one_on_another_disk_and_can_go_back() {
    let (_dir, store) = new_store();
    let silent = publish(&store, "silent", &blank(1 << 20), &[]);
    let talker = publish(&store, "talker", &speaking(2 << 20), &[]);
    let host = host(&store);
    let mut request = Request::new(silent.clone());
    request.data_disks = vec![DataDiskWish::Empty(1 << 20)];
    let mut launched = plan(&store, request).unwrap().run(Start::No, &host, &Silent).unwrap();
    let before = launched.instances.remove(0).0;

    let after = rebuild::rebuild(&store, &before, &talker, OldDisk::Aside, OnUnsound::Refuse).unwrap();
    assert_eq!(after.image, talker.manifest.id);
    assert_eq!(after.machine.disks[0].disk_bytes, 2 << 20);
    assert_eq!(after.machine.aside["disk0"], before.machine.disks[0]);
    assert_eq!(after.machine.disks[1], before.machine.disks[1]);
    assert_eq!((&after.machine.uuid, &after.machine.nics), (&before.machine.uuid, &before.machine.nics));
    assert_eq!(after.machine.instance_id, before.machine.instance_id);
    // Both images are held: one by the disk, one by the disk that is aside.
    assert_eq!(after.layers.len(), 2);
    process::start(&store, &after, &host).unwrap();
    until("the other disk's letter", || console(&store, &after) == "H");
    let running = rebuild::rebuild(&store, &after, &talker, OldDisk::Discard, OnUnsound::Refuse).unwrap_err();
    assert_eq!(running.code(), "instance.running");
    process::stop(&store, &after, Duration::ZERO, &Silent).unwrap();

    let back = rebuild::undo(&store, &after).unwrap();
    assert_eq!(back.machine, before.machine);
    assert_eq!(rebuild::undo(&store, &back).unwrap_err().code(), "instance.nothing-aside");
    let disks = |record: &InstanceRecord| -> Vec<String> {
        let names = names_in(&store.instance_dir(&record.id));
        names.into_iter().filter(|name| name.ends_with(".qcow2")).collect()
    };
    assert_eq!(disks(&back), ["disk0.qcow2", "disk1.qcow2"]);

    let gone = rebuild::rebuild(&store, &back, &talker, OldDisk::Discard, OnUnsound::Refuse).unwrap();
    assert!(gone.machine.aside.is_empty());
    assert_eq!(disks(&gone), ["disk0-2.qcow2", "disk1.qcow2"]);
}

#[test]
fn what_breaks_off_before_the_commit_leaves_no_instance() {
    let (_dir, store) = new_store();
    let image = publish(&store, "s", &blank(1 << 20), &[]);
    let mut request = Request::new(image);
    request.count = 3;
    let plan = plan(&store, request).unwrap();
    let cancelled = kiln_disk::CancelFlag::default();
    cancelled.cancel();
    let error = plan.run(Start::No, &host(&store), &cancelled).unwrap_err();
    assert_eq!(error.code(), "cancelled");
    assert_eq!(store.instances().unwrap(), Vec::new());
    assert_eq!(names_in(&store.path().join("staging")), Vec::<String>::new());
}
