//! The table: the rows that are compiled in, and what the user's file makes of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::{Table, Value};

use crate::error::{Error, Result};
use crate::row::Target;
use crate::template;

/// A file of targets has some kilobytes; more is not one.
pub const MAX_FILE_LEN: u64 = 1 << 20;

/// The rows that are compiled in, in the order of the listing.
const ROWS: [(&str, &str); 15] = [
    ("tencent", include_str!("../rows/tencent.toml")),
    ("aws", include_str!("../rows/aws.toml")),
    ("azure", include_str!("../rows/azure.toml")),
    ("gcp", include_str!("../rows/gcp.toml")),
    ("alibaba", include_str!("../rows/alibaba.toml")),
    ("openstack", include_str!("../rows/openstack.toml")),
    ("kvm", include_str!("../rows/kvm.toml")),
    ("proxmox", include_str!("../rows/proxmox.toml")),
    ("hyper-v", include_str!("../rows/hyper-v.toml")),
    ("vmware", include_str!("../rows/vmware.toml")),
    ("vsphere-legacy", include_str!("../rows/vsphere-legacy.toml")),
    ("virtualbox", include_str!("../rows/virtualbox.toml")),
    ("digitalocean", include_str!("../rows/digitalocean.toml")),
    ("oracle", include_str!("../rows/oracle.toml")),
    ("hetzner", include_str!("../rows/hetzner.toml")),
];

/// All targets.
#[derive(Debug, Clone, PartialEq)]
pub struct Targets {
    rows: Vec<Target>,
    /// The rows as tables, for rows that are based on them.
    tables: BTreeMap<String, Table>,
}

/// A file of targets: `[target.NAME]` tables.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    target: Table,
}

impl Targets {
    /// The rows that are compiled in.
    ///
    /// # Errors
    /// None: a test reads all of them.
    pub fn builtin() -> Result<Self> {
        let mut targets = Self { rows: Vec::new(), tables: BTreeMap::new() };
        for (id, text) in ROWS {
            let file = format!("rows/{id}.toml");
            let table: Table = text.parse().map_err(|source| Error::Syntax { file: file.clone(), source })?;
            targets.take(&file, id, table)?;
        }
        targets.names_are_unique("rows")?;
        Ok(targets)
    }

    /// These targets, changed and added to by the text of a file, which is called `file` in messages. A table
    /// `[target.NAME]` of a known name changes that row: its keys replace those of the row, tables key by key, lists
    /// and rules as a whole. One of a new name is a new row, over the row that its key `base` names. What such a
    /// file says without a source is said by the file.
    ///
    /// # Errors
    /// [`Error`]; these targets are then as they were.
    pub fn with_file(&self, file: &str, text: &str) -> Result<Self> {
        let parsed: File =
            toml::from_str(text).map_err(|source| Error::Syntax { file: file.to_owned(), source })?;
        let mut targets = self.clone();
        for (id, value) in parsed.target {
            let Value::Table(table) = value else {
                return Err(incomplete(file, &id, "is not a table: write [target.NAME] and its keys below"));
            };
            targets.take(file, &id, table)?;
        }
        targets.names_are_unique(file)?;
        Ok(targets)
    }

    /// All rows, in order.
    #[must_use]
    pub fn rows(&self) -> &[Target] {
        &self.rows
    }

