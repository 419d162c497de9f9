//! Further ways in which systems of other people do not start, or look as if they would not and do.
//!
//! Most come in pairs: the same change where it matters and where it does not.

use super::{BAD, BIOS_AT, Case, Copied, GOOD, GRUB, KVM, ROOT_AT, WARN, filter_cpio, pipe};
use crate::boot::Firmware;

macro_rules! case {
    ($name:literal, $firmware:ident, $verdict:expr, $finding:expr, $starts:literal, $edit:expr) => {
        Case {
            name: $name,
            edit: $edit,
            firmware: Firmware::$firmware,
            target: KVM,
            verdict: $verdict,
            finding: $finding,
            starts: $starts,
            sample: false,
            layout: None,
            label: None,
        }
    };
    ($name:literal, $firmware:ident, $verdict:expr, $finding:expr, $starts:literal, $layout:literal, $at:expr, $edit:expr) => {
        Case {
            layout: Some(($layout, $at << 20)),
            ..case!($name, $firmware, $verdict, $finding, $starts, $edit)
        }
    };
}

const ADVICE: &str = "advice";
const ENTRY: &str = "/boot/grub/grub.cfg:8";
const SYSTEMD: &str = "/usr/lib/systemd/systemd";
const FSTAB: &str = "/etc/fstab";
const DEAD: &str = "UUID=0badc0de-0000-4000-8000-000000000009 /data ext4 defaults 0 2\n";
/// A second entry, like the first.
const SECOND: &str = "menuentry 'Second' {
    search --no-floppy --fs-uuid --set=root 6b696c6e-0000-4000-8000-000000000001
    linux /boot/vmlinuz-RELEASE root=UUID=6b696c6e-0000-4000-8000-000000000001 ro console=tty0 console=ttyS0,115200
    initrd /boot/initrd.img-RELEASE
}
";

fn second(disk: &Copied, from: &str, to: &str) {
    disk.append(GRUB, &SECOND.replace("RELEASE", &disk.release).replace(from, to));
}

/// Puts words on the kernel's line.
fn words(disk: &Copied, words: &str) {
    disk.replace(GRUB, " ro console=tty0", &format!(" ro {words} console=tty0"));
}

fn root(disk: &Copied, root: &str) {
    disk.replace(GRUB, "root=UUID=6b696c6e-0000-4000-8000-000000000001", root);
}

/// First byte of the root's ext4 on the layout `lvm`: behind 1 MiB of the physical volume and 64 MiB of swap.
const LVM_ROOT_AT: u64 = (325 + 1 + 64) << 20;

/// A list of LVM's devices that was made on another machine.
fn devices_file(disk: &Copied) {
    let file = disk.disk.with_extension("devices");
    let text = "VERSION=1.1.1\nIDTYPE=sys_wwid IDNAME=naa.600224804ef8 DEVNAME=/dev/sda3 PVID=0123456789abcdefghijABCDEFGHIJ01\n";
    std::fs::write(&file, text).expect("a scratch file");
    disk.debugfs_at(LVM_ROOT_AT, "mkdir /etc/lvm/devices\n");
    disk.debugfs_at(LVM_ROOT_AT, &format!("write {} /etc/lvm/devices/system.devices\n", file.display()));
    std::fs::remove_file(file).expect("the scratch file goes");
}

/// Overwrites 16 KiB in the middle of a file of the root.
#[expect(clippy::ptr_arg, reason = "one type for every change")]
fn hole(content: &mut Vec<u8>) {
    let middle = content.len() / 2;
    content[middle..middle + (16 << 10)].fill(0xa5);
}

fn cut_in_half(content: &mut Vec<u8>) {
    content.truncate(content.len() / 2);
}

fn fstab(disk: &Copied, line: &str) {
    disk.append(FSTAB, &format!("{line}\n"));
}

