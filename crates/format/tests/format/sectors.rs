//! Disks whose last sector is incomplete: filled up with zeros as qemu-img does it, and told.

use std::sync::Arc;

use kiln_disk::digest::{HashJob, hash_disk};
use kiln_disk::{FileOffset, GuestOffset, MemorySource, Severity, Silent};
use kiln_format::{CheckScope, Choice, OpenContext, check, open, padding, whole_sectors};
use kiln_testkit::laws::check_disk;
use kiln_testkit::oracle::{qemu_img, text};
use kiln_testkit::tar::TarBuilder;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n % 251) as u8 + 1).collect()
}

fn filled(bytes: &[u8]) -> Vec<u8> {
    let mut filled = bytes.to_vec();
    filled.resize(bytes.len().next_multiple_of(512), 0);
    filled
}

#[test]
fn lengths_are_rounded_up_and_never_over_the_edge() {
    for (len, whole) in [(0, 0), (1, 512), (511, 512), (512, 512), (513, 1024), (u64::MAX, u64::MAX)] {
        assert_eq!(whole_sectors(len), whole);
        assert_eq!(padding(len, None).is_some(), whole != len);
    }
}

#[test]
fn an_incomplete_sector_keeps_the_laws_and_is_a_finding_at_its_end() {
    for len in [1, 511, 513, 70_000, (1 << 20) + 1, (3 << 20) - 1] {
        let content = bytes(len);
        let source = Arc::new(MemorySource::new(content.clone()));
        let image = open(source.clone(), Choice::Detect, &OpenContext::new()).unwrap();
        let model = filled(&content);
        check_disk(image.as_ref(), &model);
        assert_eq!(image.facts().disk_bytes, model.len() as u64);
        assert_eq!(image.facts().file_bytes, len as u64);
        let remarks = image.remarks();
        let [finding] = remarks.list() else { panic!("{remarks:?}") };
        assert_eq!((finding.check.id, finding.check.severity), ("disk.length.padded", Severity::Advice));
        assert_eq!(finding.file_at, Some(FileOffset::new(len as u64)));
        let range = finding.guest.unwrap();
        assert_eq!((range.start.get(), range.len), (len as u64, (model.len() - len) as u64));
        let report = check(source, Choice::Detect, &OpenContext::new(), CheckScope::Data, &Silent).unwrap();
        assert_eq!(report.findings.list(), remarks.list());
        assert!(!report.findings.fails());
    }
}

#[test]
fn whole_sectors_are_left_alone() {
    for len in [0, 512, 1 << 20] {
        let source = Arc::new(MemorySource::new(bytes(len)));
        let image = open(source, Choice::Detect, &OpenContext::new()).unwrap();
        assert_eq!(image.disk_len(), len as u64);
        assert_eq!(image.remarks().list(), []);
    }
}

#[test]
fn the_digest_is_that_of_the_disk_that_qemu_img_makes() {
    let dir = tempfile::tempdir().unwrap();
    let (odd, whole) = (dir.path().join("odd.raw"), dir.path().join("whole.raw"));
    std::fs::write(&odd, bytes(1_000_001)).unwrap();
    qemu_img(&["convert", "-f", "raw", "-O", "raw", text(&odd), text(&whole)]);
    let digest = |path: &std::path::Path| {
        let source = Arc::new(kiln_disk::FileSource::open(path).unwrap());
        let image = open(source, Choice::Detect, &OpenContext::new()).unwrap();
        hash_disk(image.as_ref(), HashJob { raw: true, ..HashJob::default() }, &Silent).unwrap()
    };
    assert_eq!(std::fs::metadata(&whole).unwrap().len(), 1_000_448);
    assert_eq!(digest(&odd), digest(&whole));
}

#[test]
fn in_an_archive_the_place_is_the_archives() {
    let mut builder = TarBuilder::default();
    builder.file("disk.raw", &bytes(70_001));
    let source = Arc::new(MemorySource::new(builder.finish()));
    let image = open(source, Choice::Detect, &OpenContext::new()).unwrap();
    assert_eq!(image.disk_len(), 70_144);
    assert_eq!(image.remarks().list()[0].file_at, Some(FileOffset::new(512 + 70_001)));
    let mut last = [1; 144];
    image.read_guest(GuestOffset::new(70_000), &mut last).unwrap();
    assert_eq!((last[0], &last[1..]), (bytes(70_001)[70_000], &[0; 143][..]));
}
