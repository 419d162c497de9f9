//! Kernels: the file, its configuration, its modules, its initramfs.

use std::collections::BTreeSet;
use std::io::Read;

use kiln_disk::interned::Word;
use kiln_disk::wire::{le16, le32};
use serde::{Deserialize, Serialize};

use super::boot::Boot;
use super::{Depth, Seen};
use crate::initramfs::{self, Initramfs, module_name};
use crate::text::{assigned, lossy};
use crate::tree::Tree;

/// Kernels that are looked at.
const MAX_KERNELS: usize = 32;
/// `modules.dep` and its like are read up to this length.
const MAX_LIST: u64 = 16 << 20;

/// A kernel of the guest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kernel {
    /// Its file.
    pub path: String,
    /// Bytes of the file.
    pub len: u64,
    /// The release that `/lib/modules` is named after.
    pub release: String,
    /// What is wrong with the file; nothing when it looks like a kernel.
    pub fault: Option<String>,
    /// What it runs on.
    #[serde(deserialize_with = "kiln_disk::interned::maybe", default)]
    pub architecture: Option<Word>,
    /// Whether a loader's entry starts it.
    pub has_entry: bool,
    /// `/boot/config-RELEASE`, when it is there.
    pub config: Option<String>,
    /// The directory of its modules.
    pub modules_dir: Option<String>,
    /// `modules.dep` is there and not empty.
    pub has_modules_dep: bool,
    /// Modules that are part of it.
    #[serde(skip)]
    pub builtin: BTreeSet<String>,
    /// Modules in its directory.
    #[serde(skip)]
    pub modules: BTreeSet<String>,
    /// What each module needs.
    #[serde(skip)]
    pub needs: std::collections::BTreeMap<String, Vec<String>>,
    /// Its initramfs.
    pub initramfs: Option<InitramfsFile>,
}

/// An initramfs file of a kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct InitramfsFile {
    /// Its path.
    pub path: String,
    /// Bytes of the file.
    pub len: u64,
    /// What is inside; nothing when it was not looked into.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Initramfs>,
}

/// Where drivers must be to be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before the root is mounted: built in, or in the initramfs.
    Early,
    /// At any time: also in `/lib/modules`.
    Late,
}

impl Kernel {
    /// Whether a module is there when it is needed, with everything that it needs itself. `Err` names what is missing.
    ///
    /// # Errors
    /// The names of the missing modules.
    pub fn has(&self, module: &str, when: When) -> Result<(), String> {
        let inside = self.initramfs.as_ref().and_then(|file| file.content.as_ref());
        let built_in = |name: &str| {
            self.builtin.contains(name) || inside.is_some_and(|inside| inside.builtin.contains(name))
        };
        let there = |name: &str| {
            inside.is_some_and(|inside| inside.modules.contains(name))
                || (when == When::Late && self.modules.contains(name))
        };
        if built_in(module) {
            return Ok(());
        }
        if !there(module) {
            return Err(module.to_owned());
        }
        let needs = self.needs.get(module).map_or(&[][..], Vec::as_slice);
        match needs.iter().find(|need| !built_in(need) && !there(need)) {
            Some(missing) => Err(format!("{missing}, which {module} needs")),
            None => Ok(()),
        }
    }

    /// Whether enough is known to say that a module is missing.
    #[must_use]
    pub fn known(&self, when: When) -> bool {
        let initramfs = match &self.initramfs {
            Some(file) => file.content.as_ref().is_some_and(|content| content.fault.is_none()),
            None => true,
        };
        initramfs
            && (!self.builtin.is_empty() || self.inner_builtin())
            && (when == When::Early || !self.modules.is_empty())
    }

    fn inner_builtin(&self) -> bool {
        self.initramfs
            .as_ref()
            .and_then(|file| file.content.as_ref())
            .is_some_and(|content| !content.builtin.is_empty())
    }

    /// Where to look for what is missing early.
    #[must_use]
    pub fn early_place(&self) -> Seen {
        Seen::file(self.initramfs.as_ref().map_or(self.path.as_str(), |file| file.path.as_str()))
    }
}

