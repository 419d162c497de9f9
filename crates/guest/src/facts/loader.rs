//! The configuration of boot loaders: GRUB 2, GRUB legacy, syslinux, systemd-boot and the Boot Loader Specification.
//!
//! GRUB 2's file is a program, which [`crate::grub`] carries out. Sources: the UAPI Group's Boot Loader Specification,
//! the documentation of syslinux and of GRUB legacy.

use std::collections::BTreeMap;

use kiln_disk::interned::Word;
use serde::{Deserialize, Serialize};

mod syslinux;

use super::Seen;
use crate::grub::{self, Chain, Devices, Followed, Waits};
use crate::text::{lines, unquoted};
use crate::tree::Tree;
use crate::volume::Layout;

/// Entries of all files.
const MAX_ENTRIES: usize = 200;

/// Something that a loader can start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The loader that would.
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub loader: Word,
    /// Its title.
    pub title: String,
    /// Where it is written.
    pub seen: Seen,
    /// The kernel, as written.
    pub kernel: String,
    /// The kernel's path in the guest's tree, when it is there.
    pub kernel_path: Option<String>,
    /// The line of the kernel.
    pub kernel_line: u32,
    /// The initramfs files, as written.
    pub initramfs: Vec<String>,
    /// Those that are there.
    pub initramfs_paths: Vec<String>,
    /// The line of the initramfs.
    pub initramfs_line: u32,
    /// The kernel's command line.
    pub cmdline: String,
    /// The file system that the loader is told to search for its files.
    pub search: Option<Search>,
    /// It is the one started by default.
    pub default: bool,
}

/// A `search` of GRUB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Search {
    /// As a device name of fstab: `UUID=...`, `LABEL=...`.
    pub device: String,
    /// Whether it is here.
    pub found: bool,
    /// Its line.
    pub line: u32,
}

impl Entry {
    /// The last value of `key=value` on the command line.
    #[must_use]
    pub fn argument(&self, key: &str) -> Option<&str> {
        let words = self.cmdline.split_whitespace().rev();
        words
            .filter_map(|word| word.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| unquoted(value))
    }

    /// Every value of `key=value`.
    #[must_use]
    pub fn arguments(&self, key: &str) -> Vec<&str> {
        let words = self.cmdline.split_whitespace();
        words
            .filter_map(|word| word.split_once('='))
            .filter(|(name, _)| *name == key)
            .map(|(_, value)| value)
            .collect()
    }

    /// Whether a word stands on the command line.
    #[must_use]
    pub fn has(&self, word: &str) -> bool {
        self.cmdline.split_whitespace().any(|known| known == word)
    }
}

/// What was found.
pub(super) struct Found {
    pub(super) loaders: Vec<&'static str>,
    pub(super) configs: Vec<String>,
    pub(super) entries: Vec<Entry>,
    pub(super) empty_configs: Vec<String>,
    pub(super) grub: Vec<GrubFacts>,
    pub(super) waits: Vec<(&'static str, Waits)>,
    /// For each configuration of syslinux why it starts nothing by itself.
    pub(super) syslinux: Vec<Option<Waits>>,
}

/// How GRUB starts by one firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrubFacts {
    /// "bios" or "uefi".
    #[serde(deserialize_with = "kiln_disk::interned::one")]
    pub firmware: Word,
    /// How its start ends.
    #[serde(flatten)]
    pub chain: Chain,
    /// Why its menu starts nothing by itself.
    pub waits: Option<Waits>,
}

/// Where GRUB begins, found by whoever knows the firmware's ways.
#[derive(Default)]
pub(super) struct GrubStarts {
    /// The first disk, where its first sector is GRUB's.
    pub(super) bios: Option<std::sync::Arc<dyn kiln_disk::Disk>>,
    /// The program that UEFI starts, where it is GRUB: volume and path.
    pub(super) uefi: Option<(usize, String)>,
}