#[rustfmt::skip]
pub(super) static CASES: &[Case] = &[
    // GRUB's file.
    case!("grub-brace-missing", Bios, BAD, Some(("boot.loader", BAD, GRUB)), false, |disk| disk.replace(GRUB, "\n}\n", "\n")),
    case!("grub-brace-too-many", Bios, GOOD, None, true, |disk| disk.append(GRUB, "}\n")),
    case!("grub-if-without-fi", Bios, BAD, Some(("boot.loader", BAD, GRUB)), false,
        |disk| disk.replace(GRUB, "serial --unit=0", "if true; then\nserial --unit=0")),
    case!("grub-other-entry-broken", Bios, GOOD, None, true, |disk| second(disk, "vmlinuz-", "vmlinuz-0-")),
    case!("grub-default-entry-broken", Bios, BAD, Some(("boot.kernel", BAD, "/boot/grub/grub.cfg:13")), false,
        |disk| { second(disk, "vmlinuz-", "vmlinuz-0-"); disk.replace(GRUB, "set default=0", "set default=1"); }),
    case!("grub-default-by-title", Bios, BAD, Some(("boot.root-arg", BAD, "/boot/grub/grub.cfg:13")), false,
        |disk| { second(disk, "root=UUID=6b696c6e", "root=UUID=deadbeef"); disk.replace(GRUB, "set default=0", "set default=Second"); }),
    case!("grub-default-beyond", Bios, GOOD, None, true, |disk| disk.replace(GRUB, "set default=0", "set default=7")),
    case!("grub-fallback", Bios, GOOD, None, true,
        |disk| { disk.replace(GRUB, "linux /boot/vmlinuz-", "linux /boot/vmlinuz-0-"); second(disk, "none", "none");
            disk.replace(GRUB, "set default=0", "set default=0\nset fallback=1"); }),
    case!("grub-timeout-forever", Bios, BAD, Some(("boot.loader", BAD, GRUB)), false, |disk| disk.replace(GRUB, "set timeout=0", "set timeout=-1")),
    case!("grub-no-timeout", Bios, BAD, Some(("boot.loader", BAD, GRUB)), false, |disk| disk.replace(GRUB, "set timeout=0\n", "")),
    case!("grub-password", Bios, BAD, Some(("boot.loader", BAD, "/boot/grub/grub.cfg:7")), false,
        |disk| disk.replace(GRUB, "set timeout=0", "set timeout=0\nset superusers=root")),
    case!("grub-password-unrestricted", Bios, GOOD, None, true,
        |disk| { disk.replace(GRUB, "set timeout=0", "set timeout=0\nset superusers=root"); disk.replace(GRUB, "menuentry 'Debian GNU/Linux'", "menuentry 'Debian GNU/Linux' --unrestricted"); }),
    case!("grub-entry-search-dead", Bios, GOOD, Some(("boot.loader", ADVICE, "/boot/grub/grub.cfg:7")), true,
        |disk| disk.replace(GRUB, "--set=root 6b696c6e", "--set=root deadbeef")),
    case!("grub-core-search-dead", Bios, BAD, Some(("boot.loader", BAD, "(hd0)/boot/grub/grub.cfg")), false,
        |disk| { root(disk, "root=PARTUUID=6b696c6e-0000-4000-8000-000000000010"); disk.replace(FSTAB, "UUID=6b696c6e-0000-4000-8000-000000000001", "PARTUUID=6b696c6e-0000-4000-8000-000000000010");
            disk.e2fs("tune2fs", &["-U", "12345678-0000-4000-8000-000000000001"]); }),
    case!("grub-core-hole", Bios, BAD, Some(("boot.mode", BAD, "1069056")), false, |disk| disk.poke(BIOS_AT + 40 * 512, &[0; 512])),
    case!("bios-boot-type-changed", Bios, GOOD, None, true, |disk| disk.on_disk("sgdisk", &["--typecode=14:8300"])),
    // The command line.
    case!("root-by-partuuid", Bios, GOOD, None, true, |disk| root(disk, "root=PARTUUID=6b696c6e-0000-4000-8000-000000000010")),
    case!("root-by-wrong-partuuid", Bios, BAD, Some(("boot.root-arg", BAD, ENTRY)), false, |disk| root(disk, "root=PARTUUID=6b696c6e-0000-4000-8000-000000000011")),
    case!("root-by-label", Bios, GOOD, None, true, |disk| root(disk, "root=LABEL=kiln-root")),
    case!("root-by-vda1", Bios, GOOD, None, true, |disk| root(disk, "root=/dev/vda1")),
    case!("root-is-the-esp", Bios, BAD, Some(("boot.root-arg", BAD, ENTRY)), false, |disk| root(disk, "root=/dev/vda15")),
    case!("root-not-named", Bios, BAD, Some(("boot.root-arg", BAD, ENTRY)), false, |disk| root(disk, "")),
    case!("rootfstype-wrong", Bios, BAD, Some(("boot.root-arg", BAD, ENTRY)), false, |disk| words(disk, "rootfstype=xfs")),
    Case { sample: true, ..case!("init-argument-missing", Bios, GOOD, Some(("init.systemd", ADVICE, ENTRY)), true, |disk| words(disk, "init=/sbin/nothing")) },
    case!("init-argument-shell", Bios, BAD, Some(("boot.cmdline", BAD, ENTRY)), false, |disk| words(disk, "init=/bin/bash")),
    case!("cmdline-single", Bios, BAD, Some(("boot.cmdline", BAD, ENTRY)), false, |disk| words(disk, "single")),
    case!("cmdline-break", Bios, BAD, Some(("boot.cmdline", BAD, ENTRY)), false, |disk| words(disk, "break=mount")),
    case!("cmdline-rescue-unit", Bios, BAD, Some(("boot.cmdline", BAD, ENTRY)), false, |disk| words(disk, "systemd.unit=emergency.target")),
    case!("console-elsewhere", Bios, GOOD, None, true, |disk| disk.replace(GRUB, "console=ttyS0,115200", "console=ttyS1")),
    // Kernel and initramfs.
    case!("kernel-hole", Bios, BAD, Some(("boot.kernel", BAD, "/boot/vmlinuz-RELEASE")), false,
        |disk| { let path = format!("/boot/vmlinuz-{}", disk.release); disk.change(&path, hole); }),
    case!("initramfs-hole", Bios, BAD, Some(("boot.kernel", BAD, "/boot/initrd.img-RELEASE")), false,
        |disk| disk.change(&disk.initramfs(), hole)),
    case!("initramfs-checksum", Bios, GOOD, None, true,
        |disk| disk.change(&disk.initramfs(), |content| { let end = content.len(); content[end - 8..end - 4].fill(0x5a); })),
    case!("initramfs-garbage-behind", Bios, GOOD, None, true,
        |disk| disk.change(&disk.initramfs(), |content| content.extend_from_slice(&[0xa5; 512]))),
    case!("initramfs-zstd", Bios, GOOD, None, true,
        |disk| { let plain = pipe("gzip", &["-dc"], &disk.read(&disk.initramfs())); disk.write(&disk.initramfs(), &pipe("zstd", &["-q", "-1", "-c"], &plain)); }),
    case!("initramfs-xz", Bios, GOOD, None, true,
        |disk| { let plain = pipe("gzip", &["-dc"], &disk.read(&disk.initramfs())); disk.write(&disk.initramfs(), &pipe("xz", &["-0", "-c", "--check=crc32"], &plain)); }),
    case!("initramfs-xz-crc64", Bios, BAD, Some(("boot.kernel", BAD, "/boot/initrd.img-RELEASE")), false,
        |disk| { let plain = pipe("gzip", &["-dc"], &disk.read(&disk.initramfs())); disk.write(&disk.initramfs(), &pipe("xz", &["-0", "-c"], &plain)); }),
    case!("initramfs-plain", Bios, GOOD, None, true,
        |disk| { let plain = pipe("gzip", &["-dc"], &disk.read(&disk.initramfs())); disk.write(&disk.initramfs(), &plain); }),
    case!("initramfs-only-trailer", Bios, BAD, Some(("boot.kernel", BAD, "/boot/initrd.img-RELEASE")), false,
        |disk| { let plain = pipe("gzip", &["-dc"], &disk.read(&disk.initramfs()));
            let (_, all) = filter_cpio(&plain, &[""]); assert!(all > 100);
            let trailer = plain.windows(10).rposition(|name| name == b"TRAILER!!!").expect("a trailer") - 110; disk.write(&disk.initramfs(), &plain[trailer..]); }),
    case!("no-modules", Bios, BAD, Some(("boot.kernel", BAD, "/lib/modules/RELEASE")), false,
        |disk| { disk.debugfs(&format!("unlink /usr/lib/modules/{}", disk.release)); }),
    case!("no-modules-no-vfat", Bios, WARN, Some(("boot.kernel", "no_network", "/lib/modules/RELEASE")), true,
        |disk| { disk.debugfs(&format!("unlink /usr/lib/modules/{}", disk.release)); disk.replace(FSTAB, "UUID=4B49-4C4E", "#UUID=4B49-4C4E"); }),
    // The first program.
    case!("init-link-dangling", Bios, BAD, Some(("init.systemd", BAD, "/sbin/init")), false,
        |disk| { disk.debugfs("rm /usr/sbin/init\nsymlink /usr/sbin/init /lib/nothing"); }),
    case!("init-link-gone", Bios, BAD, Some(("init.systemd", BAD, "/sbin/init")), false, |disk| { disk.debugfs("rm /usr/sbin/init"); }),
    case!("systemd-cut", Bios, BAD, Some(("init.systemd", BAD, "/sbin/init")), false, |disk| disk.change(SYSTEMD, cut_in_half)),
    case!("systemd-empty", Bios, BAD, Some(("init.systemd", BAD, "/sbin/init")), false, |disk| disk.change(SYSTEMD, Vec::clear)),
    case!("systemd-not-executable", Bios, BAD, Some(("init.systemd", BAD, "/sbin/init")), false, |disk| { disk.debugfs(&format!("sif {SYSTEMD} mode 0100644")); }),
    case!("libc-gone", Bios, BAD, Some(("init.systemd", BAD, "/usr/lib/libc.so.6")), false, |disk| { disk.debugfs("rm /usr/lib/x86_64-linux-gnu/libc.so.6"); }),
    case!("libc-cut", Bios, BAD, Some(("init.systemd", BAD, "/lib/x86_64-linux-gnu/libc.so.6")), false, |disk| disk.change("/usr/lib/x86_64-linux-gnu/libc.so.6", cut_in_half)),
    case!("library-of-systemd-gone", Bios, BAD, Some(("init.systemd", BAD, "/usr/lib/libselinux.so.1")), false, |disk| { disk.debugfs("rm /usr/lib/x86_64-linux-gnu/libselinux.so.1"); }),
    case!("loader-gone", Bios, BAD, Some(("init.systemd", BAD, "/lib64/ld-linux-x86-64.so.2")), false, |disk| { disk.debugfs("rm /usr/lib64/ld-linux-x86-64.so.2"); }),
    case!("usr-gone", Bios, BAD, Some(("init.systemd", BAD, "/sbin/init")), false, |disk| { disk.debugfs("unlink /usr"); }),
    case!("dev-gone", Bios, BAD, Some(("init.systemd", BAD, "/dev")), false, |disk| { disk.debugfs("unlink /dev"); }),
    case!("proc-gone", Bios, BAD, Some(("init.systemd", BAD, "/proc")), false, |disk| { disk.debugfs("unlink /proc"); }),
    case!("sys-gone", Bios, BAD, Some(("init.systemd", BAD, "/sys")), false, |disk| { disk.debugfs("unlink /sys"); }),
    case!("run-gone", Bios, BAD, Some(("init.systemd", BAD, "/run")), false, |disk| { disk.debugfs("unlink /run"); }),
    case!("tmp-gone", Bios, GOOD, None, true, |disk| { disk.debugfs("unlink /tmp"); }),
    case!("target-dangling", Bios, BAD, Some(("init.systemd", BAD, "/etc/systemd/system/default.target")), false,
        |disk| { disk.debugfs("symlink /etc/systemd/system/default.target /lib/systemd/system/nothing.target"); }),
    case!("target-by-odd-path", Bios, GOOD, None, true,
        |disk| { disk.debugfs("symlink /etc/systemd/system/default.target ../../../usr/../lib/systemd/system/./multi-user.target"); }),
    case!("target-elsewhere", Bios, BAD, Some(("init.systemd", BAD, "/etc/systemd/system/default.target")), false,
        |disk| { disk.debugfs("symlink /etc/systemd/system/default.target /no/such/place/multi-user.target"); }),
    case!("target-is-rescue", Bios, BAD, Some(("init.systemd", BAD, "/etc/systemd/system/default.target")), false,
        |disk| { disk.debugfs("symlink /etc/systemd/system/default.target /lib/systemd/system/rescue.target"); }),
    case!("udevd-masked", Bios, BAD, Some(("init.systemd", BAD, "/etc/systemd/system/systemd-udevd.service")), false,
        |disk| { disk.debugfs("symlink /etc/systemd/system/systemd-udevd.service /dev/null"); }),
    case!("udevd-gone", Bios, BAD, Some(("init.systemd", BAD, "/lib/systemd/systemd-udevd")), false, |disk| { disk.debugfs("rm /usr/bin/udevadm"); }),
    case!("mount-gone", Bios, BAD, Some(("init.systemd", BAD, "/bin/mount")), false, |disk| { disk.debugfs("rm /usr/bin/mount"); }),
    case!("shell-gone", Bios, GOOD, None, true, |disk| { disk.debugfs("rm /usr/bin/dash"); }),
    case!("journald-gone", Bios, GOOD, None, true, |disk| { disk.debugfs("rm /usr/lib/systemd/systemd-journald"); }),
    case!("passwd-gone", Bios, GOOD, None, true, |disk| { disk.debugfs("rm /etc/passwd"); }),
    case!("multi-user-gone", Bios, BAD, Some(("init.systemd", BAD, "/usr/lib/systemd/system/graphical.target")), false,
        |disk| { disk.debugfs("rm /usr/lib/systemd/system/multi-user.target"); }),
    case!("sysinit-gone", Bios, BAD, Some(("init.systemd", BAD, "/usr/lib/systemd/system/basic.target")), false,
        |disk| { disk.debugfs("rm /usr/lib/systemd/system/sysinit.target"); }),
    case!("local-fs-gone", Bios, GOOD, None, true, |disk| { disk.debugfs("rm /usr/lib/systemd/system/local-fs.target"); }),
    case!("journal-inode-gone", Bios, BAD, Some(("fs.clean", BAD, "135266304")), false, |disk| { disk.debugfs("clri <8>"); }),
    case!("initramfs-without-shell", Bios, BAD, Some(("boot.kernel", BAD, "/boot/initrd.img-RELEASE")), false, |disk| disk.without_in_initramfs(&["usr/bin/sh"])),
    case!("initramfs-without-script", Bios, BAD, Some(("boot.kernel", BAD, "/boot/initrd.img-RELEASE")), false, |disk| disk.without_in_initramfs(&["scripts/local"])),
    case!("initramfs-without-udev", Bios, BAD, Some(("boot.kernel", BAD, "/boot/initrd.img-RELEASE")), false, |disk| disk.without_in_initramfs(&["usr/bin/udevadm", "usr/sbin/udevadm"])),
    case!("initramfs-without-run-init", Bios, BAD, Some(("boot.kernel", BAD, "/boot/initrd.img-RELEASE")), false, |disk| disk.without_in_initramfs(&["bin/run-init"])),
    case!("initramfs-without-loader", Bios, BAD, Some(("boot.kernel", BAD, "/boot/initrd.img-RELEASE")), false,
        |disk| disk.without_in_initramfs(&["lib64/ld-linux-x86-64.so.2", "gnu/ld-linux-x86-64.so.2"])),
    // fstab.
    case!("fstab-efi-dead", Bios, BAD, Some(("fstab.exist", BAD, "/etc/fstab:2")), false, |disk| disk.replace(FSTAB, "UUID=4B49-4C4E", "UUID=DEAD-BEEF")),
    case!("fstab-noauto", Bios, GOOD, Some(("fstab.exist", ADVICE, "/etc/fstab:3")), true, |disk| fstab(disk, "UUID=0badc0de-0000-4000-8000-000000000009 /data ext4 noauto 0 2")),
    case!("fstab-automount", Bios, GOOD, Some(("fstab.exist", ADVICE, "/etc/fstab:3")), true, |disk| fstab(disk, "UUID=0badc0de-0000-4000-8000-000000000009 /data ext4 x-systemd.automount 0 2")),
    case!("fstab-netdev", Bios, GOOD, Some(("fstab.foreign", ADVICE, "/etc/fstab:3")), true, |disk| fstab(disk, "UUID=0badc0de-0000-4000-8000-000000000009 /data ext4 _netdev 0 0")),
    case!("fstab-wrong-type", Bios, BAD, Some(("fstab.mount", BAD, "/etc/fstab:2")), false, |disk| disk.replace(FSTAB, "vfat", "ext4")),
    case!("fstab-root-wrong-type", Bios, GOOD, None, true, |disk| disk.replace(FSTAB, " / ext4 ", " / xfs ")),
    case!("fstab-bind-missing", Bios, GOOD, None, true, |disk| fstab(disk, "/srv/nothing /mnt none bind 0 0")),
    case!("fstab-loop-missing", Bios, BAD, Some(("fstab.mount", BAD, "/etc/fstab:3")), false, |disk| fstab(disk, "/srv/nothing.img /mnt ext4 loop 0 0")),
    case!("fstab-point-missing", Bios, GOOD, None, true, |disk| disk.replace(FSTAB, "/boot/efi", "/no/such/directory")),
    case!("fstab-driver-forbidden", Bios, BAD, Some(("fstab.mount", BAD, "/etc/fstab:2")), false,
        |disk| disk.write("/etc/modprobe.d/hardening.conf", b"install vfat /bin/true\n")),
    case!("fstab-driver-blacklisted", Bios, BAD, Some(("fstab.mount", BAD, "/etc/fstab:2")), false,
        |disk| disk.write("/etc/modprobe.d/hardening.conf", b"blacklist vfat\n")),
    case!("fstab-driver-off-by-cmdline", Bios, BAD, Some(("fstab.mount", BAD, "/etc/fstab:2")), false, |disk| words(disk, "modprobe.blacklist=vfat")),
    case!("fstab-option-unknown", Bios, BAD, Some(("fstab.mount", BAD, "/etc/fstab:2")), false, |disk| disk.replace(FSTAB, "vfat defaults", "vfat defaults,noatime,nobarrier")),
    case!("fstab-root-option-unknown", Bios, GOOD, None, true, |disk| disk.replace(FSTAB, "rw,discard", "rw,dicsard")),
    case!("fstab-gone", Bios, GOOD, None, true, |disk| { disk.debugfs("rm /etc/fstab"); }),
    // The disk.
    case!("gpt-primary-damaged-uefi", Uefi, GOOD, Some(("part.table", ADVICE, "512")), true, |disk| disk.poke(512 + 16, &[0xff; 8])),
    case!("no-protective-entry", Uefi, BAD, Some(("part.table", BAD, "446")), false, |disk| disk.poke(446, &[0; 16])),
    case!("disk-cut-by-the-backup", Bios, GOOD, Some(("part.gpt-backup", ADVICE, "8589917184")), true, |disk| disk.cut(33 * 512)),
    case!("partition-shrunk", Bios, BAD, Some(("fs.size", BAD, "135266304")), false,
        |disk| disk.on_disk("sgdisk", &["--delete=1", "--new=1:264192:+7168M", "--typecode=1:8304", "--partition-guid=1:6b696c6e-0000-4000-8000-000000000010"])),
    case!("esp-type-changed", Uefi, GOOD, None, true, |disk| disk.on_disk("sgdisk", &["--typecode=15:0700"])),
    case!("efi-loader-cut", Uefi, BAD, Some(("boot.fallback-efi", BAD, "/boot/efi/EFI/BOOT/BOOTX64.EFI")), false, |disk| disk.change_on_esp("::/EFI/BOOT/BOOTX64.EFI", cut_in_half)),
    case!("efi-loader-for-arm", Uefi, BAD, Some(("boot.fallback-efi", BAD, "/boot/efi/EFI/BOOT/BOOTX64.EFI")), false,
        |disk| disk.change_on_esp("::/EFI/BOOT/BOOTX64.EFI", |content| { let at = usize::from(content[0x3c]); content[at + 4..at + 6].copy_from_slice(&[0x64, 0xaa]); })),
    case!("efi-loader-only-arm", Uefi, BAD, Some(("boot.fallback-efi", BAD, "/boot/efi/EFI/BOOT/BOOTX64.EFI")), false,
        |disk| disk.mtools("mren", &["::/EFI/BOOT/BOOTX64.EFI", "BOOTAA64.EFI"])),
    case!("superblock-gone", Bios, BAD, Some(("os.root", "rejected_at_import", "0")), false, |disk| disk.poke(ROOT_AT + 1024, &[0; 1024])),
    case!("ext4-checksum-seed", Bios, GOOD, None, true, |disk| disk.e2fs("tune2fs", &["-O", "metadata_csum_seed"])),
    // Other layouts.
    case!("lvm-wrong-group", Bios, BAD, Some(("boot.root-arg", BAD, "/boot/grub/grub.cfg:7")), false, "lvm", 69,
        |disk| disk.replace("/grub/grub.cfg", "debian--vg-root", "debian--old-root")),
    case!("lvm-devices-file", Bios, WARN, Some(("lvm.devicesfile", ADVICE, "/etc/lvm/devices/system.devices:2")), true, "lvm", 69, devices_file),
    Case {
        label: Some("arm64"),
        ..case!("wrong-architecture-label", Bios, BAD, Some(("os.arch", "rejected_at_import", SYSTEMD)), false, |_| {})
    },
    case!("extlinux-no-active", Bios, BAD, Some(("boot.mode", BAD, "446")), false, "extlinux", 1, |disk| disk.poke(446, &[0])),
    case!("extlinux-no-default", Bios, BAD, Some(("boot.loader", BAD, "/boot/extlinux/extlinux.conf:2")), false, "extlinux", 1,
        |disk| disk.replace("/boot/extlinux/extlinux.conf", "DEFAULT linux", "DEFAULT debian")),
    case!("shim-alone", Uefi, BAD, Some(("boot.fallback-efi", BAD, "ESP:/EFI/BOOT/BOOTX64.EFI")), false, "shim", 325,
        |disk| disk.mtools("mdel", &["::/EFI/BOOT/grubx64.efi"])),
    case!("shim-grub-without-its-file", Uefi, BAD, Some(("boot.loader", BAD, "ESP:/EFI/debian/grub.cfg")), false, "shim", 325,
        |disk| disk.mtools("mdel", &["::/EFI/debian/grub.cfg"])),
    case!("shim-list-gone", Uefi, BAD, Some(("boot.fallback-efi", BAD, "ESP:/EFI/BOOT/BOOTX64.EFI")), false, "shim-fallback", 325,
        |disk| disk.mtools("mdel", &["::/EFI/debian/BOOTX64.CSV"])),
    // Other makers of an initramfs, other inits.
    case!("dracut-wrong-root", Bios, BAD, Some(("boot.root-arg", BAD, "/boot/grub/grub.cfg:7")), false, "dracut", 325,
        |disk| disk.replace(GRUB, "root=UUID=", "root=UUID=0badc0de-0000-4000-8000-000000000009 rootold=")),
    case!("dracut-init-gone", Bios, WARN, Some(("net.dhcp", "no_network", "/etc/network")), true, "dracut", 325,
        |disk| { disk.debugfs("rm /usr/sbin/init"); }),
    case!("dracut-fstab-dead", Bios, BAD, Some(("fstab.exist", BAD, "/etc/fstab:2")), false, "dracut", 325, |disk| disk.append(FSTAB, DEAD)),
    case!("sysvinit-fstab-dead", Bios, BAD, Some(("fstab.exist", BAD, "/etc/fstab:2")), false, "sysvinit", 325, |disk| disk.append(FSTAB, DEAD)),
    case!("sysvinit-fstab-dead-unchecked", Bios, WARN, Some(("net.dhcp", "no_network", "/etc/network")), true, "sysvinit", 325,
        |disk| disk.append(FSTAB, &DEAD.replace(" 0 2", " 0 0"))),
    case!("sysvinit-table-gone", Bios, BAD, Some(("init.systemd", BAD, "/etc/inittab")), false, "sysvinit", 325,
        |disk| { disk.debugfs("rm /etc/inittab"); }),
    case!("sysvinit-off", Bios, BAD, Some(("init.systemd", BAD, "/etc/inittab:5")), false, "sysvinit", 325,
        |disk| disk.replace("/etc/inittab", "id:2:initdefault", "id:0:initdefault")),
    case!("sysvinit-no-level", Bios, BAD, Some(("init.systemd", BAD, "/etc/inittab")), false, "sysvinit", 325,
        |disk| disk.replace("/etc/inittab", "id:2:initdefault", "#id:2:initdefault")),
    case!("openrc-fstab-dead", Bios, BAD, Some(("fstab.exist", BAD, "/etc/fstab:2")), false, "openrc", 325, |disk| disk.append(FSTAB, DEAD)),
    case!("runit-stage-gone", Bios, BAD, Some(("init.systemd", BAD, "/etc/runit/2")), false, "runit", 325,
        |disk| { disk.debugfs("rm /etc/runit/2"); }),
    case!("systemd-boot-kernel-gone", Uefi, BAD, Some(("boot.kernel", BAD, "/boot/efi/loader/entries/debian.conf:3")), false, "systemd-boot", 325,
        |disk| disk.mtools("mdel", &["::/debian/linux"])),
];
