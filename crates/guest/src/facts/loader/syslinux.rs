//! The configuration of syslinux, extlinux and their menus. Source: syslinux 6.04, doc/syslinux.txt and doc/menu.txt;
//! how a menu's default is chosen: com32/menu/readconfig.c.

use super::{Entry, Place, entry, settle};
use crate::facts::Seen;
use crate::grub::Waits;
use crate::text::lines;

/// Files that one configuration may include.
const MAX_INCLUDES: usize = 32;

/// What a configuration says.
pub(super) struct Read {
    /// What it can start.
    pub(super) entries: Vec<Entry>,
    /// Why it starts nothing by itself.
    pub(super) waits: Option<Waits>,
}

/// Reads a configuration and what it includes.
pub(super) fn read(text: &str, path: &str, place: &Place<'_>) -> Read {
    let mut config = Config::default();
    config.file(text, path, &mut |path| place.tree.text(path), place.on_esp.unwrap_or_default());
    let seen = Seen::file(place.shown(path));
    let (chosen, waits) = match config.chosen(seen) {
        Ok(chosen) => (Some(chosen), None),
        Err(waits) => (None, Some(waits)),
    };
    for (index, entry) in config.entries.iter_mut().enumerate() {
        entry.default = chosen == Some(index);
    }
    Read { entries: settle(config.entries, place), waits }
}

#[derive(Default)]
struct Config {
    entries: Vec<Entry>,
    /// DEFAULT: a label, or a menu's program.
    default: Option<(String, Seen)>,
    /// UI: a menu's program, which goes before DEFAULT.
    ui: Option<Seen>,
    /// The entry of the first menu that MENU DEFAULT marks.
    menu_default: Option<usize>,
    /// The first entry of the first menu.
    first: Option<usize>,
    /// PROMPT 1.
    prompt: Option<Seen>,
    /// TIMEOUT or TOTALTIMEOUT, tenths of a second; zero waits for ever.
    timeout: u64,
    ontimeout: Option<String>,
    /// APPEND before every label: for labels that have none.
    append: String,
    /// Menus that are open: MENU BEGIN.
    depth: u32,
    included: usize,
}

impl Config {
    /// Takes the lines of a file. `open` gives the text of another file of the same file system.
    fn file(&mut self, text: &str, path: &str, open: &mut dyn FnMut(&str) -> Option<String>, prefix: &str) {
        let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
        for (number, line) in lines(text) {
            let seen = || Seen::line(format!("{prefix}{path}"), number);
            let (word, rest) = split(line);
            let (word, rest) = match word.to_ascii_lowercase().as_str() {
                "menu" => {
                    let (second, rest) = split(rest);
                    (format!("menu {}", second.to_ascii_lowercase()), rest)
                }
                word => (word.to_owned(), rest),
            };
            let in_dir = |file: &str| {
                if file.contains('/') && !file.starts_with('.') || file.is_empty() {
                    file.to_owned()
                } else {
                    format!("{dir}/{file}")
                }
            };
            let count = self.entries.len();
            match (word.as_str(), self.entries.last_mut()) {
                ("default", _) => self.default = Some((rest.to_owned(), seen())),
                ("ui", _) => self.ui = Some(seen()),
                ("prompt", _) => self.prompt = (rest != "0").then(seen),
                ("timeout" | "totaltimeout", _) => self.timeout = self.timeout.max(rest.parse().unwrap_or(0)),
                ("ontimeout", _) => self.ontimeout = Some(rest.to_owned()),
                ("menu begin", _) => self.depth = self.depth.saturating_add(1),
                ("menu end", _) => self.depth = self.depth.saturating_sub(1),
                ("menu default", Some(_)) if self.depth == 0 => {
                    self.menu_default = count.checked_sub(1);
                }
                ("include" | "menu include", _) if self.included < MAX_INCLUDES => {
                    self.included = self.included.saturating_add(1);
                    let file = in_dir(split(rest).0);
                    if let Some(text) = open(&file) {
                        self.file(&text, &file, open, prefix);
                    }
                }
                ("label", _) if count < super::MAX_ENTRIES => {
                    if self.depth == 0 && self.first.is_none() {
                        self.first = Some(count);
                    }
                    let mut fresh = entry("syslinux", rest, seen());
                    fresh.cmdline.clone_from(&self.append);
                    self.entries.push(fresh);
                }
                ("kernel" | "linux", Some(entry)) => {
                    (entry.kernel, entry.kernel_line) = (in_dir(rest), number);
                }
                ("initrd", Some(entry)) => {
                    entry.initramfs = rest.split(',').map(in_dir).collect();
                    entry.initramfs_line = number;
                }
                ("append", None) => rest.clone_into(&mut self.append),
                ("append", Some(entry)) => {
                    entry.cmdline = if rest == "-" { String::new() } else { rest.to_owned() };
                    let inside = rest.split_whitespace().find_map(|word| word.strip_prefix("initrd="));
                    if let Some(files) = inside {
                        entry.initramfs = files.split(',').map(in_dir).collect();
                        entry.initramfs_line = number;
                    }
                }
                _ => {}
            }
        }
    }

