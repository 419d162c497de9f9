//! Which of the containers that a target accepts, and with what options.

use std::collections::BTreeMap;
use std::path::Path;

use kiln_disk::Error as DiskError;
use kiln_format::{Create, Format, Options, by_name};
use kiln_target::{Firmware, Output, Pack, Target};

use super::plan::{Machine, TargetRequest, machine_name, rule_of};
use super::refusal::TargetRefusal;
use crate::error::Result;

/// What will be written.
pub(super) struct Chosen<'t> {
    pub(super) output: &'t Output,
    pub(super) format: &'static Format,
    pub(super) create: Create,
}

fn wrong_row(target: &Target, what: String) -> crate::Error {
    TargetRefusal::Row { target: target.id.clone(), what }.into()
}

/// The formats that a target takes, with the endings of their files.
fn accepted(target: &Target) -> Vec<String> {
    let said = |output: &Output| match output.pack {
        Pack::None => format!("{} ({})", output.format, output.endings.join(" ")),
        Pack::OldgnuTarGz => format!("{} in {}", output.format, output.endings.join(" ")),
    };
    target.outputs.iter().map(said).collect()
}

fn ends_with(dest: &Path, output: &Output) -> bool {
    let name = dest.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    output.endings.iter().any(|ending| name.len() > ending.len() && name.ends_with(ending.as_str()))
}

/// The output: the one of the format that is asked for, else the one of the name's ending; on a pipe the preferred.
pub(super) fn output<'t>(request: &TargetRequest<'t>) -> Result<Chosen<'t>> {
    let target = request.target;
    let first = target.outputs.first().ok_or_else(|| wrong_row(target, "has no output".to_owned()))?;
    let refuse_name = |dest: &Path, among: &[&Output]| {
        Err(TargetRefusal::Name {
            target: target.id.clone(),
            name: dest.display().to_string(),
            endings: among.iter().flat_map(|output| output.endings.clone()).collect(),
            rule: rule_of(&first.source, &first.date),
        }
        .into())
    };
    let output = match (request.format, request.dest) {
        (Some(format), dest) => {
            let is_it = |output: &&Output| by_name(&output.format) == Some(format);
            let of_format: Vec<&Output> = target.outputs.iter().filter(is_it).collect();
            let Some(output) = of_format.first().copied() else {
                return Err(TargetRefusal::Format {
                    target: target.id.clone(),
                    format: format.id.to_owned(),
                    accepted: accepted(target),
                    rule: rule_of(&first.source, &first.date),
                }
                .into());
            };
            match dest {
                Some(dest) if output.ending_matters && !ends_with(dest, output) => {
                    return refuse_name(dest, &[output]);
                }
                _ => output,
            }
        }
        (None, None) => first,
        (None, Some(dest)) => match target.outputs.iter().find(|output| ends_with(dest, output)) {
            Some(output) => output,
            None => return refuse_name(dest, &target.outputs.iter().collect::<Vec<_>>()),
        },
    };
    let Some(format) = by_name(&output.format) else {
        return Err(wrong_row(target, format!("names the format {:?}, which there is not", output.format)));
    };
    let create = format.create.ok_or_else(|| DiskError::Unsupported {
        code: "format.read-only",
        feature: format!("writing {}", format.id),
        hint: "choose another output format with -O",
    })?;
    if output.pack != Pack::None && format.id != kiln_format::raw::FORMAT.id {
        return Err(wrong_row(target, format!("packs {}, and only raw disks are packed", format.id)));
    }
    Ok(Chosen { output, format, create })
}

/// The options of the writer: what the target needs, over what the user gave, over what is usual.
pub(super) fn options(
    request: &TargetRequest<'_>,
    chosen: &Chosen<'_>,
    firmware: Option<Firmware>,
) -> Result<BTreeMap<String, String>> {
    let (target, output) = (request.target, chosen.output);
    let takes = |name: &str| chosen.create.options.iter().any(|spec| spec.name == name);
    let mut options = output.defaults.clone();
    describe(request, &mut options, firmware, &takes);
    let mut needed = output.options.clone();
    let mut given: BTreeMap<String, String> = request.options.iter().cloned().collect();
    if request.compress {
        if !takes("compress") || output.pack != Pack::None {
            return Err(DiskError::Refused {
                code: "option.value",
                what: format!("{} for {} cannot be compressed further", chosen.format.id, target.id),
                asked: 0,
                allowed: 0,
                hint: "leave -c out",
            }
            .into());
        }
        given.entry("compress".to_owned()).or_insert_with(|| "on".to_owned());
    }
    if given.get("compress").is_some_and(|value| value == "on") {
        needed.extend(output.when_compressed.clone());
    }
    for (name, value) in &given {
        if let Some(needed) = needed.get(name).filter(|needed| *needed != value) {
            return Err(TargetRefusal::Option {
                target: target.id.clone(),
                option: name.clone(),
                asked: value.clone(),
                needed: needed.clone(),
                rule: rule_of(&output.source, &output.date),
            }
            .into());
        }
    }
    options.extend(given);
    options.extend(needed);
    // Unknown names are an error here, and not half-way.
    Options::new(chosen.create.options, options.clone())?;
    Ok(options)
}

/// Options by which a writer describes the machine around the disk.
fn describe(
    request: &TargetRequest<'_>,
    options: &mut BTreeMap<String, String>,
    firmware: Option<Firmware>,
    takes: &dyn Fn(&str) -> bool,
) {
    let mut say = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|_| takes(name)) {
            options.insert(name.to_owned(), value);
        }
    };
    say("name", request.dest.and_then(machine_name));
    // "efi" is the word of OVF descriptors.
    let word = |firmware| match firmware {
        Firmware::Bios => "bios".to_owned(),
        Firmware::Uefi => "efi".to_owned(),
    };
    say("firmware", firmware.map(word));
    let Machine { cpus, memory_bytes, os_type, .. } = request.machine.clone();
    say("cpus", cpus.filter(|cpus| (1..=768).contains(cpus)).map(|cpus| cpus.to_string()));
    let whole = |bytes: &u64| *bytes > 0 && bytes.is_multiple_of(4 << 20);
    say("memory", memory_bytes.filter(whole).map(|bytes| bytes.to_string()));
    let is_word = |word: &String| {
        word.len() <= 80
            && word.ends_with("Guest")
            && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    say("os_type", os_type.filter(is_word));
}
