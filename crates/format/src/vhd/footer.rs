//! The hard disk footer: 512 bytes at the end of the file, with a copy at the start of all but fixed disks.

use super::problem::VhdProblem;
use crate::wire::{be16, be32, be64, bytes};

/// Length of a footer.
pub(super) const FOOTER_LEN: usize = 512;
/// Length of the footers that Virtual PC wrote before 2004; the missing last byte is reserved.
pub(super) const SHORT_FOOTER_LEN: usize = 511;
/// The first bytes of a footer.
pub(super) const COOKIE: &[u8; 8] = b"conectix";
/// Unit of every size in the format.
pub(super) const SECTOR: u64 = 512;
/// Longest disk in sectors: 2040 GiB, the specification's limit.
pub(super) const MAX_SECTORS: u64 = 0xff00_0000;
/// "No further structure".
pub(super) const NOWHERE: u64 = u64::MAX;
/// Seconds from 1970 to 2000, where the format's clock starts.
pub(super) const EPOCH: u64 = 946_684_800;

const FORMAT_VERSION: u32 = 0x0001_0000;
const CHECKSUM_AT: usize = 64;
const RESERVED_AT: usize = 85;

/// The three kinds of VHD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskType {
    Fixed,
    Dynamic,
    Differencing,
}

impl DiskType {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::Dynamic => "dynamic",
            Self::Differencing => "differencing",
        }
    }

    pub(super) const fn code(self) -> u32 {
        match self {
            Self::Fixed => 2,
            Self::Dynamic => 3,
            Self::Differencing => 4,
        }
    }
}

/// Cylinders, heads and sectors per track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) cylinders: u16,
    pub(super) heads: u8,
    pub(super) sectors: u8,
}

impl Geometry {
    /// The largest geometry of the specification's algorithm (127.5 GiB): says "look at the size field".
    pub(super) const MAX: Self = Self { cylinders: 65_535, heads: 16, sectors: 255 };

    /// Sectors that it spans; cannot overflow.
    pub(super) fn total(self) -> u64 {
        u64::from(self.cylinders)
            .saturating_mul(u64::from(self.heads))
            .saturating_mul(u64::from(self.sectors))
    }

    /// The specification's algorithm (appendix "CHS Calculation"): the geometry for a disk of `sectors`, which
    /// spans at most that many.
    pub(super) fn of(sectors: u64) -> Self {
        let sectors = sectors.min(Self::MAX.total());
        let tracks = |per_track: u8| sectors.checked_div(u64::from(per_track)).unwrap_or(0);
        let (per_track, heads) = if sectors >= 65_535 * 16 * 63 {
            (255, 16)
        } else {
            let heads = tracks(17).div_ceil(1024).max(4);
            if heads <= 16 && tracks(17) < heads.saturating_mul(1024) {
                (17, heads)
            } else if tracks(31) < 16 * 1024 {
                (31, 16)
            } else {
                (63, 16)
            }
        };
        let cylinders = tracks(per_track).checked_div(heads).unwrap_or(0);
        Self {
            cylinders: u16::try_from(cylinders).unwrap_or(u16::MAX),
            heads: u8::try_from(heads).unwrap_or(16),
            sectors: per_track,
        }
    }
}

/// A footer, decoded. Field names are the specification's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Footer {
    pub(super) features: u32,
    pub(super) file_format_version: u32,
    pub(super) data_offset: u64,
    pub(super) time_stamp: u32,
    pub(super) creator_application: [u8; 4],
    pub(super) creator_version: u32,
    pub(super) creator_host_os: [u8; 4],
    pub(super) original_size: u64,
    pub(super) current_size: u64,
    pub(super) geometry: Geometry,
    pub(super) disk_type: DiskType,
    pub(super) unique_id: [u8; 16],
    pub(super) saved_state: u8,
}

/// What 512 bytes say when they are read as a footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    /// They do not start with the cookie.
    Absent,
    /// The checksum is wrong; the fields are what they are.
    Damaged(Footer, VhdProblem),
    /// The cookie is there, the rest is no footer.
    Hopeless(VhdProblem),
    /// All is well.
    Good(Footer),
}

impl Reading {
    /// The footer when its checksum holds.
    pub(super) fn good(&self) -> Option<&Footer> {
        match self {
            Self::Good(footer) => Some(footer),
            _ => None,
        }
    }

