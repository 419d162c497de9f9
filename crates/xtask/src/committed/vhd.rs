//! VHD pieces that qemu-img does not make, or makes with the time and a random id in them.
//! Field offsets: Virtual Hard Disk Image Format Specification 1.0.

/// Length of a footer, and of a sector.
pub(super) const SECTOR: usize = 512;
/// Length of a dynamic disk header.
const HEADER: usize = 1024;
/// The blocks of a differencing disk made here: 2 MiB, as everywhere.
const BLOCK: usize = 2 * 1024 * 1024;

/// What a footer is changed to.
pub(super) struct Footer<'a> {
    /// "Creator Application".
    pub(super) creator: &'a [u8; 4],
    /// "Unique Id".
    pub(super) id: [u8; 16],
    /// "Current Size", when it is to differ from what is there.
    pub(super) current_size: Option<u64>,
}

/// Gives every footer of the VHD `file` (last sector, and the copy in front of a dynamic disk) a fixed time,
/// the id and creator asked for, and the checksum that follows from them.
pub(super) fn settle(file: &mut [u8], wanted: &Footer<'_>) {
    let last = file.len() - SECTOR;
    let mut places = vec![last];
    if file.starts_with(b"conectix") {
        places.push(0);
    }
    for at in places {
        let footer = &mut file[at..at + SECTOR];
        footer[0x18..0x1c].copy_from_slice(&TIME.to_be_bytes());
        footer[0x1c..0x20].copy_from_slice(wanted.creator);
        footer[0x44..0x54].copy_from_slice(&wanted.id);
        if let Some(size) = wanted.current_size {
            footer[0x30..0x38].copy_from_slice(&size.to_be_bytes());
        }
        sign(footer, 0x40);
    }
}

/// "Time Stamp": seconds since 2000-01-01 UTC; this is 2026-01-01.
const TIME: u32 = 820_540_800;

/// Writes the one's complement of the sum of all bytes but the checksum's own at `field`.
fn sign(bytes: &mut [u8], field: usize) {
    bytes[field..field + 4].fill(0);
    let sum = bytes.iter().fold(0_u32, |sum, &byte| sum.wrapping_add(u32::from(byte)));
    bytes[field..field + 4].copy_from_slice(&(!sum).to_be_bytes());
}

/// A differencing VHD over the settled dynamic VHD `parent`: its own sectors are those that `sectors` lists,
/// each filled with the byte beside it. `parent_name` is stored as the parent's name, and as a relative locator.
pub(super) fn differencing(
    parent: &[u8],
    parent_name: &str,
    id: [u8; 16],
    sectors: &[(usize, u8)],
) -> Vec<u8> {
    let mut footer = parent[parent.len() - SECTOR..].to_vec();
    footer[0x3c..0x40].copy_from_slice(&4_u32.to_be_bytes());
    footer[0x44..0x54].copy_from_slice(&id);
    sign(&mut footer, 0x40);

    let disk_len = u64::from_be_bytes(footer[0x30..0x38].try_into().unwrap_or_default());
    let blocks = usize::try_from(disk_len).unwrap_or(usize::MAX).div_ceil(BLOCK);
    let bat_at = SECTOR + HEADER;
    let bat_len = (blocks * 4).next_multiple_of(SECTOR);
    let locator_at = bat_at + bat_len;
    let data_at = locator_at + SECTOR;
    let locator: Vec<u8> = format!(".\\{parent_name}").encode_utf16().flat_map(u16::to_le_bytes).collect();

    let mut header = vec![0; HEADER];
    header[0..8].copy_from_slice(b"cxsparse");
    header[0x08..0x10].fill(0xff);
    header[0x10..0x18].copy_from_slice(&(bat_at as u64).to_be_bytes());
    header[0x18..0x1c].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    header[0x1c..0x20].copy_from_slice(&word(blocks));
    header[0x20..0x24].copy_from_slice(&word(BLOCK));
    header[0x28..0x38].copy_from_slice(&parent[parent.len() - SECTOR..][0x44..0x54]);
    header[0x38..0x3c].copy_from_slice(&TIME.to_be_bytes());
    let name: Vec<u8> = parent_name.encode_utf16().flat_map(u16::to_be_bytes).collect();
    header[0x40..0x40 + name.len()].copy_from_slice(&name);
    // Parent Locator Entry 1: W2ru (relative path, UTF-16LE), its space in bytes, its length, its place.
    header[0x240..0x244].copy_from_slice(b"W2ru");
    header[0x244..0x248].copy_from_slice(&word(SECTOR));
    header[0x248..0x24c].copy_from_slice(&word(locator.len()));
    header[0x250..0x258].copy_from_slice(&(locator_at as u64).to_be_bytes());
    sign(&mut header, 0x24);

    let mut bat = vec![0xff; bat_len];
    let mut data = Vec::new();
    for block in 0..blocks {
        let first = block * BLOCK / SECTOR;
        let own: Vec<_> =
            sectors.iter().filter(|(sector, _)| (first..first + BLOCK / SECTOR).contains(sector)).collect();
        if own.is_empty() {
            continue;
        }
        bat[block * 4..block * 4 + 4].copy_from_slice(&word((data_at + data.len()) / SECTOR));
        let at = data.len();
        data.resize(at + SECTOR + BLOCK, 0);
        for &&(sector, byte) in &own {
            let within = sector - first;
            data[at + within / 8] |= 0x80 >> (within % 8);
            data[at + SECTOR + within * SECTOR..][..SECTOR].fill(byte);
        }
    }

    let mut file = footer.clone();
    file.extend(header);
    file.extend(bat);
    file.extend(locator);
    file.resize(data_at, 0);
    file.extend(data);
    file.extend(footer);
    file
}

/// A length as the format's big-endian 32 bits; the disks here are a few MiB.
fn word(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes()
}
