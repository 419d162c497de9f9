//! A domain of a real libvirt: a daemon of one user's session, as an ordinary user, with a home of its own.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kiln_testkit::fixtures::Fixture;

use super::*;
use crate::support::{Ran, run};

/// `nobody`: as root, libvirt is the whole machine's.
const USER: &str = "65534";

struct Libvirt {
    sandbox: Sandbox,
    daemon: Child,
}

impl Libvirt {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        std::fs::create_dir(sandbox.path("run")).unwrap();
        let fixture = Fixture::MicroGuest.ensure().unwrap();
        for name in ["vmlinuz", "initrd-full.img", "ext4.raw"] {
            sandbox.tool("cp", [fixture.join(name), sandbox.path(name)]);
        }
        let disk =
            [sandbox.path("ext4.raw"), sandbox.path("domain.qcow2")].map(|path| path.display().to_string());
        sandbox.tool("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", &disk[0], &disk[1]]);
        sandbox.tool("cp", [PathBuf::from(env!("CARGO_BIN_EXE_kiln")), sandbox.path("kiln")]);
        std::fs::write(sandbox.path("libvirtd.conf"), "log_outputs=\"3:stderr\"\n").unwrap();
        std::fs::write(sandbox.path("domain.xml"), domain(&sandbox)).unwrap();
        let all = sandbox.path("..").canonicalize().unwrap();
        sandbox.tool("chown", ["-R", USER, all.to_str().unwrap()]);
        let daemon = user(&sandbox, "libvirtd")
            .args(["-f", "libvirtd.conf"])
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(sandbox.path("libvirtd.log")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("libvirtd is needed ({error}); `make setup` installs it"));
        let libvirt = Self { sandbox, daemon };
        let began = Instant::now();
        while libvirt.virsh(&["list"]).code != Some(0) {
            assert!(began.elapsed() < Duration::from_secs(60), "{}", libvirt.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        libvirt
    }

    fn virsh(&self, words: &[&str]) -> Ran {
        run(user(&self.sandbox, "virsh").args(words))
    }

    fn kiln(&self, words: &[&str]) -> Ran {
        run(user(&self.sandbox, "./kiln").args(words))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.sandbox.path("libvirtd.log")).unwrap_or_default()
    }

    fn console(&self) -> String {
        let bytes = std::fs::read(self.sandbox.path("console.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The last number in whole lines `ACK n`.
    fn acked(&self) -> u64 {
        let console = self.console();
        let whole = console.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let number = |line: &str| line.trim_end().strip_prefix("ACK ")?.parse().ok();
        whole.lines().rev().find_map(number).unwrap_or(0)
    }

    fn wait_for_ack(&self, number: u64) {
        let began = Instant::now();
        while self.acked() < number {
            assert!(began.elapsed() < Duration::from_secs(180), "{}\n{}", self.console(), self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let _ = self.virsh(&["destroy", "kiln-test"]);
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// A program as the user of the session.
fn user(sandbox: &Sandbox, program: &str) -> Command {
    let mut command = sandbox.command("setpriv");
    command
        .args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups", program])
        .env("XDG_RUNTIME_DIR", sandbox.path("run"))
        .env("LIBVIRT_DEFAULT_URI", "qemu:///session");
    command
}

fn domain(sandbox: &Sandbox) -> String {
    let file = |name: &str| sandbox.path(name).display().to_string();
    format!(
        "<domain type='qemu'><name>kiln-test</name><memory unit='MiB'>256</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='pc'>hvm</type><kernel>{}</kernel><initrd>{}</initrd>\
         <cmdline>console=ttyS0 quiet panic=-1 no_timer_check kiln.mode=one kiln.fs=ext4 kiln.agent=qemu</cmdline></os>\
         <features><acpi/></features><devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>\
         <target dev='vda' bus='virtio'/></disk><serial type='file'><source path='{}'/></serial>\
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>\
         <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
        file("vmlinuz"),
        file("initrd-full.img"),
        file("domain.qcow2"),
        file("console.log")
    )
}

#[test]
#[ignore = "e2e: a guest boots"]
fn domain_of_libvirt_is_captured_while_it_writes() {
    let libvirt = Libvirt::new();
    let created = libvirt.virsh(&["create", "domain.xml"]);
    assert_eq!(created.code, Some(0), "{created:?}\n{}", libvirt.log());
    libvirt.wait_for_ack(3);
    let before = libvirt.acked();
    let words = ["capture", "libvirt:kiln-test", "--name", "domain", "--quiesce", "require", "--json"];
    let answer = libvirt.kiln(&words).exits(0).json("kiln.capture.v1");
    println!("{}", libvirt.kiln(&["show", "domain"]).ok());
    assert_eq!(answer["consistency"], "filesystem", "{answer}");
    let acked = libvirt.acked();
    libvirt.wait_for_ack(acked + 3);
    let nodes = r#"{"execute":"query-named-block-nodes"}"#;
    let nodes = libvirt.virsh(&["qemu-monitor-command", "kiln-test", nodes]).ok();
    assert!(nodes.contains("libvirt-1-format") && !nodes.contains("\"node-name\":\"kiln-"), "{nodes}");
    assert_eq!(libvirt.virsh(&["domstate", "kiln-test"]).ok().trim(), "running");
    assert!(!libvirt.console().contains("WRITE ERROR"));
    let found = live::numbers(&libvirt.sandbox, "domain");
    assert!(before <= found, "{before} <= {found}");
    // A second one works, and a domain that is not there is an error of its own.
    libvirt.sandbox.tool("chown", ["-R", USER, libvirt.sandbox.store().to_str().unwrap()]);
    libvirt.kiln(&["capture", "libvirt:kiln-test", "--name", "again", "--quiesce", "none", "-q"]).ok();
    let error = libvirt.kiln(&["capture", "libvirt:nobody", "--name", "x", "--json"]).exits(3).error();
    assert_eq!(error["code"], "qemu.refused", "{error}");
    println!("a domain of libvirt: {before} acknowledged before, {found} in the captured disk");
}
