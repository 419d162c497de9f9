//! GRUB 2 as far as it decides what starts: its core, its scripts, its menu, carried out on the volumes of the disk.
//!
//! The start is followed from the firmware: core, configuration inside the core, the file it leads to, the menu, the
//! entry that is started when nobody types. What cannot be followed is left open; it is never taken for a failure.

mod memdisk;
mod run;
mod stage;
mod syntax;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use kiln_disk::Disk;
use serde::{Deserialize, Serialize};

use crate::facts::Seen;
use crate::facts::loader::{Entry, Search};
use crate::fs::{FsError, Root, open};
use crate::tree::Tree;
use crate::volume::{Content, Layout, Place as Where, Volume};
use run::{By, Loaded, Machine, Menu, Place, World};
use stage::BiosCore;

/// How GRUB's own start ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum Chain {
    /// A menu comes up.
    Menu {
        /// The file that made it.
        config: Seen,
    },
    /// It stops before a menu.
    Stops {
        /// Why.
        why: String,
        /// The place to look at.
        seen: Seen,
    },
    /// It could not be followed.
    Unknown,
}

/// Why an entry is not started though it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waits {
    /// What GRUB waits for.
    pub why: String,
    /// Where that is said.
    pub seen: Seen,
}

/// What GRUB makes of a disk by one firmware.
pub(crate) struct Followed {
    pub(crate) chain: Chain,
    pub(crate) entries: Vec<Entry>,
    pub(crate) waits: Option<Waits>,
    /// The file, as shown.
    pub(crate) config: Option<String>,
}

impl Followed {
    fn end(chain: Chain) -> Self {
        Self { chain, entries: Vec::new(), waits: None, config: None }
    }
}

/// A file system that was opened, or could not be.
type Opened = Option<Rc<Tree>>;

/// The volumes of a disk under GRUB's names.
pub(crate) struct Devices<'a> {
    layout: &'a Layout,
    tree: &'a Tree,
    esps: &'a [(usize, Tree)],
    opened: RefCell<HashMap<(usize, String), Opened>>,
}

impl<'a> Devices<'a> {
    pub(crate) fn new(layout: &'a Layout, tree: &'a Tree, esps: &'a [(usize, Tree)]) -> Self {
        Self { layout, tree, esps, opened: RefCell::default() }
    }

    fn name(&self, index: usize) -> Option<String> {
        let volume = self.layout.volumes.get(index)?;
        Some(match &volume.place {
            Where::Disk { disk } => format!("hd{disk}"),
            Where::Partition { disk, number, .. } => {
                let gpt = self.layout.tables.get(*disk).is_some_and(|table| table.gpt.is_some());
                format!("hd{disk},{}{number}", if gpt { "gpt" } else { "msdos" })
            }
            Where::Lvm { group, volume } => {
                format!("lvm/{}-{}", group.replace('-', "--"), volume.replace('-', "--"))
            }
        })
    }

    /// The volume of a device's name; the number of a partition may stand without its table's kind.
    fn index(&self, device: &str) -> Option<usize> {
        let device = device.trim_start_matches('(').trim_end_matches(')');
        (0..self.layout.volumes.len()).find(|index| {
            self.name(*index).is_some_and(|name| {
                name == device
                    || name.replace("gpt", "") == device
                    || name.replace("msdos", "") == device
                    || name.replace("gpt", "msdos") == device
            })
        })
    }

    /// A file system of a volume, and of one subvolume of it.
    fn fs(&self, index: usize, subvolume: &str) -> Option<Rc<Tree>> {
        let key = (index, subvolume.to_owned());
        if let Some(known) = self.opened.borrow().get(&key) {
            return known.clone();
        }
        let volume = self.layout.volumes.get(index)?;
        let root = match (volume.probed.content, subvolume) {
            (Content::Btrfs, "") => Root::Top,
            (Content::Btrfs, path) => Root::Subvolume(path.as_bytes().to_vec()),
            _ => Root::Default,
        };
        let opened = open(&volume.disk, volume.probed.content, &root).ok().map(|fs| {
            let mut tree = Tree::default();
            tree.mount("/", index, fs);
            Rc::new(tree)
        });
        self.opened.borrow_mut().insert(key, opened.clone());
        opened
    }

