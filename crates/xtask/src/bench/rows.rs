//! The jobs that are measured, as data: what Kiln runs, what its peer runs, and the figure to reach.
//!
//! The lines run in the bench directory, where `disk.raw`, `disk.qcow2`, `zlib.qcow2`, `zstd.qcow2`,
//! `disk.vhd`, `disk.vhdx`, `disk.vdi`, `disk.vmdk`, `stream.vmdk`, `small8g.qcow2` and `huge64t.qcow2` hold the
//! same disk. `$KILN` is the release binary. A job writes `out` (and `store`), which are removed before each run and not while the clock runs.

/// What a figure is held against.
#[derive(Debug, Clone, Copy)]
pub(super) enum Target {
    /// Our time by the peer's.
    Ratio(f64),
    /// Our time, in milliseconds.
    Milliseconds(f64),
}

/// One job.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) job: String,
    pub(super) kiln: String,
    /// Lines that do the peer's job; the fastest in a trial is measured. Empty: no peer.
    pub(super) peers: Vec<String>,
    pub(super) target: Target,
}

/// A conversion: name, our source and arguments, the peer's arguments, target format for `compare`, figure.
struct Conversion {
    job: &'static str,
    source: &'static str,
    source_format: &'static str,
    ours: &'static str,
    peer: &'static [&'static str],
    result_format: &'static str,
    ratio: f64,
}

/// The two ways qemu-img is fastest at, depending on the job; each trial picks the better one.
const PLAIN: &[&str] = &["-O qcow2", "-O qcow2 -m 16 -W"];
const RAW: &[&str] = &["-O raw", "-O raw -m 16 -W"];
const VHD: &[&str] =
    &["-O vpc -o subformat=dynamic,force_size=on", "-O vpc -o subformat=dynamic,force_size=on -m 16 -W"];

const VHDX: &[&str] = &["-O vhdx", "-O vhdx -m 16 -W"];
const VDI: &[&str] = &["-O vdi", "-O vdi -m 16 -W"];
const VMDK: &[&str] = &["-O vmdk", "-O vmdk -m 16 -W"];
const STREAM: &[&str] =
    &["-O vmdk -o subformat=streamOptimized", "-O vmdk -o subformat=streamOptimized -m 16 -W"];

const CONVERSIONS: &[Conversion] = &[
    Conversion {
        job: "raw → qcow2",
        source: "disk.raw",
        source_format: "raw",
        ours: "-O qcow2",
        peer: PLAIN,
        result_format: "qcow2",
        ratio: 0.9,
    },
    Conversion {
        job: "qcow2 → raw",
        source: "disk.qcow2",
        source_format: "qcow2",
        ours: "-O raw",
        peer: RAW,
        result_format: "raw",
        ratio: 0.9,
    },
    Conversion {
        job: "raw → VHD",
        source: "disk.raw",
        source_format: "raw",
        ours: "-O vhd -o subformat=dynamic",
        peer: VHD,
        result_format: "vpc",
        ratio: 0.9,
    },
    Conversion {
        job: "raw → VHDX",
        source: "disk.raw",
        source_format: "raw",
        ours: "-O vhdx",
        peer: VHDX,
        result_format: "vhdx",
        ratio: 0.9,
    },
    Conversion {
        job: "VHDX → raw",
        source: "disk.vhdx",
        source_format: "vhdx",
        ours: "-O raw",
        peer: RAW,
        result_format: "raw",
        ratio: 0.9,
    },
    Conversion {
        job: "raw → VDI",
        source: "disk.raw",
        source_format: "raw",
        ours: "-O vdi",
        peer: VDI,
        result_format: "vdi",
        ratio: 0.9,
    },
    Conversion {
        job: "VDI → raw",
        source: "disk.vdi",
        source_format: "vdi",
        ours: "-O raw",
        peer: RAW,
        result_format: "raw",
        ratio: 0.9,
    },
    Conversion {
        job: "raw → VMDK",
        source: "disk.raw",
        source_format: "raw",
        ours: "-O vmdk",
        peer: VMDK,
        result_format: "vmdk",
        ratio: 0.9,
    },
    Conversion {
        job: "VMDK → raw",
        source: "disk.vmdk",
        source_format: "vmdk",
        ours: "-O raw",
        peer: RAW,
        result_format: "raw",
        ratio: 0.9,
    },
    Conversion {
        job: "raw → streamOptimized VMDK",
        source: "disk.raw",
        source_format: "raw",
        ours: "-O vmdk -o subformat=streamOptimized",
        peer: STREAM,
        result_format: "vmdk",
        ratio: 0.25,
    },
    Conversion {
        job: "streamOptimized VMDK → raw",
        source: "stream.vmdk",
        source_format: "vmdk",
        ours: "-O raw",
        peer: RAW,
        result_format: "raw",
        ratio: 0.5,
    },
    Conversion {
        job: "qcow2 zlib → raw",
        source: "zlib.qcow2",
        source_format: "qcow2",
        ours: "-O raw",
        peer: RAW,
        result_format: "raw",
        ratio: 0.5,
    },
    Conversion {
        job: "qcow2 zstd → raw",
        source: "zstd.qcow2",
        source_format: "qcow2",
        ours: "-O raw",
        peer: RAW,
        result_format: "raw",
        ratio: 0.5,
    },
    Conversion {
        job: "raw → qcow2 zlib",
        source: "disk.raw",
        source_format: "raw",
        ours: "-O qcow2 -c -o compression_type=zlib",
        peer: &["-O qcow2 -c -m 16 -W"],
        result_format: "qcow2",
        ratio: 0.45,
    },
    Conversion {
        job: "raw → qcow2 zstd",
        source: "disk.raw",
        source_format: "raw",
        ours: "-O qcow2 -c -o compression_type=zstd",
        peer: &["-O qcow2 -c -m 16 -W -o compression_type=zstd"],
        result_format: "qcow2",
        ratio: 0.5,
    },
];

