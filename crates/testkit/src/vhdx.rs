//! Builds VHDXs from [MS-VHDX] alone, sharing no code with the crate under test.

use std::collections::BTreeMap;

use crate::laws::Random;

const MIB: usize = 1 << 20;
/// Places of the structures that every file has.
pub const HEADERS: [usize; 2] = [64 << 10, 128 << 10];
/// See [`HEADERS`].
pub const REGION_TABLES: [usize; 2] = [192 << 10, 256 << 10];
/// Where the builder puts the log.
pub const LOG_AT: usize = MIB;

/// CRC-32C, bit by bit.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg()))
    })
}

/// Puts the right checksum at byte 4 of the `len` bytes from `at`.
pub fn seal(bytes: &mut [u8], at: usize, len: usize) {
    bytes[at + 4..at + 8].fill(0);
    let sum = crc32c(&bytes[at..at + len]);
    bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
}

/// A GUID as it is stored, from its notation.
///
/// # Panics
/// When it is none.
#[must_use]
pub fn guid(text: &str) -> [u8; 16] {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let mut id = u128::from_str_radix(&digits, 16).expect("a GUID").to_be_bytes();
    id[..4].reverse();
    id[4..6].reverse();
    id[6..8].reverse();
    id
}

/// What a VHDX is to be like; the default is what a careful program writes, but for its small blocks.
#[derive(Debug, Clone)]
pub struct VhdxBuilder {
    /// "BlockSize".
    pub block_size: u32,
    /// "LogicalSectorSize".
    pub sector_size: u32,
    /// "LeaveBlockAllocated".
    pub fixed: bool,
    /// Bytes of the log, in mebibytes.
    pub log_mib: usize,
    /// Order of the blocks in the file: 0 as on the disk, else shuffled by this seed.
    pub shuffle: u64,
    /// Unused mebibytes before each block.
    pub gap_mib: usize,
    /// "DataWriteGuid".
    pub data_write_guid: [u8; 16],
    /// Keys and values of the parent locator: makes the disk a differencing one.
    pub parent: Option<Vec<(String, String)>>,
}

impl Default for VhdxBuilder {
    fn default() -> Self {
        Self {
            block_size: 1 << 20,
            sector_size: 512,
            fixed: false,
            log_mib: 1,
            shuffle: 0,
            gap_mib: 0,
            data_write_guid: *b"data written by!",
            parent: None,
        }
    }
}

/// A VHDX in memory, with the places that tests want to damage.
#[derive(Debug, Clone)]
pub struct BuiltVhdx {
    /// The file.
    pub bytes: Vec<u8>,
    /// Where the block allocation table is.
    pub bat_at: usize,
    /// Where the metadata region is.
    pub metadata_at: usize,
    /// Where each payload block that is in the file is.
    pub blocks: BTreeMap<usize, usize>,
    /// Payload blocks for each bitmap.
    pub ratio: usize,
}

/// The state of a block that is not stored whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Stored whole.
    Full,
    /// NOT_PRESENT 0, UNDEFINED 1, ZERO 2, UNMAPPED 3.
    Is(u8),
    /// Partly here, sector by sector.
    Partial,
}

impl BuiltVhdx {
    /// Overwrites bytes.
    pub fn patch(&mut self, at: usize, with: &[u8]) -> &mut Self {
        self.bytes[at..at + with.len()].copy_from_slice(with);
        self
    }

    /// Overwrites a field of both headers and puts their checksums right.
    pub fn patch_headers(&mut self, field: usize, with: &[u8]) -> &mut Self {
        for at in HEADERS {
            self.patch(at + field, with);
            seal(&mut self.bytes, at, 4096);
        }
        self
    }

    /// Overwrites a field of both region tables and puts their checksums right.
    pub fn patch_regions(&mut self, field: usize, with: &[u8]) -> &mut Self {
        for at in REGION_TABLES {
            self.patch(at + field, with);
            seal(&mut self.bytes, at, 64 << 10);
        }
        self
    }

