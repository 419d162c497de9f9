//! The VHDX fixtures: dynamic and fixed. Everything that qemu-img makes up is set to constants: the ids of file and
//! data, the log (which is empty as far as the headers say) and the id of the disk. Places: MS-VHDX 2.2, 2.3, 2.6.

use std::fs;

use super::content::flat;
use super::{Oracle, Workshop, kiln_id};
use crate::failure::Outcome;

const LEN: usize = 2 * 1024 * 1024 + 3 * 512;
/// Both headers, 4 KiB each.
const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
/// The first region table.
const REGIONS: usize = 192 << 10;
/// 8B7CA206-4790-4B9A-B8FE-575F050F886E, as stored.
const METADATA: [u8; 16] =
    [0x06, 0xa2, 0x7c, 0x8b, 0x90, 0x47, 0x9a, 0x4b, 0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e];
/// Virtual Disk ID: BECA12AB-B2E6-4523-93EF-C309E000C746, as stored.
const DISK_ID: [u8; 16] =
    [0xab, 0x12, 0xca, 0xbe, 0xe6, 0xb2, 0x23, 0x45, 0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46];

pub(super) fn make(workshop: &mut Workshop) -> Outcome {
    let model = flat(LEN);
    fs::write(workshop.path("flat-vhdx.raw"), &model)?;
    for (name, options) in
        [("dynamic.vhdx", "subformat=dynamic,block_size=1M"), ("fixed.vhdx", "subformat=fixed,block_size=1M")]
    {
        let arguments = ["convert", "-f", "raw", "-O", "vhdx", "-o", options, "flat-vhdx.raw", name];
        workshop.tool("qemu-img", &arguments)?;
        let path = workshop.path(name);
        let mut file = fs::read(&path)?;
        settle(&mut file);
        fs::write(path, file)?;
        let recipe = format!("qemu-img {}, then fixed ids and an empty log", arguments.join(" "));
        workshop.enter(name, "vhdx", &model, &Oracle::Qemu("vhdx"), &[], &recipe)?;
    }
    Ok(())
}

fn settle(file: &mut [u8]) {
    // SequenceNumber starts anywhere; the header with the larger one counts.
    let first_counts = file[HEADERS[0] + 8..][..8].iter().rev().gt(file[HEADERS[1] + 8..][..8].iter().rev());
    for (at, counts) in [(HEADERS[0], first_counts), (HEADERS[1], !first_counts)] {
        let header = &mut file[at..at + 4096];
        header[8..16].copy_from_slice(&(1 + u64::from(counts)).to_le_bytes());
        // FileWriteGuid, DataWriteGuid; LogGuid is zero: the log is empty.
        header[16..32].copy_from_slice(&kiln_id(0));
        header[32..48].copy_from_slice(&kiln_id(1));
        header[48..64].fill(0);
        header[4..8].fill(0);
        let sum = crc32c(header);
        header[4..8].copy_from_slice(&sum.to_le_bytes());
    }
    let log_len = le32(file, HEADERS[0] + 68);
    let log_at = le32(file, HEADERS[0] + 72);
    file[log_at..log_at + log_len].fill(0);
    let region = (0..le32(file, REGIONS + 8))
        .map(|entry| REGIONS + 16 + 32 * entry)
        .find(|at| file[*at..at + 16] == METADATA);
    let Some(metadata) = region.map(|at| le32(file, at + 16)) else { return };
    let item = (0..2047).map(|entry| metadata + 32 + 32 * entry).find(|at| file[*at..at + 16] == DISK_ID);
    if let Some(place) = item.map(|at| metadata + le32(file, at + 16)) {
        file[place..place + 16].copy_from_slice(&kiln_id(2));
    }
}

/// The low half of a field: fixtures are small.
fn le32(file: &[u8], at: usize) -> usize {
    file[at..at + 4].iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte))
}

/// CRC-32C (RFC 3720, appendix B.4), reflected, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    })
}
