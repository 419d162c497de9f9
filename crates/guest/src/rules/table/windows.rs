//! Rows about Windows.

use super::super::windows::{self, drivers, policy, state};
use super::super::{Impact, Rule};

pub(super) const WIN_PLACE: Rule = Rule {
    id: "win.place",
    inspects: "the system against what the place takes",
    summary: "the place takes no Windows",
    effect: "the import is refused",
    fix: "choose another place; kiln check --for all tells which",
    impact: Impact::RejectedAtImport,
    tencent_error: None,
    run: drivers::taken,
};

pub(super) const WIN_PART: Rule = Rule {
    id: "win.part",
    inspects: "the kind of partition table, partition types 0x42 and LDM",
    summary: "the place does not take a Windows on such a disk",
    effect: "the import is refused, or Windows is not found on the disk",
    fix: "copy the volumes to a basic disk (dism /capture-image, dism /apply-image), then bcdboot",
    impact: Impact::RejectedAtImport,
    tencent_error: None,
    run: windows::partitions,
};

pub(super) const WIN_BOOTMGR: Rule = Rule {
    id: "win.bootmgr",
    inspects: "boot sector and /bootmgr of the active partition",
    summary: "Windows' boot manager is missing",
    effect: "the machine stops before Windows: BOOTMGR is missing",
    fix: "bcdboot C:\\Windows /s S: /f ALL from the installation medium",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: windows::bootmgr,
};

pub(super) const WIN_BCD: Rule = Rule {
    id: "win.bcd",
    inspects: "the boot configuration data, its default entry, and the program that it starts",
    summary: "the boot configuration is missing or leads nowhere",
    effect: "the boot manager stops with 0xc000000f or 0xc0000098",
    fix: "bcdboot C:\\Windows /s S: /f ALL from the installation medium",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: windows::bcd,
};

pub(super) const WIN_HIVES: Rule = Rule {
    id: "win.hives",
    inspects: "first blocks, checksums, sequence numbers and keys of SYSTEM and SOFTWARE",
    summary: "a registry hive is missing or damaged",
    effect: "the loader stops with 0xc0000225 or Windows with 0xc0000218",
    fix: "copy the hive from a backup; C:\\Windows\\System32\\config\\RegBack has one before Windows 10 1803",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: windows::hives,
};

pub(super) const WIN_VIOSTOR: Rule = Rule {
    id: "win.viostor",
    inspects: "Services\\viostor or vioscsi: Start, StartOverride, the driver's file, the hardware ids bound to it",
    summary: "the driver of the place's virtio disk is not started",
    effect: "Windows stops with 0x7B INACCESSIBLE_BOOT_DEVICE",
    fix: "install the virtio-win drivers in the running guest, and start it once with such a disk attached",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::viostor,
};

pub(super) const WIN_HYPERV: Rule = Rule {
    id: "win.hyperv",
    inspects: "Services\\vmbus and storvsc: Start, StartOverride, the driver's file",
    summary: "the driver of Hyper-V's disk is not started",
    effect: "Windows stops with 0x7B INACCESSIBLE_BOOT_DEVICE",
    fix: "set Start of vmbus and storvsc to 0 and delete their StartOverride",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::hyperv,
};

pub(super) const WIN_NVME: Rule = Rule {
    id: "win.nvme",
    inspects: "Services\\stornvme or awsnvme: Start, StartOverride, the driver's file",
    summary: "the driver of NVMe disks is not started",
    effect: "Windows stops with 0x7B INACCESSIBLE_BOOT_DEVICE",
    fix: "set Start of stornvme to 0 and delete its StartOverride",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::nvme,
};

pub(super) const WIN_PVSCSI: Rule = Rule {
    id: "win.pvscsi",
    inspects: "Services\\LSI_SAS, pvscsi, stornvme, storahci: Start, StartOverride, the driver's file",
    summary: "no driver of a disk that VMware offers is started",
    effect: "Windows stops with 0x7B INACCESSIBLE_BOOT_DEVICE",
    fix: "choose the controller whose driver is there, or install VMware Tools in the running guest",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::pvscsi,
};

