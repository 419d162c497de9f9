//! Boots a disk under QEMU and waits for its login prompt on the serial console.
//!
//! The guest runs under TCG, without network, on a throw-away overlay: the disk file is never written.
//! Every node given to QEMU names its format, so nothing is probed.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

/// What `getty` prints after the host name when the guest is up.
const PROMPT: &str = " login: ";
/// The console text kept for the report; a guest that prints for ever costs no more than twice this.
const CONSOLE_KEPT: usize = 256 * 1024;

/// The firmware that starts the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS on QEMU's `pc` machine.
    Bios,
    /// OVMF (Debian's package `ovmf`) on `q35`, with fresh variables each time: the fallback loader starts.
    Uefi,
}

/// How the disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskBus {
    /// virtio-blk: `/dev/vda`.
    #[default]
    VirtioBlk,
    /// virtio-scsi: `/dev/sda`.
    VirtioScsi,
    /// VMware's paravirtual SCSI.
    PvScsi,
    /// NVMe.
    Nvme,
}

impl DiskBus {
    /// QEMU's devices for a drive `disk0`.
    fn devices(self) -> &'static [&'static str] {
        match self {
            Self::VirtioBlk => &["virtio-blk-pci,drive=disk0"],
            Self::VirtioScsi => &["virtio-scsi-pci,id=scsi0", "scsi-hd,bus=scsi0.0,drive=disk0"],
            Self::PvScsi => &["pvscsi,id=scsi0", "scsi-hd,bus=scsi0.0,drive=disk0"],
            Self::Nvme => &["nvme,serial=kiln,drive=disk0"],
        }
    }
}

/// How a start ended, for guests that are meant to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The login prompt came.
    pub prompt: bool,
    /// The words by which it was known.
    pub words: String,
    /// The console.
    pub console: String,
}

/// A machine whose console is silent for so long has nothing to start, even where others use its processors.
const QUIET: Duration = Duration::from_secs(150);

/// What a machine says when it has given up. What GRUB says of one entry is none of it: another may follow.
const GIVEN_UP: [&str; 16] = [
    "(initramfs)",
    "root@(none)",
    "rescue mode",
    "Enter username:",
    "System is Powered Off",
    "Kernel panic",
    "grub>",
    "grub rescue>",
    "emergency mode",
    "No bootable device",
    "Boot failed: not a bootable disk",
    "Failed to boot both default and fallback entries",
    "failed to start Boot",
    "No bootable option or device was found",
    "UEFI Interactive Shell",
    "systemd[1]: Freezing execution",
];

/// A disk to boot and the machine to boot it on.
#[derive(Debug, Clone)]
pub struct Guest {
    /// The image file.
    pub disk: PathBuf,
    /// QEMU's name of its format: `raw`, `qcow2`, `vpc`, ...
    pub format: String,
    /// How the machine starts.
    pub firmware: Firmware,
    /// How the disk is attached.
    pub bus: DiskBus,
    /// Memory of the guest in MiB.
    pub memory_mib: u32,
    /// How long to wait for the prompt.
    pub timeout: Duration,
    /// The emulator; `qemu-system-x86_64` unless a test replaces it.
    pub qemu: PathBuf,
}

/// A guest that reached its login prompt.
#[derive(Debug, Clone)]
pub struct Booted {
    /// From the start of the QEMU process to the prompt.
    pub took: Duration,
    /// The console text up to the prompt (its last 256 KiB at least).
    pub console: String,
}

