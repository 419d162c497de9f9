//! What will be written for a target, before anything is.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::Path;

use kiln_catalog::ApplianceRecord;
use kiln_disk::digest::{HashJob, hash_disk};
use kiln_disk::{Disk, Findings, Observer, extents};
use kiln_format::layout::{Gpt, Layout};
use kiln_format::{Format, Image, Options};
use kiln_target::{Firmware, Pack, Severity, SizeRule, Target};
use serde::Serialize;

use super::choose::{self, Chosen};
use super::guest;
use super::refusal::TargetRefusal;
use super::texts::{self, PlannedSide};
use crate::appliance;
use crate::error::Result;

/// What to write for whom.
pub struct TargetRequest<'a> {
    /// For whom.
    pub target: &'a Target,
    /// The file to write; none for a pipe.
    pub dest: Option<&'a Path>,
    /// The format, when the user chose one.
    pub format: Option<&'static Format>,
    /// Options of the writer that the user gave.
    pub options: Vec<(String, String)>,
    /// Compress, where that leaves a choice.
    pub compress: bool,
    /// The machine that the disk was part of.
    pub machine: Machine,
    /// Threads to use, at least one.
    pub threads: usize,
}

/// A machine that a disk was part of, as far as it is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// How it started.
    pub firmware: Option<Firmware>,
    /// Processors.
    pub cpus: Option<u64>,
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// VMware's word for what is installed.
    pub os_type: Option<String>,
}

impl Machine {
    /// Of an image that is one disk of an appliance; nothing is known of any other.
    #[must_use]
    pub fn of_image(image: &dyn Image, part: Option<&str>) -> Self {
        appliance::record(image, part, &Findings::default()).as_ref().map(Self::of_record).unwrap_or_default()
    }

    /// Of the record that an import made.
    #[must_use]
    pub fn of_record(record: &ApplianceRecord) -> Self {
        let firmware = match record.firmware.as_deref() {
            Some("efi") => Some(Firmware::Uefi),
            Some("bios") => Some(Firmware::Bios),
            _ => None,
        };
        Self {
            firmware,
            cpus: record.cpus,
            memory_bytes: record.memory_bytes,
            os_type: record.os_type.clone(),
        }
    }
}

/// Something that is not refused and should be known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// The stable code.
    pub code: &'static str,
    /// In words.
    pub text: String,
    /// Where the rule is from; empty when it is Kiln's own.
    pub rule: String,
}

/// The backup of a GPT on its way to the new end of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GptMove {
    /// Bytes in a sector.
    pub sector_bytes: u64,
    /// The sector of the backup header in the source.
    pub from_lba: u64,
    /// Its sector in what is written.
    pub to_lba: u64,
}

/// What will be written. Sizes are bytes.
#[derive(Debug, Serialize)]
pub struct TargetPlan {
    /// Id of the target.
    pub target: String,
    /// Its name.
    pub target_name: String,
    /// Id of the container's format.
    pub format: &'static str,
    /// What the container is packed into.
    pub pack: Pack,
    /// Options of its writer, those of the target included.
    pub options: BTreeMap<String, String>,
    /// Length of the disk as it is.
    pub disk_bytes: u64,
    /// Length of the disk that is written.
    pub written_disk_bytes: u64,
    /// Zeros behind its end.
    pub padding_bytes: u64,
    /// What happens to a GPT because of that.
    pub gpt: Option<GptMove>,
    /// What the partition table says.
    pub layout: Layout,
    /// How machines will start from it.
    pub firmware: Option<Firmware>,
    /// What should be known.
    pub warnings: Vec<Warning>,
    /// Commands that bring the file there.
    pub next: Vec<String>,
    /// Files that can go along.
    pub side_files: Vec<PlannedSide>,
    #[serde(skip)]
    pub(super) table: Option<Gpt>,
    #[serde(skip)]
    pub(super) row: &'static Format,
    #[serde(skip)]
    pub(super) resolved: Options,
    #[serde(skip)]
    pub(super) max_file: Option<SizeRule>,
}

/// Disks are written in whole sectors of 512 bytes.
const SECTOR: u64 = 512;
/// Lengths of runs that are asked for at once when data is counted.
const RUN: u64 = 1 << 40;

