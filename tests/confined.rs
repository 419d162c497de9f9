//! The process that reads a stranger's disk: what it says is what would be said here, it can do nothing else, and its
//! end is an answer.

use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kiln_disk::{Disk, Error, Extent, FileSource, GuestOffset, Limits};
use kiln_guest::facts::Depth;
use kiln_guest::rules::{Options, PLACES, Verdict};
use kiln_guest::worker::{Cage, Landlock, probe};
use kiln_guest::{Asked, Look, Question, Reader};
use kiln_testkit::fixtures::Fixture;

use crate::support::Sandbox;

fn kiln() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_kiln"))
}

fn raw(path: &Path) -> Arc<dyn Disk> {
    let source = Arc::new(FileSource::open(path).unwrap());
    let format = kiln_format::FORMATS.iter().find(|format| format.id == "raw").unwrap();
    let image = (format.open)(source, &kiln_format::OpenContext::new()).unwrap();
    let image: Arc<dyn kiln_format::Image> = Arc::from(image);
    image
}

fn question(limits: Limits) -> Question {
    let asked = Asked { places: PLACES.iter().collect(), options: Options::default() };
    Question { depth: Depth::Full, limits, asked: vec![asked.clone(), asked] }
}

fn json(look: &Look) -> String {
    serde_json::to_string(look).unwrap()
}

fn agrees(path: &Path) -> Look {
    let question = question(kiln_import::guest::LIMITS);
    let here = Reader::Here.look(&[raw(path)], &question).unwrap();
    let there = Reader::Worker(kiln()).look(&[raw(path)], &question).unwrap();
    assert_eq!(json(&here), json(&there), "{}", path.display());
    there
}

#[test]
fn report_of_the_worker_is_that_of_this_process() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let look = agrees(&sandbox.path("disk.raw"));
    assert!(look.judgements[1].iter().all(|judgement| judgement.verdict == Verdict::WillNotBoot));
    let mut windows = kiln_testkit::windows::Windows::new(true);
    windows.system.driver("viostor", 0);
    let look = agrees(&windows.write(&sandbox.work(), "windows"));
    assert!(look.report.windows.is_some());
}

#[test]
#[ignore = "e2e: needs the Debian fixture and the layouts"]
fn report_of_the_worker_is_that_of_this_process_on_real_disks() {
    let look = agrees(&Fixture::Debian12.path().unwrap());
    assert!(look.judgements.concat().iter().all(|judgement| judgement.verdict == Verdict::Boots));
    let mut layouts = 0;
    for entry in fs::read_dir(Fixture::Layouts.path().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "raw") {
            assert!(agrees(&path).report.os.is_some(), "{}", path.display());
            layouts += 1;
        }
    }
    assert!(layouts >= 8, "{layouts}");
}

#[test]
fn worker_can_open_nothing_and_start_nothing() {
    let confinement = probe(&kiln()).unwrap();
    assert_eq!(confinement.could, Vec::<String>::new());
    let Cage { landlock, seccomp, limits } = confinement.cage;
    // How much of Landlock there is depends on the kernel.
    assert_eq!((landlock != Landlock::None, seccomp, limits), (true, true, true), "{landlock:?}");
    let sandbox = Sandbox::new();
    let text = String::from_utf8(sandbox.kiln(["doctor"]).stdout).unwrap();
    let row = text.lines().find(|line| line.contains("guest-reader")).unwrap();
    assert!(
        row.starts_with("good") && row.contains("seccomp, resource limits; it could open and start nothing"),
        "{row}"
    );
}

/// A disk that the device under it does not give up.
struct Broken {
    disk: Arc<dyn Disk>,
    from: u64,
}

impl Disk for Broken {
    fn disk_len(&self) -> u64 {
        self.disk.disk_len()
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
        if at.get() >= self.from {
            return Err(Error::io("read", "the device", io::Error::from_raw_os_error(5)));
        }
        self.disk.read_guest(at, buf)
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> kiln_disk::Result<Extent> {
        self.disk.extent_at(at, limit)
    }
}

#[test]
fn error_of_the_disk_and_a_spent_budget_are_what_they_are_without_a_worker() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let disk = || raw(&sandbox.path("disk.raw"));
    let both = |disk: &Arc<dyn Disk>, limits: Limits| {
        [Reader::Here, Reader::Worker(kiln())].map(|reader| {
            let look = reader.look(&[Arc::clone(disk)], &question(limits));
            look.as_ref().map(json).map_err(ToString::to_string)
        })
    };
    let mut errors = 0;
    for from in [0, 1 << 20, 4 << 20] {
        let [here, there] =
            both(&(Arc::new(Broken { disk: disk(), from }) as Arc<dyn Disk>), kiln_import::guest::LIMITS);
        errors += usize::from(here.is_err());
        assert_eq!(here, there, "from {from}");
    }
    assert!(errors > 0);
    let [here, there] = both(&disk(), Limits { metadata_bytes: 512, ..kiln_import::guest::LIMITS });
    assert!(here.is_err());
    assert_eq!(here, there);
}

#[test]
fn worker_that_dies_talks_nonsense_or_never_ends_is_an_answer() {
    let sandbox = Sandbox::new();
    sandbox.guest_disk("disk.raw");
    let disk = raw(&sandbox.path("disk.raw"));
    for (name, script, why) in [
        ("dead", "kill -SEGV $$", "it ended by signal 11"),
        ("status", "exec /bin/false", "it ended with status 1"),
        ("long", "printf '\\377\\377\\377\\377'; exec /bin/sleep 60", "a message is longer than any may be"),
        ("other", "printf '\\2\\0\\0\\0{}'; exec /bin/sleep 60", "expected value"),
        (
            "beyond",
            "m='{\"Read\":{\"disk\":7,\"at\":0,\"len\":512}}'; printf '\\44\\0\\0\\0%s' \"$m\"; exec /bin/sleep 60",
            "it asked for what there is not",
        ),
        ("late", "exec /bin/sleep 60", "it had not ended after 10 s"),
    ] {
        let program = sandbox.path(name);
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let limits = Limits { time: Duration::from_millis(10), ..Limits::INSPECT };
        let look = Reader::Worker(program).look(&[Arc::clone(&disk)], &question(limits)).unwrap();
        assert!(
            look.report.problems.iter().any(|problem| problem.contains(why)),
            "{name}: {:?}",
            look.report.problems
        );
        assert_eq!(look.judgements.len(), 2);
        for judgement in look.judgements.concat() {
            assert_eq!(judgement.verdict, Verdict::Unknown);
            assert!(judgement.because.unwrap().contains(why), "{name}");
        }
    }
    let absent = Reader::Worker(sandbox.path("absent")).look(&[disk], &question(Limits::INSPECT));
    assert_eq!(absent.err().unwrap().code(), "io.not-found");
}
