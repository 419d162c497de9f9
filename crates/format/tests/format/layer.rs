//! Layers upon another disk: what they hold, what they hide, and the digest of the whole.

use std::io::Cursor;
use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::digest::{BLOCK_LEN, HashJob, LeafFile, LeafWriter, hash_disk};
use kiln_disk::{
    Budget, Disk, Durability, Existing, Extent, ExtentKind, FileOffset, GuestOffset, MemorySource, Silent,
    StackDisk, check_range,
};
use kiln_format::layer::{LayerStyle, layer_format, open_layer, options_of};
use kiln_format::transfer::{FilePlan, Outcome, stage_layer};

/// Bytes with a map of 4 KiB cells: `.` a hole, `0` zeros, anything else data.
struct Cells {
    bytes: Vec<u8>,
    map: Vec<u8>,
}

const CELL: u64 = 4096;

impl Disk for Cells {
    fn disk_len(&self) -> u64 {
        self.bytes.len() as u64
    }
    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
        check_range(at, buf.len(), self.disk_len())?;
        let at = at.get() as usize;
        buf.copy_from_slice(&self.bytes[at..at + buf.len()]);
        Ok(())
    }
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> kiln_disk::Result<Extent> {
        check_range(at, 1, self.disk_len())?;
        let rest = (CELL - at.get() % CELL).min(self.disk_len() - at.get());
        let kind = match self.map[(at.get() / CELL) as usize] {
            b'.' => ExtentKind::Hole,
            b'0' => ExtentKind::Zero,
            _ => ExtentKind::Data { file: 0, at: FileOffset::new(at.get()) },
        };
        Ok(Extent { start: at, len: NonZeroU64::new(rest).unwrap().min(limit), kind })
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let step = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()[3]
    };
    (0..len).map(step).collect()
}

fn leaves_of(disk: &dyn Disk) -> LeafFile {
    let mut writer = LeafWriter::new(Cursor::new(Vec::new()), disk.disk_len()).unwrap();
    let content = hash_disk(disk, HashJob { leaves: Some(&mut writer), ..HashJob::default() }, &Silent)
        .unwrap()
        .content;
    let bytes = writer.finish(&content).unwrap().into_inner();
    LeafFile::read(&MemorySource::new(bytes)).unwrap()
}

fn flat(bytes: &[u8]) -> Cells {
    Cells { map: vec![b'd'; bytes.len().div_ceil(CELL as usize)], bytes: bytes.to_vec() }
}

/// Writes the layer; its bytes, what was counted, and its leaf list.
fn layer(
    disk: &dyn Disk,
    below: &LeafFile,
    style: LayerStyle,
    threads: usize,
) -> (Vec<u8>, Outcome, LeafFile) {
    let dir = tempfile::tempdir().unwrap();
    let (format, create) = layer_format().unwrap();
    let options = options_of(&create, style.option_pairs()).unwrap();
    let mut leaves = LeafWriter::new(Cursor::new(Vec::new()), disk.disk_len()).unwrap();
    let dest = dir.path().join("layer.qcow2");
    let plan = FilePlan {
        disk,
        format,
        options: &options,
        dest: &dest,
        existing: Existing::Keep,
        durability: Durability::Unsynced,
        read_back: true,
        threads,
        content_digest: true,
        raw_digest: false,
        leaves: Some(&mut leaves),
        budget: &Budget::default(),
    };
    let (staged, outcome) = stage_layer(plan, below, &Silent).unwrap();
    staged.commit(Existing::Keep, Durability::Unsynced).unwrap();
    let list = leaves.finish(&outcome.digests.as_ref().unwrap().content).unwrap().into_inner();
    (std::fs::read(&dest).unwrap(), outcome, LeafFile::read(&MemorySource::new(list)).unwrap())
}

