//! Files that are not what they seem, and that other programs call fine: made by those programs from one GPT disk with
//! an ext4 on it, then cut, changed or stopped half-way. The test of the end to end and `cargo xtask damage` build them
//! here and ask Kiln in the same words.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

/// A directory with the disk that all files are made from: `disk.raw`.
pub struct Workshop {
    dir: PathBuf,
}

/// One file.
pub struct Damage {
    /// Short name; the file's name begins with it.
    pub id: &'static str,
    /// What happened to it.
    pub words: &'static str,
    /// QEMU's name of its format, for `-f`; none where QEMU is left to guess, as its users do.
    pub qemu_format: Option<&'static str>,
    /// The path of the file, before anything happened to it.
    make: fn(&Workshop, &str) -> PathBuf,
    /// What happens.
    damage: fn(&Workshop, &Path),
    /// How Kiln is asked.
    pub asked: Asked,
}

/// What Kiln has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// No, by the file alone.
    Alone,
    /// No, against digests that were recorded before: nothing of the structure is hurt.
    Recorded,
    /// Yes, it is the disk, and no when it is said to be raw.
    ThroughWrapper,
}

/// What Kiln answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Exit code.
    pub exit: Option<i32>,
    /// Id of the finding that decides, or the name of the comparison.
    pub id: String,
    /// Where it is in the file.
    pub offset: Option<u64>,
    /// Where it is on the disk.
    pub disk_byte: Option<u64>,
    /// The partition that is hurt.
    pub partition: Option<String>,
}

/// The rows of the table, in its order. A row may have several files.
pub static ROWS: &[Damage] = &[
    row("01-changed", "qcow2, 3 bytes of guest data changed", Some("qcow2"), qcow2, change, Asked::Recorded),
    row("02-qcow2-cut", "qcow2 cut to 70 %", Some("qcow2"), qcow2, cut_70, Asked::Alone),
    row("03-zlib-cut", "compressed qcow2 cut to 70 %", Some("qcow2"), zlib, cut_70, Asked::Alone),
    row("04-sparse-cut", "monolithicSparse VMDK cut to 70 %", Some("vmdk"), sparse, cut_70, Asked::Alone),
    row("05-stream-cut", "streamOptimized VMDK cut to 70 %", Some("vmdk"), stream, cut_70, Asked::Alone),
    row("06-vdi-cut", "VDI cut to 70 %", Some("vdi"), vdi, cut_70, Asked::Alone),
    row("07-fixed-cut", "fixed VHD cut (footer gone)", None, fixed_vhd, cut_70, Asked::Alone),
    row("08-vhd-cut", "dynamic VHD cut to 70 %", Some("vpc"), vhd, cut_70, Asked::Alone),
    row("08-vhdx-cut", "VHDX cut to 70 %", Some("vhdx"), vhdx, cut_70, Asked::Alone),
    row(
        "09-qcow2-term",
        "`convert -c -O qcow2` stopped by TERM",
        Some("qcow2"),
        nothing,
        stop_zlib_term,
        Asked::Alone,
    ),
    row(
        "09-qcow2-kill",
        "`convert -c -O qcow2` stopped by KILL",
        Some("qcow2"),
        nothing,
        stop_zlib_kill,
        Asked::Alone,
    ),
    row(
        "10-stream-stopped",
        "`convert -O vmdk` streamOptimized stopped",
        Some("vmdk"),
        nothing,
        stop_stream,
        Asked::Alone,
    ),
    row("11-vdi-stopped", "`convert -O vdi` stopped by TERM", Some("vdi"), nothing, stop_vdi, Asked::Alone),
    row("12-gzip", "gzip-wrapped qcow2 given as is", None, gzip, leave, Asked::ThroughWrapper),
    row("13-ova", "OVA given as is", None, ova, leave, Asked::ThroughWrapper),
    row("14-backing", "qcow2 whose backing file is a host file", Some("qcow2"), backing, leave, Asked::Alone),
];

