//! Skeletons of a Windows, whole and broken in the ways that users meet: what is said of each, exactly.
//!
//! No Windows of Microsoft's is here: its licence lets none into a test. The file systems and the registry are made by
//! other people's tools (ntfs-3g, hivexsh), so that what is read was not written by what reads it.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_disk::{Budget, Disk, FileSource, Limits};
use kiln_guest::facts::Depth;
use kiln_guest::rules::{Firmware, Options, PLACES, Verdict, place};
use kiln_guest::{Examination, Judgement, examine, judge};
use kiln_testkit::flat::Flat;
use kiln_testkit::windows::{AMD64, FIREWALL, FIRST, I386, SERVICING, Windows, bcd, program, texts};

fn look(disk: &Path) -> Examination {
    let disk: Arc<dyn Disk> = Arc::new(Flat(FileSource::open(disk).unwrap()));
    examine(&[disk], &Arc::new(Budget::new(Limits::INSPECT)), Depth::Full).unwrap()
}

fn said(examination: &Examination, target: &str) -> Judgement {
    judge(examination, place(target).unwrap(), &Options::default())
}

fn ids(judgement: &Judgement) -> Vec<&'static str> {
    judgement.findings.iter().map(|finding| finding.id).collect()
}

#[test]
fn facts_of_a_windows_are_those_that_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let report = look(&Windows::new(false).write(dir.path(), "bios")).report;
    assert_eq!(report.problems, Vec::<String>::new());
    let os = report.os.as_ref().unwrap();
    assert_eq!((os.id.as_str(), os.version.as_str()), ("windows", "10.0.20348"));
    assert_eq!(os.name, "Windows Server 2022 Datacenter 21H2");
    assert_eq!((os.architecture, os.hostname.as_deref()), (Some("x86_64"), Some("WIN-KILN")));
    assert_eq!(os.end_of_life, Some("2031-10-14"));
    let windows = report.windows.as_ref().unwrap();
    assert_eq!(
        (windows.version.revision, windows.version.edition.as_str()),
        (Some(2113), "ServerDatacenter")
    );
    assert_eq!((windows.control_set, windows.clock_utc, windows.in_setup), (Some(1), true, false));
    assert_eq!(windows.remote_desktop_denied, Some(false));
    let viostor = windows.driver("VIOSTOR").unwrap();
    assert_eq!((viostor.start, viostor.fault.as_deref()), (Some(0), None));
    assert_eq!(viostor.path, "/Windows/System32/drivers/viostor.sys");
    assert_eq!(windows.bound.len(), 2);
    assert!(windows.hives.iter().all(|hive| hive.fault.is_none() && !hive.dirty));
    let chain = windows.bios.as_ref().unwrap();
    assert_eq!(chain.bcd.program.as_deref(), Some("\\windows\\system32\\winload.exe"));
    assert!(
        chain.boot_sector && chain.manager_present && chain.bcd.program_present && windows.uefi.is_none()
    );
    let root = report.root().unwrap();
    assert_eq!((root.probed.label.as_str(), root.probed.version.as_deref()), ("System", Some("3.1")));
    assert!(root.probed.space.unwrap().free > 20 << 20);

    let report = look(&Windows::new(true).write(dir.path(), "uefi")).report;
    let windows = report.windows.as_ref().unwrap();
    let chain = windows.uefi.as_ref().unwrap();
    assert!(windows.bios.is_none() && chain.manager_present && chain.bcd.program_present, "{chain:?}");
    assert_eq!((report.boot.bios, report.boot.fallback.len()), (false, 1));
    // Client releases since build 22000 are Windows 11, whatever they call themselves.
    let mut client = Windows::new(true);
    let key = "Microsoft\\Windows NT\\CurrentVersion";
    client.software.set(key, "ProductName", "string:Windows 10 Pro");
    client.software.set(key, "CurrentBuildNumber", "string:22631");
    client.software.set(key, "InstallationType", "string:Client");
    client.software.set(key, "DisplayVersion", "string:23H2");
    let report = look(&client.write(dir.path(), "client")).report;
    assert_eq!(report.os.unwrap().name, "Windows 11 Pro 23H2");
}

