//! Built images of any shape keep the laws of a disk, read to their content, and both checkers call them clean.

use std::sync::Arc;

use kiln_disk::{Disk, ExtentKind, FileOffset, GuestOffset, MemorySource, Silent};
use kiln_format::{
    AllowList, CheckScope, DetailValue, ExternalRef, Image, OpenContext, Resolved, Resolver, Tolerance,
    by_name,
};
use kiln_testkit::laws::check_disk;
use kiln_testkit::oracle::{qemu_img, text};
use kiln_testkit::qcow2::{Cell, Codec, SnapshotSpec, Spec, build};
use proptest::prelude::*;

fn open(bytes: &[u8], context: &OpenContext) -> kiln_disk::Result<Box<dyn Image>> {
    (by_name("qcow2").unwrap().open)(Arc::new(MemorySource::new(bytes.to_vec())), context)
}

fn allow(name: &str, bytes: Vec<u8>, format: Option<&str>) -> OpenContext {
    let mut allowed = AllowList::default();
    let format = format.map(|format| by_name(format).unwrap());
    allowed.allow(name, Resolved { source: Arc::new(MemorySource::new(bytes)), format });
    OpenContext { resolver: Arc::new(allowed), ..OpenContext::new() }
}

fn content(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(disk.disk_len()).unwrap()];
    disk.read_guest(GuestOffset::ZERO, &mut bytes).unwrap();
    bytes
}

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        2 => Just(Cell::Hole),
        1 => Just(Cell::Zero),
        1 => Just(Cell::ZeroAllocated),
        4 => any::<u64>().prop_map(Cell::Data),
        4 => any::<u64>().prop_map(Cell::Packed),
        3 => (any::<u32>(), any::<u32>(), any::<u64>())
            .prop_map(|(allocated, zero, seed)| Cell::Mixed(allocated, zero, seed >> 8)),
    ]
}

