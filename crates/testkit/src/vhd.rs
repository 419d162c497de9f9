//! Builds VHDs from the specification alone, sharing no code with the crate under test.

use std::collections::HashMap;

/// Length of a footer and of a sector.
pub const SECTOR: usize = 512;
const HEADER_LEN: usize = 1024;

/// What a VHD is to be like; the default is what a careful program writes.
#[derive(Debug, Clone)]
pub struct VhdBuilder {
    /// Creator application.
    pub creator: [u8; 4],
    /// Cylinders, heads, sectors per track.
    pub geometry: (u16, u8, u8),
    /// Current size in place of the content's length.
    pub current_size: Option<u64>,
    /// Unique id.
    pub unique_id: [u8; 16],
    /// Time stamp.
    pub time_stamp: u32,
    /// Block size.
    pub block_size: u32,
    /// Entries of the table beyond those needed.
    pub spare_entries: u32,
    /// Order of the blocks in the file: 0 as on the disk, else shuffled by this seed.
    pub shuffle: u64,
    /// Unused bytes before each block; a multiple of 512.
    pub gap: usize,
    /// End with a footer of 511 bytes.
    pub short_footer: bool,
    /// Put the table behind the blocks.
    pub table_last: bool,
    /// The parent: makes the disk a differencing one.
    pub parent: Option<ParentName>,
}

/// How a differencing disk names its parent.
#[derive(Debug, Clone, Default)]
pub struct ParentName {
    /// The parent's unique id.
    pub unique_id: [u8; 16],
    /// The parent's time stamp.
    pub time_stamp: u32,
    /// The name in the header.
    pub unicode_name: String,
    /// Platform code and data of each locator, at most eight.
    pub locators: Vec<([u8; 4], Vec<u8>)>,
}

impl Default for VhdBuilder {
    fn default() -> Self {
        Self {
            creator: *b"test",
            geometry: (65_535, 16, 255),
            current_size: None,
            unique_id: *b"0123456789abcdef",
            time_stamp: 600_000_000,
            block_size: 2 << 20,
            spare_entries: 0,
            shuffle: 0,
            gap: 0,
            short_footer: false,
            table_last: false,
            parent: None,
        }
    }
}

/// A VHD in memory, with the places that tests want to damage.
#[derive(Debug, Clone)]
pub struct BuiltVhd {
    /// The file.
    pub bytes: Vec<u8>,
    /// Where the dynamic disk header is; 0 for a fixed disk.
    pub header_at: usize,
    /// Where the table is; 0 for a fixed disk.
    pub table_at: usize,
    /// Where the footer at the end is.
    pub footer_at: usize,
    /// Where the bitmap of each allocated block is.
    pub blocks: HashMap<usize, usize>,
}

/// Puts the right checksum into the footer or header at `at`; `field` is its offset in the structure.
fn reseal(bytes: &mut [u8], at: usize, len: usize, field: usize) {
    let end = (at + len).min(bytes.len());
    bytes[at + field..at + field + 4].fill(0);
    let sum: u32 = bytes[at..end].iter().map(|byte| u32::from(*byte)).sum();
    bytes[at + field..at + field + 4].copy_from_slice(&(!sum).to_be_bytes());
}

impl BuiltVhd {
    /// Overwrites bytes.
    pub fn patch(&mut self, at: usize, with: &[u8]) -> &mut Self {
        self.bytes[at..at + with.len()].copy_from_slice(with);
        self
    }

    /// Overwrites a field of both footers (the first only where there is one) and puts their checksums right.
    pub fn patch_footers(&mut self, field: usize, with: &[u8]) -> &mut Self {
        let front = (self.table_at > 0).then_some(0);
        for at in front.into_iter().chain([self.footer_at]) {
            self.patch(at + field, with);
            reseal(&mut self.bytes, at, SECTOR, 64);
        }
        self
    }

    /// Overwrites a field of the footer at `at` only and puts its checksum right.
    pub fn patch_footer_at(&mut self, at: usize, field: usize, with: &[u8]) -> &mut Self {
        self.patch(at + field, with);
        reseal(&mut self.bytes, at, SECTOR, 64);
        self
    }

    /// Overwrites a field of the dynamic disk header and puts its checksum right.
    pub fn patch_header(&mut self, field: usize, with: &[u8]) -> &mut Self {
        self.patch(self.header_at + field, with);
        reseal(&mut self.bytes, self.header_at, HEADER_LEN, 36);
        self
    }

    /// Sets an entry of the table, in sectors.
    pub fn patch_entry(&mut self, block: usize, sector: u32) -> &mut Self {
        self.patch(self.table_at + 4 * block, &sector.to_be_bytes())
    }
}

impl VhdBuilder {
    fn footer(&self, kind: u32, data_offset: u64, disk_len: u64) -> Vec<u8> {
        let mut raw = b"conectix".to_vec();
        raw.extend(2_u32.to_be_bytes());
        raw.extend(0x0001_0000_u32.to_be_bytes());
        raw.extend(data_offset.to_be_bytes());
        raw.extend(self.time_stamp.to_be_bytes());
        raw.extend(self.creator);
        raw.extend(0x0001_0000_u32.to_be_bytes());
        raw.extend(b"Wi2k");
        raw.extend(self.current_size.unwrap_or(disk_len).to_be_bytes());
        raw.extend(self.current_size.unwrap_or(disk_len).to_be_bytes());
        raw.extend(self.geometry.0.to_be_bytes());
        raw.extend([self.geometry.1, self.geometry.2]);
        raw.extend(kind.to_be_bytes());
        raw.extend([0; 4]);
        raw.extend(self.unique_id);
        raw.resize(SECTOR, 0);
        reseal(&mut raw, 0, SECTOR, 64);
        raw
    }

