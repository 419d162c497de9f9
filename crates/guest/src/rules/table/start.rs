//! Rows about firmware, loader, kernel, drivers and the first program.

use super::super::{Impact, Rule, boot, drivers, init};

pub(super) const BOOT_MODE: Rule = Rule {
    id: "boot.mode",
    inspects: "code in the first sector, GRUB's core behind it, EFI system partition",
    summary: "no firmware of the place can start the disk",
    effect: "the machine stops before the loader",
    fix: "BIOS: grub-install --target=i386-pc DISK; UEFI: grub-install --target=x86_64-efi --removable",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: boot::mode,
};

pub(super) const BOOT_ACTIVE: Rule = Rule {
    id: "boot.active",
    inspects: "active flags of the MBR",
    summary: "no partition is active",
    effect: "some firmware and loaders start only an active partition",
    fix: "sfdisk --activate DISK 1",
    impact: Impact::Advice,
    tencent_error: None,
    run: boot::active,
};

pub(super) const BOOT_FALLBACK_EFI: Rule = Rule {
    id: "boot.fallback-efi",
    inspects: "/EFI/BOOT on the EFI system partition",
    summary: "the loader that firmware without variables starts is missing",
    effect: "a new machine has no boot variables, so UEFI finds nothing to start",
    fix: "grub-install --target=x86_64-efi --removable, or copy shim to EFI/BOOT/BOOTX64.EFI",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: boot::fallback_efi,
};

pub(super) const BOOT_LOADER: Rule = Rule {
    id: "boot.loader",
    inspects: "grub.cfg, menu.lst, loader entries, syslinux.cfg",
    summary: "the loader has nothing to start",
    effect: "the machine stops at the loader's prompt",
    fix: "update-grub, or grub2-mkconfig -o /boot/grub2/grub.cfg",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: boot::loader,
};

pub(super) const BOOT_ROOT_ARG: Rule = Rule {
    id: "boot.root-arg",
    inspects: "root= of the default entry",
    summary: "root= does not lead to the root",
    effect: "the initramfs waits for the device and gives up in a shell",
    fix: "set root=UUID=... (blkid tells it) and run update-grub",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: boot::root_arg,
};

pub(super) const BOOT_KERNEL: Rule = Rule {
    id: "boot.kernel",
    inspects: "kernel, initramfs and modules of the default entry",
    summary: "kernel, initramfs or modules are missing or damaged",
    effect: "the machine stops at the loader or in the kernel's first seconds",
    fix: "reinstall the kernel package, or update-initramfs -c -k all; dracut -f --regenerate-all",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: boot::kernel,
};

pub(super) const BOOT_CONSOLE: Rule = Rule {
    id: "boot.console",
    inspects: "console=, quiet, rhgb and splashimage of the default entry",
    summary: "the start is not told on the serial line",
    effect: "the place's console stays empty, so a failed start cannot be seen",
    fix: "add console=tty0 console=ttyS0,115200 to GRUB_CMDLINE_LINUX and run update-grub",
    impact: Impact::Advice,
    tencent_error: None,
    run: boot::console,
};

pub(super) const BOOT_CRYPT: Rule = Rule {
    id: "boot.crypt",
    inspects: "LUKS, BitLocker, crypttab",
    summary: "a volume is encrypted",
    effect: "the start waits for somebody to type a passphrase",
    fix: "decrypt it before the import",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: boot::crypt,
};

pub(super) const BOOT_DUAL: Rule = Rule {
    id: "boot.dual",
    inspects: "systems on all volumes",
    summary: "there is a second system",
    effect: "places that look into the disk do not know which to take",
    fix: "remove the other",
    impact: Impact::Advice,
    tencent_error: None,
    run: boot::dual,
};

pub(super) const BOOT_CMDLINE: Rule = Rule {
    id: "boot.cmdline",
    inspects: "words of the default entry's command line",
    summary: "the command line keeps the system from coming up",
    effect: "the machine stops in a shell that somebody must sit at",
    fix: "take the word out of GRUB_CMDLINE_LINUX in /etc/default/grub and run update-grub",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: init::cmdline,
};

pub(super) const BOOT_ROOTDELAY: Rule = Rule {
    id: "boot.rootdelay",
    inspects: "rootdelay= of the default entry",
    summary: "the initramfs does not wait for a disk that comes late",
    effect: "on a busy host the root may be looked for before it is there",
    fix: "add rootdelay=300 to GRUB_CMDLINE_LINUX in /etc/default/grub and run update-grub",
    impact: Impact::Advice,
    tencent_error: None,
    run: init::root_delay,
};

pub(super) const BOOT_NUMA: Rule = Rule {
    id: "boot.numa",
    inspects: "numa= of the default entry, where the kernel is older than 2.6.37",
    summary: "an old kernel uses tables of the memory that it does not understand",
    effect: "it may stop early on machines of several nodes",
    fix: "add numa=off to GRUB_CMDLINE_LINUX in /etc/default/grub and run update-grub",
    impact: Impact::Advice,
    tencent_error: None,
    run: init::numa,
};