    /// Overwrites the value of metadata item `index`, in the order of the builder: file parameters, disk size,
    /// disk id, logical and physical sector size, parent locator.
    pub fn patch_item(&mut self, index: usize, with: &[u8]) -> &mut Self {
        let entry = self.metadata_at + 32 + 32 * index + 16;
        let offset = u32::from_le_bytes(self.bytes[entry..entry + 4].try_into().expect("four bytes"));
        self.patch(self.metadata_at + offset as usize, with)
    }

    /// Index in the table of the entry of a payload block.
    #[must_use]
    pub fn index(&self, block: usize) -> usize {
        block + block / self.ratio
    }

    /// Sets the entry of a payload block.
    pub fn patch_entry(&mut self, block: usize, entry: u64) -> &mut Self {
        let at = self.bat_at + 8 * self.index(block);
        self.patch(at, &entry.to_le_bytes())
    }
}

impl VhdxBuilder {
    /// A disk made on the disk that `parent` makes, which it knows as `name`.
    #[must_use]
    pub fn child_of(parent: &Self, name: &str) -> Self {
        let mut id = parent.data_write_guid;
        id[..4].reverse();
        id[4..6].reverse();
        id[6..8].reverse();
        let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let linkage =
            format!("{{{}-{}-{}-{}-{}}}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        let pairs = [
            ("parent_linkage", linkage.as_str()),
            ("relative_path", name),
            ("absolute_win32_path", "C:\\disks\\parent.vhdx"),
        ];
        let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Self { data_write_guid: *b"written by child", parent: Some(pairs), ..Self::default() }
    }

    /// A disk; blocks of zeros are left out unless it is a fixed one.
    #[must_use]
    pub fn build(&self, content: &[u8]) -> BuiltVhdx {
        let state = |data: &[u8]| {
            if self.fixed || data.iter().any(|byte| *byte != 0) { State::Full } else { State::Is(0) }
        };
        let states: Vec<_> = content.chunks(self.block_size as usize).map(state).collect();
        self.build_with(content, &|block| states[block], &|_| true)
    }

