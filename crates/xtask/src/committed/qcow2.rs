//! The qcow2 fixtures: one image per feature of the format.

use std::fs;

use super::content::{Write, after, flat, sha256};
use super::{Oracle, Snapshot, Workshop};
use crate::failure::{Failure, Outcome};

/// No multiple of any cluster size but 512 B.
const LEN: usize = 3 * 1024 * 1024 + 3 * 512;
const QCOW2: Oracle = Oracle::Qemu("qcow2");

/// Name, further arguments and `-o` options of the images that hold the plain model.
const CONVERTED: &[(&str, &[&str], &str)] = &[
    ("v3.qcow2", &[], "compat=1.1"),
    ("v2.qcow2", &[], "compat=0.10"),
    ("v3-cluster-512.qcow2", &[], "cluster_size=512"),
    ("v3-cluster-4k.qcow2", &[], "cluster_size=4096"),
    ("v3-cluster-2m.qcow2", &[], "cluster_size=2M"),
    ("v3-refcount-1.qcow2", &[], "refcount_bits=1"),
    ("v3-refcount-2.qcow2", &[], "refcount_bits=2"),
    ("v3-refcount-4.qcow2", &[], "refcount_bits=4"),
    ("v3-refcount-8.qcow2", &[], "refcount_bits=8"),
    ("v3-refcount-32.qcow2", &[], "refcount_bits=32"),
    ("v3-refcount-64.qcow2", &[], "refcount_bits=64"),
    ("v3-zlib.qcow2", &["-c"], "compression_type=zlib"),
    ("v2-zlib.qcow2", &["-c"], "compat=0.10"),
    ("v3-zlib-cluster-512.qcow2", &["-c"], "cluster_size=512"),
    ("v3-zlib-cluster-2m.qcow2", &["-c"], "cluster_size=2M"),
    ("v3-zstd.qcow2", &["-c"], "compression_type=zstd"),
    ("v3-zstd-cluster-4k.qcow2", &["-c"], "compression_type=zstd,cluster_size=4096"),
    ("v3-preallocated.qcow2", &[], "preallocation=metadata"),
    ("v3-lazy-refcounts.qcow2", &[], "lazy_refcounts=on"),
    ("v3-extended-l2.qcow2", &[], "extended_l2=on"),
    ("v3-extended-l2-zstd.qcow2", &["-c"], "extended_l2=on,compression_type=zstd"),
];

/// Writes that leave single subclusters, zero clusters and parts of clusters behind.
const PATCHES: &[Write] = &[
    Write::Fill { at: 2048, len: 2048, byte: 0x11 },
    Write::Fill { at: 200 * 1024 + 512, len: 512, byte: 0x22 },
    Write::Zero { at: 65536, len: 65536 },
    Write::Zero { at: 1024 * 1024, len: 2048 },
    Write::Fill { at: 2 * 1024 * 1024 - 1024, len: 4096, byte: 0x33 },
    Write::Fill { at: LEN - 1024, len: 512, byte: 0x44 },
];

pub(super) fn make(workshop: &mut Workshop) -> Outcome {
    let model = flat(LEN);
    fs::write(workshop.path("flat.raw"), &model)?;
    for &(name, more, options) in CONVERTED {
        let mut arguments = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", options];
        arguments.extend(more);
        arguments.extend(["flat.raw", name]);
        workshop.tool("qemu-img", &arguments)?;
        let recipe = format!("qemu-img {}", arguments.join(" "));
        workshop.enter(name, "qcow2", &model, &QCOW2, &[], &recipe)?;
    }
    patched(workshop, &model)?;
    snapshots(workshop, &model)?;
    backing(workshop, &model)?;
    data_file(workshop, &model)
}

fn write_all(workshop: &Workshop, driver: &str, name: &str, writes: &[Write]) -> Outcome {
    let commands: Vec<String> = writes.iter().map(|write| write.command()).collect();
    let mut arguments = vec!["-f", driver];
    for command in &commands {
        arguments.extend(["-c", command]);
    }
    arguments.push(name);
    workshop.tool("qemu-io", &arguments)
}

fn words(writes: &[Write]) -> String {
    writes.iter().map(|write| write.command()).collect::<Vec<_>>().join("; ")
}

/// Images written in place: zero clusters over data, single subclusters.
fn patched(workshop: &mut Workshop, model: &[u8]) -> Outcome {
    for (name, options) in
        [("v3-zero-clusters.qcow2", "compat=1.1"), ("v3-subclusters.qcow2", "extended_l2=on")]
    {
        workshop
            .tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "-o", options, "flat.raw", name])?;
        write_all(workshop, "qcow2", name, PATCHES)?;
        let recipe = format!("convert -o {options}, then qemu-io: {}", words(PATCHES));
        workshop.enter(name, "qcow2", &after(model.to_vec(), PATCHES), &QCOW2, &[], &recipe)?;
    }
    Ok(())
}

