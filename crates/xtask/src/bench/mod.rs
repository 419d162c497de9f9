//! `cargo xtask bench`: Kiln against its peers, in one run on one machine; prints the README's table.

mod capture;
mod launch;
mod layers;
mod measure;
mod rows;
mod table;

use std::fs;
use std::path::{Path, PathBuf};

use kiln_testkit::fixtures::Fixture;

use self::measure::{Sample, sample, summary};
use self::rows::{Row, all, scaling};
use self::table::{Measured, details, peak, render};
use crate::failure::{Failure, Outcome, say};
use crate::run;

/// The most memory in MiB that any command of ours may take.
const PEAK_MIB: u64 = 96;
/// The same where what is read is packed: every thread of an xz decoder keeps a block.
const PEAK_PACKED_MIB: u64 = 128;

/// Measure kiln against qemu-img and others on the Debian disk: same run, warm cache, alternating, median of
/// several. Prints the README's table on standard output, details on standard error. Exit 1 when a figure is missed.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// `layers`: instead of the table, what a plain and a compressed layer cost (import, disk, boot); `launch`: what a
    /// launch costs before QEMU runs, and how soon its guest is there; `capture`: what an image of a machine costs.
    #[arg(value_enum, default_value = "table")]
    what: What,
    /// Measured runs per side and job.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// The binary to measure.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release/kiln"))]
    kiln: PathBuf,
    /// The disk; the Debian fixture when absent.
    #[arg(long)]
    disk: Option<PathBuf>,
    /// Only jobs whose name contains this; may be given several times.
    #[arg(long)]
    only: Vec<String>,
    /// Run the peers alone.
    #[arg(long)]
    peers_only: bool,
    /// Where inputs and outputs are kept meanwhile.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/bench"))]
    dir: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    Table,
    Layers,
    Launch,
    /// What an image of a machine costs.
    Capture,
}

/// How each input is made from `disk.raw`: its name, then the lines.
const INPUTS: &[(&str, &str)] = &[
    ("disk.qcow2", "qemu-img convert -f raw -O qcow2 disk.raw TEMP"),
    ("zlib.qcow2", "qemu-img convert -f raw -O qcow2 -c -m 16 -W disk.raw TEMP"),
    ("zstd.qcow2", "qemu-img convert -f raw -O qcow2 -c -m 16 -W -o compression_type=zstd disk.raw TEMP"),
    ("disk.vhd", "qemu-img convert -f raw -O vpc -o subformat=dynamic,force_size=on disk.raw TEMP"),
    ("disk.vhdx", "qemu-img convert -f raw -O vhdx disk.raw TEMP"),
    ("disk.raw.xz", "xz -3 -T2 -c disk.raw > TEMP"),
    ("disk.qcow2.gz", "gzip -6 -c disk.qcow2 > TEMP"),
    ("disk.raw.zst", "zstd -q -f -3 -c disk.raw > TEMP"),
    ("disk.vdi", "qemu-img convert -f raw -O vdi disk.raw TEMP"),
    ("disk.vmdk", "qemu-img convert -f raw -O vmdk disk.raw TEMP"),
    ("stream.vmdk", "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized disk.raw TEMP"),
    (
        "small8g.qcow2",
        "qemu-img create -q -f qcow2 TEMP 8G; qemu-img convert -n -f raw -O qcow2 disk.raw TEMP",
    ),
    (
        "huge64t.qcow2",
        "qemu-img create -q -f qcow2 TEMP 64T; qemu-img convert -n -f raw -O qcow2 disk.raw TEMP",
    ),
];

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    if !arguments.peers_only && !arguments.kiln.is_file() {
        let why =
            format!("{} is absent: `make build` makes it, or give --peers-only", arguments.kiln.display());
        return Err(Failure::No(why));
    }
    fs::create_dir_all(&arguments.dir)?;
    let bench = Bench { dir: fs::canonicalize(&arguments.dir)?, arguments };
    match arguments.what {
        What::Launch => return launch::run(&bench),
        What::Capture => return capture::run(&bench),
        What::Table | What::Layers => bench.prepare()?,
    }
    if arguments.what == What::Layers { layers::run(&bench) } else { bench.table() }
}

/// One session of measuring.
struct Bench<'a> {
    dir: PathBuf,
    arguments: &'a Arguments,
}

