//! VMDKs made to break their reader, or to make it open what it should not.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Error, FileOffset, FileSource, GuestOffset, MemorySource};
use kiln_format::vmdk::VmdkProblem;
use kiln_format::{Choice, Image, OpenContext, Siblings, Tolerance, vmdk};
use kiln_testkit::laws::Random;
use kiln_testkit::oracle::peak_memory;
use kiln_testkit::vmdk::{BuiltVmdk, Directory, VmdkBuilder, descriptor};

#[path = "../fuzz/src/vmdk.rs"]
mod exercise;

const GRAIN: usize = 65_536;

fn disk() -> BuiltVmdk {
    VmdkBuilder { entries: 4, ..VmdkBuilder::default() }.build(&vec![0xff; 8 * GRAIN])
}

fn stream() -> BuiltVmdk {
    VmdkBuilder { entries: 4, ..VmdkBuilder::stream() }.build(&vec![0xff; 8 * GRAIN])
}

#[track_caller]
fn refusal(bytes: &[u8]) -> Error {
    let opened = (vmdk::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), &OpenContext::new());
    opened.err().expect("a refusal")
}

#[track_caller]
fn problem(bytes: &[u8]) -> (VmdkProblem, u64) {
    let error = refusal(bytes);
    let problem = error.problem::<VmdkProblem>().unwrap_or_else(|| panic!("{error} is no VMDK problem"));
    (problem.clone(), error.offset().map_or(0, FileOffset::get))
}

/// Opens a descriptor file in a folder with a canary, as the command line does.
fn open_in(dir: &Path, text: &[u8]) -> kiln_disk::Result<Box<dyn Image>> {
    let path = dir.join("disk.vmdk");
    std::fs::write(&path, text).unwrap();
    let resolver = Arc::new(Siblings::beside(&path, OpenContext::new().resolver));
    let context = OpenContext { resolver, ..OpenContext::new() };
    kiln_format::open(Arc::new(FileSource::open(&path).unwrap()), Choice::Detect, &context)
}