/// Two internal snapshots and an active state, all different; the dates are set to 2026-01-01.
fn snapshots(workshop: &mut Workshop, model: &[u8]) -> Outcome {
    let name = "v3-snapshots.qcow2";
    let (first, second) = PATCHES.split_at(2);
    workshop.tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", "flat.raw", name])?;
    workshop.tool("qemu-img", &["snapshot", "-c", "first", name])?;
    write_all(workshop, "qcow2", name, first)?;
    workshop.tool("qemu-img", &["snapshot", "-c", "second", name])?;
    write_all(workshop, "qcow2", name, second)?;

    let path = workshop.path(name);
    let mut image = fs::read(&path)?;
    date_snapshots(&mut image)?;
    fs::write(&path, image)?;

    let states = [("first", model.to_vec()), ("second", after(model.to_vec(), first))];
    let mut recorded = Vec::new();
    for (snapshot, state) in &states {
        let seen = workshop.read_by_qemu(name, "qcow2", &["-l", &format!("snapshot.name={snapshot}")])?;
        if &seen != state {
            return Err(Failure::No(format!(
                "{name}: snapshot {snapshot} reads other bytes than the model holds"
            )));
        }
        recorded.push(Snapshot { name: (*snapshot).to_owned(), content_sha256: sha256(state) });
    }
    let recipe =
        format!("snapshot -c first; {}; snapshot -c second; {}; dates set", words(first), words(second));
    workshop.enter(name, "qcow2", &after(model.to_vec(), PATCHES), &QCOW2, &[], &recipe)?;
    if let Some(entry) = workshop.entries.last_mut() {
        entry.snapshots = recorded;
    }
    Ok(())
}

/// Sets the date of every entry of the snapshot table (qcow2 specification, "Snapshots").
fn date_snapshots(image: &mut [u8]) -> Outcome {
    let number = |image: &[u8], at: usize, len: usize| {
        image[at..at + len].iter().fold(0_usize, |value, &byte| value << 8 | usize::from(byte))
    };
    let mut at = number(image, 64, 8);
    for _ in 0..number(image, 60, 4) {
        image[at + 16..at + 20].copy_from_slice(&1_767_225_600_u32.to_be_bytes());
        image[at + 20..at + 24].fill(0);
        let length = 40 + number(image, at + 36, 4) + number(image, at + 12, 2) + number(image, at + 14, 2);
        at += length.next_multiple_of(8);
    }
    Ok(())
}

/// An overlay longer than its backing file, one shorter, and a chain of three.
fn backing(workshop: &mut Workshop, model: &[u8]) -> Outcome {
    let longer_len = LEN + 70 * 1024;
    let shorter_len = 1024 * 1024;
    let short_writes = &PATCHES[..2];
    let mut longer = model.to_vec();
    longer.resize(longer_len, 0);
    let tail = [Write::Fill { at: LEN + 1024, len: 512, byte: 0x55 }];
    let longer = after(after(longer, PATCHES), &tail);
    let shorter = after(model[..shorter_len].to_vec(), short_writes);
    let chained = after(longer.clone(), &[Write::Fill { at: 4096, len: 512, byte: 0x66 }]);

    let create = |workshop: &Workshop, name: &str, base: &str, len: usize| {
        let len = len.to_string();
        workshop.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", name, &len])
    };
    create(workshop, "backed-longer.qcow2", "v3.qcow2", longer_len)?;
    write_all(workshop, "qcow2", "backed-longer.qcow2", &[PATCHES, &tail].concat())?;
    let recipe = "create -b v3.qcow2, 70 KiB longer, then qemu-io writes";
    workshop.enter("backed-longer.qcow2", "qcow2", &longer, &QCOW2, &["v3.qcow2"], recipe)?;

    create(workshop, "backed-shorter.qcow2", "v3.qcow2", shorter_len)?;
    write_all(workshop, "qcow2", "backed-shorter.qcow2", short_writes)?;
    let recipe = "create -b v3.qcow2, 1 MiB long, then qemu-io writes";
    workshop.enter("backed-shorter.qcow2", "qcow2", &shorter, &QCOW2, &["v3.qcow2"], recipe)?;

    create(workshop, "backed-chain.qcow2", "backed-longer.qcow2", longer_len)?;
    write_all(workshop, "qcow2", "backed-chain.qcow2", &[Write::Fill { at: 4096, len: 512, byte: 0x66 }])?;
    let needs = ["backed-longer.qcow2", "v3.qcow2"];
    workshop.enter(
        "backed-chain.qcow2",
        "qcow2",
        &chained,
        &QCOW2,
        &needs,
        "create -b backed-longer.qcow2, one write",
    )
}

/// Guest data in a second file, with and without the promise that it is the raw disk.
fn data_file(workshop: &mut Workshop, model: &[u8]) -> Outcome {
    for (name, data, raw) in
        [("data-file.qcow2", "data-file.data", "off"), ("data-file-raw.qcow2", "data-file-raw.data", "on")]
    {
        let options = format!("data_file={data},data_file_raw={raw}");
        let len = LEN.to_string();
        workshop.tool("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, name, &len])?;
        workshop.tool("qemu-img", &["convert", "-n", "-f", "raw", "-O", "qcow2", "flat.raw", name])?;
        let recipe = format!("qemu-img create -o {options}, convert -n flat.raw");
        workshop.enter(name, "qcow2", model, &QCOW2, &[data], &recipe)?;
        let content = fs::read(workshop.path(data))?;
        workshop.enter(
            data,
            "raw",
            &content,
            &Oracle::Qemu("raw"),
            &[],
            &format!("the data file of {name}"),
        )?;
    }
    Ok(())
}