impl Bench<'_> {
    /// Makes the inputs that are not there from an earlier session on the same disk.
    fn prepare(&self) -> Outcome {
        let disk = match &self.arguments.disk {
            Some(path) => fs::canonicalize(path)?,
            None => Fixture::Debian12.ensure()?,
        };
        let link = self.dir.join("disk.raw");
        if fs::read_link(&link).ok().as_deref() != Some(disk.as_path()) {
            // Inputs made from another disk. Nothing else in the directory is touched.
            for name in INPUTS.iter().map(|(name, _)| *name).chain(["disk.raw"]) {
                remove(&self.dir.join(name))?;
            }
            std::os::unix::fs::symlink(&disk, &link)?;
        }
        for (name, line) in INPUTS {
            if !self.dir.join(name).exists() {
                note(&format!("preparing {name}"));
                let line = format!("{line}; sync TEMP; mv TEMP {name}").replace("TEMP", "preparing.tmp");
                sample(&self.dir, &line)?;
            }
        }
        Ok(())
    }

    fn table(&self) -> Outcome {
        let only = &self.arguments.only;
        let chosen = |row: &Row| only.is_empty() || only.iter().any(|words| row.job.contains(words.as_str()));
        let scaling = if self.arguments.peers_only { Vec::new() } else { scaling() };
        let rows = all().into_iter().map(|row| (row, false));
        let rows = rows.chain(scaling.into_iter().map(|row| (row, true)));
        let mut measured = Vec::new();
        for (row, peer_is_kiln) in rows.filter(|(row, _)| chosen(row)) {
            let done = self.measure(row, peer_is_kiln)?;
            // Told at once: the whole takes the better part of an hour.
            note(&details(&done));
            measured.push(done);
        }
        if measured.is_empty() {
            return Err(Failure::No(format!("no job's name contains any of {only:?}")));
        }
        self.print(&measured)
    }

    fn print(&self, measured: &[Measured]) -> Outcome {
        let qemu = run::run(Path::new("/"), "qemu-img", &["--version"])?;
        let qemu = String::from_utf8_lossy(&qemu);
        let version = qemu.split_whitespace().nth(2).unwrap_or("?").to_owned();
        let cores = std::thread::available_parallelism()?;
        let mut text = format!(
            "Median of {} runs, {cores} cores, warm cache, Debian 12 disk of 8 GiB with 1 GiB of data, qemu-img {version}.\n\n",
            self.arguments.runs
        );
        text.push_str(&render(measured));
        let mut missed = measured.iter().filter(|row| row.reached() == Some(false)).count();
        for (what, packed, most) in [
            ("peak memory, all but packed imports", false, PEAK_MIB),
            ("peak memory, imports of packed files", true, PEAK_PACKED_MIB),
        ] {
            let Some(bytes) = peak(measured, packed) else { continue };
            let reached = bytes <= most << 20;
            missed += usize::from(!reached);
            text.push_str(&format!(
                "| {what} | {:.1} MiB | – | – | ≤ {most} MiB | {} |\n",
                bytes as f64 / f64::from(1 << 20),
                if reached { "reached" } else { "**missed**" }
            ));
        }
        say(&text)?;
        if missed == 0 { Ok(()) } else { Err(Failure::No(format!("{missed} figures missed"))) }
    }

    /// Measures one row: a trial of every line, which also warms the cache, then alternating runs.
    fn measure(&self, row: Row, peer_is_kiln: bool) -> Outcome<Measured> {
        note(&format!("measuring {}", row.job));
        let skip_ours = self.arguments.peers_only;
        let mut best: Option<(String, Sample)> = None;
        if !(peer_is_kiln && skip_ours) {
            for line in &row.peers {
                let trial = self.timed(line)?;
                if best.as_ref().is_none_or(|(_, fastest)| trial.wall < fastest.wall) {
                    best = Some((line.clone(), trial));
                }
            }
        }
        if !skip_ours {
            self.timed(&row.kiln)?;
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..self.arguments.runs {
            if !skip_ours {
                ours.push(self.timed(&row.kiln)?);
            }
            if let Some((line, _)) = &best {
                theirs.push(self.timed(line)?);
            }
        }
        let peer = best.and_then(|(line, _)| Some((line, summary(&theirs)?)));
        Ok(Measured { ours: summary(&ours), peer, row })
    }

    /// One timed run, begun with nothing left of the last: no outputs, no dirty pages.
    fn timed(&self, line: &str) -> Outcome<Sample> {
        self.clear()?;
        run::run(&self.dir, "sync", &["-f", "."])?;
        let taken = sample(&self.dir, &line.replace("\"$KILN\"", &self.kiln()))?;
        self.clear()?;
        Ok(taken)
    }

    fn clear(&self) -> Outcome {
        remove(&self.dir.join("out"))?;
        let store = self.dir.join("store");
        if store.exists() {
            fs::remove_dir_all(store)?;
        }
        Ok(())
    }

    /// The binary, quoted for the shell.
    fn kiln(&self) -> String {
        let path = fs::canonicalize(&self.arguments.kiln).unwrap_or_else(|_| self.arguments.kiln.clone());
        format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
    }
}

/// Removes a file or link that may be absent.
fn remove(path: &Path) -> Outcome {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Progress, on standard error.
fn note(line: &str) {
    use std::io::Write;
    // A closed standard error is no reason to stop measuring.
    let _ = writeln!(std::io::stderr(), "{line}");
}
