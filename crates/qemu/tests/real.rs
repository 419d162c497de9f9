//! QEMU's own programs at the other end.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kiln_disk::{Disk, ExtentKind, GuestOffset};
use kiln_qemu::qmp::Client;
use kiln_qemu::{Channel, Limits, nbd, socket};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(30);

/// Ends with its test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, args: &[&str], dir: &Path) -> Running {
    let child = Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).spawn();
    Running(child.unwrap_or_else(|error| panic!("{program}: {error}; run `make setup`")))
}

fn run(program: &str, args: &[&str], dir: &Path) {
    let status =
        Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::null()).status();
    assert!(
        status.unwrap_or_else(|error| panic!("{program}: {error}; run `make setup`")).success(),
        "{args:?}"
    );
}

/// A folder whose path is longer than a socket's address may be.
fn long_dir() -> (tempfile::TempDir, std::path::PathBuf) {
    let top = tempfile::tempdir().unwrap();
    let dir = top.path().join("x".repeat(120));
    std::fs::create_dir(&dir).unwrap();
    (top, dir)
}

#[test]
fn qmp_of_a_real_machine() {
    let (_top, dir) = long_dir();
    let args = [
        "-M",
        "none",
        "-nodefaults",
        "-display",
        "none",
        "-accel",
        "tcg",
        "-qmp",
        "unix:s,server=on,wait=off",
    ];
    let _machine = start("qemu-system-x86_64", &args, &dir);
    let stream = socket::connect(&dir, "s", PATIENCE).unwrap();
    let mut client = Client::connect(Channel::new(stream, "QEMU"), Limits::default()).unwrap();
    assert!(client.version().major >= 10);
    let status = client.execute("query-status", json!({})).unwrap();
    assert_eq!(status["running"], json!(true));
    let error = client.execute("blockdev-del", json!({ "node-name": "none" })).unwrap_err();
    assert_eq!(error.code(), "qemu.refused");
    client.execute("quit", json!({})).unwrap();
    let event = client.wait_event(|event| event.name == "SHUTDOWN", PATIENCE).unwrap();
    assert_eq!(event.data["reason"], json!("host-qmp-quit"));
    assert!(client.next_event(PATIENCE).unwrap_err().is_gone());
    assert!(socket::connect(&dir, "t", Duration::ZERO).unwrap_err().is_gone());
}

#[test]
fn export_of_qemu_nbd_is_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run("qemu-img", &["create", "-q", "-f", "qcow2", "d.qcow2", "64M"], dir);
    run("qemu-img", &["bitmap", "--add", "d.qcow2", "b0"], dir);
    let writes = [
        "-f",
        "qcow2",
        "-c",
        "write -P 7 1M 2M",
        "-c",
        "write -z 8M 1M",
        "-c",
        "write -P 9 63M 1M",
        "d.qcow2",
    ];
    run("qemu-io", &writes, dir);
    let args = [
        "-k",
        &dir.join("n").display().to_string(),
        "-r",
        "-f",
        "qcow2",
        "-x",
        "e",
        "-B",
        "b0",
        "-A",
        "-t",
        "-e",
        "4",
        "d.qcow2",
    ];
    let _server = start("qemu-nbd", &args, dir);
    let connect = |contexts: &[&str]| {
        let stream = socket::connect(dir, "n", PATIENCE)?;
        nbd::Client::connect(Channel::new(stream, "qemu-nbd"), Limits::default(), "e", contexts)
    };

    let disk = nbd::NbdDisk::new(3, connect).unwrap();
    assert_eq!(disk.disk_len(), 64 << 20);
    let found: Vec<_> = kiln_disk::extents(&disk, std::num::NonZeroU64::MAX)
        .map(|extent| extent.unwrap())
        .map(|extent| (extent.start.get() >> 20, extent.len.get() >> 20, extent.kind.is_data()))
        .collect();
    assert_eq!(found.iter().filter(|run| run.2).collect::<Vec<_>>(), [&(1, 2, true), &(63, 1, true)]);
    assert_eq!(found.iter().map(|run| run.1).sum::<u64>(), 64);
    assert!(disk.extent_at(GuestOffset::ZERO, std::num::NonZeroU64::MIN).unwrap().kind == ExtentKind::Zero);
    std::thread::scope(|scope| {
        for (at, byte) in [(1, 7), (2, 7), (8, 0), (63, 9), (30, 0)] {
            let disk = &disk;
            scope.spawn(move || {
                let mut buf = vec![1; 1 << 20];
                disk.read_guest(GuestOffset::new(at << 20), &mut buf).unwrap();
                assert!(buf.iter().all(|found| *found == byte));
            });
        }
    });
    assert_eq!(disk.read_guest(GuestOffset::new(64 << 20), &mut [0]).unwrap_err().code(), "disk.past-end");

    let mut client = connect(&[nbd::BASE_ALLOCATION, &nbd::bitmap_context("b0"), "qemu:no-such"]).unwrap();
    assert!(client.has_context(1) && !client.has_context(2));
    let mut dirty = Vec::new();
    let mut at = 0;
    while at < client.byte_len() {
        let spans = client.block_status(1, at, u64::MAX).unwrap();
        at = spans.last().unwrap().end();
        dirty.extend(spans.into_iter().filter(|span| span.flags & nbd::Span::DIRTY != 0));
    }
    let dirty: Vec<_> = dirty.iter().map(|span| (span.start >> 20, span.len >> 20)).collect();
    assert_eq!(dirty, [(1, 2), (8, 1), (63, 1)]);
    assert_eq!(client.block_status(2, 0, 1).unwrap_err().code(), "qemu.unsupported");
    client.disconnect();

    let stream = socket::connect(dir, "n", PATIENCE).unwrap();
    let wrong = nbd::Client::connect(Channel::new(stream, "qemu-nbd"), Limits::default(), "x", &[]);
    assert_eq!(wrong.unwrap_err().code(), "qemu.unsupported");
}
