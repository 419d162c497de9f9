//! Systems that are laid out as other families than Debian lay them out, in small: busybox in place of systemd, extlinux
//! with a menu, no partition table. The same were started by hand; what is asserted here is the verdict.

use std::fs::Permissions;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use kiln_disk::{Budget, Disk, FileSource, Limits};
use kiln_guest::facts::{Depth, Seen};
use kiln_guest::rules::{Impact, Options, Verdict, place};
use kiln_guest::{Examination, Judgement, examine, judge};
use kiln_testkit::fixtures::Fixture;
use kiln_testkit::flat::Flat;

const MENU: &str = "DEFAULT menu.c32\nPROMPT 0\nMENU TITLE Alpine/Linux Boot Menu\nMENU HIDDEN\nTIMEOUT 10\nLABEL virt\n  \
                    MENU DEFAULT\n  MENU LABEL Linux virt\n  LINUX vmlinuz-virt\n  INITRD initramfs-virt\n  \
                    APPEND root=LABEL=/ modules=sd-mod,usb-storage,ext4 rootfstype=ext4 console=ttyS0,115200n8\n\
                    MENU SEPARATOR\n";

/// A tree as Alpine's cloud images have it: what is left out no rule asks for.
struct Alpine {
    dir: tempfile::TempDir,
}

impl Alpine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let alpine = Self { dir };
        for (path, content) in [
            (
                "etc/os-release",
                "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.20.3\nPRETTY_NAME=\"Alpine Linux v3.20\"\n",
            ),
            ("etc/alpine-release", "3.20.3\n"),
            ("etc/hostname", "localhost\n"),
            ("etc/inittab", "::sysinit:/sbin/openrc sysinit\nttyS0::respawn:/sbin/getty -L 0 ttyS0 vt100\n"),
            ("etc/network/interfaces", "auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n"),
            ("etc/fstab", "LABEL=/ / ext4 rw,relatime 0 1\n"),
            ("etc/passwd", "root:x:0:0:root:/root:/bin/ash\nalpine:x:1000:1000::/home/alpine:/bin/ash\n"),
            ("etc/shadow", "root:*::0:::::\nalpine:*::0:::::\n"),
            ("etc/group", "root:x:0:\n"),
            ("etc/init.d/networking", "#!/sbin/openrc-run\n"),
            ("boot/extlinux.conf", MENU),
        ] {
            alpine.write(path, content);
        }
        for dir in ["proc", "sys", "dev", "run", "tmp", "var", "bin", "sbin", "etc/runlevels/boot"] {
            std::fs::create_dir_all(alpine.path(dir)).unwrap();
        }
        std::fs::write(alpine.path("bin/busybox"), std::fs::read("/bin/busybox").unwrap()).unwrap();
        std::fs::set_permissions(alpine.path("bin/busybox"), Permissions::from_mode(0o755)).unwrap();
        for link in ["bin/sh", "bin/login", "sbin/init", "sbin/getty", "sbin/ifup", "sbin/udhcpc"] {
            symlink("/bin/busybox", alpine.path(link)).unwrap();
        }
        symlink("/etc/init.d/networking", alpine.path("etc/runlevels/boot/networking")).unwrap();
        let micro = Fixture::MicroGuest.ensure().unwrap();
        let kernel = std::fs::read(micro.join("vmlinuz")).unwrap();
        std::fs::write(alpine.path("boot/vmlinuz-virt"), &kernel).unwrap();
        let modules = format!("lib/modules/{}", release(&kernel));
        alpine.write(&format!("{modules}/modules.dep"), "kernel/drivers/net/virtio_net.ko:\n");
        alpine.write(&format!("{modules}/kernel/drivers/net/virtio_net.ko"), "a module");
        // That kernel has it built in.
        alpine.write(&format!("{modules}/modules.builtin"), "kernel/fs/ext4/ext4.ko\n");
        let initramfs = std::fs::read(micro.join("initrd.img")).unwrap();
        std::fs::write(alpine.path("boot/initramfs-virt"), initramfs).unwrap();
        alpine
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("tree").join(path)
    }

    /// A file with permission bits and owner.
    fn write_as(&self, path: &str, mode: u32, uid: u32) {
        self.write(path, "#!/bin/sh\n");
        std::os::unix::fs::chown(self.path(path), Some(uid), Some(0)).unwrap();
        self.mode(path, mode);
    }

    fn mode(&self, path: &str, mode: u32) {
        std::fs::set_permissions(self.path(path), Permissions::from_mode(mode)).unwrap();
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.path(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// The tree as one ext4 that covers the disk, with a boot sector in its first block.
    fn whole_disk(&self) -> Examination {
        self.disk_over(0)
    }

    /// The same on a disk that was full of a byte before.
    fn disk_over(&self, before: u8) -> Examination {
        let disk = self.dir.path().join("disk.raw");
        std::fs::File::create(&disk).unwrap().set_len(128 << 20).unwrap();
        if before != 0 {
            std::fs::write(&disk, vec![before; 128 << 20]).unwrap();
        }
        let words = ["-q", "-F", "-t", "ext4", "-O", "^64bit", "-E", "nodiscard", "-L", "/", "-d"];
        let mut mke2fs = Command::new("/usr/sbin/mke2fs");
        let done = mke2fs.args(words).arg(self.path("")).arg(&disk).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        let file = std::fs::File::options().write(true).open(&disk).unwrap();
        // The first bytes of extlinux's, and the end of every boot sector.
        file.write_all_at(b"\xeb\x58\x90EXTLINUX", 0).unwrap();
        file.write_all_at(&[0x55, 0xaa], 510).unwrap();
        look(&disk)
    }
}

/// The release of a kernel: the first word of what its header's kernel_version points at (Linux, boot.rst).
fn release(kernel: &[u8]) -> String {
    let at = usize::from(u16::from_le_bytes([kernel[0x20e], kernel[0x20f]])) + 0x200;
    let words = kernel[at..].split(|byte| matches!(byte, 0 | b' ')).next().unwrap();
    String::from_utf8(words.to_vec()).unwrap()
}

fn look(disk: &Path) -> Examination {
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(disk).unwrap()));
    examine(&[disk], &Arc::new(Budget::new(Limits::INSPECT)), Depth::Full).unwrap()
}