/// Where a rule is from, in words.
pub(super) fn rule_of(source: &str, date: &str) -> String {
    if date.is_empty() { source.to_owned() } else { format!("{source}, {date}") }
}

/// Plans what to write. Nothing is read but the disk's partition table; its map, where the target limits the
/// data on it; and its data, where the map does not settle that.
///
/// # Errors
/// [`TargetRefusal`]; `gpt.*` when a partition table that would have to move is damaged; `option.*`; I/O;
/// `Cancelled`.
pub fn plan_target(
    disk: &dyn Disk,
    request: &TargetRequest<'_>,
    observer: &dyn Observer,
) -> Result<TargetPlan> {
    let target = request.target;
    let chosen = choose::output(request)?;
    let layout = Layout::read(disk)?;
    let mut warnings = Vec::new();
    let firmware = firmware(request, &chosen, &layout)?;
    let options = choose::options(request, &chosen, firmware)?;
    guest::judge(target, &layout, &mut warnings)?;
    let (written, table) = padded(disk, target)?;
    size(target, written, &mut warnings)?;
    data(target, disk, request.threads, &mut warnings, observer)?;
    naming(request, &chosen, &mut warnings);
    let gpt = table.as_ref().map(|table| GptMove {
        sector_bytes: table.sector_bytes(),
        from_lba: table.alternate_lba(),
        to_lba: written.checked_div(table.sector_bytes()).unwrap_or(0).saturating_sub(1),
    });
    let resolved = Options::new(chosen.create.options, options.clone())?;
    let (next, side_files) = texts::of(request, &chosen, written, firmware);
    Ok(TargetPlan {
        target: target.id.clone(),
        target_name: target.name.clone(),
        format: chosen.format.id,
        pack: chosen.output.pack,
        options,
        disk_bytes: disk.disk_len(),
        written_disk_bytes: written,
        padding_bytes: written.saturating_sub(disk.disk_len()),
        gpt,
        layout,
        firmware,
        warnings,
        next,
        side_files,
        table,
        row: chosen.format,
        resolved,
        max_file: target.limits.max_file.clone().filter(|rule| rule.severity == Severity::Refuse),
    })
}

/// How machines will start: as the machine did that the disk is from, else in a way that its table shows and the
/// target does. None for a disk that shows no way: it may hold data only.
fn firmware(request: &TargetRequest<'_>, chosen: &Chosen<'_>, layout: &Layout) -> Result<Option<Firmware>> {
    let rule = &request.target.firmware;
    let own = &chosen.output.firmware;
    let accepts = if own.is_empty() { &rule.accepts } else { own };
    let ways = [(Firmware::Bios, layout.has_boot_code), (Firmware::Uefi, layout.has_esp)];
    let shown: Vec<Firmware> =
        ways.into_iter().filter(|(_, is_shown)| *is_shown).map(|(way, _)| way).collect();
    let mut both: Vec<Firmware> = shown.iter().copied().filter(|way| accepts.contains(way)).collect();
    both.sort_by_key(|way| *way != rule.prefers);
    let given =
        request.options.iter().find(|(name, _)| name == "firmware").and_then(|(_, value)| {
            match value.as_str() {
                "bios" => Some(Firmware::Bios),
                "efi" => Some(Firmware::Uefi),
                _ => None,
            }
        });
    let found = given.or(request.machine.firmware).or(both.first().copied()).or(shown.first().copied());
    match found {
        Some(found) if !accepts.contains(&found) => Err(TargetRefusal::Firmware {
            target: request.target.id.clone(),
            firmware: found.word(),
            rule: rule_of(&rule.source, &rule.date),
        }
        .into()),
        found => Ok(found),
    }
}

/// Length of the disk that is written, and its partition table when that has to move.
fn padded(disk: &dyn Disk, target: &Target) -> Result<(u64, Option<Gpt>)> {
    let in_force = |rule: &Option<SizeRule>| match rule {
        Some(rule) if rule.severity != Severity::Off => rule.value.get(),
        _ => 0,
    };
    let unit = in_force(&target.limits.disk_multiple).max(SECTOR);
    let round = |len: u64| len.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
    let disk_len = disk.disk_len();
    let len = round(disk_len.max(in_force(&target.limits.min_disk)));
    if len == disk_len {
        return Ok((len, None));
    }
    match Gpt::read(disk)? {
        None => Ok((len, None)),
        Some(table) => Ok((round(len.max(table.least_len())), Some(table))),
    }
}

