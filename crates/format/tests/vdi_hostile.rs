//! VDIs made to break their reader.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Budget, Error, FileOffset, Limits, MemorySource, Silent};
use kiln_format::vdi::VdiProblem;
use kiln_format::{CheckScope, OpenContext, Tolerance, vdi};
use kiln_testkit::laws::Random;
use kiln_testkit::oracle::peak_memory;
use kiln_testkit::vdi::{BuiltVdi, FREE, VdiBuilder, ZERO};

#[path = "../fuzz/src/vdi.rs"]
mod exercise;

const BLOCK: usize = 64 * 1024;

fn disk() -> BuiltVdi {
    VdiBuilder::default().build(&vec![0xff; 8 * BLOCK])
}

#[track_caller]
fn refusal(bytes: &[u8]) -> Error {
    let opened = (vdi::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), &OpenContext::new());
    opened.err().expect("a refusal")
}

#[track_caller]
fn problem(bytes: &[u8]) -> (VdiProblem, u64) {
    let error = refusal(bytes);
    let problem = error.problem::<VdiProblem>().unwrap_or_else(|| panic!("{error} is no VDI problem"));
    (problem.clone(), error.offset().map_or(0, FileOffset::get))
}

#[test]
fn t_fmt_01_sizes_that_cannot_divide_are_refused_by_value() {
    for size in [0_u32, 1, 3, 256, 511, 513, 65_535, (1 << 20) + 512, u32::MAX] {
        let mut built = disk();
        built.patch_u32(0x178, size);
        assert_eq!(problem(&built.bytes), (VdiProblem::BlockSize(size), 0x178));
    }
    for extra in [3_u32, 513, u32::MAX] {
        let mut built = disk();
        built.patch_u32(0x17c, extra);
        assert_eq!(problem(&built.bytes), (VdiProblem::BlockExtra(extra), 0x17c));
    }
    let mut built = disk();
    built.patch(0x170, &[0; 8]);
    assert_eq!(problem(&built.bytes), (VdiProblem::DiskSize, 0x170));
    for kind in [0_u32, 5, u32::MAX] {
        let mut built = disk();
        built.patch_u32(0x4c, kind);
        assert_eq!(problem(&built.bytes), (VdiProblem::ImageType(kind), 0x4c));
    }
    for size in [0_u32, 383] {
        let mut built = disk();
        built.patch_u32(0x48, size);
        assert_eq!(problem(&built.bytes), (VdiProblem::HeaderSize(size), 0x48));
    }
}

#[test]
fn t_fmt_02_map_lengths_and_places_that_leave_the_file_are_refused() {
    let good = disk();
    let file_len = good.bytes.len() as u64;
    for entries in [u32::MAX, 0x7fff_ffff, 0x4000_0000, 0x3fff_ffff, 0x2000_0000] {
        let mut built = good.clone();
        built.patch_u32(0x180, entries);
        assert_eq!(problem(&built.bytes), (VdiProblem::MapPastEnd { at: 512, entries, file_len }, 512));
    }
    for entries in [0_u32, 1, 7] {
        let mut built = good.clone();
        built.patch_u32(0x180, entries);
        assert_eq!(problem(&built.bytes), (VdiProblem::MapTooSmall { entries, needed: 8 }, 0x180));
    }
    for at in [u32::MAX, 0x7fff_ffff, file_len as u32 - 31] {
        let mut built = good.clone();
        built.patch_u32(0x154, at);
        let expected = VdiProblem::MapPastEnd { at: at.into(), entries: 8, file_len };
        assert_eq!(problem(&built.bytes), (expected, at.into()));
    }
    for disk_size in [u64::MAX, 1 << 63, 1 << 52] {
        let mut built = good.clone();
        built.patch(0x170, &disk_size.to_le_bytes());
        assert_eq!(
            problem(&built.bytes).0.clone(),
            VdiProblem::MapTooSmall { entries: 8, needed: disk_size.div_ceil(BLOCK as u64) }
        );
    }
    for len in [0, 64, 68, 455] {
        assert_eq!(problem(&good.bytes[..len]), (VdiProblem::HeaderCut(len as u64), len as u64));
    }
}

#[test]
fn t_fmt_07_structures_on_top_of_each_other_are_refused() {
    let good = disk();
    let fields = [(0x154, 0_u32), (0x154, 455), (0x158, 0), (0x158, 455), (0x158, 512), (0x158, 543)];
    for (field, at) in fields {
        let mut built = good.clone();
        built.patch_u32(field, at);
        let (problem, place) = problem(&built.bytes);
        assert!(matches!(problem, VdiProblem::Overlap { .. }), "{field:#x} = {at}: {problem}");
        assert_eq!(place, field as u64);
    }
}

#[test]
fn entries_that_lead_out_of_the_file_or_to_one_block_twice_are_refused() {
    let good = disk();
    let place = |block: u64| 512 + 4 * block;
    for number in [8_u32, 9, 0x7fff_ffff, u32::MAX - 2] {
        let mut built = good.clone();
        built.patch_entry(3, number);
        let at = good.data_at as u64 + u64::from(number) * BLOCK as u64;
        let expected = VdiProblem::BlockPastEnd { block: 3, at, file_len: good.bytes.len() as u64 };
        assert_eq!(problem(&built.bytes), (expected, place(3)));
    }
    let mut built = good.clone();
    built.patch_entry(6, 1);
    assert_eq!(problem(&built.bytes), (VdiProblem::Aliased { one: 1, other: 6 }, place(6)));
}

