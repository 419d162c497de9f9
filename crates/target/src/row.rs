//! What a row of the table says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::guest::Impact;
use crate::size::ByteSize;

/// A place where an image should run, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// The id: `azure`. The key of the row's table in a file.
    #[serde(skip_deserializing)]
    pub id: String,
    /// Other names that users type.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The name in full.
    pub name: String,
    /// What it accepts, what it likes best first. At least one.
    #[serde(rename = "output")]
    pub outputs: Vec<Output>,
    /// Limits of sizes.
    #[serde(default)]
    pub limits: Limits,
    /// How the file or the image made of it may be called.
    #[serde(default)]
    pub naming: Option<Naming>,
    /// How machines start there.
    pub firmware: FirmwareRule,
    /// What it thinks of a guest: id of a check to how bad that is there.
    #[serde(default)]
    pub guest: BTreeMap<String, GuestRule>,
    /// How bad what is found inside a guest is here: id of a rule of `kiln check --for` to its severity.
    #[serde(default, rename = "finding")]
    pub findings: BTreeMap<String, FindingRule>,
    /// Words that depend on how the disk starts, for the texts below.
    #[serde(default)]
    pub words: BTreeMap<String, FirmwareWords>,
    /// Commands that bring the file there. `@...@` are filled in; words in capitals are the user's to fill in.
    #[serde(default)]
    pub next: Vec<String>,
    /// Files that go along, on request.
    #[serde(default, rename = "side_file")]
    pub side_files: Vec<SideFile>,
    /// What else is known, for people.
    #[serde(default, rename = "note")]
    pub notes: Vec<Note>,
}

/// A container that a target accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Output {
    /// Id of the format.
    pub format: String,
    /// What the file's name ends with, the dot included. The first is the usual one.
    pub endings: Vec<String>,
    /// Whether the target refuses other endings.
    #[serde(default)]
    pub ending_matters: bool,
    /// Options of the format's writer that the target needs.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Options that are set unless the user sets them.
    #[serde(default)]
    pub defaults: BTreeMap<String, String>,
    /// Options that are needed when the user asks for compression.
    #[serde(default)]
    pub when_compressed: BTreeMap<String, String>,
    /// How machines start from this container, where not in all of the target's ways.
    #[serde(default)]
    pub firmware: Vec<Firmware>,
    /// What the container is packed into.
    #[serde(default)]
    pub pack: Pack,
    /// The word that the target has for the format, for its commands.
    #[serde(default)]
    pub word: Option<String>,
    /// Where that is said: a document, a program, or the user's own file.
    #[serde(default)]
    pub source: String,
    /// Year and month of that, as far as known.
    #[serde(default)]
    pub date: String,
}

/// What a container is packed into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pack {
    /// Nothing.
    #[default]
    None,
    /// A tar archive of GNU's old form with the disk as one sparse member `disk.raw`, in gzip.
    OldgnuTarGz,
}

/// Limits of sizes, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The longest disk.
    #[serde(default)]
    pub max_disk: Option<SizeRule>,
    /// The shortest disk; a shorter one is padded.
    #[serde(default)]
    pub min_disk: Option<SizeRule>,
    /// The disk is a multiple of this; another one is padded.
    #[serde(default)]
    pub disk_multiple: Option<SizeRule>,
    /// The most data in 64 KiB blocks: what a qcow2 file of the disk would hold, before compression.
    #[serde(default)]
    pub max_data: Option<SizeRule>,
    /// The longest file.
    #[serde(default)]
    pub max_file: Option<SizeRule>,
}

/// A limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SizeRule {
    /// Bytes.
    pub value: ByteSize,
    /// What happens to a disk that breaks it.
    #[serde(default)]
    pub severity: Severity,
    /// Where that is said: a document, a program, or the user's own file.
    #[serde(default)]
    pub source: String,
    /// Year and month of that, as far as known.
    #[serde(default)]
    pub date: String,
}

/// What a rule's breach means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing: the rule is switched off.
    Off,
    /// It is mentioned.
    Warn,
    /// Nothing is written.
    #[default]
    Refuse,
}

