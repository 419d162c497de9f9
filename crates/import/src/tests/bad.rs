//! Imports that are refused or fail: nothing of them is to be seen.

use std::io::{Read, Seek, SeekFrom, Write};
use std::sync::Mutex;

use kiln_disk::{CancelFlag, Event, Observer};

use super::*;

fn code(bench: &Bench, request: Request) -> &'static str {
    let code = bench.run(request).unwrap_err().code();
    bench.assert_untouched();
    code
}

#[test]
fn wrong_checksum_is_refused_with_both_digests() {
    let bench = Bench::new();
    let bytes = disk(1);
    let path = bench.file("disk.raw", &bytes);
    let mut wrong = sha256_of(&bytes);
    wrong.replace_range(..1, if wrong.starts_with('0') { "1" } else { "0" });
    let mut request = bench.request(&path, "a");
    request.expect = Expect::Digest(wrong.parse().unwrap());
    match bench.run(request).unwrap_err() {
        Error::Refused(Refusal::ChecksumDiffers { expected, found, .. }) => {
            assert_eq!((expected.hex(), found.hex()), (wrong, sha256_of(&bytes)));
        }
        other => panic!("{other:?}"),
    }
    bench.assert_untouched();
}

#[test]
fn checksum_is_proved_before_the_file_is_interpreted() {
    let bench = Bench::new();
    // Not a byte of this is a sound qcow2; the checksum is what is complained about.
    let path = bench.file("disk.qcow2", b"QFI\xfb\xff\xff\xff\xff");
    let mut request = bench.request(&path, "a");
    request.expect = Expect::Digest(sha256_of(b"something else").parse().unwrap());
    assert_eq!(code(&bench, request), "checksum.differs");
}

#[test]
fn weak_md5_and_strong_sha512_of_one_list_are_both_proved() {
    let bench = Bench::new();
    let path = bench.file("disk.raw", &disk(1));
    let md5 = "0".repeat(32);
    let list = format!("SHA256 (disk.raw) = {}\nMD5 (disk.raw) = {md5}\n", sha256_of(&disk(1)));
    let mut request = bench.request(&path, "a");
    request.expect = Expect::List(bench.file("CHECKSUM", list.as_bytes()));
    assert_eq!(code(&bench, request), "checksum.differs");
}

#[test]
fn file_that_the_list_does_not_name_is_refused() {
    let bench = Bench::new();
    let path = bench.file("disk.raw", &disk(1));
    let mut request = bench.request(&path, "a");
    let list = format!("{}  other.raw\n", sha256_of(&disk(1)));
    request.expect = Expect::List(bench.file("SHA256SUMS", list.as_bytes()));
    assert_eq!(code(&bench, request), "checksum.not-listed");
}

#[test]
fn qcow2_with_a_backing_file_is_refused_and_the_file_not_opened() {
    let bench = Bench::new();
    let secret = bench.file("secret", b"TOP-SECRET-CANARY");
    let raw = bench.file("disk.raw", &disk(1));
    let path = bench.container(&raw, "evil.qcow2", "qcow2", &[]);
    let mut bytes = std::fs::read(&path).unwrap();
    // Header fields backing_file_offset (8) and backing_file_size (16); the name into the slack of cluster 0.
    let name = secret.display().to_string().into_bytes();
    bytes[8..16].copy_from_slice(&4096_u64.to_be_bytes());
    bytes[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap().to_be_bytes());
    bytes[4096..4096 + name.len()].copy_from_slice(&name);
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(code(&bench, bench.request(&path, "a")), "reference.denied");
}

#[test]
fn foreign_and_mismatching_files_are_refused_by_name() {
    let bench = Bench::new();
    let zip = bench.file("disk.zip", b"PK\x03\x04 and so on");
    assert_eq!(code(&bench, bench.request(&zip, "a")), "format.foreign");
    let gzip = bench.file("disk.raw.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03abcdefgh");
    assert_eq!(code(&bench, bench.request(&gzip, "a")), "wrap.data");
    let raw = bench.file("disk.raw", &disk(1));
    let mut request = bench.request(&raw, "a");
    request.choice = Choice::Declared(by_name("qcow2").unwrap());
    assert_eq!(code(&bench, request), "format.mismatch");
}