/// The bytes of the layer's disk upon the base.
fn stacked(base: &[u8], file: &[u8]) -> Vec<u8> {
    let upper = open_layer("qcow2", Arc::new(MemorySource::new(file.to_vec()))).unwrap();
    let stack = StackDisk::new(vec![Box::new(flat(base)), upper]);
    let mut bytes = vec![0x77; stack.disk_len() as usize];
    stack.read_guest(GuestOffset::ZERO, &mut bytes).unwrap();
    bytes
}

/// A base of `blocks` blocks with some blocks of zeros, and what a machine made of it.
fn machine(seed: u64, base_len: usize, len: usize) -> (Vec<u8>, Cells) {
    let block = BLOCK_LEN as usize;
    let mut base = noise(seed, base_len);
    for at in (0..base_len / block).filter(|at| (at + seed as usize).is_multiple_of(4)) {
        base[at * block..(at + 1) * block].fill(0);
    }
    let mut bytes = base.clone();
    bytes.resize(len, 0);
    let mut map = vec![b'.'; len.div_ceil(CELL as usize)];
    let dice = noise(seed ^ 0xabcd, map.len() * 2);
    for cell in 0..map.len() {
        let range = cell * CELL as usize..((cell + 1) * CELL as usize).min(len);
        // Long runs of one kind, so that whole blocks are holes, zeros or the same as before.
        let (what, fine) = (dice[cell / 24], dice[map.len() + cell]);
        match what % 6 {
            0 => {
                bytes[range.clone()].fill(0);
                map[cell] = b'0';
            }
            1 => {
                bytes[range.clone()].fill(0);
                map[cell] = b'd';
            }
            2 if fine % 8 == 0 => {
                bytes[range.clone()].copy_from_slice(&noise(cell as u64, range.len()));
                map[cell] = b'd';
            }
            // Written again with what was there.
            3 => map[cell] = b'd',
            4 => {
                bytes[range.clone()].copy_from_slice(&noise(cell as u64, range.len()));
                map[cell] = b'd';
            }
            _ => {}
        }
    }
    (base, Cells { bytes, map })
}

#[test]
fn layer_upon_its_base_is_the_disk_and_its_digest_is_the_whole_disks() {
    let mut hidden = 0;
    let mut same = 0;
    for (seed, base_len, len) in [
        (1, 8 << 20, 8 << 20),
        (2, 8 << 20, 9 << 20),
        (3, 3 << 20, (5 << 20) + 512),
        (4, (4 << 20) + 1536, 8 << 20),
        // Cut inside a block that the base goes on with.
        (5, 4 << 20, (3 << 20) + 8192),
        (6, 4 << 20, 65_536 * 7),
    ] {
        let (base, disk) = machine(seed, base_len, len.max(base_len));
        let cut = Cells { bytes: disk.bytes[..len].to_vec(), map: disk.map.clone() };
        let below = leaves_of(&flat(&base));
        for style in [LayerStyle::Plain, LayerStyle::Zstd] {
            let (file, outcome, leaves) = layer(&cut, &below, style, 2);
            assert_eq!(stacked(&base, &file), cut.bytes, "seed {seed} {style}");
            let whole = leaves_of(&flat(&cut.bytes));
            assert_eq!(outcome.digests.as_ref().unwrap().content, whole.content(), "seed {seed} {style}");
            assert_eq!(leaves.content(), whole.content());
            for block in 0..(len as u64).div_ceil(BLOCK_LEN) {
                assert_eq!(leaves.leaf(block), whole.leaf(block), "block {block}");
            }
            // Exactly the blocks that differ are in it.
            let zero = vec![0; BLOCK_LEN as usize];
            let at = |bytes: &[u8], block: usize| {
                let range = block * zero.len()..((block + 1) * zero.len()).min(bytes.len());
                let mut part = bytes.get(range).unwrap_or_default().to_vec();
                part.resize(zero.len(), 0);
                part
            };
            let blocks = len.div_ceil(zero.len());
            let differ: Vec<_> = (0..blocks).filter(|b| at(&base, *b) != at(&cut.bytes, *b)).collect();
            let zeros = differ.iter().filter(|b| at(&cut.bytes, **b) == zero).count() as u64;
            let hides: u64 = outcome.hidden.iter().map(|range| range.len.div_ceil(BLOCK_LEN)).sum();
            assert_eq!(hides, zeros, "seed {seed}");
            assert_eq!(outcome.stored_bytes.div_ceil(BLOCK_LEN), differ.len() as u64 - zeros, "seed {seed}");
            hidden += hides;
            same += outcome.same_bytes;
            let again = layer(&cut, &below, style, 5).0;
            assert!(again == file, "the same file for any number of threads");
        }
    }
    assert!(hidden > 20 && same > 1 << 20, "{hidden} {same}");
}

