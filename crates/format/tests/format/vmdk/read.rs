//! Reading and checking VMDKs that the test kit built from the specification.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{ExtentKind, FileOffset, GuestOffset, MemorySource, Silent};
use kiln_format::vmdk::VmdkProblem;
use kiln_format::{
    AllowList, CheckScope, Choice, ExternalRole, Image, OpenContext, Resolved, Siblings, Tolerance, vmdk,
};
use kiln_testkit::laws::{Random, check_disk};
use kiln_testkit::vmdk::{BuiltVmdk, Directory, VmdkBuilder, descriptor};
use proptest::prelude::*;

fn open(bytes: &[u8], context: &OpenContext) -> kiln_disk::Result<Box<dyn Image>> {
    (vmdk::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), context)
}

fn strict(bytes: &[u8]) -> kiln_disk::Result<Box<dyn Image>> {
    open(bytes, &OpenContext::new())
}

fn damaged(bytes: &[u8]) -> Box<dyn Image> {
    open(bytes, &OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() }).unwrap()
}

/// A finding's id, its place in the file, and first byte and length of the guest's bytes that it is about.
type Found = (&'static str, Option<u64>, Option<(u64, u64)>);

/// Everything that a full check finds.
fn findings(image: &dyn Image) -> Vec<Found> {
    let findings = image.check(CheckScope::Data, &Silent).unwrap();
    let place = |finding: &kiln_disk::Finding| {
        let guest = finding.guest.map(|range| (range.start.get(), range.len));
        (finding.check.id, finding.file_at.map(FileOffset::get), guest)
    };
    findings.list().iter().map(place).collect()
}

fn ids(image: &dyn Image) -> Vec<&'static str> {
    findings(image).into_iter().map(|(id, ..)| id).collect()
}

/// Some content: runs of data, half of them compressible, and of zeros.
fn content(sectors: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; sectors * 512];
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + (1 + random.below(200) as usize) * 512);
        match random.below(3) {
            0 => {}
            1 => bytes[at..end].iter_mut().enumerate().for_each(|(n, byte)| *byte = (n / 90) as u8),
            _ => bytes[at..end].iter_mut().for_each(|byte| *byte = random.number() as u8),
        }
        at = end;
    }
    bytes
}