/// Holds a number against a rule: refused, mentioned or nothing.
fn hold(
    bytes: u64,
    rule: &SizeRule,
    warnings: &mut Vec<Warning>,
    refusal: impl FnOnce(u64, String) -> TargetRefusal,
) -> Result<()> {
    if bytes <= rule.value.get() {
        return Ok(());
    }
    let refusal = refusal(rule.value.get(), rule_of(&rule.source, &rule.date));
    match rule.severity {
        Severity::Off => {}
        Severity::Warn => {
            let rule = rule_of(&rule.source, &rule.date);
            let text = refusal.to_string();
            let text = text.strip_suffix(&format!(" ({rule})")).unwrap_or(&text).to_owned();
            warnings.push(Warning { code: refusal.code(), text, rule });
        }
        Severity::Refuse => return Err(refusal.into()),
    }
    Ok(())
}

fn size(target: &Target, bytes: u64, warnings: &mut Vec<Warning>) -> Result<()> {
    let Some(rule) = &target.limits.max_disk else { return Ok(()) };
    let target = target.id.clone();
    hold(bytes, rule, warnings, |allowed, rule| TargetRefusal::DiskSize { target, bytes, allowed, rule })
}

/// The data on the disk against the target's limit. The map gives an upper bound for nothing; only where that is
/// too much is the data read and zeros are taken off.
fn data(
    target: &Target,
    disk: &dyn Disk,
    threads: usize,
    warnings: &mut Vec<Warning>,
    observer: &dyn Observer,
) -> Result<()> {
    let Some(rule) = target.limits.max_data.as_ref().filter(|rule| rule.severity != Severity::Off) else {
        return Ok(());
    };
    if disk.disk_len() <= rule.value.get() {
        return Ok(());
    }
    let mut mapped = 0_u64;
    for extent in extents(disk, NonZeroU64::new(RUN).unwrap_or(NonZeroU64::MIN)) {
        let extent = extent?;
        if extent.kind.is_data() {
            mapped = mapped.saturating_add(extent.len.get());
        }
        if mapped > rule.value.get() {
            break;
        }
    }
    if mapped <= rule.value.get() {
        return Ok(());
    }
    let job = HashJob { threads: threads.max(1), leaves: None, raw: false };
    let bytes = hash_disk(disk, job, observer)?.data_bytes;
    let target = target.id.clone();
    hold(bytes, rule, warnings, |allowed, rule| TargetRefusal::DataSize { target, bytes, allowed, rule })
}

/// The stem of the file's name is likely to become the image's name.
fn naming(request: &TargetRequest<'_>, chosen: &Chosen<'_>, warnings: &mut Vec<Warning>) {
    let (Some(rule), Some(_)) = (&request.target.naming, request.dest) else { return };
    let stem = texts::stem(request, chosen);
    let chars = u64::try_from(stem.chars().count()).unwrap_or(u64::MAX);
    let least = rule.min_chars.unwrap_or(0);
    let most = rule.max_chars.unwrap_or(u64::MAX);
    if !(least..=most).contains(&chars) {
        let most = rule.max_chars.map_or_else(String::new, |most| format!(" and at most {most}"));
        warnings.push(Warning {
            code: "target.name-length",
            text: format!(
                "the image cannot be called {stem:?} there: a name has at least {least}{most} characters"
            ),
            rule: rule_of(&rule.source, &rule.date),
        });
    }
}

/// The name of a machine whose file is `dest`: the file's, where that is a name that a machine can have.
#[must_use]
pub fn machine_name(dest: &Path) -> Option<String> {
    let stem = dest.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let fits =
        !stem.is_empty() && stem.len() <= 80 && !stem.starts_with(['.', '-']) && stem.chars().all(plain);
    fits.then(|| stem.to_owned())
}