    /// The footer, checksum or not.
    pub(super) fn any(&self) -> Option<&Footer> {
        match self {
            Self::Good(footer) | Self::Damaged(footer, _) => Some(footer),
            _ => None,
        }
    }

    /// What is wrong with it.
    pub(super) fn problem(&self) -> Option<&VhdProblem> {
        match self {
            Self::Damaged(_, problem) | Self::Hopeless(problem) => Some(problem),
            _ => None,
        }
    }
}

/// The format's checksum: the complement of the sum of all bytes, the checksum field counted as zero.
pub(super) fn checksum(structure: &[u8], field_at: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    let field = structure.get(field_at..).and_then(<[u8]>::first_chunk::<4>).map_or(0, |field| sum(field));
    !sum(structure).wrapping_sub(field)
}

/// Reads 512 bytes as a footer.
pub(super) fn read(raw: &[u8; FOOTER_LEN]) -> Reading {
    if !raw.starts_with(COOKIE) {
        return Reading::Absent;
    }
    // The offsets are constants inside 512 bytes: absence cannot happen, and counts as "no footer" if it does.
    match decode(raw) {
        None => Reading::Absent,
        Some(Err(problem)) => Reading::Hopeless(problem),
        Some(Ok(footer)) => {
            let stored = be32(raw, CHECKSUM_AT).unwrap_or(0);
            let computed = checksum(raw, CHECKSUM_AT);
            if stored == computed {
                Reading::Good(footer)
            } else {
                Reading::Damaged(footer, VhdProblem::FooterChecksum { stored, computed })
            }
        }
    }
}

fn decode(raw: &[u8; FOOTER_LEN]) -> Option<Result<Footer, VhdProblem>> {
    let disk_type = match be32(raw, 60)? {
        2 => DiskType::Fixed,
        3 => DiskType::Dynamic,
        4 => DiskType::Differencing,
        other => return Some(Err(VhdProblem::DiskType(other))),
    };
    let [heads, sectors] = bytes(raw, 58)?;
    let [saved_state] = bytes(raw, 84)?;
    Some(Ok(Footer {
        features: be32(raw, 8)?,
        file_format_version: be32(raw, 12)?,
        data_offset: be64(raw, 16)?,
        time_stamp: be32(raw, 24)?,
        creator_application: bytes(raw, 28)?,
        creator_version: be32(raw, 32)?,
        creator_host_os: bytes(raw, 36)?,
        original_size: be64(raw, 40)?,
        current_size: be64(raw, 48)?,
        geometry: Geometry { cylinders: be16(raw, 56)?, heads, sectors },
        disk_type,
        unique_id: bytes(raw, 68)?,
        saved_state,
    }))
}

/// How long the disk is by a footer, and by which of its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SizeRule {
    Geometry,
    CurrentSize,
}

impl SizeRule {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Geometry => "disk_geometry",
            Self::CurrentSize => "current_size",
        }
    }
}

impl Footer {
    /// Which field gives the disk's length.
    ///
    /// Virtual PC shows its guests cylinders × heads × sectors and nothing behind them; everybody else shows the
    /// current size. QEMU's block/vpc.c decides by the creator application, and so do we: since 10.0 the geometry
    /// counts for `vpc ` and `qemu` (earlier releases had it the other way round, with a list of creators for
    /// which the size counts). The largest geometry always means the current size. `oracle_vhd` measures the
    /// rule against the qemu-img at hand.
    pub(super) fn size_rule(&self) -> SizeRule {
        match &self.creator_application {
            b"vpc " | b"qemu" if self.geometry.total() != Geometry::MAX.total() => SizeRule::Geometry,
            _ => SizeRule::CurrentSize,
        }
    }

    /// Length of the disk in bytes, whole sectors.
    pub(super) fn disk_len(&self) -> u64 {
        match self.size_rule() {
            SizeRule::Geometry => self.geometry.total().saturating_mul(SECTOR),
            SizeRule::CurrentSize => self.current_size & !(SECTOR - 1),
        }
    }