#[test]
fn t_ext_02_no_descriptor_leads_out_of_its_folder() {
    let outer = tempfile::tempdir().unwrap();
    let dir = outer.path().join("in");
    std::fs::create_dir_all(dir.join("sub")).unwrap();
    let canary = [0xca; 4096];
    std::fs::write(outer.path().join("canary"), canary).unwrap();
    std::fs::write(dir.join("sub/canary"), canary).unwrap();
    std::fs::write(dir.join("good"), [1; 4096]).unwrap();
    symlink("../canary", dir.join("link")).unwrap();
    symlink("good", dir.join("good-link")).unwrap();
    let absolute = format!("{}/canary", outer.path().display());
    let flat = |name: &str| descriptor("monolithicFlat", 1, None, &[format!("RW 8 FLAT \"{name}\" 0")]);
    let kind = |kind: &str, line: &str| descriptor(kind, 1, None, &[line.to_owned()]);

    let path = "reference.extent.path";
    let mut cases: Vec<(Vec<u8>, &str)> = Vec::new();
    for (name, code) in [
        ("../canary", path),
        ("sub/canary", path),
        ("..\\canary", path),
        ("C:\\canary", path),
        ("..", path),
        (".", path),
        ("", path),
        ("good/", path),
        ("file:///canary", path),
        ("/dev/zero", path),
        ("link", "reference.extent.link"),
        ("good-link", "reference.extent.link"),
        ("sub", "reference.extent.kind"),
        ("nbd:localhost:10809", "io.not-found"),
        (absolute.as_str(), path),
    ] {
        cases.push((flat(name).into_bytes(), code));
    }
    // The descriptor itself as its extent: bytes of its own folder, but not as a sparse extent.
    cases.push((kind("monolithicSparse", "RW 8 SPARSE \"disk.vmdk\"").into_bytes(), "vmdk.header.cut"));
    // A name that ends at a NUL for some readers.
    cases.push((flat("good\0/../../canary").into_bytes(), "vmdk.descriptor.line"));
    // A second descriptor where some readers look on.
    cases.push(([flat("good"), flat("../canary")].join("\0").into_bytes(), "vmdk.descriptor.hidden"));
    // Two kinds, two extents' worth of trust.
    let twice = flat("good").replace("\ncreateType", "\ncreateType=\"vmfs\"\ncreateType");
    cases.push((twice.into_bytes(), "vmdk.descriptor.twice"));
    cases.push((kind("wonderful", "RW 8 FLAT \"good\" 0").into_bytes(), "vmdk.create-type"));
    cases.push((kind("vmfsRDM", "RW 8 VMFSRDM \"good\"").into_bytes(), "vmdk.extent.kind"));
    cases.push((kind("fullDevice", "RW 8 FLAT \"/dev/sda\" 0").into_bytes(), "vmdk.create-type"));
    cases.push((
        kind("monolithicSparse", "RW 8 FLAT \"../canary\" 0").into_bytes(),
        "vmdk.descriptor.extents",
    ));
    cases
        .push((kind("monolithicFlat", "RW 8 FLAT \"good\" 0\nRW 8 FLAT \"../canary\" 0").into_bytes(), path));
    cases.push((kind("monolithicFlat", "RW 8 ZERO\nRW 8 FLAT \"../canary\" 0").into_bytes(), path));
    cases.push((flat("../canary").replace('\n', "\r\n").into_bytes(), path));
    let mut long = flat("../canary").into_bytes();
    long.resize(1 << 20, b'\n');
    cases.push((long, "vmdk.descriptor.long"));
    cases.push((
        kind("monolithicFlat", "RW 8 FLAT \"good\" 0\nRW 8 FLAT \"good\" 4").into_bytes(),
        "vmdk.extent.aliased",
    ));
    let lines = vec!["RW 8 ZERO".to_owned(); 2049];
    cases.push((descriptor("custom", 1, None, &lines).into_bytes(), "vmdk.extents"));
    // A sparse extent whose descriptor says that the data is elsewhere.
    for line in
        ["RW 8 FLAT \"../canary\" 0", "RW 8 VMFS \"canary\"", "RW 8 SPARSE \"a\"\nRW 8 FLAT \"good\" 0"]
    {
        for name in ["monolithicSparse", "monolithicFlat", "custom"] {
            let builder = VmdkBuilder { descriptor: Some(kind(name, line)), ..VmdkBuilder::default() };
            cases.push((builder.build(&[1; 4096]).bytes, "vmdk.descriptor.extents"));
        }
    }
    assert!(cases.len() >= 20);
    for (text, code) in &cases {
        let shown = String::from_utf8_lossy(&text[..text.len().min(300)]).into_owned();
        match open_in(&dir, text) {
            Err(error) => assert_eq!(error.code(), *code, "{error}: {shown}"),
            Ok(_) => panic!("opened: {shown}"),
        }
    }
    // What belongs there is opened, zeros among it.
    let good = kind("monolithicFlat", "RW 8 FLAT \"good\" 0\nRW 8 ZERO").replace('\n', "\r\n");
    let mut buf = [9; 8192];
    open_in(&dir, good.as_bytes()).unwrap().read_guest(GuestOffset::ZERO, &mut buf).unwrap();
    assert_eq!((&buf[..4096], &buf[4096..]), (&[1; 4096][..], &[0; 4096][..]));
}