    /// The tree of a volume in which a path may be, with the path there. On btrfs a path may begin with a subvolume.
    fn holding(&self, index: usize, path: &str) -> Vec<(Rc<Tree>, String)> {
        let is_btrfs =
            self.layout.volumes.get(index).is_some_and(|volume| volume.probed.content == Content::Btrfs);
        let mut found: Vec<_> = self.fs(index, "").map(|tree| (tree, path.to_owned())).into_iter().collect();
        if is_btrfs {
            for subvolume in ["/@/.snapshots/1/snapshot", "/@rootfs", "/@", "/root", "/@boot", "/boot"] {
                if let Some(rest) = path.strip_prefix(subvolume).filter(|rest| rest.starts_with('/'))
                    && let Some(tree) = self.fs(index, subvolume)
                {
                    found.push((tree, rest.to_owned()));
                }
            }
        }
        found
    }

    /// `Some(false)`, no file is there, for a part of a disk that is here and has no such part.
    fn no_such_device(&self, device: &str) -> Option<bool> {
        let number = device.strip_prefix("hd")?.split(',').next()?.parse::<usize>().ok()?;
        self.layout.tables.get(number).map(|_| false)
    }

    /// Whether GRUB reads this file system: what none of its releases knows hides all files on it.
    fn is_read(&self, index: usize) -> bool {
        self.layout.volumes.get(index).is_some_and(|volume| unread_features(volume).is_empty())
    }

    /// The path in the guest's tree of a file of a volume.
    fn shown(&self, place: &Place) -> String {
        let Some(index) = self.index(&place.device) else {
            return format!("({}){}", place.device, place.path);
        };
        let mounts = self.tree.mounts().filter(|(_, volume)| *volume == index);
        for (at, _) in mounts {
            let at = crate::text::lossy(at);
            let at = if at == "/" { "" } else { at.as_str() };
            let direct = format!("{at}{}", place.path);
            if self.tree.exists(&direct) {
                return direct;
            }
            for subvolume in ["/@/.snapshots/1/snapshot", "/@rootfs", "/@", "/root"] {
                if let Some(rest) = place.path.strip_prefix(subvolume) {
                    let path = format!("{at}{rest}");
                    if self.tree.exists(&path) {
                        return path;
                    }
                }
            }
        }
        if self.esps.iter().any(|(esp, _)| *esp == index) {
            let mounted = self.tree.mounts().find(|(_, volume)| *volume == index);
            let prefix = mounted.map_or_else(|| "ESP:".to_owned(), |(at, _)| crate::text::lossy(at));
            return format!("{prefix}{}", place.path);
        }
        let mounted = self.tree.mounts().find(|(_, volume)| *volume == index);
        match mounted {
            Some((b"/", _)) => place.path.clone(),
            Some((at, _)) => format!("{}{}", crate::text::lossy(at), place.path),
            None => format!("({}){}", place.device, place.path),
        }
    }

    /// The path in the guest's tree of a file that was found on a volume.
    fn resolved(&self, place: &Place, found: Option<bool>) -> Option<String> {
        if found == Some(false) {
            return None;
        }
        let shown = self.shown(place);
        let inside = shown.strip_prefix("ESP:");
        let there = match inside {
            Some(inside) => self.esps.iter().any(|(_, esp)| esp.exists(inside)),
            None => self.tree.exists(&shown),
        };
        if there {
            return Some(shown);
        }
        // What is there and cannot be told from here is taken where the guest has it.
        let name = place.path.rsplit('/').next().unwrap_or_default();
        [place.path.clone(), format!("/boot{}", place.path), format!("/boot/{name}")]
            .into_iter()
            .find(|path| self.tree.exists(path))
    }
}