/// Why a guest did not reach its login prompt.
#[derive(Debug)]
pub enum BootError {
    /// QEMU could not be started or talked to.
    Qemu {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A firmware file of package `ovmf` is absent.
    FirmwareMissing(PathBuf),
    /// QEMU ended before the prompt.
    Exited {
        /// How it ended.
        status: ExitStatus,
        /// What it said on standard error.
        stderr: String,
        /// The console text until then.
        console: String,
    },
    /// No prompt within the time allowed.
    TimedOut {
        /// The time allowed.
        after: Duration,
        /// The console text until then.
        console: String,
    },
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qemu { program, .. } => write!(f, "cannot run {}", program.display()),
            Self::FirmwareMissing(path) => {
                write!(f, "{} is absent (Debian package: ovmf; `make setup` installs it)", path.display())
            }
            Self::Exited { status, stderr, console } => {
                write!(f, "QEMU ended before the login prompt: {status}\n{stderr}{}", last_lines(console))
            }
            Self::TimedOut { after, console } => {
                write!(f, "no login prompt within {} s\n{}", after.as_secs(), last_lines(console))
            }
        }
    }
}

impl std::error::Error for BootError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Qemu { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl Guest {
    /// A guest of 1 GiB of memory started by BIOS, with 300 s to reach its prompt.
    #[must_use]
    pub fn new(disk: impl Into<PathBuf>, format: impl Into<String>) -> Self {
        Self {
            disk: disk.into(),
            format: format.into(),
            firmware: Firmware::Bios,
            bus: DiskBus::default(),
            memory_mib: 1024,
            timeout: Duration::from_secs(300),
            qemu: PathBuf::from("qemu-system-x86_64"),
        }
    }

    /// Starts the guest, waits for its login prompt on ttyS0, stops it. The disk file is left as it was.
    ///
    /// # Errors
    /// [`BootError`]: one variant each for no emulator, no firmware, an early end, and no prompt in time.
    pub fn boot_to_login(&self) -> Result<Booted, BootError> {
        if self.firmware == Firmware::Uefi {
            for path in [OVMF_CODE, OVMF_VARS] {
                if !Path::new(path).exists() {
                    return Err(BootError::FirmwareMissing(PathBuf::from(path)));
                }
            }
        }
        let started = Instant::now();
        let mut qemu = Running::start(&self.qemu, &self.arguments())?;
        let mut console = Console::default();
        loop {
            let left = self.timeout.saturating_sub(started.elapsed());
            match qemu.serial.recv_timeout(left) {
                Ok(bytes) => {
                    if console.push(&bytes) {
                        return Ok(Booted { took: started.elapsed(), console: console.text() });
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return Err(BootError::TimedOut { after: self.timeout, console: console.text() });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let (status, stderr) = qemu
                        .end()
                        .map_err(|source| BootError::Qemu { program: self.qemu.clone(), source })?;
                    return Err(BootError::Exited { status, stderr, console: console.text() });
                }
            }
        }
    }

    /// Starts the guest and waits until it has reached its login prompt or given up, whatever comes first.
    #[must_use]
    pub fn boot_to_end(&self) -> Ended {
        let started = Instant::now();
        let mut qemu = match Running::start(&self.qemu, &self.arguments()) {
            Ok(qemu) => qemu,
            Err(error) => return Ended { prompt: false, words: error.to_string(), console: String::new() },
        };
        let mut console = Console::default();
        loop {
            let left = self.timeout.saturating_sub(started.elapsed());
            let told =
                |prompt, words: String, console: &Console| Ended { prompt, words, console: console.text() };
            match qemu.serial.recv_timeout(left.min(QUIET)) {
                Ok(bytes) => {
                    if console.push(&bytes) {
                        return told(
                            true,
                            format!("login prompt after {} s", started.elapsed().as_secs()),
                            &console,
                        );
                    }
                    if let Some(words) = GIVEN_UP.iter().find(|words| console.news_hold(words)) {
                        return told(false, (*words).to_owned(), &console);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    return told(false, format!("silence for {} s", left.min(QUIET).as_secs()), &console);
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = qemu.end().map_or("unknown".to_owned(), |(status, _)| status.to_string());
                    return told(false, format!("the machine ended: {status}"), &console);
                }
            }
        }
    }

    /// The arguments of the emulator.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> =
            ["-nodefaults", "-no-user-config", "-no-reboot"].map(Into::into).into();
        let mut option = |name: &str, value: OsString| arguments.extend([OsString::from(name), value]);
        option("-accel", "tcg,thread=multi".into());
        option("-smp", "2".into());
        option("-m", self.memory_mib.to_string().into());
        option("-display", "none".into());
        option("-monitor", "none".into());
        option("-serial", "stdio".into());
        option("-device", "VGA".into());
        option("-device", "virtio-rng-pci".into());
        match self.firmware {
            Firmware::Bios => option("-machine", "pc".into()),
            Firmware::Uefi => {
                option("-machine", "q35".into());
                let code = drive(Path::new(OVMF_CODE), "raw", "if=pflash,unit=0,readonly=on");
                option("-drive", code);
                let variables = drive(Path::new(OVMF_VARS), "raw", "if=pflash,unit=1,snapshot=on");
                option("-drive", variables);
            }
        }
        option("-drive", drive(&self.disk, &self.format, "if=none,id=disk0,snapshot=on,cache=unsafe"));
        for device in self.bus.devices() {
            option("-device", device.into());
        }
        arguments
    }
}

const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// One `-drive` value. A comma in a file name is doubled, as QEMU's option parser wants it.
fn drive(file: &Path, format: &str, rest: &str) -> OsString {
    let mut value = OsString::from(format!("{rest},format={format},file="));
    value.push(file.to_string_lossy().replace(',', ",,"));
    value
}

/// The console so far: bounded, and searched across the seams between reads.
#[derive(Default)]
struct Console {
    bytes: Vec<u8>,
    /// How many of them came last.
    news: usize,
}

impl Console {
    /// Adds what the guest printed; true once the prompt has been seen.
    fn push(&mut self, bytes: &[u8]) -> bool {
        if self.bytes.len() + bytes.len() > 2 * CONSOLE_KEPT {
            self.bytes.drain(..self.bytes.len() - CONSOLE_KEPT);
        }
        self.bytes.extend_from_slice(bytes);
        self.news = bytes.len();
        self.news_hold(PROMPT)
    }