#[test]
fn t_dos_06_an_aliasing_bomb_is_refused_and_its_check_is_bounded() {
    let blocks = 1_000_000;
    let mut built =
        VdiBuilder { spare_entries: blocks as u32 - 1, ..VdiBuilder::default() }.build(&vec![1; BLOCK]);
    built.patch(0x170, &((blocks * BLOCK) as u64).to_le_bytes());
    for block in 1..blocks {
        built.patch_entry(block, 0);
    }
    assert_eq!(refusal(&built.bytes).code(), "vdi.block.aliased");
    let start = Instant::now();
    let context = OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() };
    let image = (vdi::FORMAT.open)(Arc::new(MemorySource::new(built.bytes)), &context).unwrap();
    let findings = image.check(CheckScope::Data, &Silent).unwrap();
    assert_eq!(findings.count_of("vdi.block.aliased"), blocks as u64 - 1);
    assert!(findings.list().len() < 30);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn t_dos_07_a_sparse_bomb_costs_nothing_to_look_at() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("bomb.vdi");
    // 64 TiB in blocks of 8 MiB, one of them at the end of a sparse file of some TiB.
    let mut built = VdiBuilder { block_size: 8 << 20, spare_entries: (8 << 20) - 1, ..VdiBuilder::default() }
        .build_with(&[1; 512], &|_| Some(FREE));
    built.patch(0x170, &(64_u64 << 40).to_le_bytes()).patch_entry(5, 400_000).patch_u32(0x184, 400_001);
    std::fs::write(&path, &built.bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"end", built.data_at as u64 + 400_001 * (8 << 20) - 3).unwrap();
    let before = peak_memory();
    let start = Instant::now();
    for tolerance in [Tolerance::Strict, Tolerance::Damaged] {
        let context =
            OpenContext { budget: Arc::new(Budget::new(Limits::INSPECT)), tolerance, ..OpenContext::new() };
        let source = Arc::new(kiln_disk::FileSource::open(&path).unwrap());
        let image = (vdi::FORMAT.open)(source, &context).unwrap();
        assert_eq!(image.facts().disk_bytes, 64 << 40);
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        assert_eq!(findings.count_of("vdi.leak"), 1);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let memory = peak_memory() - before;
    assert!(memory < 64 << 20, "{memory} bytes");
}

/// The images whose mutants are tried.
fn seeds() -> Vec<Vec<u8>> {
    let small = VdiBuilder { block_size: 4096, ..VdiBuilder::default() };
    let content: Vec<u8> =
        (0..40_960_u32).map(|n| if n % 12_288 < 4096 { 0 } else { (n % 251) as u8 }).collect();
    let mut own = VdiBuilder { block_size: 4096, ..VdiBuilder::child_of(&small) };
    own.ids[0] = own.ids[2];
    vec![
        small.build(&content).bytes,
        VdiBuilder { image_type: 2, header_size: 384, ..small.clone() }.build(&content[..10_000]).bytes,
        VdiBuilder {
            shuffle: 3,
            leaks: 2,
            spare_entries: 7,
            block_extra: 512,
            mark_zeros: true,
            ..small.clone()
        }
        .build(&content)
        .bytes,
        own.build_with(&content, &|block| [Some(FREE), Some(ZERO), None][block % 3]).bytes,
    ]
}

/// One mutant: a few changed bytes, most of them where header and map are.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let len = bytes.len() as u64;
    for _ in 0..=random.below(4) {
        let at = match random.below(5) {
            0 => random.below(len),
            1 => 0x40 + random.below(0x18),
            2 | 3 => 0x154 + random.below(0x1d8 - 0x154),
            _ => 512 + random.below(64),
        } as usize;
        let odd = [0, 1, 2, 3, 4, 0x7f, 0x80, 0xfe, 0xff, random.number() as u8];
        let value = odd[random.below(odd.len() as u64) as usize];
        let run = [1, 1, 2, 4, 8][random.below(5) as usize];
        let end = bytes.len().min(at + run);
        bytes[at..end].fill(value);
    }
    match random.below(10) {
        0 => bytes.truncate(random.below(len) as usize),
        1 => bytes.extend(vec![0xcc; random.below(9000) as usize]),
        _ => {}
    }
    bytes
}

#[test]
fn five_thousand_mutants_neither_panic_nor_hang_nor_take_memory() {
    let seeds = seeds();
    let mut random = Random(0x7664_6920);
    let mut opened = 0;
    let start = Instant::now();
    for round in 0..5000 {
        let bytes = mutate(&seeds[round % seeds.len()], &mut random);
        let one = Instant::now();
        opened += u32::from(exercise::vdi(&bytes));
        assert!(one.elapsed() < Duration::from_secs(2), "mutant {round}: {:?}", one.elapsed());
    }
    assert!(opened > 500, "only {opened} mutants were worth opening");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let memory = peak_memory();
    assert!(memory < 256 << 20, "{memory} bytes");
}

#[test]
fn the_seed_corpus_of_the_fuzz_target_is_harmless() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/vdi");
    let mut tried = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        exercise::vdi(&std::fs::read(entry.unwrap().path()).unwrap());
        tried += 1;
    }
    assert!(tried >= 4, "{tried} files");
}

/// Writes the seed corpus anew: `cargo test -p kiln-format --test vdi_hostile -- --ignored write_the_seed_corpus`.
#[test]
#[ignore = "writes into the source tree; run it when the seeds change"]
fn write_the_seed_corpus() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/vdi");
    std::fs::create_dir_all(&dir).unwrap();
    let names = ["dynamic", "static", "scattered", "differencing"];
    for (name, bytes) in names.iter().zip(seeds()) {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}