    /// The row of this name.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn find(&self, name: &str) -> Result<&Target> {
        self.rows.iter().find(|row| row.is_called(name)).ok_or_else(|| Error::Unknown {
            name: name.chars().take(80).collect(),
            known: self.rows.iter().map(|row| row.id.clone()).collect(),
        })
    }

    /// Takes a row, new or changed.
    fn take(&mut self, file: &str, id: &str, mut table: Table) -> Result<()> {
        let is_id = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        if id.is_empty() || id.len() > 40 || !id.chars().all(is_id) {
            return Err(incomplete(file, id, "has a name of other characters than a-z, 0-9, -, _ and ."));
        }
        let base = match table.remove("base") {
            None => None,
            Some(Value::String(base)) => Some(base),
            Some(_) => return Err(incomplete(file, id, "has a base that is no string")),
        };
        let known = self.tables.get(id).map(|table| (table, false));
        let below = match (&base, known) {
            (None, known) => known,
            (Some(base), _) => {
                let row = self.find(base).map_err(|_| Error::Base {
                    file: file.to_owned(),
                    target: id.to_owned(),
                    base: base.chars().take(80).collect(),
                })?;
                self.tables.get(&row.id).map(|table| (table, true))
            }
        };
        let table = match below {
            None => table,
            Some((below, is_other)) => {
                let mut merged = below.clone();
                if is_other {
                    // Another target is not called as its base.
                    merged.remove("aliases");
                }
                merge(&mut merged, table);
                merged
            }
        };
        let row = read(file, id, &table)?;
        match self.rows.iter_mut().find(|known| known.id == id) {
            Some(known) => *known = row,
            None => self.rows.push(row),
        }
        self.tables.insert(id.to_owned(), table);
        Ok(())
    }

    fn names_are_unique(&self, file: &str) -> Result<()> {
        let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
        for row in &self.rows {
            for name in [&row.id].into_iter().chain(&row.aliases) {
                if let Some(first) = seen.insert(name, &row.id) {
                    return Err(Error::Name {
                        file: file.to_owned(),
                        name: name.clone(),
                        first: first.to_owned(),
                        second: row.id.clone(),
                    });
                }
            }
        }
        Ok(())
    }
}

/// Keys that stand for one rule each: a part of another's rule would come with the wrong source.
const WHOLE: [&str; 7] =
    ["max_disk", "min_disk", "disk_multiple", "max_data", "max_file", "naming", "firmware"];

/// Puts `over` on `below`: tables key by key, everything else replaced.
fn merge(below: &mut Table, over: Table) {
    for (key, value) in over {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) if !is_rule(&key, &new) => merge(old, new),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

fn is_rule(key: &str, table: &Table) -> bool {
    WHOLE.contains(&key) || table.contains_key("severity")
}

/// The short form of a limit, `max_disk = "2T"`, in full.
fn spell_out(table: &mut Table) {
    let Some(Value::Table(limits)) = table.get_mut("limits") else { return };
    for (_, rule) in limits.iter_mut() {
        if matches!(rule, Value::String(_) | Value::Integer(_)) {
            let value = std::mem::replace(rule, Value::Boolean(false));
            *rule = Value::Table(Table::from_iter([("value".to_owned(), value)]));
        }
    }
}

fn read(file: &str, id: &str, table: &Table) -> Result<Target> {
    let mut table = table.clone();
    spell_out(&mut table);
    let row = |source| Error::Row { file: file.to_owned(), target: id.to_owned(), source };
    let mut target = Target::deserialize(Value::Table(table)).map_err(row)?;
    id.clone_into(&mut target.id);
    for source in target.sources_mut().filter(|source| source.is_empty()) {
        file.clone_into(source);
    }
    let wrong = |what: String| Err(incomplete(file, id, &what));
    if target.outputs.is_empty() || target.outputs.iter().any(|output| output.endings.is_empty()) {
        return wrong("needs an output with an ending".to_owned());
    }
    let dotted = |ending: &String| ending.starts_with('.') && ending.len() > 1 && !ending.contains('/');
    if !target.outputs.iter().flat_map(|output| &output.endings).all(dotted) {
        return wrong("has an ending that does not begin with a dot".to_owned());
    }
    if !target.firmware.accepts.contains(&target.firmware.prefers) {
        return wrong("prefers a firmware that it does not accept".to_owned());
    }
    if target.side_files.iter().any(|side| side.name.contains(['/', '\0']) || side.name.starts_with('.')) {
        return wrong("has a side file whose name is a path".to_owned());
    }
    let known = |name: &str| template::KNOWN.contains(&name) || target.words.contains_key(name);
    let sides = target.side_files.iter().flat_map(|side| [&side.name, &side.text]);
    let words = target.words.values().flat_map(|words| [&words.bios, &words.uefi]);
    for text in target.next.iter().chain(sides) {
        if let Some(name) = template::unknown(text, known) {
            return wrong(format!("has a text with @{name}@, which is nothing that can be filled in"));
        }
    }
    for text in words {
        if let Some(name) = template::unknown(text, |_| false) {
            return wrong(format!("has a word with @{name}@: words are put in as they are"));
        }
    }
    Ok(target)
}

fn incomplete(file: &str, target: &str, what: &str) -> Error {
    Error::Incomplete {
        file: file.to_owned(),
        target: target.chars().take(80).collect(),
        what: what.chars().take(200).collect(),
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
