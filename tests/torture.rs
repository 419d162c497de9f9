//! Faults at every I/O system call of the commands that change a store: death, a full disk, a broken disk, the end of
//! the power.
//!
//! Whatever happens, after the next command the store is as it was before or as it is after: never between, and
//! never without what was acknowledged. A sample runs with every test; all of it with `make torture`
//! (`KILN_TORTURE=whole`).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use kiln_testkit::fault::{Ended, Fault, run, run_on};
use kiln_testkit::power::{Ledger, Loss};

use crate::support::Sandbox;

/// No space left on device; input/output error.
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// A command under test: its name, and its words with STORE, OTHER and FILE in place of paths.
const COMMANDS: [(&str, &[&str]); 7] = [
    ("import", &["--store", "STORE", "import", "FILE", "--name", "c:new", "--threads", "1"]),
    ("rm", &["--store", "STORE", "rm", "a:1"]),
    ("tag", &["--store", "STORE", "tag", "b:1", "a:1", "--replace"]),
    ("share", &["--store", "STORE", "share", "b:1", "--with", "ben"]),
    ("gc", &["--store", "STORE", "gc"]),
    ("copy", &["--store", "OTHER", "copy", "d:1", "--to", "STORE"]),
    ("rebuild", &["--store", "STORE", "store", "rebuild"]),
];

struct Bench {
    sandbox: Sandbox,
}

impl Bench {
    /// A store with three images, one of which shares its layer, and another store to copy from.
    fn new() -> Self {
        let sandbox = Sandbox::new();
        for (name, len) in [("a.raw", 300_000), ("b.raw", 400_000), ("c.raw", 500_000), ("d.raw", 350_000)] {
            sandbox.disk(name, len / 512 * 512);
        }
        let import = |store: &str, file: &str, name: &str| {
            sandbox.kiln(["--store", store, "import", file, "--name", name, "-q"]).ok();
        };
        import("base", "a.raw", "a:1");
        import("base", "a.raw", "a:2");
        import("base", "b.raw", "b:1");
        import("other-base", "d.raw", "d:1");
        // A layer that nobody needs, for gc.
        let hex = "ef".repeat(32);
        let dir = sandbox.path("base").join("layers/ef");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join(format!("{hex}.qcow2")), vec![7; 8192]).unwrap();
        Self { sandbox }
    }

    /// Fresh copies of both stores.
    fn reset(&self) {
        for (from, to) in [("base", "store"), ("other-base", "other")] {
            let _ = std::fs::remove_dir_all(self.sandbox.path(to));
            copy_tree(&self.sandbox.path(from), &self.sandbox.path(to));
        }
    }

    fn run(&self, words: &[&str], fault: Fault) -> Ended {
        run(self.sandbox.command("/bin/sh"), OsStr::new(env!("CARGO_BIN_EXE_kiln")), &placed(words), fault)
    }

    /// Runs until a call, and then the power fails.
    fn run_to_power_failure(&self, words: &[&str], at: u64, loss: Loss) -> Ended {
        let mut ledger = Ledger::of(&self.sandbox.path("store"));
        let shell = self.sandbox.command("/bin/sh");
        let kiln = OsStr::new(env!("CARGO_BIN_EXE_kiln"));
        let ended = run_on(shell, kiln, &placed(words), Fault::KillAt(at), &mut ledger);
        ledger.cut(loss);
        ended
    }

    /// What a user sees of the store: names, digests, shares. The check of the store must be clean, data included.
    fn state(&self, about: &str) -> Vec<String> {
        for store in ["store", "other"] {
            let ran = self.sandbox.kiln(["--store", store, "store", "fsck", "--read-data", "--json"]);
            assert_eq!(ran.code, Some(0), "{about}: {store}: {ran:?}");
            let json = ran.json("kiln.store-fsck.v1");
            let findings: Vec<&str> = json["findings"]
                .as_array()
                .unwrap()
                .iter()
                .map(|finding| finding["id"].as_str().unwrap())
                .filter(|id| *id != "store.layer.unreferenced")
                .collect();
            assert_eq!(findings, Vec::<&str>::new(), "{about}: {store}");
        }
        let list = self.sandbox.kiln(["--store", "store", "ls", "--json"]).exits(0).json("kiln.ls.v1");
        let mut lines: Vec<String> = list["images"]
            .as_array()
            .unwrap()
            .iter()
            .map(|image| {
                let field = |key: &str| image[key].to_string();
                [field("name"), field("tag"), field("shares"), field("content_digest")].join(" ")
            })
            .collect();
        lines.sort();
        let stray = self.sandbox.path("store/layers/ef").join(format!("{}.qcow2", "ef".repeat(32)));
        lines.push(format!("stray layer: {}", stray.exists()));
        lines
    }
}

