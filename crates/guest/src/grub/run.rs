//! What a script does: which files it leads to, which entries it makes, what an entry loads.
//!
//! Source: GRUB 2.06, `grub-core/script/execute.c`, `normal/{main,menu}.c`, `commands/{search,test,configfile}.c`.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::syntax::{Node, Piece, Word, parse};

/// Statements that are carried out for one disk.
const MAX_STEPS: u32 = 200_000;
/// Files and functions inside one another.
const MAX_DEPTH: u32 = 12;
/// Entries of all menus.
const MAX_ENTRIES: usize = 200;
/// Length of a variable's value.
const MAX_VALUE: usize = 16 << 10;
/// Times round one loop.
const MAX_ROUNDS: u32 = 1000;

/// The disk as a script sees it. Devices are GRUB's names: `hd0,gpt1`.
pub(super) trait World {
    /// The device that holds a file system of this id, label, or with this file.
    fn search(&self, by: By, value: &str) -> Option<String>;
    /// Whether a file is there, `None` when that cannot be told.
    fn exists(&self, device: &str, path: &str) -> Option<bool>;
    /// The bytes of a file as text.
    fn text(&self, device: &str, path: &str) -> Option<String>;
}

/// What `search` looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Uuid,
    Label,
    File,
}

/// A place on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) device: String,
    pub(super) path: String,
}

/// An entry of a menu.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) title: String,
    pub(super) id: String,
    pub(super) line: u32,
    /// It opens another menu.
    pub(super) submenu: bool,
    /// Anybody may start it where users are asked for.
    pub(super) unrestricted: bool,
    arguments: Vec<String>,
    body: Rc<Vec<Node>>,
}

/// What an entry made of it.
#[derive(Debug, Clone, Default)]
pub(super) struct Loaded {
    /// The kernel as written and where it is.
    pub(super) kernel: Option<(String, Place, u32)>,
    pub(super) kernel_found: Option<bool>,
    pub(super) cmdline: String,
    pub(super) initramfs: Vec<(String, Place, Option<bool>)>,
    pub(super) initramfs_line: u32,
    /// The last search that found nothing: what it looked for and its line.
    pub(super) search_failed: Option<(String, u32)>,
    /// The last search that found something.
    pub(super) searched: Option<(String, u32)>,
    /// Another loader was started: `chainloader`, `fwsetup`, ...
    pub(super) other: Option<String>,
}

/// The menu that GRUB shows.
#[derive(Debug, Clone)]
pub(super) struct Menu {
    pub(super) config: Place,
    pub(super) items: Vec<Item>,
    /// It also has the entries of the Boot Loader Specification.
    pub(super) blscfg: bool,
    modules: Vec<String>,
    /// The state in which an entry is carried out.
    variables: BTreeMap<String, String>,
    functions: BTreeMap<String, Rc<Vec<Node>>>,
}

/// How a file ended.
enum Flow {
    Next,
    /// A menu is up, and stays.
    Shown,
    Return,
    /// `exit`: the firmware goes on.
    Exit,
}

/// A running GRUB.
pub(super) struct Machine<'a> {
    world: &'a dyn World,
    variables: BTreeMap<String, String>,
    functions: BTreeMap<String, Rc<Vec<Node>>>,
    items: Vec<Item>,
    config: Place,
    status: bool,
    blscfg: bool,
    steps: u32,
    depth: u32,
    /// Modules inside the core; empty when not known. Others are loaded from below the prefix.
    modules: Vec<String>,
    /// The menu that came up.
    shown: Option<Menu>,
    loaded: Loaded,
    /// It met something that is not carried out here, so its end is a guess.
    pub(super) unsure: bool,
    /// The file that was asked for last and is not there.
    pub(super) missed: Option<Place>,
    /// The last search that found nothing.
    pub(super) search_failed: Option<(String, u32)>,
}