/// How the image is called there. The stem of the file's name is held against it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Naming {
    /// The least number of characters.
    #[serde(default)]
    pub min_chars: Option<u64>,
    /// The greatest number of characters.
    #[serde(default)]
    pub max_chars: Option<u64>,
    /// Where that is said: a document, a program, or the user's own file.
    #[serde(default)]
    pub source: String,
    /// Year and month of that, as far as known.
    #[serde(default)]
    pub date: String,
}

/// How a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// From the first sector of its disk.
    Bios,
    /// By UEFI, from its EFI system partition.
    Uefi,
}

impl Firmware {
    /// The word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

/// How machines start at a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareRule {
    /// The ways there are.
    pub accepts: Vec<Firmware>,
    /// Which it takes of a disk that starts both ways.
    pub prefers: Firmware,
    /// How that is chosen, for people.
    #[serde(default)]
    pub note: String,
    /// Where that is said: a document, a program, or the user's own file.
    #[serde(default)]
    pub source: String,
    /// Year and month of that, as far as known.
    #[serde(default)]
    pub date: String,
}

/// How bad a finding about a guest is at a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestRule {
    /// What happens.
    pub severity: Severity,
    /// Why, for people: what the target does with such a disk.
    #[serde(default)]
    pub why: String,
    /// Where that is said: a document, a program, or the user's own file.
    #[serde(default)]
    pub source: String,
    /// Year and month of that, as far as known.
    #[serde(default)]
    pub date: String,
}

/// How bad something that is found inside a guest is at a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FindingRule {
    /// How bad.
    pub severity: Impact,
    /// Where that is said: a document, a program, or the user's own file.
    #[serde(default)]
    pub source: String,
    /// Year and month of that, as far as known.
    #[serde(default)]
    pub date: String,
}

/// A word for each way to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareWords {
    /// For BIOS.
    pub bios: String,
    /// For UEFI.
    pub uefi: String,
}

/// A file that goes along with the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideFile {
    /// Its name; `@stem@` is the image's file name without its ending.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// How what is filled in is written.
    pub escape: Escape,
    /// Its text.
    pub text: String,
}

/// How a text is written in a language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Escape {
    /// As a word of a POSIX shell.
    Shell,
    /// Inside a string of JSON.
    Json,
    /// As text or attribute of XML.
    Xml,
}

/// Something to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Note {
    /// In words.
    pub text: String,
    /// Where that is said: a document, a program, or the user's own file.
    #[serde(default)]
    pub source: String,
    /// Year and month of that, as far as known.
    #[serde(default)]
    pub date: String,
}

impl Target {
    /// Whether this is one of its names.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.id == name || self.aliases.iter().any(|alias| alias == name)
    }

    /// The sources of all rules.
    pub(crate) fn sources_mut(&mut self) -> impl Iterator<Item = &mut String> {
        let Self { outputs, limits, naming, firmware, guest, findings, notes, .. } = self;
        let Limits { max_disk, min_disk, disk_multiple, max_data, max_file } = limits;
        let sizes = [max_disk, min_disk, disk_multiple, max_data, max_file].into_iter().flatten();
        let rest = naming.iter_mut().map(|naming| &mut naming.source).chain([&mut firmware.source]);
        outputs
            .iter_mut()
            .map(|output| &mut output.source)
            .chain(sizes.map(|rule| &mut rule.source))
            .chain(rest)
            .chain(guest.values_mut().map(|rule| &mut rule.source))
            .chain(findings.values_mut().map(|rule| &mut rule.source))
            .chain(notes.iter_mut().map(|note| &mut note.source))
    }
}

impl Limits {
    /// The rules that there are, by the names of their keys.
    pub fn rules(&self) -> impl Iterator<Item = (&'static str, &SizeRule)> {
        [
            ("max_disk", &self.max_disk),
            ("min_disk", &self.min_disk),
            ("disk_multiple", &self.disk_multiple),
            ("max_data", &self.max_data),
            ("max_file", &self.max_file),
        ]
        .into_iter()
        .filter_map(|(name, rule)| Some((name, rule.as_ref()?)))
    }
}