impl Conversion {
    /// The weak promise: written, neither synced nor read back.
    fn weak(&self) -> Row {
        Row {
            job: format!("{}, written only", self.job),
            kiln: format!("\"$KILN\" convert {} out {} --no-sync --no-verify", self.source, self.ours),
            peers: self.peer.iter().map(|flags| self.qemu(flags)).collect(),
            target: Target::Ratio(self.ratio),
        }
    }

    /// The default promise: synced, and read back against the source.
    fn proven(&self) -> Row {
        let compare = format!(
            "qemu-img compare -f {} -F {} {} out",
            self.source_format, self.result_format, self.source
        );
        Row {
            job: format!("{}, synced and compared", self.job),
            kiln: format!("\"$KILN\" convert {} out {}", self.source, self.ours),
            peers: self
                .peer
                .iter()
                .map(|flags| format!("{}; sync out; {compare}", self.qemu(flags)))
                .collect(),
            target: Target::Ratio(self.ratio),
        }
    }

    fn qemu(&self, flags: &str) -> String {
        format!("qemu-img convert -f {} {flags} {} out", self.source_format, self.source)
    }
}

/// All rows of the main table.
pub(super) fn all() -> Vec<Row> {
    let mut rows: Vec<Row> = CONVERSIONS.iter().flat_map(|job| [job.weak(), job.proven()]).collect();
    for (source, name) in [("disk.raw", "raw"), ("disk.qcow2", "qcow2")] {
        for (peer, line) in [
            ("sha256sum", "sha256sum disk.raw"),
            ("fsverity digest", "fsverity digest --hash-alg=sha256 --block-size=65536 disk.raw"),
        ] {
            rows.push(Row {
                job: format!("content digest of {name}, against {peer} of the raw file"),
                kiln: format!("\"$KILN\" verify {source} --content-only --json"),
                peers: vec![line.to_owned()],
                target: Target::Ratio(0.1),
            });
        }
    }
    rows.push(Row {
        job: "verify --deep of a qcow2, against sha256sum of the file".to_owned(),
        kiln: "\"$KILN\" verify --deep disk.qcow2 --json".to_owned(),
        peers: vec!["sha256sum disk.qcow2".to_owned()],
        target: Target::Ratio(1.0),
    });
    rows.push(Row {
        job: "import of a raw file, against convert, sync and sha256sum".to_owned(),
        kiln: "\"$KILN\" import disk.raw --name bench:1 --store store".to_owned(),
        peers: PLAIN
            .iter()
            .map(|flags| format!("qemu-img convert -f raw {flags} disk.raw out; sync out; sha256sum out"))
            .collect(),
        target: Target::Ratio(1.2),
    });
    let pack = "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized -m 16 -W disk.raw box.vmdk; \
                sha256sum box.vmdk > box.mf; tar --format=ustar -cf out box.mf box.vmdk; rm box.vmdk box.mf";
    for (promise, flags, sync) in
        [("written only", " --no-sync --no-verify", ""), ("synced and compared", "", "; sync out")]
    {
        // The peer's disk is compared by the peer's own reader before it is packed.
        let compared = if sync.is_empty() {
            pack.to_owned()
        } else {
            pack.replace("; sha256sum", "; qemu-img compare -f raw -F vmdk disk.raw box.vmdk; sha256sum")
        };
        rows.push(Row {
            job: format!("raw → OVA, {promise}"),
            kiln: format!("\"$KILN\" convert disk.raw out -O ova{flags}"),
            peers: vec![format!("{compared}{sync}")],
            target: Target::Ratio(0.3),
        });
    }
    for (file, unpack, format) in [
        ("disk.raw.xz", "xz -dkc", "raw"),
        ("disk.qcow2.gz", "gzip -dkc", "qcow2"),
        ("disk.raw.zst", "zstd -qdkc", "raw"),
    ] {
        rows.push(Row {
            job: format!("import of {file}, against unpacking, convert, sync and sha256sum"),
            kiln: format!("\"$KILN\" import {file} --name bench:1 --store store"),
            peers: PLAIN
                .iter()
                .map(|flags| {
                    format!(
                        "sha256sum {file}; {unpack} {file} > unpacked; \
                         qemu-img convert -f {format} {flags} unpacked out; sync out; rm unpacked"
                    )
                })
                .collect(),
            target: Target::Ratio(0.6),
        });
    }
    for file in [
        "disk.raw",
        "disk.qcow2",
        "zlib.qcow2",
        "zstd.qcow2",
        "disk.vhd",
        "disk.vhdx",
        "disk.vdi",
        "disk.vmdk",
        "stream.vmdk",
        "huge64t.qcow2",
    ] {
        rows.push(Row {
            job: format!("inspect --no-guest {file}"),
            kiln: format!("\"$KILN\" inspect {file} --no-guest --json"),
            peers: Vec::new(),
            target: Target::Milliseconds(30.0),
        });
    }
    rows.extend(guests());
    rows
}

