//! GRUB's core: the program that firmware starts, with the modules, the prefix and the configuration inside it.
//!
//! Sources: GRUB 2.06, `include/grub/{kernel.h,offsets.h,i386/pc/boot.h}`, `grub-core/boot/i386/pc/startup_raw.S`,
//! `util/mkimage.c` (LZMA of the old kind, 64 KiB window, no header).

use std::io::Read;

use kiln_disk::wire::{le16, le32, le64};
use kiln_disk::{Disk, Error, GuestOffset, Result};

/// A core with all its modules has 3 MiB.
const MAX_CORE: usize = 8 << 20;
/// The decompressor in front of the packed kernel ends before this.
const MAX_DECOMPRESSOR: usize = 9 << 10;
/// Runs of sectors in the list of diskboot.img.
const MAX_RUNS: usize = 40;

/// What a core says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Core {
    /// Where its files are: `(,gpt1)/boot/grub`, `/EFI/debian`.
    pub(super) prefix: String,
    /// The configuration inside it.
    pub(super) config: Option<String>,
    /// Names of its modules.
    pub(super) modules: Vec<String>,
    /// A disk of files inside it.
    pub(super) memdisk: Option<Vec<u8>>,
}

/// What was found where a BIOS starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum BiosCore {
    /// A core.
    Whole(Core),
    /// A part of it is gone: the disk's byte, and what is wrong.
    Damaged { at: u64, why: String },
    /// It is packed in a way that is not known here.
    Unknown,
}

/// Follows boot.img to diskboot.img and its list of sectors.
pub(super) fn bios(disk: &dyn Disk) -> Result<BiosCore> {
    let Some(boot) = read(disk, 0, 512)? else { return Ok(BiosCore::Unknown) };
    let at = le64(&boot, 0x5c).unwrap_or(0).saturating_mul(512);
    let Some(first) = read(disk, at, 512)? else {
        return Ok(BiosCore::Damaged { at, why: "GRUB's second sector is behind the disk's end".to_owned() });
    };
    if !holds(&first, b"Geom") || !holds(&first, b"Read") {
        let why = "what GRUB's first sector loads is no GRUB".to_owned();
        return Ok(BiosCore::Damaged { at, why });
    }
    // The list goes down from the sector's end: first sector (8), sectors (2), segment (2).
    let (mut core, mut hole) = (Vec::new(), None);
    for index in 1..=MAX_RUNS {
        let Some(entry) = index.checked_mul(12).and_then(|back| 512_usize.checked_sub(back)) else { break };
        let (Some(start), Some(count)) = (le64(&first, entry), le16(&first, entry.saturating_add(8))) else {
            break;
        };
        if count == 0 {
            break;
        }
        for step in 0..u64::from(count) {
            let at = start.saturating_add(step).saturating_mul(512);
            let Some(sector) = read(disk, at, 512)? else {
                return Ok(BiosCore::Damaged { at, why: "GRUB's core ends behind the disk".to_owned() });
            };
            if hole.is_none() && sector.iter().all(|byte| *byte == 0) {
                hole = Some((at, core.len()));
            }
            core.extend_from_slice(&sector);
            if core.len() > MAX_CORE {
                return Ok(BiosCore::Unknown);
            }
        }
    }
    Ok(unpacked(&core, at.saturating_add(512), hole))
}

/// Unpacks what follows diskboot.img.
fn unpacked(core: &[u8], at: u64, hole: Option<(u64, usize)>) -> BiosCore {
    let field = |at| le32(core, at).and_then(|value| usize::try_from(value).ok());
    let (Some(packed), Some(plain), Some(redundancy)) = (field(0x08), field(0x0c), field(0x10)) else {
        return BiosCore::Unknown;
    };
    // `ljmp $0, $0x821c`: the start of every decompressor since 2.00.
    let known = core.first() == Some(&0xea);
    if known && packed > 0 && plain > packed && plain <= MAX_CORE {
        // The decompressor has some 2.8 KiB; its length is not written down.
        let guess = (0..MAX_DECOMPRESSOR).step_by(4).filter(|at| core.get(*at) == Some(&0));
        let mut guess: Vec<usize> = guess.collect();
        // Most likely first: that of GRUB 2.02 to 2.12.
        guess.sort_by_key(|at| at.abs_diff(2848));
        for from in guess.into_iter().take(64) {
            let Some(input) = core.get(from..) else { continue };
            if let Some(kernel) = lzma(input, plain)
                && let Some(found) = modules(&kernel, 4)
            {
                return BiosCore::Whole(found);
            }
        }
        // Reed-Solomon codes, where they are, put back half of their length.
        let why = "GRUB's core cannot be unpacked: a part of it was overwritten";
        match hole {
            Some((at, _)) if redundancy == 0 => {
                return BiosCore::Damaged { at, why: "a sector of GRUB's core is empty".to_owned() };
            }
            None if redundancy == 0 => return BiosCore::Damaged { at, why: why.to_owned() },
            _ => return BiosCore::Unknown,
        }
    }
    if core.iter().take(4096).all(|byte| *byte == 0) {
        return BiosCore::Damaged { at, why: "the sectors of GRUB's core are empty".to_owned() };
    }
    match hole {
        Some((at, inside)) if inside < MAX_DECOMPRESSOR => {
            BiosCore::Damaged { at, why: "a sector of GRUB's core is empty".to_owned() }
        }
        _ => BiosCore::Unknown,
    }
}