    /// A disk with these states; of partial blocks, the sectors for which `owns` says so are here, and there is
    /// garbage in place of the others.
    #[must_use]
    pub fn build_with(
        &self,
        content: &[u8],
        state: &dyn Fn(usize) -> State,
        owns: &dyn Fn(usize) -> bool,
    ) -> BuiltVhdx {
        let (block_size, sector_size) = (self.block_size as usize, self.sector_size as usize);
        let count = content.len().div_ceil(block_size);
        let ratio = (sector_size << 23) / block_size;
        let entries = if self.parent.is_some() {
            count.div_ceil(ratio) * (ratio + 1)
        } else {
            count + count.saturating_sub(1) / ratio
        };
        let bat_at = LOG_AT + self.log_mib * MIB;
        let bat_len = (8 * entries).next_multiple_of(MIB);
        let metadata_at = bat_at + bat_len;
        let mut file = vec![0; metadata_at + MIB];
        file[..8].copy_from_slice(b"vhdxfile");
        let creator: Vec<u8> = "a test".encode_utf16().flat_map(u16::to_le_bytes).collect();
        file[8..8 + creator.len()].copy_from_slice(&creator);
        for (number, at) in (7_u64..).zip(HEADERS) {
            let mut raw = b"head\0\0\0\0".to_vec();
            raw.extend(number.to_le_bytes());
            raw.extend(b"file written by!");
            raw.extend(self.data_write_guid);
            raw.extend([0; 16]);
            // LogVersion, Version, LogLength, LogOffset.
            raw.extend([0, 0, 1, 0]);
            raw.extend(((self.log_mib * MIB) as u32).to_le_bytes());
            raw.extend((LOG_AT as u64).to_le_bytes());
            file[at..at + raw.len()].copy_from_slice(&raw);
            seal(&mut file, at, 4096);
        }
        let regions = [
            ("2DC27766-F623-4200-9D64-115E9BFD4A08", bat_at, bat_len),
            ("8B7CA206-4790-4B9A-B8FE-575F050F886E", metadata_at, MIB),
        ];
        for at in REGION_TABLES {
            let mut raw = b"regi\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
            for (kind, start, len) in regions {
                raw.extend(guid(kind));
                raw.extend((start as u64).to_le_bytes());
                raw.extend((len as u32).to_le_bytes());
                raw.extend([1, 0, 0, 0]);
            }
            file[at..at + raw.len()].copy_from_slice(&raw);
            seal(&mut file, at, 64 << 10);
        }
        let metadata = self.metadata(content.len() as u64);
        file[metadata_at..metadata_at + metadata.len()].copy_from_slice(&metadata);

        let mut order: Vec<usize> =
            (0..count).filter(|block| matches!(state(*block), State::Full | State::Partial)).collect();
        if self.shuffle != 0 {
            let mut random = Random(self.shuffle);
            for n in (1..order.len()).rev() {
                order.swap(n, random.below(n as u64 + 1) as usize);
            }
        }
        let mut built = BuiltVhdx { bytes: file, bat_at, metadata_at, blocks: BTreeMap::new(), ratio };
        let mut bitmaps: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
        for block in 0..count {
            if let State::Is(code) = state(block) {
                built.patch_entry(block, code.into());
            }
        }
        for block in order {
            let start = block * block_size;
            let mut data = content[start..content.len().min(start + block_size)].to_vec();
            data.resize(block_size, 0);
            let code = if state(block) == State::Full { 6 } else { 7 };
            if code == 7 {
                let bitmap = bitmaps.entry(block / ratio).or_insert_with(|| vec![0; MIB]);
                let first = (block % ratio) * (block_size / sector_size);
                for (sector, bytes) in data.chunks_mut(sector_size).enumerate() {
                    if owns(start / sector_size + sector) {
                        // The first sector is the least significant bit of the first byte.
                        bitmap[(first + sector) / 8] |= 1 << ((first + sector) % 8);
                    } else {
                        bytes.fill(0xee);
                    }
                }
            }
            built.bytes.resize(built.bytes.len() + self.gap_mib * MIB, 0);
            let at = built.bytes.len();
            built.blocks.insert(block, at);
            built.bytes.extend(data);
            built.patch_entry(block, at as u64 | code);
        }
        for (chunk, bitmap) in bitmaps {
            let at = built.bytes.len();
            built.bytes.extend(bitmap);
            let entry = bat_at + 8 * (chunk * (ratio + 1) + ratio);
            built.patch(entry, &(at as u64 | 6).to_le_bytes());
        }
        built
    }

    fn metadata(&self, disk_len: u64) -> Vec<u8> {
        let flags = u32::from(self.fixed) | u32::from(self.parent.is_some()) << 1;
        let parameters = [self.block_size.to_le_bytes(), flags.to_le_bytes()].concat();
        let mut items = vec![
            ("CAA16737-FA36-4D43-B3B6-33F0AA44E76B", 4_u32, parameters),
            ("2FA54224-CD1B-4876-B211-5DBED83BF4B8", 6, disk_len.to_le_bytes().to_vec()),
            ("BECA12AB-B2E6-4523-93EF-C309E000C746", 6, b"the disk's own !".to_vec()),
            ("8141BF1D-A96F-4709-BA47-F233A8FAAB5F", 6, self.sector_size.to_le_bytes().to_vec()),
            ("CDA348C7-445D-4471-9CC9-E9885251C556", 6, 4096_u32.to_le_bytes().to_vec()),
        ];
        if let Some(pairs) = &self.parent {
            let mut raw = guid("B04AEFB7-D19E-4A81-B789-25B8E9445913").to_vec();
            raw.extend([0, 0]);
            raw.extend((pairs.len() as u16).to_le_bytes());
            let mut texts: Vec<u8> = Vec::new();
            let texts_at = 20 + 12 * pairs.len();
            for (key, value) in pairs {
                let [key, value] = [key, value].map(|text| {
                    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                    let at = (texts_at + texts.len()) as u32;
                    texts.extend(&bytes);
                    (at, bytes.len() as u16)
                });
                raw.extend(key.0.to_le_bytes());
                raw.extend(value.0.to_le_bytes());
                raw.extend(key.1.to_le_bytes());
                raw.extend(value.1.to_le_bytes());
            }
            raw.extend(texts);
            items.push(("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C", 4, raw));
        }
        let mut table = b"metadata\0\0".to_vec();
        table.extend((items.len() as u16).to_le_bytes());
        table.resize(32, 0);
        let mut data = Vec::new();
        for (id, flags, bytes) in items {
            table.extend(guid(id));
            table.extend((65_536 + data.len() as u32).to_le_bytes());
            table.extend((bytes.len() as u32).to_le_bytes());
            table.extend(flags.to_le_bytes());
            table.extend([0; 4]);
            data.extend(bytes);
        }
        table.resize(65_536, 0);
        table.extend(data);
        table
    }
}