impl World for Devices<'_> {
    fn search(&self, by: By, value: &str) -> Option<String> {
        let matches = |index: usize, volume: &Volume| match by {
            By::Uuid => volume.probed.uuid.eq_ignore_ascii_case(value),
            By::Label => volume.probed.label == value,
            By::File => self.holding(index, value).iter().any(|(tree, path)| tree.exists(path)),
        };
        let found = self
            .layout
            .volumes
            .iter()
            .enumerate()
            .find(|(index, volume)| !value.is_empty() && self.is_read(*index) && matches(*index, volume));
        self.name(found?.0)
    }

    fn exists(&self, device: &str, path: &str) -> Option<bool> {
        let Some(index) = self.index(device) else { return self.no_such_device(device) };
        if !self.is_read(index) {
            return Some(false);
        }
        let trees = self.holding(index, path);
        let mut open = false;
        for (tree, path) in &trees {
            match tree.stat(path) {
                Ok(_) => return Some(true),
                Err(FsError::NotFound | FsError::WrongKind) => open = true,
                Err(_) => return None,
            }
        }
        let is_btrfs =
            self.layout.volumes.get(index).is_some_and(|volume| volume.probed.content == Content::Btrfs);
        (open && !is_btrfs).then_some(false)
    }

    fn text(&self, device: &str, path: &str) -> Option<String> {
        let index = self.index(device)?;
        if !self.is_read(index) {
            return None;
        }
        self.holding(index, path).iter().find_map(|(tree, path)| tree.text(path))
    }
}

/// The volumes of a disk, and the disk inside GRUB's core.
struct WithMemory<'a> {
    devices: &'a Devices<'a>,
    memory: Option<Tree>,
}

impl World for WithMemory<'_> {
    fn search(&self, by: By, value: &str) -> Option<String> {
        self.devices.search(by, value)
    }

    fn exists(&self, device: &str, path: &str) -> Option<bool> {
        match &self.memory {
            Some(memory) if device == memdisk::NAME => match memory.stat(path) {
                Ok(_) => Some(true),
                Err(FsError::NotFound | FsError::WrongKind) => Some(false),
                Err(_) => None,
            },
            _ => self.devices.exists(device, path),
        }
    }

    fn text(&self, device: &str, path: &str) -> Option<String> {
        match &self.memory {
            Some(memory) if device == memdisk::NAME => memory.text(path),
            _ => self.devices.text(device, path),
        }
    }
}

/// Features of a volume that no release of GRUB up to 2.12 reads.
pub(crate) fn unread_features(volume: &Volume) -> Vec<&'static str> {
    let never = ["inline_data", "ea_inode", "casefold", "dirdata", "compression", "parent", "metadir"];
    let features = volume.probed.features.iter().copied();
    features.filter(|feature| never.contains(feature)).collect()
}

/// Follows a BIOS into GRUB.
pub(crate) fn by_bios(disk: &Arc<dyn Disk>, devices: &Devices<'_>) -> kiln_disk::Result<Followed> {
    let found = match stage::bios(disk.as_ref())? {
        BiosCore::Whole(core) => core,
        BiosCore::Damaged { at, why } => {
            return Ok(Followed::end(Chain::Stops { why, seen: Seen::Disk { disk_byte: at } }));
        }
        BiosCore::Unknown => return Ok(Followed::end(Chain::Unknown)),
    };
    let device = prefix_device(&found.prefix).unwrap_or_else(|| "hd0".to_owned());
    Ok(follow(devices, ("pc", "(hd0)"), &device, found))
}

/// Follows UEFI into a GRUB on a volume.
pub(crate) fn by_uefi(program: &[u8], volume: usize, dir: &str, devices: &Devices<'_>) -> Followed {
    let (Some(mut found), Some(device)) = (stage::efi(program), devices.name(volume)) else {
        return Followed::end(Chain::Unknown);
    };
    let cmdpath = format!("({device}){dir}");
    let device = prefix_device(&found.prefix).unwrap_or(device);
    if found.prefix.is_empty() {
        found.prefix = dir.to_owned();
    }
    follow(devices, ("efi", &cmdpath), &device, found)
}

/// The device in a prefix.
fn prefix_device(prefix: &str) -> Option<String> {
    let (device, _) = prefix.strip_prefix('(')?.split_once(')')?;
    Some(match device.strip_prefix(',') {
        Some(part) => format!("hd0,{part}"),
        None => device.to_owned(),
    })
}

