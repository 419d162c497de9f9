//! `cargo xtask committed`: the small fixtures in the repository, by recipe.
//!
//! Each is an image made by qemu-img (or by hand where qemu-img cannot), whose flat content is known from a
//! model and, where QEMU reads the file, compared with what QEMU reads. Kept gzipped; `manifest.json` holds
//! the digests of image and content, `SHA256SUMS` those of the kept files.

pub(crate) mod content;
mod ova;
mod qcow2;
mod vdi;
mod vhd;
mod vhd_images;
mod vhdx;
mod vmdk;

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use kiln_testkit::fixtures::committed_dir;
use serde::{Deserialize, Serialize};

use self::content::sha256;
use crate::failure::{Failure, Outcome, say};
use crate::run;

/// The committed fixtures: write them anew, or check that the recipes still make them.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Compare a fresh run of the recipes with the repository, and change nothing.
    #[arg(long)]
    check: bool,
}

/// One internal snapshot of a fixture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Snapshot {
    name: String,
    content_sha256: String,
}

/// What the manifest says of one fixture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// The kept file is this name with `.gz`.
    name: String,
    /// Of the image: `raw`, `qcow2`, `vhd`, `vhdx`, `vdi`, `vmdk`, `ova`.
    format: String,
    image_bytes: usize,
    image_sha256: String,
    /// Bytes of the disk that a guest sees, and the digest of them all.
    virtual_size: usize,
    content_sha256: String,
    /// The files beside it that it needs: backing file, data file, parent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    needs: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    snapshots: Vec<Snapshot>,
    /// How it was made.
    recipe: String,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    schema: String,
    fixtures: Vec<Entry>,
}

/// A directory where images are made, and the entries made so far.
struct Workshop {
    dir: tempfile::TempDir,
    entries: Vec<Entry>,
}

/// How the content of a new image is confirmed.
enum Oracle {
    /// `qemu-img convert` with this driver reads the same bytes.
    Qemu(&'static str),
    /// QEMU cannot read it (differencing VHD, 511-byte footer): the model alone says what it holds.
    ModelOnly,
}

impl Workshop {
    fn new() -> Outcome<Self> {
        Ok(Self { dir: tempfile::tempdir()?, entries: Vec::new() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs a tool inside the workshop, where images are named without a directory.
    fn tool(&self, program: &str, arguments: &[&str]) -> Outcome {
        run::run(self.dir.path(), program, arguments)?;
        Ok(())
    }

    /// Enters the finished image `name`: its content must be `model`, byte for byte.
    fn enter(
        &mut self,
        name: &str,
        format: &str,
        model: &[u8],
        oracle: &Oracle,
        needs: &[&str],
        recipe: &str,
    ) -> Outcome {
        if let Oracle::Qemu(driver) = oracle {
            let seen = self.read_by_qemu(name, driver, &[])?;
            if seen != model {
                return Err(Failure::No(format!("{name}: qemu-img reads other bytes than the model holds")));
            }
        }
        let image = fs::read(self.path(name))?;
        self.entries.push(Entry {
            name: name.to_owned(),
            format: format.to_owned(),
            image_bytes: image.len(),
            image_sha256: sha256(&image),
            virtual_size: model.len(),
            content_sha256: sha256(model),
            needs: needs.iter().map(|&need| need.to_owned()).collect(),
            snapshots: Vec::new(),
            recipe: recipe.to_owned(),
        });
        Ok(())
    }

    /// The flat content as qemu-img converts it.
    fn read_by_qemu(&self, name: &str, driver: &str, more: &[&str]) -> Outcome<Vec<u8>> {
        let mut arguments = vec!["convert", "-f", driver, "-O", "raw"];
        arguments.extend(more);
        arguments.extend([name, "seen.raw"]);
        self.tool("qemu-img", &arguments)?;
        Ok(fs::read(self.path("seen.raw"))?)
    }
}

/// An id in place of one that qemu-img makes up.
fn kiln_id(number: u8) -> [u8; 16] {
    let mut id = *b"kiln fixture  \0\0";
    id[15] = number;
    id
}

/// Makes every fixture.
fn make() -> Outcome<Workshop> {
    let mut workshop = Workshop::new()?;
    qcow2::make(&mut workshop)?;
    vhd_images::make(&mut workshop)?;
    vdi::make(&mut workshop)?;
    vhdx::make(&mut workshop)?;
    vmdk::make(&mut workshop)?;
    ova::make(&mut workshop)?;
    workshop.entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(workshop)
}

pub(crate) fn run(arguments: &Arguments) -> Outcome {
    let workshop = make()?;
    let manifest = Manifest { schema: "kiln.fixtures.v1".to_owned(), fixtures: workshop.entries.clone() };
    if arguments.check {
        check(&manifest, &committed_dir())
    } else {
        write(&workshop, &manifest, &committed_dir())
    }
}

/// Writes images, manifest and sums into `to`.
fn write(workshop: &Workshop, manifest: &Manifest, to: &Path) -> Outcome {
    for entry in fs::read_dir(to)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "gz") {
            fs::remove_file(path)?;
        }
    }
    let mut sums = String::new();
    for entry in &manifest.fixtures {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&fs::read(workshop.path(&entry.name))?)?;
        let packed = encoder.finish()?;
        let name = format!("{}.gz", entry.name);
        sums.push_str(&format!("{}  {name}\n", sha256(&packed)));
        fs::write(to.join(name), packed)?;
    }
    fs::write(to.join("SHA256SUMS"), sums)?;
    let mut json = serde_json::to_string_pretty(manifest)?;
    json.push('\n');
    fs::write(to.join("manifest.json"), json)?;
    say(&format!("committed: {} fixtures written", manifest.fixtures.len()))
}

/// Compares what the recipes made with what the repository keeps.
fn check(made: &Manifest, kept: &Path) -> Outcome {
    let mut wrong = Vec::new();
    let manifest: Manifest = serde_json::from_slice(&fs::read(kept.join("manifest.json"))?)?;
    let names =
        |manifest: &Manifest| manifest.fixtures.iter().map(|entry| entry.name.clone()).collect::<Vec<_>>();
    if names(&manifest) != names(made) {
        wrong.push(format!("manifest.json lists {:?}, the recipes make {:?}", names(&manifest), names(made)));
    }
    let mut sums = String::new();
    for entry in &made.fixtures {
        let Some(known) = manifest.fixtures.iter().find(|known| known.name == entry.name) else { continue };
        if known != entry {
            wrong.push(format!("{}: manifest.json has {known:?}, the recipe makes {entry:?}", entry.name));
        }
        let packed = fs::read(kept.join(format!("{}.gz", entry.name)))?;
        let mut image = Vec::new();
        GzDecoder::new(&packed[..]).read_to_end(&mut image)?;
        if sha256(&image) != entry.image_sha256 {
            wrong.push(format!("{}.gz holds another image than the recipe makes", entry.name));
        }
        sums.push_str(&format!("{}  {}.gz\n", sha256(&packed), entry.name));
    }
    if fs::read_to_string(kept.join("SHA256SUMS"))? != sums {
        wrong.push("SHA256SUMS does not agree with the files beside it".to_owned());
    }
    if wrong.is_empty() {
        return say(&format!("committed: {} fixtures are as their recipes make them", made.fixtures.len()));
    }
    Err(Failure::No(format!("{}\nhint: `make fixtures` writes them anew", wrong.join("\n"))))
}
