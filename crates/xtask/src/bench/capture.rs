//! What an image of a machine costs, against copying what changed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use super::launch::{Place, median, verdict};
use super::{Bench, note};
use crate::failure::{Failure, Outcome, say};
use crate::run;

/// What the guest has changed.
const CHANGED: usize = 100 << 20;
/// Data of the disk below.
const BASE: usize = 256 << 20;
/// To reach: the time to read and write the change twice.
const TIME: f64 = 1.5;
/// To reach: the bytes of the change.
const BYTES: f64 = 1.1;

/// Measures and prints a table.
pub(super) fn run(bench: &Bench<'_>) -> Outcome {
    if bench.arguments.peers_only {
        return Err(Failure::No("a capture has no peer but the copy beside it".to_owned()));
    }
    let dir = bench.dir.join("capture");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let place = Place { kiln: fs::canonicalize(&bench.arguments.kiln)?, dir: dir.clone() };
    let change = dir.join("change");
    fs::write(&change, noise(2, CHANGED))?;
    let mut text =
        String::from("| job | kiln | copied twice | ratio | to reach | |\n|---|---:|---:|---:|---:|---|\n");
    let mut missed = 0;
    for (what, len) in [("8 GiB", 8_u64 << 30), ("1 TiB", 1 << 40)] {
        note(&format!("a disk of {what}"));
        let base = dir.join("base.raw");
        let file = File::create(&base)?;
        file.set_len(len)?;
        file.write_all_at(&noise(1, BASE), 0)?;
        place.kiln(&["import", &base.display().to_string(), "--name", "base", "--as", "raw"])?;
        let launched = place.kiln(&["launch", "base", "vm", "--no-start"])?;
        let machine = Path::new(launched["instances"][0]["dir"].as_str().unwrap_or_default());
        // Whole clusters: what lies below is not needed to write them.
        let write = format!("write -s {} 1G {CHANGED}", change.display());
        let overlay = machine.join("disk0.qcow2").display().to_string();
        run::run(&dir, "qemu-io", &["-f", "qcow2", "-c", &write, &overlay])?;
        for running in [false, true] {
            if running {
                place.kiln(&["start", "vm"])?;
            }
            let (mut ours, mut copies, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..bench.arguments.runs.max(1) {
                copies.push(copied_twice(&dir, &change)?);
                let began = Instant::now();
                let words = ["capture", "vm", "--name", "taken", "--quiesce", "none"];
                let captured = place.kiln(&words)?;
                ours.push(began.elapsed().as_secs_f64());
                bytes.push(captured["images"][0]["new_bytes"].as_f64().unwrap_or(f64::NAN));
                // The next one stands on the image below again.
                place.kiln(&["rm", "taken"])?;
            }
            let state = if running { "running" } else { "stopped" };
            let (ours, copy, bytes) = (median(&mut ours), median(&mut copies), median(&mut bytes));
            let (time, space) = (ours / copy, bytes / CHANGED as f64);
            missed += usize::from(time > TIME) + usize::from(space > BYTES);
            text.push_str(&format!(
                "| capture of 100 MiB changed on {what}, {state} | {ours:.2} s | {copy:.2} s | {time:.2} | ≤ {TIME} | {} |\n\
                 | its stored bytes against those 100 MiB | {:.1} MiB | – | {space:.2} | ≤ {BYTES} | {} |\n",
                verdict(time <= TIME),
                bytes / f64::from(1 << 20),
                verdict(space <= BYTES),
            ));
        }
        place.kiln(&["destroy", "--force", "vm"])?;
        place.kiln(&["rm", "base"])?;
    }
    fs::remove_dir_all(&dir)?;
    say(&text)?;
    if missed == 0 { Ok(()) } else { Err(Failure::No(format!("{missed} figures missed"))) }
}

/// Seconds to read the change and write it to the device, twice.
fn copied_twice(dir: &Path, change: &Path) -> Outcome<f64> {
    let copy = dir.join("copy");
    let began = Instant::now();
    for _ in 0..2 {
        fs::write(&copy, fs::read(change)?)?;
        File::open(&copy)?.sync_all()?;
    }
    let took = began.elapsed().as_secs_f64();
    fs::remove_file(copy)?;
    Ok(took)
}

/// Bytes that nothing makes smaller (xorshift64).
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend(state.to_le_bytes());
    }
    out
}