#[test]
fn container_declared_raw_is_only_taken_as_it_is_when_said_so() {
    let bench = Bench::new();
    let raw = bench.file("disk.raw", &disk(1));
    let qcow2 = bench.container(&raw, "disk.qcow2", "qcow2", &[]);
    let mut request = bench.request(&qcow2, "a");
    request.choice = Choice::Declared(by_name("raw").unwrap());
    assert_eq!(code(&bench, request), "format.mismatch");
    let mut request = bench.request(&qcow2, "a");
    request.choice = Choice::AsRaw;
    let manifest = bench.run(request).unwrap().manifest;
    assert_eq!(manifest.disk_bytes, std::fs::metadata(&qcow2).unwrap().len());
}

#[test]
fn disk_over_the_limit_is_refused_with_both_sizes() {
    let bench = Bench::new();
    let path = bench.file("disk.raw", &disk(1));
    let mut request = bench.request(&path, "a");
    request.max_disk_bytes = 1 << 20;
    match bench.run(request).unwrap_err() {
        Error::Refused(Refusal::TooLarge { disk_bytes, allowed }) => {
            assert_eq!((disk_bytes, allowed), (disk(1).len() as u64, 1 << 20));
        }
        other => panic!("{other:?}"),
    }
    bench.assert_untouched();
}

#[test]
fn empty_file_and_empty_pipe_are_refused() {
    let bench = Bench::new();
    let path = bench.file("empty", b"");
    assert_eq!(code(&bench, bench.request(&path, "a")), "import.empty");
    let input = Input::Stream { reader: Box::new(std::io::empty()), file_name: None, byte_len: None };
    assert_eq!(code(&bench, Request::new(input, "a".parse().unwrap())), "import.empty");
}

#[test]
fn directory_and_missing_file_are_refused() {
    let bench = Bench::new();
    assert_eq!(code(&bench, bench.request(bench.dir.path(), "a")), "source.kind");
    assert_eq!(code(&bench, bench.request(&bench.path("nowhere"), "a")), "io.not-found");
}

#[test]
fn truncated_qcow2_is_refused_and_its_name_stays_free() {
    let bench = Bench::new();
    let raw = bench.file("disk.raw", &disk(1));
    let path = bench.container(&raw, "disk.qcow2", "qcow2", &[]);
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    let error = bench.run(bench.request(&path, "a")).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Refused(Refusal::Findings { .. }) | Error::Disk(kiln_disk::Error::Malformed { .. })
        ),
        "{error:?}"
    );
    bench.assert_untouched();
    bench.import(&raw, "a");
}

#[test]
fn source_that_changes_while_it_is_read_is_refused() {
    let bench = Bench::new();
    let path = bench.file("disk.raw", &disk(1));
    let plan = plan(&bench.store, bench.request(&path, "a"), &Silent).unwrap();
    let mut file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.seek(SeekFrom::Start(100)).unwrap();
    file.write_all(b"attack").unwrap();
    assert_eq!(plan.run(&Silent).unwrap_err().code(), "source.changed");
    bench.assert_untouched();
}

#[test]
fn taken_name_is_refused_before_anything_is_read() {
    let bench = Bench::new();
    let path = bench.file("disk.raw", &disk(1));
    bench.import(&path, "a");
    let error = bench.run(bench.request(&bench.path("not even there"), "a")).unwrap_err();
    assert_eq!(error.code(), "store.name-taken");
}

#[test]
fn cancelled_import_leaves_nothing() {
    let bench = Bench::new();
    let path = bench.file("disk.raw", &disk(1));
    let flag = CancelFlag::default();
    flag.cancel();
    let error = plan(&bench.store, bench.request(&path, "a"), &Silent).unwrap().run(&flag).unwrap_err();
    assert_eq!(error.code(), "cancelled");
    bench.assert_untouched();
}

