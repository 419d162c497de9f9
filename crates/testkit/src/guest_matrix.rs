//! Copies of the real Debian disk, each broken in one way that users meet, with what `kiln check` must say of it and
//! whether it starts. The disk is changed by the tools that own its formats: debugfs, mtools, sgdisk; nothing is
//! mounted.

use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::boot::{DiskBus, Ended, Firmware, Guest};

mod strangers;

/// Every case.
pub fn cases() -> impl Iterator<Item = &'static Case> {
    CASES.iter().chain(strangers::CASES)
}

/// First byte of the root's file system on the fixture.
pub const ROOT_AT: u64 = 129 << 20;
/// First byte of the EFI system partition.
pub const ESP_AT: u64 = 5 << 20;
/// First byte of the BIOS boot partition.
pub const BIOS_AT: u64 = 1 << 20;

/// What is expected of one broken copy.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What was done to it.
    pub edit: fn(&Copied),
    /// The firmware that starts it.
    pub firmware: Firmware,
    /// The bus of its disk, and with it the place that is asked.
    pub target: &'static str,
    /// The verdict in JSON.
    pub verdict: &'static str,
    /// The finding that must be there; none for a copy with nothing wrong.
    pub finding: Option<(&'static str, &'static str, &'static str)>,
    /// Whether the machine reaches its login prompt.
    pub starts: bool,
    /// In the sample that is started in CI.
    pub sample: bool,
    /// The disk of the fixture `layouts` that is broken, with the first byte of the ext4 that is edited; the Debian disk
    /// where there is none.
    pub layout: Option<(&'static str, u64)>,
    /// The architecture that the image is registered with.
    pub label: Option<&'static str>,
}

/// A copy of the disk.
pub struct Copied {
    /// The file.
    pub disk: PathBuf,
    /// The release of its kernel.
    pub release: String,
    /// First byte of the ext4 that is edited.
    root_at: u64,
}

impl Copied {
    /// Copies the fixture into a directory, sparse.
    ///
    /// # Panics
    /// When a tool fails: the fixture or the machine is not as it must be.
    #[must_use]
    pub fn of(fixture: &Path, dir: &Path, name: &str) -> Self {
        Self::with_root(fixture, dir, name, ROOT_AT)
    }

    /// Copies a disk whose kernel is in `/boot`, or at the top, of the ext4 at byte `root_at`.
    ///
    /// # Panics
    /// When a tool fails: the disk or the machine is not as it must be.
    #[must_use]
    pub fn with_root(fixture: &Path, dir: &Path, name: &str, root_at: u64) -> Self {
        let disk = dir.join(format!("{name}.raw"));
        tool("cp", &["--sparse=always", "--reflink=auto", "--no-preserve=mode", text(fixture), text(&disk)]);
        let mut copied = Self { disk, release: String::new(), root_at };
        let listing = [copied.ask("ls -p /boot"), copied.ask("ls -p /")].concat();
        let listing = String::from_utf8_lossy(&listing);
        let kernel =
            listing.split('/').find(|name| name.starts_with("vmlinuz-")).expect("a kernel is in /boot");
        let release = kernel.trim_start_matches("vmlinuz-").to_owned();
        copied.release = release;
        copied
    }

    fn device(&self) -> String {
        format!("{}?offset={}", self.disk.display(), self.root_at)
    }

    /// Runs commands of debugfs on the root, answers what it prints.
    pub fn debugfs(&self, commands: &str) -> String {
        self.debugfs_at(self.root_at, commands)
    }

    /// Runs commands of debugfs on the ext4 that begins at a byte of the disk.
    pub fn debugfs_at(&self, at: u64, commands: &str) -> String {
        let mut child = Command::new("debugfs")
            .args(["-w", "-f", "-", &format!("{}?offset={at}", self.disk.display())])
            .env("PATH", path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("debugfs is installed by `make setup`");
        child.stdin.take().expect("a pipe").write_all(commands.as_bytes()).expect("debugfs reads");
        let output = child.wait_with_output().expect("debugfs ends");
        let errors = String::from_utf8_lossy(&output.stderr);
        let loud =
            errors.lines().filter(|line| !line.starts_with("debugfs 1.")).collect::<Vec<_>>().join("\n");
        assert!(output.status.success() && loud.is_empty(), "debugfs {commands:?}: {loud}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What debugfs answers to one question; what it complains about is not heard.
    fn ask(&self, question: &str) -> Vec<u8> {
        let output =
            Command::new("debugfs").args(["-R", question, &self.device()]).env("PATH", path()).output();
        output.expect("debugfs runs").stdout
    }

    /// A file of the root.
    #[must_use]
    pub fn read(&self, path: &str) -> Vec<u8> {
        self.ask(&format!("cat {path}"))
    }

    /// Puts a file into the root in place of what is there.
    pub fn write(&self, path: &str, content: &[u8]) {
        let file = self.disk.with_extension("file");
        std::fs::write(&file, content).expect("a scratch file");
        let there = self.ask(&format!("stat {path}")).windows(6).any(|word| word == b"Inode:");
        let remove = if there { format!("rm {path}\n") } else { String::new() };
        self.debugfs(&format!("{remove}write {} {path}\n", file.display()));
        std::fs::remove_file(file).expect("the scratch file goes");
    }

    /// Replaces text in a file of the root.
    pub fn replace(&self, path: &str, from: &str, to: &str) {
        let old = String::from_utf8(self.read(path)).expect("a text");
        assert!(old.contains(from), "{path} holds no {from:?}: {old}");
        self.write(path, old.replace(from, to).as_bytes());
    }

    /// Adds text to the end of a file of the root.
    pub fn append(&self, path: &str, more: &str) {
        let mut content = self.read(path);
        content.extend_from_slice(more.as_bytes());
        self.write(path, &content);
    }

    /// Writes bytes of the disk.
    pub fn poke(&self, at: u64, bytes: &[u8]) {
        let file = File::options().write(true).open(&self.disk).expect("the copy opens");
        file.write_all_at(bytes, at).expect("the copy is written");
    }

    /// Runs a program of mtools on the EFI system partition.
    pub fn mtools(&self, program: &str, words: &[&str]) {
        let image = format!("{}@@{ESP_AT}", self.disk.display());
        tool(program, &[&["-i", &image], words].concat());
    }

    /// Runs a program of e2fsprogs on the root.
    pub fn e2fs(&self, program: &str, words: &[&str]) {
        tool(program, &[words, &[&self.device()]].concat());
    }

    /// Runs a program on the disk.
    pub fn on_disk(&self, program: &str, words: &[&str]) {
        tool(program, &[words, &[text(&self.disk)]].concat());
    }

    /// Changes a file of the EFI system partition.
    pub fn change_on_esp(&self, path: &str, change: fn(&mut Vec<u8>)) {
        let file = self.disk.with_extension("esp");
        self.mtools("mcopy", &["-o", path, text(&file)]);
        let mut content = std::fs::read(&file).expect("mtools wrote it");
        change(&mut content);
        std::fs::write(&file, content).expect("a scratch file");
        self.mtools("mcopy", &["-o", text(&file), path]);
        std::fs::remove_file(file).expect("the scratch file goes");
    }

    /// Changes the bytes of a file of the root.
    pub fn change(&self, path: &str, change: fn(&mut Vec<u8>)) {
        let mut content = self.read(path);
        assert!(!content.is_empty(), "{path} is there");
        change(&mut content);
        self.write(path, &content);
        self.debugfs(&format!("sif {path} mode 0100755\n"));
    }

    /// Cuts the disk's end off.
    pub fn cut(&self, bytes: u64) {
        let file = File::options().write(true).open(&self.disk).expect("the copy opens");
        let len = file.metadata().expect("it has a length").len();
        file.set_len(len - bytes).expect("the copy is cut");
    }

    fn initramfs(&self) -> String {
        format!("/boot/initrd.img-{}", self.release)
    }

    /// Packs the initramfs again without the files whose path ends so.
    pub fn without_in_initramfs(&self, ends: &[&str]) {
        let packed = self.read(&self.initramfs());
        let (kept, dropped) = filter_cpio(&pipe("gzip", &["-dc"], &packed), ends);
        assert_eq!(dropped, ends.len(), "files of {ends:?} in the initramfs");
        self.write(&self.initramfs(), &pipe("gzip", &["-1", "-c"], &kept));
    }

    /// Starts the copy.
    #[must_use]
    pub fn start(&self, firmware: Firmware, bus: DiskBus) -> Ended {
        let mut guest = Guest::new(&self.disk, "raw");
        guest.firmware = firmware;
        guest.bus = bus;
        guest.timeout = Duration::from_secs(900);
        guest.boot_to_end()
    }
}

fn path() -> String {
    format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default())
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of plain text")
}

fn tool(program: &str, words: &[&str]) -> String {
    let output = Command::new(program)
        .args(words)
        .env("PATH", path())
        .env("MTOOLS_SKIP_CHECK", "1")
        .output()
        .unwrap_or_else(|error| panic!("{program} is needed ({error}); `make setup` installs it"));
    assert!(output.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn pipe(program: &str, words: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} is needed ({error}); `make setup` installs it"));
    let (mut stdin, input) = (child.stdin.take().expect("a pipe"), input.to_vec());
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let mut output = Vec::new();
    child.stdout.take().expect("a pipe").read_to_end(&mut output).expect("it answers");
    assert!(child.wait().expect("it ends").success(), "{program}");
    let _ = writer.join();
    output
}

/// An archive of newc without some of its files; how many went.
fn filter_cpio(plain: &[u8], ends: &[&str]) -> (Vec<u8>, usize) {
    let (mut at, mut kept, mut dropped) = (0, Vec::new(), 0);
    loop {
        let field = |index: usize| {
            let digits = &plain[at + 6 + index * 8..at + 14 + index * 8];
            usize::from_str_radix(std::str::from_utf8(digits).expect("hexadecimal"), 16).expect("hexadecimal")
        };
        let (len, name_len) = (field(6), field(11));
        let name = String::from_utf8_lossy(&plain[at + 110..at + 110 + name_len - 1]).into_owned();
        let end = ((at + 110 + name_len).next_multiple_of(4) + len).next_multiple_of(4);
        if ends.iter().any(|known| name.ends_with(known)) {
            dropped += 1;
        } else {
            kept.extend_from_slice(&plain[at..end]);
        }
        if name == "TRAILER!!!" {
            return (kept, dropped);
        }
        at = end;
    }
}

/// How one case came out.
pub struct Outcome {
    /// The case.
    pub name: &'static str,
    /// What was not as expected.
    pub wrong: Vec<String>,
    /// What was said.
    pub verdict: String,
    /// Whether it started; nothing when it was not tried.
    pub started: Option<bool>,
    /// How it ended, in words.
    pub ended: String,
    /// The console, where it was started.
    pub console: String,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let started = match self.started {
            None => "not started",
            Some(true) => "login prompt",
            Some(false) => "no login prompt",
        };
        let state = if self.wrong.is_empty() { "as predicted".to_owned() } else { self.wrong.join("; ") };
        write!(f, "{:<26} {:<20} {:<16} {:<34} {state}", self.name, self.verdict, started, self.ended)
    }
}

/// Breaks a copy, asks `kiln`, and starts it when `start` says so.
///
/// # Panics
/// When a tool that makes the copy fails.
#[must_use]
pub fn run(case: &Case, kiln: &Path, fixture: &Path, dir: &Path, start: bool) -> Outcome {
    let copied = match case.layout {
        Some((_, root_at)) => Copied::with_root(fixture, dir, case.name, root_at),
        None => Copied::of(fixture, dir, case.name),
    };
    (case.edit)(&copied);
    let firmware = if case.firmware == Firmware::Bios { "bios" } else { "uefi" };
    let output = Command::new(kiln)
        .args(["check", "--json", "--for", case.target, "--firmware", firmware])
        .args(case.label.iter().flat_map(|label| ["--arch", label]))
        .arg(&copied.disk)
        .output()
        .expect("kiln runs");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let judgement = &answer["guest"]["judgements"][0];
    let verdict = judgement["verdict"].as_str().unwrap_or("none").to_owned();
    let mut wrong = Vec::new();
    if verdict != case.verdict {
        wrong.push(format!("verdict {verdict}, expected {} ({})", case.verdict, judgement["because"]));
    }
    let findings = judgement["findings"].as_array().cloned().unwrap_or_default();
    let shown: Vec<(String, String, String)> = findings
        .iter()
        .map(|finding| {
            let place = match (&finding["at"]["path"], &finding["at"]["line"], &finding["at"]["disk_byte"]) {
                (serde_json::Value::String(path), serde_json::Value::Number(line), _) => {
                    format!("{path}:{line}")
                }
                (serde_json::Value::String(path), _, _) => path.clone(),
                (_, _, serde_json::Value::Number(byte)) => byte.to_string(),
                _ => finding["at"].to_string(),
            };
            let word = |key: &str| finding[key].as_str().unwrap_or_default().to_owned();
            (word("id"), word("severity"), place)
        })
        .collect();
    let stops = |severity: &str| matches!(severity, "will_not_boot" | "rejected_at_import");
    if let Some((id, severity, at)) = case.finding {
        let at = at.replace("RELEASE", &copied.release);
        if !shown.iter().any(|found| *found == (id.to_owned(), severity.to_owned(), at.clone())) {
            wrong.push(format!("no {id} ({severity}) at {at}; found {shown:?}"));
        }
        if let Some(other) = shown.iter().find(|found| found.0 != id && stops(&found.1)) {
            wrong.push(format!("also {other:?}"));
        }
    } else if let Some(other) = shown.iter().find(|found| found.1 != "advice") {
        wrong.push(format!("unexpected {other:?}"));
    }
    let bus = match case.target {
        "gcp" | "proxmox" | "oracle" => DiskBus::VirtioScsi,
        "vmware" => DiskBus::PvScsi,
        "aws" => DiskBus::Nvme,
        _ => DiskBus::VirtioBlk,
    };
    let (mut started, mut ended, mut console) = (None, String::new(), String::new());
    let rejected = case.finding.is_some_and(|(_, severity, _)| severity == "rejected_at_import");
    if start && !rejected {
        let end = copied.start(case.firmware, bus);
        started = Some(end.prompt);
        (ended, console) = (end.words, end.console);
        if end.prompt != case.starts {
            wrong.push(format!("starts: {}, predicted: {}", end.prompt, case.starts));
        }
    }
    std::fs::remove_file(&copied.disk).expect("the copy goes");
    Outcome { name: case.name, wrong, verdict, started, ended, console }
}

const KVM: &str = "kvm";
const BAD: &str = "will_not_boot";
const WARN: &str = "boots_with_warnings";
const GOOD: &str = "boots";
const GRUB: &str = "/boot/grub/grub.cfg";

macro_rules! case {
    ($name:literal, $firmware:ident, $target:expr, $verdict:expr, $finding:expr, $starts:literal, $sample:literal, $edit:expr) => {
        Case {
            name: $name,
            edit: $edit,
            firmware: Firmware::$firmware,
            target: $target,
            verdict: $verdict,
            finding: $finding,
            starts: $starts,
            sample: $sample,
            layout: None,
            label: None,
        }
    };
}

/// Lines of the fixture's grub.cfg: 7 is `search`, 8 `linux`, 9 `initrd`.
#[rustfmt::skip]
pub static CASES: &[Case] = &[
    case!("untouched-bios", Bios, KVM, GOOD, None, true, false, |_| {}),
    case!("untouched-uefi", Uefi, KVM, GOOD, None, true, false, |_| {}),
    case!("untouched-virtio-scsi", Bios, "proxmox", GOOD, None, true, false, |_| {}),
    case!("untouched-nvme", Uefi, "aws", GOOD, None, true, false, |_| {}),
    case!("untouched-pvscsi", Bios, "vmware", GOOD, None, true, false, |_| {}),
    case!("no-virtio-blk", Bios, KVM, BAD, Some(("kmod.virtio", BAD, "/boot/initrd.img-RELEASE")), false, true,
        |disk| disk.without_in_initramfs(&["/virtio_blk.ko"])),
    case!("no-virtio-scsi", Bios, "gcp", BAD, Some(("kmod.scsi-virtio", BAD, "/boot/initrd.img-RELEASE")), false, false,
        |disk| disk.without_in_initramfs(&["/virtio_scsi.ko"])),
    case!("wrong-root-uuid", Bios, KVM, BAD, Some(("boot.root-arg", BAD, "/boot/grub/grub.cfg:8")), false, false,
        |disk| disk.replace(GRUB, "root=UUID=6b696c6e", "root=UUID=deadbeef")),
    case!("root-by-sda", Bios, KVM, BAD, Some(("boot.root-arg", BAD, "/boot/grub/grub.cfg:8")), false, false,
        |disk| disk.replace(GRUB, "root=UUID=6b696c6e-0000-4000-8000-000000000001", "root=/dev/sda1")),
    case!("blacklist-on-cmdline", Bios, KVM, BAD, Some(("kmod.blacklist", BAD, "/boot/grub/grub.cfg:8")), false, false,
        |disk| disk.replace(GRUB, " ro console=tty0", " ro module_blacklist=virtio_blk console=tty0")),
    case!("fstab-missing-disk", Bios, KVM, BAD, Some(("fstab.exist", BAD, "/etc/fstab:3")), false, true,
        |disk| disk.append("/etc/fstab", "UUID=0badc0de-0000-4000-8000-000000000009 /data ext4 defaults 0 2\n")),
    case!("fstab-missing-nofail", Bios, KVM, GOOD, Some(("fstab.exist", "advice", "/etc/fstab:3")), true, false,
        |disk| disk.append("/etc/fstab", "UUID=0badc0de-0000-4000-8000-000000000009 /data ext4 defaults,nofail 0 2\n")),
    case!("fstab-missing-swap", Bios, KVM, GOOD, Some(("fstab.exist", "advice", "/etc/fstab:3")), true, false,
        |disk| disk.append("/etc/fstab", "UUID=0badc0de-0000-4000-8000-000000000009 none swap sw 0 0\n")),
    case!("fstab-second-disk", Bios, KVM, BAD, Some(("fstab.devname", BAD, "/etc/fstab:3")), false, false,
        |disk| disk.append("/etc/fstab", "/dev/sdb1 /data ext4 defaults 0 2\n")),
    case!("fstab-by-sda", Bios, KVM, BAD, Some(("fstab.devname", BAD, "/etc/fstab:2")), false, false,
        |disk| disk.replace("/etc/fstab", "UUID=4B49-4C4E", "/dev/sda15")),
    case!("fstab-root-wrong", Bios, KVM, GOOD, Some(("fstab.exist", "advice", "/etc/fstab:1")), true, false,
        |disk| disk.replace("/etc/fstab", "UUID=6b696c6e-0000-4000-8000-000000000001 /", "UUID=0badc0de-0000-4000-8000-000000000009 /")),
    case!("fstab-cifs", Bios, KVM, GOOD, Some(("fstab.foreign", "advice", "/etc/fstab:3")), true, false,
        |disk| disk.append("/etc/fstab", "//server/share /mnt cifs guest 0 0\n")),
    case!("crypttab-missing", Bios, KVM, GOOD, Some(("boot.crypt", "advice", "/etc/crypttab:1")), true, false,
        |disk| disk.write("/etc/crypttab", b"data UUID=0badc0de-0000-4000-8000-000000000009 none luks\n")),
    case!("no-fallback-loader", Uefi, KVM, BAD, Some(("boot.fallback-efi", BAD, "/boot/efi/EFI/BOOT/BOOTX64.EFI")), false, false,
        |disk| disk.mtools("mdel", &["::/EFI/BOOT/BOOTX64.EFI"])),
    case!("empty-fallback-loader", Uefi, KVM, BAD, Some(("boot.fallback-efi", BAD, "/boot/efi/EFI/BOOT/BOOTX64.EFI")), false, false,
        |disk| { let empty = disk.disk.with_extension("empty"); std::fs::write(&empty, "").expect("a file");
            disk.mtools("mcopy", &["-o", text(&empty), "::/EFI/BOOT/BOOTX64.EFI"]); std::fs::remove_file(empty).expect("it goes"); }),
    case!("gpt-backup-damaged", Bios, KVM, GOOD, Some(("part.gpt-backup", "advice", "8589934080")), true, false,
        |disk| disk.poke((8 << 30) - 512 + 16, &[0xff; 8])),
    case!("gpt-primary-damaged", Bios, KVM, BAD, Some(("part.table", BAD, "512")), false, false,
        |disk| disk.poke(512 + 16, &[0xff; 8])),
    case!("no-mbr-code", Bios, KVM, BAD, Some(("boot.mode", BAD, "0")), false, false,
        |disk| disk.poke(0, &[0; 440])),
    case!("no-mbr-code-uefi", Uefi, KVM, GOOD, None, true, false, |disk| disk.poke(0, &[0; 440])),
    case!("no-grub-core", Bios, KVM, BAD, Some(("boot.mode", BAD, "1048576")), false, false,
        |disk| disk.poke(BIOS_AT, &[0; 512])),
    case!("no-grub-cfg", Bios, KVM, BAD, Some(("boot.loader", BAD, "/boot/grub/grub.cfg")), false, false,
        |disk| { disk.debugfs(&format!("rm {GRUB}")); }),
    case!("empty-grub-cfg", Bios, KVM, BAD, Some(("boot.loader", BAD, "/boot/grub/grub.cfg")), false, false,
        |disk| disk.write(GRUB, b"")),
    case!("empty-kernel", Bios, KVM, BAD, Some(("boot.kernel", BAD, "/boot/vmlinuz-RELEASE")), false, false,
        |disk| disk.write(&format!("/boot/vmlinuz-{}", disk.release), b"")),
    case!("truncated-kernel", Bios, KVM, BAD, Some(("boot.kernel", BAD, "/boot/vmlinuz-RELEASE")), false, false,
        |disk| { let path = format!("/boot/vmlinuz-{}", disk.release); let old = disk.read(&path); disk.write(&path, &old[..old.len() / 2]); }),
    case!("no-kernel", Bios, KVM, BAD, Some(("boot.kernel", BAD, "/boot/grub/grub.cfg:8")), false, false,
        |disk| { disk.debugfs(&format!("rm /boot/vmlinuz-{}", disk.release)); }),
    case!("truncated-initramfs", Bios, KVM, BAD, Some(("boot.kernel", BAD, "/boot/initrd.img-RELEASE")), false, false,
        |disk| { let path = disk.initramfs(); let old = disk.read(&path); disk.write(&path, &old[..old.len() / 2]); }),
    case!("no-initramfs", Bios, KVM, BAD, Some(("boot.kernel", BAD, "/boot/grub/grub.cfg:9")), false, false,
        |disk| { disk.debugfs(&format!("rm {}", disk.initramfs())); }),
    case!("no-init", Bios, KVM, BAD, Some(("init.systemd", BAD, "/sbin/init")), false, false,
        |disk| { disk.debugfs("rm /usr/sbin/init\nrm /usr/lib/systemd/systemd"); }),
    case!("no-default-target", Bios, KVM, BAD, Some(("init.systemd", BAD, "/etc/systemd/system/default.target")), false, false,
        |disk| { disk.debugfs("symlink /etc/systemd/system/default.target /dev/null"); }),
    case!("no-modules-dep", Bios, KVM, BAD, Some(("boot.kernel", BAD, "/lib/modules/RELEASE/modules.dep")), false, false,
        |disk| { disk.debugfs(&format!("rm /usr/lib/modules/{0}/modules.dep\nrm /usr/lib/modules/{0}/modules.dep.bin", disk.release)); }),
    case!("mac-pinned", Bios, KVM, WARN, Some(("net.mac", "no_network", "/etc/systemd/network/80-dhcp.network:2")), true, false,
        |disk| disk.replace("/etc/systemd/network/80-dhcp.network", "Name=en* eth*", "MACAddress=00:50:56:aa:bb:cc")),
    case!("static-address", Bios, KVM, WARN, Some(("net.dhcp", "no_network", "/etc/systemd/network/80-dhcp.network:4")), true, false,
        |disk| disk.replace("/etc/systemd/network/80-dhcp.network", "DHCP=yes", "Address=10.1.2.3/24")),
    case!("udev-by-mac", Bios, KVM, WARN, Some(("net.udev", "no_network", "/etc/udev/rules.d/70-persistent-net.rules:1")), true, false,
        |disk| disk.write("/etc/udev/rules.d/70-persistent-net.rules",
            b"SUBSYSTEM==\"net\", ACTION==\"add\", ATTR{address}==\"00:50:56:aa:bb:cc\", NAME=\"eth0\"\n")),
    case!("cloud-init-disabled", Bios, "openstack", WARN, Some(("cloudinit.present", "no_login", "/etc/cloud/cloud-init.disabled")), true, false,
        |disk| disk.write("/etc/cloud/cloud-init.disabled", b"")),
    case!("cloud-init-off-tencent", Uefi, "tencent", BAD, Some(("cloudinit.present", "rejected_at_import", "/etc/cloud/cloud-init.disabled")), true, false,
        |disk| disk.write("/etc/cloud/cloud-init.disabled", b"")),
    case!("wrong-datasource", Uefi, "tencent", WARN, Some(("cloudinit.datasource", "no_login", "/etc/cloud/cloud.cfg.d/99-x.cfg:1")), true, false,
        |disk| disk.write("/etc/cloud/cloud.cfg.d/99-x.cfg", b"datasource_list: [ NoCloud, None ]\n")),
    case!("no-sshd", Bios, KVM, WARN, Some(("ssh.daemon", "no_login", "/usr/sbin/sshd")), true, false,
        |disk| { disk.debugfs("rm /usr/sbin/sshd"); }),
    case!("host-keys", Bios, KVM, WARN, Some(("sec.hostkeys", "hygiene", "/etc/ssh/ssh_host_ed25519_key")), true, false,
        |disk| disk.write("/etc/ssh/ssh_host_ed25519_key", b"-----BEGIN OPENSSH PRIVATE KEY-----\n")),
    case!("machine-id", Bios, KVM, WARN, Some(("sec.machine-id", "hygiene", "/etc/machine-id")), true, false,
        |disk| disk.write("/etc/machine-id", b"0123456789abcdef0123456789abcdef\n")),
    case!("private-key", Bios, KVM, WARN, Some(("sec.authkeys", "hygiene", "/root/.ssh/id_ed25519")), true, false,
        |disk| disk.write("/root/.ssh/id_ed25519", b"-----BEGIN OPENSSH PRIVATE KEY-----\n")),
    case!("dirty-journal", Bios, KVM, GOOD, Some(("fs.clean", "advice", "135266304")), true, false,
        |disk| { disk.debugfs("jo -c -v 3\njw -r 1999999\njc"); }),
    case!("full-disk", Bios, KVM, WARN, Some(("fs.space", "no_login", "135266304")), true, false,
        |disk| { disk.debugfs("ssv free_blocks_count 100\nssv r_blocks_count 0"); }),
];
