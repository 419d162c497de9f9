//! Header extensions: a list of typed sections between the header and the backing file's name.

use kiln_disk::{Error, FileOffset};

use super::header::{Header, bad};
use super::problem::Qcow2Problem;
use crate::wire::{be32, be64};

pub(super) const BACKING_FORMAT: u32 = 0xe279_2aca;
pub(super) const FEATURE_NAMES: u32 = 0x6803_f857;
pub(super) const BITMAPS: u32 = 0x2385_2875;
pub(super) const ENCRYPTION: u32 = 0x0537_be77;
/// Kiln's own, "KILN": the content digest of the disk that a layer was written upon, 32 bytes. It keeps the same change
/// to two disks apart; nothing is opened by it.
pub(super) const LAYER: u32 = 0x4b49_4c4e;
pub(super) const DATA_FILE: u32 = 0x4441_5441;

/// Which of the three feature fields a name belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeatureKind {
    Incompatible,
    Compatible,
    Autoclear,
}

/// A row of the feature name table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FeatureName {
    pub(super) kind: FeatureKind,
    pub(super) bit: u8,
    pub(super) name: String,
}

/// Where the bitmap directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BitmapsAt {
    pub(super) count: u32,
    pub(super) directory_size: u64,
    pub(super) directory_offset: u64,
    /// Place of the extension's data in the file, for messages.
    pub(super) field: u64,
}

/// What the extensions say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Extensions {
    pub(super) backing_format: Option<String>,
    pub(super) data_file: Option<String>,
    pub(super) features: Vec<FeatureName>,
    pub(super) bitmaps: Option<BitmapsAt>,
    /// Types that this reader does not know; the specification lets it ignore them.
    pub(super) unknown: Vec<u32>,
}

impl Extensions {
    /// Reads the extensions in `cluster`, the bytes of the first cluster. Also answers what is wrong with them; the
    /// list ends at the first section that cannot be delimited.
    pub(super) fn decode(cluster: &[u8], header: &Header) -> (Self, Vec<Error>) {
        let mut found = Self::default();
        let mut doubts = Vec::new();
        let mut seen = Vec::new();
        let mut at = usize::try_from(header.header_length).unwrap_or(usize::MAX);
        // A backing file name ends the area: old files have it right behind the header.
        let end = match usize::try_from(header.backing_file_offset) {
            Ok(name) if name != 0 && name < cluster.len() => name,
            _ => cluster.len(),
        };
        while let Some(area) = cluster.get(at..end) {
            let (Some(kind), Some(len)) = (be32(area, 0), be32(area, 4)) else { break };
            if kind == 0 {
                break;
            }
            let here = u64::try_from(at).unwrap_or(u64::MAX);
            let room = area.len().saturating_sub(8);
            let Some(data) = usize::try_from(len).ok().and_then(|len| area.get(8..)?.get(..len)) else {
                let room = u64::try_from(room).unwrap_or(u64::MAX);
                doubts.push(malformed(here, Qcow2Problem::ExtensionPastEnd { kind, len, room }));
                break;
            };
            let known =
                [BACKING_FORMAT, FEATURE_NAMES, BITMAPS, ENCRYPTION, DATA_FILE, LAYER].contains(&kind);
            if known && seen.contains(&kind) {
                doubts.push(malformed(here, Qcow2Problem::ExtensionTwice { kind }));
            } else if known {
                seen.push(kind);
                found.take(kind, data, here, &mut doubts);
            } else if found.unknown.len() < MOST_UNKNOWN {
                found.unknown.push(kind);
            }
            let padded = data.len().checked_next_multiple_of(8).unwrap_or(usize::MAX);
            at = at.saturating_add(8).saturating_add(padded);
        }
        (found, doubts)
    }

