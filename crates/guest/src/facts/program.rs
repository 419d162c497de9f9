//! Whether a program of the guest can be run: its file, the loader that it names, and the libraries that it needs.
//!
//! Sources: System V ABI (ELF), ld.so(8), Linux `fs/binfmt_elf.c`.

use std::collections::{BTreeSet, VecDeque};

use kiln_disk::wire::{le16, le32, le64};

use super::os::elf;
use crate::fs::{FsError, Kind};
use crate::tree::Tree;

/// Libraries of one program.
const MAX_LIBRARIES: usize = 200;
/// Headers and entries of one file.
const MAX_HEADERS: usize = 64;
const MAX_DYNAMIC: usize = 64 << 10;
const MAX_STRINGS: usize = 4 << 20;

/// What keeps a program from running.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file that is to blame.
    pub path: String,
    /// What is wrong, in words.
    pub why: String,
}

/// What an ELF file says.
#[derive(Debug, Default)]
struct Program {
    architecture: &'static str,
    interpreter: Option<String>,
    needed: Vec<String>,
    search: Vec<String>,
}

/// Where libraries are looked for without further word.
const DIRS: [&str; 9] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];

/// The first thing that keeps `path` from running; `None` when nothing is seen. What cannot be read is not judged.
#[must_use]
pub fn fault(tree: &Tree, path: &str) -> Option<Fault> {
    let told = |path: &str, why: String| Some(Fault { path: path.to_owned(), why });
    match tree.stat(path) {
        Err(FsError::NotFound) => return told(path, "is not there".to_owned()),
        Err(_) => return None,
        Ok(stat) if stat.kind == Kind::Directory => return told(path, "is a directory".to_owned()),
        Ok(stat) if stat.mode.is_some_and(|mode| mode & 0o111 == 0) => {
            let mode = stat.mode.unwrap_or(0);
            return told(path, format!("may not be executed (mode {mode:o})"));
        }
        Ok(stat) if stat.len == 0 => return told(path, "is empty".to_owned()),
        Ok(_) => {}
    }
    let head = tree.head(path, 256).ok()?;
    if let Some(script) = head.strip_prefix(b"#!") {
        let line = crate::text::lossy(script.split(|byte| *byte == b'\n').next().unwrap_or_default());
        let shell = line.split_whitespace().next().unwrap_or_default().to_owned();
        return match tree.exists(&shell) || shell.is_empty() {
            true => None,
            false => told(path, format!("is run by {shell}, which is not there")),
        };
    }
    let program = match read(tree, path)? {
        Ok(program) => program,
        Err(why) => return told(path, why),
    };
    if let Some(loader) = &program.interpreter {
        match tree.stat(loader) {
            Err(FsError::NotFound) => {
                return told(loader, format!("is not there, and {path} is loaded by it"));
            }
            Ok(stat) if stat.mode.is_some_and(|mode| mode & 0o111 == 0) => {
                return told(loader, "may not be executed".to_owned());
            }
            Ok(_) => {
                if let Some(Err(why)) = read(tree, loader) {
                    return told(loader, why);
                }
            }
            Err(_) => return None,
        }
    }
    libraries(tree, path, program)
}

/// The first library that is missing or damaged.
fn libraries(tree: &Tree, path: &str, program: Program) -> Option<Fault> {
    // A static program needs none.
    program.interpreter.as_ref()?;
    let architecture = program.architecture;
    let mut seen = BTreeSet::new();
    let mut waiting = VecDeque::from([(path.to_owned(), program)]);
    let mut cache = None;
    while let Some((by, program)) = waiting.pop_front() {
        for name in &program.needed {
            if seen.len() >= MAX_LIBRARIES || !seen.insert(name.clone()) {
                continue;
            }
            let own = by.rsplit_once('/').map_or("", |(dir, _)| dir);
            let dirs = program.search.iter().map(|dir| dir.replace("${ORIGIN}", own).replace("$ORIGIN", own));
            let mut places: Vec<String> = match name.starts_with('/') {
                true => vec![name.clone()],
                false => dirs
                    .chain(DIRS.iter().map(|dir| (*dir).to_owned()))
                    .map(|dir| format!("{dir}/{name}"))
                    .collect(),
            };
            if !places.iter().any(|place| tree.exists(place)) {
                let cache =
                    cache.get_or_insert_with(|| tree.read("/etc/ld.so.cache", 8 << 20).unwrap_or_default());
                places.extend(cached(cache, name));
            }
            let mut found = None;
            for place in places.iter().filter(|place| tree.exists(place)) {
                match read(tree, place) {
                    // A library of another architecture is passed over.
                    Some(Ok(library)) if library.architecture != architecture => {}
                    Some(Ok(library)) => {
                        found = Some((place.clone(), library));
                        break;
                    }
                    Some(Err(why)) => return Some(Fault { path: place.clone(), why }),
                    None => return None,
                }
            }
            match found {
                Some(library) => waiting.push_back(library),
                None => {
                    let path = format!("/usr/lib/{name}");
                    return Some(Fault { path, why: format!("is not there, and {by} needs it") });
                }
            }
        }
    }
    None
}

