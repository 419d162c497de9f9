//! From the firmware to Windows' loader: boot sector or EFI program, boot manager, boot configuration data.
//!
//! The boot configuration is a registry hive. Source: Microsoft, "BCD Reference"; `bcdedit /enum all` of a disk.

use std::sync::Arc;

use kiln_disk::partition::Scheme;
use kiln_disk::{Disk, Error, GuestOffset, Result};
use serde::{Deserialize, Serialize};

use super::HiveFile;
use crate::fs::{Root, open};
use crate::hive::Hive;
use crate::tree::Tree;
use crate::volume::{Layout, Place};

/// The boot manager among the objects.
const MANAGER: &str = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}";
/// Elements: what the manager starts by itself, and the program of an entry.
const DEFAULT: &str = "23000003";
const PROGRAM: &str = "12000002";
/// Bytes of a boot sector and what belongs to it: the first 16 sectors of an NTFS.
const SECTORS: usize = 8192;

/// How a firmware starts Windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Index of the volume that it starts from.
    pub volume: usize,
    /// First byte of it.
    pub at: u64,
    /// The boot sector looks for the boot manager. UEFI needs none.
    pub boot_sector: bool,
    /// Where the boot manager should be.
    pub manager: String,
    /// It is there.
    pub manager_present: bool,
    /// The boot configuration.
    pub bcd: Bcd,
}

/// Boot configuration data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bcd {
    /// Its path on that volume.
    pub path: String,
    /// What is wrong with it.
    pub fault: Option<String>,
    /// The program that the default entry starts.
    pub program: Option<String>,
    /// That program is on drive C.
    pub program_present: bool,
}

/// What a BIOS would start: the active partition of an MBR.
pub(super) fn bios(disks: &[Arc<dyn Disk>], layout: &Layout, windows: &Tree) -> Result<Option<Chain>> {
    let (Some(disk), Some(table)) = (disks.first(), layout.tables.first()) else { return Ok(None) };
    let Some(active) = table.partitions.iter().find(|part| part.active) else { return Ok(None) };
    if table.scheme != Scheme::Mbr {
        return Ok(None);
    }
    let here = layout.volumes.iter().enumerate().find(|(_, volume)| {
        matches!(volume.place, Place::Partition { disk: 0, number, .. } if number == active.number)
    });
    let Some((index, volume)) = here else { return Ok(None) };
    let mut sectors = vec![0; SECTORS.min(usize::try_from(active.len).unwrap_or(SECTORS))];
    if let Err(error @ (Error::Io { .. } | Error::Cancelled)) =
        disk.read_guest(GuestOffset::new(active.start), &mut sectors)
    {
        return Err(error);
    }
    // The name of the file that the code loads: UTF-16 on NTFS, else in capitals.
    let names = |name: &str| {
        let wide: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        [wide.as_slice(), name.as_bytes()]
            .iter()
            .any(|word| sectors.windows(word.len()).any(|window| window == *word))
    };
    let mut tree = Tree::default();
    if let Ok(fs) = open(&volume.disk, volume.probed.content, &Root::Default) {
        tree.mount("/", index, fs);
    }
    // Windows 2000 to 2003 start by NTLDR, which reads a text.
    let old = !names("BOOTMGR") && names("NTLDR");
    let manager = if old { "/ntldr" } else { "/bootmgr" }.to_owned();
    let bcd = if old { boot_ini(&tree) } else { bcd(&tree, "/Boot/BCD", windows) };
    Ok(Some(Chain {
        volume: index,
        at: active.start,
        boot_sector: old || names("BOOTMGR"),
        manager_present: there(&tree, &manager),
        manager,
        bcd,
    }))
}

/// What UEFI would start: the first EFI system partition with Microsoft's directory, else the first one.
pub(super) fn uefi(layout: &Layout, esps: &[(usize, Tree)], windows: &Tree) -> Option<Chain> {
    let own = |(_, tree): &&(usize, Tree)| tree.exists("/EFI/Microsoft/Boot");
    let (volume, esp) = esps.iter().find(own).or_else(|| esps.first())?;
    let manager = "/EFI/Microsoft/Boot/bootmgfw.efi".to_owned();
    Some(Chain {
        volume: *volume,
        at: layout.volumes.get(*volume).and_then(crate::volume::Volume::start).unwrap_or(0),
        boot_sector: true,
        manager_present: there(esp, &manager),
        manager,
        bcd: bcd(esp, "/EFI/Microsoft/Boot/BCD", windows),
    })
}

/// The configuration of NTLDR. Where it leads is not followed.
fn boot_ini(tree: &Tree) -> Bcd {
    let path = "/boot.ini".to_owned();
    let fault = (!there(tree, &path)).then(|| "is not there".to_owned());
    Bcd { path, fault, program: None, program_present: false }
}

fn there(tree: &Tree, path: &str) -> bool {
    tree.stat(path).is_ok_and(|stat| stat.len > 0)
}

fn bcd(tree: &Tree, path: &str, windows: &Tree) -> Bcd {
    let (program, fault) = match entry(tree, path) {
        Ok(program) => (Some(program), None),
        Err(fault) => (None, Some(fault)),
    };
    let program_present = program.as_ref().is_some_and(|program| there(windows, &program.replace('\\', "/")));
    Bcd { path: path.to_owned(), fault, program, program_present }
}

/// The program of the default entry.
fn entry(tree: &Tree, path: &str) -> Result<String, String> {
    let file = HiveFile::new(tree, path).ok_or("is not there")?;
    let told = |fault: crate::hive::Fault| fault.to_string();
    let hive = Hive::open(file).map_err(told)?;
    let element = |object: &str, element: &str| {
        let key = hive.key(&format!("Objects\\{object}\\Elements\\{element}")).map_err(told)?;
        let Some(key) = key else { return Ok(None) };
        Ok::<_, String>(hive.value(&key, "Element").map_err(told)?.and_then(|value| value.text()))
    };
    if hive.key(&format!("Objects\\{MANAGER}")).map_err(told)?.is_none() {
        return Err("knows no boot manager ({bootmgr})".to_owned());
    }
    let default = element(MANAGER, DEFAULT)?.ok_or("names no default entry")?;
    element(&default, PROGRAM)?.ok_or_else(|| format!("has no entry {default}, which is the default one"))
}