#[test]
fn t_fmt_05_numbers_that_no_layout_follows_from_are_refused_by_value() {
    for grain in [0, 3, 127, (1 << 21) + 1, 1 << 22, 1 << 63, u64::MAX] {
        let mut built = disk();
        built.patch_headers(20, &grain.to_le_bytes());
        assert_eq!(problem(&built.bytes), (VmdkProblem::GrainSize(grain), 0));
    }
    for entries in [0, 513, 0x8000_0000, u32::MAX] {
        let mut built = disk();
        built.patch_headers(44, &entries.to_le_bytes());
        assert_eq!(problem(&built.bytes), (VmdkProblem::TableEntries(entries), 0));
    }
    for capacity in [0, (1 << 53) + 1, u64::MAX] {
        let mut built = disk();
        built.patch_headers(12, &capacity.to_le_bytes());
        assert_eq!(problem(&built.bytes), (VmdkProblem::Capacity(capacity), 0));
    }
    // QEMU's 059: capacity of 2^32 - 1 sectors with an entry a table.
    let mut built = disk();
    built.patch_headers(12, &0xffff_ffff_u64.to_le_bytes()).patch_headers(44, &1_u32.to_le_bytes());
    let (start, file_len) = (built.directory_at as u64, built.bytes.len() as u64);
    let len = (1_u64 << 25) * 4;
    let expected = VmdkProblem::PastEnd { table: "grain directory", start, len, file_len };
    assert_eq!(problem(&built.bytes), (expected, 56));
    for version in [0_u32, 4, u32::MAX] {
        let mut built = disk();
        built.patch_headers(4, &version.to_le_bytes());
        assert_eq!(refusal(&built.bytes).code(), "vmdk.version");
    }
    for place in [1 << 55, u64::MAX - 1, 0x1234_5678] {
        let mut built = disk();
        built.patch_headers(56, &u64::to_le_bytes(place));
        assert_eq!(refusal(&built.bytes).code(), "vmdk.table.past-end");
        let mut built = disk();
        built.patch_headers(28, &u64::to_le_bytes(place));
        assert_eq!(refusal(&built.bytes).code(), "vmdk.table.past-end", "descriptor");
        let mut built = disk();
        built.patch_headers(36, &u64::to_le_bytes(place));
        assert_eq!(refusal(&built.bytes).code(), "vmdk.layout.overlap", "descriptor size");
    }
    let cut = disk().bytes[..511].to_vec();
    assert_eq!(problem(&cut), (VmdkProblem::HeaderCut, 0));
}

#[test]
fn t_fmt_05_footers_and_markers_that_lead_nowhere_are_refused() {
    let good = stream();
    let mut loops = good.clone();
    loops.patch(good.footer_at + 56, &u64::MAX.to_le_bytes());
    assert_eq!(problem(&loops.bytes), (VmdkProblem::FooterLoop, good.footer_at as u64));
    let mut inside = good.clone();
    inside.patch(good.footer_at + 56, &[0; 8]);
    let header = VmdkProblem::Overlap { one: "grain directory", start: 0, other: "sparse extent header" };
    assert_eq!(problem(&inside.bytes).0, header);
    let mut none = good.clone();
    none.patch(good.footer_at, b"XXXX");
    assert_eq!(problem(&none.bytes).0, VmdkProblem::FooterMissing);
    let mut differs = good.clone();
    differs.patch(good.footer_at + 20, &64_u64.to_le_bytes());
    assert_eq!(
        problem(&differs.bytes),
        (VmdkProblem::FooterDiffers { field: "grainSize" }, good.footer_at as u64)
    );

    let read = |built: &BuiltVmdk| {
        let image =
            (vmdk::FORMAT.open)(Arc::new(MemorySource::new(built.bytes.clone())), &OpenContext::new());
        let error = image.unwrap().read_guest(GuestOffset::ZERO, &mut [0; 512]).unwrap_err();
        error.problem::<VmdkProblem>().unwrap().clone()
    };
    let at = good.grains[&0];
    for size in [0_u32, 200_000, u32::MAX] {
        let mut built = good.clone();
        built.patch(at + 8, &size.to_le_bytes());
        assert_eq!(read(&built), VmdkProblem::MarkerSize { grain: 0, size });
    }
    let mut elsewhere = good.clone();
    elsewhere.patch(at, &u64::MAX.to_le_bytes());
    assert_eq!(read(&elsewhere), VmdkProblem::Marker { grain: 0, expected: 0, found: u64::MAX });
}

