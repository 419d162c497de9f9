//! What a script does: which files it leads to, which entries it makes, what an entry loads.
//!
//! Source: GRUB 2.06, `grub-core/script/execute.c`, `normal/{main,menu}.c`, `commands/{search,test,configfile}.c`.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::syntax::{Node, Piece, Word, parse};

mod commands;

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

    /// This GRUB as started from a place: a device, of UEFI with the directory.
    pub(super) fn with_cmdpath(mut self, cmdpath: &str) -> Self {
        self.set("cmdpath", cmdpath.to_owned());
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