fn builders() -> impl Strategy<Value = VmdkBuilder> {
    (0_u32..=8, 1_usize..=512, 0_u8..4, any::<[bool; 4]>(), 1_u32..=3, 0_u64..3).prop_map(
        |(grain_bits, entries, kind, [markers, redundant, zeroed, short_last], version, shuffle)| {
            VmdkBuilder {
                version,
                grain: 1 << grain_bits,
                // A directory of millions of tables of one entry is slow to build, not to read.
                entries: if grain_bits < 4 { entries.max(64) } else { entries },
                compressed: kind > 1,
                markers,
                directory: if kind == 3 { Directory::InFooter } else { Directory::InFront },
                redundant,
                zeroed,
                shuffle,
                short_last,
                ..VmdkBuilder::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_sparse_extent_reads_to_its_content_and_checks_clean(
        builder in builders(), sectors in prop_oneof![1_usize..200, 1_usize..6000], seed: u64,
    ) {
        let bytes = content(sectors, seed);
        let built = builder.build(&bytes);
        let image = strict(&built.bytes).unwrap();
        check_disk(image.as_ref(), &bytes);
        prop_assert_eq!(findings(image.as_ref()), vec![]);
        prop_assert_eq!(image.facts().unit_bytes, Some(builder.grain as u64 * 512));
    }

    #[test]
    fn any_differencing_disk_reads_through_to_its_parent(
        child in builders(), parent in builders(), sectors in 1_usize..3000, seed: u64,
    ) {
        let below = content(sectors, seed ^ 1);
        let parent = VmdkBuilder { cid: 77, ..parent }.build(&below);
        let mut bytes = content(sectors, seed);
        let grain_len = child.grain * 512;
        let holes: Vec<usize> = (0..bytes.len().div_ceil(grain_len)).filter(|grain| grain % 3 == 0).collect();
        for grain in &holes {
            let end = bytes.len().min((grain + 1) * grain_len);
            bytes[grain * grain_len..end].copy_from_slice(&below[grain * grain_len..end]);
        }
        let child = VmdkBuilder { parent: Some((77, "base.vmdk".to_owned())), holes, zeroed: false, ..child };
        let built = child.build(&bytes);
        let context = with_files(&[("base.vmdk", &parent.bytes)]);
        let image = open(&built.bytes, &context).unwrap();
        check_disk(image.as_ref(), &bytes);
        prop_assert_eq!(findings(image.as_ref()), vec![]);
    }
}

fn with_files(files: &[(&str, &[u8])]) -> OpenContext {
    let mut list = AllowList::default();
    for (name, bytes) in files {
        list.allow(*name, Resolved { source: Arc::new(MemorySource::new(bytes.to_vec())), format: None });
    }
    OpenContext { resolver: Arc::new(list), ..OpenContext::new() }
}

#[test]
fn a_parent_is_asked_for_by_name_and_must_be_the_one() {
    let bytes = content(300, 5);
    let child =
        VmdkBuilder { parent: Some((77, "base.vmdk".to_owned())), holes: vec![0], ..VmdkBuilder::default() };
    let child = child.build(&bytes);
    let error = strict(&child.bytes).err().unwrap();
    assert_eq!(error.code(), "reference.denied");
    assert!(error.to_string().contains("parent disk \"base.vmdk\""), "{error}");
    let other = VmdkBuilder { cid: 78, ..VmdkBuilder::default() }.build(&bytes);
    let error = open(&child.bytes, &with_files(&[("base.vmdk", &other.bytes)])).err().unwrap();
    assert_eq!(error.problem(), Some(&VmdkProblem::WrongParent { wanted: 77, found: 78 }));
    let image = damaged(&child.bytes);
    assert_eq!(ids(image.as_ref()), ["vmdk.parent.absent"]);
    let mut buf = [0; 512];
    assert_eq!(image.read_guest(GuestOffset::ZERO, &mut buf).unwrap_err().code(), "vmdk.parent.absent");
    image.read_guest(GuestOffset::new(65_536), &mut buf).unwrap();
    assert_eq!(buf, bytes[65_536..66_048]);
    assert_eq!(image.facts().references[0].role, ExternalRole::Parent);
}

/// A folder with a descriptor, as [`Siblings`] opens it.
fn folder(text: &str, files: &[(&str, &[u8])]) -> (tempfile::TempDir, OpenContext, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    for (name, bytes) in files {
        std::fs::write(dir.path().join(name), bytes).unwrap();
    }
    let resolver = Arc::new(Siblings::beside(&dir.path().join("disk.vmdk"), OpenContext::new().resolver));
    (dir, OpenContext { resolver, ..OpenContext::new() }, text.as_bytes().to_vec())
}

#[test]
fn a_disk_in_several_files_of_every_kind_is_one_disk() {
    let bytes = content(2048, 9);
    let mut wanted = bytes.clone();
    wanted[512 * 1000..512 * 1100].fill(0);
    let small = VmdkBuilder { descriptor: None, ..VmdkBuilder::default() };
    let one = small.build(&wanted[..512 * 500]);
    let stream =
        VmdkBuilder { descriptor: None, ..VmdkBuilder::stream() }.build(&wanted[512 * 500..512 * 1000]);
    let mut flat = vec![9; 512 * 3];
    flat.extend(&wanted[512 * 1100..512 * 1600]);
    let lines = [
        "RW 500 SPARSE \"a-s001.vmdk\"",
        "RDONLY 500 SPARSE \"a s002.vmdk\"",
        "RW 100 ZERO",
        "RW 500 FLAT \"a-f001.vmdk\" 3",
        "RW 448 VMFS \"a-flat.vmdk\"",
    ];
    let text = descriptor("custom", 1, None, &lines.map(str::to_owned)).replace('\n', "\r\n");
    let files: [(&str, &[u8]); 4] = [
        ("a-s001.vmdk", &one.bytes),
        ("a s002.vmdk", &stream.bytes),
        ("a-f001.vmdk", &flat),
        ("a-flat.vmdk", &wanted[512 * 1600..]),
    ];
    let (_dir, context, text) = folder(&text, &files);
    let image = open(&text, &context).unwrap();
    check_disk(image.as_ref(), &wanted);
    assert_eq!(findings(image.as_ref()), []);
    let names: Vec<_> = image.facts().references.into_iter().map(|reference| reference.name).collect();
    assert_eq!(names, ["a-s001.vmdk", "a s002.vmdk", "a-f001.vmdk", "a-flat.vmdk"]);
    let at = image.extent_at(GuestOffset::new(512 * 1100), NonZeroU64::MIN).unwrap();
    assert_eq!(at.kind, ExtentKind::Data { file: 4, at: FileOffset::new(512 * 3) });
    // The same descriptor without its folder.
    assert_eq!(strict(&text).err().unwrap().code(), "reference.denied");
}

#[test]
fn missing_and_short_extents_are_found_with_what_they_take_away() {
    let lines = ["RW 8 FLAT \"a\" 0", "RW 8 FLAT \"b\" 0", "RW 8 FLAT \"c\" 8"];
    let text = descriptor("twoGbMaxExtentFlat", 1, None, &lines.map(str::to_owned));
    let (_dir, context, text) = folder(&text, &[("a", &[1; 4096]), ("c", &[3; 8192 - 512])]);
    let error = open(&text, &context).err().unwrap();
    assert_eq!(error.code(), "io.not-found");
    let image = open(&text, &OpenContext { tolerance: Tolerance::Damaged, ..context }).unwrap();
    let place =
        |name: &str| String::from_utf8_lossy(&text).find(&format!("RW 8 FLAT \"{name}\"")).unwrap() as u64;
    assert_eq!(
        findings(image.as_ref()),
        [
            ("vmdk.extent.absent", Some(place("b")), Some((4096, 4096))),
            ("vmdk.extent.short", Some(7680), Some((8192 + 3584, 512))),
        ]
    );
    let mut buf = [0; 512];
    image.read_guest(GuestOffset::ZERO, &mut buf).unwrap();
    assert_eq!(buf, [1; 512]);
    assert_eq!(image.read_guest(GuestOffset::new(4096), &mut buf).unwrap_err().code(), "vmdk.extent.absent");
    let end = GuestOffset::new(8192 + 3584);
    assert_eq!(image.read_guest(end, &mut buf).unwrap_err().code(), "vmdk.extent.short");
}

#[test]
fn what_vmware_fixed_in_version_2_counts_only_with_its_flag() {
    let bytes = vec![0; 65_536 * 3];
    let mut built = VmdkBuilder { zeroed: true, version: 2, ..VmdkBuilder::default() }.build(&bytes);
    let image = strict(&built.bytes).unwrap();
    let kind = |image: &dyn Image| image.extent_at(GuestOffset::ZERO, NonZeroU64::MAX).unwrap().kind;
    assert_eq!(kind(image.as_ref()), ExtentKind::Zero);
    built.patch(8, &3_u32.to_le_bytes());
    let error = strict(&built.bytes).err().unwrap();
    let start = 512;
    assert_eq!(error.problem(), Some(&VmdkProblem::Overlap { one: "grain", start, other: "descriptor" }));
}

fn sample() -> Vec<u8> {
    content(128 * 40, 21)
}

#[test]
fn a_stream_that_was_cut_has_lost_its_footer_and_one_that_was_padded_has_not() {
    let built = VmdkBuilder::stream().build(&sample());
    let cut = &built.bytes[..built.bytes.len() * 7 / 10];
    let error = strict(cut).err().unwrap();
    assert_eq!(error.problem(), Some(&VmdkProblem::FooterMissing));
    assert_eq!(error.offset(), Some(FileOffset::new(cut.len() as u64)));
    let source = Arc::new(MemorySource::new(cut.to_vec()));
    let report =
        kiln_format::check(source, Choice::Detect, &OpenContext::new(), CheckScope::Data, &Silent).unwrap();
    assert!(report.findings.fails());

    let mut padded = built.bytes.clone();
    padded.resize(padded.len() + 3 * 512, 0);
    assert_eq!(
        findings(strict(&padded).unwrap().as_ref()),
        [("vmdk.stream.trailing", Some(built.bytes.len() as u64), None)]
    );
    let mut no_end = built.bytes.clone();
    no_end.truncate(no_end.len() - 512);
    let footer = built.footer_at as u64;
    assert_eq!(findings(damaged(&no_end).as_ref()), [("vmdk.stream.end-missing", Some(footer), None)]);
}

#[test]
fn an_extent_cut_to_seventy_percent_names_every_grain_that_is_gone() {
    let bytes: Vec<u8> = (0..65_536 * 10_u32).map(|n| (n % 251) as u8 | 1).collect();
    let built = VmdkBuilder { redundant: true, ..VmdkBuilder::default() }.build(&bytes);
    let cut = &built.bytes[..built.bytes.len() * 7 / 10];
    let lost: Vec<usize> = (0..10).filter(|grain| built.grains[grain] + 65_536 > cut.len()).collect();
    assert!(lost.len() >= 2);
    let error = strict(cut).err().unwrap();
    assert_eq!(error.code(), "vmdk.grain.past-end");
    assert_eq!(error.offset(), Some(FileOffset::new(built.entry_at(lost[0]) as u64)));
    let expected: Vec<_> = lost
        .iter()
        .map(|grain| {
            let guest = (*grain as u64 * 65_536, 65_536);
            ("vmdk.grain.past-end", Some(built.entry_at(*grain) as u64), Some(guest))
        })
        .collect();
    assert_eq!(findings(damaged(cut).as_ref()), expected);
}

#[test]
fn a_stream_whose_writer_was_stopped_is_known_by_the_room_it_made() {
    // QEMU: tables in front, room for a whole grain behind the last one that was entered.
    let builder = VmdkBuilder { directory: Directory::InFront, ..VmdkBuilder::stream() };
    let mut built = builder.build(&sample());
    let end = built.bytes.len() as u64;
    let last = *built.grains.values().max().unwrap();
    built.bytes.resize(last + 65_536, 0);
    assert_eq!(ids(strict(&built.bytes).unwrap().as_ref()), [] as [&str; 0], "finished");
    built.bytes.resize(end as usize + 65_536, 0);
    let whole = Some((0, sample().len() as u64));
    assert_eq!(findings(strict(&built.bytes).unwrap().as_ref()), [("vmdk.unfinished", Some(end), whole)]);
    // Grains that no table leads to.
    let mut lost = built.clone();
    for grain in built.grains.keys() {
        lost.patch_entry(*grain, 0);
    }
    let first = *built.grains.values().min().unwrap() as u64;
    assert_eq!(findings(strict(&lost.bytes).unwrap().as_ref()), [("vmdk.unfinished", Some(first), whole)]);
}

/// Every row of the table that is about one damaged place: what is changed, what is found there.
#[test]
fn each_kind_of_damage_has_its_row_and_its_place() {
    let bytes: Vec<u8> = (0..65_536 * 6_u32).map(|n| (n / 7 % 251) as u8 | 1).collect();
    let plain = VmdkBuilder { entries: 4, ..VmdkBuilder::default() }.build(&bytes);
    let stream = VmdkBuilder { entries: 4, ..VmdkBuilder::stream() }.build(&bytes);
    let grain = |n: u64| Some((n * 65_536, 65_536));
    let found = |built: &BuiltVmdk| findings(damaged(&built.bytes).as_ref());
    let changed = |built: &BuiltVmdk, at: usize, with: &[u8]| {
        let mut built = built.clone();
        built.patch(at, with);
        found(&built)
    };
    assert_eq!(changed(&plain, 75, b"\n"), [("vmdk.header.newlines", Some(73), None)]);
    assert_eq!(changed(&plain, 10, &[1]), [("vmdk.header.compression", Some(8), None)]);
    assert_eq!(changed(&plain, 11, &[0x80]), [("vmdk.header.flags", Some(8), None)]);
    assert_eq!(changed(&plain, 72, &[1]), [("vmdk.header.unclean", Some(72), None)]);
    assert_eq!(
        changed(&stream, stream.footer_at + 12, &[0, 2]),
        [
            ("vmdk.extent.capacity", Some(512 + 106), None),
            ("vmdk.footer.differs", Some(stream.footer_at as u64), None)
        ]
        .map(|(id, at, guest)| (
            id,
            if id == "vmdk.extent.capacity" { line_at(&stream) } else { at },
            guest
        ))
    );
    assert_eq!(changed(&plain, 512, &[0; 20]), [("vmdk.descriptor.damaged", Some(512), None)]);
    let redundant_entry = plain.redundant_tables[1] + 4;
    assert_eq!(
        changed(&plain, redundant_entry, &[1]),
        [("vmdk.redundant.differs", Some(plain.redundant_at as u64 + 4), Some((4 * 65_536, 2 * 65_536)))]
    );

    let mut aliased = plain.clone();
    aliased.patch_entry(3, (plain.grains[&1] / 512) as u32);
    let leak = ("vmdk.grain.aliased", Some(plain.entry_at(3) as u64), grain(3));
    assert_eq!(found(&aliased), [leak]);
    let mut on_header = plain.clone();
    on_header.patch_entry(3, 1);
    assert_eq!(found(&on_header), [("vmdk.grain.on-metadata", Some(plain.entry_at(3) as u64), grain(3))]);
    let mut past = plain.clone();
    past.patch_entry(3, u32::MAX);
    assert_eq!(found(&past), [("vmdk.grain.past-end", Some(plain.entry_at(3) as u64), grain(3))]);

    let second = |built: &BuiltVmdk| (Some(built.directory_at as u64 + 4), Some((4 * 65_536, 2 * 65_536)));
    for (sector, id) in [
        (u32::MAX, "vmdk.table.past-end"),
        ((stream.tables[0] / 512) as u32, "vmdk.table.aliased"),
        (1, "vmdk.grain.on-metadata"),
    ] {
        let mut built = stream.clone();
        built.patch_table(1, sector);
        let (at, guest) = second(&stream);
        assert_eq!(found(&built), [(id, at, guest)]);
    }

    let at = stream.grains[&2];
    assert_eq!(changed(&stream, at, &[9]), [("vmdk.grain.marker", Some(at as u64), grain(2))]);
    assert_eq!(changed(&stream, at + 8, &[0; 4]), [("vmdk.grain.marker", Some(at as u64), grain(2))]);
    assert_eq!(changed(&stream, at + 8, &[0xff; 4]), [("vmdk.grain.marker", Some(at as u64), grain(2))]);
    assert_eq!(changed(&stream, at + 20, &[0xff; 8]), [("vmdk.grain.decode", Some(at as u64), grain(2))]);
    let mut shared = stream.clone();
    let inside = stream.grains[&2] + 512;
    assert!(stream.grains[&3] > inside, "the grain takes more than a sector");
    shared.patch_entry(4, (inside / 512) as u32);
    assert_eq!(found(&shared)[0], ("vmdk.grain.aliased", Some(stream.entry_at(4) as u64), grain(4)));
}

fn line_at(built: &BuiltVmdk) -> Option<u64> {
    let text = String::from_utf8_lossy(&built.bytes[512..1024]).into_owned();
    text.find("RW ").map(|at| at as u64 + 512)
}

#[test]
fn a_part_of_a_split_disk_is_not_a_disk() {
    let built = VmdkBuilder { descriptor: None, ..VmdkBuilder::default() }.build(&sample());
    assert_eq!(strict(&built.bytes).err().unwrap().problem(), Some(&VmdkProblem::DescriptorMissing));
    // QEMU leaves room for a descriptor in such parts.
    let built = VmdkBuilder { descriptor: Some("\0".to_owned()), ..VmdkBuilder::default() }.build(&sample());
    let error = strict(&built.bytes).err().unwrap();
    assert_eq!(error.problem(), Some(&VmdkProblem::DescriptorMissing));
    assert!(error.hint().unwrap().contains("descriptor"));
}

#[test]
fn relatives_that_are_not_read_are_named() {
    for (magic, code) in [
        (&b"COWD\x01\0\0\0"[..], "vmdk.extent.cowd"),
        (&[0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0][..], "vmdk.extent.sesparse"),
    ] {
        let mut file = magic.to_vec();
        file.resize(4096, 0);
        let text = descriptor("vmfsSparse", 1, None, &["RW 8 VMFSSPARSE \"a\"".to_owned()]);
        let error = open(text.as_bytes(), &with_files(&[("a", &file)])).err().unwrap();
        assert_eq!(error.code(), code);
        assert!(error.hint().is_some());
    }
}
