//! Measuring before writing: what is said of plain files is what is written, to the byte.

use std::sync::Arc;

use kiln_disk::{Budget, FileSink, Silent};
use kiln_format::transfer::{Job, MeasurePlan, measure, write_container};
use kiln_format::{FORMATS, Format, Options, by_name};
use kiln_testkit::ModelDisk;
use kiln_testkit::oracle::{json_number, qemu_img, text};

/// A disk with data of two kinds at places that the seed decides.
fn disk(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for number in 0..12 {
        let at = usize::try_from(next() >> 8).unwrap() % (len - 300_000);
        let take = usize::try_from(next() >> 8).unwrap() % 300_000;
        for byte in &mut bytes[at..at + take] {
            *byte = if number % 2 == 0 { next().to_le_bytes()[3] } else { b"kiln"[(take ^ at) % 4] };
        }
    }
    bytes
}

fn plan<'a>(
    disk: &'a ModelDisk,
    format: &'static Format,
    options: &'a Options,
    budget: &'a Budget,
    exact: bool,
) -> MeasurePlan<'a> {
    MeasurePlan { disk, format, options, threads: 2, exact, budget }
}

/// Length of the file that is really written.
fn written(disk: &ModelDisk, format: &'static Format, options: &Options) -> u64 {
    let file = tempfile::tempfile().unwrap();
    let sink: Arc<dyn kiln_disk::ByteSink> = Arc::new(FileSink::new(file.try_clone().unwrap(), "out"));
    let budget = Budget::default();
    let job = Job {
        disk,
        format,
        options,
        threads: 2,
        content_digest: false,
        raw_digest: false,
        fingerprint: false,
        leaves: None,
        budget: &budget,
    };
    let outcome = write_container(job, &sink, &Silent).unwrap();
    assert_eq!(file.metadata().unwrap().len(), outcome.written.byte_len);
    outcome.written.byte_len
}

#[test]
fn every_writer_is_measured_to_the_byte_or_within_its_range() {
    for seed in [3, 77, 4_000_001] {
        let disk = ModelDisk::new(disk(seed, 9 << 20), 65_536);
        for format in FORMATS.iter().filter(|format| format.create.is_some()) {
            let specs = format.create.unwrap().options;
            let mut sets = vec![vec![]];
            for spec in specs {
                if spec.name == "subformat" {
                    for value in ["fixed", "dynamic", "monolithicSparse", "streamOptimized"] {
                        sets.push(vec![("subformat".to_owned(), value.to_owned())]);
                    }
                }
                if spec.name == "compress" {
                    sets.push(vec![("compress".to_owned(), "on".to_owned())]);
                }
            }
            for set in sets {
                let options = Options::new(specs, set.clone()).unwrap();
                let budget = Budget::default();
                let Ok(exact) = measure(plan(&disk, format, &options, &budget, true), &Silent) else {
                    // A subformat of another format.
                    continue;
                };
                let truth = written(&disk, format, &options);
                let said = format!("{} {set:?} seed {seed}", format.id);
                assert_eq!((exact.file_bytes, exact.range), (truth, (truth, truth)), "{said}");
                let quick = measure(plan(&disk, format, &options, &budget, false), &Silent).unwrap();
                let (least, most) = quick.range;
                assert!(least <= truth && truth <= most, "{said}: {least} to {most}, written {truth}");
                if quick.is_exact() {
                    assert_eq!(quick.file_bytes, truth, "{said}");
                }
                let full = quick.fully_allocated_bytes.unwrap();
                assert!(full >= truth, "{said}: {full} full, {truth} written");
            }
        }
    }
}

#[test]
fn qemu_img_measures_the_same_for_raw_and_qcow2() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let bytes = disk(9, 8 << 20);
    // Written sparsely: qemu-img measures what is allocated.
    std::fs::write(dir.path().join("full.raw"), &bytes).unwrap();
    qemu_img(&["convert", "-O", "raw", text(&dir.path().join("full.raw")), text(&path)]);
    let source = Arc::new(kiln_disk::FileSource::open(&path).unwrap());
    let image =
        kiln_format::open(source, kiln_format::Choice::AsRaw, &kiln_format::OpenContext::new()).unwrap();
    let format = by_name("qcow2").unwrap();
    let options = Options::defaults(format.create.unwrap().options);
    let budget = Budget::default();
    let plan = MeasurePlan {
        disk: image.as_ref(),
        format,
        options: &options,
        threads: 2,
        exact: false,
        budget: &budget,
    };
    let ours = measure(plan, &Silent).unwrap();
    let said = qemu_img(&["measure", "--output=json", "-f", "raw", "-O", "qcow2", text(&path)]);
    assert_eq!(ours.fully_allocated_bytes, Some(json_number(&said, "fully-allocated")));
    // QEMU goes by what is allocated on this file system, in blocks of 4 KiB; we find zeros inside as well.
    let theirs = json_number(&said, "required");
    assert!(ours.file_bytes <= theirs && theirs <= ours.file_bytes + (1 << 20), "{ours:?} {theirs}");
}
