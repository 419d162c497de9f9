//! How the machine starts: code for a BIOS, programs for UEFI, entries of a loader.

use std::sync::Arc;

use kiln_disk::interned::Word;
use kiln_disk::partition::{PartitionType, Scheme, types};
use kiln_disk::wire::le64;
use kiln_disk::{Disk, Error, GuestOffset, Result};
use serde::{Deserialize, Serialize};

use super::Seen;
use super::loader::{Entry, GrubFacts, GrubStarts};
use super::root::is_esp;
use crate::grub::{Chain, Waits};
use crate::tree::Tree;
use crate::volume::Layout;

/// A program on an EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EfiProgram {
    /// Index of the volume.
    pub volume: usize,
    /// Its path there.
    pub path: String,
    /// Bytes.
    pub len: u64,
    /// What it runs on, by its PE header; nothing when it is no such program.
    #[serde(deserialize_with = "kiln_disk::interned::maybe", default)]
    pub architecture: Option<Word>,
    /// What is wrong with it: a part that its header names lies behind its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// Which loader it is, by its own words: "grub2", "shim", "systemd-boot", "unified-kernel". Only looked for where
    /// firmware starts without variables.
    #[serde(deserialize_with = "kiln_disk::interned::maybe", default)]
    pub loader: Option<Word>,
}

/// The chain from power-on to kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Boot {
    /// A BIOS finds a chain of code.
    pub bios: bool,
    /// Why it does not; empty when it does.
    pub bios_fault: String,
    /// The disk byte to look at for the BIOS chain.
    pub bios_at: u64,
    /// There is an EFI system partition with a loader in it.
    pub uefi: bool,
    /// Index of the EFI system partition.
    pub esp: Option<usize>,
    /// The loaders at the place where firmware without variables looks.
    pub fallback: Vec<EfiProgram>,
    /// All other programs.
    pub programs: Vec<EfiProgram>,
    /// Loaders that were found by their configuration: "grub2", "grub-legacy", "systemd-boot", "syslinux", "bls".
    #[serde(deserialize_with = "kiln_disk::interned::list", default)]
    pub loaders: Vec<Word>,
    /// Configuration files in use.
    pub configs: Vec<String>,
    /// What it can start; the default first.
    pub entries: Vec<Entry>,
    /// Configuration files that were read, and hold no entry.
    pub empty_configs: Vec<String>,
    /// How GRUB starts, by firmware.
    pub grub: Vec<GrubFacts>,
    /// Why GRUB's menu starts nothing by itself, by firmware; an empty firmware stands for any.
    #[serde(skip)]
    pub waits: Vec<(&'static str, Waits)>,
    /// Why syslinux starts nothing by itself.
    #[serde(skip)]
    pub syslinux_waits: Option<Waits>,
    /// What UEFI goes on with behind a shim: volume and path.
    #[serde(skip)]
    pub second_stage: Option<(usize, String)>,
}

/// The programs on the EFI system partitions: those where firmware without variables looks, and all others.
pub(super) struct Programs {
    fallback: Vec<EfiProgram>,
    others: Vec<EfiProgram>,
}

/// Lists the programs.
pub(super) fn programs(esps: &[(usize, Tree)]) -> Programs {
    let (mut fallback, mut others) = (Vec::new(), Vec::new());
    for (volume, esp) in esps {
        for mut program in efi_programs(*volume, esp) {
            let name = program.path.to_ascii_uppercase();
            if name.starts_with("/EFI/BOOT/BOOT") && name.ends_with(".EFI") {
                program.loader =
                    esp.head(&program.path, MAX_PROGRAM).ok().and_then(|bytes| loader_in(&bytes));
                fallback.push(program);
            } else {
                others.push(program);
            }
        }
    }
    Programs { fallback, others }
}

impl Programs {
    /// Where GRUB begins on this disk.
    pub(super) fn grub_starts(
        &self,
        disks: &[Arc<dyn Disk>],
        layout: &Layout,
        esps: &[(usize, Tree)],
    ) -> GrubStarts {
        let mbr = layout.tables.first().map(|table| &table.mbr);
        let by_bios = mbr.is_some_and(|mbr| mbr.signed && mbr.loader == Some("grub2"));
        let uefi =
            self.fallback.iter().find(|program| program.path.eq_ignore_ascii_case("/EFI/BOOT/BOOTX64.EFI"));
        let uefi = uefi.and_then(|program| match program.loader {
            Some("grub2") => Some((program.volume, program.path.clone())),
            Some("shim") => self.second_stage(esps),
            _ => None,
        });
        GrubStarts { bios: disks.first().filter(|_| by_bios).cloned(), uefi }
    }