#[test]
fn whole_windows_boots_where_its_drivers_are_and_rules_of_linux_are_silent() {
    let dir = tempfile::tempdir().unwrap();
    let bios = look(&Windows::new(false).write(dir.path(), "bios"));
    let uefi = look(&Windows::new(true).write(dir.path(), "uefi"));
    for place in PLACES {
        let (by_bios, by_uefi) = (said(&bios, place.id), said(&uefi, place.id));
        assert!(by_bios.unanswered.is_empty() && by_uefi.unanswered.is_empty(), "{}", place.id);
        let expected: (&[&str], &[&str]) = match place.id {
            "aws" => (&["fs.space", "meta.license"], &["fs.space", "meta.license"]),
            "digitalocean" => (&["win.place"], &["win.place", "boot.mode"]),
            "tencent" => (&["meta.license"], &["win.part", "meta.license"]),
            "azure" | "gcp" | "alibaba" => (&["meta.license"], &["meta.license"]),
            _ => (&[], &[]),
        };
        assert_eq!(
            (ids(&by_bios), ids(&by_uefi)),
            (expected.0.to_vec(), expected.1.to_vec()),
            "{}",
            place.id
        );
        let stops = matches!(place.id, "aws" | "digitalocean");
        let verdict = if stops { Verdict::WillNotBoot } else { Verdict::Boots };
        assert_eq!(by_bios.verdict, verdict, "{}", place.id);
        assert_eq!(by_bios.firmware, [Firmware::Bios], "{}", place.id);
        let firmware: &[Firmware] = if place.id == "digitalocean" { &[] } else { &[Firmware::Uefi] };
        assert_eq!(by_uefi.firmware, firmware, "{}", place.id);
    }
}

/// One way to break it.
struct Case {
    name: &'static str,
    uefi: bool,
    edit: fn(&mut Windows),
    target: &'static str,
    verdict: Verdict,
    /// All findings, worst first.
    ids: &'static [&'static str],
    /// Words of the first one.
    detail: &'static str,
    /// Rules without an answer.
    open: &'static [&'static str],
}

const STOPS: Case = Case {
    name: "",
    uefi: false,
    edit: |_| {},
    target: "kvm",
    verdict: Verdict::WillNotBoot,
    ids: &[],
    detail: "",
    open: &[],
};
const ADVICE: Case = Case { verdict: Verdict::Boots, ..STOPS };
const WARNS: Case = Case { verdict: Verdict::BootsWithWarnings, ..STOPS };
const SERVICES: &str = "ControlSet001\\Services";

const VERSION: &str = "Microsoft\\Windows NT\\CurrentVersion";
const RESTRICTIONS: &str = "Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions";

/// Makes it a Server 2008 R2 with Service Pack 1.
fn seven(windows: &mut Windows) {
    windows.software.set(VERSION, "CurrentBuildNumber", "string:7601");
    windows.software.set(VERSION, "ProductName", "string:Windows Server 2008 R2 Datacenter");
}

fn page_file(windows: &mut Windows, file: &str) {
    let key = "ControlSet001\\Control\\Session Manager\\Memory Management";
    windows.system.set(key, "PagingFiles", &texts(&[file]));
}

fn drop_file(windows: &mut Windows, path: &str) {
    assert!(windows.files.remove(path).or_else(|| windows.esp.remove(path)).is_some(), "{path}");
}

