//! Builds VMDKs from the specification alone ("Virtual Disk Format 5.0"), sharing no code with the crate under test.

use std::collections::HashMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// Length of a sector.
pub const SECTOR: usize = 512;

/// Where the grain directory of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Directory {
    /// Before the grains, named by the header, as QEMU has it.
    InFront,
    /// Behind them, named by a footer.
    InFooter,
}

/// What a sparse extent is to be like; the default is what a careful program writes.
#[derive(Debug, Clone)]
pub struct VmdkBuilder {
    /// version.
    pub version: u32,
    /// grainSize in sectors.
    pub grain: usize,
    /// numGTEsPerGT.
    pub entries: usize,
    /// Compress grains.
    pub compressed: bool,
    /// Put markers before grains (with `compressed`).
    pub markers: bool,
    /// Where the directory of a compressed extent is.
    pub directory: Directory,
    /// Keep a redundant directory (not with a footer).
    pub redundant: bool,
    /// Enter grains of zeros as zeroed ones (an entry of 1).
    pub zeroed: bool,
    /// Order of the grains in the file: 0 as on the disk, else shuffled by this seed.
    pub shuffle: u64,
    /// uncleanShutdown.
    pub unclean: u8,
    /// The descriptor inside; `None` leaves it out. By default one that fits is made.
    pub descriptor: Option<String>,
    /// The parent's CID and name: grains of zeros are then left out only where `holes` says so.
    pub parent: Option<(u32, String)>,
    /// CID of the disk.
    pub cid: u32,
    /// Grains left out whatever they hold.
    pub holes: Vec<usize>,
    /// Compress of the last grain only what is on the disk, as QEMU does.
    pub short_last: bool,
}

impl Default for VmdkBuilder {
    fn default() -> Self {
        Self {
            version: 1,
            grain: 128,
            entries: 512,
            compressed: false,
            markers: true,
            directory: Directory::InFooter,
            redundant: true,
            zeroed: false,
            shuffle: 0,
            unclean: 0,
            descriptor: Some(String::new()),
            parent: None,
            cid: 0x1234_abcd,
            holes: Vec::new(),
            short_last: false,
        }
    }
}

/// A sparse extent in memory, with the places that tests want to damage.
#[derive(Debug, Clone)]
pub struct BuiltVmdk {
    /// The file.
    pub bytes: Vec<u8>,
    /// Where the grain directory is.
    pub directory_at: usize,
    /// Where the redundant one is; 0 for none.
    pub redundant_at: usize,
    /// Where each grain table is; those without grains are not in a footer's directory.
    pub tables: Vec<usize>,
    /// Where the redundant tables are.
    pub redundant_tables: Vec<usize>,
    /// Where each allocated grain is (its marker, when compressed).
    pub grains: HashMap<usize, usize>,
    /// Where the footer is; 0 for none.
    pub footer_at: usize,
    /// Entries of a grain table.
    pub entries: usize,
}

impl BuiltVmdk {
    /// Overwrites bytes.
    pub fn patch(&mut self, at: usize, with: &[u8]) -> &mut Self {
        self.bytes[at..at + with.len()].copy_from_slice(with);
        self
    }

    /// Overwrites a field of the header, and of the footer where there is one.
    pub fn patch_headers(&mut self, field: usize, with: &[u8]) -> &mut Self {
        if self.footer_at > 0 {
            self.patch(self.footer_at + field, with);
        }
        self.patch(field, with)
    }

    /// Where the entry of a grain is.
    #[must_use]
    pub fn entry_at(&self, grain: usize) -> usize {
        self.tables[grain / self.entries] + 4 * (grain % self.entries)
    }

    /// Sets the entry of a grain, in sectors; in both sets of tables.
    pub fn patch_entry(&mut self, grain: usize, sector: u32) -> &mut Self {
        let at = self.entry_at(grain);
        self.patch(at, &sector.to_le_bytes());
        if let Some(table) = self.redundant_tables.get(grain / self.entries) {
            let at = table + 4 * (grain % self.entries);
            self.patch(at, &sector.to_le_bytes());
        }
        self
    }

    /// Sets an entry of the grain directory, in sectors.
    pub fn patch_table(&mut self, table: usize, sector: u32) -> &mut Self {
        self.patch(self.directory_at + 4 * table, &sector.to_le_bytes())
    }
}

