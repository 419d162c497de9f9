//! Appliances made to break their reader.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kiln_disk::{Budget, ByteSource, FileOffset, Limits, MemorySource, Silent};
use kiln_format::ova::{Descriptor, OvaProblem};
use kiln_format::{CheckScope, Choice, ExternalRef, OpenContext, Resolved, Resolver, check, open};
use kiln_testkit::laws::Random;
use kiln_testkit::oracle::peak_memory;
use kiln_testkit::ova::{OvaBuilder, item};
use kiln_testkit::tar::TarBuilder;
use kiln_testkit::vhd::VhdBuilder;

#[path = "../fuzz/src/ova.rs"]
mod exercise;
#[path = "../fuzz/src/tar.rs"]
#[allow(dead_code, reason = "only its checksums are needed here")]
mod tar;

fn builder() -> OvaBuilder {
    let mut content = vec![0; 256 * 1024];
    content[70_000..80_000].fill(7);
    let disk = VhdBuilder { block_size: 64 * 1024, ..VhdBuilder::default() }.dynamic(&content).bytes;
    OvaBuilder::default().disk("disk.vhd", disk, content.len() as u64)
}

#[track_caller]
fn code_of_descriptor(text: &str) -> (&'static str, u64) {
    let error = Descriptor::parse(text.as_bytes(), FileOffset::new(512)).expect_err("a refusal");
    assert!(error.hint().is_some(), "{error} has no hint");
    (error.code(), error.offset().map_or(0, FileOffset::get))
}

/// Fails the test when anybody asks it.
struct NobodyAsks;

impl Resolver for NobodyAsks {
    fn resolve(&self, reference: &ExternalRef) -> kiln_disk::Result<Resolved> {
        panic!("somebody asked for {reference:?}");
    }
}

#[test]
fn t_ext_10_references_that_lead_out_are_refused_and_nobody_is_asked() {
    for href in [
        "http://127.0.0.1:1/x.vmdk",
        "http://2130706433/x",
        "http://0x7f000001/x",
        "http://[::ffff:127.0.0.1]/x",
        "https://example.org/x",
        "file:///etc/passwd",
        "file:/etc/passwd",
        "ftp://x/y",
        "//host/share",
        "/etc/passwd",
        "../../../etc/passwd",
        "a/../../etc/passwd",
        "..",
        "%2e%2e/%2e%2e/etc/passwd",
        "%2Fetc%2Fpasswd",
        "..\\..\\windows",
        "\\\\host\\share\\x",
        "C:\\x",
        "a&#10;b",
        "a&#x0;b",
    ] {
        let mut builder = builder();
        builder.disks[0].name = href.to_owned();
        let text = builder.descriptor();
        // A member of that very name does not help.
        let mut archive = TarBuilder::default();
        archive.file("box.ovf", text.as_bytes()).file(&href.replace('&', "+"), &builder.disks[0].bytes);
        let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(archive.finish()));
        let context = OpenContext { resolver: Arc::new(NobodyAsks), ..OpenContext::new() };
        let error = open(source, Choice::Detect, &context).err().expect("a refusal");
        if href.contains("#x0") {
            assert_eq!(error.code(), "ovf.xml");
            continue;
        }
        assert_eq!(error.code(), "ovf.href", "{href}: {error}");
        assert!(matches!(error.problem(), Some(OvaProblem::Href { .. })));
        let at = text.find("<File").unwrap() as u64 + 512;
        assert_eq!(error.offset().unwrap().get(), at, "{href}");
    }
}

#[test]
fn t_arc_03_descriptors_out_of_all_proportion_are_refused_quickly() {
    let begun = Instant::now();
    let nested = |depth: usize| {
        let mut builder = builder();
        builder.extra = format!("{}{}", "<a>".repeat(depth), "</a>".repeat(depth));
        builder.descriptor()
    };
    assert!(Descriptor::parse(nested(63).as_bytes(), FileOffset::ZERO).is_ok());
    for depth in [64, 100_000, 1_000_000] {
        assert_eq!(code_of_descriptor(&nested(depth)).0, "ovf.depth");
    }
    let with = |extra: String| {
        let mut builder = builder();
        builder.extra = extra;
        code_of_descriptor(&builder.descriptor()).0
    };
    assert_eq!(with("<a/>".repeat(200_000)), "ovf.nodes");
    let attributes: String = (0..1_000_000).map(|n| format!(" a{n}=''")).take(400_000).collect();
    assert_eq!(with(format!("<a{attributes}/>")), "ovf.attributes");
    assert_eq!(with("<a xmlns:x='y'/>".repeat(100_000)), "ovf.namespaces");
    assert_eq!(with(" ".repeat(9 << 20)), "ovf.length");
    let bomb = "<!DOCTYPE a [<!ENTITY b \"bbbbbbbbbb\"><!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;\">]>";
    let mut builder = builder();
    builder.prologue = bomb.to_owned();
    assert_eq!(code_of_descriptor(&builder.descriptor()), ("ovf.doctype", 512));
    builder.prologue = "<!DOCTYPE a SYSTEM \"file:///etc/passwd\">".to_owned();
    assert_eq!(code_of_descriptor(&builder.descriptor()), ("ovf.doctype", 512));
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(peak_memory() < 512 << 20);
}

