//! Commands that are stopped, killed, or told "no" by the system in the middle: nothing half-made is visible, the
//! store is clean, the next run succeeds.
//!
//! strace counts system calls and acts at the n-th: a kill, a signal, an error. Its counters are per thread, so
//! the commands run with one worker and n goes up until a run is no longer touched.

use std::process::Command;

use crate::support::{Ran, Sandbox, names_in, run};

/// `kiln` under strace, which does `what` (for instance `signal=SIGKILL`) at call `n` of `call`.
fn injected(sandbox: &Sandbox, call: &str, what: &str, n: u32, words: &[&str]) -> Ran {
    let mut command: Command = sandbox.command("strace");
    command
        .args(["-f", "-qq", "-o", "/dev/null", "-e"])
        .arg(format!("trace={call}"))
        .arg("-e")
        .arg(format!("inject={call}:{what}:when={n}"))
        .arg(env!("CARGO_BIN_EXE_kiln"))
        .args(words);
    run(&mut command)
}

/// Which n to try: all of the first, then ever fewer.
fn moments() -> impl Iterator<Item = u32> {
    (1..12).chain((12..60).step_by(5)).chain((60..4000).step_by(60))
}

const CONVERT: [&str; 6] = ["convert", "-q", "--threads", "1", "disk.raw", "out.qcow2"];
const IMPORT: [&str; 8] = ["import", "-q", "--threads", "1", "disk.raw", "--name", "web", "--raw-digest"];

/// The calls that make, fill and name files.
const CALLS: [&str; 11] = [
    "pwrite64",
    "write",
    "fsync",
    "fdatasync",
    "ftruncate",
    "linkat",
    "link",
    "rename",
    "renameat2",
    "mkdir",
    "unlink",
];

/// No file but the source, or the whole output.
fn output_is_whole_or_absent(sandbox: &Sandbox, context: &str) {
    match sandbox.names().as_slice() {
        [only] => assert_eq!(only, "disk.raw", "{context}"),
        [first, second] => {
            assert_eq!((first.as_str(), second.as_str()), ("disk.raw", "out.qcow2"), "{context}");
            sandbox.tool("qemu-img", ["compare", "-q", "-f", "raw", "-F", "qcow2", "disk.raw", "out.qcow2"]);
            std::fs::remove_file(sandbox.path("out.qcow2")).unwrap();
        }
        more => panic!("{context}: {more:?}"),
    }
}

/// Only whole images are listed, and the store is clean.
fn store_is_clean(sandbox: &Sandbox, context: &str) {
    if !sandbox.store().join("store.json").exists() {
        return;
    }
    let fsck = sandbox.kiln(["store", "fsck", "--read-data", "--json"]);
    assert_eq!(fsck.code, Some(0), "{context}: {fsck:?}");
    let json = fsck.json("kiln.store-fsck.v1");
    assert_eq!(json["findings"], serde_json::json!([]), "{context}");
    let list = sandbox.kiln(["ls", "--json"]).exits(0).json("kiln.ls.v1");
    let images = list["images"].as_array().unwrap();
    assert!(images.len() <= 1, "{context}: {list}");
    if !images.is_empty() {
        sandbox.kiln(["verify", "-q", "web"]).exits(0);
        sandbox.kiln(["rm", "-q", "web"]).exits(0);
    }
    // An import that was killed is remembered, to be gone on with; nothing of what it made is.
    let staging = sandbox.store().join("staging");
    let jobs = if staging.exists() { names_in(&staging) } else { Vec::new() };
    assert!(jobs.len() <= 1, "{context}: {jobs:?}");
    for job in jobs {
        for name in names_in(&staging.join(job)) {
            assert!(["job.json", "lock", "progress.json"].contains(&name.as_str()), "{context}: {name}");
        }
    }
}

#[test]
fn conversion_killed_at_any_call_leaves_nothing_or_everything() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 3 << 20);
    let mut killed = 0;
    for call in CALLS {
        for n in moments() {
            let ran = injected(&sandbox, call, "signal=SIGKILL", n, &CONVERT);
            let context = format!("{call} {n}");
            output_is_whole_or_absent(&sandbox, &context);
            if ran.code == Some(0) {
                break;
            }
            assert_eq!(ran.code, Some(-9), "{context}: {ran:?}");
            killed += 1;
        }
    }
    assert!(killed > 10, "only {killed} kills: the calls are not the ones that are made");
    sandbox.kiln(CONVERT).exits(0);
    output_is_whole_or_absent(&sandbox, "at the end");
}

