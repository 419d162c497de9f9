//! What a launch costs before QEMU runs, and how soon its guest is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_testkit::fixtures::Fixture;

use super::Bench;
use super::note;
use crate::failure::{Failure, Outcome, say};
use crate::run;

/// To reach before QEMU runs: one machine, and each of fifty.
const ONE_MS: f64 = 100.0;
const EACH_MS: f64 = 30.0;
/// To reach by the time of a hand-written line.
const RATIO: f64 = 1.05;
const GUEST_TIME: Duration = Duration::from_secs(1200);

/// Measures and prints a table. `--only overhead` or `--only guest` measures a part.
pub(super) fn run(bench: &Bench<'_>) -> Outcome {
    if bench.arguments.peers_only {
        return Err(Failure::No("a launch has no peer but the hand-written line beside it".to_owned()));
    }
    let dir = bench.dir.join("launch");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let place = Place { kiln: fs::canonicalize(&bench.arguments.kiln)?, dir: dir.clone() };
    let disk = match &bench.arguments.disk {
        Some(path) => fs::canonicalize(path)?,
        None => Fixture::Debian12.ensure()?,
    };
    let only = &bench.arguments.only;
    let wanted = |part: &str| only.is_empty() || only.iter().any(|words| part.contains(words.as_str()));
    let mut text =
        String::from("| job | kiln | peer | ratio | to reach | |\n|---|---:|---:|---:|---:|---|\n");
    let mut missed = 0;
    note("importing the disk, and the same with 64 TiB");
    place.kiln(&["import", &disk.display().to_string(), "--name", "disk"])?;
    if wanted("overhead") {
        let huge = dir.join("huge.qcow2").display().to_string();
        let source = disk.display().to_string();
        run::run(&dir, "qemu-img", &["create", "-q", "-f", "qcow2", &huge, "64T"])?;
        run::run(&dir, "qemu-img", &["convert", "-n", "-f", "raw", "-O", "qcow2", &source, &huge])?;
        place.kiln(&["import", &huge, "--name", "huge"])?;
        for (image, what) in [("disk", "8 GiB"), ("huge", "64 TiB")] {
            for (count, target) in [(1_u32, ONE_MS), (50, EACH_MS)] {
                let mut times = Vec::new();
                for _ in 0..bench.arguments.runs.max(1) {
                    times.push(place.overhead(image, count)? / f64::from(count));
                }
                let median = median(&mut times);
                let reached = median <= target;
                missed += usize::from(!reached);
                let job = if count == 1 {
                    "launch, before QEMU runs".to_owned()
                } else {
                    format!("each of {count}")
                };
                text.push_str(&format!(
                    "| {job} ({what}) | {median:.1} ms | – | – | ≤ {target} ms | {} |\n",
                    verdict(reached)
                ));
            }
        }
    }
    if wanted("guest") {
        let (mut ours, mut peers) = (Vec::new(), Vec::new());
        for round in 0..bench.arguments.runs.max(1) {
            note(&format!("a guest by kiln, then by hand: {}", round + 1));
            let name = format!("guest{round}");
            ours.push(place.by_kiln(&name)?);
            peers.push(place.by_hand(&name)?);
        }
        for (part, job) in [(0, "launch to `login:`"), (1, "launch to cloud-init finished")] {
            let of = |all: &[[f64; 2]]| median(&mut all.iter().map(|one| one[part]).collect::<Vec<_>>());
            let (ours, peer) = (of(&ours), of(&peers));
            let reached = ours / peer <= RATIO;
            missed += usize::from(!reached);
            text.push_str(&format!(
                "| {job} (TCG) | {ours:.1} s | {peer:.1} s | {:.2} | ≤ {RATIO} | {} |\n",
                ours / peer,
                verdict(reached)
            ));
        }
    }
    fs::remove_dir_all(&dir)?;
    say(&text)?;
    if missed == 0 { Ok(()) } else { Err(Failure::No(format!("{missed} figures missed"))) }
}

pub(super) fn verdict(reached: bool) -> &'static str {
    if reached { "reached" } else { "**missed**" }
}