/// The text of a descriptor.
#[must_use]
pub fn descriptor(kind: &str, cid: u32, parent: Option<&(u32, String)>, extents: &[String]) -> String {
    let mut text = format!(
        "# Disk DescriptorFile\nversion=1\nCID={cid:08x}\nparentCID={:08x}\ncreateType=\"{kind}\"\n",
        parent.map_or(u32::MAX, |(cid, _)| *cid)
    );
    if let Some((_, name)) = parent {
        text += &format!("parentFileNameHint=\"{name}\"\n");
    }
    text += "\n# Extent description\n";
    for line in extents {
        text += line;
        text.push('\n');
    }
    text + "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"4\"\nddb.adapterType = \"ide\"\n"
}

struct File {
    bytes: Vec<u8>,
}

impl File {
    fn sector(&self) -> u32 {
        assert!(self.bytes.len().is_multiple_of(SECTOR));
        (self.bytes.len() / SECTOR) as u32
    }

    /// Appends, filled up to whole sectors; answers where.
    fn append(&mut self, bytes: &[u8]) -> usize {
        let at = self.bytes.len();
        self.bytes.extend(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR), 0);
        at
    }

    fn marker(&mut self, sectors: u64, kind: u32) {
        let mut raw = sectors.to_le_bytes().to_vec();
        raw.extend(0_u32.to_le_bytes());
        raw.extend(kind.to_le_bytes());
        raw.resize(SECTOR, 0);
        self.append(&raw);
    }
}