#[test]
fn t_fmt_07_no_two_structures_may_share_bytes() {
    let good = disk();
    let sector = |at: usize| (at / 512) as u64;
    let file = good.bytes.clone();
    // The places of the six structures, in sectors.
    let places = [
        ("header", 0),
        ("descriptor", 1),
        ("redundant directory", sector(good.redundant_at)),
        ("directory", sector(good.directory_at)),
        ("table", sector(good.tables[1])),
        ("grain", sector(good.grains[&5])),
    ];
    let mut refused = 0;
    for (one, _) in places {
        for (other, place) in places.iter().filter(|(other, _)| *other != one) {
            let mut built = BuiltVmdk { bytes: file.clone(), ..good.clone() };
            match one {
                "descriptor" => built.patch_headers(28, &place.to_le_bytes()),
                "redundant directory" => built.patch_headers(48, &place.to_le_bytes()),
                "directory" => built.patch_headers(56, &place.to_le_bytes()),
                "table" => built.patch_table(0, *place as u32),
                "grain" => built.patch_entry(2, *place as u32),
                // The header has one place.
                _ => continue,
            };
            let context = OpenContext::new();
            let opened = (vmdk::FORMAT.open)(Arc::new(MemorySource::new(built.bytes.clone())), &context);
            if one == "redundant directory" && matches!(*other, "table" | "grain") {
                // It lies on a table or grain: seen where that is met. On the first directory there is only one,
                // and sector 0 says that there is none.
                assert_eq!(opened.err().unwrap().code(), "vmdk.layout.overlap", "{one} on {other}");
            } else if matches!(
                (one, *other),
                ("redundant directory" | "table" | "grain", "header")
                    | ("redundant directory", "directory")
                    | ("directory", "redundant directory")
            ) {
                assert!(opened.is_ok(), "one directory under two names, or none");
            } else {
                let error = opened.err().unwrap_or_else(|| panic!("{one} on {other} was opened"));
                let known = [
                    "vmdk.layout.overlap",
                    "vmdk.table.aliased",
                    "vmdk.grain.aliased",
                    "vmdk.descriptor.line",
                    "vmdk.descriptor.incomplete",
                    "vmdk.grain.past-end",
                    "vmdk.table.past-end",
                    "vmdk.descriptor.missing",
                ];
                assert!(known.contains(&error.code()), "{one} on {other}: {error} ({})", error.code());
            }
            refused += 1;
        }
    }
    assert_eq!(refused, 25);
}

#[test]
fn t_fmt_08_every_grain_size_bit_opens_or_is_refused() {
    for bit in 0..64 {
        let mut built = disk();
        built.patch_headers(20, &(1_u64 << bit).to_le_bytes());
        let opened = (vmdk::FORMAT.open)(Arc::new(MemorySource::new(built.bytes)), &OpenContext::new());
        let code = opened.err().map_or("opened", |error| error.code());
        let known = [
            "opened",
            "vmdk.header.grain-size",
            "vmdk.grain.past-end",
            "vmdk.grain.aliased",
            "vmdk.layout.overlap",
            "vmdk.table.past-end",
        ];
        assert!(known.contains(&code), "2^{bit}: {code}");
        // Smaller grains leave entries of the directory that are zero; from 2^10 on the whole disk is in the first
        // grain, which is as good a disk as any.
        assert_ne!((code, bit), ("opened", 8), "2^{bit} does not fit the tables");
        assert_ne!((code, bit), ("opened", 9), "2^{bit} does not fit the tables");
    }
}

#[test]
fn t_dos_06_a_small_file_never_stands_for_a_large_disk() {
    for good in [disk(), stream()] {
        // Every table is the first one.
        let mut tables = good.clone();
        tables.patch_table(1, (good.tables[0] / 512) as u32);
        let place = good.directory_at as u64 + 4;
        assert_eq!(problem(&tables.bytes), (VmdkProblem::TableAliased { one: 0, other: 1 }, place));
        // Every grain is the first one.
        let mut grains = good.clone();
        for grain in 1..8 {
            grains.patch_entry(grain, (good.grains[&0] / 512) as u32);
        }
        let place = good.entry_at(1) as u64;
        assert_eq!(problem(&grains.bytes), (VmdkProblem::Aliased { one: 0, other: 1 }, place));
    }
    // Half a grain further on.
    let good = disk();
    let mut half = good.clone();
    half.patch_entry(1, (good.grains[&0] / 512 + 64) as u32);
    assert_eq!(problem(&half.bytes).0, VmdkProblem::Aliased { one: 0, other: 1 });
}