/// The same kinds of damage in the other containers.
pub static MORE: &[Damage] = &[
    row("raw-cut", "raw cut to 70 %", Some("raw"), raw, cut_70, Asked::Alone),
    row("raw-stopped", "raw whose second half was never written", Some("raw"), raw, blank_half, Asked::Alone),
    row("zstd-cut", "zstd qcow2 cut to 70 %", Some("qcow2"), zstd, cut_70, Asked::Alone),
    row("vhdx-fixed-cut", "fixed VHDX cut to 70 %", Some("vhdx"), fixed_vhdx, cut_70, Asked::Alone),
    row("flat-cut", "monolithicFlat VMDK, extent cut to 70 %", Some("vmdk"), flat, cut_flat, Asked::Alone),
    row(
        "split-cut",
        "twoGbMaxExtentSparse VMDK, extent cut to 70 %",
        Some("vmdk"),
        split,
        cut_split,
        Asked::Alone,
    ),
    row(
        "split-gone",
        "twoGbMaxExtentSparse VMDK, extent missing",
        Some("vmdk"),
        split,
        remove_split,
        Asked::Alone,
    ),
    row("vhd-stopped", "`convert -O vpc` stopped", Some("vpc"), nothing, stop_vhd, Asked::Alone),
    row("vhdx-stopped", "`convert -O vhdx` stopped", Some("vhdx"), nothing, stop_vhdx, Asked::Alone),
    row("sparse-stopped", "`convert -O vmdk` stopped", Some("vmdk"), nothing, stop_sparse, Asked::Alone),
    row("gzip-cut", "gzip-wrapped qcow2 cut to 70 %", None, gzip, cut_70, Asked::Alone),
    row("xz-cut", "xz-wrapped qcow2 cut to 70 %", None, xz, cut_70, Asked::Alone),
    row("zst-cut", "zstd-wrapped qcow2 cut to 70 %", None, zst, cut_70, Asked::Alone),
    row("xz-changed", "xz-wrapped qcow2, one byte changed", None, xz, flip, Asked::Alone),
    row("ova-cut", "OVA cut to 70 %", None, ova, cut_70, Asked::Alone),
    row("ova-changed", "OVA, one byte of its disk changed", None, ova, flip, Asked::Alone),
    row("stream-changed", "streamOptimized VMDK, one byte changed", Some("vmdk"), stream, flip, Asked::Alone),
    row("zlib-changed", "compressed qcow2, one byte changed", Some("qcow2"), zlib, flip, Asked::Recorded),
];

const fn row(
    id: &'static str,
    words: &'static str,
    qemu_format: Option<&'static str>,
    make: fn(&Workshop, &str) -> PathBuf,
    damage: fn(&Workshop, &Path),
    asked: Asked,
) -> Damage {
    Damage { id, words, qemu_format, make, damage, asked }
}

impl Workshop {
    /// Makes the disk in an empty directory: 64 MiB, GPT, one ext4 that holds files.
    ///
    /// # Panics
    /// When sgdisk or mke2fs is missing or fails.
    #[must_use]
    pub fn new(dir: &Path) -> Self {
        let shop = Self { dir: dir.to_owned() };
        let tree = shop.path("tree");
        std::fs::create_dir_all(tree.join("etc")).expect("a directory");
        std::fs::write(tree.join("etc/hostname"), "kiln-test\n").expect("a file");
        for file in 0..24_u64 {
            std::fs::write(tree.join(format!("data-{file}")), noise(100 + file, 700_000)).expect("a file");
        }
        File::create(shop.path("disk.raw")).and_then(|file| file.set_len(64 << 20)).expect("a disk");
        shop.tool("sgdisk", &["--clear", "--new=1:2048:126975", "--typecode=1:8300", "disk.raw"]);
        let options = ["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-E", "offset=1048576", "-d", "tree"];
        shop.tool("mke2fs", &[&options[..], &["disk.raw", "61440k"]].concat());
        std::fs::remove_dir_all(tree).expect("the tree is ours");
        shop
    }