/// A change in the log.
#[derive(Debug, Clone)]
pub enum Change {
    /// A sector of 4096 bytes for this place.
    Data(u64, Vec<u8>),
    /// Zeros: place, length.
    Zeros(u64, u64),
}

/// An entry of the log.
#[derive(Debug, Clone)]
pub struct LogEntry {
    /// "SequenceNumber".
    pub sequence: u64,
    /// "Tail": place of the oldest entry in the log.
    pub tail: u32,
    /// "LogGuid".
    pub guid: [u8; 16],
    /// "FlushedFileOffset" and "LastFileOffset".
    pub file_offsets: [u64; 2],
    /// What it changes.
    pub changes: Vec<Change>,
}

impl LogEntry {
    /// Its bytes, checksum included.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut raw = b"loge\0\0\0\0\0\0\0\0".to_vec();
        raw.extend(self.tail.to_le_bytes());
        raw.extend(self.sequence.to_le_bytes());
        raw.extend((self.changes.len() as u32).to_le_bytes());
        raw.extend([0; 4]);
        raw.extend(self.guid);
        self.file_offsets.iter().for_each(|offset| raw.extend(offset.to_le_bytes()));
        for change in &self.changes {
            match change {
                Change::Data(at, bytes) => {
                    raw.extend(b"desc");
                    raw.extend(&bytes[4092..]);
                    raw.extend(&bytes[..8]);
                    raw.extend(at.to_le_bytes());
                }
                Change::Zeros(at, len) => {
                    raw.extend(b"zero\0\0\0\0");
                    raw.extend(len.to_le_bytes());
                    raw.extend(at.to_le_bytes());
                }
            }
            raw.extend(self.sequence.to_le_bytes());
        }
        raw.resize(raw.len().next_multiple_of(4096), 0);
        for change in &self.changes {
            if let Change::Data(_, bytes) = change {
                raw.extend(b"data");
                raw.extend(((self.sequence >> 32) as u32).to_le_bytes());
                raw.extend(&bytes[8..4092]);
                raw.extend((self.sequence as u32).to_le_bytes());
            }
        }
        let len = raw.len();
        raw[8..12].copy_from_slice(&(len as u32).to_le_bytes());
        seal(&mut raw, 0, len);
        raw
    }
}

impl BuiltVhdx {
    /// Puts bytes into the log, round its end where they reach it, and sets the headers' log GUID.
    pub fn write_log(&mut self, at: usize, bytes: &[u8], guid: [u8; 16]) -> &mut Self {
        let len = self.bat_at - LOG_AT;
        for (n, byte) in bytes.iter().enumerate() {
            self.bytes[LOG_AT + (at + n) % len] = *byte;
        }
        self.patch_headers(48, &guid)
    }
}