    fn take(&mut self, kind: u32, data: &[u8], here: u64, doubts: &mut Vec<Error>) {
        match kind {
            BACKING_FORMAT => self.backing_format = Some(text(data)),
            DATA_FILE => self.data_file = Some(text(data)),
            FEATURE_NAMES => {
                self.features = data.chunks_exact(48).take(MOST_FEATURES).filter_map(feature).collect();
            }
            BITMAPS => {
                let (Some(count), Some(size), Some(offset), 24) =
                    (be32(data, 0), be64(data, 8), be64(data, 16), data.len())
                else {
                    let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
                    doubts.push(malformed(here, Qcow2Problem::ExtensionLength { kind, len, expected: 24 }));
                    return;
                };
                self.bitmaps = Some(BitmapsAt {
                    count,
                    directory_size: size,
                    directory_offset: offset,
                    field: here.saturating_add(8),
                });
            }
            _ => {}
        }
    }

    /// The name of a feature bit, as the file itself tells it.
    pub(super) fn feature_name(&self, kind: FeatureKind, bit: u32) -> Option<&str> {
        self.features
            .iter()
            .find(|feature| feature.kind == kind && u32::from(feature.bit) == bit)
            .map(|feature| feature.name.as_str())
    }
}

/// Unknown sections that are listed; a 2 MiB cluster has room for 256 Ki.
const MOST_UNKNOWN: usize = 64;
/// Rows of the feature name table that are kept: three fields of 64 bits.
const MOST_FEATURES: usize = 192;

fn malformed(at: u64, problem: Qcow2Problem) -> Error {
    Error::malformed("qcow2 header extension", FileOffset::new(at), problem)
}

fn text(data: &[u8]) -> String {
    String::from_utf8_lossy(data).into_owned()
}

fn feature(row: &[u8]) -> Option<FeatureName> {
    let kind = match row.first()? {
        0 => FeatureKind::Incompatible,
        1 => FeatureKind::Compatible,
        2 => FeatureKind::Autoclear,
        _ => return None,
    };
    let name = row.get(2..)?.split(|byte| *byte == 0).next()?;
    Some(FeatureName { kind, bit: *row.get(1)?, name: text(name) })
}

/// The error for incompatible bits that nobody here knows.
///
/// # Errors
/// [`Error::Unsupported`] (`qcow2.feature-unknown`), naming the bits.
pub(super) fn confirm_known_features(header: &Header, extensions: &Extensions) -> Result<(), Error> {
    let unknown = header.incompatible & !super::header::incompatible::KNOWN;
    if unknown == 0 {
        return Ok(());
    }
    let names: Vec<String> = bits(unknown)
        .map(|bit| match extensions.feature_name(FeatureKind::Incompatible, bit) {
            Some(name) => format!("bit {bit} ({})", name.escape_default()),
            None => format!("bit {bit}"),
        })
        .collect();
    Err(Error::Unsupported {
        code: "qcow2.feature-unknown",
        feature: format!("incompatible feature {}", names.join(", ")),
        hint: "a newer program made this file: convert it there to a plain qcow2",
    })
}

/// The numbers of the set bits, lowest first.
pub(super) fn bits(mask: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |bit| mask.unbounded_shr(*bit) & 1 == 1)
}

/// What the feature bits and extensions say against each other.
pub(super) fn feature_doubts(header: &Header, extensions: &Extensions) -> Vec<Error> {
    use super::header::{autoclear, incompatible};
    let mut doubts = Vec::new();
    if header.autoclear & autoclear::RAW_EXTERNAL != 0 {
        if !header.has(incompatible::DATA_FILE) {
            doubts.push(bad(88, Qcow2Problem::RawExternal { conflict: "without an external data file" }));
        } else if header.backing_file_offset != 0 {
            doubts.push(bad(88, Qcow2Problem::RawExternal { conflict: "together with a backing file" }));
        }
    }
    if header.autoclear & autoclear::BITMAPS != 0 && extensions.bitmaps.is_none() {
        doubts.push(bad(88, Qcow2Problem::BitmapsAbsent));
    }
    if header.has(incompatible::DATA_FILE) && header.nb_snapshots != 0 {
        doubts.push(bad(60, Qcow2Problem::SnapshotExternal { count: header.nb_snapshots }));
    }
    if header.has(incompatible::CORRUPT) {
        doubts.push(Error::Refused {
            code: "qcow2.corrupt",
            what: "the image is marked as corrupt by the program that last wrote to it".to_owned(),
            asked: 0,
            allowed: 0,
            hint: "kiln check lists the damage; repair a copy with qemu-img check -r all",
        });
    }
    doubts
}