    /// A file of the workshop.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn tool(&self, program: &str, words: &[&str]) {
        let output = Command::new(program).args(words).current_dir(&self.dir).stdin(Stdio::null()).output();
        let output =
            output.unwrap_or_else(|error| panic!("{program} is needed ({error}); `make setup` installs it"));
        assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn shell(&self, line: &str) {
        self.tool("bash", &["-ec", line]);
    }

    /// `qemu-img convert` of the disk into a new file.
    fn convert(&self, name: &str, words: &[&str]) -> PathBuf {
        self.tool("qemu-img", &[&["convert"], words, &["disk.raw", name]].concat());
        self.path(name)
    }

    /// Builds a file in its good state, asks `before` what has to be asked then, and damages it.
    ///
    /// # Panics
    /// When a tool is missing or fails.
    #[track_caller]
    pub fn build(&self, damage: &Damage, before: impl FnOnce(&Path)) -> PathBuf {
        let path = (damage.make)(self, damage.id);
        before(&path);
        (damage.damage)(self, &path);
        path
    }

    /// Builds a file and asks `kiln verify --deep` about it, the way that its row says.
    ///
    /// # Panics
    /// When a tool is missing or fails, or Kiln answers no JSON.
    #[track_caller]
    pub fn judge(&self, damage: &Damage, kiln: &Path) -> (PathBuf, Answer) {
        let leaves = self.path(&format!("{}.leaves", damage.id));
        let words = ["verify", "--deep", "--json"];
        let path = self.build(damage, |good| {
            if damage.asked == Asked::Recorded {
                let (exit, _) =
                    self.kiln(kiln, &[&words[..], &["--save-leaves", text(&leaves), text(good)]].concat());
                assert_eq!(exit, Some(0), "{} is good before it is damaged", damage.id);
            }
        });
        let more: Vec<&str> = match damage.asked {
            Asked::Alone => vec![],
            Asked::Recorded => vec!["--leaves", text(&leaves)],
            Asked::ThroughWrapper => {
                // As it is, it is the disk.
                let (exit, json) =
                    self.kiln(kiln, &[&words[..], &["--against", "disk.raw", text(&path)]].concat());
                assert_eq!(
                    (exit, &json["against"]["same"]),
                    (Some(0), &true.into()),
                    "{}: {json:#}",
                    damage.id
                );
                vec!["-f", "raw"]
            }
        };
        let (exit, json) = self.kiln(kiln, &[&words[..], &more[..], &[text(&path)]].concat());
        (path, answer(exit, &json))
    }

    fn kiln(&self, kiln: &Path, words: &[&str]) -> (Option<i32>, Value) {
        let output = Command::new(kiln).args(words).current_dir(&self.dir).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", kiln.display()));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let json = serde_json::from_slice(&output.stdout);
        (output.status.code(), json.unwrap_or_else(|error| panic!("kiln {words:?}: {error}: {said}")))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths here are UTF-8")
}

/// The first finding that says no and has a place, else a block that differs from the record.
fn answer(exit: Option<i32>, json: &Value) -> Answer {
    let list = |key: &str| json[key].as_array().cloned().unwrap_or_default();
    let words = |value: &Value| value.as_str().map(str::to_owned);
    let fails = |one: &Value| matches!(one["severity"].as_str(), Some("damage" | "fatal"));
    let findings = list("findings");
    let placed = |one: &&Value| fails(one) && one["offset_bytes"].is_u64();
    if let Some(found) = findings.iter().find(placed).or_else(|| findings.iter().find(|one| fails(one))) {
        let hurt = findings.iter().filter(|one| fails(one)).find_map(|one| words(&one["partition"]));
        return Answer {
            exit,
            id: words(&found["id"]).unwrap_or_default(),
            offset: found["offset_bytes"].as_u64(),
            disk_byte: found["guest"]["start_bytes"].as_u64(),
            partition: hurt,
        };
    }
    let damaged = list("damaged");
    let first = damaged.first();
    Answer {
        exit,
        id: if first.is_some() { "content differs from the record".to_owned() } else { String::new() },
        offset: first.and_then(|range| range["offset_bytes"].as_u64()),
        disk_byte: first.and_then(|range| range["start_bytes"].as_u64()),
        partition: first.and_then(|range| words(&range["partition"])),
    }
}

fn qcow2(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.qcow2"), &["-O", "qcow2"])
}

fn zlib(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.qcow2"), &["-c", "-O", "qcow2", "-o", "compression_type=zlib"])
}

fn zstd(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.qcow2"), &["-c", "-O", "qcow2", "-o", "compression_type=zstd"])
}

fn sparse(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.vmdk"), &["-O", "vmdk"])
}

fn stream(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.vmdk"), &["-O", "vmdk", "-o", "subformat=streamOptimized"])
}

fn flat(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.vmdk"), &["-O", "vmdk", "-o", "subformat=monolithicFlat"])
}

fn split(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.vmdk"), &["-O", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"])
}