/// Looking into the guest: as fast as a person waits, and against libguestfs, which starts a small machine for it.
fn guests() -> Vec<Row> {
    let check = "\"$KILN\" check --for all disk.raw --json";
    let inspector = "LIBGUESTFS_BACKEND=direct LIBGUESTFS_BACKEND_SETTINGS=force_tcg \
                     virt-inspector --format=raw -a disk.raw";
    let row = |job: &str, kiln: &str, peers: &[&str], target| Row {
        job: job.to_owned(),
        kiln: kiln.to_owned(),
        peers: peers.iter().map(|&line| line.to_owned()).collect(),
        target,
    };
    vec![
        row("inspect disk.raw, with its guest", INSPECT, &[], Target::Milliseconds(500.0)),
        row(
            "inspect disk.qcow2, with its guest",
            "\"$KILN\" inspect disk.qcow2 --json",
            &[],
            Target::Milliseconds(500.0),
        ),
        row("check --for all disk.raw", check, &[], Target::Milliseconds(1500.0)),
        row("inspect, against virt-inspector", INSPECT, &[inspector], Target::Ratio(0.05)),
        row("check --for all, against virt-inspector", check, &[inspector], Target::Ratio(0.05)),
    ]
}

const INSPECT: &str = "\"$KILN\" inspect disk.raw --json";

/// The same work on 64 TiB and on 8 GiB with the same data: ours against ours.
pub(super) fn scaling() -> Vec<Row> {
    [
        ("inspect --no-guest", "\"$KILN\" inspect FILE --no-guest --json", 1.5),
        ("inspect", "\"$KILN\" inspect FILE --json", 1.2),
        // The answer may be no: on the larger disk the backup of the partition table is not at the end.
        ("check --for all", "\"$KILN\" check FILE --for all --json || [ $? = 1 ]", 1.2),
        ("content digest", "\"$KILN\" verify FILE --content-only --json", 1.5),
        ("convert to qcow2", "\"$KILN\" convert FILE out -O qcow2", 1.5),
    ]
    .map(|(job, line, ratio)| Row {
        job: format!("{job}: 64 TiB against 8 GiB, same data"),
        kiln: line.replace("FILE", "huge64t.qcow2"),
        peers: vec![line.replace("FILE", "small8g.qcow2")],
        target: Target::Ratio(ratio),
    })
    .into()
}
