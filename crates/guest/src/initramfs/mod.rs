//! What is really inside an initramfs: the kernel unpacks one archive after another, plain or compressed, and so does
//! this, in memory and bounded.
//!
//! Sources: Linux `init/initramfs.c`, `Documentation/driver-api/early-userspace/buffer-format.rst`.

mod cpio;
mod decode;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::{BufRead, Read};

use kiln_disk::interned::Word;
use serde::{Deserialize, Serialize};

pub use cpio::{CpioFault, Member};

/// What may come out of one initramfs.
const MAX_UNPACKED: u64 = 2 << 30;
/// Names in all its archives.
const MAX_MEMBERS: u64 = 500_000;
/// Archives in a row; early microcode, tables, and the system itself make three.
const MAX_SEGMENTS: usize = 64;
/// Text kept of one small file.
const MAX_TEXT: u64 = 256 << 10;
/// Names of programs and scripts that are kept.
const MAX_NAMES: usize = 8192;
/// Text kept of all of them.
const MAX_TEXTS: u64 = 4 << 20;

/// One archive of an initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// First byte in the file.
    pub at: u64,
    /// "none", "gzip", "xz", "zstd", "lz4", "bzip2", "lzma".
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub compression: Word,
    /// Files in it.
    pub members: u64,
    /// Bytes of the archive when unpacked.
    pub unpacked: u64,
}

/// Who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Maker {
    /// Debian's and Ubuntu's initramfs-tools.
    InitramfsTools,
    /// dracut.
    Dracut,
    /// Arch's mkinitcpio.
    Mkinitcpio,
    /// Something else.
    Unknown,
}

/// What an initramfs holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Initramfs {
    /// Its archives.
    pub segments: Vec<Segment>,
    /// Who made it.
    pub maker: Maker,
    /// Early microcode is in front.
    pub microcode: bool,
    /// There is something to run: `/init`.
    pub init: bool,
    /// Names of its modules, `-` written as `_`.
    pub modules: BTreeSet<String>,
    /// Modules that are part of the kernel, when it says so itself.
    #[serde(skip)]
    pub builtin: BTreeSet<String>,
    /// Kernel releases that it has modules of.
    pub releases: BTreeSet<String>,
    /// Modules that its configuration forbids.
    pub blacklist: BTreeSet<String>,
    /// Small files that other rules look into: path and text.
    #[serde(skip)]
    pub texts: Vec<(String, String)>,
    /// Names of its files, without `usr/` in front; modules, firmware and what lies beside them are left out.
    #[serde(skip)]
    pub names: BTreeSet<String>,
    /// It has LVM's programs.
    pub has_lvm: bool,
    /// It has a script that activates the root's volume by name; without one LVM's udev rules do, once all physical
    /// volumes of the group are there.
    pub lvm_script: bool,
    /// It has cryptsetup.
    pub has_cryptsetup: bool,
    /// It has mdadm.
    pub has_mdadm: bool,
    /// Why reading ended early, in words; the kernel would stop there too.
    pub fault: Option<String>,
    /// Damage behind the last archive, where the kernel has all that it needs.
    pub tail: Option<String>,
    /// Why it could not be read though the kernel may: a compression that is not known here.
    pub unread: Option<String>,
}

/// Reads an initramfs to its end or to its first fault.
pub fn read(source: impl Read) -> Initramfs {
    read_within(source, MAX_UNPACKED)
}

/// The same, with another limit of what may come out of it.
fn read_within(source: impl Read, unpacked: u64) -> Initramfs {
    let mut input = Counted::new(source);
    let mut found = Initramfs {
        segments: Vec::new(),
        maker: Maker::Unknown,
        microcode: false,
        init: false,
        modules: BTreeSet::new(),
        builtin: BTreeSet::new(),
        releases: BTreeSet::new(),
        blacklist: BTreeSet::new(),
        texts: Vec::new(),
        names: BTreeSet::new(),
        has_lvm: false,
        lvm_script: false,
        has_cryptsetup: false,
        has_mdadm: false,
        fault: None,
        tail: None,
        unread: None,
    };
    let mut limits = cpio::Limits { bytes: unpacked, members: MAX_MEMBERS, texts: MAX_TEXTS };
    while found.segments.len() < MAX_SEGMENTS {
        match segment(&mut input, &mut limits, &mut found) {
            Ok(true) => {}
            Ok(false) => break,
            Err(Stop::Fault(fault)) => {
                found.fault = Some(fault);
                break;
            }
            Err(Stop::Tail(fault)) => {
                found.tail = Some(fault);
                break;
            }
            Err(Stop::Unread(why)) => {
                (found.unread, found.fault) = (Some(why.clone()), Some(why));
                break;
            }
        }
    }
    if found.segments.is_empty() && found.fault.is_none() {
        found.fault = Some("the file holds no archive".to_owned());
    }
    found
}