const CASES: &[Case] = &[
    Case {
        name: "viostor on demand",
        edit: |it| it.system.driver("viostor", 3),
        ids: &["win.viostor"],
        detail: "viostor: Start is 3, not 0",
        ..STOPS
    },
    Case {
        name: "viostor never installed",
        edit: |it| it.system.remove(&format!("{SERVICES}\\viostor")),
        target: "tencent",
        ids: &["win.viostor", "meta.license"],
        detail: "viostor: there is no such driver for the virtio disk",
        ..STOPS
    },
    Case {
        name: "viostor without its file",
        edit: |it| drop_file(it, "Windows/System32/drivers/viostor.sys"),
        target: "openstack",
        ids: &["win.viostor"],
        detail: "/Windows/System32/drivers/viostor.sys is not there",
        ..STOPS
    },
    Case {
        name: "viostor with an empty file",
        edit: |it| {
            it.files.insert("Windows/System32/drivers/viostor.sys".to_owned(), Vec::new());
        },
        ids: &["win.viostor"],
        detail: "viostor.sys is empty",
        ..STOPS
    },
    Case {
        name: "viostor is not asked for where disks are NVMe or Hyper-V's",
        edit: |it| it.system.remove(&format!("{SERVICES}\\viostor")),
        target: "azure",
        ids: &["meta.license"],
        ..ADVICE
    },
    Case {
        name: "vioscsi never used",
        edit: |it| it.system.set(&format!("{SERVICES}\\vioscsi\\StartOverride"), "0", "dword:3"),
        target: "proxmox",
        ids: &["win.viostor"],
        detail: "vioscsi: StartOverride is 3",
        ..STOPS
    },
    Case {
        name: "virtio bound to nothing",
        edit: |it| it.system.remove("DriverDatabase"),
        verdict: Verdict::Unknown,
        open: &["win.viostor"],
        ..STOPS
    },
    Case {
        name: "virtio bound in the database of critical devices",
        edit: |it| {
            it.system.remove("DriverDatabase");
            let key = "ControlSet001\\Control\\CriticalDeviceDatabase\\pci#ven_1af4&dev_1001&subsys_00021af4";
            it.system.set(key, "Service", "string:viostor");
        },
        ..ADVICE
    },
    Case {
        name: "storvsc off",
        edit: |it| it.system.driver("storvsc", 4),
        target: "hyper-v",
        ids: &["win.hyperv"],
        detail: "storvsc: Start is 4, not 0",
        ..STOPS
    },
    Case {
        name: "vmbus left out",
        edit: |it| it.system.set(&format!("{SERVICES}\\vmbus\\StartOverride"), "0", "dword:3"),
        target: "azure",
        ids: &["win.hyperv", "meta.license"],
        detail: "vmbus: StartOverride is 3",
        ..STOPS
    },
    Case {
        name: "no driver of Hyper-V's, and the IDE disk of the first generation",
        edit: |it| {
            it.system.driver("storvsc", 4);
            for name in ["atapi", "intelide"] {
                it.system.driver(name, 0);
                it.files.insert(format!("Windows/System32/drivers/{name}.sys"), program(AMD64));
            }
        },
        target: "azure",
        ids: &["win.hyperv", "meta.license"],
        detail: "by the slow IDE disk it starts all the same",
        ..ADVICE
    },
    Case {
        name: "a client at a place for servers",
        edit: |it| {
            let key = "Microsoft\\Windows NT\\CurrentVersion";
            it.software.set(key, "ProductName", "string:Windows 10 Pro");
            it.software.set(key, "InstallationType", "string:Client");
        },
        target: "tencent",
        ids: &["win.place", "meta.license"],
        detail: "Windows 10 Pro is not among the systems that are taken",
        ..ADVICE
    },
    Case {
        name: "stornvme left out",
        edit: |it| it.system.set(&format!("{SERVICES}\\stornvme\\StartOverride"), "0", "dword:3"),
        target: "aws",
        ids: &["fs.space", "win.nvme", "meta.license"],
        detail: "the import asks for 6144",
        ..STOPS
    },
    Case {
        name: "one controller of VMware is enough",
        edit: |it| it.system.driver("LSI_SAS", 3),
        target: "vmware",
        ..ADVICE
    },
    Case {
        name: "no network card",
        edit: |it| it.system.remove(&format!("{SERVICES}\\netkvm")),
        ids: &["win.netkvm"],
        detail: "netkvm: there is no driver for the virtio network card",
        ..WARNS
    },
    Case {
        name: "a filter without its driver",
        edit: |it| {
            let key = "ControlSet001\\Control\\Class\\{4d36e967-e325-11ce-bfc1-08002be10318}";
            it.system.set(key, "UpperFilters", &texts(&["partmgr", "backupflt"]));
        },
        ids: &["win.filters"],
        detail: "backupflt filters disks and has no key in Services",
        ..STOPS
    },
    Case {
        name: "no boot configuration",
        edit: |it| it.bcd = None,
        ids: &["win.bcd"],
        detail: "/Boot/BCD is not there",
        ..STOPS
    },
    Case {
        name: "a boot configuration of garbage",
        edit: |it| {
            it.files.insert("Boot/BCD".to_owned(), vec![7; 9000]);
        },
        ids: &["win.bcd"],
        detail: "/Boot/BCD it does not begin as a registry hive",
        ..STOPS
    },
    Case {
        name: "a boot configuration for UEFI",
        edit: |it| it.bcd = Some(bcd("\\windows\\system32\\winload.efi")),
        ids: &["win.bcd"],
        detail: "which is not for BIOS",
        ..STOPS
    },
    Case {
        name: "the loader is gone",
        edit: |it| drop_file(it, "Windows/System32/winload.exe"),
        ids: &["win.bcd"],
        detail: "which is not on drive C",
        ..STOPS
    },
    Case {
        name: "the boot manager is gone",
        edit: |it| drop_file(it, "bootmgr"),
        ids: &["win.bootmgr"],
        detail: "/bootmgr is missing on the active partition",
        ..STOPS
    },
    Case {
        name: "UEFI without a boot configuration",
        uefi: true,
        edit: |it| it.bcd = None,
        ids: &["win.bcd"],
        detail: "/EFI/Microsoft/Boot/BCD is not there",
        ..STOPS
    },
    Case {
        name: "UEFI without a fallback",
        uefi: true,
        edit: |it| drop_file(it, "EFI/Boot/bootx64.efi"),
        target: "hyper-v",
        ids: &["boot.mode", "boot.fallback-efi"],
        detail: "neither BIOS nor UEFI can start it",
        ..STOPS
    },
    Case { name: "a system partition of its own", edit: |it| it.system_partition = true, ..ADVICE },
    Case {
        name: "a system partition without a boot configuration",
        edit: |it| {
            it.system_partition = true;
            it.bcd = None;
        },
        ids: &["win.bcd"],
        detail: "/Boot/BCD is not there",
        ..STOPS
    },
    Case {
        name: "Windows Server 2003",
        edit: |it| {
            drop_file(it, "bootmgr");
            (it.loads, it.bcd) = ("NTLDR", None);
            for name in ["NTLDR", "boot.ini"] {
                it.files.insert(name.to_owned(), b"[boot loader]".to_vec());
            }
            let id = "ControlSet001\\Control\\CriticalDeviceDatabase\\pci#ven_1af4&dev_1001";
            it.system.set(id, "Service", "string:viostor");
        },
        ..ADVICE
    },
    Case {
        name: "Windows Server 2003 without its list",
        edit: |it| (it.loads, it.bcd) = ("NTLDR", None),
        ids: &["win.bootmgr", "win.bcd"],
        detail: "/ntldr is missing on the active partition",
        ..STOPS
    },
    Case {
        name: "hibernated",
        edit: |it| {
            it.files.insert("hiberfil.sys".to_owned(), [b"HIBR".as_slice(), &[0; 8192]].concat());
        },
        ids: &["win.hibernate"],
        detail: "hibernated, or shut down with fast startup",
        ..STOPS
    },
    Case {
        name: "woken and shut down",
        edit: |it| {
            it.files.insert("hiberfil.sys".to_owned(), [b"WAKE".as_slice(), &[0; 8192]].concat());
        },
        ..ADVICE
    },
    Case { name: "dirty", edit: |it| it.dirty = true, ids: &["fs.clean"], detail: "/ (ntfs)", ..ADVICE },
    Case {
        name: "SYSTEM is gone",
        edit: |it| {
            it.files.insert("Windows/System32/config/SYSTEM".to_owned(), Vec::new());
        },
        ids: &["win.hives"],
        detail: "/Windows/System32/config/SYSTEM: is empty",
        open: &["win.viostor", "win.devinstall", "win.firewall", "win.pagefile"],
        ..STOPS
    },
    Case {
        name: "32 bits",
        edit: |it| {
            it.files.insert("Windows/System32/ntoskrnl.exe".to_owned(), program(I386));
        },
        ids: &["os.arch"],
        detail: "32-bit",
        ..ADVICE
    },
    Case {
        name: "sysprep was interrupted",
        edit: |it| {
            let key = "Microsoft\\Windows\\CurrentVersion\\Setup\\State";
            it.software.set(key, "ImageState", "string:IMAGE_STATE_UNDEPLOYABLE");
        },
        ids: &["win.sysprep"],
        detail: "sysprep was interrupted",
        ..WARNS
    },
    Case {
        name: "not generalised, and logged in by itself",
        edit: |it| {
            let key = "Microsoft\\Windows\\CurrentVersion\\Setup\\State";
            it.software.set(key, "ImageState", "string:IMAGE_STATE_COMPLETE");
            let key = "Microsoft\\Windows NT\\CurrentVersion\\Winlogon";
            it.software.set(key, "AutoAdminLogon", "string:1");
            it.software.set(key, "DefaultPassword", "string:hunter2");
        },
        ids: &["win.sysprep", "win.autologon"],
        detail: "the same SID",
        ..WARNS
    },
    Case {
        name: "no remote desktop in a cloud",
        edit: |it| it.system.set("ControlSet001\\Control\\Terminal Server", "fDenyTSConnections", "dword:1"),
        target: "tencent",
        ids: &["win.rdp", "meta.license"],
        detail: "fDenyTSConnections is 1",
        ..WARNS
    },
    Case {
        name: "all that is only advice",
        edit: |it| {
            it.system.set("ControlSet001\\Control\\Terminal Server", "fDenyTSConnections", "dword:1");
            it.system.remove("ControlSet001\\Control\\TimeZoneInformation");
            let card = "ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{1d36e967-e325-11ce-bfc1-08002be10318}";
            it.system.set(card, "EnableDHCP", "dword:0");
            it.system.set(card, "IPAddress", &texts(&["192.0.2.7"]));
            it.files.insert("Windows/WinSxS/pending.xml".to_owned(), b"<x/>".to_vec());
        },
        ids: &["win.update", "win.rdp", "win.clock", "win.address"],
        ..ADVICE
    },
    Case {
        name: "no cloudbase-init",
        edit: |it| it.system.remove(&format!("{SERVICES}\\cloudbase-init")),
        target: "openstack",
        ids: &["win.cloudbase-init"],
        detail: "cloudbase-init is not installed",
        ..ADVICE
    },
    Case {
        name: "an update after which machines did not start",
        edit: |it| {
            it.software.set(VERSION, "CurrentBuildNumber", "string:9600");
            it.software.package("Package_for_KB5009624~31bf3856ad364e35~amd64~~6.3.1.4", 0x70);
        },
        ids: &["win.hotfix"],
        detail: "KB5009624 is installed",
        ..ADVICE
    },
    Case {
        name: "the same update, replaced by a later one",
        edit: |it| {
            it.software.set(VERSION, "CurrentBuildNumber", "string:9600");
            it.software.package("Package_for_KB5009624~31bf3856ad364e35~amd64~~6.3.1.4", 0x50);
        },
        ..ADVICE
    },
    Case {
        name: "a cumulative update, which is known by the build",
        edit: |it| it.software.set(VERSION, "UBR", "dword:768"),
        ids: &["win.hotfix"],
        detail: "the last cumulative update is KB5014678 (build 20348.768)",
        ..ADVICE
    },
    Case {
        name: "Server 2008 R2 that knows no SHA-2",
        edit: seven,
        ids: &["win.sha2"],
        detail: "neither KB4474419 nor KB3033929 is installed",
        ..ADVICE
    },
    Case {
        name: "Server 2008 R2 with an update that never came to an end",
        edit: |it| {
            seven(it);
            it.software.package("Package_for_KB4474419~31bf3856ad364e35~amd64~~6.1.3.2", 0x40);
        },
        ids: &["win.sha2"],
        detail: "neither KB4474419 nor KB3033929 is installed",
        ..ADVICE
    },
    Case {
        name: "Server 2008 R2 that knows SHA-2",
        edit: |it| {
            seven(it);
            it.software.package("Package_1_for_KB3033929~31bf3856ad364e35~amd64~~6.1.1.1", 0x40);
            it.software.package("Package_2_for_KB3033929~31bf3856ad364e35~amd64~~6.1.1.1", 0x50);
        },
        ..ADVICE
    },
    Case {
        name: "no device is installed",
        edit: |it| {
            it.system.set(
                &format!("{SERVICES}\\DeviceInstall\\Parameters"),
                "DeviceInstallDisabled",
                "dword:1",
            );
        },
        ids: &["win.devinstall"],
        detail: "DeviceInstallDisabled is 1",
        ..ADVICE
    },
    Case {
        name: "network cards are forbidden by policy",
        edit: |it| {
            it.software.set(RESTRICTIONS, "DenyDeviceClasses", "dword:1");
            let list = format!("{RESTRICTIONS}\\DenyDeviceClasses");
            it.software.set(&list, "1", "string:{4D36E972-E325-11CE-BFC1-08002BE10318}");
        },
        ids: &["win.devinstall"],
        detail: "network cards of a new place are not installed",
        ..ADVICE
    },
    Case {
        name: "devices are forbidden that no place has, and a list that is not in force",
        edit: |it| {
            it.software.set(RESTRICTIONS, "DenyDeviceIDs", "dword:1");
            it.software.set(&format!("{RESTRICTIONS}\\DenyDeviceIDs"), "1", "string:PCI\\CC_0C0A");
            it.software.set(RESTRICTIONS, "DenyDeviceClasses", "dword:0");
            let list = format!("{RESTRICTIONS}\\DenyDeviceClasses");
            it.software.set(&list, "1", "string:{4d36e972-e325-11ce-bfc1-08002be10318}");
        },
        ..ADVICE
    },
    Case {
        name: "a virus scanner",
        edit: |it| {
            let key = "WOW6432Node\\Microsoft\\Windows\\CurrentVersion\\Uninstall\\{0badc0de}";
            it.software.set(key, "DisplayName", "string:Sophos Endpoint Agent");
        },
        ids: &["win.devinstall"],
        detail: "Sophos Endpoint Agent is installed",
        ..ADVICE
    },
    Case {
        name: "a firewall that lets nobody in",
        edit: |it| it.system.remove(&format!("{FIREWALL}\\FirewallRules")),
        target: "tencent",
        ids: &["win.firewall", "meta.license"],
        detail: "no rule lets port 3389 in",
        ..WARNS
    },
    Case {
        name: "a firewall that lets nobody in, where there is a screen",
        edit: |it| it.system.remove(&format!("{FIREWALL}\\FirewallRules")),
        ids: &["win.firewall"],
        detail: "no rule lets port 3389 in",
        ..ADVICE
    },
    Case {
        name: "a firewall that lets in another port than the one that is used",
        edit: |it| {
            it.system.set(
                "ControlSet001\\Control\\Terminal Server\\WinStations\\RDP-Tcp",
                "PortNumber",
                "dword:3390",
            );
        },
        target: "openstack",
        ids: &["win.firewall"],
        detail: "no rule lets port 3390 in",
        ..WARNS
    },
    Case {
        name: "a firewall that is off",
        edit: |it| {
            it.system.remove(&format!("{FIREWALL}\\FirewallRules"));
            it.system.set(&format!("{FIREWALL}\\PublicProfile"), "EnableFirewall", "dword:0");
        },
        target: "openstack",
        ..ADVICE
    },
    Case {
        name: "a policy of the domain that takes no rule of the machine",
        edit: |it| {
            let policy = "Policies\\Microsoft\\WindowsFirewall\\PublicProfile";
            it.software.set(policy, "AllowLocalPolicyMerge", "dword:0");
        },
        target: "openstack",
        ids: &["win.firewall"],
        detail: "no rule lets port 3389 in",
        ..WARNS
    },
    Case {
        name: "a page file on a drive that is not there",
        edit: |it| page_file(it, "D:\\pagefile.sys 4096 4096"),
        ids: &["win.pagefile"],
        detail: "the page file is D:\\pagefile.sys 4096 4096",
        ..ADVICE
    },
    Case {
        name: "a page file on Azure's disk for it",
        edit: |it| page_file(it, "D:\\pagefile.sys"),
        target: "azure",
        ids: &["meta.license"],
        ..ADVICE
    },
    Case {
        name: "a page file in the image",
        edit: |it| {
            it.files.insert("pagefile.sys".to_owned(), vec![1; 3 << 20]);
        },
        ids: &["win.pagefile"],
        detail: "pagefile.sys holds 3 MiB",
        ..ADVICE
    },
    Case {
        name: "a start that is waited for",
        edit: |it| {
            it.software.key(&format!("{SERVICING}\\RebootPending"));
        },
        ids: &["win.update"],
        detail: "an update waits for the next start",
        ..ADVICE
    },
    Case {
        name: "a licence of another place",
        edit: |it| {
            let key = "Microsoft\\Windows NT\\CurrentVersion\\SoftwareProtectionPlatform";
            it.software.set(key, "KeyManagementServiceName", "string:kms.core.windows.net");
        },
        ids: &["meta.license"],
        detail: "it asks kms.core.windows.net for its licence",
        ..ADVICE
    },
];

