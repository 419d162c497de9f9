//! What is said to the user and to other programs: the next commands, and side files.

use std::collections::BTreeMap;

use kiln_target::{Escape, Firmware, Values, fill};
use serde::Serialize;

use super::choose::Chosen;
use super::plan::TargetRequest;

/// A file that can go along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedSide {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub purpose: String,
    /// Its text.
    pub text: String,
}

/// The file's name without the ending that the target knows; on a pipe, a name to stand for it.
pub(super) fn stem(request: &TargetRequest<'_>, chosen: &Chosen<'_>) -> String {
    let name = file_name(request, chosen);
    let lower = name.to_ascii_lowercase();
    let ending = chosen.output.endings.iter().find(|ending| lower.ends_with(ending.as_str()));
    let cut = ending.and_then(|ending| name.get(..name.len().saturating_sub(ending.len())));
    let stem = cut.or_else(|| name.rsplit_once('.').map(|(stem, _)| stem)).unwrap_or(&name);
    if stem.is_empty() { name } else { stem.to_owned() }
}

fn file_name(request: &TargetRequest<'_>, chosen: &Chosen<'_>) -> String {
    match request.dest.and_then(|dest| dest.file_name()) {
        Some(name) => name.to_string_lossy().into_owned(),
        None => format!("image{}", chosen.output.endings.first().map_or("", String::as_str)),
    }
}

/// The commands and the side files.
pub(super) fn of(
    request: &TargetRequest<'_>,
    chosen: &Chosen<'_>,
    disk_bytes: u64,
    firmware: Option<Firmware>,
) -> (Vec<String>, Vec<PlannedSide>) {
    let target = request.target;
    // Whoever shows no way to start gets the words of the way that shows least.
    let firmware = firmware.unwrap_or(Firmware::Bios);
    let file_name = file_name(request, chosen);
    let stem = stem(request, chosen);
    let file = request.dest.map_or_else(|| file_name.clone(), |dest| dest.to_string_lossy().into_owned());
    let format_word = chosen.output.word.clone().unwrap_or_else(|| chosen.format.id.to_owned());
    let values: Values = [
        ("file", file),
        ("file_name", file_name),
        ("stem", stem),
        ("disk_bytes", disk_bytes.to_string()),
        ("disk_gib", disk_bytes.div_ceil(1 << 30).to_string()),
        ("firmware", firmware.word().to_owned()),
        ("format_word", format_word),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    let words: Values = target
        .words
        .iter()
        .map(|(name, words)| {
            let word = match firmware {
                Firmware::Bios => &words.bios,
                Firmware::Uefi => &words.uefi,
            };
            (name.clone(), word.clone())
        })
        .collect();
    let next = target.next.iter().map(|line| fill(line, &values, &words, Escape::Shell)).collect();
    let plain = BTreeMap::from([("stem".to_owned(), values.get("stem").cloned().unwrap_or_default())]);
    let sides = target.side_files.iter().map(|side| PlannedSide {
        // A name is no text of a language: nothing is escaped in it.
        name: fill(&side.name, &Values::new(), &plain, Escape::Shell),
        purpose: side.purpose.clone(),
        text: fill(&side.text, &values, &words, side.escape).trim_start_matches('\n').to_owned(),
    });
    (next, sides.collect())
}