#[test]
fn import_killed_at_any_call_leaves_a_clean_store() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 3 << 20);
    let mut killed = 0;
    for call in CALLS {
        for n in moments() {
            let ran = injected(&sandbox, call, "signal=SIGKILL", n, &IMPORT);
            let context = format!("{call} {n}");
            store_is_clean(&sandbox, &context);
            if ran.code == Some(0) {
                break;
            }
            assert_eq!(ran.code, Some(-9), "{context}: {ran:?}");
            killed += 1;
        }
    }
    assert!(killed > 30, "only {killed} kills: the calls are not the ones that are made");
    sandbox.kiln(IMPORT).exits(0);
    store_is_clean(&sandbox, "at the end");
}

#[test]
fn killed_import_is_listed_and_gone_on_with_from_anywhere() {
    let sandbox = Sandbox::new();
    sandbox.disk("base.raw", 1 << 20);
    sandbox.kiln(["import", "-q", "base.raw", "--name", "base"]).exits(0);
    sandbox.disk("disk.raw", 3 << 20);
    let ran = injected(&sandbox, "fsync", "signal=SIGKILL", 4, &IMPORT);
    assert_eq!(ran.code, Some(-9), "{ran:?}");
    let jobs = || sandbox.kiln(["jobs", "--json"]).exits(0).json("kiln.jobs.v1")["jobs"].clone();
    let left = jobs();
    assert_eq!(left.as_array().unwrap().len(), 1, "{left:#}");
    assert_eq!((&left[0]["kind"], &left[0]["resumable"]), (&"import".into(), &true.into()), "{left:#}");
    assert_eq!(left[0]["what"], "disk.raw to web:latest");

    let elsewhere = sandbox.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let mut resume = sandbox.command(env!("CARGO_BIN_EXE_kiln"));
    let store = sandbox.store();
    let id = left[0]["id"].as_str().unwrap();
    resume.current_dir(&elsewhere).args(["--json", "--store", store.to_str().unwrap(), "resume", id]);
    let done = run(&mut resume).exits(0).json("kiln.import.v1");
    assert_eq!((&done["name"], done["raw_digest"].is_string()), (&"web".into(), true), "{done:#}");
    assert_eq!(jobs(), serde_json::json!([]));
    sandbox.kiln(["verify", "-q", "web"]).exits(0);
    assert_eq!(sandbox.kiln(["resume", "--json", id]).exits(3).error()["code"], "store.no-job");
}

#[test]
fn command_with_a_secret_in_it_is_not_written_down() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    sandbox.kiln(["import", "-q", "disk.raw", "--name", "base"]).exits(0);
    let secret = ["--checksums=https://ann:hunter2@127.0.0.1:9/SUMS", "--name", "web", "disk.raw"];
    let words = [&["import", "-q"][..], &secret].concat();
    // Killed as the list is asked for.
    let ran = injected(&sandbox, "connect", "signal=SIGKILL", 1, &words);
    assert_eq!(ran.code, Some(-9), "{ran:?}");
    let staging = sandbox.store().join("staging");
    for job in names_in(&staging) {
        let text = std::fs::read_to_string(staging.join(job).join("job.json")).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
    }
    let left = sandbox.kiln(["jobs", "--json"]).exits(0).json("kiln.jobs.v1");
    assert_eq!(left["jobs"], serde_json::json!([]), "there is no way to go on with it");
}

#[test]
fn first_import_killed_at_any_call_does_not_block_the_next() {
    for call in ["mkdir", "write", "pwrite64", "fsync", "renameat2", "linkat"] {
        for n in (1..=4).chain([9, 17]) {
            let sandbox = Sandbox::new();
            sandbox.disk("disk.raw", 1 << 20);
            let ran = injected(&sandbox, call, "signal=SIGKILL", n, &IMPORT);
            let context = format!("{call} {n}");
            store_is_clean(&sandbox, &context);
            if ran.code == Some(0) {
                break;
            }
            let again = sandbox.kiln(IMPORT);
            assert_eq!(again.code, Some(0), "{context}: {again:?}");
            store_is_clean(&sandbox, &context);
        }
    }
}

#[test]
fn signals_end_a_command_with_130_and_leave_nothing() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 64 << 20);
    for signal in ["SIGINT", "SIGTERM", "SIGHUP"] {
        for n in [1, 3] {
            let ran = injected(&sandbox, "pwrite64", &format!("signal={signal}"), n, &CONVERT).exits(130);
            assert_eq!(ran.stderr, "error: interrupted\n", "{signal} {n}");
            assert_eq!(sandbox.names(), ["disk.raw"], "{signal} {n}");
            let ran = injected(&sandbox, "pwrite64", &format!("signal={signal}"), n, &IMPORT).exits(130);
            assert_eq!(ran.stderr, "error: interrupted\n", "{signal} {n}");
            store_is_clean(&sandbox, signal);
            assert_eq!(sandbox.kiln(["ls"]).ok(), "no images\n");
        }
    }
}