pub(super) fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A store of the measurement's own.
pub(super) struct Place {
    pub(super) kiln: PathBuf,
    pub(super) dir: PathBuf,
}

impl Place {
    pub(super) fn kiln(&self, words: &[&str]) -> Outcome<serde_json::Value> {
        let store = self.dir.join("store").display().to_string();
        let all = [&["--store", &store, "--json"], words].concat();
        let out = run::run(&self.dir, &self.kiln.display().to_string(), &all)?;
        serde_json::from_slice(&out).map_err(|error| Failure::No(format!("kiln {words:?}: {error}")))
    }

    /// Milliseconds of a whole `kiln launch --no-start`: its process, its files, its records.
    fn overhead(&self, image: &str, count: u32) -> Outcome<f64> {
        let words = ["launch", image, "bench", "--no-start", "--count", &count.to_string()];
        // Nothing of ours waits for what another job has written.
        run::run(&self.dir, "sync", &["-f", "."])?;
        let began = Instant::now();
        let launched = self.kiln(&words)?;
        let took = began.elapsed();
        for one in launched["instances"].as_array().into_iter().flatten() {
            self.kiln(&["destroy", one["id"].as_str().unwrap_or_default()])?;
        }
        Ok(took.as_secs_f64() * 1000.0)
    }

    /// Seconds from the launch to the prompt and to the end of cloud-init.
    fn by_kiln(&self, name: &str) -> Outcome<[f64; 2]> {
        let began = Instant::now();
        let launched = self.kiln(&["launch", "disk", name, "--cpus", "2"])?;
        let dir = PathBuf::from(launched["instances"][0]["dir"].as_str().unwrap_or_default());
        let times = watch(&dir.join("console.log"), began);
        self.kiln(&["stop", "--force", name])?;
        times
    }

    /// The same disk and seed by a line that people write.
    fn by_hand(&self, name: &str) -> Outcome<[f64; 2]> {
        let shown = self.kiln(&["ps", "--all"])?;
        let instances = shown["instances"].as_array().cloned().unwrap_or_default();
        let view = instances.into_iter().find(|one| one["name"] == name).unwrap_or_default();
        let dir = PathBuf::from(view["dir"].as_str().unwrap_or_default());
        let layer = self.kiln(&["show", "disk"])?["layer_paths"][0].as_str().unwrap_or_default().to_owned();
        let (overlay, serial) = (self.dir.join("hand.qcow2"), self.dir.join("hand.log"));
        for file in [&overlay, &serial] {
            if file.exists() {
                fs::remove_file(file)?;
            }
        }
        let began = Instant::now();
        let path = overlay.display().to_string();
        run::run(
            &self.dir,
            "qemu-img",
            &["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &layer, &path],
        )?;
        let seed = format!("file={},if=virtio,format=raw,readonly=on", dir.join("seed.img").display());
        let uuid = view["uuid"].as_str().unwrap_or_default();
        let mac = view["nics"][0]["mac"].as_str().unwrap_or_default();
        let child = Command::new("qemu-system-x86_64")
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024", "-uuid", uuid])
            .args(["-display", "none", "-serial", &format!("file:{}", serial.display())])
            .args(["-drive", &format!("file={path},if=virtio,format=qcow2"), "-drive", &seed])
            .args(["-nic", &format!("user,model=virtio-net-pci,mac={mac}")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let _child = Ends(child);
        watch(&serial, began)
    }
}

struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Seconds until a console has printed a prompt, and the end of cloud-init.
fn watch(log: &Path, began: Instant) -> Outcome<[f64; 2]> {
    let (mut prompt, mut finished) = (None, None);
    while began.elapsed() < GUEST_TIME {
        let text = fs::read(log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let now = began.elapsed().as_secs_f64();
        if prompt.is_none() && text.contains(" login: ") {
            prompt = Some(now);
        }
        if finished.is_none() && text.contains("Cloud-init v.") && text.contains(" finished at ") {
            finished = Some(now);
        }
        if let (Some(prompt), Some(finished)) = (prompt, finished) {
            return Ok([prompt, finished]);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err(Failure::No(format!("no guest in {} s", GUEST_TIME.as_secs())))
}