/// Why reading stopped.
enum Stop {
    /// In an archive, or before one.
    Fault(String),
    /// Behind an archive that was whole: the kernel complains, and has everything.
    Tail(String),
    /// At something that is not read here.
    Unread(String),
}

/// Reads the next archive. False at the end.
fn segment(
    input: &mut Counted<impl Read>,
    limits: &mut cpio::Limits,
    found: &mut Initramfs,
) -> Result<bool, Stop> {
    let told = |error: std::io::Error| Stop::Fault(error.to_string());
    input.skip_zeros().map_err(told)?;
    let at = input.position();
    let head = input.peek(8).map_err(told)?;
    if head.is_empty() {
        return Ok(false);
    }
    let foreign = decode::unknown_check(head);
    let head = head.get(..6).unwrap_or(head);
    let before = (limits.bytes, limits.members);
    let Some(compression) = decode::name(head) else {
        let why = format!("byte {at} begins neither an archive nor compressed data (it is {head:02x?})");
        return Err(if found.init { Stop::Tail(why) } else { Stop::Fault(why) });
    };
    if compression == "lzo" {
        found.segments.push(Segment { at, compression, members: 0, unpacked: 0 });
        return Err(Stop::Unread(format!(
            "the archive at byte {at} is packed with lzo, which is not read here"
        )));
    }
    if let Some(check) = foreign {
        found.segments.push(Segment { at, compression, members: 0, unpacked: 0 });
        return Err(Stop::Fault(format!(
            "the archive at byte {at} (xz) is checked with {check}, and the kernel knows CRC32 only (xz --check=crc32)"
        )));
    }
    let mut whole = false;
    let outcome = if compression == "none" {
        cpio::read(input, limits, &mut |member| take(member, found))
    } else {
        decode::run(compression, input, |unpacked| {
            let mut unpacked = Counted::new(unpacked);
            // One stream may hold several archives.
            loop {
                unpacked.skip_zeros().map_err(|error| error.to_string())?;
                let rest = unpacked.peek(6).map_err(|error| error.to_string())?;
                if rest.is_empty() {
                    return Ok(());
                }
                whole = false;
                cpio::read(&mut unpacked, limits, &mut |member| take(member, found))?;
                whole = true;
            }
        })
    };
    let unpacked = before.0.saturating_sub(limits.bytes);
    let members = before.1.saturating_sub(limits.members);
    found.segments.push(Segment { at, compression, members, unpacked });
    outcome.map(|()| true).map_err(|why| {
        let why = format!("the archive at byte {at} ({compression}): {why}");
        // The checksum behind the data is not what the kernel waits for.
        if whole && found.init { Stop::Tail(why) } else { Stop::Fault(why) }
    })
}

/// Unpacks one stream and throws it away; how many bytes came out. What is not compressed, or in a way that is not
/// known here, counts as unpacked. Of every kind but gzip the last `behind` bytes are not part of the stream.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn unpack(source: std::io::Take<impl Read>, behind: u64) -> Result<u64, String> {
    let len = source.limit();
    let mut input = Counted::new(source);
    let head = input.peek(6).map_err(|error| error.to_string())?;
    let Some(compression) = decode::name(head).filter(|name| !matches!(*name, "none" | "lzo")) else {
        return Ok(0);
    };
    let len = if compression == "gzip" { len } else { len.saturating_sub(behind) };
    let mut input = std::io::BufReader::new(input.take(len));
    let mut out = 0;
    decode::run(compression, &mut input, |plain| {
        out = drain(plain.take(MAX_UNPACKED)).map_err(|error| error.to_string())?;
        Ok(())
    })?;
    Ok(out)
}