pub(super) const WIN_FILTERS: Rule = Rule {
    id: "win.filters",
    inspects: "UpperFilters and LowerFilters of disks, volumes and controllers",
    summary: "a filter of disks is named and its driver is missing",
    effect: "Windows stops with 0x7B INACCESSIBLE_BOOT_DEVICE",
    fix: "take the name out of the value, and leave partmgr, volsnap, fvevol and those that are there",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: drivers::filters,
};

pub(super) const WIN_NETKVM: Rule = Rule {
    id: "win.netkvm",
    inspects: "the service and the file of the network card's driver",
    summary: "the driver of the place's network card is missing",
    effect: "the machine starts without a network",
    fix: "install the virtio-win drivers",
    impact: Impact::NoNetwork,
    tencent_error: None,
    run: drivers::network,
};

pub(super) const WIN_HIBERNATE: Rule = Rule {
    id: "win.hibernate",
    inspects: "the first bytes of hiberfil.sys",
    summary: "the machine was hibernated",
    effect: "Windows tries to go on with the memory of another machine, and stops",
    fix: "in the running guest: powercfg /h off, then shutdown /s /t 0; on a Linux with the disk: mount -t ntfs-3g -o remove_hiberfile DEVICE DIR",
    impact: Impact::WillNotBoot,
    tencent_error: None,
    run: state::hibernated,
};

pub(super) const WIN_SYSPREP: Rule = Rule {
    id: "win.sysprep",
    inspects: "ImageState and SystemSetupInProgress",
    summary: "the setup of Windows is not as an image needs it",
    effect: "machines made from it are not told apart, or do not come up",
    fix: "C:\\Windows\\System32\\Sysprep\\sysprep.exe /generalize /oobe /shutdown; a machine that is moved, not copied, needs none",
    impact: Impact::NoLogin,
    tencent_error: None,
    run: state::sysprep,
};

pub(super) const WIN_UPDATE: Rule = Rule {
    id: "win.update",
    inspects: "WinSxS\\pending.xml, RebootPending of the servicing stack",
    summary: "an update is half done",
    effect: "the first start takes long and may fail where drivers are new",
    fix: "start it once and let it finish; or dism /image:D:\\ /cleanup-image /revertpendingactions",
    impact: Impact::Advice,
    tencent_error: None,
    run: state::update,
};

pub(super) const WIN_RDP: Rule = Rule {
    id: "win.rdp",
    inspects: "fDenyTSConnections",
    summary: "Remote Desktop is off",
    effect: "it starts, and nobody can log in over the network",
    fix: "reg add \"HKLM\\SYSTEM\\CurrentControlSet\\Control\\Terminal Server\" /v fDenyTSConnections /t REG_DWORD /d 0 /f && netsh advfirewall firewall set rule group=\"@FirewallAPI.dll,-28752\" new enable=yes",
    impact: Impact::NoLogin,
    tencent_error: None,
    run: state::remote,
};

pub(super) const WIN_AUTOLOGON: Rule = Rule {
    id: "win.autologon",
    inspects: "AutoAdminLogon and DefaultPassword",
    summary: "a password is in the registry",
    effect: "whoever has the image has it; AWS refuses such an import",
    fix: "reg delete \"HKLM\\SOFTWARE\\Microsoft\\Windows NT\\CurrentVersion\\Winlogon\" /v DefaultPassword /f, and AutoAdminLogon to 0",
    impact: Impact::Hygiene,
    tencent_error: None,
    run: state::auto_logon,
};

pub(super) const WIN_CLOUDBASE_INIT: Rule = Rule {
    id: "win.cloudbase-init",
    inspects: "the services of cloudbase-init and of the place's own agent",
    summary: "nothing sets up a new machine",
    effect: "its password is the one of the image, and its disk does not grow",
    fix: "install cloudbase-init",
    impact: Impact::Advice,
    tencent_error: None,
    run: state::cloudbase,
};