/// Finds the kernels: those that entries start, then those that lie in `/boot`.
#[must_use]
pub fn read(tree: &Tree, esps: &[(usize, Tree)], boot: &Boot, depth: Depth) -> Vec<Kernel> {
    let files = Files { tree, esps };
    let mut kernels: Vec<Kernel> = Vec::new();
    for entry in &boot.entries {
        let Some(path) = entry.kernel_path.as_deref() else { continue };
        if kernels.iter().all(|kernel| kernel.path != path) && kernels.len() < MAX_KERNELS {
            let mut found =
                kernel(&files, path, entry.initramfs_paths.last().map(String::as_str), true, depth);
            if depth == Depth::Full && entry.default && found.fault.is_none() {
                found.fault = body(&files, path);
            }
            kernels.push(found);
        }
    }
    for name in tree.names("/boot") {
        let is_kernel = ["vmlinuz-", "vmlinux-", "Image-", "bzImage-", "kernel-"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        let path = format!("/boot/{name}");
        if is_kernel && kernels.iter().all(|kernel| kernel.path != path) && kernels.len() < MAX_KERNELS {
            kernels.push(kernel(&files, &path, None, false, depth));
        }
    }
    kernels
}

/// Where files lie that a loader starts.
struct Files<'a> {
    /// The guest's tree.
    tree: &'a Tree,
    /// Partitions that it may not mount.
    esps: &'a [(usize, Tree)],
}

impl Files<'_> {
    /// The tree that holds a path, and the path in it.
    fn holding<'a>(&'a self, path: &'a str) -> (&'a Tree, &'a str) {
        let inside = path.strip_prefix("ESP:");
        let esp = inside.and_then(|inside| self.esps.iter().find(|(_, esp)| esp.exists(inside)));
        match (inside, esp) {
            (Some(inside), Some((_, esp))) => (esp, inside),
            _ => (self.tree, path),
        }
    }
}

fn kernel(files: &Files<'_>, path: &str, initramfs: Option<&str>, has_entry: bool, depth: Depth) -> Kernel {
    let tree = files.tree;
    let (holder, inside) = files.holding(path);
    let len = holder.stat(inside).map_or(0, |stat| stat.len);
    let head = holder.head(inside, 64 << 10).unwrap_or_default();
    let (fault, architecture) = image(&head, len);
    let release = release(&head).or_else(|| release_of_name(path)).unwrap_or_default();
    let dirs = [format!("/lib/modules/{release}"), format!("/usr/lib/modules/{release}")];
    let modules_dir = dirs.into_iter().find(|dir| !release.is_empty() && tree.exists(dir));
    let list = |file: &str| {
        let path = format!("{}/{file}", modules_dir.as_deref()?);
        tree.read(&path, MAX_LIST).ok().map(|bytes| lossy(&bytes))
    };
    let dep = list("modules.dep").unwrap_or_default();
    let (mut modules, mut needs) = (BTreeSet::new(), std::collections::BTreeMap::new());
    for line in dep.lines() {
        let Some((module, rest)) = line.split_once(':') else { continue };
        let Some(name) = module.rsplit('/').next().and_then(module_name) else { continue };
        let deps: Vec<String> =
            rest.split_whitespace().filter_map(|path| module_name(path.rsplit('/').next()?)).collect();
        modules.insert(name.clone());
        needs.insert(name, deps);
    }
    let builtin = list("modules.builtin").unwrap_or_default();
    let builtin = builtin.lines().filter_map(|line| module_name(line.rsplit('/').next()?)).collect();
    let beside = |name: String| {
        let (holder, inside) = files.holding(&name);
        holder.exists(inside).then(|| name.clone())
    };
    let boot = path.rsplit_once('/').map_or("/boot", |(dir, _)| dir);
    let guessed = [
        format!("{boot}/initrd.img-{release}"),
        format!("{boot}/initramfs-{release}.img"),
        format!("{boot}/initrd-{release}"),
        format!("{boot}/initramfs-{release}"),
    ];
    let initramfs = match initramfs {
        Some(path) => Some(path.to_owned()),
        None if has_entry => None,
        None => guessed.into_iter().find_map(beside),
    };
    Kernel {
        len,
        fault,
        architecture,
        has_entry,
        config: [boot, "/boot"]
            .into_iter()
            .filter(|_| !release.is_empty())
            .find_map(|dir| beside(format!("{dir}/config-{release}"))),
        has_modules_dep: !dep.is_empty(),
        modules_dir,
        builtin,
        modules,
        needs,
        initramfs: initramfs.and_then(|path| initramfs_file(files, path, depth, has_entry)),
        path: path.to_owned(),
        release,
    }
}

/// Looks into an initramfs. Those that no entry starts are only measured.
fn initramfs_file(files: &Files<'_>, path: String, depth: Depth, has_entry: bool) -> Option<InitramfsFile> {
    let (holder, inside) = files.holding(&path);
    let len = holder.stat(inside).ok()?.len;
    let content = (depth == Depth::Full && has_entry)
        .then(|| holder.stream(inside).map(initramfs::read).ok())
        .flatten();
    Some(InitramfsFile { path, len, content })
}

