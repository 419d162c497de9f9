//! What goes wrong while a running machine is captured, and what must not: the guest is never stopped or given an
//! error, it is thawed, nothing half-made is visible, nothing is left in QEMU, and the next capture works.
//!
//! A sample runs with every test; every step and every call with `make torture` (`KILN_TORTURE=whole`).

mod bench;

use std::ffi::OsStr;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kiln_snapshot::{Quiesce, Sabotage};
use kiln_testkit::between::{Between, Deed};
use kiln_testkit::fault::{Children, Fault, run_with};

use self::bench::{BREATH, Bench, Mount, overwrite};
use super::live::{moment, qmp};
use super::*;
use crate::torture::{points, whole};

/// No space left on device; input/output error.
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

const WRITING: &str = "kiln.mode=one kiln.fs=ext4";

/// Faults, one after the other under one guest: it, the store and QEMU are as they were after each.
fn under_faults(faults: &[fn(&mut Bench)]) {
    let mut bench = Bench::new(&format!("{WRITING} kiln.agent=none"));
    for fault in faults {
        fault(&mut bench);
    }
    bench.assert_chain_is_the_disk();
    println!("{}", bench.counts());
}

#[test]
fn faults_of_the_place_for_the_copies_leave_all_as_it_was() {
    under_faults(&[broken_targets, full_target, stalled_target]);
}

#[test]
fn cuts_of_what_is_said_and_read_leave_all_as_it_was() {
    under_faults(&[cut_conversations, cut_reading]);
}

#[test]
fn faults_of_the_store_and_death_leave_all_as_it_was() {
    under_faults(&[failing_store, killed_with_its_watchdog]);
}

/// Every copy before a write fails.
fn broken_targets(bench: &mut Bench) {
    for (kind, errno) in [("target full", ENOSPC), ("target EIO", EIO)] {
        let mut request = bench.request("broken");
        request.sabotage.broken_copy = Some(errno);
        let error = bench.capture(request, || overwrite(&bench.guest, 40)).unwrap_err();
        assert_eq!(error.code(), "capture.lost", "{kind}: {error}");
        bench.assert_recovered(kind, &error.to_string());
    }
}

/// A real one, filled to the last byte when QEMU has opened its file: behind the look at the room that there is.
fn full_target(bench: &mut Bench) {
    let target = Mount::new(&bench.sandbox, "small", &["-t", "tmpfs", "-o", "size=80m", "none"]);
    let mut request = bench.request("full");
    request.scratch = Some(target.dir.clone());
    let filler = target.dir.join("filler");
    let open = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", bench.guest.pid())).unwrap();
        let mut targets = files.filter_map(|file| std::fs::read_link(file.ok()?.path()).ok());
        targets.any(|target| target.ends_with("fleece0.raw"))
    };
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            let began = Instant::now();
            while !open() && began.elapsed() < Duration::from_secs(60) {
                std::thread::yield_now();
            }
            let mut file = std::fs::File::create(&filler).unwrap();
            while file.write_all(&[1; 65_536]).is_ok() {}
        });
        bench.capture(request, || overwrite(&bench.guest, 40)).unwrap_err()
    });
    assert_eq!(error.code(), "capture.lost", "{error}");
    assert_eq!(crate::support::names_in(&target.dir), ["filler"], "the scratch folder was taken away");
    bench.assert_recovered("tmpfs full", &error.to_string());
    // Too little room from the start is seen before anything is done.
    let words = ["capture", "vm", "--name", "no", "--scratch", target.dir.to_str().unwrap(), "--json"];
    assert_eq!(bench.sandbox.kiln(words).exits(3).error()["code"], "capture.space");
}