#[test]
fn broken_windows_is_judged_as_predicted() {
    let dir = tempfile::tempdir().unwrap();
    let next = AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = CASES.get(index) else { return };
                    let mut windows = Windows::new(case.uefi);
                    (case.edit)(&mut windows);
                    let disk = windows.write(dir.path(), &format!("case-{index}"));
                    let judgement = said(&look(&disk), case.target);
                    std::fs::remove_file(disk).unwrap();
                    let open: Vec<&str> = judgement.unanswered.iter().map(|open| open.id).collect();
                    let first = judgement.findings.first().map_or("", |finding| finding.detail.as_str());
                    let right = judgement.verdict == case.verdict
                        && ids(&judgement) == case.ids
                        && open == case.open
                        && first.contains(case.detail);
                    if !right {
                        let because = judgement.because.clone().unwrap_or_default();
                        wrong.lock().unwrap().push(format!(
                            "{} at {}: {:?} {:?} open {open:?}: {first} | {because}",
                            case.name,
                            case.target,
                            judgement.verdict,
                            ids(&judgement)
                        ));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn disk_that_is_changed_from_outside_is_judged_by_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let disk = Windows::new(false).write(dir.path(), "windows");
    let good = std::fs::read(&disk).unwrap();
    let changed = |at: u64, bytes: &[u8], target: &str| {
        let file = std::fs::OpenOptions::new().write(true).open(&disk).unwrap();
        file.write_all_at(bytes, at).unwrap();
        let judgement = said(&look(&disk), target);
        file.write_all_at(&good[at as usize..at as usize + bytes.len()], at).unwrap();
        let open: Vec<&str> = judgement.unanswered.iter().map(|open| open.id).collect();
        (judgement.verdict, ids(&judgement), open, judgement.findings[0].clone())
    };
    // A driver that is missing, with what can be done meanwhile where the place has other disks.
    let mut without = Windows::new(false);
    without.system.remove(&format!("{SERVICES}\\viostor"));
    let without = look(&without.write(dir.path(), "without"));
    let fix = |target: &str| said(&without, target).findings[0].fix.clone();
    assert!(fix("openstack").contains("hw_disk_bus=sata") && fix("openstack").contains("virtio-win.iso"));
    assert!(!fix("tencent").contains("SATA disk"), "{}", fix("tencent"));
    // BitLocker writes its name where NTFS has its own.
    let (verdict, found, open, first) = changed(FIRST + 3, b"-FVE-FS-", "kvm");
    assert_eq!((verdict, found, open), (Verdict::WillNotBoot, vec!["boot.crypt"], vec!["os.root"]));
    assert!(first.fix.contains("manage-bde -off C:"), "{}", first.fix);
    // The boot sector of mkntfs, with code that only complains.
    let (verdict, found, _, first) = changed(FIRST + 514, &[0; 14], "kvm");
    assert_eq!((verdict, found), (Verdict::WillNotBoot, vec!["win.bootmgr"]));
    assert!(first.fix.contains("bootsect /nt60"), "{}", first.fix);
    // No active partition; no code in the first sector.
    let (verdict, found, _, first) = changed(446, &[0], "kvm");
    assert_eq!((verdict, found), (Verdict::WillNotBoot, vec!["boot.mode"]));
    assert!(first.fix.contains("bcdboot"), "{}", first.fix);
    // A dynamic disk.
    let (verdict, found, _, _) = changed(450, &[0x42], "azure");
    assert_eq!((verdict, found), (Verdict::WillNotBoot, vec!["win.part", "meta.license"]));
    // A hive that was being written: the second sequence number stays behind.
    let hive = (0..good.len()).step_by(512).find(|at| {
        good[*at..].starts_with(b"regf") && good[*at..at + 65536].windows(7).any(|word| word == b"viostor")
    });
    let hive = hive.unwrap();
    let mut head = good[hive..hive + 512].to_vec();
    let sum = |head: &[u8]| {
        head[..508].chunks_exact(4).fold(0, |sum, word| sum ^ u32::from_le_bytes(word.try_into().unwrap()))
    };
    head[4..8].copy_from_slice(&77_u32.to_le_bytes());
    let fresh = sum(&head).to_le_bytes();
    head[508..512].copy_from_slice(&fresh);
    let file = std::fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.write_all_at(&head, hive as u64).unwrap();
    let judgement = said(&look(&disk), "kvm");
    let open: Vec<&str> = judgement.unanswered.iter().map(|open| open.id).collect();
    assert_eq!((judgement.verdict, open), (Verdict::Unknown, vec!["win.hives"]));
}