#[test]
fn t_dos_07_a_directory_of_holes_costs_its_time_and_no_memory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bomb.vmdk");
    // 64 TiB of nothing behind a directory in a sparse file.
    let mut built = VmdkBuilder { redundant: false, ..VmdkBuilder::default() }.build(&[0; 512]);
    let sectors = 1_u64 << 37;
    let text = String::from_utf8(built.bytes[512..1024].to_vec()).unwrap();
    let text = text.replace("RW 1 SPARSE", &format!("RW {sectors} SPARSE"));
    built.bytes[512..1024].copy_from_slice(&text.as_bytes()[..512]);
    built.patch_headers(12, &sectors.to_le_bytes()).patch_headers(56, &4096_u64.to_le_bytes());
    std::fs::write(&path, &built.bytes).unwrap();
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    let before = peak_memory();
    let start = Instant::now();
    for tolerance in [Tolerance::Strict, Tolerance::Damaged] {
        let context = OpenContext { tolerance, ..OpenContext::new() };
        let image = (vmdk::FORMAT.open)(Arc::new(FileSource::open(&path).unwrap()), &context).unwrap();
        assert_eq!(image.disk_len(), sectors * 512);
        let limit = std::num::NonZeroU64::MAX;
        let extent = image.extent_at(GuestOffset::ZERO, limit).unwrap();
        assert!(extent.len.get() > 1 << 40 && !extent.kind.is_data());
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let memory = peak_memory() - before;
    assert!(memory < 64 << 20, "{memory} bytes");
}

/// The images whose mutants are tried.
fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let content: Vec<u8> =
        (0..40_960_u32).map(|n| if n % 12_288 < 4096 { 0 } else { (n % 251) as u8 }).collect();
    let small = VmdkBuilder { grain: 8, entries: 4, ..VmdkBuilder::default() };
    let stream = VmdkBuilder { grain: 8, entries: 4, ..VmdkBuilder::stream() };
    let lines =
        ["RW 8 FLAT \"a\" 0", "RW 8 ZERO", "RW 8 SPARSE \"b\"", "RDONLY 9 VMFS \"c\""].map(str::to_owned);
    vec![
        ("sparse", small.build(&content).bytes),
        (
            "sparse-scattered",
            VmdkBuilder { shuffle: 3, zeroed: true, version: 2, ..small.clone() }.build(&content).bytes,
        ),
        (
            "child",
            VmdkBuilder { parent: Some((0x1234_abcd, "p".to_owned())), holes: vec![1, 2], ..small }
                .build(&content)
                .bytes,
        ),
        ("stream", stream.build(&content).bytes),
        (
            "stream-in-front",
            VmdkBuilder { directory: Directory::InFront, redundant: true, ..stream.clone() }
                .build(&content)
                .bytes,
        ),
        ("stream-without-markers", VmdkBuilder { markers: false, ..stream }.build(&content).bytes),
        ("descriptor", descriptor("custom", 7, None, &lines).into_bytes()),
    ]
}

/// One mutant: a few changed bytes, most of them where headers and tables are.
fn mutate(seed: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let len = bytes.len() as u64;
    for _ in 0..=random.below(4) {
        let at = match random.below(4) {
            0 => random.below(len),
            1 => random.below(len.min(80)),
            2 => random.below(len.min(4096)),
            _ => len - 1 - random.below(len.min(4096)),
        } as usize;
        let odd = [0, 1, 2, 0x7f, 0x80, 0xff, b'"', b'\n', random.number() as u8];
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
    bytes
}

#[test]
fn five_thousand_mutants_neither_panic_nor_hang_nor_take_memory() {
    let seeds = seeds();
    let mut random = Random(0x766d_646b);
    let mut opened = 0;
    let start = Instant::now();
    for round in 0..5000 {
        let bytes = mutate(&seeds[round % seeds.len()].1, &mut random);
        let one = Instant::now();
        opened += u32::from(exercise::vmdk(&bytes));
        assert!(one.elapsed() < Duration::from_secs(2), "mutant {round}: {:?}", one.elapsed());
    }
    assert!(opened > 500, "only {opened} mutants were worth opening");
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    let memory = peak_memory();
    assert!(memory < 256 << 20, "{memory} bytes");
}

#[test]
fn the_seed_corpus_of_the_fuzz_target_is_harmless() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/vmdk");
    let mut tried = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        exercise::vmdk(&std::fs::read(entry.unwrap().path()).unwrap());
        tried += 1;
    }
    assert!(tried >= 7, "{tried} files");
}

/// Writes the seed corpus anew: `cargo test -p kiln-format --test vmdk_hostile -- --ignored write_the_seed_corpus`.
#[test]
#[ignore = "writes into the source tree; run it when the seeds change"]
fn write_the_seed_corpus() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/vmdk");
    std::fs::create_dir_all(&dir).unwrap();
    for (name, bytes) in seeds() {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}