/// What a kernel's first bytes say: a fault, or what it runs on.
/// Linux `Documentation/arch/x86/boot.rst`, `arch/arm64/booting.rst`.
fn image(head: &[u8], len: u64) -> (Option<String>, Option<&'static str>) {
    if len == 0 {
        return (Some("it is empty".to_owned()), None);
    }
    if head.get(0x202..0x206) == Some(b"HdrS") {
        // xloadflags bit 0: a 64-bit kernel. The field is there since protocol 2.12.
        let told = le16(head, 0x206).unwrap_or(0) >= 0x20c;
        let wide = le16(head, 0x236).unwrap_or(0) & 1 == 1;
        let architecture = match (told, wide) {
            (false, _) => None,
            (true, true) => Some("x86_64"),
            (true, false) => Some("i386"),
        };
        // syssize, in units of 16 bytes, behind the setup sectors.
        let setup = u64::from(head.get(0x1f1).copied().filter(|sectors| *sectors != 0).unwrap_or(4));
        let needs = setup.saturating_add(1).saturating_mul(512);
        let body = u64::from(le32(head, 0x1f4).unwrap_or(0)).saturating_mul(16);
        if body > 0 && needs.saturating_add(body) > len.saturating_add(16) {
            let fault = format!("it has {len} bytes, its header says {}", needs.saturating_add(body));
            return (Some(fault), architecture);
        }
        return (None, architecture);
    }
    if head.get(0x38..0x3c) == Some(b"ARM\x64") {
        return (None, Some("aarch64"));
    }
    if head.starts_with(b"\x7fELF") {
        return (None, super::os::elf(head));
    }
    if head.starts_with(&[0x1f, 0x8b]) || head.starts_with(b"MZ") {
        // A compressed arm64 image, or an EFI program that unpacks one.
        return (None, None);
    }
    (Some("it does not look like a kernel".to_owned()), None)
}

/// Unpacks the kernel inside a bzImage, as its first code does: what is wrong with it.
/// `payload_offset` and `payload_length` (0x248, 0x24c) are there since protocol 2.08.
fn body(files: &Files<'_>, path: &str) -> Option<String> {
    let (holder, inside) = files.holding(path);
    let head = holder.head(inside, 1024).ok()?;
    if head.get(0x202..0x206) != Some(b"HdrS") || le16(&head, 0x206)? < 0x208 {
        return None;
    }
    let setup = u64::from(head.get(0x1f1).copied().filter(|sectors| *sectors != 0).unwrap_or(4));
    let start = setup.checked_add(1)?.checked_mul(512)?.checked_add(u64::from(le32(&head, 0x248)?))?;
    let len = u64::from(le32(&head, 0x24c)?);
    if len < 16 {
        return None;
    }
    let mut stream = holder.stream(inside).ok()?;
    initramfs::drain(stream.by_ref().take(start)).ok()?;
    // But for gzip the length of the kernel follows in four bytes.
    let fault = initramfs::unpack(stream.take(len), 4).err()?;
    Some(format!("the kernel inside it cannot be unpacked: {fault}"))
}

/// The release in a bzImage: the text at `kernel_version` + 0x200.
fn release(head: &[u8]) -> Option<String> {
    if head.get(0x202..0x206) != Some(b"HdrS") {
        return None;
    }
    let at = usize::from(le16(head, 0x20e)?).checked_add(0x200)?;
    let text = crate::text::label(head.get(at..at.checked_add(128)?)?);
    text.split_whitespace().next().map(str::to_owned).filter(|release| !release.is_empty())
}

fn release_of_name(path: &str) -> Option<String> {
    let name = path.rsplit('/').next()?;
    name.split_once('-').map(|(_, release)| release.to_owned())
}

/// A setting of the kernel's configuration.
#[must_use]
pub fn config(tree: &Tree, kernel: &Kernel, key: &str) -> Option<String> {
    let text = tree.text(kernel.config.as_deref()?)?;
    assigned(&text, key)
}

/// Modules that a file of modprobe.d forbids: `blacklist X`, `install X /bin/false`.
#[must_use]
pub fn forbidden(text: &str) -> Vec<String> {
    let lines = crate::text::lines(text).filter_map(|(_, line)| {
        let mut words = line.split_whitespace();
        match (words.next()?, words.next()?, words.next()) {
            ("blacklist", module, _) => Some(module.replace('-', "_")),
            ("install", module, Some(command))
                if command.ends_with("/false") || command.ends_with("/true") =>
            {
                Some(module.replace('-', "_"))
            }
            _ => None,
        }
    });
    lines.collect()
}