    /// The first field in which another footer would give a guest other bytes.
    pub(super) fn differs_from(&self, other: &Self) -> Option<&'static str> {
        let fields = [
            ("disk_type", self.disk_type != other.disk_type),
            ("data_offset", self.data_offset != other.data_offset),
            ("the length of the disk", self.disk_len() != other.disk_len()),
            ("unique_id", self.unique_id != other.unique_id),
        ];
        fields.into_iter().find(|(_, differs)| *differs).map(|(field, _)| field)
    }

    /// The bytes of a footer, checksum included.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(FOOTER_LEN);
        raw.extend_from_slice(COOKIE);
        raw.extend_from_slice(&self.features.to_be_bytes());
        raw.extend_from_slice(&self.file_format_version.to_be_bytes());
        raw.extend_from_slice(&self.data_offset.to_be_bytes());
        raw.extend_from_slice(&self.time_stamp.to_be_bytes());
        raw.extend_from_slice(&self.creator_application);
        raw.extend_from_slice(&self.creator_version.to_be_bytes());
        raw.extend_from_slice(&self.creator_host_os);
        raw.extend_from_slice(&self.original_size.to_be_bytes());
        raw.extend_from_slice(&self.current_size.to_be_bytes());
        raw.extend_from_slice(&self.geometry.cylinders.to_be_bytes());
        raw.push(self.geometry.heads);
        raw.push(self.geometry.sectors);
        raw.extend_from_slice(&self.disk_type.code().to_be_bytes());
        raw.extend_from_slice(&[0; 4]);
        raw.extend_from_slice(&self.unique_id);
        raw.push(self.saved_state);
        raw.resize(FOOTER_LEN, 0);
        seal(&mut raw, CHECKSUM_AT);
        raw
    }
}

/// Puts the checksum into its field.
pub(super) fn seal(structure: &mut [u8], field_at: usize) {
    let sum = checksum(structure, field_at);
    if let Some(field) = structure.get_mut(field_at..).and_then(<[u8]>::first_chunk_mut::<4>) {
        *field = sum.to_be_bytes();
    }
}

/// Fields that the specification fixes and this footer does not keep, in words.
pub(super) fn oddities(raw: &[u8; FOOTER_LEN]) -> Vec<String> {
    let mut odd = Vec::new();
    let features = be32(raw, 8).unwrap_or(0);
    if features & !0b1 != 0b10 {
        odd.push(format!("features are {features:#x}; bit 1 is always set and bits above it never"));
    }
    let version = be32(raw, 12).unwrap_or(0);
    if version != FORMAT_VERSION {
        odd.push(format!("file format version is {version:#010x}, not {FORMAT_VERSION:#010x}"));
    }
    if raw.get(RESERVED_AT..).is_some_and(|reserved| reserved.iter().any(|byte| *byte != 0)) {
        odd.push("the reserved bytes at the end are not zero".to_owned());
    }
    odd
}

/// The version of the format that the writer states.
pub(super) const fn format_version() -> u32 {
    FORMAT_VERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_never_spans_more_than_the_disk_and_is_the_specifications() {
        // Reference values: qemu-img create -f vpc -o subformat=fixed for sizes that it does not round.
        for (sectors, c, h, s) in [
            (68, 1, 4, 17),
            (4 * 17 * 1023, 1023, 4, 17),
            (204_816, 1004, 12, 17),
            (65_535 * 16 * 63 - 1, 65_534, 16, 63),
            (65_535 * 16 * 63, 16_191, 16, 255),
            (65_535 * 16 * 255, 65_535, 16, 255),
            (MAX_SECTORS, 65_535, 16, 255),
        ] {
            let geometry = Geometry::of(sectors);
            assert_eq!(geometry, Geometry { cylinders: c, heads: h, sectors: s }, "{sectors} sectors");
            assert!(geometry.total() <= sectors);
        }
    }

    #[test]
    fn a_footer_survives_encoding_and_one_changed_byte_breaks_its_checksum() {
        let footer = Footer {
            features: 2,
            file_format_version: FORMAT_VERSION,
            data_offset: 512,
            time_stamp: 7,
            creator_application: *b"kiln",
            creator_version: 1,
            creator_host_os: *b"Wi2k",
            original_size: 1 << 30,
            current_size: 1 << 30,
            geometry: Geometry::of(1 << 21),
            disk_type: DiskType::Dynamic,
            unique_id: [7; 16],
            saved_state: 0,
        };
        let mut raw: [u8; 512] = footer.encode().try_into().unwrap();
        assert_eq!(read(&raw), Reading::Good(footer.clone()));
        assert_eq!(oddities(&raw), Vec::<String>::new());
        raw[30] ^= 1;
        assert_eq!(read(&raw).good(), None);
        assert!(matches!(read(&raw).problem(), Some(VhdProblem::FooterChecksum { .. })));
        assert_eq!(read(&[0; 512]), Reading::Absent);
    }
}