/// Unpacks as much as the kernel says it has.
fn lzma(input: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut options = liblzma::stream::LzmaOptions::new_preset(6).ok()?;
    options.dict_size(1 << 16).literal_context_bits(3).literal_position_bits(0).position_bits(2);
    let mut filters = liblzma::stream::Filters::new();
    filters.lzma1(&options);
    let stream = liblzma::stream::Stream::new_raw_decoder(&filters).ok()?;
    let mut decoder = liblzma::bufread::XzDecoder::new_stream(input, stream);
    let mut plain = vec![0; len];
    let mut done = 0_usize;
    // The first bytes tell a wrong guess: the kernel begins with code, and most streams end soon.
    while let Some(rest) = plain.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match decoder.read(rest) {
            Ok(0) | Err(_) => break,
            Ok(more) => done = done.saturating_add(more),
        }
    }
    (done == len).then_some(plain)
}

/// What a GRUB for UEFI holds; `None` when the program is none.
pub(super) fn efi(program: &[u8]) -> Option<Core> {
    modules(program, 8)
}

/// The block of modules behind a kernel; `word` is the length of its offsets.
fn modules(image: &[u8], word: usize) -> Option<Core> {
    let mut from = 0_usize;
    while let Some(found) = image.get(from..)?.windows(4).position(|bytes| bytes == b"mimg") {
        let at = from.checked_add(found)?;
        if let Some(core) = objects(image.get(at..)?, word) {
            return Some(core);
        }
        from = at.checked_add(4)?;
    }
    None
}

/// Reads `struct grub_module_info` and the objects behind it.
fn objects(block: &[u8], word: usize) -> Option<Core> {
    let number = |at: usize| match word {
        4 => le32(block, at).map(u64::from),
        _ => le64(block, at),
    };
    // Magic, on 64 bits padding, then offset and size.
    let (offset, size) = (number(word)?, number(word.checked_mul(2)?)?);
    let (mut at, end) = (usize::try_from(offset).ok()?, usize::try_from(size).ok()?);
    if at < word.checked_mul(3)? || at > 64 || end > block.len() || end <= at {
        return None;
    }
    let mut core = Core::default();
    while at < end {
        let (kind, len) = (le32(block, at)?, usize::try_from(le32(block, at.checked_add(4)?)?).ok()?);
        if len < 8 {
            return None;
        }
        let next = at.checked_add(len)?;
        let body = block.get(at.checked_add(8)?..next)?;
        match kind {
            0 if !body.starts_with(b"\x7fELF") => return None,
            0 => core.modules.extend(module_name(body)),
            1 => core.memdisk = Some(body.to_vec()),
            2 => core.config = Some(text(body)),
            3 => core.prefix = text(body),
            // Public keys, a device tree, SBAT; more kinds than these are not known.
            kind if kind > 16 => return None,
            _ => {}
        }
        at = next;
    }
    Some(core)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    crate::text::lossy(bytes.get(..end).unwrap_or_default())
}

/// The section `.modname` of a module.
fn module_name(elf: &[u8]) -> Option<String> {
    let wide = elf.get(4) == Some(&2);
    let size = |value: Option<u64>| value.and_then(|value| usize::try_from(value).ok());
    let (table, each, count, names) = if wide {
        (size(le64(elf, 0x28))?, le16(elf, 0x3a)?, le16(elf, 0x3c)?, le16(elf, 0x3e)?)
    } else {
        (size(le32(elf, 0x20).map(u64::from))?, le16(elf, 0x2e)?, le16(elf, 0x30)?, le16(elf, 0x32)?)
    };
    let section = |index: u16| -> Option<(usize, usize, usize)> {
        let at = usize::from(index).checked_mul(usize::from(each))?.checked_add(table)?;
        let name = usize::try_from(le32(elf, at)?).ok()?;
        let (offset, len) = if wide {
            (size(le64(elf, at.checked_add(0x18)?))?, size(le64(elf, at.checked_add(0x20)?))?)
        } else {
            let field = |by: usize| size(le32(elf, at.checked_add(by)?).map(u64::from));
            (field(0x10)?, field(0x14)?)
        };
        Some((name, offset, len))
    };
    let (_, strings, _) = section(names)?;
    for index in 0..count {
        let (name, offset, len) = section(index)?;
        let word = elf.get(strings.checked_add(name)?..)?;
        if word.starts_with(b".modname\0") {
            return Some(text(elf.get(offset..offset.checked_add(len)?)?));
        }
    }
    None
}

fn holds(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}

fn read(disk: &dyn Disk, at: u64, len: usize) -> Result<Option<Vec<u8>>> {
    let mut buf = vec![0; len];
    match disk.read_guest(GuestOffset::new(at), &mut buf) {
        Ok(()) => Ok(Some(buf)),
        Err(error @ (Error::Io { .. } | Error::Cancelled)) => Err(error),
        Err(error) if error.code().starts_with("budget.") => Err(error),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
pub(super) fn core_of(kernel: &[u8]) -> Option<Core> {
    modules(kernel, 4)
}