/// Follows a core, of a platform and from the place in `cmdpath`.
fn follow(
    devices: &Devices<'_>,
    (platform, cmdpath): (&str, &str),
    device: &str,
    mut core: stage::Core,
) -> Followed {
    let path = core.prefix.rsplit_once(')').map_or(core.prefix.as_str(), |(_, path)| path);
    let prefix = format!("({device}){path}");
    let world = WithMemory { devices, memory: core.memdisk.take().and_then(memdisk::tree) };
    let mut machine =
        Machine::new(&world, platform, device, &prefix).with_modules(&core.modules).with_cmdpath(cmdpath);
    // A configuration inside the core is no script where `normal` is not inside as well, but it is one of plain
    // commands then.
    let menu = machine.start(core.config.as_deref());
    if !core.modules.is_empty() && !core.modules.iter().any(|module| module == "normal") {
        let (root, prefix) = machine.root_and_prefix();
        let cpu = if platform == "pc" { "i386" } else { "x86_64" };
        let place = machine.place(&format!("{prefix}/{cpu}-{platform}/normal.mod"));
        if devices.exists(&place.device, &place.path) == Some(false) {
            let shown = devices.shown(&place);
            let why = format!("{shown} is missing ({root}): GRUB stops at its rescue prompt");
            return Followed::end(Chain::Stops { why, seen: Seen::file(shown) });
        }
    }
    if let Some(menu) = menu {
        return taken(devices, &menu);
    }
    if machine.unsure || devices.index(device).is_none() && core.config.is_none() {
        return Followed::end(Chain::Unknown);
    }
    let (why, seen) = match (&machine.missed, &machine.search_failed) {
        (Some(place), Some((what, _))) => {
            let file = place.path.rsplit('/').next().unwrap_or("grub.cfg");
            let hidden = devices.layout.volumes.iter().find(|volume| {
                !unread_features(volume).is_empty()
                    && what.split_once('=').is_some_and(|(_, id)| volume.probed.uuid.eq_ignore_ascii_case(id))
            });
            let why = match hidden {
                Some(volume) => format!(
                    "GRUB does not read {}, which has the feature {}, and finds no {file}",
                    volume.place,
                    unread_features(volume).join(", ")
                ),
                None => format!("GRUB looks for {what}, which is not on this disk, and finds no {file}"),
            };
            (why, Seen::file(devices.shown(place)))
        }
        (Some(place), None) => {
            let shown = devices.shown(place);
            (format!("{shown} is missing: the loader has nothing to start"), Seen::file(shown))
        }
        (None, _) => return Followed::end(Chain::Unknown),
    };
    Followed::end(Chain::Stops { why, seen })
}

/// Carries out a file of the guest's tree as GRUB's configuration: for a start that could not be followed to it.
pub(crate) fn of_file(devices: &Devices<'_>, volume: usize, path: &str) -> Option<Followed> {
    let device = devices.name(volume)?;
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    let mut machine = Machine::new(devices, "pc", &device, &format!("({device}){dir}"));
    let menu = machine.start_file(&Place { device, path: path.to_owned() })?;
    Some(taken(devices, &menu))
}

/// The lines at which statements of a text begin that are not GRUB's language.
#[must_use]
pub fn wrong_lines(text: &str) -> Vec<u32> {
    syntax::parse(text).1
}

/// A menu in the report's words.
fn taken(devices: &Devices<'_>, menu: &Menu) -> Followed {
    let config = devices.shown(&menu.config);
    // Entries of the Boot Loader Specification come first, and are read elsewhere.
    let chosen = if menu.blscfg { None } else { started(devices, menu) };
    let mut entries = Vec::new();
    let mut is_default = None;
    for choice in menu.all(devices) {
        let (loaded, _) = choice.load(devices);
        let same = chosen.as_ref().is_some_and(|chosen| {
            is_default.is_none()
                && chosen.item.line == choice.item.line
                && chosen.item.title == choice.item.title
        });
        let entry = entry(devices, &config, &choice.item, &loaded);
        if same {
            is_default = Some(entries.len());
        }
        entries.push(entry);
    }
    if let Some(entry) = is_default.and_then(|index| entries.get_mut(index)) {
        entry.default = true;
    }
    entries.retain(|entry| !entry.kernel.is_empty());
    let waits = waits(menu, &config, chosen.as_ref().map(|chosen| &chosen.item));
    let waits = waits.or_else(|| nothing_loaded(devices, &config, chosen.as_ref()?));
    Followed {
        chain: Chain::Menu { config: Seen::file(config.clone()) },
        entries,
        waits,
        config: Some(config),
    }
}

