//! Builds VDIs from VirtualBox's `VDICore.h` alone, sharing no code with the crate under test.

use std::collections::BTreeMap;

use crate::laws::Random;

/// "Not here": the parent's bytes, or zeros.
pub const FREE: u32 = u32::MAX;
/// "Zeros".
pub const ZERO: u32 = u32::MAX - 1;

/// What a VDI is to be like; the default is what a careful program writes, but for its small blocks.
#[derive(Debug, Clone)]
pub struct VdiBuilder {
    /// `u32Type`; 1 is dynamic, 2 static, 3 undo, 4 differencing.
    pub image_type: u32,
    /// `cbHeader`: 384 or 400.
    pub header_size: u32,
    /// `cbBlock`.
    pub block_size: u32,
    /// `cbBlockExtra`.
    pub block_extra: u32,
    /// `offBlocks`.
    pub map_at: u32,
    /// `offData` becomes a multiple of this.
    pub align: u32,
    /// Entries of the map beyond those needed.
    pub spare_entries: u32,
    /// Order of the blocks in the file: 0 as on the disk, else shuffled by this seed.
    pub shuffle: u64,
    /// Blocks of the file that no entry names, spread between the others.
    pub leaks: u32,
    /// Mark blocks of zeros as zero in place of leaving them free.
    pub mark_zeros: bool,
    /// `uuidCreate`, `uuidModify`, `uuidLinkage`, `uuidParentModify`.
    pub ids: [[u8; 16]; 4],
}

impl Default for VdiBuilder {
    fn default() -> Self {
        Self {
            image_type: 1,
            header_size: 400,
            block_size: 64 * 1024,
            block_extra: 0,
            map_at: 512,
            align: 512,
            spare_entries: 0,
            shuffle: 0,
            leaks: 0,
            mark_zeros: false,
            ids: [*b"created-by-tests", *b"modified-by-test", [0; 16], [0; 16]],
        }
    }
}

/// A VDI in memory, with the places that tests want to damage.
#[derive(Debug, Clone)]
pub struct BuiltVdi {
    /// The file.
    pub bytes: Vec<u8>,
    /// Where the map is.
    pub map_at: usize,
    /// Where the blocks start.
    pub data_at: usize,
    /// Block of the file of each block of the disk that has one.
    pub blocks: BTreeMap<usize, u32>,
}

impl BuiltVdi {
    /// Overwrites bytes.
    pub fn patch(&mut self, at: usize, with: &[u8]) -> &mut Self {
        self.bytes[at..at + with.len()].copy_from_slice(with);
        self
    }

    /// Overwrites a number of the header.
    pub fn patch_u32(&mut self, at: usize, number: u32) -> &mut Self {
        self.patch(at, &number.to_le_bytes())
    }

    /// Sets an entry of the map.
    pub fn patch_entry(&mut self, block: usize, number: u32) -> &mut Self {
        self.patch_u32(self.map_at + 4 * block, number)
    }
}

impl VdiBuilder {
    /// A differencing disk on the disk that `parent` makes.
    #[must_use]
    pub fn child_of(parent: &Self) -> Self {
        let ids = [*b"created-as-child", *b"modified-a-child", parent.ids[0], parent.ids[1]];
        Self { image_type: 4, ids, ..Self::default() }
    }

    /// A disk with all its blocks, except that a dynamic one leaves out those that are zeros.
    #[must_use]
    pub fn build(&self, content: &[u8]) -> BuiltVdi {
        let block_size = self.block_size as usize;
        let is_static = self.image_type == 2;
        let stored = |block: usize| {
            let data = &content[block * block_size..content.len().min((block + 1) * block_size)];
            is_static || data.iter().any(|byte| *byte != 0)
        };
        let rest = if self.mark_zeros { ZERO } else { FREE };
        self.build_with(content, &|block| (!stored(block)).then_some(rest))
    }

    /// A disk whose blocks have the entry that `entry` gives, or, where it gives none, are stored.
    #[must_use]
    pub fn build_with(&self, content: &[u8], entry: &dyn Fn(usize) -> Option<u32>) -> BuiltVdi {
        let block_size = self.block_size as usize;
        let count = content.len().div_ceil(block_size);
        let entries = count as u32 + self.spare_entries;
        let map_at = self.map_at as usize;
        let data_at = (map_at + 4 * entries as usize).next_multiple_of(self.align as usize);

        let mut order: Vec<Option<usize>> =
            (0..count).filter(|block| entry(*block).is_none()).map(Some).collect();
        order.extend((0..self.leaks).map(|_| None));
        if self.shuffle != 0 {
            let mut random = Random(self.shuffle);
            for n in (1..order.len()).rev() {
                order.swap(n, random.below(n as u64 + 1) as usize);
            }
        }
        let mut map: Vec<u32> = (0..entries as usize)
            .map(|block| if block < count { entry(block).unwrap_or(0) } else { FREE })
            .collect();
        let mut file = vec![0; data_at];
        let mut blocks = BTreeMap::new();
        for (number, block) in (0_u32..).zip(&order) {
            file.resize(file.len() + self.block_extra as usize, 0xee);
            let end = file.len() + block_size;
            if let Some(block) = *block {
                let start = block * block_size;
                file.extend(&content[start..content.len().min(start + block_size)]);
                map[block] = number;
                blocks.insert(block, number);
            }
            file.resize(end, 0);
        }
        let allocated = blocks.len() as u32 + self.leaks;
        let header = self.header(content.len() as u64, entries, allocated, data_at as u32);
        file[..header.len()].copy_from_slice(&header);
        let mut built = BuiltVdi { bytes: file, map_at, data_at, blocks };
        for (block, number) in map.iter().enumerate() {
            built.patch_entry(block, *number);
        }
        built
    }

    fn header(&self, disk_len: u64, entries: u32, allocated: u32, data_at: u32) -> Vec<u8> {
        let mut raw = b"<<< a test's virtual disk >>>\n".to_vec();
        raw.resize(64, 0);
        let u32s = |raw: &mut Vec<u8>, numbers: &[u32]| {
            numbers.iter().for_each(|number| raw.extend(number.to_le_bytes()));
        };
        u32s(&mut raw, &[0xbeda_107f, 0x0001_0001, self.header_size, self.image_type, 0]);
        raw.extend(b"a comment");
        raw.resize(0x154, 0);
        // offBlocks, offData, legacy geometry (cylinders, heads, sectors, bytes of a sector), u32Dummy.
        u32s(&mut raw, &[self.map_at, data_at, 0, 0, 0, 512, 0]);
        raw.extend(disk_len.to_le_bytes());
        u32s(&mut raw, &[self.block_size, self.block_extra, entries, allocated]);
        self.ids.iter().for_each(|id| raw.extend(id));
        if self.header_size >= 400 {
            u32s(&mut raw, &[0, 0, 0, 512]);
        }
        raw
    }
}