#[test]
fn t_arc_03_wrong_numbers_and_units_are_refused_with_their_element() {
    let disk = |attributes: &str| {
        let mut builder = builder();
        builder.disks[0].disk_attributes = attributes.to_owned();
        let text = builder.descriptor();
        let (code, at) = code_of_descriptor(&text);
        assert_eq!(at, text.find("<Disk ").unwrap() as u64 + 512, "{attributes}");
        code
    };
    for (attributes, code) in [
        ("ovf:capacity=\"-1\"", "ovf.number"),
        ("ovf:capacity=\"1e9\"", "ovf.number"),
        ("ovf:capacity=\"18446744073709551616\"", "ovf.number"),
        ("ovf:capacity=\"17179869184\" ovf:capacityAllocationUnits=\"byte * 2^30\"", "ovf.number"),
        ("ovf:capacity=\"1\" ovf:capacityAllocationUnits=\"hertz * 10^6\"", "ovf.units"),
        ("ovf:capacity=\"1\" ovf:capacityAllocationUnits=\"byte * 2^64\"", "ovf.units"),
        ("ovf:capacity=\"1\" ovf:capacityAllocationUnits=\"parsec\"", "ovf.units"),
        ("ovf:capacity=\"1\" ovf:populatedSize=\"many\"", "ovf.number"),
        ("ovf:format=\"x\"", "ovf.missing"),
    ] {
        assert_eq!(disk(attributes), code, "{attributes}");
    }
    let mut builder = builder();
    builder.disks[0].file_attributes = "ovf:size=\"lots\"".to_owned();
    assert_eq!(code_of_descriptor(&builder.descriptor()).0, "ovf.number");
    let mut builder = self::builder();
    builder.hardware = item(
        4,
        "<rasd:VirtualQuantity>1</rasd:VirtualQuantity>",
        "<rasd:AllocationUnits>x</rasd:AllocationUnits>",
    );
    assert_eq!(code_of_descriptor(&builder.descriptor()).0, "ovf.units");
    builder.hardware = item(3, "<rasd:VirtualQuantity>two</rasd:VirtualQuantity>", "");
    assert_eq!(code_of_descriptor(&builder.descriptor()).0, "ovf.number");
}

#[test]
fn ids_must_be_one_of_a_kind_and_known() {
    let twice = builder().disk("other.vhd", vec![1; 512], 512).descriptor();
    let same_file = twice
        .replace("ovf:id=\"file1\"", "ovf:id=\"file0\"")
        .replace("fileRef=\"file1\"", "fileRef=\"file0\"");
    assert_eq!(code_of_descriptor(&same_file).0, "ovf.same-id");
    let same_disk = twice.replace("diskId=\"disk1\"", "diskId=\"disk0\"");
    assert_eq!(code_of_descriptor(&same_disk).0, "ovf.same-id");
    let unknown = builder().descriptor().replace("fileRef=\"file0\"", "fileRef=\"file9\"");
    assert_eq!(code_of_descriptor(&unknown).0, "ovf.unknown-file");
    assert_eq!(code_of_descriptor("<Envelop xmlns='x'/>").0, "ovf.root");
    let long = builder().descriptor().replace("file0", &"f".repeat(300));
    assert_eq!(code_of_descriptor(&long).0, "ovf.number");
}

#[test]
fn a_descriptor_that_is_its_own_disk_is_refused() {
    struct Itself(Arc<dyn ByteSource>);
    impl Resolver for Itself {
        fn resolve(&self, _: &ExternalRef) -> kiln_disk::Result<Resolved> {
            Ok(Resolved { source: Arc::clone(&self.0), format: None })
        }
    }
    let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(builder().descriptor().into_bytes()));
    let context = OpenContext {
        resolver: Arc::new(Itself(Arc::clone(&source))),
        budget: Arc::new(Budget::new(Limits::INSPECT)),
        ..OpenContext::new()
    };
    assert_eq!(open(source, Choice::Detect, &context).err().unwrap().code(), "ova.nested");
}

