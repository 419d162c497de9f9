//! VHDs made to break their reader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Budget, Error, FileOffset, Limits, MemorySource};
use kiln_format::vhd::VhdProblem;
use kiln_format::{CheckScope, Choice, OpenContext, Tolerance, vhd};
use kiln_testkit::laws::Random;
use kiln_testkit::oracle::peak_memory;
use kiln_testkit::vhd::{BuiltVhd, ParentName, VhdBuilder};

#[path = "../fuzz/src/vhd.rs"]
mod exercise;

const BLOCK: usize = 64 * 1024;

fn builder() -> VhdBuilder {
    VhdBuilder { block_size: BLOCK as u32, ..VhdBuilder::default() }
}

fn disk() -> BuiltVhd {
    builder().dynamic(&vec![0xff; 8 * BLOCK])
}

#[track_caller]
fn refusal(bytes: &[u8]) -> Error {
    let opened = (vhd::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), &OpenContext::new());
    opened.err().expect("a refusal")
}

#[track_caller]
fn problem(bytes: &[u8]) -> (VhdProblem, u64) {
    let error = refusal(bytes);
    let problem = error.problem::<VhdProblem>().unwrap_or_else(|| panic!("{error} is no VHD problem"));
    (problem.clone(), error.offset().map_or(0, FileOffset::get))
}

#[test]
fn t_fmt_01_block_sizes_that_cannot_divide_are_refused_by_value() {
    for size in [0_u32, 1, 3, 511, 513, (2 << 20) - 512, (2 << 20) + 1, u32::MAX] {
        let mut built = disk();
        built.patch_header(32, &size.to_be_bytes());
        assert_eq!(problem(&built.bytes), (VhdProblem::BlockSize(size), 512));
    }
    for size in [512_u32, 1024, 2048] {
        let mut built = disk();
        built.patch_header(32, &size.to_be_bytes());
        assert_eq!(refusal(&built.bytes).code(), "vhd.small-blocks");
    }
}

#[test]
fn t_fmt_01_geometries_of_zero_are_refused() {
    for geometry in [(0, 16, 63), (1024, 0, 63), (1024, 16, 0)] {
        let built = VhdBuilder { creator: *b"vpc ", geometry, ..builder() }.dynamic(&vec![1; BLOCK]);
        assert_eq!(problem(&built.bytes), (VhdProblem::DiskSize(BLOCK as u64), built.footer_at as u64));
    }
    for size in [0_u64, 1, 511] {
        let built = VhdBuilder { current_size: Some(size), ..builder() }.dynamic(&vec![1; BLOCK]);
        assert_eq!(problem(&built.bytes), (VhdProblem::DiskSize(size), built.footer_at as u64));
    }
}

#[test]
fn t_fmt_02_table_lengths_and_places_that_leave_the_file_are_refused() {
    let good = disk();
    let file_len = good.bytes.len() as u64;
    let table_at = good.table_at as u64;
    for entries in [u32::MAX, 0x7fff_ffff, 0x4000_0000, 1 << 20] {
        let mut built = good.clone();
        built.patch_header(28, &entries.to_be_bytes());
        let expected = VhdProblem::TablePastEnd { at: table_at, entries, file_len };
        assert_eq!(problem(&built.bytes), (expected, table_at));
    }
    for entries in [0, 1, 7] {
        let mut built = good.clone();
        built.patch_header(28, &u32::to_be_bytes(entries));
        assert_eq!(problem(&built.bytes), (VhdProblem::TableTooSmall { entries, needed: 8 }, 512));
    }
    for at in [u64::MAX, u64::MAX - 31, 0x7fff_ffff_ffff_0000, 0x1234_5678_90ab_cdef, file_len - 31] {
        let mut built = good.clone();
        built.patch_header(16, &at.to_be_bytes());
        assert_eq!(problem(&built.bytes), (VhdProblem::TablePastEnd { at, entries: 8, file_len }, at));
    }
    for at in [u64::MAX, u64::MAX - 1023, 0x7fff_ffff_ffff_0000, file_len - 1023, file_len] {
        let mut built = good.clone();
        built.patch_footers(16, &at.to_be_bytes());
        assert_eq!(problem(&built.bytes), (VhdProblem::HeaderPastEnd { at, file_len }, at));
    }
    for at in [0_u64, 100, 1536, file_len - 1024] {
        let mut built = good.clone();
        built.patch_footers(16, &at.to_be_bytes());
        assert_eq!(problem(&built.bytes), (VhdProblem::HeaderCookie, at));
    }
}

#[test]
fn t_fmt_02_sizes_past_the_format_are_refused() {
    for size in [(2040_u64 << 30) + 512, 64 << 40, u64::MAX, u64::MAX - 511] {
        let mut built = disk();
        built.patch_footers(48, &size.to_be_bytes());
        match refusal(&built.bytes) {
            Error::Refused { code, asked, allowed, .. } => {
                assert_eq!((code, asked, allowed), ("vhd.size", size & !511, 2040 << 30));
            }
            other => panic!("{other}"),
        }
        let mut fixed = builder().fixed(&[1; 4096]);
        fixed.patch_footers(48, &size.to_be_bytes());
        assert_eq!(refusal(&fixed.bytes).code(), "vhd.size");
    }
}