fn vdi(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.vdi"), &["-O", "vdi"])
}

fn vhd(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.vhd"), &["-O", "vpc", "-o", "subformat=dynamic,force_size=on"])
}

fn fixed_vhd(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.vhd"), &["-O", "vpc", "-o", "subformat=fixed,force_size=on"])
}

fn vhdx(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.vhdx"), &["-O", "vhdx", "-o", "block_size=1M"])
}

fn fixed_vhdx(shop: &Workshop, id: &str) -> PathBuf {
    shop.convert(&format!("{id}.vhdx"), &["-O", "vhdx", "-o", "subformat=fixed,block_size=1M"])
}

fn raw(shop: &Workshop, id: &str) -> PathBuf {
    let path = shop.path(&format!("{id}.raw"));
    std::fs::write(&path, std::fs::read(shop.path("disk.raw")).expect("the disk")).expect("a copy");
    path
}

fn wrapped(shop: &Workshop, id: &str, program: &str) -> PathBuf {
    let inner = qcow2(shop, id);
    let path = shop.path(&format!("{id}.qcow2.{program}"));
    shop.shell(&format!("{program} -1 -c {} > {}", text(&inner), text(&path)));
    std::fs::remove_file(inner).expect("the inner file is ours");
    path
}

fn gzip(shop: &Workshop, id: &str) -> PathBuf {
    wrapped(shop, id, "gzip")
}

fn xz(shop: &Workshop, id: &str) -> PathBuf {
    wrapped(shop, id, "xz")
}

fn zst(shop: &Workshop, id: &str) -> PathBuf {
    wrapped(shop, id, "zstd")
}

fn ova(shop: &Workshop, id: &str) -> PathBuf {
    let disk = stream(shop, id);
    let (len, name) = (disk.metadata().expect("the disk").len(), format!("{id}.vmdk"));
    let ovf = format!(
        "<?xml version=\"1.0\"?>\n<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">\n<References><File ovf:href=\"{name}\" ovf:id=\"f1\" \
         ovf:size=\"{len}\"/></References>\n<DiskSection><Info>disks</Info><Disk ovf:capacity=\"67108864\" \
         ovf:diskId=\"d1\" ovf:fileRef=\"f1\" \
         ovf:format=\"http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized\"/></DiskSection>\n\
         <VirtualSystem ovf:id=\"vm\"><Info>a machine</Info></VirtualSystem>\n</Envelope>\n"
    );
    std::fs::write(shop.path(&format!("{id}.ovf")), ovf).expect("a file");
    shop.shell(&format!(
        "for f in {id}.ovf {name}; do echo \"SHA256($f)= $(sha256sum < $f | cut -d' ' -f1)\"; done > {id}.mf; \
         tar --format=ustar -cf {id}.ova {id}.ovf {id}.mf {name}; rm {id}.ovf {id}.mf {name}"
    ));
    shop.path(&format!("{id}.ova"))
}