    /// The entry that is started when nobody is there, or why none is.
    fn chosen(&self, file: Seen) -> Result<usize, Waits> {
        let waits = |why: &str, seen: Seen| Err(Waits { why: why.to_owned(), seen });
        let named = |label: &str| self.entries.iter().position(|entry| entry.title == label);
        let default = self.default.as_ref().map(|(value, seen)| (split(value).0, seen));
        let module = default.filter(|(word, _)| word.to_ascii_lowercase().ends_with(".c32"));
        let in_time = self.ontimeout.as_deref().and_then(|label| named(split(label).0));
        if let Some(menu) = self.ui.as_ref().or(module.map(|(_, seen)| seen)) {
            if self.timeout == 0 {
                return waits("without a TIMEOUT the menu waits until somebody chooses", menu.clone());
            }
            let label = default.filter(|_| self.ui.is_some()).and_then(|(word, _)| named(word));
            return match in_time.or(label).or(self.menu_default).or(self.first) {
                Some(entry) => Ok(entry),
                None => waits("the menu has no entry", menu.clone()),
            };
        }
        let Some((word, seen)) = default else {
            return waits("there is no DEFAULT: the loader asks what to start", file);
        };
        let Some(entry) = named(word) else {
            return waits("DEFAULT names none of the labels: the loader asks what to start", seen.clone());
        };
        match &self.prompt {
            None => Ok(entry),
            Some(_) if self.timeout > 0 => Ok(in_time.unwrap_or(entry)),
            Some(prompt) => waits("PROMPT without a TIMEOUT waits until somebody chooses", prompt.clone()),
        }
    }
}

/// A first word and the rest.
fn split(line: &str) -> (&str, &str) {
    let (word, rest) = line.trim().split_once(char::is_whitespace).unwrap_or((line.trim(), ""));
    (word, rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The title of what is started, or why nothing is and the line that says so.
    fn started(text: &str) -> Result<String, (String, u32)> {
        let mut config = Config::default();
        let mut open = |path: &str| {
            (path == "/boot/linux.cfg").then(|| "label l0\nlinux /vmlinuz\nlabel l1\nlinux /old\n".to_owned())
        };
        config.file(text, "/boot/extlinux.conf", &mut open, "");
        match config.chosen(Seen::file("/boot/extlinux.conf")) {
            Ok(index) => Ok(config.entries[index].title.clone()),
            Err(waits) => {
                let line = if let Seen::File { line, .. } = waits.seen { line.unwrap_or(0) } else { 0 };
                Err((waits.why, line))
            }
        }
    }

    #[test]
    fn menu_starts_what_it_marks() {
        // As Alpine's update-extlinux writes it.
        let alpine = "DEFAULT menu.c32\nPROMPT 0\nMENU TITLE Alpine\nMENU HIDDEN\nTIMEOUT 10\nLABEL lts\n  LINUX a\n\
                      LABEL virt\n  MENU DEFAULT\n  MENU LABEL Linux virt\n  LINUX b\n";
        assert_eq!(started(alpine), Ok("virt".to_owned()));
        assert_eq!(started(&alpine.replace("  MENU DEFAULT\n", "")), Ok("lts".to_owned()));
        assert_eq!(started(&format!("{alpine}ONTIMEOUT lts\n")), Ok("lts".to_owned()));
        let (why, line) = started(&alpine.replace("TIMEOUT 10", "")).unwrap_err();
        assert_eq!((why.as_str(), line), ("without a TIMEOUT the menu waits until somebody chooses", 1));
        // With UI a DEFAULT is a label, and goes before MENU DEFAULT.
        let ui = alpine.replace("DEFAULT menu.c32", "UI vesamenu.c32\nDEFAULT lts");
        assert_eq!(started(&ui), Ok("lts".to_owned()));
        let below = "UI menu.c32\nTIMEOUT 1\nMENU BEGIN more\nLABEL a\nMENU DEFAULT\nLINUX a\nMENU END\nLABEL b\nLINUX b\n";
        assert_eq!(started(below), Ok("b".to_owned()));
    }

    #[test]
    fn prompt_waits_without_a_timeout() {
        // As Debian's extlinux-update writes it.
        let debian = "default l1\nprompt 1\ntimeout 50\ninclude linux.cfg\n";
        assert_eq!(started(debian), Ok("l1".to_owned()));
        let (why, line) = started(&debian.replace("timeout 50", "timeout 0")).unwrap_err();
        assert_eq!((why.as_str(), line), ("PROMPT without a TIMEOUT waits until somebody chooses", 2));
        assert_eq!(started("default l1\ninclude linux.cfg\n"), Ok("l1".to_owned()));
        let none = "DEFAULT names none of the labels: the loader asks what to start";
        assert_eq!(started("default l2\ninclude linux.cfg\n"), Err((none.to_owned(), 1)));
        let none = "there is no DEFAULT: the loader asks what to start";
        assert_eq!(started("include linux.cfg\n"), Err((none.to_owned(), 0)));
    }

    #[test]
    fn paths_are_beside_the_file_and_append_is_inherited() {
        let mut config = Config::default();
        let text = "APPEND quiet\nLABEL a\nLINUX vmlinuz-virt\nINITRD one,../two\nLABEL b\nKERNEL /k\nAPPEND ro initrd=i\n\
                    LABEL c\nLINUX ../k\nAPPEND -\n";
        config.file(text, "/boot/extlinux.conf", &mut |_| None, "");
        let seen: Vec<_> = config
            .entries
            .iter()
            .map(|entry| (entry.kernel.as_str(), entry.initramfs.join(" "), entry.cmdline.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("/boot/vmlinuz-virt", "/boot/one /boot/../two".to_owned(), "quiet"),
                ("/k", "/boot/i".to_owned(), "ro initrd=i"),
                ("/boot/../k", String::new(), ""),
            ]
        );
    }

    #[test]
    fn includes_that_include_themselves_end() {
        let mut config = Config::default();
        let mut opened = 0;
        let mut open = |_: &str| {
            opened += 1;
            Some("include x\ninclude x\n".to_owned())
        };
        config.file("include x\n", "/extlinux.conf", &mut open, "");
        assert_eq!(opened, MAX_INCLUDES);
    }
}