    /// What a shim in the fallback's place starts: the GRUB beside it, or what the fallback program finds in a list
    /// (`BOOTX64.CSV`) of another directory.
    fn second_stage(&self, esps: &[(usize, Tree)]) -> Option<(usize, String)> {
        let shim = self.fallback.iter().find(|program| program.loader == Some("shim"))?;
        let beside = |volume: usize, path: &str| {
            self.others
                .iter()
                .find(|other| {
                    other.volume == volume && other.path.eq_ignore_ascii_case(path) && other.len > 0
                })
                .map(|other| (other.volume, other.path.clone()))
        };
        if let Some(grub) = beside(shim.volume, "/EFI/BOOT/grubx64.efi") {
            return Some(grub);
        }
        beside(shim.volume, "/EFI/BOOT/fbx64.efi")?;
        let (volume, esp) = esps.iter().find(|(volume, _)| *volume == shim.volume)?;
        esp.names("/EFI").iter().find_map(|dir| {
            let list = esp.read(&format!("/EFI/{dir}/BOOTX64.CSV"), 4096).ok()?;
            // UTF-16, little-endian, with a mark in front: FILE,LABEL,OPTIONS,DESCRIPTION.
            let text: String = list
                .chunks_exact(2)
                .filter_map(|unit| match unit {
                    [low, 0] => Some(char::from(*low)),
                    _ => None,
                })
                .collect();
            let file = text.split(',').next()?.trim();
            let named = beside(*volume, &format!("/EFI/{dir}/{file}"))?;
            match file.to_ascii_lowercase().starts_with("shim") {
                true => beside(*volume, &format!("/EFI/{dir}/grubx64.efi")),
                false => Some(named),
            }
        })
    }
}

/// Looks at the chain.
pub(super) fn read(
    disks: &[Arc<dyn Disk>],
    layout: &Layout,
    esps: &[(usize, Tree)],
    programs: Programs,
    loader: super::loader::Found,
) -> Result<Boot> {
    let (mut bios_fault, mut bios_at) = match (disks.first(), layout.tables.first()) {
        (Some(disk), Some(_)) => bios(disk.as_ref(), layout)?,
        _ => ("there is no disk".to_owned(), 0),
    };
    let by_bios = loader.grub.iter().find(|grub| grub.firmware == "bios").map(|grub| &grub.chain);
    if let (true, Some(Chain::Stops { why, seen: Seen::Disk { disk_byte } })) =
        (bios_fault.is_empty(), by_bios)
    {
        (bios_fault, bios_at) = (why.clone(), *disk_byte);
    }
    let second_stage = programs.second_stage(esps);
    let Programs { fallback, others: programs } = programs;
    let esp = esps
        .iter()
        .map(|(volume, _)| *volume)
        .find(|volume| layout.volumes.get(*volume).is_some_and(|volume| is_esp(volume, layout)));
    Ok(Boot {
        bios: bios_fault.is_empty(),
        bios_fault,
        bios_at,
        uefi: !esps.is_empty() && (!fallback.is_empty() || !programs.is_empty()),
        esp: esp.or_else(|| esps.first().map(|(volume, _)| *volume)),
        fallback,
        programs,
        loaders: loader.loaders,
        configs: loader.configs,
        entries: loader.entries,
        empty_configs: loader.empty_configs,
        grub: loader.grub,
        waits: loader.waits,
        // Two configurations are rare; one that starts by itself is the benefit of the doubt.
        syslinux_waits: loader.syslinux.into_iter().min_by_key(Option::is_some).flatten(),
        second_stage,
    })
}

/// Follows the BIOS chain as far as it can be followed: code in the first sector, GRUB's next sector behind it, or an
/// active partition with a boot sector.
fn bios(disk: &dyn Disk, layout: &Layout) -> Result<(String, u64)> {
    let Some(table) = layout.tables.first() else { return Ok((String::new(), 0)) };
    if !table.mbr.signed {
        return Ok(("the first sector does not end with 55 AA".to_owned(), 510));
    }
    if !table.mbr.has_code {
        return Ok(("the first sector holds no code".to_owned(), 0));
    }
    let gpt = matches!(table.scheme, Scheme::Gpt | Scheme::HybridGpt);
    if table.mbr.loader == Some("grub2") {
        // boot.img loads one sector, whose number is at 0x5c (grub-core/boot/i386/pc/boot.S).
        let Some(sector) = read_bytes(disk, 0, 512)? else { return Ok(("unreadable".to_owned(), 0)) };
        let lba = le64(&sector, 0x5c).unwrap_or(0);
        let at = lba.saturating_mul(512);
        let core = read_bytes(disk, at, 512)?.unwrap_or_default();
        if core.iter().all(|byte| *byte == 0) {
            return Ok((format!("GRUB's first sector loads sector {lba}, which is empty"), at));
        }
        let bios_boot = table.partitions.iter().any(|part| part.kind == PartitionType::Gpt(types::BIOS_BOOT));
        let in_gap = table.partitions.iter().all(|part| at < part.start);
        let inside = table.partitions.iter().find(|part| at >= part.start && at < part.end());
        if gpt && !bios_boot && !in_gap && inside.is_none() {
            return Ok((format!("GRUB's first sector loads sector {lba}, outside of all partitions"), at));
        }
        return Ok((String::new(), 0));
    }
    if gpt && table.mbr.loader.is_none() {
        // Protective MBRs of some tools carry code that only prints a message.
        let legacy = table
            .partitions
            .iter()
            .any(|part| part.active || part.kind == PartitionType::Gpt(types::BIOS_BOOT));
        if !legacy {
            let why = "the first sector has code of no known loader, and no partition is marked for a BIOS";
            return Ok((why.to_owned(), 0));
        }
    }
    // Without partitions the first sector belongs to the file system's own loader: extlinux on the whole disk.
    if table.scheme == Scheme::None {
        return Ok((String::new(), 0));
    }
    if !gpt && table.mbr.loader != Some("grub-legacy") && table.mbr.loader != Some("lilo") {
        let Some(active) = table.partitions.iter().find(|part| part.active) else {
            return Ok(("no partition is active".to_owned(), 446));
        };
        let sector = read_bytes(disk, active.start, 512)?.unwrap_or_default();
        if sector.get(510..512) != Some(&[0x55, 0xaa]) {
            return Ok((format!("the active partition {} has no boot sector", active.number), active.start));
        }
    }
    Ok((String::new(), 0))
}

