//! Starts the micro guest as Kiln starts its instances: the same nodes, sockets and names, under TCG.
//!
//! The guest appends a number to a file, syncs it, and only then prints `ACK n` on its console. So a disk that was
//! captured at any moment must hold an unbroken list of numbers that reaches at least the last `ACK` before.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fixtures::{Fixture, FixtureError};

/// A disk of the guest.
#[derive(Debug, Clone)]
pub struct Disk {
    /// `disk0`: also the name of its node.
    pub id: String,
    /// The overlay's file.
    pub overlay: PathBuf,
    /// Layers below it, base first: qcow2 files.
    pub layers: Vec<PathBuf>,
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Start {
    /// Where its sockets and its console's log go.
    pub dir: PathBuf,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Words for the kernel's command line: `kiln.mode=one kiln.fs=ext4`.
    pub words: String,
    /// With nodes as another program would have them: no raw node to turn.
    pub foreign: bool,
    /// With `sqlite3` and QEMU's own guest agent: modes `work` and `audit`.
    pub full: bool,
}

/// A running guest; killed with the value.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    dir: PathBuf,
}

/// How long a guest may take to say something on a machine with much else to do.
pub const PATIENCE: Duration = Duration::from_secs(180);

impl Guest {
    /// Starts it.
    ///
    /// # Errors
    /// The fixture's; the system's.
    ///
    /// # Panics
    /// When the fixture cannot be had.
    pub fn start(start: &Start) -> io::Result<Self> {
        let fixture = Fixture::MicroGuest
            .ensure()
            .map_err(|error: FixtureError| io::Error::other(error.to_string()))?;
        let mut command = Command::new("qemu-system-x86_64");
        command.current_dir(&start.dir).args([
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-machine",
            "pc",
            "-accel",
            "tcg,thread=multi",
            "-m",
            "256",
            "-name",
            "micro",
            "-no-reboot",
            "-sandbox",
            "on",
            "-serial",
            "file:console.log",
            "-qmp",
            "unix:qmp.sock,server=on,wait=off",
            "-device",
            "virtio-serial",
            "-chardev",
            "socket,id=agent,path=agent.sock,server=on,wait=off",
            "-device",
            "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        ]);
        let initrd = if start.full { "initrd-full.img" } else { "initrd.img" };
        command.arg("-kernel").arg(fixture.join("vmlinuz")).arg("-initrd").arg(fixture.join(initrd));
        // On a busy machine ticks come late, and the kernel takes its timer for broken.
        let append = format!("console=ttyS0 quiet panic=-1 no_timer_check {}", start.words);
        command.arg("-append").arg(append);
        for disk in &start.disks {
            let mut below = Value::Null;
            for (number, layer) in start_layers(disk) {
                let node = format!("{}-layer{number}", disk.id);
                blockdev(
                    &mut command,
                    &json!({ "driver": "qcow2", "node-name": node, "read-only": true,
                    "backing": below, "file": { "driver": "file", "filename": layer } }),
                );
                below = node.into();
            }
            let overlay = format!("{}-overlay", disk.id);
            blockdev(
                &mut command,
                &json!({ "driver": "qcow2", "node-name": overlay, "backing": below,
                "discard": "unmap", "file": { "driver": "file", "filename": disk.overlay } }),
            );
            if !start.foreign {
                blockdev(
                    &mut command,
                    &json!({ "driver": "raw", "node-name": disk.id, "discard": "unmap",
                    "file": overlay }),
                );
            }
            let drive = if start.foreign { &overlay } else { &disk.id };
            command.arg("-device").arg(format!("virtio-blk-pci,drive={drive},id={0},serial={0}", disk.id));
        }
        let errors = fs::File::create(start.dir.join("qemu.err"))?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).spawn()?;
        Ok(Self { child, dir: start.dir.clone() })
    }

    /// The id of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed.
    #[must_use]
    pub fn console(&self) -> String {
        console(&self.dir)
    }

    /// The last number that it has acknowledged; 0 before the first.
    #[must_use]
    pub fn acked(&self) -> u64 {
        last_ack(&self.console())
    }

    /// Waits until the console holds a text.
    ///
    /// # Panics
    /// When it does not come, with what was printed.
    pub fn wait_for(&mut self, text: &str) {
        self.wait_until(text, |console| console.contains(text));
    }

    /// Waits until a number is acknowledged.
    ///
    /// # Panics
    /// When it is not, with what was printed.
    pub fn wait_for_ack(&mut self, number: u64) {
        self.wait_until("the next ACK", |console| last_ack(console) >= number);
    }

    fn wait_until(&mut self, what: &str, there: impl Fn(&str) -> bool) {
        let began = Instant::now();
        loop {
            let console = self.console();
            if there(&console) {
                return;
            }
            let ended = self.child.try_wait().ok().flatten();
            let errors = fs::read_to_string(self.dir.join("qemu.err")).unwrap_or_default();
            let tail: String =
                console.chars().rev().take(1500).collect::<Vec<_>>().into_iter().rev().collect();
            assert!(
                began.elapsed() < PATIENCE && ended.is_none(),
                "the guest did not print {what} ({ended:?}): {errors}\n{tail}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends its process at once, as a power cut would.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start_layers(disk: &Disk) -> impl Iterator<Item = (usize, &PathBuf)> {
    disk.layers.iter().enumerate()
}

fn blockdev(command: &mut Command, node: &Value) {
    command.arg("-blockdev").arg(node.to_string());
}

fn console(dir: &Path) -> String {
    String::from_utf8_lossy(&fs::read(dir.join("console.log")).unwrap_or_default()).into_owned()
}

/// The last number in whole lines `ACK n`.
fn last_ack(console: &str) -> u64 {
    let whole = console.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let number = |line: &str| line.trim_end().strip_prefix("ACK ")?.parse().ok();
    whole.lines().rev().find_map(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::last_ack;

    #[test]
    fn only_whole_lines_are_acknowledged() {
        assert_eq!(last_ack("READY\r\nACK 1\r\nACK 12\r\nACK 13"), 12);
        assert_eq!(last_ack("ACK 1"), 0);
    }
}