    /// Whether these words end in what came last. A serial line brings a few bytes at a time: a look at all of them each
    /// time costs more than the guest.
    fn news_hold(&self, words: &str) -> bool {
        let from = self.bytes.len().saturating_sub(self.news + words.len() - 1);
        self.bytes[from..].windows(words.len()).any(|window| window == words.as_bytes())
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// The emulator process, killed and reaped when dropped.
struct Running {
    child: Child,
    serial: Receiver<Vec<u8>>,
}

impl Running {
    fn start(program: &Path, arguments: &[OsString]) -> Result<Self, BootError> {
        let cannot = |source| BootError::Qemu { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(cannot)?;
        let Some(mut stdout) = child.stdout.take() else {
            return Err(cannot(io::Error::other("no pipe to its standard output")));
        };
        let (sender, serial) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = stdout.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, serial })
    }

    /// Waits for the end of a process that has closed its standard output.
    fn end(&mut self) -> io::Result<(ExitStatus, String)> {
        let mut text = Vec::new();
        if let Some(stderr) = self.child.stderr.take() {
            stderr.take(64 * 1024).read_to_end(&mut text)?;
        }
        Ok((self.child.wait()?, String::from_utf8_lossy(&text).into_owned()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when the process is already gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The end of the console, for an error message.
#[must_use]
pub fn last_lines(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest whose emulator is a shell script.
    fn scripted(name: &str, script: &str) -> (Guest, PathBuf) {
        let path = std::env::temp_dir().join(format!("kiln-boot-{}-{name}", std::process::id()));
        // Written by another process: a file this one has just written may still be open in a child that a
        // parallel test has forked, and then cannot be executed.
        let written = Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$1\" && chmod 755 \"$1\"", "sh"])
            .arg(&path)
            .arg(script)
            .status()
            .expect("a shell is here");
        assert!(written.success());
        let mut guest = Guest::new("/nonexistent/disk.raw", "raw");
        guest.qemu.clone_from(&path);
        guest.timeout = Duration::from_secs(20);
        (guest, path)
    }

    #[test]
    fn prompt_split_over_two_writes_is_a_boot() {
        let (guest, script) =
            scripted("split", "printf 'starting\\nhost log'; sleep 0.2; printf 'in: '; exec sleep 60");
        let booted = guest.boot_to_login().expect("the prompt is seen");
        std::fs::remove_file(script).expect("the script is removed");
        assert_eq!(booted.console, "starting\nhost login: ");
        assert!(booted.took >= Duration::from_millis(200) && booted.took < guest.timeout);
    }

    #[test]
    fn emulator_that_ends_early_is_reported_with_its_status_and_words() {
        let (guest, script) = scripted("early", "echo half; echo 'no such disk' >&2; exit 7");
        let error = guest.boot_to_login().expect_err("there is no prompt");
        std::fs::remove_file(script).expect("the script is removed");
        let BootError::Exited { status, stderr, console } = error else { panic!("{error:?}") };
        assert_eq!((status.code(), stderr.as_str(), console.as_str()), (Some(7), "no such disk\n", "half\n"));
    }

    #[test]
    fn guest_without_prompt_times_out_with_its_console() {
        let (mut guest, script) = scripted("slow", "echo 'emergency mode'; exec sleep 60");
        guest.timeout = Duration::from_millis(500);
        let error = guest.boot_to_login().expect_err("there is no prompt");
        std::fs::remove_file(script).expect("the script is removed");
        let BootError::TimedOut { after, console } = error else { panic!("{error:?}") };
        assert_eq!((after, console.as_str()), (Duration::from_millis(500), "emergency mode\n"));
    }

    #[test]
    fn absent_emulator_is_named() {
        let mut guest = Guest::new("disk.raw", "raw");
        guest.qemu = PathBuf::from("/nonexistent/qemu");
        let error = guest.boot_to_login().expect_err("there is no emulator");
        assert!(matches!(&error, BootError::Qemu { program, source }
            if program == Path::new("/nonexistent/qemu") && source.kind() == io::ErrorKind::NotFound));
    }

    #[test]
    fn every_drive_names_its_format_and_leaves_its_file_unwritten() {
        let mut guest = Guest::new("/images/a,b.vhd", "vpc");
        guest.firmware = Firmware::Uefi;
        let arguments: Vec<String> =
            guest.arguments().into_iter().map(|a| a.into_string().expect("plain text")).collect();
        let drives: Vec<&str> =
            arguments.windows(2).filter(|pair| pair[0] == "-drive").map(|pair| pair[1].as_str()).collect();
        assert_eq!(
            drives,
            [
                "if=pflash,unit=0,readonly=on,format=raw,file=/usr/share/OVMF/OVMF_CODE_4M.fd",
                "if=pflash,unit=1,snapshot=on,format=raw,file=/usr/share/OVMF/OVMF_VARS_4M.fd",
                "if=none,id=disk0,snapshot=on,cache=unsafe,format=vpc,file=/images/a,,b.vhd",
            ]
        );
    }

    #[test]
    fn endless_console_is_bounded_and_still_searched() {
        let mut console = Console::default();
        for _ in 0..1000 {
            assert!(!console.push(&[b'.'; 4096]));
            assert!(console.bytes.len() <= 2 * CONSOLE_KEPT);
        }
        assert!(console.push(b"host login: "));
        assert!(!console.push(b"no such b"));
        assert!(!console.news_hold("bootable device"));
        assert!(!console.push(b"ootable device\n"));
        assert!(console.news_hold("bootable device") && !console.news_hold("no such"));
    }
}