#[test]
fn t_fmt_07_structures_on_top_of_each_other_are_refused() {
    let good = disk();
    let footer = good.footer_at as u64;
    for (table_at, one, other, at) in [
        (0, "block allocation table", "footer at the start", 0),
        (511, "block allocation table", "footer at the start", 511),
        (1535, "block allocation table", "dynamic disk header", 1535),
        (footer - 31, "block allocation table", "footer at the end", footer - 31),
        (footer + 480, "block allocation table", "footer at the end", footer + 480),
    ] {
        let mut built = good.clone();
        built.patch_header(16, &table_at.to_be_bytes());
        assert_eq!(problem(&built.bytes), (VhdProblem::Overlap { one, other }, at));
    }
}

#[test]
fn t_fmt_08_every_block_size_bit_opens_or_is_refused() {
    for bit in 0..32 {
        let mut built = disk();
        built.patch_header(32, &(1_u32 << bit).to_be_bytes());
        let codes = ["vhd.header.block-size", "vhd.small-blocks", "vhd.bat.too-small", "vhd.block.past-end"];
        let allowed = ["vhd.block.aliased", "vhd.block.on-metadata"];
        let opened =
            (vhd::FORMAT.open)(Arc::new(MemorySource::new(built.bytes.clone())), &OpenContext::new());
        match opened {
            // From 2^19 on the whole disk is in the first block, which is as good a disk as any.
            Ok(_) => assert!(bit == 16 || bit >= 19, "2^{bit} does not fit the table"),
            Err(error) => {
                assert!(codes.contains(&error.code()) || allowed.contains(&error.code()), "{bit}: {error}");
            }
        }
    }
}

#[test]
fn t_ext_12_polyglots_with_a_vhd_footer_are_refused_or_read_as_one_thing() {
    let select = |bytes: &[u8]| {
        kiln_format::select(&MemorySource::new(bytes.to_vec()), Choice::Detect).map(|format| format.id)
    };
    let code = |bytes: &[u8]| select(bytes).err().map_or("accepted", |error| error.code());
    let fixed = |content: &[u8]| builder().fixed(content).bytes;
    let mut content = vec![0; 1 << 20];

    // A fixed VHD begins with the guest's bytes: partition tables and file systems belong there.
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    content[512..520].copy_from_slice(b"EFI PART");
    assert_eq!(select(&fixed(&content)).unwrap(), "vhd");
    let mut ext4 = vec![0; 1 << 20];
    ext4[1080..1082].copy_from_slice(&[0x53, 0xef]);
    assert_eq!(select(&fixed(&ext4)).unwrap(), "vhd");

    // A dynamic VHD has its own header there.
    let mut table = disk().bytes;
    table[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 0xff, 0, 0, 0]);
    table[510..512].copy_from_slice(&[0x55, 0xaa]);
    assert_eq!(code(&table), "format.polyglot");
    // Other containers in front of a footer.
    for magic in [&b"KDMV\x01\0\0\0"[..], b"vhdxfile", b"\x1f\x8b\x08\0\0\0\0\0", b"\xfd7zXZ\0\0\x04"] {
        let mut bytes = vec![0; 1 << 20];
        bytes[..magic.len()].copy_from_slice(magic);
        assert_eq!(code(&fixed(&bytes)), "format.polyglot", "{magic:02x?}");
    }
    // Eight bytes alone at the end are no footer.
    let mut chance = vec![7; 1 << 20];
    let at = chance.len() - 512;
    chance[at..at + 8].copy_from_slice(b"conectix");
    assert_eq!(select(&chance).unwrap(), "raw");
}

#[test]
fn t_dos_07_a_sparse_bomb_costs_nothing_to_look_at() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("bomb.vhd");
    // 2040 GiB, nothing in it, in a sparse file of 1 TiB.
    let mut built = VhdBuilder { spare_entries: 1_044_479, ..VhdBuilder::default() }.dynamic(&[0; 512]);
    built.patch_footers(48, &(2040_u64 << 30).to_be_bytes());
    let footer = built.bytes[..512].to_vec();
    std::fs::write(&path, &built.bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &footer, (1 << 40) - 512).unwrap();
    let before = peak_memory();
    let start = Instant::now();
    for tolerance in [Tolerance::Strict, Tolerance::Damaged] {
        let context =
            OpenContext { budget: Arc::new(Budget::new(Limits::INSPECT)), tolerance, ..OpenContext::new() };
        let source = Arc::new(kiln_disk::FileSource::open(&path).unwrap());
        let image = (vhd::FORMAT.open)(source, &context).unwrap();
        assert_eq!(image.facts().disk_bytes, 2040 << 30);
        let findings = image.check(CheckScope::Data, &kiln_disk::Silent).unwrap();
        assert_eq!(findings.count_of("vhd.leak"), 1);
    }
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    let memory = peak_memory() - before;
    assert!(memory < 64 << 20, "{memory} bytes");
}