/// Reads to the end and keeps nothing; how many bytes there were.
pub(crate) fn drain(mut source: impl Read) -> std::io::Result<u64> {
    let (mut buffer, mut all) = (vec![0; 128 << 10], 0_u64);
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(all),
            Ok(more) => all = all.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Notes what a file of the archive tells. Returns whether its bytes are wanted.
fn take(member: &Member<'_>, found: &mut Initramfs) -> bool {
    let name = member.name.trim_start_matches("./").trim_start_matches('/');
    match &member.text {
        None => {
            note_name(name, found);
            wanted(name) && member.len <= MAX_TEXT
        }
        Some(text) => {
            note_text(name, text, found);
            false
        }
    }
}

fn note_name(name: &str, found: &mut Initramfs) {
    let base = name.rsplit('/').next().unwrap_or(name);
    if let Some(module) = module_name(base) {
        found.modules.insert(module);
    }
    if let Some(rest) = name.strip_prefix("usr/").unwrap_or(name).strip_prefix("lib/modules/")
        && let Some((release, _)) = rest.split_once('/')
    {
        found.releases.insert(release.to_owned());
    }
    let short = name.strip_prefix("usr/").unwrap_or(name);
    if found.names.len() < MAX_NAMES
        && !["lib/modules/", "lib/firmware/"].iter().any(|dir| short.starts_with(dir))
    {
        found.names.insert(short.to_owned());
    }
    found.microcode |= name.starts_with("kernel/x86/microcode/");
    found.init |= name == "init";
    found.has_lvm |= matches!(base, "lvm" | "lvm.static");
    found.lvm_script |= matches!(name, "scripts/local-top/lvm2" | "scripts/local-block/lvm2");
    found.has_cryptsetup |= matches!(base, "cryptsetup" | "systemd-cryptsetup");
    found.has_mdadm |= base == "mdadm";
    if name.contains("lib/dracut/") {
        found.maker = Maker::Dracut;
    }
    if name == "conf/initramfs.conf" || name == "scripts/functions" {
        found.maker = Maker::InitramfsTools;
    }
    if name == "buildconfig" || name == "init_functions" {
        found.maker = Maker::Mkinitcpio;
    }
}

/// The name of a module by its file's: without its ending, with `_` for `-`.
#[must_use]
pub fn module_name(file: &str) -> Option<String> {
    let stem = [".ko", ".ko.xz", ".ko.gz", ".ko.zst"].iter().find_map(|end| file.strip_suffix(end))?;
    Some(stem.replace('-', "_"))
}

fn wanted(name: &str) -> bool {
    let name = name.strip_prefix("usr/").unwrap_or(name);
    (name.starts_with("lib/modules/") && name.ends_with("/modules.builtin"))
        || ((name.starts_with("etc/modprobe.d/") || name.starts_with("lib/modprobe.d/"))
            && name.ends_with(".conf"))
        || name.starts_with("conf/")
        || name.starts_with("etc/cmdline.d/")
        || name.starts_with("etc/lvm/devices/")
        || name == "etc/fstab"
        || name == "etc/crypttab"
}

fn note_text(name: &str, text: &[u8], found: &mut Initramfs) {
    let text = crate::text::lossy(text);
    if name.ends_with("/modules.builtin") {
        let names = text.lines().filter_map(|line| module_name(line.rsplit('/').next()?));
        found.builtin.extend(names);
        return;
    }
    if name.contains("modprobe.d/") {
        found.blacklist.extend(crate::facts::kernel::forbidden(&text));
    }
    found.texts.push((name.to_owned(), text));
}

/// A reader that knows where it is, and can look ahead.
pub(crate) struct Counted<R> {
    inner: R,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    position: u64,
}

impl<R: Read> Counted<R> {
    fn new(inner: R) -> Self {
        Self { inner, buffer: vec![0; 128 << 10], start: 0, end: 0, position: 0 }
    }

    fn position(&self) -> u64 {
        self.position
    }

    fn held(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }

    /// Up to `len` bytes from here, not yet taken; fewer only at the end.
    fn peek(&mut self, len: usize) -> std::io::Result<&[u8]> {
        while self.held().len() < len && self.more()? {}
        let held = self.held();
        Ok(held.get(..len.min(held.len())).unwrap_or_default())
    }

    /// Reads more behind what is held; false at the end.
    fn more(&mut self) -> std::io::Result<bool> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end.saturating_sub(self.start));
        }
        let Some(room) = self.buffer.get_mut(self.end..).filter(|room| !room.is_empty()) else {
            return Ok(false);
        };
        loop {
            match self.inner.read(room) {
                Ok(read) => {
                    self.end = self.end.saturating_add(read.min(room.len()));
                    return Ok(read > 0);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn skip_zeros(&mut self) -> std::io::Result<()> {
        loop {
            let held = self.fill_buf()?;
            if held.is_empty() {
                return Ok(());
            }
            let zeros = held.iter().take_while(|byte| **byte == 0).count();
            let all = zeros == held.len();
            self.consume(zeros);
            if !all {
                return Ok(());
            }
        }
    }
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let held = self.fill_buf()?;
        let len = held.len().min(buf.len());
        if let (Some(target), Some(source)) = (buf.get_mut(..len), held.get(..len)) {
            target.copy_from_slice(source);
        }
        self.consume(len);
        Ok(len)
    }
}

impl<R: Read> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.held().is_empty() {
            self.more()?;
        }
        Ok(self.held())
    }

    fn consume(&mut self, amount: usize) {
        let amount = amount.min(self.held().len());
        self.start = self.start.saturating_add(amount);
        self.position = self.position.saturating_add(u64::try_from(amount).unwrap_or(0));
    }
}
