//! Good qcow2 images of any shape, built from the specification alone: what `format` reads is compared with them,
//! and hostile images are these with some bytes changed.
//!
//! ```text
//! header and extensions | for the active disk and each snapshot: data, L2 tables, L1 table | snapshot table |
//! refcount blocks | refcount table
//! ```

use std::collections::BTreeMap;
use std::io::Write;

use flate2::{Compress, Compression as Level, FlushCompress};

/// How compressed clusters are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// Raw deflate with a window of 4 KiB, as QEMU reads it.
    Zlib,
    /// A zstd frame.
    Zstd,
}

/// What one guest cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cell {
    /// Unallocated.
    Hole,
    /// A zero cluster; as a hole where the image has no zero flag.
    Zero,
    /// A zero cluster with a place of its own.
    ZeroAllocated,
    /// Data from this seed.
    Data(u64),
    /// Compressed data from this seed.
    Packed(u64),
    /// Subclusters: allocated and zero bits (a bit in both counts as allocated), data from the seed. Without
    /// extended entries it is plain data.
    Mixed(u32, u32, u64),
}

/// A snapshot to put into the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotSpec {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Length of its disk.
    pub disk_len: u64,
    /// Its clusters; what is missing is unallocated.
    pub cells: Vec<Cell>,
}

/// The image to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// 2 or 3.
    pub version: u32,
    /// 9 to 21.
    pub cluster_bits: u32,
    /// 0 to 6; 4 in version 2.
    pub refcount_order: u32,
    /// Of packed cells; zlib in version 2.
    pub codec: Codec,
    /// Extended L2 entries (version 3, clusters of 16 KiB and more).
    pub extended: bool,
    /// Length of the disk.
    pub disk_len: u64,
    /// Guest clusters from the first on; what is missing is unallocated.
    pub cells: Vec<Cell>,
    /// Name and format of a backing file.
    pub backing: Option<(String, Option<String>)>,
    /// Name of an external data file: plain data only, at the place where the guest sees it.
    pub data_file: Option<String>,
    /// More header extensions: type and data.
    pub extensions: Vec<(u32, Vec<u8>)>,
    /// More incompatible feature bits.
    pub incompatible: u64,
    /// Autoclear feature bits.
    pub autoclear: u64,
    /// Internal snapshots.
    pub snapshots: Vec<SnapshotSpec>,
}

impl Spec {
    /// A version 3 image of clusters of this many bits.
    #[must_use]
    pub fn new(cluster_bits: u32, cells: Vec<Cell>) -> Self {
        Self {
            version: 3,
            cluster_bits,
            refcount_order: 4,
            codec: Codec::Zlib,
            extended: false,
            disk_len: (cells.len() as u64) << cluster_bits,
            cells,
            backing: None,
            data_file: None,
            extensions: Vec::new(),
            incompatible: 0,
            autoclear: 0,
            snapshots: Vec::new(),
        }
    }
}

/// A built image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// The file.
    pub bytes: Vec<u8>,
    /// The external data file, where there is one.
    pub data_file: Vec<u8>,
    /// The disk, with zeros where a backing file would show.
    pub content: Vec<u8>,
    /// The disks of the snapshots.
    pub snapshots: Vec<Vec<u8>>,
    /// Place of the L1 table.
    pub l1: u64,
    /// Places of the L2 tables of the active disk, by L1 index; 0 where there is none.
    pub l2: Vec<u64>,
    /// Places of the data by guest cluster; 0 where there is none, the first byte for packed data.
    pub data: Vec<u64>,
    /// Place of the refcount table.
    pub refcount_table: u64,
    /// Places of the refcount blocks.
    pub refcount_blocks: Vec<u64>,
    /// Place of the snapshot table; 0 without snapshots.
    pub snapshot_table: u64,
}