impl<'a> Machine<'a> {
    /// A GRUB that was started from `device` and has its files below `prefix`.
    pub(super) fn new(world: &'a dyn World, platform: &str, device: &str, prefix: &str) -> Self {
        let mut variables = BTreeMap::new();
        let cpu = if platform == "pc" { "i386" } else { "x86_64" };
        for (name, value) in [
            ("grub_platform", platform),
            ("grub_cpu", cpu),
            ("root", device),
            ("prefix", prefix),
            ("feature_platform_search_hint", "y"),
            ("feature_default_font_path", "y"),
            ("feature_all_video_module", "y"),
            ("feature_menuentry_id", "y"),
            ("feature_menuentry_options", "y"),
            ("feature_timeout_style", "y"),
            ("feature_200_final", "y"),
            ("feature_nativedisk_cmd", "y"),
            ("feature_ntldr", "y"),
            ("feature_chainloader_bpb", "y"),
        ] {
            variables.insert(name.to_owned(), value.to_owned());
        }
        Self {
            world,
            variables,
            functions: BTreeMap::new(),
            items: Vec::new(),
            config: Place { device: device.to_owned(), path: String::new() },
            status: true,
            blscfg: false,
            steps: 0,
            depth: 0,
            modules: Vec::new(),
            shown: None,
            loaded: Loaded::default(),
            unsure: false,
            missed: None,
            search_failed: None,
        }
    }

    /// This GRUB with the modules of its core.
    pub(super) fn with_modules(mut self, modules: &[String]) -> Self {
        self.modules = modules.to_vec();
        self
    }

    /// Whether a command is there: its module is in the core, or in the directory of modules.
    fn has_command(&mut self, name: &str) -> bool {
        let module = match name {
            "[" | "test" => "test",
            "load_env" | "save_env" | "list_env" => "loadenv",
            "configfile" | "source" | "." | "extract_entries_source" => "configfile",
            "search" => "search",
            "linux" | "initrd" | "linux16" | "initrd16" => "linux",
            "true" | "false" => "true",
            "chainloader" => "chain",
            _ => return true,
        };
        if self.modules.is_empty() || self.modules.iter().any(|known| known == module) {
            return true;
        }
        let (cpu, platform) = (self.value("grub_cpu"), self.value("grub_platform"));
        let place = self.place(&format!("{}/{cpu}-{platform}/{module}.mod", self.value("prefix")));
        // Where the directory cannot be looked into the command is taken to be there.
        self.world.exists(&place.device, &place.path) != Some(false)
    }

    /// Carries out the configuration inside GRUB's core, then `normal`. The menu, when one comes up.
    pub(super) fn start(&mut self, embedded: Option<&str>) -> Option<Menu> {
        if let Some(text) = embedded {
            let (nodes, _) = parse(text);
            self.run(&nodes);
        }
        if self.shown.is_none() {
            let prefix = self.value("prefix");
            self.normal(&format!("{prefix}/grub.cfg"));
        }
        self.shown.take()
    }

    /// Carries out one file as GRUB's configuration.
    pub(super) fn start_file(&mut self, place: &Place) -> Option<Menu> {
        self.normal(&format!("({}){}", place.device, place.path));
        self.shown.take()
    }

    /// Carries out a text as GRUB's configuration.
    pub(super) fn run_text(&mut self, text: &str) -> Option<Menu> {
        self.own_menu(text);
        self.shown.take()
    }

    fn value(&self, name: &str) -> String {
        self.variables.get(name).cloned().unwrap_or_default()
    }

    /// Where it would look now.
    pub(super) fn root_and_prefix(&self) -> (String, String) {
        (self.value("root"), self.value("prefix"))
    }

