//! VHDXs made to break their reader, and what the check says of damage.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Budget, Error, FileOffset, Findings, Limits, MemorySource, Silent};
use kiln_format::vhdx::VhdxProblem;
use kiln_format::{CheckScope, OpenContext, Tolerance, vhdx};
use kiln_testkit::laws::Random;
use kiln_testkit::oracle::peak_memory;
use kiln_testkit::vhdx::{BuiltVhdx, Change, HEADERS, LogEntry, REGION_TABLES, State, VhdxBuilder};

#[path = "../fuzz/src/vhdx.rs"]
mod exercise;

const MIB: usize = 1 << 20;

fn disk() -> BuiltVhdx {
    VhdxBuilder::default().build(&vec![0xff; 4 * MIB])
}

#[track_caller]
fn refusal(bytes: &[u8]) -> Error {
    let opened = (vhdx::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), &OpenContext::new());
    opened.err().expect("a refusal")
}

#[track_caller]
fn problem(bytes: &[u8]) -> VhdxProblem {
    let error = refusal(bytes);
    error.problem::<VhdxProblem>().unwrap_or_else(|| panic!("{error} is no VHDX problem")).clone()
}

fn check(bytes: &[u8]) -> Findings {
    let context = OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() };
    let image = (vhdx::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), &context).unwrap();
    image.check(CheckScope::Data, &Silent).unwrap()
}