impl Built {
    /// The file with other bytes at `at`.
    #[must_use]
    pub fn patched(&self, at: u64, bytes: &[u8]) -> Vec<u8> {
        let mut file = self.bytes.clone();
        file[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        file
    }
}

/// Half text and half noise, so that it compresses but not away.
#[must_use]
pub fn fill(seed: u64, len: usize) -> Vec<u8> {
    let mut random = crate::laws::Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bytes = Vec::with_capacity(len + 64);
    while bytes.len() < len {
        write!(bytes, "cluster {seed} byte {} ", bytes.len()).expect("a vector takes everything");
        bytes.extend(random.number().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Builds the image.
///
/// # Panics
/// On a specification that no image can have.
#[must_use]
pub fn build(spec: &Spec) -> Built {
    assert!(spec.version == 3 || (spec.refcount_order == 4 && spec.codec == Codec::Zlib && !spec.extended));
    let mut builder = Builder {
        spec,
        cluster: 1 << spec.cluster_bits,
        file: vec![0; 1 << spec.cluster_bits],
        refs: BTreeMap::from([(0, 1)]),
        data_file: Vec::new(),
        open: None,
    };
    let active = builder.disk(&spec.cells, spec.disk_len, true);
    let snapshots: Vec<_> = spec
        .snapshots
        .iter()
        .map(|snapshot| builder.disk(&snapshot.cells, snapshot.disk_len, false))
        .collect();
    let snapshot_table = builder.snapshot_table(&snapshots);
    let (refcount_table, refcount_clusters, refcount_blocks) = builder.refcounts();
    builder.header(&active, refcount_table, refcount_clusters, snapshot_table);
    Built {
        bytes: builder.file,
        data_file: builder.data_file,
        content: active.content,
        snapshots: snapshots.into_iter().map(|disk| disk.content).collect(),
        l1: active.l1,
        l2: active.l2,
        data: active.data,
        refcount_table,
        refcount_blocks,
        snapshot_table,
    }
}

struct Tree {
    l1: u64,
    l1_size: u64,
    l2: Vec<u64>,
    data: Vec<u64>,
    content: Vec<u8>,
}

struct Builder<'a> {
    spec: &'a Spec,
    cluster: usize,
    file: Vec<u8>,
    refs: BTreeMap<u64, u64>,
    data_file: Vec<u8>,
    /// Where the next packed data may go: inside the last cluster, while nothing else was allocated.
    open: Option<usize>,
}

impl Builder<'_> {
    fn allocate(&mut self, len: usize) -> u64 {
        self.open = None;
        let at = self.file.len().next_multiple_of(self.cluster);
        self.file.resize(at + len.next_multiple_of(self.cluster), 0);
        for cluster in at / self.cluster..self.file.len() / self.cluster {
            *self.refs.entry(cluster as u64).or_default() += 1;
        }
        at as u64
    }

    fn put(&mut self, at: u64, bytes: &[u8]) {
        self.file[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Data, L2 tables and L1 table of one disk.
    fn disk(&mut self, cells: &[Cell], disk_len: u64, active: bool) -> Tree {
        let entry_len = if self.spec.extended { 16 } else { 8 };
        let per_table = self.cluster / entry_len;
        let clusters = (disk_len as usize).div_ceil(self.cluster);
        let l1_size = clusters.div_ceil(per_table);
        let mut content = vec![0; clusters * self.cluster];
        let mut data = vec![0; clusters];
        let mut l2 = vec![0; l1_size];
        for (index, table_cells) in cells[..cells.len().min(clusters)].chunks(per_table).enumerate() {
            let mut table = vec![0; self.cluster];
            for (slot, cell) in table_cells.iter().enumerate() {
                let guest = index * per_table + slot;
                let out = &mut content[guest * self.cluster..][..self.cluster];
                let (entry, bitmap, place) = self.cell(*cell, guest, out, active);
                data[guest] = place;
                table[slot * entry_len..][..8].copy_from_slice(&entry.to_be_bytes());
                if self.spec.extended {
                    table[slot * entry_len + 8..][..8].copy_from_slice(&bitmap.to_be_bytes());
                }
            }
            if table.iter().any(|byte| *byte != 0) {
                l2[index] = self.allocate(self.cluster);
                self.put(l2[index], &table);
            }
        }
        let l1 = if l1_size == 0 { 0 } else { self.allocate(l1_size * 8) };
        for (index, at) in l2.iter().enumerate().filter(|(_, at)| **at != 0) {
            self.put(l1 + index as u64 * 8, &(at | u64::from(active) << 63).to_be_bytes());
        }
        content.truncate(disk_len as usize);
        Tree { l1, l1_size: l1_size as u64, l2, data, content }
    }

    /// Stores one guest cluster: its entry, its bitmap, its place.
    fn cell(&mut self, cell: Cell, guest: usize, out: &mut [u8], active: bool) -> (u64, u64, u64) {
        const ALL: u64 = u32::MAX as u64;
        let copied = u64::from(active) << 63;
        let extended = self.spec.extended;
        match cell {
            Cell::Hole => (0, 0, 0),
            Cell::Zero | Cell::ZeroAllocated if self.spec.version == 2 => (0, 0, 0),
            Cell::Zero if extended => (0, ALL << 32, 0),
            Cell::Zero => (1, 0, 0),
            Cell::ZeroAllocated => {
                let (at, flag) = (self.place(guest), u64::from(!extended));
                (at | copied | flag, if extended { ALL << 32 } else { 0 }, at)
            }
            Cell::Packed(seed) if self.spec.data_file.is_none() => {
                out.copy_from_slice(&fill(seed, self.cluster));
                let (entry, at) = self.pack(out);
                (entry, 0, at)
            }
            Cell::Mixed(allocated, zero, seed) if extended => {
                let at = self.place(guest);
                let part = self.cluster / 32;
                for index in (0..32).filter(|index| allocated >> index & 1 == 1) {
                    out[index * part..][..part].copy_from_slice(&fill(seed + index as u64, part));
                }
                // Noise where nothing is allocated must not show.
                let mut stored = fill(seed ^ 0xdead, self.cluster);
                for index in (0..32).filter(|index| allocated >> index & 1 == 1) {
                    stored[index * part..][..part].copy_from_slice(&out[index * part..][..part]);
                }
                self.store(at, &stored);
                (at | copied, u64::from(zero & !allocated) << 32 | u64::from(allocated), at)
            }
            Cell::Data(seed) | Cell::Packed(seed) | Cell::Mixed(_, _, seed) => {
                out.copy_from_slice(&fill(seed, self.cluster));
                let at = self.place(guest);
                let bytes = out.to_vec();
                self.store(at, &bytes);
                (at | copied, if extended { ALL } else { 0 }, at)
            }
        }
    }

    fn place(&mut self, guest: usize) -> u64 {
        if self.spec.data_file.is_none() {
            return self.allocate(self.cluster);
        }
        let at = guest * self.cluster;
        if self.data_file.len() < at + self.cluster {
            self.data_file.resize(at + self.cluster, 0);
        }
        at as u64
    }

    fn store(&mut self, at: u64, bytes: &[u8]) {
        let file = if self.spec.data_file.is_some() { &mut self.data_file } else { &mut self.file };
        file[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Packed data starts where the last ended, at any byte.
    fn pack(&mut self, plain: &[u8]) -> (u64, u64) {
        let data = match self.spec.codec {
            Codec::Zlib => deflate(plain),
            Codec::Zstd => zstd::bulk::compress(plain, 3).expect("zstd takes any bytes"),
        };
        let at = match self.open.take() {
            Some(at) => at,
            None => self.file.len().next_multiple_of(self.cluster),
        };
        let end = at + data.len();
        if self.file.len() < end {
            self.file.resize(end.next_multiple_of(self.cluster), 0);
        }
        self.file[at..end].copy_from_slice(&data);
        let sectors = (end - 1) / 512 - at / 512;
        let last_sector_end = (at / 512 + sectors + 1) * 512;
        for cluster in at / self.cluster..=(last_sector_end - 1) / self.cluster {
            *self.refs.entry(cluster as u64).or_default() += 1;
        }
        // A narrow refcount cannot count many users of one cluster.
        let full = self.refs
            [&(end as u64 / self.cluster as u64).min(self.file.len() as u64 / self.cluster as u64 - 1)]
            >= self.most_references();
        self.open = Some(end).filter(|end| *end < self.file.len() && !full);
        let shift = 62 - (self.spec.cluster_bits - 8);
        (1 << 62 | (sectors as u64) << shift | at as u64, at as u64)
    }

    fn most_references(&self) -> u64 {
        match self.spec.refcount_order {
            6 => u64::MAX,
            order => (1 << (1 << order)) - 1,
        }
    }

    fn snapshot_table(&mut self, trees: &[Tree]) -> u64 {
        let mut table = Vec::new();
        for (spec, tree) in self.spec.snapshots.iter().zip(trees) {
            table.extend(tree.l1.to_be_bytes());
            table.extend((tree.l1_size as u32).to_be_bytes());
            table.extend((spec.id.len() as u16).to_be_bytes());
            table.extend((spec.name.len() as u16).to_be_bytes());
            table.extend(1_700_000_000_u32.to_be_bytes());
            table.extend([0; 4 + 8 + 4]);
            table.extend(16_u32.to_be_bytes());
            table.extend(0_u64.to_be_bytes());
            table.extend(spec.disk_len.to_be_bytes());
            table.extend(spec.id.bytes().chain(spec.name.bytes()));
            table.resize(table.len().next_multiple_of(8), 0);
        }
        if table.is_empty() {
            return 0;
        }
        let at = self.allocate(table.len());
        self.put(at, &table);
        at
    }

    /// Refcount blocks and table; they count themselves, so blocks are added until all are covered.
    fn refcounts(&mut self) -> (u64, u64, Vec<u64>) {
        let per_block = (self.cluster * 8) >> self.spec.refcount_order;
        let used = self.file.len().div_ceil(self.cluster);
        let mut blocks = 1;
        let table_clusters = |blocks: usize| (blocks * 8).div_ceil(self.cluster);
        while blocks * per_block < used + blocks + table_clusters(blocks) {
            blocks += 1;
        }
        let clusters = table_clusters(blocks);
        let places: Vec<u64> = (0..blocks).map(|_| self.allocate(self.cluster)).collect();
        let table = self.allocate(clusters * self.cluster);
        for (index, place) in places.iter().enumerate() {
            self.put(table + index as u64 * 8, &place.to_be_bytes());
        }
        for (cluster, count) in self.refs.clone() {
            assert!(count <= self.most_references(), "{count} references in a refcount too narrow");
            let block = places[cluster as usize / per_block] as usize;
            let slot = cluster as usize % per_block;
            match self.spec.refcount_order {
                order @ 0..3 => {
                    let bit = slot << order;
                    self.file[block + bit / 8] |= (count as u8) << (bit % 8);
                }
                order => {
                    let width = 1 << (order - 3);
                    let bytes = &count.to_be_bytes()[8 - width..];
                    self.file[block + slot * width..][..width].copy_from_slice(bytes);
                }
            }
        }
        (table, clusters as u64, places)
    }

    fn header(&mut self, active: &Tree, refcount_table: u64, refcount_clusters: u64, snapshot_table: u64) {
        let spec = self.spec;
        let mut head = vec![0; 112];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, b"QFI\xfb");
        put(4, &spec.version.to_be_bytes());
        put(20, &spec.cluster_bits.to_be_bytes());
        put(24, &spec.disk_len.to_be_bytes());
        put(36, &(active.l1_size as u32).to_be_bytes());
        put(40, &active.l1.to_be_bytes());
        put(48, &refcount_table.to_be_bytes());
        put(56, &(refcount_clusters as u32).to_be_bytes());
        put(60, &(spec.snapshots.len() as u32).to_be_bytes());
        put(64, &snapshot_table.to_be_bytes());
        if spec.version == 3 {
            let zstd = spec.codec == Codec::Zstd;
            let incompatible = spec.incompatible
                | u64::from(spec.data_file.is_some()) << 2
                | u64::from(zstd) << 3
                | u64::from(spec.extended) << 4;
            put(72, &incompatible.to_be_bytes());
            put(88, &spec.autoclear.to_be_bytes());
            put(96, &spec.refcount_order.to_be_bytes());
            put(100, &112_u32.to_be_bytes());
            put(104, &[u8::from(zstd)]);
        } else {
            head.truncate(72);
        }
        let mut extension = |kind: u32, data: &[u8]| {
            head.extend(kind.to_be_bytes());
            head.extend((data.len() as u32).to_be_bytes());
            head.extend(data);
            head.resize(head.len().next_multiple_of(8), 0);
        };
        if let Some((_, Some(format))) = &spec.backing {
            extension(0xe279_2aca, format.as_bytes());
        }
        if let Some(name) = spec.data_file.as_ref().filter(|name| !name.is_empty()) {
            extension(0x4441_5441, name.as_bytes());
        }
        for (kind, data) in &spec.extensions {
            extension(*kind, data);
        }
        head.extend([0; 8]);
        if let Some((name, _)) = &spec.backing {
            let at = head.len() as u64;
            head[8..16].copy_from_slice(&at.to_be_bytes());
            head[16..20].copy_from_slice(&(name.len() as u32).to_be_bytes());
            head.extend(name.as_bytes());
        }
        assert!(head.len() <= self.cluster, "the header fits its cluster");
        self.put(0, &head);
    }
}

fn deflate(plain: &[u8]) -> Vec<u8> {
    let mut stream = Compress::new_with_window_bits(Level::default(), false, 12);
    let mut out = Vec::with_capacity(plain.len() * 2 + 1024);
    stream.compress_vec(plain, &mut out, FlushCompress::Finish).expect("deflate takes any bytes");
    out
}