fn read_bytes(disk: &dyn Disk, at: u64, len: usize) -> Result<Option<Vec<u8>>> {
    let mut buf = vec![0; len];
    match disk.read_guest(GuestOffset::new(at), &mut buf) {
        Ok(()) => Ok(Some(buf)),
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// How much of a program is read for its own words. GRUB with all its modules has 3 MiB.
pub(super) const MAX_PROGRAM: usize = 4 << 20;

/// Which loader a program is, by what its makers write into it: systemd's `.sdmagic` section, shim's SBAT entry, the
/// messages of GRUB's kernel.
fn loader_in(program: &[u8]) -> Option<&'static str> {
    let marks: [(&[u8], &str); 5] = [
        (b"LoaderInfo: systemd-boot", "systemd-boot"),
        (b"LoaderInfo: systemd-stub", "unified-kernel"),
        (b"\nshim,", "shim"),
        (b"UEFI SHIM", "shim"),
        (b"GRUB", "grub2"),
    ];
    let holds = |mark: &[u8]| program.windows(mark.len()).any(|window| window == mark);
    marks.into_iter().find(|(mark, _)| holds(mark)).map(|(_, loader)| loader)
}

/// Programs that are looked for on one partition.
const MAX_PROGRAMS: usize = 200;

/// The programs in the directories of `/EFI`.
fn efi_programs(volume: usize, esp: &Tree) -> Vec<EfiProgram> {
    let mut found = Vec::new();
    let mut dirs: Vec<String> = esp.names("/EFI").into_iter().map(|name| format!("/EFI/{name}")).collect();
    if esp.exists("/EFI/Microsoft/Boot") {
        dirs.push("/EFI/Microsoft/Boot".to_owned());
    }
    for dir in dirs {
        for name in esp.names(&dir) {
            let path = format!("{dir}/{name}");
            if name.to_ascii_lowercase().ends_with(".efi") && found.len() < MAX_PROGRAMS {
                let len = esp.stat(&path).map_or(0, |stat| stat.len);
                let head = esp.head(&path, 4096).unwrap_or_default();
                let fault = pe_fault(&head, len);
                found.push(EfiProgram { volume, path, len, architecture: pe(&head), fault, loader: None });
            }
        }
    }
    found
}

/// What a PE program runs on (Microsoft PE format: e_lfanew at 0x3c, Machine behind "PE\0\0").
#[must_use]
pub fn pe(head: &[u8]) -> Option<&'static str> {
    use kiln_disk::wire::{le16, le32};
    if !head.starts_with(b"MZ") {
        return None;
    }
    let at = usize::try_from(le32(head, 0x3c)?).ok()?;
    if head.get(at..at.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    match le16(head, at.checked_add(4)?)? {
        0x8664 => Some("x86_64"),
        0x014c => Some("i386"),
        0xaa64 => Some("aarch64"),
        0x01c2 | 0x01c4 => Some("arm"),
        0x5064 => Some("riscv64"),
        _ => Some("other"),
    }
}

/// Whether a PE program ends before one of the sections that its header names.
fn pe_fault(head: &[u8], len: u64) -> Option<String> {
    use kiln_disk::wire::{le16, le32};
    pe(head)?;
    let at = usize::try_from(le32(head, 0x3c)?).ok()?;
    let (count, optional) = (le16(head, at.checked_add(6)?)?, le16(head, at.checked_add(20)?)?);
    let table = at.checked_add(24)?.checked_add(usize::from(optional))?;
    for index in 0..usize::from(count) {
        let section = index.checked_mul(40)?.checked_add(table)?;
        let size = u64::from(le32(head, section.checked_add(16)?)?);
        let end = u64::from(le32(head, section.checked_add(20)?)?).checked_add(size)?;
        if size > 0 && end > len {
            return Some(format!("it has {len} bytes, its header names {end}"));
        }
    }
    None
}