/// Id, file position, guest range of a finding.
type Seen = (&'static str, Option<u64>, Option<(u64, u64)>);

fn seen(findings: &Findings) -> Vec<Seen> {
    let list = findings.list().iter();
    list.map(|finding| {
        let guest = finding.guest.map(|range| (range.start.get(), range.len));
        (finding.check.id, finding.file_at.map(FileOffset::get), guest)
    })
    .collect()
}

fn after(change: &dyn Fn(&mut BuiltVhdx)) -> Vec<Seen> {
    let mut built = disk();
    change(&mut built);
    seen(&check(&built.bytes))
}

#[test]
fn t_fmt_04_every_pair_of_block_and_sector_size_opens_or_is_refused_by_value() {
    let sizes = [0, 1, 511, (1 << 20) - 1, 1 << 20, 256 << 20, 257 << 20, u32::MAX];
    for block in sizes {
        for sector in [0_u32, 1, 512, 513, 4096, 1 << 31] {
            let mut built = disk();
            built.patch_item(0, &block.to_le_bytes()).patch_item(3, &sector.to_le_bytes());
            let opened =
                (vhdx::FORMAT.open)(Arc::new(MemorySource::new(built.bytes.clone())), &OpenContext::new());
            match (block, sector) {
                (0x10_0000, 512 | 4096) => assert!(opened.is_ok()),
                // One block of 256 MiB, of which the file has what the disk needs.
                (0x1000_0000, 512 | 4096) => assert_eq!(opened.unwrap().facts().unit_bytes, Some(256 << 20)),
                (0x10_0000 | 0x1000_0000, _) => {
                    assert_eq!(problem(&built.bytes), VhdxProblem::SectorSize(sector));
                }
                _ => assert_eq!(problem(&built.bytes), VhdxProblem::BlockSize(block)),
            }
        }
    }
    for size in [0, 1, 513, (64_u64 << 40) + 512, u64::MAX, u64::MAX - 511] {
        let mut built = disk();
        built.patch_item(1, &size.to_le_bytes());
        assert_eq!(problem(&built.bytes), VhdxProblem::DiskSize { size, sector: 512 });
    }
    let mut built = disk();
    built.patch_item(1, &(64_u64 << 40).to_le_bytes());
    assert!(matches!(problem(&built.bytes), VhdxProblem::BatTooSmall { .. }));
}

#[test]
fn t_fmt_07_each_structure_on_top_of_each_other_is_refused() {
    let good = disk();
    let (bat, metadata) = (good.bat_at as u64, good.metadata_at as u64);
    let payload = good.blocks[&0] as u64;
    // Headers, log, table, metadata, first and second payload block.
    let places = [0, MIB as u64, bat, metadata, payload, good.blocks[&1] as u64];
    let mut tried = 0;
    for (moved, from) in places.iter().enumerate() {
        for to in places.iter().filter(|to| *to != from) {
            let mut built = good.clone();
            match moved {
                0 => continue,
                1 => built.patch_headers(72, &to.to_le_bytes()),
                2 => built.patch_regions(16 + 16, &to.to_le_bytes()),
                3 => built.patch_regions(48 + 16, &to.to_le_bytes()),
                block => built.patch_entry(block - 4, *to | 6),
            };
            let code = refusal(&built.bytes).code();
            let expected = [
                "vhdx.layout.overlap",
                "vhdx.region.place",
                "vhdx.block.on-metadata",
                "vhdx.block.aliased",
                "vhdx.signature",
                "vhdx.bat.state",
                "vhdx.block.past-end",
            ];
            assert!(expected.contains(&code), "{moved} to {to:#x}: {code}");
            tried += 1;
        }
    }
    assert_eq!(tried, 25);
}

#[test]
fn entries_that_lead_astray_are_refused_and_named_with_their_guest_range() {
    let good = disk();
    let place = |block: u64| Some(good.bat_at as u64 + 8 * block);
    let guest = |block: u64| Some((block * MIB as u64, MIB as u64));
    let end = good.bytes.len() as u64;
    let left = ("vhdx.leak", Some(good.blocks[&2] as u64), None);
    for (entry, id) in [
        (end | 6, "vhdx.block.past-end"),
        (!7 | 6, "vhdx.block.past-end"),
        (6, "vhdx.block.on-metadata"),
        (good.bat_at as u64 | 6, "vhdx.block.on-metadata"),
        (good.blocks[&2] as u64 | 7, "vhdx.bat.state"),
        (4, "vhdx.bat.state"),
        (good.blocks[&1] as u64 | 6, "vhdx.block.aliased"),
    ] {
        let mut built = good.clone();
        built.patch_entry(2, entry);
        let error = refusal(&built.bytes);
        assert_eq!((error.code(), error.offset().map(FileOffset::get)), (id, place(2)), "{entry:#x}");
        assert_eq!(seen(&check(&built.bytes)), [(id, place(2), guest(2)), left], "{entry:#x}");
    }
    // Cut in the last block but one.
    let cut = after(&|vhdx| vhdx.bytes.truncate(vhdx.blocks[&2] + 100));
    assert_eq!(cut, [2, 3].map(|block| ("vhdx.block.past-end", place(block), guest(block))));
}

#[test]
fn a_good_disk_has_no_findings_and_every_row_says_what_to_do() {
    assert_eq!(after(&|_| {}), []);
    let shuffled = VhdxBuilder { shuffle: 9, fixed: true, block_size: 2 << 20, ..VhdxBuilder::default() };
    assert_eq!(seen(&check(&shuffled.build(&vec![1; 7 * MIB]).bytes)), []);
    let mut ids: Vec<_> = vhdx::CHECKS.iter().map(|row| row.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), vhdx::CHECKS.len());
    for row in vhdx::CHECKS {
        assert!(row.id.starts_with("vhdx."), "{}", row.id);
        assert!(!row.summary.is_empty() && !row.effect.is_empty() && !row.fix.is_empty(), "{}", row.id);
    }
}

#[test]
fn damaged_copies_are_named_one_by_one() {
    for (id, places) in [("vhdx.header.damaged", HEADERS), ("vhdx.region.damaged", REGION_TABLES)] {
        for at in places {
            let found = after(&|vhdx| {
                vhdx.patch(at + 200, &[1]);
            });
            assert_eq!(found, [(id, Some(at as u64), None)]);
        }
    }
    let twins = after(&|vhdx| {
        vhdx.patch_headers(8, &3_u64.to_le_bytes());
    });
    assert_eq!(twins, [("vhdx.header.twins", Some(HEADERS[1] as u64), None)]);
    let gap = VhdxBuilder { gap_mib: 1, ..VhdxBuilder::default() }.build(&vec![1; 2 * MIB]);
    let first = gap.blocks[&0] as u64 - MIB as u64;
    assert_eq!(seen(&check(&gap.bytes)), [("vhdx.leak", Some(first), None)]);
    let parent = VhdxBuilder::default();
    let mut child = VhdxBuilder::child_of(&parent, "p.vhdx").build_with(
        &vec![1; 2 * MIB],
        &|_| State::Partial,
        &|sector| sector % 2 == 0,
    );
    let absent = seen(&check(&child.bytes));
    assert_eq!(absent.iter().map(|found| found.0).collect::<Vec<_>>(), ["vhdx.parent.absent"]);
    let entry = child.bat_at + 8 * child.ratio;
    child.patch(entry, &[0; 8]);
    assert_eq!(check(&child.bytes).count_of("vhdx.bitmap.missing"), 1);
}