#[test]
fn a_silent_pipe_does_not_make_a_command_deaf() {
    let sandbox = Sandbox::new();
    let mut child = sandbox
        .kiln_command(["convert", "-O", "raw", "-", "out.raw"])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let silent = child.stdin.take().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(400));
    sandbox.tool("kill", ["-INT", &child.id().to_string()]);
    let ran = Ran::from(child.wait_with_output().unwrap()).exits(130);
    drop(silent);
    assert_eq!(ran.stderr, "error: interrupted\n");
    assert_eq!(sandbox.names(), Vec::<String>::new());
    assert_eq!(sandbox.temporary_names(), Vec::<String>::new());
}

#[test]
fn errors_of_the_system_at_any_call_are_told_and_leave_nothing() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 3 << 20);
    for (call, error, code) in [
        ("pwrite64", "ENOSPC", "io.no-space"),
        ("pwrite64", "EIO", "io.failed"),
        ("fsync", "EIO", "io.failed"),
        ("ftruncate", "EFBIG", "io.failed"),
        ("linkat", "EACCES", "io.permission"),
    ] {
        let mut failed = 0;
        for n in [1, 2, 3, 5, 8, 13, 21] {
            let words: Vec<&str> = CONVERT.into_iter().chain(["--json"]).collect();
            let ran = injected(&sandbox, call, &format!("error={error}"), n, &words);
            let context = format!("convert {call} {error} {n}");
            output_is_whole_or_absent(&sandbox, &context);
            if ran.code != Some(0) {
                assert_eq!(ran.code, Some(3), "{context}: {ran:?}");
                assert_eq!(ran.error()["code"], code, "{context}");
                assert!(!ran.error()["path"].is_null(), "{context}: {}", ran.stderr);
                failed += 1;
            }
        }
        assert!(failed > 0, "convert never met {call} {error}");
        for n in [1, 2, 3, 5, 8, 13, 21, 34] {
            let words: Vec<&str> = IMPORT.into_iter().chain(["--json"]).collect();
            let ran = injected(&sandbox, call, &format!("error={error}"), n, &words);
            let context = format!("import {call} {error} {n}");
            if ran.code != Some(0) {
                assert_eq!(ran.code, Some(3), "{context}: {ran:?}");
                assert!(!ran.error()["code"].as_str().unwrap().is_empty(), "{context}");
            }
            assert!(!ran.stderr.contains("panicked"), "{context}: {}", ran.stderr);
            store_is_clean(&sandbox, &context);
        }
    }
}

#[test]
fn full_file_system_is_told_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 8 << 20);
    std::fs::create_dir(sandbox.path("small")).unwrap();
    let kiln = env!("CARGO_BIN_EXE_kiln");
    // A file system of our own with 256 KiB, in a namespace of our own.
    let script = format!(
        "mount -t tmpfs -o size=256k none small || exit 99
        '{kiln}' convert --json disk.raw small/out.qcow2; echo convert $?
        '{kiln}' --store small/store import --json disk.raw --name web; echo import $?
        '{kiln}' --store small/store ls; echo ls $?
        ls -A small"
    );
    let ran =
        run(sandbox.command("unshare").args(["--mount", "--map-root-user", "sh", "-c", &script])).exits(0);
    let text = ran.text();
    assert!(text.contains("convert 3\n") && text.contains("import 3\n"), "{ran:?}");
    assert!(text.contains("no images\nls 0\n"), "{ran:?}");
    assert!(!text.contains("out.qcow2"), "{ran:?}");
    assert_eq!(ran.stderr.matches("\"code\":\"io.no-space\"").count(), 2, "{ran:?}");
    assert!(ran.stderr.contains("free some space"), "{ran:?}");
}

#[test]
fn limit_on_file_size_is_an_error_not_a_death() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 8 << 20);
    let mut command = sandbox.command("prlimit");
    command.args(["--fsize=100000", env!("CARGO_BIN_EXE_kiln"), "convert", "--json", "disk.raw", "out.raw"]);
    let ran = run(&mut command).exits(3);
    assert_eq!(ran.error()["code"], "io.failed");
    assert!(ran.stderr.contains("File too large"), "{}", ran.stderr);
    assert_eq!(sandbox.names(), ["disk.raw"]);
}