/// A file system that answers nothing for a while: copies hang in QEMU and cannot be taken back.
fn stalled_target(bench: &mut Bench) {
    let stall = Duration::from_secs(if whole() { 60 } else { 12 });
    let image = bench.sandbox.path("stall.img");
    std::fs::File::create(&image).unwrap().set_len(160 << 20).unwrap();
    bench.sandbox.tool("mke2fs", ["-q", "-F", "-t", "ext4", image.to_str().unwrap()]);
    let target = Mount::new(&bench.sandbox, "stall", &["-o", "loop", image.to_str().unwrap()]);
    let mut request = bench.request("stalled");
    request.scratch = Some(target.dir.clone());
    let freeze = |how: &str| {
        let done = std::process::Command::new("fsfreeze").arg(how).arg(&target.dir).status().unwrap();
        assert!(done.success());
    };
    let (longest, began) = (Mutex::new(Duration::ZERO), Instant::now());
    let error = std::thread::scope(|scope| {
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let (guest, longest) = (&bench.guest, &longest);
        let watch = move || {
            let (mut last, mut at) = (guest.acked(), Instant::now());
            let pause = |at: Instant| {
                let mut longest = longest.lock().unwrap();
                *longest = (*longest).max(at.elapsed());
            };
            while end.recv_timeout(Duration::from_millis(20)).is_err_and(|error| error == TIMEOUT) {
                if guest.acked() != last {
                    pause(at);
                    (last, at) = (guest.acked(), Instant::now());
                }
            }
            pause(at);
        };
        let error = bench
            .capture(request, || {
                scope.spawn(watch);
                freeze("--freeze");
                scope.spawn(|| {
                    std::thread::sleep(stall);
                    freeze("--unfreeze");
                });
                // What lies in clusters that were copied before is written on without a copy, so that some ACKs come at
                // once: the point in time is lost when the guest goes on after it waited for a copy.
                while *longest.lock().unwrap() < Duration::from_secs(4) && began.elapsed() < BREATH {
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
            .map(|outcome| outcome.elapsed)
            .unwrap_err();
        drop(ended);
        error
    });
    let longest = longest.into_inner().unwrap();
    assert_eq!(error.code(), "capture.lost", "{error}");
    // It ends when the target answers, and the guest does not wait for that.
    assert!(began.elapsed() >= stall, "{:?}", began.elapsed());
    assert!(longest < stall - Duration::from_secs(2), "the guest stood still for {longest:?}");
    println!("target stalled for {stall:?}: longest pause between two ACKs {longest:?}");
    bench.assert_recovered("target stalled", &error.to_string());
}

const TIMEOUT: std::sync::mpsc::RecvTimeoutError = std::sync::mpsc::RecvTimeoutError::Timeout;

/// The conversation with QEMU ends before or behind any command.
fn cut_conversations(bench: &mut Bench) {
    let between = Between::step(&bench.vm.dir, Deed::Watch).unwrap();
    bench.tried("watched", "nothing goes wrong").exits(0);
    let commands = between.commands();
    drop(between);
    let total = u64::try_from(commands.len()).unwrap();
    assert!(total > 20, "{commands:?}");
    let cuts: [fn(u64) -> Deed; 2] = [Deed::CutBefore, Deed::CutBehind];
    let mut done = 0;
    for (number, at) in points(total, 6).into_iter().enumerate() {
        // One way or the other; both when all is asked for.
        for cut in cuts.iter().skip(if whole() { 0 } else { number % 2 }).take(if whole() { 2 } else { 1 }) {
            let deed = cut(at);
            let about = format!("{deed:?} of {total} ({})", commands[number_of(at)]);
            let between = Between::step(&bench.vm.dir, deed).unwrap();
            let ran = bench.tried(&format!("cut-{number}-{done}"), &about);
            done += 1;
            // One capture asks a few times more often than another.
            let kind = if between.has_struck() { "QMP cut" } else { "over before the cut" };
            drop(between);
            bench.assert_recovered(kind, &format!("{about}: {}", ran.stderr));
        }
    }
    println!("QMP cut at {done} of {total} commands");
}

fn number_of(at: u64) -> usize {
    usize::try_from(at - 1).unwrap()
}

/// The connections over which the disk is read end in the middle.
fn cut_reading(bench: &mut Bench) {
    for at in [40, 5_000, 300_000].into_iter().chain(if whole() { 1..20 } else { 1..1 }.map(|n| n * 20_000)) {
        let between = Between::step(&bench.vm.dir, Deed::CutReading(at)).unwrap();
        let name = format!("nbd-{at}");
        let ran = bench.tried(&name, "NBD cut");
        let (struck, read) = (between.has_struck(), between.bytes_read());
        drop(between);
        // A capture may be over earlier.
        assert_eq!(struck, ran.code != Some(0), "after {at} of {read} bytes: {ran:?}");
        if struck && at > 1000 {
            assert_eq!(ran.error()["code"], "capture.lost", "after {at} of {read} bytes");
        }
        bench.assert_recovered("NBD cut", &format!("after {at} of {read} bytes: {}", ran.stderr));
    }
}

fn traced(bench: &Bench, name: &str, fault: Fault) -> kiln_testkit::fault::Ended {
    let words = ["capture", "vm", "--name", name, "--threads", "1", "-q"].map(OsStr::new);
    let shell = bench.sandbox.command("/bin/sh");
    run_with(shell, OsStr::new(env!("CARGO_BIN_EXE_kiln")), &words, fault, Children::Free)
}

/// What is said of a fault, and the fault at a call.
type Blow = (&'static str, fn(u64) -> Fault);

/// The capture's own files cannot be written.
fn failing_store(bench: &mut Bench) {
    let clean = traced(bench, "counted", Fault::None);
    assert_eq!(clean.code, Some(0));
    bench.images += 1;
    let faults: [Blow; 2] =
        [("store full", |at| Fault::FailFrom(at, ENOSPC)), ("store EIO", |at| Fault::FailAt(at, EIO))];
    for (kind, fault) in faults {
        for at in points(clean.calls, 2) {
            let name = format!("failing-{}-{at}", kind.len());
            let ended = traced(bench, &name, fault(at));
            let about = format!("{kind} at call {at} of {} ({:?})", clean.calls, ended.struck);
            let there = store(&bench.sandbox).find(&name).is_ok();
            assert!(ended.code != Some(0) || there, "{about}: acknowledged, and not there");
            bench.images += usize::from(there);
            bench.assert_recovered(kind, &about);
        }
    }
}

/// Nobody is left to clear up but the next capture.
fn killed_with_its_watchdog(bench: &mut Bench) {
    for number in 0..if whole() { 20 } else { 2 } {
        let name = format!("dead{number}");
        let words = ["capture", "vm", "--name", &name, "--quiesce", "none", "-q"];
        let mut child = bench.sandbox.kiln_command(words).spawn().unwrap();
        std::thread::sleep(moment(number) / 2 + Duration::from_millis(50));
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let watchdog = std::fs::read_to_string(children).unwrap_or_default();
        for id in watchdog.split_whitespace() {
            let _ = std::process::Command::new("kill").args(["-9", id]).status();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        bench.images += usize::from(store(&bench.sandbox).find(&name).is_ok());
        bench.assert_next_works(&name);
        assert_eq!(bench.disturbances(), Vec::<String>::new(), "{name}");
        bench.count("killed with its watchdog");
    }
}

/// With an agent, so that the guest stands still at some of the calls.
#[test]
fn capture_that_is_killed_at_any_call_is_cleared_up_by_its_watchdog() {
    let mut bench = Bench::new(WRITING);
    let clean = traced(&bench, "counted", Fault::None);
    assert_eq!(clean.code, Some(0));
    bench.images += 1;
    assert!(clean.calls > 100, "{}", clean.calls);
    let mut published = 0;
    for at in points(clean.calls, 7) {
        let name = format!("killed{at}");
        let ended = traced(&bench, &name, Fault::KillAt(at));
        let about = format!("killed at call {at} of {} ({:?})", clean.calls, ended.struck);
        if store(&bench.sandbox).find(&name).is_ok() {
            intact(&bench.sandbox, &name);
            bench.images += 1;
            published += 1;
        }
        bench.assert_recovered("killed", &about);
        let console = bench.guest.console();
        let count = |word: &str| console.lines().filter(|line| line.starts_with(word)).count();
        assert!(count("THAWED") >= count("FROZEN"), "{about}: {console}");
    }
    bench.assert_chain_is_the_disk();
    println!(
        "of {} I/O calls of a capture, {published} images behind their publication; {}",
        clean.calls,
        bench.counts()
    );
}

#[test]
fn machine_that_is_killed_at_any_command_leaves_nothing_visible() {
    let idle = "kiln.mode=idle kiln.agent=none";
    let mut bench = Bench::new(idle);
    let connectable = |bench: &Bench| {
        let began = Instant::now();
        while !bench.vm.dir.join("qmp.sock").exists() && began.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    connectable(&bench);
    let between = Between::step(&bench.vm.dir, Deed::Watch).unwrap();
    bench.tried("watched", "nothing goes wrong").exits(0);
    let commands = between.commands();
    drop(between);
    let total = u64::try_from(commands.len()).unwrap();
    let mut killed = 0;
    for at in points(total, 5) {
        bench.guest.kill();
        bench.vm.qemu_io(&bench.sandbox, &[format!("write -P {} {}M 64k", at % 250 + 1, at % 60)]);
        bench.guest = bench.vm.start(&bench.sandbox, idle);
        connectable(&bench);
        let between = Between::step(&bench.vm.dir, Deed::Kill(at, bench.guest.pid())).unwrap();
        let about = format!("QEMU killed at command {at} of {total} ({})", commands[number_of(at)]);
        let ran = bench.tried(&format!("killed{at}"), &about);
        killed += usize::from(between.has_struck());
        drop(between);
        bench.guest.kill();
        bench.sandbox.kiln(["store", "fsck"]).ok();
        assert_eq!(
            store(&bench.sandbox).everything().unwrap().len(),
            bench.images,
            "{about}: {}",
            ran.stderr
        );
        // Its disk is as after a power cut, and can be captured.
        let name = format!("after{at}");
        bench.sandbox.kiln(["capture", "vm", "--name", &name, "-q"]).ok();
        let digest = intact(&bench.sandbox, &name).digests.content.to_string();
        assert_eq!(digest, bench.vm.full_digest(&bench.sandbox, &format!("full{at}")), "{about}");
        bench.images = store(&bench.sandbox).everything().unwrap().len();
    }
    assert_tidy(&bench.sandbox);
    println!(
        "QEMU killed at {killed} of {total} commands: nothing visible, the stopped disk can be captured"
    );
}

/// The checks find the faults that they are for: a copy that takes the guest with it when it cannot be made.
#[test]
fn planted_copies_that_the_guest_pays_for_fail_the_checks() {
    // This capture itself, with a filter that is not told to give up the point in time.
    let mut bench = Bench::new(&format!("{WRITING} kiln.agent=none"));
    bench.breath = Duration::from_secs(5);
    let mut request = bench.request("planted");
    request.sabotage = Sabotage { broken_copy: Some(ENOSPC), guest_pays: true };
    let dir = bench.vm.dir.clone();
    let began = Instant::now();
    let ended = bench.capture(request, move || {
        let acks = || std::fs::read_to_string(dir.join("console.log")).unwrap_or_default();
        while !acks().contains("WRITE ERROR") && began.elapsed() < Duration::from_secs(8) {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let found = bench.disturbances();
    println!("planted filter: {:?}, {found:?}", ended.map(|_| "captured").map_err(|error| error.to_string()));
    assert!(!found.is_empty(), "a guest that paid for its capture was not noticed");
    drop(bench);

    // What other programs do: a backup job.
    let mut bench = Bench::new(&format!("{WRITING} kiln.agent=none"));
    bench.breath = Duration::from_secs(5);
    let target = serde_json::json!({ "driver": "blkdebug", "node-name": "full",
        "image": { "driver": "null-co", "size": 64 << 20, "read-zeroes": true },
        "inject-error": [{ "event": "none", "iotype": "write", "errno": ENOSPC }] });
    qmp(&bench.vm, "blockdev-add", target);
    let backup =
        serde_json::json!({ "job-id": "plain", "device": "disk0-overlay", "target": "full", "sync": "none" });
    qmp(&bench.vm, "blockdev-backup", backup);
    std::thread::sleep(Duration::from_secs(3));
    let found = bench.disturbances();
    println!("planted backup: {found:?}");
    assert!(found.iter().any(|one| one.contains("guest")), "a backup's harm was not noticed: {found:?}");
}

#[test]
fn agent_that_cannot_be_trusted_gives_a_crash_consistent_image_that_says_so() {
    for agent in ["silent", "garbage", "huge", "late"] {
        let mut bench = Bench::new(&format!("{WRITING} kiln.agent={agent}"));
        let words = ["capture", "vm", "--name", "no", "--quiesce", "require", "--timeout", "2", "--json"];
        let error = bench.sandbox.kiln(words).exits(1).error();
        assert_eq!(error["code"], "capture.not-quiesced", "{agent}: {error}");
        assert_eq!(bench.disturbances(), Vec::<String>::new(), "{agent}");
        let mut request = bench.request("auto");
        request.quiesce = Quiesce::Auto;
        request.freeze_limit = Duration::from_secs(2);
        bench.capture(request, || {}).unwrap();
        bench.images += 1;
        let capture = intact(&bench.sandbox, "auto").provenance.capture.unwrap();
        println!("{agent}: {} ({})", capture.consistency.word(), capture.because);
        assert_eq!(capture.consistency, kiln_catalog::Consistency::Crash, "{agent}");
        assert!(!capture.because.is_empty());
        assert_eq!(bench.disturbances(), Vec::<String>::new(), "{agent}");
    }
}
