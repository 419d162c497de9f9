//! What QEMU 10.0 says of the same file in other words: for scripts that read `qemu-img --output=json`.

use kiln_disk::{Extent, ExtentKind, Finding, Severity};
use serde::Serialize;

use crate::facts::{DetailValue, Facts};
use crate::identify::CheckReport;
use crate::image::Image;
use crate::table::{Format, by_name};

/// QEMU's name of a format: our id or one of its aliases. The one that QEMU uses for VHD is "vpc".
#[must_use]
pub fn name(id: &'static str) -> &'static str {
    let aliases = by_name(id).map_or(&[][..], |format| format.aliases);
    aliases.iter().copied().find(|alias| *alias == "vpc").unwrap_or(id)
}

/// An entry of `qemu-img map --output=json`, its keys in QEMU's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MapEntry {
    start: u64,
    length: u64,
    depth: u16,
    present: bool,
    zero: bool,
    data: bool,
    compressed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
}

/// How QEMU's driver of a format talks of what is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Driver {
    /// A hole is not in the file: qcow2, VMDK.
    Absent,
    /// A hole is in the file and is zeros, and a block of this many bytes is data from end to end, whatever holes
    /// the file has in it: VDI, dynamic VHD.
    Blocks(u64),
    /// A hole has its place in the file: raw.
    Placed,
    /// As raw, and QEMU also calls it data: fixed VHD.
    PlacedData,
    /// The driver does not say what is stored: one entry for the whole disk.
    Mute,
}

/// Turns extents, in order and joined where they continue each other, into QEMU's entries.
///
/// Where QEMU knows more than extents tell, it is left out: of a chain of files, `depth` is only right for data.
#[derive(Debug)]
pub struct Map {
    driver: Driver,
    disk_len: u64,
    pending: Option<MapEntry>,
}

impl Map {
    /// For an image.
    #[must_use]
    pub fn of(image: &dyn Image) -> Self {
        let facts = image.facts();
        let driver = match (facts.format, facts.variant.as_str()) {
            ("vhdx", _) => Driver::Mute,
            ("vhd", variant) if variant.contains("fixed") => Driver::PlacedData,
            ("vhd" | "vdi", _) => Driver::Blocks(facts.unit_bytes.unwrap_or(1).max(1)),
            ("raw", _) => Driver::Placed,
            _ => Driver::Absent,
        };
        Self { driver, disk_len: image.disk_len(), pending: None }
    }

    /// Takes the next extent; answers the entry that it ends, if it ends one.
    pub fn push(&mut self, extent: &Extent) -> Option<MapEntry> {
        let entry = self.whole_block(self.entry(extent))?;
        match &mut self.pending {
            Some(before) if continues(before, &entry) => {
                before.length = before.length.saturating_add(entry.length);
                None
            }
            _ => self.pending.replace(entry),
        }
    }

    /// Data as the whole block that it is in; `None` where that was said before.
    fn whole_block(&mut self, entry: MapEntry) -> Option<MapEntry> {
        let Driver::Blocks(unit) = self.driver else { return Some(entry) };
        let end = entry.start.saturating_add(entry.length);
        let said = self.pending.map_or(0, |before| before.start.saturating_add(before.length));
        if !entry.data {
            let length = end.checked_sub(said.max(entry.start)).filter(|length| *length > 0)?;
            return Some(MapEntry { start: said.max(entry.start), length, ..entry });
        }
        let block = entry.start.saturating_sub(entry.start.checked_rem(unit).unwrap_or(0));
        let block_end = end.checked_next_multiple_of(unit).unwrap_or(end).min(self.disk_len);
        // Zeros before it in the same block were no entry of their own.
        let before = self.pending.filter(|before| !before.data && before.start < block);
        let start = match self.pending {
            Some(MapEntry { data: true, .. }) => block.max(said),
            _ => block,
        };
        if self.pending.is_some_and(|before| !before.data) {
            self.pending =
                before.map(|before| MapEntry { length: block.saturating_sub(before.start), ..before });
        }
        let length = block_end.checked_sub(start).filter(|length| *length > 0)?;
        let offset = entry.offset.map(|at| at.saturating_sub(entry.start.saturating_sub(start)));
        Some(MapEntry { start, length, offset, ..entry })
    }

    /// The last entry.
    #[must_use]
    pub fn finish(self) -> Option<MapEntry> {
        self.pending
    }

    fn entry(&self, extent: &Extent) -> MapEntry {
        let start = extent.start.get();
        let entry = MapEntry {
            start,
            length: extent.len.get(),
            depth: 0,
            present: true,
            zero: false,
            data: true,
            compressed: false,
            offset: None,
        };
        let empty = MapEntry { zero: true, data: false, ..entry };
        match (extent.kind, self.driver) {
            (_, Driver::Mute) => entry,
            (ExtentKind::Data { file, at }, _) => MapEntry { depth: file, offset: Some(at.get()), ..entry },
            (ExtentKind::Encoded, _) => MapEntry { compressed: true, ..entry },
            (ExtentKind::Zero | ExtentKind::Hole, Driver::Placed) => {
                MapEntry { offset: Some(start), ..empty }
            }
            (ExtentKind::Zero | ExtentKind::Hole, Driver::PlacedData) => {
                MapEntry { data: true, offset: Some(start), ..empty }
            }
            (ExtentKind::Hole, Driver::Absent) => MapEntry { present: false, ..empty },
            (ExtentKind::Zero, _) | (ExtentKind::Hole, Driver::Blocks(_)) => empty,
        }
    }
}

