//! What the commands of a script do.

use std::rc::Rc;

use super::super::syntax::{Node, Word};
use super::{By, Flow, Item, MAX_DEPTH, MAX_ENTRIES, Machine};

impl Machine<'_> {
    pub(super) fn command(&mut self, line: u32, words: &[Word], block: Option<&Vec<Node>>) -> Flow {
        let words = self.expand(words);
        let Some((name, rest)) = words.split_first() else {
            self.status = true;
            return Flow::Next;
        };
        if let Some(body) = self.functions.get(name).cloned() {
            if self.depth >= MAX_DEPTH {
                self.unsure = true;
                return Flow::Next;
            }
            let kept: Vec<(String, Option<String>)> = (1..=9)
                .map(|at: usize| (at.to_string(), self.variables.get(&at.to_string()).cloned()))
                .collect();
            for (at, _) in &kept {
                let value = at.parse::<usize>().ok().and_then(|at| words.get(at)).cloned();
                self.variables.insert(at.clone(), value.unwrap_or_default());
            }
            self.depth = self.depth.saturating_add(1);
            let flow = self.run(&body);
            self.depth = self.depth.saturating_sub(1);
            for (at, value) in kept {
                match value {
                    Some(value) => self.variables.insert(at, value),
                    None => self.variables.remove(&at),
                };
            }
            return match flow {
                Flow::Return => Flow::Next,
                other => other,
            };
        }
        if let Some((name, value)) = name.split_once('=').filter(|_| rest.is_empty()) {
            // An assignment without `set`.
            if name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.is_empty() {
                self.set(name, value.to_owned());
                self.status = true;
                return Flow::Next;
            }
        }
        self.builtin(line, name, rest, block)
    }

    fn builtin(&mut self, line: u32, name: &str, rest: &[String], block: Option<&Vec<Node>>) -> Flow {
        let mut status = true;
        if !self.has_command(name) {
            self.status = false;
            return Flow::Next;
        }
        match name {
            "set" => {
                if let Some((name, value)) = rest.first().and_then(|word| word.split_once('=')) {
                    self.set(name, value.to_owned());
                }
            }
            "unset" => {
                for name in rest {
                    self.variables.remove(name);
                }
            }
            "menuentry" | "submenu" => self.item(line, name == "submenu", rest, block),
            "search" | "search.fs_uuid" | "search.fs_label" | "search.file" => {
                status = self.search(line, name, rest);
            }
            "[" | "test" => status = self.test(rest),
            "true" => {}
            "false" => status = false,
            "source" | "." | "extract_entries_source" | "configfile" | "normal" => {
                return self.other_file(name, rest);
            }
            "load_env" => self.load_env(rest),
            "linux" | "linuxefi" | "linux16" | "kernel" => status = self.kernel(line, rest),
            "initrd" | "initrdefi" | "initrd16" => status = self.initramfs(line, rest),
            "chainloader" | "fwsetup" | "multiboot" | "multiboot2" | "ntldr" | "xen_hypervisor" => {
                self.loaded.other = Some(name.to_owned());
            }
            // Without a word it asks whether keys can be looked at; with one, whether that key is held down.
            "keystatus" => status = rest.is_empty(),
            "halt" | "reboot" | "exit" | "normal_exit" => {
                self.loaded.other.get_or_insert_with(|| name.to_owned());
                return Flow::Exit;
            }
            "return" => return Flow::Return,
            "blscfg" | "blsuki" => self.blscfg = true,
            "import"
            | "probe"
            | "regexp"
            | "smbios"
            | "getkey"
            | "read"
            | "eval"
            | "loopback"
            | "cryptomount"
            | "legacy_configfile"
            | "extract_legacy_entries_source" => self.unsure = true,
            // A number is no command; neither is what a variable without value leaves.
            _ => {}
        }
        self.status = status;
        Flow::Next
    }

    fn item(&mut self, line: u32, submenu: bool, rest: &[String], block: Option<&Vec<Node>>) {
        let Some(body) = block else { return };
        let (mut title, mut id, mut unrestricted) = (None, String::new(), false);
        let mut arguments = Vec::new();
        let mut words = rest.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--id" => id = words.next().cloned().unwrap_or_default(),
                "--class" | "--users" | "--hotkey" | "--source" => {
                    words.next();
                }
                "--unrestricted" => unrestricted = true,
                word if word.starts_with("--id=") => id = word.trim_start_matches("--id=").to_owned(),
                word if word.starts_with("--") => {}
                word if title.is_none() => title = Some(word.to_owned()),
                word => arguments.push(word.to_owned()),
            }
        }
        if self.items.len() < MAX_ENTRIES {
            let title = title.unwrap_or_default();
            let body = Rc::new(body.clone());
            self.items.push(Item { title, id, line, submenu, unrestricted, arguments, body });
        }
    }

    fn search(&mut self, line: u32, name: &str, rest: &[String]) -> bool {
        let mut by = match name {
            "search.fs_uuid" => Some(By::Uuid),
            "search.fs_label" => Some(By::Label),
            "search.file" => Some(By::File),
            _ => None,
        };
        let dotted = by.is_some();
        let (mut variable, mut plain) = (None, Vec::new());
        let mut words = rest.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--fs-uuid" | "-u" => by = Some(By::Uuid),
                "--label" | "-l" | "--fs-label" => by = Some(By::Label),
                "--file" | "-f" => by = Some(By::File),
                "--set" | "-s" => variable = Some("root".to_owned()),
                "--hint" | "-h" => {
                    words.next();
                }
                word if word.starts_with("--set=") => {
                    variable = Some(word.trim_start_matches("--set=").to_owned());
                }
                word if word.starts_with('-') && !dotted => {}
                word => plain.push(word.to_owned()),
            }
        }
        let mut plain = plain.into_iter();
        // `-s NAME` and the dotted forms name the variable beside the value.
        let Some(mut value) = plain.next() else { return false };
        if dotted {
            variable = plain.next();
        } else if let Some(second) = plain.next()
            && variable.as_deref() == Some("root")
        {
            variable = Some(std::mem::replace(&mut value, second));
        }
        let Some(by) = by else {
            self.unsure = true;
            return false;
        };
        let tag = match by {
            By::Uuid => "UUID",
            By::Label => "LABEL",
            By::File => "FILE",
        };
        match self.world.search(by, &value) {
            Some(device) => {
                self.loaded.searched = Some((format!("{tag}={value}"), line));
                if let Some(variable) = variable {
                    self.set(&variable, device);
                }
                true
            }
            None => {
                self.loaded.search_failed = Some((format!("{tag}={value}"), line));
                self.search_failed = Some((format!("{tag}={value}"), line));
                false
            }
        }
    }

    fn test(&mut self, words: &[String]) -> bool {
        let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| *word != "]").collect();
        // -o binds less than -a.
        words
            .split(|word| *word == "-o")
            .any(|all| all.split(|word| *word == "-a").all(|one| self.test_one(one)))
    }

    fn test_one(&mut self, words: &[&str]) -> bool {
        match words {
            ["!", rest @ ..] => !self.test_one(rest),
            [] => false,
            ["-n", word] => !word.is_empty(),
            ["-z", word] => word.is_empty(),
            ["-n" | "-z"] => matches!(words, ["-z"]),
            ["-f" | "-e" | "-s" | "-d", path] => {
                let place = self.place(path);
                match self.world.exists(&place.device, &place.path) {
                    Some(there) => there,
                    None => {
                        self.unsure = true;
                        false
                    }
                }
            }
            ["-f" | "-e" | "-s" | "-d"] => false,
            [one] => !one.is_empty(),
            [a, "=" | "==", b] => a == b,
            [a, "!=", b] => a != b,
            [a, "<", b] => a < b,
            [a, ">", b] => a > b,
            [a, op @ ("-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge"), b] => {
                let (a, b) = (a.parse::<i64>().unwrap_or(0), b.parse::<i64>().unwrap_or(0));
                match *op {
                    "-eq" => a == b,
                    "-ne" => a != b,
                    "-lt" => a < b,
                    "-le" => a <= b,
                    "-gt" => a > b,
                    _ => a >= b,
                }
            }
            _ => {
                self.unsure = true;
                false
            }
        }
    }

    fn other_file(&mut self, name: &str, rest: &[String]) -> Flow {
        let written = match (name, rest.first()) {
            (_, Some(word)) => word.clone(),
            ("normal", None) => format!("{}/grub.cfg", self.value("prefix")),
            (_, None) => return Flow::Next,
        };
        if matches!(name, "configfile" | "normal") {
            self.normal(&written);
            self.status = true;
            return if self.shown.is_some() { Flow::Shown } else { Flow::Next };
        }
        let place = self.place(&written);
        let Some(text) = self.read(&place) else {
            self.status = false;
            return Flow::Next;
        };
        self.depth = self.depth.saturating_add(1);
        let flow = self.file(&text);
        self.depth = self.depth.saturating_sub(1);
        flow
    }

    fn load_env(&mut self, rest: &[String]) {
        let mut file = format!("{}/grubenv", self.value("prefix"));
        let mut names: Vec<&str> = Vec::new();
        let mut words = rest.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--file" | "-f" => file = words.next().cloned().unwrap_or_default(),
                "--skip-sig" | "-s" => {}
                name => names.push(name),
            }
        }
        let place = self.place(&file);
        let Some(text) = self.world.text(&place.device, &place.path) else { return };
        // grub-core/lib/envblk.c: the first line is a signature, and the block is full of '#'.
        if !text.starts_with("# GRUB Environment Block\n") {
            return;
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, value)) = line.split_once('=')
                && (names.is_empty() || names.contains(&name))
            {
                self.set(name, value.to_owned());
            }
        }
    }

    fn kernel(&mut self, line: u32, rest: &[String]) -> bool {
        let mut rest = rest.iter().skip_while(|word| word.starts_with("--")).cloned();
        let Some(written) = rest.next() else { return false };
        let place = self.place(&written);
        let found = self.world.exists(&place.device, &place.path);
        self.loaded.cmdline = rest.collect::<Vec<_>>().join(" ");
        self.loaded.kernel = Some((written, place, line));
        self.loaded.kernel_found = found;
        self.loaded.initramfs.clear();
        found != Some(false)
    }

    fn initramfs(&mut self, line: u32, rest: &[String]) -> bool {
        let mut all = true;
        self.loaded.initramfs.clear();
        for written in rest {
            // newc:NAME:FILE gives the file another name inside.
            let written = match written.strip_prefix("newc:").and_then(|rest| rest.split_once(':')) {
                Some((_, file)) => file.to_owned(),
                None => written.clone(),
            };
            let place = self.place(&written);
            let found = self.world.exists(&place.device, &place.path);
            all &= found != Some(false);
            self.loaded.initramfs.push((written, place, found));
        }
        self.loaded.initramfs_line = line;
        all
    }
}
