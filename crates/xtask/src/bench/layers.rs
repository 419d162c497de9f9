//! What a plain and a compressed layer cost: time to make, size on disk, time to boot from it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use kiln_testkit::boot::Guest;

use super::Bench;
use super::measure::{sample, summary};
use super::note;
use crate::failure::{Failure, Outcome, say};

/// How the layer is written, and the arguments that write it.
const KINDS: [(&str, &str); 3] = [
    ("plain", "-O qcow2"),
    ("zstd", "-O qcow2 -c -o compression_type=zstd"),
    ("zlib", "-O qcow2 -c -o compression_type=zlib"),
];

/// Measures each kind and prints a table. A layer is made by `kiln convert` with its default promise (synced,
/// read back), which is what an import does besides bookkeeping; boots are under TCG.
pub(super) fn run(bench: &Bench<'_>) -> Outcome {
    if bench.arguments.peers_only {
        return Err(Failure::No(
            "layers are made by kiln; --peers-only leaves nothing to measure".to_owned(),
        ));
    }
    let mut text = String::from("| layer | written in | on disk | booted in (TCG) |\n|---|---:|---:|---:|\n");
    for (kind, arguments) in KINDS {
        note(&format!("measuring the {kind} layer"));
        let line = format!("{} convert disk.raw out {arguments}", bench.kiln());
        let mut writes = Vec::new();
        for _ in 0..bench.arguments.runs {
            writes.push(bench.timed(&line)?);
        }
        bench.clear()?;
        sample(&bench.dir, &line)?;
        let layer = bench.dir.join("out");
        let mut boots = Vec::new();
        for _ in 0..bench.arguments.runs {
            boots.push(Guest::new(&layer, "qcow2").boot_to_login()?.took);
        }
        boots.sort();
        let on_disk = fs::metadata(&layer)?.blocks() * 512;
        bench.clear()?;
        let (Some(written), Some(booted)) = (summary(&writes), boots.get(boots.len() / 2)) else {
            return Err(Failure::No("--runs 0 measures nothing".to_owned()));
        };
        text.push_str(&format!(
            "| {kind} | {:.2} s | {} MiB | {:.1} s |\n",
            written.median.as_secs_f64(),
            on_disk >> 20,
            booted.as_secs_f64()
        ));
    }
    say(&text)
}