/// Reads every configuration that a loader would find. ESP files are named by their place in the guest's tree where
/// they are mounted, else with `ESP:` in front.
pub(super) fn read(
    tree: &Tree,
    esps: &[(usize, Tree)],
    layout: &Layout,
    starts: &GrubStarts,
) -> kiln_disk::Result<Found> {
    let mut found = Found {
        loaders: Vec::new(),
        configs: Vec::new(),
        entries: Vec::new(),
        empty_configs: Vec::new(),
        grub: Vec::new(),
        waits: Vec::new(),
        syslinux: Vec::new(),
    };
    let devices = Devices::new(layout, tree, esps);
    if let Some(disk) = &starts.bios {
        found.follow("bios", grub::by_bios(disk, &devices)?);
    }
    if let Some((volume, path)) = &starts.uefi
        && let Some((_, esp)) = esps.iter().find(|(esp, _)| esp == volume)
    {
        let program = esp.head(path, super::boot::MAX_PROGRAM).unwrap_or_default();
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        found.follow("uefi", grub::by_uefi(&program, *volume, dir, &devices));
    }
    let others = [
        "/boot/grub/grub.cfg",
        "/boot/grub2/grub.cfg",
        "/boot/grub/menu.lst",
        "/boot/grub/grub.conf",
        "/boot/syslinux/syslinux.cfg",
        "/boot/extlinux/extlinux.conf",
        "/boot/extlinux.conf",
        "/extlinux.conf",
        "/boot/syslinux.cfg",
        "/syslinux.cfg",
    ];
    for path in others {
        // grub.conf is often a link to menu.lst.
        if tree.stat_link(path).is_ok_and(|stat| stat.kind == crate::fs::Kind::File)
            && let Some(text) = tree.text(path)
        {
            let place = Place { tree, layout, on_esp: None };
            match loader_of(path) {
                "grub2" => found.grub_file(path, &text, tree, &devices),
                loader => take(loader, path, &text, &place, &mut found),
            }
        }
    }
    bls(tree, "/boot/loader/entries", &Place { tree, layout, on_esp: None }, &mut found);
    for (volume, esp) in esps {
        let mounted = tree.mounts().find(|(_, known)| known == volume).map(|(at, _)| crate::text::lossy(at));
        let prefix = mounted.unwrap_or_else(|| "ESP:".to_owned());
        let place = Place { tree: esp, layout, on_esp: Some(&prefix) };
        for name in esp.names("/EFI") {
            let path = format!("/EFI/{name}/grub.cfg");
            if esp.exists(&path) {
                // It most often only leads to the other file; entries in it are taken, emptiness is no news.
                let shown = format!("{prefix}{path}");
                if !found.configs.contains(&shown) {
                    found.loaders.push("grub2");
                    found.configs.push(shown);
                    if found.entries.is_empty() && found.grub.is_empty() {
                        found.add(grub::of_file(&devices, *volume, &path), "uefi");
                    }
                }
            }
        }
        bls(esp, "/loader/entries", &place, &mut found);
        for name in esp.names("/EFI/Linux").iter().filter(|name| name.to_lowercase().ends_with(".efi")) {
            found.loaders.push("unified-kernel");
            found.configs.push(format!("{prefix}/EFI/Linux/{name}"));
        }
    }
    found.loaders.sort_unstable();
    found.loaders.dedup();
    found.entries.sort_by_key(|entry| !entry.default);
    Ok(found)
}

impl Found {
    /// Takes what following GRUB by a firmware came to.
    fn follow(&mut self, firmware: &'static str, followed: Followed) {
        self.grub.push(GrubFacts { firmware, chain: followed.chain.clone(), waits: followed.waits.clone() });
        self.add(Some(followed), firmware);
    }

    fn add(&mut self, followed: Option<Followed>, firmware: &'static str) {
        let Some(followed) = followed else { return };
        self.waits.extend(followed.waits.map(|waits| (firmware, waits)));
        let Some(config) = followed.config else { return };
        if self.configs.contains(&config) {
            return;
        }
        self.loaders.push("grub2");
        self.configs.push(config);
        let room = MAX_ENTRIES.saturating_sub(self.entries.len());
        self.entries.extend(followed.entries.into_iter().take(room));
    }

    /// A grub.cfg of the guest's tree that no core was seen to lead to.
    fn grub_file(&mut self, path: &str, text: &str, tree: &Tree, devices: &Devices<'_>) {
        if self.configs.iter().any(|known| known == path) {
            return;
        }
        let physical = tree.resolve(path.as_bytes(), true).unwrap_or_default();
        let followed = tree
            .mounts()
            .filter(|(at, _)| *at == b"/" || physical.starts_with(at))
            .max_by_key(|(at, _)| at.len())
            .and_then(|(at, volume)| {
                let at = if at == b"/" { &b""[..] } else { at };
                let inside = crate::text::lossy(physical.strip_prefix(at)?);
                grub::of_file(devices, volume, &inside)
            });
        let has_entries = followed.as_ref().is_some_and(|followed| !followed.entries.is_empty());
        // Where a core was followed to the end, what it does not lead to is a leftover.
        let followed_all = self.grub.iter().all(|grub| matches!(grub.chain, Chain::Menu { .. }));
        if self.grub.is_empty() || !followed_all {
            let before = self.configs.len();
            self.add(followed, "");
            if self.configs.len() == before {
                self.configs.push(path.to_owned());
            }
        }
        self.loaders.push("grub2");
        let leads_on = ["configfile", "blscfg", "normal "].iter().any(|word| text.contains(word));
        if !has_entries && !leads_on && (self.grub.is_empty() || !followed_all) {
            self.empty_configs.push(path.to_owned());
        }
    }
}