/// The entry that is started: the default one or, where its kernel is not there, that of `fallback`.
fn started(devices: &Devices<'_>, menu: &Menu) -> Option<run::Choice> {
    let first = menu.chosen(devices)?;
    let failed = first.load(devices).0.kernel_found == Some(false);
    let others = menu.variable("fallback").filter(|_| failed).unwrap_or_default().to_owned();
    let next = others.split_whitespace().find_map(|name| {
        let choice = menu.by_name(name, devices)?;
        (choice.load(devices).0.kernel_found == Some(true)).then_some(choice)
    });
    Some(next.unwrap_or(first))
}

/// An entry that starts no kernel: it leads into the firmware's setup, turns off, or does nothing.
fn nothing_loaded(devices: &Devices<'_>, config: &str, choice: &run::Choice) -> Option<Waits> {
    let (loaded, unsure) = choice.load(devices);
    let why = match (&loaded.kernel, loaded.other.as_deref()) {
        (Some(_), _)
        | (None, Some("chainloader" | "multiboot" | "multiboot2" | "ntldr" | "xen_hypervisor")) => {
            return None;
        }
        (None, Some(other)) => format!("the default entry is {other}: it starts no system"),
        (None, None) if unsure => return None,
        (None, None) => "the default entry loads no kernel".to_owned(),
    };
    Some(Waits { why, seen: Seen::line(config, choice.item.line) })
}

/// What keeps the menu from starting its entry by itself.
fn waits(menu: &Menu, config: &str, item: Option<&run::Item>) -> Option<Waits> {
    let users = menu.variable("superusers").is_some();
    if users && item.is_some_and(|item| !item.unrestricted) {
        let line = item.map_or(1, |item| item.line);
        let why =
            "superusers is set, and the entry is not --unrestricted: GRUB asks for a user and a password";
        return Some(Waits { why: why.to_owned(), seen: Seen::line(config, line) });
    }
    let timeout = menu.variable("timeout").map(str::trim);
    match timeout {
        None => Some(Waits {
            why: "no timeout is set: GRUB shows its menu until somebody chooses".to_owned(),
            seen: Seen::file(config),
        }),
        Some(seconds) if seconds.starts_with('-') => Some(Waits {
            why: format!("timeout is {seconds}: GRUB shows its menu until somebody chooses"),
            seen: Seen::file(config),
        }),
        Some(_) => None,
    }
}

fn entry(devices: &Devices<'_>, config: &str, item: &run::Item, loaded: &Loaded) -> Entry {
    let mut entry = crate::facts::loader::entry("grub2", &item.title, Seen::line(config, item.line));
    if let Some((written, place, line)) = &loaded.kernel {
        entry.kernel.clone_from(written);
        entry.kernel_line = *line;
        entry.kernel_path = devices.resolved(place, loaded.kernel_found);
    }
    entry.cmdline.clone_from(&loaded.cmdline);
    entry.initramfs_line = loaded.initramfs_line;
    for (written, place, found) in &loaded.initramfs {
        entry.initramfs.push(written.clone());
        entry.initramfs_paths.extend(devices.resolved(place, *found));
    }
    let search = loaded.search_failed.clone().map(|search| (search, false));
    let search = search.or_else(|| loaded.searched.clone().map(|search| (search, true)));
    entry.search = search
        .filter(|((device, _), _)| !device.starts_with("FILE="))
        .map(|((device, line), found)| Search { device, found, line });
    entry
}

/// A disk on which every file is there and no search finds anything.
struct Nowhere;

impl World for Nowhere {
    fn search(&self, _: By, _: &str) -> Option<String> {
        None
    }

    fn exists(&self, _: &str, _: &str) -> Option<bool> {
        Some(true)
    }

    fn text(&self, _: &str, _: &str) -> Option<String> {
        None
    }
}

/// Carries out a text as GRUB's configuration with no disk around it: title, kernel and command line of what it would
/// start when nobody types.
#[must_use]
pub fn chosen_of(text: &str) -> Option<(String, String, String)> {
    let mut machine = Machine::new(&Nowhere, "pc", "hd0,gpt1", "(hd0,gpt1)/boot/grub");
    let menu = machine.run_text(text)?;
    let choice = menu.chosen(&Nowhere)?;
    let (loaded, _) = choice.load(&Nowhere);
    let (kernel, _, _) = loaded.kernel?;
    Some((choice.item.title, kernel, loaded.cmdline))
}
