//! The region tables ([MS-VHDX] 2.2.3): where the parts of the file are.

use kiln_disk::{ByteSource, Error, FileOffset, Result};

use super::MIB;
use super::header;
use super::problem::VhdxProblem;
use crate::id::Guid;
use crate::wire::{bytes, le32, le64};

/// Where the two copies are.
pub(super) const TABLE_AT: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const TABLE_LEN: usize = 64 << 10;
pub(super) const SIGNATURE: &[u8] = b"regi";
const MAX_ENTRIES: u32 = 2047;
/// 2DC27766-F623-4200-9D64-115E9BFD4A08.
pub(super) const BAT: Guid = Guid(*b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08");
/// 8B7CA206-4790-4B9A-B8FE-575F050F886E.
pub(super) const METADATA: Guid = Guid(*b"\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e");

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) name: &'static str,
    pub(super) start: u64,
    pub(super) len: u64,
}

impl Region {
    pub(super) const fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    pub(super) const fn overlaps(&self, start: u64, len: u64) -> bool {
        start < self.end() && self.start < start.saturating_add(len)
    }
}

/// The regions of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Regions {
    pub(super) bat: Region,
    pub(super) metadata: Region,
    /// Regions of kinds that are not known and need not be.
    pub(super) others: Vec<Region>,
}

/// Why a table cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TableFault {
    Problem(VhdxProblem),
    /// A region of this kind must be understood.
    Required(Guid),
}

impl From<VhdxProblem> for TableFault {
    fn from(problem: VhdxProblem) -> Self {
        Self::Problem(problem)
    }
}

impl TableFault {
    pub(super) fn words(&self) -> String {
        match self {
            Self::Problem(problem) => problem.to_string(),
            Self::Required(kind) => format!("a region of kind {kind} must be understood"),
        }
    }
}

fn decode(raw: &[u8]) -> Result<Regions, TableFault> {
    if !raw.starts_with(SIGNATURE) {
        return Err(VhdxProblem::Signature("regi").into());
    }
    header::verify(raw)?;
    let count = le32(raw, 8).unwrap_or(0);
    if count > MAX_ENTRIES {
        return Err(VhdxProblem::TooManyEntries { what: "region table", count }.into());
    }
    let (mut bat, mut metadata, mut others) = (None, None, Vec::new());
    let entries = raw.get(16..).unwrap_or_default().chunks_exact(32);
    for entry in entries.take(usize::try_from(count).unwrap_or(0)) {
        let kind = Guid(bytes(entry, 0).unwrap_or([0; 16]));
        let (start, len) = (le64(entry, 16).unwrap_or(0), u64::from(le32(entry, 24).unwrap_or(0)));
        let required = le32(entry, 28).unwrap_or(0) & 1 != 0;
        let known = match kind {
            BAT => Some((&mut bat, "block allocation table")),
            METADATA => Some((&mut metadata, "metadata region")),
            _ if required => return Err(TableFault::Required(kind)),
            _ => None,
        };
        let name = known.as_ref().map_or("region of unknown kind", |(_, name)| *name);
        if start < MIB || !start.is_multiple_of(MIB) || !len.is_multiple_of(MIB) || len == 0 {
            return Err(VhdxProblem::RegionPlace { name, start, len }.into());
        }
        let region = Region { name, start, len };
        match known {
            Some((place @ None, _)) => *place = Some(region),
            Some((Some(_), name)) => return Err(VhdxProblem::RegionTwice(name).into()),
            None => others.push(region),
        }
    }
    let bat = bat.ok_or(VhdxProblem::RegionMissing("block allocation table"))?;
    let metadata = metadata.ok_or(VhdxProblem::RegionMissing("metadata region"))?;
    Ok(Regions { bat, metadata, others })
}

/// Both copies of the table.
#[derive(Debug, Clone)]
pub(super) struct Tables {
    pub(super) copies: [Result<Regions, TableFault>; 2],
    pub(super) current: Regions,
    /// Both are in order and say different things.
    pub(super) differ: bool,
}

impl Tables {
    /// Reads both; the first that is in order counts.
    pub(super) fn read(source: &dyn ByteSource) -> Result<Self> {
        let mut raw = vec![0; TABLE_LEN];
        let mut read = |at: u64| {
            source.read_bytes(FileOffset::new(at), &mut raw)?;
            Ok::<_, Error>(decode(&raw))
        };
        let [first_at, second_at] = TABLE_AT;
        let copies = [read(first_at)?, read(second_at)?];
        let current = match &copies {
            // A copy that is in order but asks for what is not known must be heeded.
            [Err(TableFault::Required(kind)), _] | [_, Err(TableFault::Required(kind))] => {
                return Err(Error::Unsupported {
                    code: "vhdx.region.required",
                    feature: format!("a VHDX region of kind {kind}"),
                    hint: "a newer program wrote the file; convert it there",
                });
            }
            [Ok(regions), _] | [_, Ok(regions)] => regions.clone(),
            [Err(TableFault::Problem(problem)), _] => {
                return Err(Error::malformed("region table", FileOffset::new(first_at), problem.clone()));
            }
        };
        let differ = matches!(&copies, [Ok(one), Ok(two)] if one != two);
        Ok(Self { copies, current, differ })
    }
}

/// A region table, as both copies have it.
pub(super) fn encode(regions: &[(Guid, Region)]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(TABLE_LEN);
    raw.extend_from_slice(SIGNATURE);
    raw.extend_from_slice(&[0; 4]);
    raw.extend_from_slice(&u32::try_from(regions.len()).unwrap_or(0).to_le_bytes());
    raw.extend_from_slice(&[0; 4]);
    for (kind, region) in regions {
        raw.extend_from_slice(&kind.0);
        raw.extend_from_slice(&region.start.to_le_bytes());
        raw.extend_from_slice(&u32::try_from(region.len).unwrap_or(u32::MAX).to_le_bytes());
        raw.extend_from_slice(&1_u32.to_le_bytes());
    }
    raw.resize(TABLE_LEN, 0);
    header::seal(&mut raw);
    raw
}
