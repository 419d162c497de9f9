//! File type identifier and headers ([MS-VHDX] 2.2.1, 2.2.2).

use kiln_disk::{ByteSource, Error, FileOffset, Result};

use super::problem::VhdxProblem;
use crate::id::Guid;
use crate::wire::{bytes, le16, le32, le64};

pub(super) const FILE_SIGNATURE: &[u8] = b"vhdxfile";
/// Where the two headers are.
pub(super) const HEADER_AT: [u64; 2] = [64 << 10, 128 << 10];
/// The checksum covers these bytes.
pub(super) const HEADER_LEN: usize = 4096;
pub(super) const SIGNATURE: &[u8] = b"head";
/// "Checksum", in headers, region tables and log entries alike.
pub(super) const CHECKSUM_AT: usize = 4;

/// CRC-32C of a structure whose checksum field counts as zero.
pub(super) fn checksum(structure: &[u8]) -> u32 {
    let (before, rest) = structure.split_at_checked(CHECKSUM_AT).unwrap_or((structure, &[]));
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(sum, rest.get(4..).unwrap_or_default())
}

/// Whether the checksum in a structure fits its bytes.
pub(super) fn verify(structure: &[u8]) -> Result<(), VhdxProblem> {
    let (stored, computed) = (le32(structure, CHECKSUM_AT).unwrap_or(0), checksum(structure));
    if stored == computed { Ok(()) } else { Err(VhdxProblem::Checksum { stored, computed }) }
}

/// Puts the checksum into a structure.
pub(super) fn seal(structure: &mut [u8]) {
    let sum = checksum(structure).to_le_bytes();
    if let Some(field) = structure.get_mut(CHECKSUM_AT..).and_then(|rest| rest.first_chunk_mut()) {
        *field = sum;
    }
}

/// A header; field names of the specification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) sequence_number: u64,
    pub(super) file_write_guid: Guid,
    pub(super) data_write_guid: Guid,
    /// Nil: the log is empty.
    pub(super) log_guid: Guid,
    pub(super) log_version: u16,
    pub(super) version: u16,
    pub(super) log_length: u32,
    pub(super) log_offset: u64,
}

impl Header {
    fn read(raw: &[u8]) -> Result<Self, VhdxProblem> {
        if !raw.starts_with(SIGNATURE) {
            return Err(VhdxProblem::Signature("head"));
        }
        verify(raw)?;
        let guid = |at| Guid(bytes(raw, at).unwrap_or([0; 16]));
        Ok(Self {
            sequence_number: le64(raw, 8).unwrap_or(0),
            file_write_guid: guid(16),
            data_write_guid: guid(32),
            log_guid: guid(48),
            log_version: le16(raw, 64).unwrap_or(0),
            version: le16(raw, 66).unwrap_or(0),
            log_length: le32(raw, 68).unwrap_or(0),
            log_offset: le64(raw, 72).unwrap_or(0),
        })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut raw = Vec::with_capacity(HEADER_LEN);
        raw.extend_from_slice(SIGNATURE);
        raw.extend_from_slice(&[0; 4]);
        raw.extend_from_slice(&self.sequence_number.to_le_bytes());
        for guid in [self.file_write_guid, self.data_write_guid, self.log_guid] {
            raw.extend_from_slice(&guid.0);
        }
        raw.extend_from_slice(&self.log_version.to_le_bytes());
        raw.extend_from_slice(&self.version.to_le_bytes());
        raw.extend_from_slice(&self.log_length.to_le_bytes());
        raw.extend_from_slice(&self.log_offset.to_le_bytes());
        raw.resize(HEADER_LEN, 0);
        seal(&mut raw);
        raw
    }
}

/// Both headers and which of them counts.
#[derive(Debug, Clone)]
pub(super) struct Headers {
    pub(super) copies: [Result<Header, VhdxProblem>; 2],
    /// The one that counts.
    pub(super) current: Header,
    /// Both have the same sequence number; allowed where they are the same to the bit (Disk2vhd writes such).
    pub(super) twins: bool,
}

impl Headers {
    /// Reads both. Valid is what has its signature and checksum; of two valid ones the higher sequence number
    /// counts (2.2.2.1).
    pub(super) fn read(source: &dyn ByteSource) -> Result<Self> {
        let mut raws = [[0; HEADER_LEN]; 2];
        for (at, raw) in HEADER_AT.into_iter().zip(&mut raws) {
            source.read_bytes(FileOffset::new(at), raw)?;
        }
        let [first, second] = raws;
        let copies = [Header::read(&first), Header::read(&second)];
        let [first_at, second_at] = HEADER_AT.map(FileOffset::new);
        let (current, twins) = match &copies {
            [Ok(one), Ok(two)] if one.sequence_number == two.sequence_number => {
                if first != second {
                    let problem = VhdxProblem::HeaderTwins(one.sequence_number);
                    return Err(Error::malformed("header", second_at, problem));
                }
                (one.clone(), true)
            }
            [Ok(one), Ok(two)] if one.sequence_number > two.sequence_number => (one.clone(), false),
            [_, Ok(two)] => (two.clone(), false),
            [Ok(one), Err(_)] => (one.clone(), false),
            [Err(problem), Err(_)] => return Err(Error::malformed("header", first_at, problem.clone())),
        };
        Ok(Self { copies, current, twins })
    }
}