/// Whose configuration a file is.
#[must_use]
pub fn loader_of(path: &str) -> &'static str {
    match path {
        _ if path.ends_with("grub.cfg") => "grub2",
        _ if path.contains("grub") => "grub-legacy",
        _ => "syslinux",
    }
}

/// The entries in a tree, with no disk around it.
#[must_use]
pub fn parse_all(tree: &Tree) -> Vec<Entry> {
    let layout = Layout {
        disks: Vec::new(),
        tables: Vec::new(),
        volumes: Vec::new(),
        groups: Vec::new(),
        problems: Vec::new(),
    };
    read(tree, &[], &layout, &GrubStarts::default()).map(|found| found.entries).unwrap_or_default()
}

/// Where a configuration was found.
struct Place<'a> {
    tree: &'a Tree,
    layout: &'a Layout,
    on_esp: Option<&'a str>,
}

impl Place<'_> {
    fn shown(&self, path: &str) -> String {
        format!("{}{path}", self.on_esp.unwrap_or_default())
    }

    /// The path in the guest's tree of a path that the loader uses: it starts at the root of the file system that
    /// holds it. What lies on a partition that the guest does not mount has `ESP:` in front.
    fn resolve(&self, path: &str, search: Option<&str>) -> Option<String> {
        let path = path.trim_start_matches(|c| c != '/');
        // A path may name its device: ($root)/boot/vmlinuz.
        let path = path.rsplit_once(')').map_or(path, |(_, path)| path);
        let mut candidates = Vec::new();
        if let Some(index) = search.and_then(|device| super::volume_named(device, self.layout)) {
            for (at, volume) in self.tree.mounts() {
                if volume == index {
                    let at = crate::text::lossy(at);
                    candidates.push(format!("{}{path}", if at == "/" { "" } else { &at }));
                }
            }
        }
        candidates.extend([path.to_owned(), format!("/boot{path}")]);
        // On btrfs the path starts with the subvolume.
        for prefix in ["/@/.snapshots/1/snapshot", "/@", "/root", "/@rootfs"] {
            candidates.extend(path.strip_prefix(prefix).map(str::to_owned));
        }
        candidates.into_iter().find(|path| self.tree.exists(path)).map(|path| self.shown(&path))
    }
}

fn take(loader: &'static str, path: &str, text: &str, place: &Place<'_>, found: &mut Found) {
    let shown = place.shown(path);
    let entries = if loader == "grub-legacy" {
        grub_legacy(text, &shown, place)
    } else {
        let read = syslinux::read(text, path, place);
        if !read.entries.is_empty() {
            found.syslinux.push(read.waits);
        }
        read.entries
    };
    if entries.is_empty() {
        found.empty_configs.push(shown.clone());
    }
    found.loaders.push(loader);
    found.configs.push(shown);
    let room = MAX_ENTRIES.saturating_sub(found.entries.len());
    found.entries.extend(entries.into_iter().take(room));
}

/// A new entry without its files.
pub(crate) fn entry(loader: &'static str, title: &str, seen: Seen) -> Entry {
    Entry {
        loader,
        title: title.to_owned(),
        seen,
        kernel: String::new(),
        kernel_path: None,
        kernel_line: 0,
        initramfs: Vec::new(),
        initramfs_paths: Vec::new(),
        initramfs_line: 0,
        cmdline: String::new(),
        search: None,
        default: false,
    }
}

/// Fills in what the written names mean.
fn settle(mut entries: Vec<Entry>, place: &Place<'_>) -> Vec<Entry> {
    entries.retain(|entry| !entry.kernel.is_empty());
    for entry in &mut entries {
        let search = entry.search.as_ref().map(|search| search.device.clone());
        entry.kernel_path = place.resolve(&entry.kernel, search.as_deref());
        entry.initramfs_paths =
            entry.initramfs.iter().filter_map(|path| place.resolve(path, search.as_deref())).collect();
    }
    entries
}

/// Replaces `$name` and `${name}` by what was set to a constant; unknown ones vanish, as in GRUB.
fn expand(word: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let (name, behind) = match after.strip_prefix('{').and_then(|after| after.split_once('}')) {
            Some(split) => split,
            None => {
                let end = after.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(after.len());
                after.split_at_checked(end).unwrap_or((after, ""))
            }
        };
        out.push_str(variables.get(name).map_or("", String::as_str));
        rest = behind;
    }
    out.push_str(rest);
    out
}

