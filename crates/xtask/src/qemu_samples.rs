//! `cargo xtask qemu-samples`: what QEMU's own sample images hold, by QEMU's reading.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use kiln_testkit::fixtures::{Fixture, committed_dir};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, Outcome, say};
use crate::run;

/// Fetch QEMU's sample images into the cache and record what the qcow2, VHD, VHDX and VMDK ones hold, by qemu-img's
/// reading, in `fixtures/qemu-samples.json`. Two of them are 127 GiB of mostly zeros: some minutes.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only fetch, and print the directory.
    #[arg(long)]
    fetch: bool,
}

/// A sample that QEMU reads.
#[derive(Debug, Serialize, Deserialize)]
struct Sample {
    name: String,
    format: String,
    image_bytes: u64,
    image_sha256: String,
    /// Which of the sizes in the file counts: `current_size` or `chs` (VHD only).
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rule: Option<String>,
    virtual_size: u64,
    /// Plain SHA-256 of the flat content.
    content_sha256: String,
    /// `fsverity digest --hash-alg=sha256 --block-size=65536` of the flat content.
    content_fsverity_sha256_64k: String,
}

/// A sample that is broken on purpose and that QEMU refuses.
#[derive(Debug, Serialize, Deserialize)]
struct Hostile {
    name: String,
    format: String,
    image_sha256: String,
    qemu_says: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    schema: String,
    samples: Vec<Sample>,
    refused: Vec<Hostile>,
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let dir = Fixture::QemuSamples.ensure()?;
    if arguments.fetch {
        return say(&dir.display().to_string());
    }
    let scratch = tempfile::tempdir_in(dir.parent().unwrap_or(Path::new("/tmp")))?;
    let mut record =
        Record { schema: "kiln.qemu-samples.v1".to_owned(), samples: Vec::new(), refused: Vec::new() };
    let mut names: Vec<String> = fs::read_dir(&dir)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| driver_of(name).is_some())
        .collect();
    names.sort();
    for name in names {
        let Some(driver) = driver_of(&name) else { continue };
        say(&format!("reading {name}"))?;
        let image = dir.join(&name);
        let flat = scratch.path().join("flat.raw");
        let from =
            if driver == "vhdx" { replayed(&image, scratch.path())? } else { image.display().to_string() };
        let convert = ["convert", "-f", driver, "-O", "raw", &from, "flat.raw"];
        match run::run(scratch.path(), "qemu-img", &convert) {
            Ok(_) => record.samples.push(sample(&name, driver, &image, &flat)?),
            Err(run::RunError::Failed { said, .. }) => record.refused.push(Hostile {
                format: format_of(driver).to_owned(),
                image_sha256: sha256_of(&image)?,
                qemu_says: said.trim().rsplit(": ").next().unwrap_or_default().to_owned(),
                name,
            }),
            Err(error) => return Err(error.into()),
        }
    }
    let mut json = serde_json::to_string_pretty(&record)?;
    json.push('\n');
    fs::write(committed_dir().join("qemu-samples.json"), json)?;
    say(&format!("recorded {} samples, {} refused", record.samples.len(), record.refused.len()))
}

/// QEMU's driver for the samples of the formats at hand. `afl5.img` is a fuzzed dynamic VHD.
fn driver_of(name: &str) -> Option<&'static str> {
    match Path::new(name).extension()?.to_str()? {
        "vhd" => Some("vpc"),
        "qcow2" => Some("qcow2"),
        "vmdk" => Some("vmdk"),
        "vhdx" => Some("vhdx"),
        "img" if name == "afl5.img" => Some("vpc"),
        _ => None,
    }
}

/// A copy of a VHDX whose log is empty: QEMU replays a log only where it may write. Answers its name in `scratch`.
fn replayed(image: &Path, scratch: &Path) -> Outcome<String> {
    let name = "replayed.vhdx";
    let from = image.display().to_string();
    run::run(scratch, "cp", &["--sparse=always", "--no-preserve=mode", &from, name])?;
    run::run(scratch, "qemu-img", &["check", "-q", "-r", "all", "-f", "vhdx", name])?;
    Ok(name.to_owned())
}

fn format_of(driver: &str) -> &str {
    if driver == "vpc" { "vhd" } else { driver }
}

fn sample(name: &str, driver: &str, image: &Path, flat: &Path) -> Outcome<Sample> {
    let virtual_size = fs::metadata(flat)?.len();
    let digest = run::run(
        Path::new("/"),
        "fsverity",
        &["digest", "--compact", "--hash-alg=sha256", "--block-size=65536", &flat.display().to_string()],
    )?;
    let size_rule = if driver == "vpc" { Some(size_rule(image, virtual_size)?) } else { None };
    Ok(Sample {
        name: name.to_owned(),
        format: format_of(driver).to_owned(),
        image_bytes: fs::metadata(image)?.len(),
        image_sha256: sha256_of(image)?,
        size_rule,
        virtual_size,
        content_sha256: sha256_of(flat)?,
        content_fsverity_sha256_64k: String::from_utf8_lossy(&digest).trim().to_owned(),
    })
}

/// Which rule gave `virtual_size`: asks QEMU for the size under each. "either" when both agree.
fn size_rule(image: &Path, virtual_size: u64) -> Outcome<String> {
    let mut agreeing = Vec::new();
    for rule in ["current_size", "chs"] {
        let options =
            format!("driver=vpc,force_size_calc={rule},file.driver=file,file.filename={}", image.display());
        let json =
            run::run(Path::new("/"), "qemu-img", &["info", "--output=json", "--image-opts", &options])?;
        let info: serde_json::Value = serde_json::from_slice(&json)?;
        if info["virtual-size"].as_u64() == Some(virtual_size) {
            agreeing.push(rule);
        }
    }
    match agreeing[..] {
        [rule] => Ok(rule.to_owned()),
        [_, _] => Ok("either".to_owned()),
        _ => Err(Failure::No(format!("{}: neither size rule gives {virtual_size}", image.display()))),
    }
}

fn sha256_of(path: &Path) -> Outcome<String> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut hash = Sha256::new();
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(&buffer[..length]);
    }
}