/// Paths of a library in ld.so's cache: text that ends with its name.
fn cached(cache: &[u8], name: &str) -> Vec<String> {
    let end = format!("/{name}");
    cache
        .split(|byte| *byte == 0)
        .filter(|text| text.starts_with(b"/") && text.ends_with(end.as_bytes()))
        .map(crate::text::lossy)
        .collect()
}

/// Reads an ELF file. `None` when the file cannot be read; `Err` when it is no program that Linux runs.
fn read(tree: &Tree, path: &str) -> Option<Result<Program, String>> {
    let len = tree.stat(path).ok()?.len;
    let head = tree.read_at(path, 0, 4096).ok()?;
    let Some(architecture) = elf(&head) else {
        return Some(Err(match len {
            0 => "is empty".to_owned(),
            _ => "is no program: it does not begin as an ELF file".to_owned(),
        }));
    };
    // Programs of the other byte order are named by their architecture and not followed.
    if head.get(5) != Some(&1) {
        return Some(Ok(Program { architecture, ..Program::default() }));
    }
    let wide = head.get(4) == Some(&2);
    let word = |bytes: &[u8], at: usize| match wide {
        true => le64(bytes, at),
        false => le32(bytes, at).map(u64::from),
    };
    let (table, each, count) = match wide {
        true => (le64(&head, 0x20)?, le16(&head, 0x36)?, le16(&head, 0x38)?),
        false => (u64::from(le32(&head, 0x1c)?), le16(&head, 0x2a)?, le16(&head, 0x2c)?),
    };
    let size = usize::from(each).checked_mul(usize::from(count).min(MAX_HEADERS))?;
    let headers = tree.read_at(path, table, size).ok()?;
    let mut program = Program { architecture, ..Program::default() };
    let (mut loads, mut dynamic) = (Vec::new(), None);
    for header in headers.chunks_exact(usize::from(each.max(1))) {
        let (offset, address, filesz) = match wide {
            true => (le64(header, 8)?, le64(header, 16)?, le64(header, 32)?),
            false => (word(header, 4)?, word(header, 8)?, word(header, 16)?),
        };
        match le32(header, 0)? {
            // PT_LOAD
            1 => {
                let end = offset.saturating_add(filesz);
                if end > len {
                    return Some(Err(format!("is cut: it has {len} bytes, its header names {end}")));
                }
                loads.push((address, offset, filesz));
            }
            // PT_DYNAMIC
            2 => dynamic = Some((offset, filesz)),
            // PT_INTERP
            3 => {
                let bytes = tree.read_at(path, offset, usize::try_from(filesz.min(4096)).ok()?).ok()?;
                program.interpreter = Some(crate::text::label(&bytes));
            }
            _ => {}
        }
    }
    if headers.len() < size || loads.is_empty() {
        return Some(Err(format!("is cut: it has {len} bytes")));
    }
    if let Some((at, size)) = dynamic {
        take_dynamic(tree, path, (at, size), wide, &loads, &mut program)?;
    }
    Some(Ok(program))
}

/// Names of libraries and of directories, from the dynamic section.
fn take_dynamic(
    tree: &Tree,
    path: &str,
    (at, size): (u64, u64),
    wide: bool,
    loads: &[(u64, u64, u64)],
    program: &mut Program,
) -> Option<()> {
    let size = usize::try_from(size).ok()?.min(MAX_DYNAMIC);
    let bytes = tree.read_at(path, at, size).ok()?;
    let (mut needed, mut search, mut strings, mut strings_len) = (Vec::new(), Vec::new(), None, 0);
    for entry in bytes.chunks_exact(if wide { 16 } else { 8 }) {
        let (tag, value) = match wide {
            true => (le64(entry, 0)?, le64(entry, 8)?),
            false => (u64::from(le32(entry, 0)?), u64::from(le32(entry, 4)?)),
        };
        match tag {
            0 => break,
            1 => needed.push(value),
            5 => strings = Some(value),
            10 => strings_len = value,
            15 | 29 => search.push(value),
            _ => {}
        }
    }
    let address = strings?;
    let (base, offset, _) =
        loads.iter().find(|(base, _, filesz)| address >= *base && address < base.saturating_add(*filesz))?;
    let place = address.checked_sub(*base)?.checked_add(*offset)?;
    let text = tree.read_at(path, place, usize::try_from(strings_len).ok()?.min(MAX_STRINGS)).ok()?;
    let name = |at: u64| Some(crate::text::label(text.get(usize::try_from(at).ok()?..)?));
    program.needed = needed.into_iter().filter_map(name).filter(|name| !name.is_empty()).collect();
    program.search = search
        .into_iter()
        .filter_map(name)
        .flat_map(|list| list.split(':').map(str::to_owned).collect::<Vec<_>>())
        .filter(|dir| !dir.is_empty())
        .collect();
    Some(())
}

/// What a program runs on, by its ELF header; `None` when it is no program of that kind.
#[must_use]
pub fn architecture(tree: &Tree, path: &str) -> Option<&'static str> {
    elf(&tree.head(path, 20).ok()?)
}