/// Asks to stop as soon as its n-th phase starts.
#[derive(Default)]
struct StopAt {
    nth: usize,
    phases: Mutex<Vec<String>>,
    flag: CancelFlag,
}

impl Observer for StopAt {
    fn event(&self, event: Event<'_>) {
        if let Event::Started { phase, .. } = event {
            let mut phases = self.phases.lock().unwrap();
            if phases.len() == self.nth {
                self.flag.cancel();
            }
            phases.push(phase.to_owned());
        }
    }

    fn is_cancelled(&self) -> bool {
        self.flag.is_cancelled()
    }
}

#[test]
fn import_cancelled_in_any_phase_leaves_nothing() {
    let run = |bench: &Bench, stop: &StopAt| {
        let qcow2 = bench.container(&bench.file("disk.raw", &disk(1)), "disk.qcow2", "qcow2", &[]);
        let mut request = bench.request(&qcow2, "a");
        request.expect = Expect::Digest(sha256_of(&std::fs::read(&qcow2).unwrap()).parse().unwrap());
        plan(&bench.store, request, stop).and_then(|plan| plan.run(stop))
    };
    let whole = StopAt { nth: usize::MAX, ..StopAt::default() };
    run(&Bench::new(), &whole).unwrap();
    let phases = whole.phases.into_inner().unwrap();
    assert!(phases.len() >= 4, "{phases:?}");
    for (nth, phase) in phases.iter().enumerate() {
        let bench = Bench::new();
        let error = run(&bench, &StopAt { nth, ..StopAt::default() }).unwrap_err();
        assert_eq!(error.code(), "cancelled", "{nth} {phase}");
        bench.assert_untouched();
    }
}

/// A pipe that breaks.
struct Broken(usize);

impl Read for Broken {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        if self.0 == 0 {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        self.0 -= 1;
        buf.fill(7);
        Ok(buf.len())
    }
}

#[test]
fn pipe_that_breaks_leaves_nothing() {
    let bench = Bench::new();
    let input = Input::Stream { reader: Box::new(Broken(3)), file_name: None, byte_len: None };
    assert_eq!(code(&bench, Request::new(input, "a".parse().unwrap())), "io.failed");
}

#[test]
fn pipe_that_the_plan_took_in_goes_with_the_plan() {
    let bench = Bench::new();
    let input =
        Input::Stream { reader: Box::new(std::io::Cursor::new(disk(1))), file_name: None, byte_len: None };
    let plan = plan(&bench.store, Request::new(input, "a".parse().unwrap()), &Silent).unwrap();
    assert_eq!(std::fs::read_dir(bench.store.path().join("staging")).unwrap().count(), 1);
    drop(plan);
    bench.assert_untouched();
}

/// Not a test of its own: an import that may not write files as large as it needs.
#[test]
fn limited_child() {
    let Ok(dir) = std::env::var("KILN_TEST_LIMITED") else { return };
    let dir = PathBuf::from(dir);
    let store = Store::open(&dir.join("store")).unwrap();
    let request = Request::new(Input::File(dir.join("disk.raw")), "a".parse().unwrap());
    match plan(&store, request, &Silent).and_then(|plan| plan.run(&Silent)) {
        Err(Error::Disk(kiln_disk::Error::Io { operation, source, .. })) => {
            println!("[{operation}: {:?}]", source.kind());
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn write_that_the_system_refuses_leaves_nothing_and_the_next_import_succeeds() {
    let bench = Bench::new();
    let path = bench.file("disk.raw", &disk(1));
    // 1 MiB a file. The signal that goes with the limit is ignored here and in the child, so that the write fails.
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 2048; exec \"$0\" --exact tests::bad::limited_child --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .env("KILN_TEST_LIMITED", bench.dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("FileTooLarge]"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    bench.assert_untouched();
    bench.import(&path, "a");
    bench.assert_clean();
}