pub(super) const BOOT_ACPI: Rule = Rule {
    id: "boot.acpi",
    inspects: "acpi= of the default entry",
    summary: "ACPI is switched off",
    effect: "it cannot be shut down from outside, and places that show their devices by ACPI show none",
    fix: "take acpi=off out of GRUB_CMDLINE_LINUX in /etc/default/grub and run update-grub",
    impact: Impact::Advice,
    tencent_error: None,
    run: init::acpi,
};

pub(super) const INIT_SYSTEMD: Rule = Rule {
    id: "init.systemd",
    inspects: "/sbin/init with its loader and libraries, /dev, /proc, /sys, /run, default.target",
    summary: "there is nothing for the kernel to run, or nothing for systemd",
    effect: "the machine stops after the kernel",
    fix: "systemctl set-default multi-user.target; reinstall systemd-sysv",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: init::init,
};

pub(super) const KMOD_VIRTIO: Rule = Rule {
    id: "kmod.virtio",
    inspects: "virtio_blk and virtio_pci in kernel and initramfs",
    summary: "drivers of the place's disk are missing",
    effect: "the kernel starts, finds no disk, and gives up in the initramfs' shell",
    fix: "update-initramfs -u, or dracut -f",
    impact: Impact::WillNotBoot,
    tencent_error: Some("VirtioNotInstall"),
    run: drivers::virtio,
};

pub(super) const KMOD_SCSI_VIRTIO: Rule = Rule {
    id: "kmod.scsi-virtio",
    inspects: "virtio_scsi, virtio_pci and sd_mod in kernel and initramfs",
    summary: "drivers of the place's disk are missing",
    effect: "the kernel starts, finds no disk, and gives up in the initramfs' shell",
    fix: "update-initramfs -u, or dracut -f",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::scsi_virtio,
};

pub(super) const KMOD_NVME: Rule = Rule {
    id: "kmod.nvme",
    inspects: "nvme in kernel and initramfs",
    summary: "the driver of NVMe disks is missing",
    effect: "on machines with NVMe the kernel finds no disk",
    fix: "update-initramfs -u, or dracut -f",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::nvme,
};

pub(super) const KMOD_HYPERV: Rule = Rule {
    id: "kmod.hyperv",
    inspects: "hv_vmbus, hv_storvsc and sd_mod in kernel and initramfs",
    summary: "drivers of Hyper-V's disk are missing",
    effect: "the kernel starts, finds no disk, and gives up in the initramfs' shell",
    fix: "update-initramfs -u, or dracut -f",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::hyperv,
};

pub(super) const KMOD_VMWARE: Rule = Rule {
    id: "kmod.vmware",
    inspects: "vmw_pvscsi or mptspi, and sd_mod, in kernel and initramfs",
    summary: "drivers of VMware's disk are missing",
    effect: "the kernel starts, finds no disk, and gives up in the initramfs' shell",
    fix: "update-initramfs -u, or dracut -f",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::vmware,
};

pub(super) const KMOD_XEN: Rule = Rule {
    id: "kmod.xen",
    inspects: "xen_blkfront in kernel and initramfs",
    summary: "the driver of Xen disks is missing",
    effect: "on the older machine types that run on Xen no disk is found",
    fix: "update-initramfs -u, or dracut -f",
    impact: Impact::Advice,
    tencent_error: None,
    run: drivers::xen,
};

pub(super) const KMOD_NET: Rule = Rule {
    id: "kmod.net",
    inspects: "the driver of the place's network card",
    summary: "the driver of the network card is missing",
    effect: "the machine starts without a network",
    fix: "install a kernel that has it",
    impact: Impact::NoNetwork,
    tencent_error: None,
    run: drivers::net,
};

pub(super) const KMOD_ENA: Rule = Rule {
    id: "kmod.ena",
    inspects: "ena in the kernel's modules",
    summary: "the driver of AWS's network card is missing",
    effect: "machines of the current types start without a network",
    fix: "install a kernel that has it, such as linux-image-cloud-amd64",
    impact: Impact::NoNetwork,
    tencent_error: None,
    run: drivers::ena,
};

pub(super) const KMOD_GVE: Rule = Rule {
    id: "kmod.gve",
    inspects: "gve or virtio_net in the kernel's modules",
    summary: "the driver of Google's network cards is missing",
    effect: "the machine starts without a network",
    fix: "install a kernel that has it",
    impact: Impact::NoNetwork,
    tencent_error: None,
    run: drivers::gve,
};

pub(super) const KMOD_FS: Rule = Rule {
    id: "kmod.fs",
    inspects: "driver of the root's file system, and LVM, in the initramfs",
    summary: "the initramfs cannot mount the root",
    effect: "it finds the disk and cannot read it",
    fix: "update-initramfs -u, or dracut -f",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::fs,
};

pub(super) const KMOD_BLACKLIST: Rule = Rule {
    id: "kmod.blacklist",
    inspects: "modprobe.d in the initramfs and the system, and the command line",
    summary: "a driver that is needed is forbidden",
    effect: "the kernel finds no disk",
    fix: "remove the line, then update-initramfs -u, or dracut -f",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::blacklist,
};