fn backing(shop: &Workshop, id: &str) -> PathBuf {
    std::fs::write(shop.path("host.txt"), "host secret\n".repeat(1000)).expect("a file");
    let (host, name) = (shop.path("host.txt"), format!("{id}.qcow2"));
    shop.tool(
        "qemu-img",
        &["create", "-q", "-u", "-f", "qcow2", "-b", text(&host), "-F", "raw", &name, "1M"],
    );
    shop.path(&name)
}

/// The path of what a stopped conversion leaves.
fn nothing(shop: &Workshop, id: &str) -> PathBuf {
    shop.path(&format!("{id}.img"))
}

fn leave(_: &Workshop, _: &Path) {}

fn cut_70(_: &Workshop, path: &Path) {
    let file = OpenOptions::new().write(true).open(path).expect("the file");
    let len = file.metadata().expect("its length").len();
    file.set_len(len * 7 / 10).expect("cut");
}

fn cut_flat(shop: &Workshop, path: &Path) {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    cut_70(shop, &shop.path(&format!("{stem}-flat.vmdk")));
}

fn cut_split(shop: &Workshop, path: &Path) {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    cut_70(shop, &shop.path(&format!("{stem}-s001.vmdk")));
}

fn remove_split(shop: &Workshop, path: &Path) {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    std::fs::remove_file(shop.path(&format!("{stem}-s001.vmdk"))).expect("the extent");
}

/// Three bytes of file data in the middle of the image: 10 MiB into it, the files lie one behind the other.
fn change(_: &Workshop, path: &Path) {
    overwrite(path, (10 << 20) + 100, &[0xde, 0xad, 0x01]);
}

/// The bits of a byte in the middle.
fn flip(_: &Workshop, path: &Path) {
    let at = path.metadata().expect("its length").len() / 2;
    let mut byte = [0];
    File::open(path).and_then(|file| file.read_exact_at(&mut byte, at)).expect("a byte");
    overwrite(path, at, &[!byte[0]]);
}

/// What a copy that was stopped leaves: the right length, zeros behind the half.
fn blank_half(_: &Workshop, path: &Path) {
    let file = OpenOptions::new().write(true).open(path).expect("the file");
    let len = file.metadata().expect("its length").len();
    file.set_len(len / 2).and_then(|()| file.set_len(len)).expect("blanked");
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("the file");
    file.write_all_at(bytes, at).expect("written");
}

fn stop_zlib_term(shop: &Workshop, path: &Path) {
    stop(shop, path, "TERM", &["-c", "-O", "qcow2"]);
}

fn stop_zlib_kill(shop: &Workshop, path: &Path) {
    stop(shop, path, "KILL", &["-c", "-O", "qcow2"]);
}

fn stop_stream(shop: &Workshop, path: &Path) {
    stop(shop, path, "TERM", &["-O", "vmdk", "-o", "subformat=streamOptimized"]);
}

fn stop_vdi(shop: &Workshop, path: &Path) {
    stop(shop, path, "TERM", &["-O", "vdi"]);
}

fn stop_vhd(shop: &Workshop, path: &Path) {
    stop(shop, path, "TERM", &["-O", "vpc", "-o", "subformat=dynamic,force_size=on"]);
}

fn stop_vhdx(shop: &Workshop, path: &Path) {
    stop(shop, path, "TERM", &["-O", "vhdx"]);
}

fn stop_sparse(shop: &Workshop, path: &Path) {
    stop(shop, path, "TERM", &["-O", "vmdk"]);
}

/// Starts a slow conversion and stops it in the middle.
fn stop(shop: &Workshop, path: &Path, signal: &str, words: &[&str]) {
    let mut child = Command::new("qemu-img")
        .args(["convert", "-r", "4M"])
        .args(words)
        .args(["disk.raw", text(path)])
        .current_dir(&shop.dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("qemu-img is needed; `make setup` installs it");
    std::thread::sleep(Duration::from_millis(1500));
    assert!(child.try_wait().expect("its state").is_none(), "the conversion was not slow enough");
    shop.tool("kill", &[&format!("-{signal}"), &child.id().to_string()]);
    let _ = child.wait().expect("it ends");
}

/// Bytes that do not compress, the same for the same seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