fn spec() -> impl Strategy<Value = Spec> {
    (9..=21_u32, 0..=6_u32, any::<bool>(), any::<bool>(), 2..=3_u32).prop_flat_map(
        |(bits, order, zstd, extended, version)| {
            // About 8 MiB at most, and more than one L2 table where clusters are small.
            let most = (8_usize << 20 >> bits).clamp(3, 300);
            let cells = prop::collection::vec(cell(), 1..most);
            let snapshot = prop::collection::vec(cell(), 0..most.min(8));
            (cells, snapshot, 0..1_u64 << bits).prop_map(move |(cells, snapshot, cut)| {
                let mut spec = Spec::new(bits, cells);
                spec.version = version;
                if version == 3 {
                    spec.refcount_order = order;
                    spec.codec = if zstd { Codec::Zstd } else { Codec::Zlib };
                    spec.extended = extended && bits >= 14;
                }
                spec.disk_len -= cut / 512 * 512;
                if !snapshot.is_empty() {
                    let disk_len = (snapshot.len() as u64) << bits;
                    let (id, name) = ("7".to_owned(), "before".to_owned());
                    spec.snapshots.push(SnapshotSpec { id, name, disk_len, cells: snapshot });
                }
                spec
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_good_image_reads_to_its_content_and_checks_clean(spec in spec()) {
        let built = build(&spec);
        let image = open(&built.bytes, &OpenContext::new()).unwrap();
        check_disk(image.as_ref(), &built.content);
        let findings = image.check(CheckScope::Data, &Silent).unwrap();
        prop_assert_eq!(findings.counts(), [], "{:#?}", findings.list());
        if let Some(expected) = built.snapshots.first() {
            let context = OpenContext { snapshot: Some("before".to_owned()), ..OpenContext::new() };
            let snapshot = open(&built.bytes, &context).unwrap();
            prop_assert!(content(snapshot.as_ref()) == *expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn qemu_reads_the_same_bytes_from_any_good_image(spec in spec()) {
        let built = build(&spec);
        let place = tempfile::tempdir().unwrap();
        let (image, raw) = (place.path().join("built.qcow2"), place.path().join("out.raw"));
        std::fs::write(&image, &built.bytes).unwrap();
        qemu_img(&["check", "-f", "qcow2", text(&image)]);
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", text(&image), text(&raw)]);
        prop_assert!(std::fs::read(&raw).unwrap() == built.content);
    }
}

#[test]
fn plain_neighbours_are_one_extent_with_their_place() {
    let built =
        build(&Spec::new(16, vec![Cell::Data(1), Cell::Data(2), Cell::Zero, Cell::Hole, Cell::Packed(3)]));
    let image = open(&built.bytes, &OpenContext::new()).unwrap();
    let whole = std::num::NonZeroU64::MAX;
    let found: Vec<_> = kiln_disk::extents(image.as_ref(), whole)
        .map(|extent| extent.map(|extent| (extent.len.get(), extent.kind)).unwrap())
        .collect();
    let at = FileOffset::new(built.data[0]);
    assert_eq!(
        found,
        [
            (131_072, ExtentKind::Data { file: 0, at }),
            (65_536, ExtentKind::Zero),
            (65_536, ExtentKind::Hole),
            (65_536, ExtentKind::Encoded),
        ]
    );
}

#[test]
fn a_backing_file_shows_through_holes_and_ends_in_zeros() {
    let mut spec =
        Spec::new(12, vec![Cell::Hole, Cell::Data(1), Cell::Zero, Cell::Hole, Cell::Hole, Cell::Hole]);
    spec.backing = Some(("base".to_owned(), Some("raw".to_owned())));
    let built = build(&spec);
    let base = kiln_testkit::qcow2::fill(99, 4 * 4096 + 700);
    let mut expected = built.content.clone();
    for hole in [0, 3] {
        expected[hole * 4096..][..4096].copy_from_slice(&base[hole * 4096..][..4096]);
    }
    expected[4 * 4096..4 * 4096 + 700].copy_from_slice(&base[4 * 4096..]);
    let image = open(&built.bytes, &allow("base", base, None)).unwrap();
    check_disk(image.as_ref(), &expected);
    let first = image.extent_at(GuestOffset::ZERO, std::num::NonZeroU64::MAX).unwrap();
    assert_eq!(first.kind, ExtentKind::Data { file: 1, at: FileOffset::ZERO });
    assert_eq!(first.len.get(), 4096);
}

#[test]
fn the_format_of_a_backing_file_is_said_or_the_image_is_refused() {
    let mut spec = Spec::new(12, vec![Cell::Hole]);
    for (declared, given, code) in [
        (None, None, Some("reference.format-missing")),
        (Some("zip"), None, Some("reference.format-unknown")),
        (Some("raw"), None, None),
        (None, Some("raw"), None),
        (Some("zip"), Some("raw"), None),
    ] {
        spec.backing = Some(("base".to_owned(), declared.map(str::to_owned)));
        let context = allow("base", vec![0; 4096], given);
        let answer = open(&build(&spec).bytes, &context).map_err(|error| error.code());
        assert_eq!(answer.err(), code, "{declared:?} {given:?}");
    }
}

#[test]
fn without_its_backing_file_an_image_tells_about_itself_and_refuses_what_it_cannot_read() {
    let mut spec = Spec::new(12, vec![Cell::Data(1), Cell::Hole]);
    spec.backing = Some(("/etc/shadow".to_owned(), Some("raw".to_owned())));
    let built = build(&spec);
    assert_eq!(open(&built.bytes, &OpenContext::new()).err().unwrap().code(), "reference.denied");
    let context = OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() };
    let image = open(&built.bytes, &context).unwrap();
    assert_eq!(image.facts().references[0].name, "/etc/shadow");
    let mut bytes = [0; 4096];
    image.read_guest(GuestOffset::ZERO, &mut bytes).unwrap();
    assert_eq!(bytes[..], built.content[..4096]);
    let error = image.read_guest(GuestOffset::new(4096), &mut bytes).unwrap_err();
    assert_eq!(error.code(), "reference.denied");
    let error = image.extent_at(GuestOffset::new(4096), std::num::NonZeroU64::MIN).unwrap_err();
    assert_eq!(error.code(), "reference.denied");
}

#[test]
fn a_data_file_is_file_one_and_must_be_long_enough() {
    let mut spec = Spec::new(12, vec![Cell::Hole, Cell::Data(5), Cell::Zero, Cell::Data(6)]);
    spec.data_file = Some("data".to_owned());
    let built = build(&spec);
    let image = open(&built.bytes, &allow("data", built.data_file.clone(), None)).unwrap();
    check_disk(image.as_ref(), &built.content);
    let extent = image.extent_at(GuestOffset::new(4096), std::num::NonZeroU64::MAX).unwrap();
    assert_eq!(extent.kind, ExtentKind::Data { file: 1, at: FileOffset::new(4096) });
    assert_eq!(image.check(CheckScope::Data, &Silent).unwrap().counts(), []);

    let short = built.data_file[..4 * 4096 - 1].to_vec();
    let image = open(&built.bytes, &allow("data", short, None)).unwrap();
    let error = image.read_guest(GuestOffset::new(3 * 4096), &mut [0; 4096]).unwrap_err();
    assert_eq!(error.code(), "qcow2.data.past-end");
}

#[test]
fn a_nameless_data_file_is_asked_for_by_the_empty_name() {
    let mut spec = Spec::new(12, vec![Cell::Data(5)]);
    spec.data_file = Some(String::new());
    let built = build(&spec);
    let image = open(&built.bytes, &allow("", built.data_file.clone(), None)).unwrap();
    check_disk(image.as_ref(), &built.content);
}

#[test]
fn the_dirty_bit_is_a_finding_and_the_corrupt_bit_a_refusal() {
    let mut spec = Spec::new(12, vec![Cell::Data(5)]);
    spec.incompatible = 1;
    let built = build(&spec);
    let image = open(&built.bytes, &OpenContext::new()).unwrap();
    assert_eq!(content(image.as_ref()), built.content);
    let findings = image.check(CheckScope::Metadata, &Silent).unwrap();
    assert_eq!(findings.counts(), [("qcow2.dirty", 1)]);
    assert!(!findings.fails());

    spec.incompatible = 2;
    let built = build(&spec);
    let error = open(&built.bytes, &OpenContext::new()).err().unwrap();
    assert_eq!(error.code(), "qcow2.corrupt");
    assert!(error.hint().unwrap().contains("qemu-img check"));
    let context = OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() };
    let image = open(&built.bytes, &context).unwrap();
    assert_eq!(content(image.as_ref()), built.content);
    assert_eq!(image.check(CheckScope::Metadata, &Silent).unwrap().counts(), [("qcow2.corrupt", 1)]);
}

#[test]
fn extensions_of_version_2_are_read_too() {
    let mut spec = Spec::new(12, vec![Cell::Hole]);
    spec.version = 2;
    spec.backing = Some(("base".to_owned(), Some("raw".to_owned())));
    spec.extensions = vec![(0x1234_5678, vec![1, 2, 3])];
    let image = open(&build(&spec).bytes, &allow("base", vec![7; 4096], None)).unwrap();
    let facts = image.facts();
    assert_eq!(facts.variant, "v2");
    assert_eq!(facts.references[0].format.as_deref(), Some("raw"));
    let unknown = facts.details.iter().find(|detail| detail.name == "unknown_extensions").unwrap();
    assert_eq!(unknown.value, DetailValue::List(vec!["0x12345678".to_owned()]));
    assert_eq!(content(image.as_ref()), vec![7; 4096]);
}

/// Answers every backing name with the same image, for ever.
struct Loop(Arc<MemorySource>);

impl Resolver for Loop {
    fn resolve(&self, _reference: &ExternalRef) -> kiln_disk::Result<Resolved> {
        Ok(Resolved { source: Arc::clone(&self.0) as _, format: None })
    }
}

#[test]
fn t_ext_08_a_chain_that_never_ends_is_refused_by_depth() {
    let mut spec = Spec::new(12, vec![Cell::Hole]);
    spec.backing = Some(("self".to_owned(), Some("qcow2".to_owned())));
    let built = build(&spec);
    let resolver = Arc::new(Loop(Arc::new(MemorySource::new(built.bytes.clone()))));
    let context = OpenContext { resolver, ..OpenContext::new() };
    assert_eq!(open(&built.bytes, &context).err().unwrap().code(), "budget.depth");
}

#[test]
fn t_ext_08_chains_of_up_to_four_files_are_read_and_longer_ones_are_not() {
    for depth in 0..=6_u64 {
        let mut allowed = AllowList::default();
        // The deepest file is raw and looks like a qcow2 that names a host file: it must not be probed.
        let mut bait = Spec::new(12, vec![Cell::Hole]);
        bait.backing = Some(("/root/canary".to_owned(), Some("raw".to_owned())));
        let bait = build(&bait).bytes[..4096].to_vec();
        allowed.allow("level0", Resolved { source: Arc::new(MemorySource::new(bait.clone())), format: None });
        let mut top = bait.clone();
        for level in 1..=depth {
            let mut spec = Spec::new(12, vec![Cell::Hole]);
            let format = if level == 1 { "raw" } else { "qcow2" };
            spec.backing = Some((format!("level{}", level - 1), Some(format.to_owned())));
            top = build(&spec).bytes;
            let source = Arc::new(MemorySource::new(top.clone()));
            allowed.allow(format!("level{level}"), Resolved { source, format: None });
        }
        if depth == 0 {
            continue;
        }
        let context = OpenContext { resolver: Arc::new(allowed), ..OpenContext::new() };
        let answer = open(&top, &context);
        match depth {
            1..=4 => assert_eq!(content(answer.unwrap().as_ref()), bait, "depth {depth}"),
            _ => assert_eq!(answer.err().unwrap().code(), "budget.depth", "depth {depth}"),
        }
    }
}