fn words(entries: &[u32]) -> Vec<u8> {
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

impl VmdkBuilder {
    /// A stream with a footer.
    #[must_use]
    pub fn stream() -> Self {
        Self { version: 3, compressed: true, redundant: false, ..Self::default() }
    }

    fn header(&self, capacity: usize, descriptor_sectors: usize, places: [u64; 3]) -> Vec<u8> {
        let [redundant_at, directory_at, over_head] = places;
        let mut flags = 1;
        flags |= if redundant_at != 0 { 2 } else { 0 };
        flags |= if self.zeroed { 4 } else { 0 };
        flags |= if self.compressed { 1 << 16 } else { 0 };
        flags |= if self.compressed && self.markers { 1 << 17 } else { 0 };
        let mut raw = b"KDMV".to_vec();
        raw.extend(self.version.to_le_bytes());
        raw.extend(u32::to_le_bytes(flags));
        raw.extend((capacity as u64).to_le_bytes());
        raw.extend((self.grain as u64).to_le_bytes());
        raw.extend(u64::from(descriptor_sectors > 0).to_le_bytes());
        raw.extend((descriptor_sectors as u64).to_le_bytes());
        raw.extend((self.entries as u32).to_le_bytes());
        raw.extend(redundant_at.to_le_bytes());
        raw.extend(directory_at.to_le_bytes());
        raw.extend(over_head.to_le_bytes());
        raw.push(self.unclean);
        raw.extend(b"\n \r\n");
        raw.extend(u16::from(self.compressed).to_le_bytes());
        raw.resize(SECTOR, 0);
        raw
    }

    fn compressed_grain(&self, grain: usize, content: &[u8], grain_len: usize) -> Vec<u8> {
        let mut plain = content.to_vec();
        if !self.short_last {
            plain.resize(grain_len, 0);
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&plain).expect("writing into memory");
        let data = encoder.finish().expect("writing into memory");
        let mut raw = Vec::new();
        if self.markers {
            raw.extend(((grain * self.grain) as u64).to_le_bytes());
            raw.extend((data.len() as u32).to_le_bytes());
        }
        raw.extend(data);
        raw
    }

    /// A sparse extent with this content, whose length is a number of sectors. Grains of zeros are left out.
    #[must_use]
    pub fn build(&self, content: &[u8]) -> BuiltVmdk {
        let capacity = content.len() / SECTOR;
        assert_eq!(capacity * SECTOR, content.len(), "whole sectors");
        let grain_len = self.grain * SECTOR;
        let count = content.len().div_ceil(grain_len);
        let tables = count.div_ceil(self.entries);
        let table_len = (self.entries * 4).next_multiple_of(SECTOR);
        let in_footer = self.compressed && self.directory == Directory::InFooter;
        let kind = if self.compressed { "streamOptimized" } else { "monolithicSparse" };
        let text = self.descriptor.as_ref().map(|text| {
            let line = format!("RW {capacity} SPARSE \"disk.vmdk\"");
            if text.is_empty() {
                descriptor(kind, self.cid, self.parent.as_ref(), &[line])
            } else {
                text.clone()
            }
        });
        let mut file = File { bytes: vec![0; SECTOR] };
        if let Some(text) = &text {
            file.append(text.as_bytes());
        }
        let descriptor_sectors = file.bytes.len() / SECTOR - 1;
        let mut sets = Vec::new();
        if !in_footer {
            for _ in 0..=usize::from(self.redundant) {
                let directory_at = file.bytes.len();
                let first = directory_at + (tables * 4).next_multiple_of(SECTOR);
                let places: Vec<usize> = (0..tables).map(|table| first + table * table_len).collect();
                let entries: Vec<u32> = places.iter().map(|at| (at / SECTOR) as u32).collect();
                file.append(&words(&entries));
                file.bytes.resize(first + tables * table_len, 0);
                sets.push((directory_at, places));
            }
        }
        file.bytes.resize(file.bytes.len().next_multiple_of(grain_len.min(65_536)), 0);
        let over_head = u64::from(file.sector());

        let mut order: Vec<usize> = (0..count).collect();
        if self.shuffle != 0 {
            let mut random = crate::laws::Random(self.shuffle);
            for n in (1..order.len()).rev() {
                order.swap(n, random.below(n as u64 + 1) as usize);
            }
        }
        let mut entries = vec![0_u32; tables * self.entries];
        let mut grains = HashMap::new();
        for grain in order {
            let data = &content[grain * grain_len..content.len().min((grain + 1) * grain_len)];
            if self.holes.contains(&grain) {
                continue;
            }
            if data.iter().all(|byte| *byte == 0) && self.parent.is_none() {
                entries[grain] = u32::from(self.zeroed);
                continue;
            }
            entries[grain] = file.sector();
            grains.insert(grain, file.bytes.len());
            if self.compressed {
                let raw = self.compressed_grain(grain, data, grain_len);
                file.append(&raw);
            } else {
                let at = file.append(data);
                file.bytes.resize(at + grain_len, 0);
            }
        }

        let mut built = BuiltVmdk {
            bytes: Vec::new(),
            directory_at: 0,
            redundant_at: 0,
            tables: Vec::new(),
            redundant_tables: Vec::new(),
            grains,
            footer_at: 0,
            entries: self.entries,
        };
        if in_footer {
            let mut directory = vec![0; tables];
            for (table, chunk) in entries.chunks(self.entries).enumerate() {
                file.marker((table_len / SECTOR) as u64, 1);
                directory[table] = file.sector();
                built.tables.push(file.append(&words(chunk)));
            }
            file.marker((tables * 4).div_ceil(SECTOR) as u64, 2);
            built.directory_at = file.append(&words(&directory));
            file.marker(1, 3);
            let directory_sector = (built.directory_at / SECTOR) as u64;
            let footer = self.header(capacity, descriptor_sectors, [0, directory_sector, over_head]);
            built.footer_at = file.append(&footer);
            file.marker(0, 0);
            let header = self.header(capacity, descriptor_sectors, [0, u64::MAX, over_head]);
            file.bytes[..SECTOR].copy_from_slice(&header);
        } else {
            for (_, places) in &sets {
                for (chunk, at) in entries.chunks(self.entries).zip(places) {
                    file.bytes[*at..*at + chunk.len() * 4].copy_from_slice(&words(chunk));
                }
            }
            (built.directory_at, built.tables) = sets.pop().expect("a directory");
            (built.redundant_at, built.redundant_tables) = sets.pop().unwrap_or_default();
            let places =
                [(built.redundant_at / SECTOR) as u64, (built.directory_at / SECTOR) as u64, over_head];
            let header = self.header(capacity, descriptor_sectors, places);
            file.bytes[..SECTOR].copy_from_slice(&header);
        }
        built.bytes = file.bytes;
        built
    }
}