#[test]
fn terabytes_of_zeros_over_nothing_cost_nothing_and_over_data_hide_just_that() {
    struct Zeros(u64);
    impl Disk for Zeros {
        fn disk_len(&self) -> u64 {
            self.0
        }
        fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
            check_range(at, buf.len(), self.0)?;
            buf.fill(0);
            Ok(())
        }
        fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> kiln_disk::Result<Extent> {
            check_range(at, 1, self.0)?;
            let rest = NonZeroU64::new(self.0 - at.get()).unwrap();
            Ok(Extent { start: at, len: rest.min(limit), kind: ExtentKind::Zero })
        }
    }
    let base = noise(7, 1 << 20);
    let below = leaves_of(&flat(&base));
    let begun = std::time::Instant::now();
    let (_, outcome, _) = layer(&Zeros(4 << 40), &below, LayerStyle::Plain, 2);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    assert_eq!(outcome.stored_bytes, 0);
    assert_eq!(
        outcome.hidden.iter().map(|range| (range.start.get(), range.len)).collect::<Vec<_>>(),
        [(0, 1 << 20)]
    );
    let whole = hash_disk(&Zeros(4 << 40), HashJob::default(), &Silent).unwrap();
    assert_eq!(outcome.digests.unwrap().content, whole.content);
}

#[test]
fn the_same_change_to_two_disks_is_two_layers() {
    let (one, other) = (flat(&noise(1, 1 << 20)), flat(&noise(2, 1 << 20)));
    let nothing = |bytes: &Cells| Cells { bytes: bytes.bytes.clone(), map: vec![b'.'; bytes.map.len()] };
    let first = layer(&nothing(&one), &leaves_of(&one), LayerStyle::Plain, 1).0;
    let second = layer(&nothing(&other), &leaves_of(&other), LayerStyle::Plain, 1).0;
    assert_ne!(first, second);
    assert_eq!(stacked(&one.bytes, &first), one.bytes);
    assert_eq!(stacked(&other.bytes, &second), other.bytes);
}

#[test]
fn formats_without_layers_refuse_before_anything_is_written() {
    let disk = flat(&noise(1, 1 << 20));
    let below = leaves_of(&disk);
    for (name, pairs) in [
        ("raw", vec![]),
        ("vhdx", vec![]),
        ("vdi", vec![]),
        ("qcow2", vec![("compat", "0.10")]),
        ("qcow2", vec![("cluster_size", "4k")]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let format = kiln_format::by_name(name).unwrap();
        let pairs = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let options = options_of(&format.create.unwrap(), pairs).unwrap();
        let dest = dir.path().join("layer");
        let plan = FilePlan {
            disk: &disk,
            format,
            options: &options,
            dest: &dest,
            existing: Existing::Keep,
            durability: Durability::Unsynced,
            read_back: true,
            threads: 1,
            content_digest: true,
            raw_digest: false,
            leaves: None,
            budget: &Budget::default(),
        };
        let error = stage_layer(plan, &below, &Silent).map(drop).unwrap_err();
        assert_eq!(error.code(), "format.no-layers", "{name}");
    }
}
