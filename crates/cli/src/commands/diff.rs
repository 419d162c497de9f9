//! `kiln diff`: what differs between two disks?

use std::path::{Path, PathBuf};

use kiln_disk::Limits;
use kiln_format::diff::{DiskDiff, FactDiff, PartitionDiff};
use kiln_format::partitions::Layout;
use kiln_format::{Image, Tolerance};
use serde::Serialize;

use crate::commands::verify::print_ranges;
use crate::error::{About, Answer, Result};
use crate::input::{Input, SourceArgs};
use crate::output::{RangeRecord, Size};
use crate::session::Session;
use crate::subject::Subject;

/// Compare two disks in any formats: containers, partition tables, blocks
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exits 0 when both are the same disk, whatever their containers look like, 1 when the disks differ.
Bytes are compared in blocks of 64 KiB.

Examples:
  kiln diff disk.raw disk.qcow2
  kiln diff --json debian:12 exported.vhd | jq .differing_bytes")]
pub(crate) struct Args {
    /// The first file or image
    #[arg(value_name = "A")]
    first: PathBuf,
    /// The second file or image
    #[arg(value_name = "B")]
    second: PathBuf,
    /// Allow the images to use another file: NAME as the image spells it, PATH where it is
    #[arg(long, value_name = "NAME=PATH")]
    allow_backing: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Record<'a> {
    schema: &'static str,
    same: bool,
    first: Side<'a>,
    second: Side<'a>,
    /// Of the containers; the same disk may be in two that differ.
    facts: &'a [FactDiff],
    partitions: &'a [PartitionDiff],
    differing_bytes: u64,
    by_partition: Vec<Share>,
    differing: Vec<RangeRecord>,
}

#[derive(Debug, Serialize)]
struct Side<'a> {
    path: &'a str,
    format: &'static str,
    disk_bytes: u64,
    layout: &'a Layout,
}

/// How much of the difference falls into a partition of the first disk; null: outside of them.
#[derive(Debug, Serialize)]
struct Share {
    number: Option<u32>,
    partition: String,
    differing_bytes: u64,
}

pub(crate) fn run(args: &Args, session: &mut Session) -> Result<Answer> {
    let (one, first) = open(&args.first, args, session)?;
    let (two, second) = open(&args.second, args, session)?;
    let diff = DiskDiff::of(first.as_ref(), second.as_ref(), &session.reporter)
        .about(&format!("{} or {}", one.label, two.label))?;
    one.file.confirm_unchanged()?;
    two.file.confirm_unchanged()?;
    session.reporter.clear();
    let [layout, other] = &diff.layouts;
    let side =
        |input: &'_ Input, image: &dyn Image| (input.label.clone(), image.format().id, image.disk_len());
    let (a, b) = (side(&one, first.as_ref()), side(&two, second.as_ref()));
    let record = Record {
        schema: "kiln.diff.v1",
        same: diff.is_same(),
        first: Side { path: &a.0, format: a.1, disk_bytes: a.2, layout },
        second: Side { path: &b.0, format: b.1, disk_bytes: b.2, layout: other },
        facts: &diff.facts,
        partitions: &diff.partitions,
        differing_bytes: diff.total(),
        by_partition: shares(&diff),
        differing: diff.ranges.iter().map(|range| RangeRecord::placed(*range, Some(layout))).collect(),
    };
    session.printer.json(&record)?;
    text(&record, session);
    Ok(if record.same { Answer::Yes } else { Answer::No })
}

fn open(word: &Path, args: &Args, session: &Session) -> Result<(Input, Box<dyn Image>)> {
    let own = SourceArgs { allow_backing: args.allow_backing.clone(), ..SourceArgs::default() };
    let (mut input, own) = Subject::resolve(word, session)?.open(&own, session)?;
    input.unwrap(&own, None, &session.reporter).about(&input.label)?;
    let image = input.image(&own, &input.context(&own, Tolerance::Strict, Limits::STANDARD)?)?;
    Ok((input, image))
}

fn shares(diff: &DiskDiff) -> Vec<Share> {
    let list = diff.by_partition().into_iter().map(|(partition, differing_bytes)| Share {
        number: partition.map(|one| one.number),
        partition: partition.map_or_else(|| "outside the partitions".to_owned(), ToString::to_string),
        differing_bytes,
    });
    list.collect()
}

fn text(record: &Record<'_>, session: &mut Session) {
    let out = &mut session.printer;
    for (name, side) in [("A", &record.first), ("B", &record.second)] {
        let scheme = side.layout.scheme.words();
        out.field(name, format!("{} ({}, {}, {scheme})", side.path, side.format, Size(side.disk_bytes)));
    }
    let words = |value: &Option<String>| value.clone().unwrap_or_else(|| "–".to_owned());
    for fact in record.facts {
        out.field("container", format!("{}: {} | {}", fact.name, words(&fact.first), words(&fact.second)));
    }
    for partition in record.partitions {
        let words = |side: &Option<kiln_format::partitions::Partition>| {
            side.as_ref().map_or_else(
                || "none".to_owned(),
                |one| format!("{one}, bytes {} to {}", one.start_bytes, one.end()),
            )
        };
        out.field("TABLE", format!("{} | {}", words(&partition.first), words(&partition.second)));
    }
    print_ranges(out, "DIFFERS", &record.differing);
    for share in &record.by_partition {
        out.field("differing", format!("{} in {}", Size(share.differing_bytes), share.partition));
    }
    let answer = if record.same { "the same disk" } else { "NOT the same disk" };
    out.field("answer", answer);
}