pub(super) const WIN_CLOCK: Rule = Rule {
    id: "win.clock",
    inspects: "RealTimeIsUniversal",
    summary: "the clock is taken for local time",
    effect: "time is wrong by hours until it is set",
    fix: "reg add HKLM\\SYSTEM\\CurrentControlSet\\Control\\TimeZoneInformation /v RealTimeIsUniversal /t REG_DWORD /d 1 /f",
    impact: Impact::Advice,
    tencent_error: None,
    run: state::clock,
};

pub(super) const WIN_ADDRESS: Rule = Rule {
    id: "win.address",
    inspects: "Tcpip\\Parameters\\Interfaces",
    summary: "a fixed address belongs to a card that is left behind",
    effect: "the new card asks for an address; the old one keeps its own from being used again",
    fix: "set DEVMGR_SHOW_NONPRESENT_DEVICES=1 && devmgmt.msc: show hidden devices, uninstall the old card",
    impact: Impact::Advice,
    tencent_error: None,
    run: state::address,
};

pub(super) const WIN_HOTFIX: Rule = Rule {
    id: "win.hotfix",
    inspects: "build and revision, and the packages of the servicing stack",
    summary: "an update is installed after which machines were known to fail",
    effect: "machines did not start or lost their network until its maker replaced it",
    fix: "install a later cumulative update; or with the disk attached to another Windows as D: dism /image:D:\\ /get-packages, then dism /image:D:\\ /remove-package /packagename:NAME",
    impact: Impact::Advice,
    tencent_error: None,
    run: policy::hotfix,
};

pub(super) const WIN_SHA2: Rule = Rule {
    id: "win.sha2",
    inspects: "KB4474419 and KB3033929 among the packages of the servicing stack, on Windows 7 and Server 2008 R2",
    summary: "Windows cannot check signatures of SHA-2",
    effect: "drivers of today, of virtio and of clouds, are refused: 0xc0000428 where the disk needs one",
    fix: "install KB4474419 (its own prerequisite is KB4490628): wusa.exe windows6.1-kb4474419-v3-x64.msu /quiet",
    impact: Impact::Advice,
    tencent_error: None,
    run: policy::sha2,
};

pub(super) const WIN_DEVINSTALL: Rule = Rule {
    id: "win.devinstall",
    inspects: "DeviceInstallDisabled, the policy DeviceInstall\\Restrictions, virus scanners among the programs",
    summary: "devices of a new place may not be installed",
    effect: "network card and disks of the new machine stay without a driver, unless they had one before",
    fix: "reg delete HKLM\\SYSTEM\\CurrentControlSet\\Services\\DeviceInstall\\Parameters /v DeviceInstallDisabled /f; take the policy back: gpedit.msc, System, Device Installation Restrictions",
    impact: Impact::Advice,
    tencent_error: None,
    run: policy::device_install,
};

pub(super) const WIN_FIREWALL: Rule = Rule {
    id: "win.firewall",
    inspects: "SharedAccess\\Parameters\\FirewallPolicy: PublicProfile and FirewallRules, and the domain's policy",
    summary: "the firewall does not let Remote Desktop in",
    effect: "it starts, and nobody can log in over the network",
    fix: "netsh advfirewall firewall set rule group=\"@FirewallAPI.dll,-28752\" new enable=yes profile=any",
    impact: Impact::NoLogin,
    tencent_error: None,
    run: policy::firewall,
};

pub(super) const WIN_PAGEFILE: Rule = Rule {
    id: "win.pagefile",
    inspects: "PagingFiles, and pagefile.sys on drive C",
    summary: "the page file is in the image, or on a drive that is not",
    effect: "it makes the image longer and tells what was in the memory; without its drive Windows starts with a small one",
    fix: "wmic computersystem set AutomaticManagedPagefile=True",
    impact: Impact::Advice,
    tencent_error: None,
    run: policy::page_file,
};