    fn header(&self, table_at: u64, entries: u32, locators: &[(u64, u32, u32)]) -> Vec<u8> {
        let mut raw = b"cxsparse".to_vec();
        raw.extend(u64::MAX.to_be_bytes());
        raw.extend(table_at.to_be_bytes());
        raw.extend(0x0001_0000_u32.to_be_bytes());
        raw.extend(entries.to_be_bytes());
        raw.extend(self.block_size.to_be_bytes());
        raw.extend([0; 4]);
        if let Some(parent) = &self.parent {
            raw.extend(parent.unique_id);
            raw.extend(parent.time_stamp.to_be_bytes());
            raw.extend([0; 4]);
            raw.extend(parent.unicode_name.encode_utf16().flat_map(u16::to_be_bytes).take(512));
            raw.resize(576, 0);
            for ((platform, _), (at, space, len)) in parent.locators.iter().zip(locators) {
                raw.extend(platform);
                raw.extend(space.to_be_bytes());
                raw.extend(len.to_be_bytes());
                raw.extend([0; 4]);
                raw.extend(at.to_be_bytes());
            }
        }
        raw.resize(HEADER_LEN, 0);
        reseal(&mut raw, 0, HEADER_LEN, 36);
        raw
    }

    fn end(&self, file: &mut Vec<u8>, footer: &[u8]) -> usize {
        let at = file.len();
        file.extend(&footer[..if self.short_footer { SECTOR - 1 } else { SECTOR }]);
        at
    }

    /// A fixed disk.
    #[must_use]
    pub fn fixed(&self, content: &[u8]) -> BuiltVhd {
        let mut bytes = content.to_vec();
        let footer = self.footer(2, u64::MAX, content.len() as u64);
        let footer_at = self.end(&mut bytes, &footer);
        BuiltVhd { bytes, header_at: 0, table_at: 0, footer_at, blocks: HashMap::new() }
    }

    /// A dynamic disk; blocks of zeros are left out.
    #[must_use]
    pub fn dynamic(&self, content: &[u8]) -> BuiltVhd {
        self.blocks(content, &|_| true, false)
    }

    /// A differencing disk that owns the sectors for which `owns` says so; blocks without one are left out. In the
    /// place of sectors that it does not own there is garbage.
    #[must_use]
    pub fn differencing(&self, content: &[u8], owns: &dyn Fn(usize) -> bool) -> BuiltVhd {
        assert!(self.parent.is_some(), "a differencing disk has a parent");
        self.blocks(content, owns, true)
    }

    fn blocks(&self, content: &[u8], owns: &dyn Fn(usize) -> bool, differencing: bool) -> BuiltVhd {
        let block_size = self.block_size as usize;
        let count = content.len().div_ceil(block_size);
        let entries = count as u32 + self.spare_entries;
        let header_at = SECTOR;
        let table_len = (entries as usize * 4).next_multiple_of(SECTOR);
        let mut file = vec![0; header_at + HEADER_LEN];
        let mut table_at = file.len();
        if !self.table_last {
            file.resize(table_at + table_len, 0xff);
        }
        let mut locators = Vec::new();
        for (_, data) in self.parent.iter().flat_map(|parent| &parent.locators) {
            let space = data.len().next_multiple_of(SECTOR);
            locators.push((file.len() as u64, space as u32, data.len() as u32));
            file.extend(data);
            file.resize(file.len().next_multiple_of(SECTOR), 0);
        }

        let sectors = block_size / SECTOR;
        let mut order: Vec<usize> = (0..count).collect();
        if self.shuffle != 0 {
            let mut random = crate::laws::Random(self.shuffle);
            for n in (1..order.len()).rev() {
                order.swap(n, random.below(n as u64 + 1) as usize);
            }
        }
        let mut blocks = HashMap::new();
        for block in order {
            let start = block * block_size;
            let data = &content[start..content.len().min(start + block_size)];
            let owned = |sector: usize| owns(start / SECTOR + sector);
            let wanted = if differencing {
                (0..data.len().div_ceil(SECTOR)).any(owned)
            } else {
                data.iter().any(|byte| *byte != 0)
            };
            if !wanted {
                continue;
            }
            file.resize(file.len() + self.gap, 0);
            blocks.insert(block, file.len());
            let mut bitmap = vec![0_u8; sectors.div_ceil(8).next_multiple_of(SECTOR)];
            let mut body = vec![if differencing { 0xee } else { 0 }; block_size];
            body[..data.len()].copy_from_slice(data);
            for sector in 0..sectors {
                if owned(sector) {
                    bitmap[sector / 8] |= 0x80 >> (sector % 8);
                } else {
                    body[sector * SECTOR..][..SECTOR].fill(0xee);
                }
            }
            file.extend(bitmap);
            file.extend(body);
        }
        if self.table_last {
            table_at = file.len();
            file.resize(table_at + table_len, 0xff);
        }
        let header = self.header(table_at as u64, entries, &locators);
        file[header_at..header_at + HEADER_LEN].copy_from_slice(&header);
        let footer = self.footer(if differencing { 4 } else { 3 }, header_at as u64, content.len() as u64);
        file[..SECTOR].copy_from_slice(&footer);
        let footer_at = self.end(&mut file, &footer);
        let mut built = BuiltVhd { bytes: file, header_at, table_at, footer_at, blocks };
        for (block, at) in built.blocks.clone() {
            built.patch_entry(block, (at / SECTOR) as u32);
        }
        built
    }
}

/// UTF-16 in the byte order of Windows, for locators.
#[must_use]
pub fn utf16le(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