fn placed<'a>(words: &[&'a str]) -> Vec<&'a OsStr> {
    let place = |word: &'a str| match word {
        "STORE" => "store",
        "OTHER" => "other",
        "FILE" => "c.raw",
        other => other,
    };
    words.iter().map(|word| OsStr::new(place(word))).collect()
}

fn copy_tree(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Whether all is asked for.
pub(crate) fn whole() -> bool {
    std::env::var("KILN_TORTURE").is_ok_and(|value| value == "whole")
}

/// Every call when all is asked for; else a sample that moves with the command.
pub(crate) fn points(calls: u64, sample: u64) -> Vec<u64> {
    let step = if whole() { 1 } else { (calls / sample).max(1) };
    (1..=calls).step_by(usize::try_from(step).unwrap()).collect()
}

/// What strikes: what is said of it, and the run of a command that it strikes at a call.
type Strike = (&'static str, fn(&Bench, &[&str], u64) -> Ended);

#[allow(clippy::print_stdout, reason = "the counts are what `make torture` is for")]
fn torture(command: &str, strikes: &[(Strike, u64)]) {
    let (name, words) = COMMANDS.into_iter().find(|(name, _)| *name == command).unwrap();
    let bench = Bench::new();
    bench.reset();
    let before = bench.state(name);
    let clean = bench.run(words, Fault::None);
    assert_eq!(clean.code, Some(0), "{name}");
    let after = bench.state(name);
    assert!(clean.calls > 20, "{name} makes {} calls", clean.calls);
    for ((kind, strike), sample) in strikes {
        let (mut runs, mut done) = (0, 0);
        let mut struck: BTreeMap<&str, u64> = BTreeMap::new();
        // Behind the last call as well: what was acknowledged must outlive the power.
        for at in points(clean.calls, *sample).into_iter().chain([clean.calls + 1]) {
            bench.reset();
            let ended = strike(&bench, words, at);
            let about = format!("{name}, {kind} call {at} ({:?})", ended.struck);
            let state = bench.state(&about);
            runs += 1;
            *struck.entry(ended.struck.unwrap_or("none")).or_default() += 1;
            if ended.code == Some(0) {
                assert_eq!(state, after, "{about}: acknowledged, and not there");
            } else {
                assert!(state == before || state == after, "{about}: {state:?}");
            }
            done += u64::from(state == after);
        }
        println!(
            "{name}: {kind} {runs} of {} calls: {done} times done, else as before; at {struck:?}",
            clean.calls
        );
    }
}

const KILL: Strike = ("killed at", |bench, words, at| bench.run(words, Fault::KillAt(at)));
const FULL: Strike = ("disk full from", |bench, words, at| bench.run(words, Fault::FailFrom(at, ENOSPC)));
const BROKEN: Strike = ("one I/O error at", |bench, words, at| bench.run(words, Fault::FailAt(at, EIO)));
const DEAD: Strike = ("only I/O errors from", |bench, words, at| bench.run(words, Fault::FailFrom(at, EIO)));
const DARK: Strike = ("power lost, with all that was not synced, at", |bench, words, at| {
    bench.run_to_power_failure(words, at, Loss::Everything)
});
const BLANK: Strike = ("power lost, with the bytes that were not synced, at", |bench, words, at| {
    bench.run_to_power_failure(words, at, Loss::Bytes)
});

macro_rules! tortures {
    ($($test:ident $command:literal;)*) => {
        $(#[test]
        fn $test() {
            torture($command, &[(KILL, 7), (FULL, 7), (BROKEN, 5), (DEAD, 3), (DARK, 5), (BLANK, 5)]);
        })*
    };
}

tortures! {
    import_under_faults_is_whole_or_nothing "import";
    removal_under_faults_is_whole_or_nothing "rm";
    tag_under_faults_is_whole_or_nothing "tag";
    share_under_faults_is_whole_or_nothing "share";
    collection_under_faults_takes_nothing_that_is_needed "gc";
    copy_under_faults_is_whole_or_nothing "copy";
    rebuild_under_faults_loses_nothing "rebuild";
}