#[test]
fn t_dos_06_an_aliasing_bomb_is_refused_and_its_check_is_bounded() {
    let blocks = 100_000_u64;
    let mut built = VhdxBuilder::default().build(&vec![1; MIB]);
    built.patch_item(1, &(blocks << 20).to_le_bytes());
    let at = built.blocks[&0] as u64;
    for block in 0..blocks as usize {
        let index = block + block / built.ratio;
        built.patch(built.bat_at + 8 * index, &(at | 6).to_le_bytes());
    }
    assert_eq!(problem(&built.bytes), VhdxProblem::Aliased { one: 0, other: 1 });
    let start = Instant::now();
    let findings = check(&built.bytes);
    assert_eq!(findings.count_of("vhdx.block.aliased"), blocks - 1);
    assert_eq!(findings.list().len(), Findings::PER_ID as usize);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn t_dos_07_a_sparse_bomb_costs_nothing_to_look_at() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("bomb.vhdx");
    // 64 TiB in blocks of 64 MiB, with one of them at the end of a sparse file of 8 TiB.
    let mut built = VhdxBuilder { block_size: 64 << 20, ..VhdxBuilder::default() }.build_with(
        &[1; 512],
        &|_| State::Is(0),
        &|_| true,
    );
    let last = (8_u64 << 40) - (64 << 20);
    built.patch_item(1, &(64_u64 << 40).to_le_bytes()).patch_entry(3, last | 6);
    // The table needs more than its mebibyte.
    let moved = 16_u64 << 20;
    built.patch_regions(32, &moved.to_le_bytes()).patch_regions(40, &(16_u32 << 20).to_le_bytes());
    std::fs::write(&path, &built.bytes).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&(last | 6).to_le_bytes(), moved + 24).unwrap();
    file.write_all_at(b"end", (8 << 40) - 3).unwrap();
    let before = peak_memory();
    let start = Instant::now();
    for tolerance in [Tolerance::Strict, Tolerance::Damaged] {
        let context =
            OpenContext { budget: Arc::new(Budget::new(Limits::INSPECT)), tolerance, ..OpenContext::new() };
        let image =
            (vhdx::FORMAT.open)(Arc::new(kiln_disk::FileSource::open(&path).unwrap()), &context).unwrap();
        assert_eq!(image.facts().disk_bytes, 64 << 40);
        assert_eq!(image.check(CheckScope::Data, &Silent).unwrap().count_of("vhdx.leak"), 1);
    }
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let memory = peak_memory() - before;
    assert!(memory < 128 << 20, "{memory} bytes");
}

/// The images whose mutants are tried.
fn seeds() -> Vec<BuiltVhdx> {
    let content: Vec<u8> = (0..2 * MIB + 4096).map(|n| if n < MIB { (n % 251) as u8 } else { 0 }).collect();
    let mut own = VhdxBuilder::child_of(&VhdxBuilder::default(), "parent.vhdx");
    own.data_write_guid = VhdxBuilder::default().data_write_guid;
    let states = [State::Partial, State::Is(0), State::Is(2)];
    let child = own.build_with(&content, &|block| states[block], &|sector| sector % 3 == 0);
    let mut logged = VhdxBuilder::default().build(&content);
    let len = logged.bytes.len() as u64;
    let sector = logged.bytes[logged.bat_at..logged.bat_at + 4096].to_vec();
    let changes =
        vec![Change::Data(logged.bat_at as u64, sector), Change::Zeros(logged.blocks[&0] as u64, 8192)];
    let guid = *b"the log's own id";
    let entry = LogEntry { sequence: 4, tail: 0, guid, file_offsets: [len, len], changes };
    logged.write_log(0, &entry.bytes(), guid);
    vec![VhdxBuilder::default().build(&content), logged, child]
}

