//! Rules about Windows: the way from the firmware to the kernel, the registry, and what an image should not carry.
//! Their drivers are in [`drivers`].

pub(super) mod drivers;
mod needs;
pub(super) mod policy;
pub(super) mod state;

use kiln_disk::partition::{PartitionType, Scheme, types};

use super::{Case, Firmware, Hits, Impact};
use crate::facts::Seen;
use crate::facts::windows::Chain;
use crate::volume::Content;

/// Rules about any system; all others, but for `win.`, are about Linux.
const ANY: [&str; 23] = [
    "container.iso",
    "part.table",
    "os.root",
    "part.gpt-backup",
    "part.overlap",
    "part.bounds",
    "part.align",
    "part.hybrid",
    "part.logical-sector",
    "part.root-last",
    "boot.mode",
    "boot.active",
    "boot.fallback-efi",
    "boot.crypt",
    "boot.dual",
    "fs.clean",
    "fs.space",
    "fs.dup-uuid",
    "os.supported",
    "os.arch",
    "lvm.spanning",
    "fs.size",
    "meta.license",
];

/// What to type in a Windows where a row about any system says how on Linux.
const FIXES: [(&str, &str); 9] = [
    ("part.gpt-backup", "diskpart: select disk N, then: recover; or sgdisk -e DISK"),
    (
        "part.root-last",
        "delete or move the recovery partition: reagentc /disable, then diskpart: select partition N, delete partition override",
    ),
    (
        "boot.mode",
        "from the installation medium (Shift+F10): BIOS: bootrec /fixmbr, bootrec /fixboot, bcdboot C:\\Windows /s S: /f BIOS; \
UEFI: mount the EFI system partition as S: and bcdboot C:\\Windows /s S: /f UEFI; from BIOS to UEFI: mbr2gpt /convert /allowFullOS",
    ),
    ("boot.active", "diskpart: select disk 0, select partition 1, active"),
    (
        "boot.fallback-efi",
        "in the running guest: mountvol S: /S && bcdboot C:\\Windows /s S: /f UEFI, which writes \\EFI\\Boot\\bootx64.efi too",
    ),
    (
        "boot.crypt",
        "in the running guest: manage-bde -off C: and wait until manage-bde -status C: says Fully Decrypted",
    ),
    (
        "fs.clean",
        "start it once and shut it down: shutdown /s /t 0; or chkdsk D: /f with the disk attached to another Windows",
    ),
    (
        "fs.space",
        "cleanmgr /sageset:1 && cleanmgr /sagerun:1; dism /online /cleanup-image /startcomponentcleanup",
    ),
    ("os.supported", "upgrade to a release that is maintained, or buy its extended updates"),
];

/// Whether a rule is about this system.
pub(super) fn concerns(case: &Case<'_>, id: &str) -> bool {
    match (is_windows(case), id.starts_with("win.")) {
        (true, true) => true,
        (true, false) => ANY.contains(&id),
        (false, about_windows) => !about_windows,
    }
}

