//! What goes wrong while a running machine is captured, and what must not: the guest is never stopped or given an
//! error, it is thawed, nothing half-made is visible, nothing is left in QEMU, and the next capture works.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use kiln_disk::{Event, Observer, Silent};
use kiln_snapshot::{Error, Outcome, Quiesce, Request, Subject, plan};

use super::live::{captures, micro, moment, nodes, numbers, qmp};
use super::*;

/// Does something when a phase of the work begins, once.
struct At<'a> {
    phase: &'static str,
    act: Mutex<Option<Box<dyn FnOnce() + Send + 'a>>>,
}

impl Observer for At<'_> {
    fn event(&self, event: Event<'_>) {
        if let Event::Started { phase, .. } = event
            && phase == self.phase
            && let Some(act) = self.act.lock().unwrap().take()
        {
            act();
        }
    }
}

/// A writing guest, and what it was before.
struct Bench {
    sandbox: Sandbox,
    vm: Instance,
    guest: Guest,
    images: usize,
}

impl Bench {
    fn new(words: &str) -> Self {
        let sandbox = Sandbox::new();
        let image = micro(&sandbox, "ext4");
        let vm = Instance::new(&sandbox, &[&image]);
        let mut guest = vm.start(&sandbox, &format!("kiln.mode=one kiln.fs=ext4 {words}"));
        guest.wait_for_ack(3);
        let images = store(&sandbox).everything().unwrap().len();
        Self { sandbox, vm, guest, images }
    }

    fn request(&self, name: &str) -> Request {
        let mut request = Request::new(name.parse().unwrap());
        request.watchdog = Some(vec![env!("CARGO_BIN_EXE_kiln").to_owned(), "watch-capture".to_owned()]);
        request
    }

    /// Captures through the library, acting when the layer begins to be written: the point in time is behind.
    fn capture(&self, request: Request, act: impl FnOnce() + Send) -> Result<Outcome, Error> {
        let store = store(&self.sandbox);
        let subject = Subject::Instance(Box::new(store.instance("vm").unwrap()));
        let observer = At { phase: "convert", act: Mutex::new(Some(Box::new(act))) };
        plan(&store, subject, request, &Silent)?.run(&observer)
    }

    /// The guest writes on and was given no error; QEMU is as it was; nothing is visible.
    fn assert_undisturbed(&mut self, what: &str) {
        let acked = self.guest.acked();
        self.guest.wait_for_ack(acked + 3);
        let console = self.guest.console();
        assert!(!console.contains("WRITE ERROR"), "{what}: the guest was given an error");
        let began = Instant::now();
        let ours =
            || nodes(&self.vm).into_iter().filter(|name| name.starts_with("kiln-")).collect::<Vec<_>>();
        while !ours().is_empty() && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(ours(), Vec::<String>::new(), "{what}");
        let exports = qmp(&self.vm, "query-block-exports", serde_json::json!({}));
        assert_eq!(exports.as_array().map(Vec::len), Some(0), "{what}");
        let status = qmp(&self.vm, "query-status", serde_json::json!({}));
        assert_eq!(status["status"], "running", "{what}");
        assert_eq!(store(&self.sandbox).everything().unwrap().len(), self.images, "{what}");
    }

    /// The next capture works.
    fn assert_next_works(&mut self, name: &str) {
        let before = self.guest.acked();
        self.sandbox.kiln(["capture", "vm", "--name", name, "-q"]).ok();
        intact(&self.sandbox, name);
        let found = numbers(&self.sandbox, name);
        assert!(before <= found, "{before} <= {found}");
        self.images += 1;
    }
}