fn on_kvm(examination: &Examination) -> Judgement {
    judge(examination, place("kvm").unwrap(), &Options::default())
}

/// Findings that keep it from starting or from the network.
fn serious(judgement: &Judgement) -> Vec<(&'static str, Seen)> {
    let serious = [Impact::RejectedAtImport, Impact::WillNotBoot, Impact::NoNetwork];
    let findings = judgement.findings.iter().filter(|finding| serious.contains(&finding.severity));
    findings.map(|finding| (finding.id, finding.at.clone())).collect()
}

#[test]
fn system_of_busybox_on_the_whole_disk_starts_by_a_menu() {
    let examination = Alpine::new().whole_disk();
    let report = &examination.report;
    assert_eq!(report.problems, Vec::<String>::new());
    assert!(report.tables.iter().all(|table| table.partitions.is_empty()));
    assert!(report.boot.bios && !report.boot.uefi, "{}", report.boot.bios_fault);
    let entry = &report.boot.entries[0];
    assert!(entry.default);
    assert_eq!(entry.kernel_path.as_deref(), Some("/boot/vmlinuz-virt"));
    assert_eq!(entry.initramfs_paths, ["/boot/initramfs-virt"]);
    let judgement = on_kvm(&examination);
    assert_eq!(serious(&judgement), Vec::new());
    assert_eq!(judgement.verdict, Verdict::BootsWithWarnings, "{judgement:#?}");
}

#[test]
fn menu_that_waits_and_names_that_udev_changes_are_found() {
    let alpine = Alpine::new();
    alpine.write("boot/extlinux.conf", &MENU.replace("TIMEOUT 10\n", ""));
    let judgement = on_kvm(&alpine.whole_disk());
    assert_eq!(judgement.verdict, Verdict::WillNotBoot);
    assert_eq!(serious(&judgement), [("boot.loader", Seen::line("/boot/extlinux.conf", 1))]);

    let alpine = Alpine::new();
    alpine.write("usr/lib/udev/rules.d/80-net-setup-link.rules", "NAME==\"\", ENV{ID_NET_NAME}!=\"\"\n");
    let renamed = ("net.ifname", Seen::line("/etc/network/interfaces", 4));
    assert_eq!(serious(&on_kvm(&alpine.whole_disk())), std::slice::from_ref(&renamed));
    // Masked, as an administrator does who wants eth0.
    std::fs::create_dir_all(alpine.path("etc/udev/rules.d")).unwrap();
    symlink("/dev/null", alpine.path("etc/udev/rules.d/80-net-setup-link.rules")).unwrap();
    assert_eq!(serious(&on_kvm(&alpine.whole_disk())), Vec::new());
}