#[test]
fn a_check_of_small_blocks_in_a_large_sparse_file_ends_at_the_budget() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("bomb.vhd");
    // Half a billion entries of zeros: each leads to sector 0, and all of them are faults.
    let mut built = VhdBuilder { block_size: 4096, ..VhdBuilder::default() }.dynamic(&[1; 4096]);
    let entries = 1_u32 << 29;
    built.patch_header(28, &entries.to_be_bytes()).patch_header(16, &(1_u64 << 21).to_be_bytes());
    built.patch_footers(48, &(2040_u64 << 30).to_be_bytes());
    let footer = built.bytes[..512].to_vec();
    std::fs::write(&path, &built.bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &footer, (1 << 41) - 512).unwrap();
    let open = |tolerance| {
        let limits = Limits { nodes: 4 << 20, ..Limits::INSPECT };
        let context = OpenContext { budget: Arc::new(Budget::new(limits)), tolerance, ..OpenContext::new() };
        (vhd::FORMAT.open)(Arc::new(kiln_disk::FileSource::open(&path).unwrap()), &context)
    };
    let start = Instant::now();
    assert_eq!(open(Tolerance::Strict).err().unwrap().code(), "vhd.block.on-metadata");
    let error = open(Tolerance::Damaged).unwrap().check(CheckScope::Data, &kiln_disk::Silent).unwrap_err();
    assert_eq!(error.code(), "budget.nodes");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(peak_memory() < 256 << 20);
}

/// The images whose mutants are tried.
fn seeds() -> Vec<Vec<u8>> {
    let small = VhdBuilder { block_size: 4096, ..VhdBuilder::default() };
    let content: Vec<u8> =
        (0..40_960_u32).map(|n| if n % 12_288 < 4096 { 0 } else { (n % 251) as u8 }).collect();
    let parent = ParentName {
        unique_id: small.unique_id,
        unicode_name: "parent.vhd".to_owned(),
        locators: vec![(*b"W2ku", b"p\0".to_vec()), (*b"MacX", b"file:p".to_vec())],
        ..ParentName::default()
    };
    vec![
        small.fixed(&content).bytes,
        VhdBuilder { short_footer: true, ..small.clone() }.fixed(&content[..4096]).bytes,
        small.dynamic(&content).bytes,
        VhdBuilder { shuffle: 3, gap: 512, table_last: true, spare_entries: 7, ..small.clone() }
            .dynamic(&content)
            .bytes,
        VhdBuilder { parent: Some(parent), ..small }.differencing(&content, &|sector| sector % 3 == 0).bytes,
    ]
}

/// One mutant: a few changed bytes, most of them where headers are, most of them with the checksums put right.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let len = bytes.len() as u64;
    for _ in 0..=random.below(4) {
        let at = match random.below(4) {
            0 => random.below(len),
            1 => random.below(len.min(512)),
            2 => random.below(len.min(2048)),
            _ => len - 1 - random.below(len.min(512)),
        } as usize;
        let odd = [0, 1, 0x7f, 0x80, 0xff, random.number() as u8];
        let value = odd[random.below(odd.len() as u64) as usize];
        let run = [1, 1, 2, 4, 8][random.below(5) as usize];
        let end = bytes.len().min(at + run);
        bytes[at..end].fill(value);
    }
    match random.below(10) {
        0 => bytes.truncate(random.below(len) as usize),
        1 => bytes.extend(vec![0xcc; random.below(2000) as usize]),
        _ => {}
    }
    if random.below(4) > 0 {
        exercise::reseal(&mut bytes);
    }
    bytes
}

#[test]
fn five_thousand_mutants_neither_panic_nor_hang_nor_take_memory() {
    let seeds = seeds();
    let mut random = Random(0x6b69_6c6e);
    let mut opened = 0;
    let start = Instant::now();
    for round in 0..5000 {
        let bytes = mutate(&seeds[round % seeds.len()], &mut random);
        let one = Instant::now();
        opened += u32::from(exercise::vhd(&bytes));
        assert!(one.elapsed() < Duration::from_secs(2), "mutant {round}: {:?}", one.elapsed());
    }
    assert!(opened > 500, "only {opened} mutants were worth opening");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let memory = peak_memory();
    assert!(memory < 256 << 20, "{memory} bytes");
}

#[test]
fn the_seed_corpus_of_the_fuzz_target_is_harmless() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/vhd");
    let mut tried = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        exercise::vhd(&std::fs::read(entry.unwrap().path()).unwrap());
        tried += 1;
    }
    assert!(tried >= 5, "{tried} files");
}

/// Writes the seed corpus anew: `cargo test -p kiln-format --test vhd_hostile -- --ignored write_the_seed_corpus`.
#[test]
#[ignore = "writes into the source tree; run it when the seeds change"]
fn write_the_seed_corpus() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/vhd");
    std::fs::create_dir_all(&dir).unwrap();
    let names = ["fixed", "fixed-511", "dynamic", "dynamic-scattered", "differencing"];
    for (name, bytes) in names.iter().zip(seeds()) {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}