#[test]
fn full_and_failing_target_cost_the_capture_and_not_the_guest() {
    let mut bench = Bench::new("kiln.agent=none");
    for (what, errno) in [("target full", 28), ("target EIO", 5)] {
        let mut request = bench.request("broken");
        request.broken_fleece = Some(errno);
        let dir = bench.vm.dir.clone();
        let error = bench
            .capture(request, move || {
                // The guest overwrites something: it cannot be copied first.
                let began = Instant::now();
                let acks = || {
                    std::fs::read_to_string(dir.join("console.log"))
                        .unwrap_or_default()
                        .matches("ACK ")
                        .count() as u64
                };
                // From here on: what it wrote before the point in time keeps nothing from being copied.
                let acked = acks();
                while acks() < acked + 15 && began.elapsed() < Duration::from_secs(60) {
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
            .unwrap_err();
        println!("{what}: {error}");
        assert_eq!(error.code(), "capture.lost", "{what}: {error}");
        bench.assert_undisturbed(what);
    }
    bench.assert_next_works("next");
    println!("2 of 2 failing targets: the guest went on, nothing was left, the next capture works");
}

/// The same check finds the fault that it is for: a plain backup to a full target stops the guest or gives it an error.
#[test]
fn planted_plain_backup_fails_the_check() {
    let bench = Bench::new("kiln.agent=none");
    let target = serde_json::json!({ "driver": "blkdebug", "node-name": "full",
        "image": { "driver": "null-co", "size": 64 << 20, "read-zeroes": true },
        "inject-error": [{ "event": "none", "iotype": "write", "errno": 28 }] });
    qmp(&bench.vm, "blockdev-add", target);
    let backup =
        serde_json::json!({ "job-id": "plain", "device": "disk0-overlay", "target": "full", "sync": "none" });
    qmp(&bench.vm, "blockdev-backup", backup);
    let acked = bench.guest.acked();
    std::thread::sleep(Duration::from_secs(5));
    let console = bench.guest.console();
    let stopped = qmp(&bench.vm, "query-status", serde_json::json!({}))["status"] != "running";
    let disturbed = stopped || console.contains("WRITE ERROR") || bench.guest.acked() < acked + 3;
    assert!(disturbed, "a plain backup to a full target did no harm: the check proves nothing\n{console}");
    println!(
        "planted: plain backup to a full target; stopped {stopped}, {} ACKs in 5 s",
        bench.guest.acked() - acked
    );
}

#[test]
fn cut_connection_costs_the_capture_and_not_the_guest() {
    let mut bench = Bench::new("kiln.agent=none");
    let request = bench.request("cut");
    let error = bench
        .capture(request, || {
            let exports = qmp(&bench.vm, "query-block-exports", serde_json::json!({}));
            for export in exports.as_array().unwrap() {
                let words = serde_json::json!({ "id": export["id"], "mode": "hard" });
                qmp(&bench.vm, "block-export-del", words);
            }
        })
        .unwrap_err();
    assert_eq!(error.code(), "capture.lost", "{error}");
    bench.assert_undisturbed("connection cut");
    bench.assert_next_works("next");
}

#[test]
fn killed_qemu_leaves_nothing_visible_and_the_stopped_disk_can_be_captured() {
    let mut bench = Bench::new("kiln.agent=none");
    bench.assert_next_works("before");
    let request = bench.request("killed");
    let pid = bench.guest.pid();
    let error = bench
        .capture(request, || {
            std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
            std::thread::sleep(Duration::from_millis(300));
        })
        .unwrap_err();
    assert_eq!(error.code(), "capture.machine", "{error}");
    assert_eq!(store(&bench.sandbox).everything().unwrap().len(), bench.images);
    bench.guest.kill();
    bench.sandbox.kiln(["capture", "vm", "--name", "after", "-q"]).ok();
    let after = intact(&bench.sandbox, "after");
    assert_eq!(after.digests.content.to_string(), bench.vm.full_digest(&bench.sandbox, "full"));
    assert_tidy(&bench.sandbox);
}

#[test]
fn killed_capture_is_cleared_up_by_its_watchdog() {
    let mut bench = Bench::new("");
    let count = captures(4);
    let mut before_end = 0;
    for number in 0..count {
        let name = format!("dead{number}");
        let mut command = bench.sandbox.kiln_command(["capture", "vm", "--name", &name, "-q"]);
        let mut child = command.spawn().unwrap();
        std::thread::sleep(moment(number) / 2 + Duration::from_millis(20));
        child.kill().unwrap();
        let ended = child.wait().unwrap();
        if store(&bench.sandbox).find(&name).is_ok() {
            bench.images += 1;
        }
        before_end += usize::from(!ended.success());
        bench.assert_undisturbed(&format!("killed {number}"));
        let console = bench.guest.console();
        let count = |word: &str| console.lines().filter(|line| line.starts_with(word)).count();
        assert!(count("THAWED") >= count("FROZEN"), "{console}");
    }
    bench.assert_next_works("next");
    println!("{count} of {count} killed captures ({before_end} before their end) were cleared up");
}

#[test]
fn agent_that_cannot_be_trusted_gives_a_crash_consistent_image_that_says_so() {
    for agent in ["silent", "garbage", "huge", "late"] {
        let mut bench = Bench::new(&format!("kiln.agent={agent}"));
        let words = ["capture", "vm", "--name", "no", "--quiesce", "require", "--timeout", "2", "--json"];
        let error = bench.sandbox.kiln(words).exits(1).error();
        assert_eq!(error["code"], "capture.not-quiesced", "{agent}: {error}");
        bench.assert_undisturbed(agent);
        let mut request = bench.request("auto");
        request.quiesce = Quiesce::Auto;
        request.freeze_limit = Duration::from_secs(2);
        bench.capture(request, || {}).unwrap();
        bench.images += 1;
        let capture = intact(&bench.sandbox, "auto").provenance.capture.unwrap();
        println!("{agent}: {} ({})", capture.consistency.word(), capture.because);
        assert_eq!(capture.consistency, kiln_catalog::Consistency::Crash, "{agent}");
        assert!(!capture.because.is_empty());
        bench.assert_undisturbed(agent);
    }
}