/// GRUB's saved variables, `grubenv`.
fn environment(tree: &Tree) -> BTreeMap<String, String> {
    let files = ["/boot/grub/grubenv", "/boot/grub2/grubenv"];
    let text = files.iter().find_map(|path| tree.text(path)).unwrap_or_default();
    let pairs = lines(&text).filter_map(|(_, line)| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.trim_end_matches('#').to_owned())).collect()
}

/// Entries of menu.lst.
fn grub_legacy(text: &str, path: &str, place: &Place<'_>) -> Vec<Entry> {
    let (mut entries, mut default) = (Vec::<Entry>::new(), 0_usize);
    for (number, line) in lines(text) {
        let (word, rest) = line.split_once([' ', '\t', '=']).unwrap_or((line, ""));
        let rest = rest.trim();
        match (word, entries.last_mut()) {
            ("default", _) => default = rest.parse().unwrap_or(0),
            ("title", _) => entries.push(entry("grub-legacy", rest, Seen::line(path, number))),
            ("kernel", Some(entry)) => {
                let (kernel, cmdline) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
                (entry.kernel, entry.cmdline) = (kernel.to_owned(), cmdline.trim().to_owned());
                entry.kernel_line = number;
            }
            ("initrd", Some(entry)) => {
                entry.initramfs = vec![rest.to_owned()];
                entry.initramfs_line = number;
            }
            _ => {}
        }
    }
    if let Some(entry) = entries.get_mut(default) {
        entry.default = true;
    }
    settle(entries, place)
}

/// The entry that systemd-boot's loader.conf(5) names, which may be a pattern.
fn loader_conf_default(tree: &Tree) -> Option<String> {
    let text = tree.text("/loader/loader.conf")?;
    let mut pairs = lines(&text).filter_map(|(_, line)| line.split_once(char::is_whitespace));
    pairs.find(|(key, _)| *key == "default").map(|(_, value)| value.trim().to_owned())
}

/// Entries of the Boot Loader Specification: one file each.
fn bls(tree: &Tree, dir: &str, place: &Place<'_>, found: &mut Found) {
    let mut entries = Vec::new();
    let mut variables = environment(tree);
    variables.remove("tuned_params");
    variables.remove("tuned_initrd");
    for name in tree.names(dir).iter().filter(|name| name.ends_with(".conf")) {
        let path = format!("{dir}/{name}");
        let Some(text) = tree.text(&path) else { continue };
        let shown = place.shown(&path);
        let loader = if place.on_esp.is_some() { "systemd-boot" } else { "bls" };
        let mut fresh = entry(loader, name.trim_end_matches(".conf"), Seen::file(shown.clone()));
        for (number, line) in lines(&text) {
            let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let value = expand(value.trim(), &variables);
            match key {
                "title" => fresh.title = value,
                "linux" => (fresh.kernel, fresh.kernel_line) = (value, number),
                "initrd" => {
                    fresh.initramfs.extend(value.split_whitespace().map(str::to_owned));
                    fresh.initramfs_line = number;
                }
                "options" => {
                    fresh.cmdline = format!("{} {value}", fresh.cmdline).trim().to_owned();
                    fresh.seen = Seen::line(shown.clone(), number);
                }
                _ => {}
            }
        }
        entries.push((name.trim_end_matches(".conf").to_owned(), fresh));
    }
    if entries.is_empty() {
        return;
    }
    // Without a choice the newest version is started, which sorts last.
    let chosen = match place.on_esp {
        Some(_) => loader_conf_default(tree),
        None => variables.get("saved_entry").cloned(),
    };
    let default = chosen.and_then(|chosen| {
        let wanted = chosen.trim_end_matches(".conf");
        entries.iter().rposition(|(name, _)| match wanted.split_once('*') {
            Some((before, after)) => name.starts_with(before) && name.ends_with(after),
            None => name == wanted,
        })
    });
    let default = default.unwrap_or(entries.len().saturating_sub(1));
    let entries = entries.into_iter().enumerate().map(|(index, (_, mut entry))| {
        entry.default = index == default;
        entry
    });
    found.loaders.push(if place.on_esp.is_some() { "systemd-boot" } else { "bls" });
    found.configs.push(place.shown(dir));
    let room = MAX_ENTRIES.saturating_sub(found.entries.len());
    found.entries.extend(settle(entries.collect(), place).into_iter().take(room));
}
