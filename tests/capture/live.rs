//! Machines that run and write.

use std::time::{Duration, Instant};

use kiln_catalog::{Consistency, FoundBy};
use kiln_testkit::fixtures::Fixture;

use super::*;

/// How many captures at random moments.
pub(super) fn captures(few: usize) -> usize {
    std::env::var("KILN_CAPTURES").ok().and_then(|count| count.parse().ok()).unwrap_or(few)
}

/// The micro guest's image of a file system, imported.
pub(super) fn micro(sandbox: &Sandbox, fs: &str) -> Manifest {
    let dir = Fixture::MicroGuest.ensure().unwrap();
    import(sandbox, &dir.join(format!("{fs}.raw")), fs)
}

/// Moments between captures, in milliseconds: the same for the same number.
pub(super) fn moment(number: usize) -> Duration {
    let mixed = (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    Duration::from_millis(mixed % 900)
}

/// The numbers in the file of an ext4 disk, after its journal was replayed: from 1 on without a gap.
pub(super) fn numbers(sandbox: &Sandbox, name: &str) -> u64 {
    let raw = exported(sandbox, name, "look.raw");
    let replayed = sandbox.command("e2fsck").args(["-fy", raw.to_str().unwrap()]).output().unwrap();
    // 1: something was put right, which is what a journal is for.
    assert!(matches!(replayed.status.code(), Some(0 | 1)), "{replayed:?}");
    let found = log_of(sandbox, &raw);
    std::fs::remove_file(raw).unwrap();
    found
}

/// The same without a replay.
fn log_of(sandbox: &Sandbox, raw: &std::path::Path) -> u64 {
    let log = sandbox.tool("debugfs", ["-R", "cat /log", raw.to_str().unwrap()]);
    let mut count = 0;
    for line in log.split_inclusive('\n') {
        match line.strip_suffix('\n').and_then(|line| line.parse::<u64>().ok()) {
            Some(number) => {
                assert_eq!(number, count + 1, "a gap in {log:?}");
                count = number;
            }
            // Written, not synced yet.
            None => assert!(line.trim_matches('\0').len() < 9, "{line:?}"),
        }
    }
    count
}

/// Live captures of the writing guest; answers for each the numbers acknowledged before and behind its start.
fn capture_while_writing(
    sandbox: &Sandbox,
    guest: &mut Guest,
    count: usize,
    words: &[&str],
) -> (u64, Duration) {
    let mut stall = Duration::ZERO;
    let mut held = 0;
    for number in 0..count {
        std::thread::sleep(moment(number));
        let before = guest.acked();
        let name = format!("live{number}");
        let mut command = sandbox.kiln_command(["capture", "vm", "--name", &name, "--json"]);
        command.args(words);
        let child = command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let watched = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| child.wait_with_output().unwrap());
            let (mut last, mut at, mut longest) = (before, Instant::now(), Duration::ZERO);
            while !waiting.is_finished() {
                let acked = guest.acked();
                if acked != last {
                    longest = longest.max(at.elapsed());
                    (last, at) = (acked, Instant::now());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            stall = stall.max(longest);
            waiting.join().unwrap()
        });
        let ran = crate::support::Ran::from(watched).exits(0);
        let after = guest.acked();
        let found = numbers(sandbox, &name);
        let frozen = ran.json("kiln.capture.v1")["frozen_ms"].clone();
        println!(
            "capture {number}: acknowledged {before} before, holds {found}, {after} behind; frozen {frozen} ms"
        );
        assert!(before <= found && found <= after + 1, "{before} <= {found} <= {after}");
        assert!(after > before || number > 0, "the guest went on");
        intact(sandbox, &name);
        held = found;
    }
    assert!(!guest.console().contains("WRITE ERROR"), "the guest was given an error");
    (held, stall)
}

fn random_moments(count: usize) {
    let sandbox = Sandbox::new();
    let image = micro(&sandbox, "ext4");
    let vm = Instance::new(&sandbox, &[&image]);
    let mut guest = vm.start(&sandbox, "kiln.mode=one kiln.fs=ext4 kiln.agent=none");
    guest.wait_for_ack(3);
    let (_, stall) = capture_while_writing(&sandbox, &mut guest, count, &[]);
    println!("{count} of {count} captures hold an unbroken list; longest pause between two ACKs {stall:?}");
    let last = store(&sandbox).find(&format!("live{}", count - 1)).unwrap().provenance.capture.unwrap();
    assert_eq!(last.consistency, Consistency::Crash, "nobody froze it: {}", last.because);
    assert_eq!(last.found_by, FoundBy::Bitmap, "each but the first stands on the one before");
    let before = guest.acked();
    guest.wait_for_ack(before + 2);
    // As it was before the first capture.
    let qmp = nodes(&vm);
    assert!(!qmp.iter().any(|name| name.starts_with("kiln-")), "{qmp:?}");
    guest.kill();
    assert_tidy(&sandbox);
    // The chain of live captures equals a full capture of the stopped disk.
    sandbox.kiln(["capture", "vm", "--name", "off", "-q"]).ok();
    assert_eq!(intact(&sandbox, "off").digests.content.to_string(), vm.full_digest(&sandbox, "full"));
}

