//! Any container to any other: same disk, same bytes for any number of threads, and QEMU agrees.

use std::path::Path;
use std::sync::Arc;

use kiln_disk::{Budget, Disk, Durability, Existing, FileSource, Silent};
use kiln_format::transfer::{FilePlan, write_file};
use kiln_format::{CheckScope, Choice, Format, Image, OpenContext, Options, by_name};
use kiln_testkit::ModelDisk;
use kiln_testkit::laws::check_disk;
use kiln_testkit::oracle::{assert_qemu_identical, qemu_disk_len, qemu_img, text};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::writing::mixed_content;

/// A format with options.
#[derive(Debug, Clone)]
struct Target {
    format: &'static str,
    pairs: Vec<(&'static str, String)>,
}

impl Target {
    fn row(&self) -> &'static Format {
        by_name(self.format).unwrap()
    }

    /// The format's name for qemu-img.
    fn oracle(&self) -> &'static str {
        if self.format == "vhd" { "vpc" } else { self.format }
    }
}

fn targets() -> impl Strategy<Value = Target> {
    let qcow2 =
        (9_u32..=21, prop::sample::select(vec!["0.10", "1.1"]), 0_u8..3).prop_map(|(bits, compat, codec)| {
            let mut pairs =
                vec![("cluster_size", (1_u64 << bits).to_string()), ("compat", compat.to_owned())];
            if codec > 0 {
                // Version 2 knows zlib only.
                let zstd = codec == 2 && compat == "1.1";
                pairs.push(("compress", "on".to_owned()));
                pairs.push(("compression_type", if zstd { "zstd" } else { "zlib" }.to_owned()));
            }
            Target { format: "qcow2", pairs }
        });
    let vhd = prop::sample::select(vec![("dynamic", "2M"), ("dynamic", "512K"), ("fixed", "2M")]).prop_map(
        |(subformat, block)| Target {
            format: "vhd",
            pairs: vec![("subformat", subformat.to_owned()), ("block_size", block.to_owned())],
        },
    );
    let vdi = prop::sample::select(vec!["on", "off"])
        .prop_map(|choice| Target { format: "vdi", pairs: vec![("static", choice.to_owned())] });
    let vhdx = prop::sample::select(vec![("dynamic", "1M"), ("dynamic", "auto"), ("fixed", "2M")]).prop_map(
        |(subformat, block)| Target {
            format: "vhdx",
            pairs: vec![("subformat", subformat.to_owned()), ("block_size", block.to_owned())],
        },
    );
    prop_oneof![4 => qcow2, 2 => vhd, 2 => vdi, 2 => vhdx, 1 => Just(Target { format: "raw", pairs: Vec::new() })]
}

fn write(disk: &dyn Disk, target: &Target, dest: &Path, threads: usize) {
    let given = target.pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    let specs = target.row().create.unwrap().options;
    let plan = FilePlan {
        disk,
        format: target.row(),
        options: &Options::new(specs, given).unwrap(),
        dest,
        existing: Existing::Replace,
        durability: Durability::Unsynced,
        read_back: true,
        threads,
        content_digest: true,
        raw_digest: false,
        leaves: None,
        budget: &Budget::default(),
    };
    write_file(plan, &|| Ok(()), &Silent).unwrap_or_else(|error| panic!("{target:?}: {error}"));
}

fn open(path: &Path, target: &Target) -> Box<dyn Image> {
    let source = Arc::new(FileSource::open(path).unwrap());
    let choice = if target.format == "raw" { Choice::AsRaw } else { Choice::Declared(target.row()) };
    kiln_format::open(source, choice, &OpenContext::new())
        .unwrap_or_else(|error| panic!("{target:?}: {error}"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn any_to_any_keeps_the_disk(
        sectors in prop_oneof![1_usize..64, 1_usize..12_000], seed: u64, from in targets(), to in targets(),
    ) {
        let bytes = mixed_content(sectors, seed);
        let dir = TempDir::new().unwrap();
        let (raw, first, second) = (dir.path().join("raw"), dir.path().join("first"), dir.path().join("second"));
        std::fs::write(&raw, &bytes).unwrap();
        write(&ModelDisk::new(bytes.clone(), 4096), &from, &first, 2);
        let image = open(&first, &from);
        write(image.as_ref(), &to, &second, 2);
        let copy = open(&second, &to);
        check_disk(copy.as_ref(), &bytes);
        let findings = copy.check(CheckScope::Data, &Silent).unwrap();
        prop_assert_eq!(findings.list(), &[]);

        if to.format == "qcow2" {
            // Exit status 0 is no error and no leak.
            qemu_img(&["check", "-f", "qcow2", text(&second)]);
        }
        prop_assert_eq!(qemu_disk_len(&second, to.oracle()), bytes.len() as u64);
        assert_qemu_identical(&raw, "raw", &second, to.oracle());

        for threads in [1, 5] {
            let again = dir.path().join("again");
            write(image.as_ref(), &to, &again, threads);
            prop_assert!(std::fs::read(&second).unwrap() == std::fs::read(&again).unwrap(), "{} threads", threads);
        }
    }
}