/// systemd stops in emergency mode there; OpenRC and busybox go on.
#[test]
fn mount_that_is_missing_stops_no_openrc() {
    let alpine = Alpine::new();
    alpine.write(
        "etc/fstab",
        "LABEL=/ / ext4 rw 0 1\nUUID=0badc0de-0000-4000-8000-000000000009 /data ext4 rw 0 2\n",
    );
    let judgement = on_kvm(&alpine.whole_disk());
    assert_eq!(serious(&judgement), Vec::new());
    let found = judgement.findings.iter().find(|finding| finding.id == "fstab.exist").unwrap();
    assert_eq!((found.severity, &found.at), (Impact::Advice, &Seen::line("/etc/fstab", 2)));
}

/// Debian's OpenRC runs Debian's scripts, and of those checkfs.sh asks for the password of root; and System V's init
/// without its table asks for a runlevel. Disks of Debian with these were started, and stopped there.
#[test]
fn scripts_of_debian_and_init_without_a_table_stop() {
    let alpine = Alpine::new();
    let dead = "UUID=0badc0de-0000-4000-8000-000000000009 /data ext4 rw 0";
    alpine.write("sbin/openrc", "");
    alpine.write("etc/init.d/checkfs.sh", "#!/bin/sh\n");
    for (pass, severity) in [(2, Impact::WillNotBoot), (0, Impact::Advice)] {
        alpine.write("etc/fstab", &format!("LABEL=/ / ext4 rw 0 1\n{dead} {pass}\n"));
        let judgement = on_kvm(&alpine.whole_disk());
        let found = judgement.findings.iter().find(|finding| finding.id == "fstab.exist").unwrap();
        assert_eq!((found.severity, &found.at), (severity, &Seen::line("/etc/fstab", 2)));
    }

    let alpine = Alpine::new();
    std::fs::remove_file(alpine.path("sbin/init")).unwrap();
    let program = [&std::fs::read("/bin/busybox").unwrap()[..], b"Enter runlevel: "].concat();
    std::fs::write(alpine.path("sbin/init"), program).unwrap();
    std::fs::set_permissions(alpine.path("sbin/init"), Permissions::from_mode(0o755)).unwrap();
    for (levels, stops) in [("id:2:initdefault:", false), ("id:0:initdefault:", true), ("", true)] {
        alpine.write("etc/inittab", &format!("# table\n{levels}\nsi::sysinit:/sbin/openrc sysinit\n"));
        let seen = if levels.is_empty() { Seen::file("/etc/inittab") } else { Seen::line("/etc/inittab", 2) };
        let expected = if stops { vec![("init.systemd", seen)] } else { Vec::new() };
        assert_eq!(serious(&on_kvm(&alpine.whole_disk())), expected, "{levels}");
    }
    std::fs::remove_file(alpine.path("etc/inittab")).unwrap();
    assert_eq!(serious(&on_kvm(&alpine.whole_disk())), [("init.systemd", Seen::file("/etc/inittab"))]);
}

