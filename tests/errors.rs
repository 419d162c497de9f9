//! Streams and exit codes, whatever the command.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use crate::support::{Sandbox, run};

#[test]
fn full_standard_output_is_an_error_not_a_panic() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    for words in [
        &["inspect", "disk.raw"][..],
        &["verify", "disk.raw"],
        &["check", "disk.raw"],
        &["map", "disk.raw"],
        &["convert", "disk.raw", "out.raw"],
        &["completion", "bash"],
        &["--help"],
    ] {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let ran = run(sandbox.kiln_command(words).stdout(full)).exits(3);
        assert!(
            ran.stderr.starts_with("error: cannot write to standard output\n"),
            "{words:?}: {}",
            ran.stderr
        );
        assert!(!ran.stderr.contains("panic"), "{}", ran.stderr);
    }
}

#[test]
fn closed_reader_ends_the_command_quietly_and_not_with_success() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = run(sandbox.kiln_command(["map", "disk.raw"]).stdout(writer)).exits(3);
    assert_eq!(ran.stderr, "");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = run(sandbox.kiln_command(["convert", "-O", "raw", "disk.raw", "-"]).stdout(writer)).exits(3);
    assert!(ran.stderr.contains("Broken pipe"), "{}", ran.stderr);
}

#[test]
fn closed_standard_error_does_not_change_the_answer() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    let kiln = env!("CARGO_BIN_EXE_kiln");
    let ran = run(sandbox.command("sh").args(["-c", "exec \"$0\" inspect nosuch.raw 2>&-", kiln])).exits(3);
    assert_eq!(ran.stderr, "");
    run(sandbox.command("sh").args(["-c", "exec \"$0\" inspect disk.raw 2>&-", kiln])).exits(0);
}

#[test]
fn progress_lines_are_json_on_standard_error_and_add_up() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 4 << 20);
    let ran = sandbox.kiln(["convert", "--progress", "json", "disk.raw", "out.raw"]).exits(0);
    let events: Vec<serde_json::Value> =
        ran.stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(ran.stderr.lines().all(|line| line.starts_with("{\"schema\":\"kiln.progress.v1\",\"event\":")));
    let finished: Vec<_> = events.iter().filter(|event| event["event"] == "finished").collect();
    assert!(!finished.is_empty());
    for event in finished {
        assert_eq!(event["done_bytes"], event["total_bytes"], "{event}");
    }
    // Without a terminal there are no bars.
    assert_eq!(sandbox.kiln(["convert", "disk.raw", "second.raw"]).exits(0).stderr, "");
}

#[test]
fn bars_are_drawn_on_a_terminal_only() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 64 << 20);
    // A slow pipe into a terminal session: the bar appears after a quarter of a second.
    let kiln = env!("CARGO_BIN_EXE_kiln");
    let line =
        format!("(head -c 32M disk.raw; sleep 1; tail -c 32M disk.raw) | {kiln} convert -O raw - out.raw");
    let mut child = sandbox
        .command("script")
        .args(["-qec", &line, "/dev/null"])
        .env("TERM", "xterm")
        .stdout(Stdio::piped())
        .spawn()
        .expect("script (bsdutils) is needed");
    let mut screen = String::new();
    child.stdout.take().unwrap().read_to_string(&mut screen).unwrap();
    assert!(child.wait().unwrap().success(), "{screen}");
    assert!(screen.contains("receive"), "{screen:?}");
}

#[test]
fn quiet_leaves_only_what_was_asked_for() {
    let sandbox = Sandbox::new();
    sandbox.disk("disk.raw", 1 << 20);
    assert_eq!(sandbox.kiln(["convert", "-q", "disk.raw", "out.raw"]).ok(), "");
    assert_eq!(sandbox.kiln(["check", "-q", "disk.raw"]).ok(), "");
    let text = sandbox.kiln(["verify", "-q", "disk.raw"]).ok();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with("content       fsverity-sha256-64k:"), "{text}");
}

#[test]
fn hostile_file_names_cannot_reach_the_terminal() {
    let sandbox = Sandbox::new();
    let name = "a\x1b]0;owned\x07\u{202e}.raw";
    sandbox.disk(name, 1 << 16);
    let ran = sandbox.kiln(["inspect", name]).exits(0);
    assert!(ran.text().contains(r"a\u{1b}]0;owned\u{7}\u{202e}.raw"), "{}", ran.text());
    assert!(!ran.text().contains('\x1b') && !ran.text().contains('\u{202e}'));
    let ran = sandbox.kiln(["inspect", "gone\x1b[2J.raw"]).exits(3);
    assert!(!ran.stderr.contains('\x1b'), "{:?}", ran.stderr);
}