/// Names of the nodes in a running QEMU.
pub(super) fn nodes(vm: &Instance) -> Vec<String> {
    let answer = qmp(vm, "query-named-block-nodes", serde_json::json!({ "flat": true }));
    let nodes = answer.as_array().unwrap();
    nodes.iter().map(|node| node["node-name"].as_str().unwrap().to_owned()).collect()
}

/// One command of the machine protocol.
#[allow(clippy::needless_pass_by_value, reason = "written where it is used")]
pub(super) fn qmp(vm: &Instance, command: &str, arguments: serde_json::Value) -> serde_json::Value {
    use std::io::{BufRead, BufReader, Write};
    let socket = std::fs::File::open(&vm.dir).unwrap();
    let path = format!("/proc/self/fd/{}/qmp.sock", std::os::fd::AsRawFd::as_raw_fd(&socket));
    let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    let mut stream = stream;
    let mut say = |message: serde_json::Value| {
        stream.write_all(format!("{message}\n").as_bytes()).unwrap();
        loop {
            let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
            if line.get("return").is_some() || line.get("error").is_some() {
                return line;
            }
        }
    };
    say(serde_json::json!({ "execute": "qmp_capabilities" }));
    say(serde_json::json!({ "execute": command, "arguments": arguments }))["return"].clone()
}

#[test]
fn captures_at_random_moments_hold_what_was_acknowledged() {
    random_moments(captures(3));
}

#[test]
fn frozen_guest_needs_no_journal() {
    let sandbox = Sandbox::new();
    let image = micro(&sandbox, "ext4");
    let vm = Instance::new(&sandbox, &[&image]);
    let mut guest = vm.start(&sandbox, "kiln.mode=one kiln.fs=ext4");
    guest.wait_for_ack(3);
    let before = guest.acked();
    let ran = sandbox.kiln(["capture", "vm", "--name", "frozen", "--quiesce", "require", "--json"]).exits(0);
    let answer = ran.json("kiln.capture.v1");
    println!("{}", sandbox.kiln(["show", "frozen"]).ok());
    assert_eq!(answer["consistency"], "filesystem", "{answer}");
    let acked = guest.acked();
    guest.wait_for_ack(acked + 2);
    let console = guest.console();
    assert!(console.contains("FROZEN 1") && console.contains("THAWED 1"), "{console}");
    let capture = intact(&sandbox, "frozen").provenance.capture.unwrap();
    let freeze = capture.freeze.unwrap();
    assert_eq!((freeze.agent.as_str(), freeze.file_systems), ("micro-1", 1));
    assert!(freeze.milliseconds < 10_000);
    assert_ne!(capture.file_systems[0].state, "needs_recovery");
    // Everything is there without a replay.
    let raw = exported(&sandbox, "frozen", "frozen.raw");
    let found = log_of(&sandbox, &raw);
    assert!(before <= found, "{before} <= {found}");
    assert_tidy(&sandbox);
}

#[test]
fn foreign_qemu_is_captured_by_its_socket() {
    let sandbox = Sandbox::new();
    let image = micro(&sandbox, "ext4");
    let vm = Instance::new(&sandbox, &[&image, &image]);
    let mut guest = vm.start_foreign(&sandbox, "kiln.mode=two kiln.fs=ext4");
    guest.wait_for_ack(3);
    let before = guest.acked();
    let (socket, agent) = (format!("qmp:{}/qmp.sock", vm.dir.display()), vm.dir.join("agent.sock"));
    let words =
        ["capture", &socket, "--agent", agent.to_str().unwrap(), "--name", "other", "--all-disks", "--json"];
    let answer = sandbox.kiln(words).exits(0).json("kiln.capture.v1");
    assert_eq!(answer["consistency"], "filesystem", "{answer}");
    let (a, b) = (numbers(&sandbox, "other"), numbers(&sandbox, "other-disk1"));
    assert!(before <= b && b <= a && a <= b + 1, "{before} {a} {b}");
    let acked = guest.acked();
    guest.wait_for_ack(acked + 2);
    assert!(!nodes(&vm).iter().any(|name| name.starts_with("kiln-")));
    assert_eq!(intact(&sandbox, "other").layers.len(), 1);
    assert_tidy(&sandbox);
}