/// CirrOS, ostree, a /usr of its own: the initramfs makes the root or finds it.
#[test]
fn disk_whose_initramfs_may_make_the_root_is_not_judged() {
    let alpine = Alpine::new();
    for entry in std::fs::read_dir(alpine.path("")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("boot") {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
    let examination = alpine.whole_disk();
    assert!(examination.report.roots.is_empty());
    let judgement = on_kvm(&examination);
    assert_eq!(serious(&judgement), Vec::new());
    assert_eq!(judgement.verdict, Verdict::Unknown);
    assert_eq!(judgement.unanswered.iter().map(|open| open.id).collect::<Vec<_>>(), ["os.root"]);

    // Where nothing is started there is nothing to wait for.
    let disk = alpine.dir.path().join("disk.raw");
    std::fs::File::options().write(true).open(&disk).unwrap().write_all_at(&[0; 512], 0).unwrap();
    let judgement = on_kvm(&look(&disk));
    assert_eq!(judgement.verdict, Verdict::WillNotBoot);
    assert!(judgement.findings.iter().any(|finding| finding.id == "os.root"), "{judgement:#?}");
}

fn at(examination: &Examination, target: &str) -> Judgement {
    judge(examination, place(target).unwrap(), &Options::default())
}

/// What rules of these ids found: id, severity, where.
fn found(judgement: &Judgement, ids: &[&str]) -> Vec<(&'static str, Impact, Seen)> {
    let findings = judgement.findings.iter().filter(|finding| ids.contains(&finding.id));
    findings.map(|finding| (finding.id, finding.severity, finding.at.clone())).collect()
}

/// Rules about what is wrong with few systems.
const RARE: [&str; 11] = [
    "sec.suid",
    "sec.freed-space",
    "sec.secrets",
    "sec.history",
    "net.ipv6-only",
    "net.firewall",
    "meta.license",
    "boot.acpi",
    "boot.numa",
    "ssh.config",
    "kmod.blacklist",
];

#[test]
fn rules_about_few_systems_are_silent_about_a_clean_one() {
    let alpine = Alpine::new();
    alpine.mode("tmp", 0o1777);
    alpine.write_as("usr/bin/sudo", 0o4755, 0);
    alpine.write_as("bin/bbsuid", 0o4111, 0);
    alpine.write_as("usr/bin/at", 0o4755, 1000);
    alpine.write_as("usr/bin/wall", 0o2755, 0);
    let examination = alpine.whole_disk();
    for target in ["kvm", "tencent", "aws", "azure", "gcp", "digitalocean"] {
        let judgement = at(&examination, target);
        assert_eq!(found(&judgement, &RARE), [], "{target}");
        let open: Vec<&str> = judgement.unanswered.iter().map(|open| open.id).collect();
        assert!(open.iter().all(|id| !RARE.contains(id)), "{target}: {open:?}");
    }
    let freed = examination.report.freed.unwrap();
    assert!(freed.looked >= 6 && freed.filled == 0, "{freed:?}");
}

#[test]
fn programs_that_make_root_of_anybody_are_found_where_they_lie() {
    let alpine = Alpine::new();
    alpine.write_as("usr/bin/.helper", 0o4755, 0);
    alpine.write_as("usr/bin/passwd", 0o4777, 0);
    alpine.write_as("var/tmp/sudo", 0o4711, 0);
    alpine.write_as("home/alpine/x", 0o4755, 0);
    alpine.write_as("usr/sbin/not-executable", 0o4644, 0);
    alpine.write_as("usr/local/bin/tool", 0o755, 0);
    alpine.mode("usr/local/bin", 0o777);
    let judgement = on_kvm(&alpine.whole_disk());
    assert_eq!(
        found(&judgement, &["sec.suid"]),
        [
            ("sec.suid", Impact::Hygiene, Seen::file("/home/alpine/x")),
            ("sec.suid", Impact::Hygiene, Seen::file("/var/tmp/sudo")),
            ("sec.suid", Impact::Hygiene, Seen::file("/usr/bin/passwd")),
            ("sec.suid", Impact::Hygiene, Seen::file("/usr/local/bin")),
            ("sec.suid", Impact::Advice, Seen::file("/usr/bin/.helper")),
        ]
    );
    let open = judgement.findings.iter().find(|finding| finding.at == Seen::file("/usr/local/bin")).unwrap();
    assert_eq!(open.fix, "chmod o-w /usr/local/bin");
}

#[test]
fn free_blocks_are_looked_at_and_what_was_deleted_is_told() {
    let alpine = Alpine::new();
    let examination = alpine.disk_over(0x5a);
    let freed = examination.report.freed.clone().unwrap();
    assert!(freed.looked >= 6 && freed.filled == freed.looked, "{freed:?}");
    let judgement = on_kvm(&examination);
    let seen = Seen::Volume { volume: "the whole disk".to_owned() };
    assert_eq!(found(&judgement, &["sec.freed-space"]), [("sec.freed-space", Impact::Advice, seen)]);
    // Not unmounted: its bitmaps may be older than its files.
    let disk = alpine.dir.path().join("disk.raw");
    let mut debugfs = Command::new("/usr/sbin/debugfs");
    assert!(debugfs.args(["-w", "-R", "ssv state 0"]).arg(&disk).output().unwrap().status.success());
    let judgement = on_kvm(&look(&disk));
    assert_eq!(found(&judgement, &["sec.freed-space"]), []);
    let open: Vec<(&str, &str)> =
        judgement.unanswered.iter().map(|open| (open.id, open.why.as_str())).collect();
    assert_eq!(open, [("sec.freed-space", "free blocks of the root (ext4) were not looked at")]);
}

#[test]
fn network_of_ipv6_only_is_told_apart_from_one_of_both() {
    let ids = ["net.ipv6-only"];
    for (lines, expected) in [
        ("iface eth0 inet6 auto\n", true),
        ("iface eth0 inet6 static\n  address 2001:db8::2/64\n", true),
        ("iface eth0 inet dhcp\niface eth0 inet6 auto\n", false),
        ("iface eth0 inet static\n  address 192.0.2.2/24\niface eth0 inet6 auto\n", false),
        ("iface eth0 inet manual\n", false),
    ] {
        let alpine = Alpine::new();
        alpine.write("etc/network/interfaces", &format!("auto lo\niface lo inet loopback\n{lines}"));
        let seen = Seen::line("/etc/network/interfaces", 3);
        let expected = if expected { vec![("net.ipv6-only", Impact::Advice, seen)] } else { Vec::new() };
        assert_eq!(found(&on_kvm(&alpine.whole_disk()), &ids), expected, "{lines}");
    }
    for (path, text, line) in [
        ("etc/netplan/1.yaml", "network:\n  ethernets:\n    eth0:\n      dhcp6: true\n", 4),
        (
            "etc/netplan/1.yaml",
            "network:\n  ethernets:\n    eth0:\n      addresses: [\"2001:db8::2/64\"]\n",
            4,
        ),
        ("etc/systemd/network/1.network", "[Match]\nName=eth0\n[Network]\nDHCP=ipv6\n", 4),
        ("etc/sysconfig/network-scripts/ifcfg-eth0", "DEVICE=eth0\nBOOTPROTO=none\nIPV6_AUTOCONF=yes\n", 3),
        (
            "etc/NetworkManager/system-connections/a.nmconnection",
            "[connection]\ninterface-name=eth0\n[ipv4]\nmethod=disabled\n[ipv6]\nmethod=auto\n",
            6,
        ),
    ] {
        let alpine = Alpine::new();
        alpine.write("etc/network/interfaces", "");
        alpine.write(path, text);
        let seen = Seen::line(format!("/{path}"), line);
        let expected = [("net.ipv6-only", Impact::Advice, seen)];
        assert_eq!(found(&on_kvm(&alpine.whole_disk()), &ids), expected, "{path}");
    }
}

#[test]
fn place_is_told_system_and_licence() {
    let ids = ["meta.os", "meta.license"];
    let release = || Seen::file("/etc/os-release");
    let examination = Alpine::new().whole_disk();
    assert_eq!(found(&at(&examination, "tencent"), &ids), [("meta.os", Impact::Advice, release())]);
    assert_eq!(found(&on_kvm(&examination), &ids), []);

    let alpine = Alpine::new();
    alpine.write(
        "etc/os-release",
        "ID=\"rhel\"\nVERSION_ID=\"9.4\"\nPRETTY_NAME=\"Red Hat Enterprise Linux 9.4\"\n",
    );
    alpine.write("etc/yum.repos.d/redhat-rhui.repo", "[rhui]\n");
    let examination = alpine.whole_disk();
    let rented = ("meta.license", Impact::Advice, Seen::file("/etc/yum.repos.d/redhat-rhui.repo"));
    let needs = ("meta.license", Impact::Advice, release());
    assert_eq!(found(&on_kvm(&examination), &ids), std::slice::from_ref(&rented));
    assert_eq!(found(&at(&examination, "azure"), &ids), [rented, needs.clone()]);
    assert_eq!(found(&at(&examination, "aws"), &ids), [needs]);
}

#[test]
fn words_of_the_command_line_are_advice_at_the_places_that_ask_for_them() {
    let ids = ["boot.rootdelay", "boot.acpi", "boot.console", "boot.numa"];
    let alpine = Alpine::new();
    let examination = alpine.whole_disk();
    let kernel = Seen::line("/boot/extlinux.conf", 9);
    assert_eq!(found(&at(&examination, "azure"), &ids), [("boot.rootdelay", Impact::Advice, kernel)]);
    alpine.write("boot/extlinux.conf", &MENU.replace("console=", "rootdelay=300 quiet acpi=off console="));
    let examination = alpine.whole_disk();
    let of = |target: &str| {
        let found = found(&at(&examination, target), &ids);
        assert!(found.iter().all(|(_, severity, _)| *severity == Impact::Advice), "{found:?}");
        found.into_iter().map(|(id, ..)| id).collect::<Vec<_>>()
    };
    assert_eq!(of("azure"), ["boot.console", "boot.acpi"]);
    assert_eq!(of("gcp"), ["boot.console", "boot.acpi"]);
    assert_eq!(of("kvm"), ["boot.acpi"]);
}

#[test]
fn what_keeps_users_out_and_what_they_left_is_found() {
    let alpine = Alpine::new();
    alpine.write("etc/firewalld/firewalld.conf", "DefaultZone=drop\n");
    alpine.write("usr/lib/firewalld/zones/drop.xml", "<zone target=\"DROP\"><short>Drop</short></zone>\n");
    std::fs::create_dir_all(alpine.path("etc/systemd/system/multi-user.target.wants")).unwrap();
    let unit = "etc/systemd/system/multi-user.target.wants/firewalld.service";
    symlink("/usr/lib/systemd/system/firewalld.service", alpine.path(unit)).unwrap();
    alpine.write("etc/modprobe.d/cis.conf", "# CIS\ninstall cramfs /bin/true\ninstall udf /bin/true\n");
    alpine.write("etc/ssh/sshd_config", "PermitRootLogin no\n");
    alpine.write("home/alpine/.ssh/authorized_keys", "ssh-ed25519 AAAA a@b\n");
    alpine.write("home/alpine/.ssh/known_hosts", "host ssh-ed25519 AAAA\n");
    for path in ["home/alpine", "home/alpine/.ssh", "home/alpine/.ssh/authorized_keys"] {
        std::os::unix::fs::chown(alpine.path(path), Some(1000), Some(1000)).unwrap();
    }
    alpine.mode("home/alpine/.ssh", 0o775);
    alpine.write("var/crash/vmcore", "memory");
    let examination = alpine.whole_disk();
    let all = ["net.firewall", "kmod.blacklist", "ssh.config", "sec.history", "sec.secrets"];
    let keys = ("ssh.config", Impact::Advice, Seen::file("/home/alpine/.ssh"));
    let root = ("ssh.config", Impact::Advice, Seen::line("/etc/ssh/sshd_config", 1));
    let firewall = ("net.firewall", Impact::NoLogin, Seen::file("/usr/lib/firewalld/zones/drop.xml"));
    let crash = ("sec.secrets", Impact::Hygiene, Seen::file("/var/crash/vmcore"));
    let hosts = ("sec.history", Impact::Advice, Seen::file("/home/alpine/.ssh/known_hosts"));
    let udf = ("kmod.blacklist", Impact::NoLogin, Seen::line("/etc/modprobe.d/cis.conf", 3));
    let usual = [firewall, crash, keys, hosts];
    assert_eq!(found(&on_kvm(&examination), &all), usual);
    let [firewall, crash, keys, hosts] = usual;
    assert_eq!(
        found(&at(&examination, "tencent"), &all),
        [firewall.clone(), crash.clone(), keys.clone(), root, hosts.clone()]
    );
    assert_eq!(found(&at(&examination, "azure"), &all), [udf, firewall, crash, keys, hosts]);
    // A zone that knows SSH, of the administrator's own.
    alpine.write("etc/firewalld/zones/drop.xml", "<zone target=\"DROP\"><service name=\"ssh\"/></zone>\n");
    assert_eq!(found(&on_kvm(&alpine.whole_disk()), &["net.firewall"]), []);
}

/// A program of its own in the first sector, or in that of a partition, is a system that is not known, and no reason to
/// say that nothing starts.
#[test]
fn code_of_an_unknown_system_is_not_judged() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.raw");
    let verdict = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(&path).unwrap()));
        let budget = Arc::new(Budget::new(Limits::INSPECT));
        on_kvm(&examine(&[disk], &budget, Depth::Full).unwrap()).verdict
    };
    let mut disk = vec![0; 4 << 20];
    disk[..200].fill(0x90);
    assert_eq!(verdict(&disk), Verdict::WillNotBoot);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(verdict(&disk), Verdict::Unknown);
    // An active partition from sector 64 on, of 2 MiB: of a type that says nothing, with a boot sector of its own.
    disk[446..462].copy_from_slice(&[0x80, 0, 0, 0, 0x99, 0, 0, 0, 64, 0, 0, 0, 0, 16, 0, 0]);
    assert_eq!(verdict(&disk), Verdict::WillNotBoot);
    disk[64 * 512..][..200].fill(0x91);
    disk[64 * 512 + 510..][..2].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(verdict(&disk), Verdict::Unknown);
    disk[100..104].copy_from_slice(b"GRUB");
    assert_eq!(verdict(&disk), Verdict::WillNotBoot);
}