#[test]
fn an_appliance_inside_an_appliance_is_refused() {
    let bytes = OvaBuilder::default().disk("disk.vhd", builder().build(), 256 * 1024).build();
    let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(bytes));
    assert_eq!(open(source, Choice::Detect, &OpenContext::new()).err().unwrap().code(), "ova.nested");
}

#[test]
fn names_without_number_cost_no_square_of_it() {
    // As many members, lines of the manifest and files as there may be, every line leading nowhere.
    let mut builder = builder();
    let files: String = (0..1_000).map(|n| format!("<File ovf:id=\"x{n}\" ovf:href=\"none{n}\"/>")).collect();
    builder.extra = format!("<References>{files}</References>");
    let lines: String = (0..15_000).map(|n| format!("SHA1(m{n})= {}\n", "0".repeat(40))).collect();
    let mut archive = TarBuilder::default();
    archive.file("box.ovf", builder.descriptor().as_bytes()).file("box.mf", lines.as_bytes());
    archive.file("disk.vhd", &builder.disks[0].bytes);
    for n in 0..9_990 {
        archive.file(&format!("m{n}"), b"");
    }
    let source: Arc<dyn ByteSource> = Arc::new(MemorySource::new(archive.finish()));
    let begun = Instant::now();
    let report = check(source, Choice::Detect, &OpenContext::new(), CheckScope::Metadata, &Silent).unwrap();
    let count = |id| report.findings.count_of(id);
    assert_eq!((count("ova.file.missing"), count("ova.mf.missing-file")), (1_000, 15_000 - 9_990));
    assert_eq!((count("ova.mf.differs"), count("ova.member.extra")), (9_990, 9_990));
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    builder.extra = files.repeat(2);
    builder.extra = format!("<References>{}</References>", builder.extra);
    assert_eq!(code_of_descriptor(&builder.descriptor()).0, "ovf.files");
    let disks: String = (0..300).map(|n| format!("<Disk ovf:diskId=\"y{n}\" ovf:capacity=\"1\"/>")).collect();
    builder.extra = format!("<DiskSection>{disks}</DiskSection>");
    assert_eq!(code_of_descriptor(&builder.descriptor()).0, "ovf.disks");
}

#[test]
fn mutants_are_read_or_refused_in_time() {
    let good = builder().disk("two.vhd", vec![9; 2048], 2048).build();
    let single = builder().build();
    assert!(exercise::ova(&good) && exercise::ova(&single));
    let text_end = single.windows(11).position(|window| window == b"</Envelope>").unwrap();
    let manifest_end = text_end + 2048;
    let mut random = Random(99);
    let (mut opened, mut slowest) = (0, Duration::ZERO);
    for round in 0..5_000 {
        let mut bytes = if round % 4 == 0 { good.clone() } else { single.clone() };
        for _ in 0..=random.below(3) {
            // Mostly in headers, descriptor and manifest: the rest is the disk's own affair.
            let reach = if random.below(8) == 0 { bytes.len() } else { manifest_end };
            let at = random.below(reach.min(bytes.len()) as u64) as usize;
            match random.below(6) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.number() as u8,
                2 => bytes.truncate(at.max(1)),
                3 => bytes[at] = *b"<>\"'&/=: \0*^(){}".get(random.below(16) as usize).unwrap(),
                4 => {
                    let len = random.below(80).min((bytes.len() - at) as u64) as usize;
                    let copy = bytes[at..at + len].to_vec();
                    let to = random.below((bytes.len() - len) as u64) as usize;
                    bytes[to..to + len].copy_from_slice(&copy);
                }
                _ => {
                    let len = random.below(40).min((bytes.len() - at) as u64) as usize;
                    bytes[at..at + len].fill(b' ');
                }
            }
            if bytes.len() < 2 {
                break;
            }
        }
        tar::reseal(&mut bytes);
        let begun = Instant::now();
        opened += u32::from(exercise::ova(&bytes));
        exercise::ovf(bytes.get(512..bytes.len().min(text_end + 12)).unwrap_or_default());
        exercise::mf(bytes.get(text_end..bytes.len().min(manifest_end)).unwrap_or_default());
        slowest = slowest.max(begun.elapsed());
    }
    assert!((300..4_900).contains(&opened), "{opened} of 5000 were opened");
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(peak_memory() < 512 << 20);
}

#[test]
fn the_corpora_of_the_fuzz_targets_are_replayed() {
    let replay = |target: &str, run: fn(&[u8]) -> bool| {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(dir).expect("the corpus") {
            run(&std::fs::read(entry.expect("an entry").path()).expect("a file"));
            count += 1;
        }
        assert!(count >= 3, "{count} inputs of {target}");
    };
    replay("ova", exercise::ova);
    replay("ovf", exercise::ovf);
    replay("mf", exercise::mf);
}