/// What to type for a rule about any system.
pub(super) fn fix(case: &Case<'_>, id: &str) -> Option<&'static str> {
    let fixes = FIXES.iter().filter(|_| is_windows(case));
    fixes.into_iter().find(|(known, _)| *known == id).map(|(_, fix)| *fix)
}

/// Whether the disk is one of Windows, even if its system cannot be seen.
pub(super) fn is_windows(case: &Case<'_>) -> bool {
    let report = case.report;
    let encrypted = || report.volumes.iter().any(|volume| volume.probed.content == Content::BitLocker);
    let loader = || {
        let here = |path: &str| path.eq_ignore_ascii_case("/EFI/Microsoft/Boot/bootmgfw.efi");
        report.boot.programs.iter().any(|program| here(&program.path))
    };
    report.windows.is_some() || (report.roots.is_empty() && (encrypted() || loader()))
}

/// A thing that keeps a chain from working.
struct Broken {
    rule: &'static str,
    what: String,
    seen: Seen,
    fix: String,
}

/// What keeps a firmware from starting Windows, behind what it starts itself.
fn broken(chain: &Chain, firmware: Firmware) -> Vec<Broken> {
    let on = |path: &str| match firmware {
        Firmware::Bios => Seen::file(path.to_owned()),
        Firmware::Uefi => Seen::file(format!("ESP:{path}")),
    };
    let (flag, letter, wanted) = match firmware {
        Firmware::Bios => ("BIOS", "the active partition", "winload.exe"),
        Firmware::Uefi => ("UEFI", "the EFI system partition", "winload.efi"),
    };
    let bcdboot = match chain.manager.as_str() {
        "/ntldr" => "from the recovery console: fixboot, copy D:\\i386\\ntldr C:\\, copy D:\\i386\\ntdetect.com C:\\, \
bootcfg /rebuild"
            .to_owned(),
        _ => [
            "from the installation medium (Shift+F10): diskpart, list volume, select volume N (",
            letter,
            "), assign letter=S, exit; then: bcdboot C:\\Windows /s S: /f ",
            flag,
        ]
        .concat(),
    };
    let mut all = Vec::new();
    let mut add =
        |rule, what: String, seen, fix: &str| all.push(Broken { rule, what, seen, fix: fix.to_owned() });
    if !chain.boot_sector {
        let what = "the active partition's boot sector does not look for bootmgr".to_owned();
        let fix = "from the installation medium (Shift+F10): bootsect /nt60 SYS /mbr";
        add("win.bootmgr", what, Seen::Disk { disk_byte: chain.at }, fix);
    }
    // The copy that firmware without variables starts needs no other on its partition.
    if !chain.manager_present && firmware == Firmware::Bios {
        add(
            "win.bootmgr",
            format!("{} is missing on the active partition", chain.manager),
            on(&chain.manager),
            &bcdboot,
        );
    }
    let bcd = &chain.bcd;
    match (&bcd.fault, &bcd.program) {
        (Some(fault), _) => add("win.bcd", format!("{} {fault}", bcd.path), on(&bcd.path), &bcdboot),
        (None, Some(program)) if !program.to_lowercase().ends_with(wanted) => {
            let what = format!("{} starts {program}, which is not for {flag}", bcd.path);
            add("win.bcd", what, on(&bcd.path), &bcdboot);
        }
        (None, Some(program)) if !bcd.program_present => {
            let what = format!("{} starts {program}, which is not on drive C", bcd.path);
            let fix = "sfc /scannow /offbootdir=C:\\ /offwindir=C:\\Windows from the installation medium";
            add("win.bcd", what, on(&bcd.path), fix);
        }
        _ => {}
    }
    all
}

/// The chains of a place that its firmware would begin.
fn chains<'a>(case: &'a Case<'_>) -> Vec<(Firmware, &'a Chain)> {
    let Some(windows) = &case.report.windows else { return Vec::new() };
    let begun = case.firmwares().filter(|firmware| super::boot::begins(case, *firmware));
    begun
        .filter_map(|firmware| match firmware {
            Firmware::Bios => Some((firmware, windows.bios.as_ref()?)),
            Firmware::Uefi => Some((firmware, windows.uefi.as_ref()?)),
        })
        .collect()
}

/// Whether what a firmware begins ends in Windows.
pub(super) fn goes_on(case: &Case<'_>, firmware: Firmware) -> bool {
    let Some(windows) = &case.report.windows else { return true };
    let chain = match firmware {
        Firmware::Bios => windows.bios.as_ref(),
        Firmware::Uefi => windows.uefi.as_ref(),
    };
    chain.is_none_or(|chain| broken(chain, firmware).is_empty())
}