fn continues(before: &MapEntry, next: &MapEntry) -> bool {
    let offset = before.offset.and_then(|at| at.checked_add(before.length));
    let same = MapEntry { start: before.start, length: before.length, offset: before.offset, ..*next };
    same == *before && offset == next.offset
}

/// `qemu-img check --output=json`; what is zero and may be absent is absent, as there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    #[serde(skip_serializing_if = "Option::is_none")]
    image_end_offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    total_clusters: Option<u64>,
    check_errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    corruptions: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leaks: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fragmented_clusters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allocated_clusters: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    compressed_clusters: Option<u64>,
    filename: String,
    format: &'static str,
}

impl Check {
    /// The report on the file called `filename`. Findings that QEMU has no word for count as corruptions when they
    /// fail, as leaks when they are about space; QEMU counts those of qcow2 only.
    #[must_use]
    pub fn of(report: &CheckReport, clusters: Option<Clusters>, filename: &str) -> Self {
        let count = |severity: Severity| {
            let kept = report.findings.list().iter().filter(|one: &&Finding| one.check.severity == severity);
            let mut ids: Vec<&str> = kept.map(|one| one.check.id).collect();
            ids.sort_unstable();
            ids.dedup();
            ids.into_iter().map(|id| report.findings.count_of(id)).fold(0, u64::saturating_add)
        };
        let some = |number: u64| Some(number).filter(|number| *number > 0);
        Self {
            image_end_offset: clusters.map(|clusters| clusters.end),
            total_clusters: clusters.and_then(|clusters| some(clusters.total)),
            check_errors: count(Severity::Fatal),
            corruptions: some(count(Severity::Damage)),
            leaks: clusters.and_then(|_| some(count(Severity::Waste))),
            fragmented_clusters: clusters.and_then(|clusters| some(clusters.fragmented)),
            allocated_clusters: clusters.and_then(|clusters| some(clusters.allocated)),
            compressed_clusters: clusters.and_then(|clusters| some(clusters.compressed)),
            filename: filename.to_owned(),
            format: name(report.format.map_or("raw", |format: &Format| format.id)),
        }
    }
}

/// How the clusters of a qcow2 disk are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clusters {
    /// Of the virtual disk.
    pub total: u64,
    /// With data of their own.
    pub allocated: u64,
    /// Of these, compressed.
    pub compressed: u64,
    /// Of these, not where the one before ends.
    pub fragmented: u64,
    /// The first byte behind the last cluster of the file.
    pub end: u64,
}

impl Clusters {
    /// Counts them, where the format has clusters that QEMU counts.
    ///
    /// # Errors
    /// Whatever mapping the disk says; [`kiln_disk::Error::Cancelled`].
    pub fn of(
        image: &dyn Image,
        facts: &Facts,
        observer: &dyn kiln_disk::Observer,
    ) -> kiln_disk::Result<Option<Self>> {
        let Some(unit) = facts.unit_bytes.filter(|unit| facts.format == "qcow2" && *unit > 0) else {
            return Ok(None);
        };
        let mut counts = Self {
            total: image.disk_len().div_ceil(unit),
            end: facts.file_bytes.checked_next_multiple_of(unit).unwrap_or(facts.file_bytes),
            ..Self::default()
        };
        // QEMU looks for fragments within one L2 table at a time; an entry of one has 8 bytes, or 16.
        let extended =
            facts.details.iter().any(|one| one.name == "extended_l2" && one.value == DetailValue::Flag(true));
        let covered = (unit >> if extended { 4 } else { 3 }).saturating_mul(unit).max(1);
        let table = |at: u64| at.checked_div(covered);
        let mut expected: Option<(u64, u64)> = None;
        for extent in kiln_disk::extents(image, std::num::NonZeroU64::MAX) {
            kiln_disk::go_on(observer)?;
            let extent = extent?;
            let clusters = extent.len.get().div_ceil(unit);
            match extent.kind {
                ExtentKind::Data { file: 0, at } => {
                    counts.allocated = counts.allocated.saturating_add(clusters);
                    let start = extent.start.get();
                    if expected.is_some_and(|(end, next)| {
                        table(end.saturating_sub(1)) == table(start) && next != at.get()
                    }) {
                        counts.fragmented = counts.fragmented.saturating_add(1);
                    }
                    let next = at.get().saturating_add(clusters.saturating_mul(unit));
                    expected = Some((extent.end().get(), next));
                }
                ExtentKind::Encoded => {
                    counts.allocated = counts.allocated.saturating_add(clusters);
                    counts.compressed = counts.compressed.saturating_add(clusters);
                    // QEMU counts every compressed cluster as fragmented.
                    counts.fragmented = counts.fragmented.saturating_add(clusters);
                }
                _ => {}
            }
        }
        Ok(Some(counts))
    }
}