/// One mutant: a few changed bytes, nearly all of them in structures, most of them with the checksums put right.
fn mutate(seed: &BuiltVhdx, random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.bytes.clone();
    for _ in 0..=random.below(4) {
        let at = match random.below(8) {
            0 | 1 => HEADERS[random.below(2) as usize] + random.below(80) as usize,
            2 => REGION_TABLES[random.below(2) as usize] + random.below(80) as usize,
            3 => seed.metadata_at + random.below(32 * 7) as usize,
            4 => seed.metadata_at + 65_536 + random.below(300) as usize,
            5 => seed.bat_at + random.below(24) as usize,
            6 => MIB + random.below(160) as usize,
            _ => random.below(bytes.len() as u64) as usize,
        };
        let odd = [0, 1, 2, 5, 6, 7, 0x7f, 0x80, 0xff, random.number() as u8];
        let value = odd[random.below(odd.len() as u64) as usize];
        let end = bytes.len().min(at + [1, 1, 2, 4, 8][random.below(5) as usize]);
        bytes[at..end].fill(value);
    }
    if random.below(10) == 0 {
        bytes.truncate(random.below(seed.bytes.len() as u64) as usize);
    }
    if random.below(5) > 0 {
        exercise::reseal(&mut bytes);
    }
    bytes
}

#[test]
fn five_thousand_mutants_neither_panic_nor_hang_nor_take_memory() {
    let seeds = seeds();
    let start = Instant::now();
    // Each mutant has megabytes to sum: two threads share them, with the same numbers whatever the machine.
    let opened: u32 = std::thread::scope(|scope| {
        let half = |salt: u64| {
            let seeds = &seeds;
            scope.spawn(move || {
                let mut random = Random(0x7668_6478 + salt);
                let mut opened = 0;
                for round in 0..2500 {
                    let bytes = mutate(&seeds[round % seeds.len()], &mut random);
                    let one = Instant::now();
                    opened += u32::from(exercise::vhdx(&bytes));
                    assert!(one.elapsed() < Duration::from_secs(5), "mutant {round}: {:?}", one.elapsed());
                }
                opened
            })
        };
        [half(0), half(1)].map(|thread| thread.join().unwrap()).iter().sum()
    });
    assert!(opened > 500, "only {opened} mutants were worth opening");
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    let memory = peak_memory();
    assert!(memory < 512 << 20, "{memory} bytes");
}

/// A seed as records for [`exercise::expand`]: what is not zero, in pieces of at most 4080 bytes.
fn records(built: &BuiltVhdx) -> Vec<u8> {
    let mut records = Vec::new();
    for (page, bytes) in built.bytes.chunks(4096).enumerate() {
        let used =
            bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).div_ceil(16).min(255));
        // Payload is the same all over: the first page of it will do.
        if used > 0 && page * 4096 <= built.metadata_at + MIB {
            records.extend((page as u16).to_le_bytes());
            records.push(used as u8);
            let mut piece = bytes[..bytes.len().min(used * 16)].to_vec();
            piece.resize(used * 16, 0);
            records.extend(piece);
        }
    }
    records
}

#[test]
fn the_seed_corpus_of_the_fuzz_target_is_harmless() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/vhdx");
    let (mut tried, mut opened) = (0, 0);
    for entry in std::fs::read_dir(dir).unwrap() {
        let mut bytes = exercise::expand(&std::fs::read(entry.unwrap().path()).unwrap());
        exercise::vhdx(&bytes);
        exercise::reseal(&mut bytes);
        opened += u32::from(exercise::vhdx(&bytes));
        tried += 1;
    }
    assert!(tried >= 3 && opened >= 3, "{opened} of {tried} files opened");
}

/// Writes the seed corpus anew: `cargo test -p kiln-format --test vhdx_hostile -- --ignored write_the_seed_corpus`.
#[test]
#[ignore = "writes into the source tree; run it when the seeds change"]
fn write_the_seed_corpus() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/vhdx");
    std::fs::create_dir_all(&dir).unwrap();
    for (name, seed) in ["dynamic", "log", "differencing"].iter().zip(seeds()) {
        std::fs::write(dir.join(name), records(&seed)).unwrap();
    }
}