fn chain_rule(case: &Case<'_>, rule: &str, hits: &mut Hits) {
    let all = chains(case);
    let works = all.iter().any(|(firmware, chain)| broken(chain, *firmware).is_empty());
    for (firmware, chain) in &all {
        for fault in broken(chain, *firmware).into_iter().filter(|fault| fault.rule == rule) {
            match works {
                true => hits.add_as(Impact::Advice, fault.what, fault.seen),
                false => hits.add_fix(fault.what, fault.seen, fault.fix),
            }
        }
    }
}

/// win.bootmgr
pub(super) fn bootmgr(case: &Case<'_>, hits: &mut Hits) {
    chain_rule(case, "win.bootmgr", hits);
}

/// win.bcd
pub(super) fn bcd(case: &Case<'_>, hits: &mut Hits) {
    chain_rule(case, "win.bcd", hits);
}

/// win.hives
pub(super) fn hives(case: &Case<'_>, hits: &mut Hits) {
    let Some(windows) = &case.report.windows else { return };
    for hive in &windows.hives {
        let seen = Seen::file(hive.path.clone());
        match &hive.fault {
            Some(fault) if fault.contains("compressed") || fault.contains("encrypted") => {
                hits.unknown(format!("{} cannot be read: {fault}", hive.path));
            }
            Some(fault) => hits.add(format!("{}: {fault}", hive.path), seen),
            None if hive.dirty && !hive.logs => {
                let what = "it was being written, and no log is there to complete it";
                hits.unknown(format!("{}: {what}", hive.path));
            }
            None if hive.dirty => {
                let what = "it was being written: Windows completes it from its logs; what is said here may be older";
                hits.add_as(Impact::Advice, format!("{}: {what}", hive.path), seen);
            }
            None => {}
        }
    }
    let read = windows.hive("SYSTEM").is_some_and(|hive| hive.fault.is_none());
    if read && windows.control_set.is_none() {
        let what = "SYSTEM names no current control set (Select\\Current)";
        hits.add(what, Seen::file("/Windows/System32/config/SYSTEM\\Select"));
    }
}

/// win.part: dynamic disks; GPT where the place takes a Windows on MBR only.
pub(super) fn partitions(case: &Case<'_>, hits: &mut Hits) {
    if case.report.windows.is_none() {
        return;
    }
    let Some(table) = case.report.tables.first() else { return };
    let dynamic = table.partitions.iter().find(|part| match part.kind {
        PartitionType::Mbr(kind) => kind == 0x42,
        PartitionType::Gpt(kind) => kind == types::LDM_METADATA,
    });
    let gpt = matches!(table.scheme, Scheme::Gpt | Scheme::HybridGpt);
    if case.place.id == "tencent" && gpt {
        let what = "the disk has a GPT; a Windows is taken on MBR and NTFS only";
        let fix = "install or restore it on an MBR disk that a BIOS starts: dism /capture-image, diskpart, \
dism /apply-image, bcdboot D:\\Windows /s D: /f BIOS";
        hits.add_fix(what, Seen::Disk { disk_byte: table.sector_len }, fix.to_owned());
    }
    if let Some(part) = dynamic {
        let what = format!("partition {} makes it a dynamic disk", part.number);
        let seen = Seen::Disk { disk_byte: part.start };
        match case.place.id {
            "kvm" | "proxmox" | "hyper-v" | "vmware" | "openstack" => hits.add_as(Impact::Advice, what, seen),
            _ => hits.add(what, seen),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_named_here_are_there() {
        for id in ANY.iter().chain(FIXES.iter().map(|(id, _)| id)) {
            assert!(super::super::rule(id).is_some(), "{id}");
        }
        for (id, _) in FIXES {
            assert!(ANY.contains(&id), "{id}");
        }
        for place in super::super::PLACES {
            let needs = needs::of(place.id);
            for device in needs.disk.iter().chain(&needs.net) {
                assert!(super::super::rule(device.rule).is_some(), "{}", device.rule);
            }
            assert_eq!(needs.disk.is_none(), place.id == "digitalocean");
        }
    }
}