    /// `(device)/path`, with `$root` where no device is named.
    pub(super) fn place(&self, written: &str) -> Place {
        match written.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
            Some((device, path)) => {
                // (,gpt1) is a partition of the disk that GRUB came from.
                let device = match device.strip_prefix(',') {
                    Some(part) => format!("hd0,{part}"),
                    None => device.to_owned(),
                };
                Place { device, path: path.to_owned() }
            }
            None => Place { device: self.value("root"), path: written.to_owned() },
        }
    }

    /// A file in a menu of its own, which is shown when it has entries.
    fn normal(&mut self, written: &str) {
        let place = self.place(written);
        let Some(text) = self.read(&place) else { return };
        let before = std::mem::replace(&mut self.config, place);
        self.own_menu(&text);
        self.config = before;
    }

    fn own_menu(&mut self, text: &str) {
        let items = std::mem::take(&mut self.items);
        self.depth = self.depth.saturating_add(1);
        self.file(text);
        self.depth = self.depth.saturating_sub(1);
        if self.shown.is_none() && (!self.items.is_empty() || self.blscfg) {
            self.shown = Some(Menu {
                config: self.config.clone(),
                items: std::mem::take(&mut self.items),
                blscfg: self.blscfg,
                modules: self.modules.clone(),
                variables: self.variables.clone(),
                functions: self.functions.clone(),
            });
        }
        self.items = items;
    }

    fn read(&mut self, place: &Place) -> Option<String> {
        if self.depth >= MAX_DEPTH {
            self.unsure = true;
            return None;
        }
        let text = self.world.text(&place.device, &place.path);
        if text.is_none() {
            if self.world.exists(&place.device, &place.path).is_none() {
                self.unsure = true;
            }
            self.missed = Some(place.clone());
        }
        text
    }

    fn file(&mut self, text: &str) -> Flow {
        let (nodes, _) = parse(text);
        self.run(&nodes)
    }

    fn run(&mut self, nodes: &[Node]) -> Flow {
        for node in nodes {
            self.steps = self.steps.saturating_add(1);
            if self.steps > MAX_STEPS {
                self.unsure = true;
                return Flow::Exit;
            }
            let flow = self.node(node);
            if self.shown.is_some() {
                return Flow::Shown;
            }
            if !matches!(flow, Flow::Next) {
                return flow;
            }
        }
        Flow::Next
    }

    fn node(&mut self, node: &Node) -> Flow {
        match node {
            Node::Command { line, words, block } => self.command(*line, words, block.as_ref()),
            Node::Function { name, body } => {
                self.functions.insert(name.clone(), Rc::new(body.clone()));
                Flow::Next
            }
            Node::If { arms, otherwise } => {
                for (condition, body) in arms {
                    match self.run(condition) {
                        Flow::Next => {}
                        other => return other,
                    }
                    if self.status {
                        return self.run(body);
                    }
                }
                self.run(otherwise)
            }
            Node::For { name, words, body } => {
                for value in self.expand(words) {
                    self.set(name, value);
                    match self.run(body) {
                        Flow::Next => {}
                        other => return other,
                    }
                }
                Flow::Next
            }
            Node::While { condition, wanted, body } => {
                for _ in 0..MAX_ROUNDS {
                    match self.run(condition) {
                        Flow::Next => {}
                        other => return other,
                    }
                    if self.status != *wanted {
                        return Flow::Next;
                    }
                    match self.run(body) {
                        Flow::Next => {}
                        other => return other,
                    }
                }
                self.unsure = true;
                Flow::Next
            }
        }
    }

    fn set(&mut self, name: &str, value: String) {
        if value.len() <= MAX_VALUE && self.variables.len() < 10_000 {
            // A device may be written in brackets.
            let value = match name {
                "root" => value.trim_start_matches('(').trim_end_matches(')').to_owned(),
                _ => value,
            };
            self.variables.insert(name.to_owned(), value);
        }
    }

    /// Words with their variables in place; those without quotes fall apart at blanks.
    fn expand(&self, words: &[Word]) -> Vec<String> {
        let mut out = Vec::new();
        for word in words {
            let (mut current, mut any) = (String::new(), word.is_quoted());
            for piece in &word.pieces {
                match piece {
                    Piece::Text(text) => {
                        current.push_str(text);
                        any = true;
                    }
                    Piece::Variable { name, quoted: true } => current.push_str(&self.named(name)),
                    Piece::Variable { name, quoted: false } => {
                        let value = self.named(name);
                        let mut parts = value.split_whitespace().peekable();
                        while let Some(part) = parts.next() {
                            current.push_str(part);
                            any = true;
                            if parts.peek().is_some() {
                                out.push(std::mem::take(&mut current));
                            }
                        }
                    }
                }
                if current.len() > MAX_VALUE {
                    current.truncate(0);
                }
            }
            if any {
                out.push(current);
            }
        }
        out
    }

    fn named(&self, name: &str) -> String {
        if name == "?" {
            return if self.status { "0" } else { "1" }.to_owned();
        }
        if name == "menuentry_id_option" {
            return "--id".to_owned();
        }
        self.value(name)
    }

    fn command(&mut self, line: u32, words: &[Word], block: Option<&Vec<Node>>) -> Flow {
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

/// An entry that would be started, with the state in which it would.
pub(super) struct Choice {
    pub(super) item: Item,
    menu: Menu,
}

impl Menu {
    /// A variable as it is when the menu is up.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The items of this menu and of those below it, in order, with the menu that each is in.
    pub(super) fn all(&self, world: &dyn World) -> Vec<Choice> {
        let mut found = Vec::new();
        self.gather(world, 0, &mut found);
        found
    }

    fn gather(&self, world: &dyn World, depth: u32, found: &mut Vec<Choice>) {
        for item in &self.items {
            if found.len() >= MAX_ENTRIES {
                return;
            }
            if !item.submenu {
                found.push(Choice { item: item.clone(), menu: self.clone() });
            } else if depth < 4 {
                self.inside(item, world).gather(world, depth.saturating_add(1), found);
            }
        }
    }

    /// The menu that an item opens.
    fn inside(&self, item: &Item, world: &dyn World) -> Menu {
        let mut machine = self.machine(world);
        machine.run(&item.body);
        Menu {
            config: self.config.clone(),
            items: machine.items,
            blscfg: self.blscfg,
            modules: self.modules.clone(),
            variables: machine.variables,
            functions: machine.functions,
        }
    }

    fn machine<'a>(&self, world: &'a dyn World) -> Machine<'a> {
        let mut machine = Machine::new(world, "", "", "");
        machine.variables = self.variables.clone();
        machine.functions = self.functions.clone();
        machine.config = self.config.clone();
        machine.modules.clone_from(&self.modules);
        machine
    }

    /// The entry that is started when nobody types: `default`, which is a number, a title or an id, `>` between those
    /// of nested menus; the first where it names none.
    pub(super) fn chosen(&self, world: &dyn World) -> Option<Choice> {
        self.by_name(self.variable("default").unwrap_or("0"), world)
    }

    /// The entry of a number, a title, an id, or a path of those.
    pub(super) fn by_name(&self, wanted: &str, world: &dyn World) -> Option<Choice> {
        let mut rest = wanted;
        let mut menu = self.clone();
        for _ in 0..8 {
            let (name, behind) = match rest.split_once('>') {
                // A title may hold ">>" for ">".
                Some((name, behind)) if !behind.starts_with('>') => (name, behind),
                _ => (rest, ""),
            };
            let item = menu.named(name).or_else(|| menu.items.first())?.clone();
            if !item.submenu {
                return Some(Choice { item, menu });
            }
            menu = menu.inside(&item, world);
            rest = behind;
        }
        None
    }

    fn named(&self, name: &str) -> Option<&Item> {
        if let Ok(index) = name.trim().parse::<usize>() {
            return self.items.get(index);
        }
        self.items.iter().find(|item| (!item.id.is_empty() && item.id == name) || item.title == name)
    }
}

impl Choice {
    /// Carries the entry out.
    pub(super) fn load(&self, world: &dyn World) -> (Loaded, bool) {
        let mut machine = self.menu.machine(world);
        for (index, value) in (1_usize..).zip(&self.item.arguments).take(9) {
            machine.variables.insert(index.to_string(), value.clone());
        }
        machine.run(&self.item.body);
        let unsure = machine.unsure;
        (machine.loaded, unsure)
    }
}
