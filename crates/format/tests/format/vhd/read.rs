//! Reading VHDs that the test kit built from the specification.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{ExtentKind, FileOffset, GuestOffset, MemorySource};
use kiln_format::vhd::VhdProblem;
use kiln_format::{
    AllowList, DetailValue, ExternalRef, ExternalRole, Image, OpenContext, Resolved, Tolerance, vhd,
};
use kiln_testkit::laws::{Random, check_disk};
use kiln_testkit::vhd::{BuiltVhd, ParentName, VhdBuilder, utf16le};
use proptest::prelude::*;

fn open(bytes: &[u8], context: &OpenContext) -> kiln_disk::Result<Box<dyn Image>> {
    (vhd::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), context)
}

fn strict(bytes: &[u8]) -> kiln_disk::Result<Box<dyn Image>> {
    open(bytes, &OpenContext::new())
}

fn damaged(bytes: &[u8]) -> kiln_disk::Result<Box<dyn Image>> {
    open(bytes, &OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() })
}

#[track_caller]
fn problem(bytes: &[u8]) -> (VhdProblem, u64) {
    let error = strict(bytes).err().expect("a refusal");
    let problem = error.problem::<VhdProblem>().unwrap_or_else(|| panic!("{error} is no VHD problem"));
    (problem.clone(), error.offset().expect("an offset").get())
}

/// Some content: runs of data and of zeros, sector by sector.
fn content(sectors: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; sectors * 512];
    let mut at = 0;
    while at < bytes.len() {
        let run = (1 + random.below(200) as usize) * 512;
        let end = bytes.len().min(at + run);
        if random.below(3) > 0 {
            for byte in &mut bytes[at..end] {
                *byte = random.number() as u8;
            }
        }
        at = end;
    }
    bytes
}

fn parent_context(entries: &[(&str, &BuiltVhd)]) -> OpenContext {
    let mut list = AllowList::default();
    for (name, built) in entries {
        list.allow(
            *name,
            Resolved { source: Arc::new(MemorySource::new(built.bytes.clone())), format: None },
        );
    }
    OpenContext { resolver: Arc::new(list), ..OpenContext::new() }
}

fn child_of(parent: &VhdBuilder) -> ParentName {
    ParentName {
        unique_id: parent.unique_id,
        time_stamp: parent.time_stamp,
        unicode_name: "parent.vhd".to_owned(),
        locators: vec![
            (*b"W2ku", utf16le("C:\\disks\\parent.vhd")),
            (*b"W2ru", utf16le(".\\parent.vhd")),
            (*b"Mac ", vec![0, 1, 2]),
        ],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn laws_hold_for_fixed_disks(sectors in 1_usize..3000, seed: u64, short: bool) {
        let bytes = content(sectors, seed);
        let built = VhdBuilder { short_footer: short, ..VhdBuilder::default() }.fixed(&bytes);
        check_disk(strict(&built.bytes).unwrap().as_ref(), &bytes);
    }

    #[test]
    fn laws_hold_for_dynamic_disks(
        sectors in 1_usize..6000, seed: u64, block_bits in 12_u32..23, shuffle: u64, gap in 0_usize..4,
        table_last: bool, short: bool, spare in 0_u32..300,
    ) {
        let bytes = content(sectors, seed);
        let built = VhdBuilder {
            block_size: 1 << block_bits, shuffle, gap: gap * 512, table_last, short_footer: short,
            spare_entries: spare, ..VhdBuilder::default()
        }.dynamic(&bytes);
        check_disk(strict(&built.bytes).unwrap().as_ref(), &bytes);
    }

    #[test]
    fn laws_hold_for_differencing_disks_over_any_parent(
        sectors in 1_usize..3000, parent_sectors in 1_usize..3000, seed: u64, block_bits in 12_u32..22,
        parent_fixed: bool, odds in 0_u64..5,
    ) {
        let old = content(parent_sectors, seed);
        let new = content(sectors, seed ^ 1);
        let below = VhdBuilder { unique_id: [9; 16], ..VhdBuilder::default() };
        let parent = if parent_fixed { below.fixed(&old) } else { below.dynamic(&old) };
        let owns = |sector: usize| Random(seed ^ (sector as u64 / 3) << 8).below(4) < odds;
        let built = VhdBuilder {
            block_size: 1 << block_bits, shuffle: seed, parent: Some(child_of(&below)), ..VhdBuilder::default()
        }.differencing(&new, &owns);
        let mut expected = new.clone();
        for (sector, bytes) in expected.chunks_mut(512).enumerate() {
            if !owns(sector) {
                bytes.fill(0);
                if let Some(old) = old.get(sector * 512..sector * 512 + 512) {
                    bytes.copy_from_slice(old);
                }
            }
        }
        let image = open(&built.bytes, &parent_context(&[("parent.vhd", &parent)])).unwrap();
        check_disk(image.as_ref(), &expected);
    }
}

#[test]
fn unallocated_blocks_are_one_hole_and_data_is_verbatim_in_the_file() {
    let block = 2 << 20;
    let mut bytes = vec![0; 5 * block];
    bytes[3 * block + 100] = 7;
    let built = VhdBuilder::default().dynamic(&bytes);
    let image = strict(&built.bytes).unwrap();
    let limit = NonZeroU64::new(1 << 40).unwrap();
    let first = image.extent_at(GuestOffset::ZERO, limit).unwrap();
    assert_eq!((first.len.get(), first.kind), (3 * block as u64, ExtentKind::Hole));
    let second = image.extent_at(first.end(), limit).unwrap();
    let at = FileOffset::new(built.blocks[&3] as u64 + 512);
    assert_eq!((second.len.get(), second.kind), (block as u64, ExtentKind::Data { file: 0, at }));
    let third = image.extent_at(second.end(), limit).unwrap();
    assert_eq!((third.len.get(), third.kind), (block as u64, ExtentKind::Hole));
}

#[test]
fn data_of_the_parent_is_said_to_be_in_the_file_behind() {
    let below = VhdBuilder { unique_id: [1; 16], ..VhdBuilder::default() };
    let parent = below.fixed(&[5; 4096]);
    let child = VhdBuilder { parent: Some(child_of(&below)), ..VhdBuilder::default() }
        .differencing(&[6; 4096], &|n| n == 1);
    let image = open(&child.bytes, &parent_context(&[("parent.vhd", &parent)])).unwrap();
    let kinds: Vec<_> = kiln_disk::extents(image.as_ref(), NonZeroU64::new(1 << 30).unwrap())
        .map(|extent| extent.map(|extent| (extent.len.get(), extent.kind)).unwrap())
        .collect();
    let own = FileOffset::new(child.blocks[&0] as u64 + 512 + 512);
    assert_eq!(
        kinds,
        [
            (512, ExtentKind::Data { file: 1, at: FileOffset::ZERO }),
            (512, ExtentKind::Data { file: 0, at: own }),
            (3072, ExtentKind::Data { file: 1, at: FileOffset::new(1024) }),
        ]
    );
}

#[test]
fn the_creator_decides_between_geometry_and_current_size() {
    // 4 x 4 x 17 = 272 sectors by the geometry, 300 by the size.
    let bytes = content(300, 1);
    for (creator, sectors) in
        [(b"vpc ", 272), (b"qemu", 272), (b"vs  ", 300), (b"qem2", 300), (b"win ", 300), (b"vbox", 300)]
    {
        let builder = VhdBuilder { creator: *creator, geometry: (4, 4, 17), ..VhdBuilder::default() };
        for built in [builder.fixed(&bytes), builder.dynamic(&bytes)] {
            let image = strict(&built.bytes).unwrap();
            assert_eq!(image.disk_len(), sectors * 512, "{}", String::from_utf8_lossy(creator));
            check_disk(image.as_ref(), &bytes[..sectors as usize * 512]);
        }
    }
    let largest = VhdBuilder { creator: *b"vpc ", ..VhdBuilder::default() }.dynamic(&bytes);
    assert_eq!(strict(&largest.bytes).unwrap().disk_len(), 300 * 512);
}

#[test]
fn a_broken_copy_at_the_start_loses_nothing() {
    let bytes = content(9000, 2);
    let built = VhdBuilder::default().dynamic(&bytes);
    for damage in [&[0_u8; 8][..], b"conectix\xff"] {
        let mut broken = built.clone();
        broken.patch(0, damage);
        check_disk(strict(&broken.bytes).unwrap().as_ref(), &bytes);
    }
}

#[test]
fn a_broken_footer_at_the_end_is_refused_unless_damage_is_tolerated() {
    let bytes = content(9000, 3);
    let built = VhdBuilder::default().dynamic(&bytes);
    let end = built.footer_at as u64;

    let mut missing = built.clone();
    missing.bytes.truncate(built.footer_at);
    assert_eq!(problem(&missing.bytes), (VhdProblem::EndFooterMissing, end));
    check_disk(damaged(&missing.bytes).unwrap().as_ref(), &bytes);

    let mut changed = built.clone();
    changed.patch(built.footer_at + 100, &[1]);
    let stored = u32::from_be_bytes(built.bytes[64..68].try_into().unwrap());
    assert_eq!(problem(&changed.bytes), (VhdProblem::FooterChecksum { stored, computed: stored - 1 }, end));
    check_disk(damaged(&changed.bytes).unwrap().as_ref(), &bytes);

    let mut cut = built.clone();
    cut.bytes.truncate(built.footer_at - 4096);
    assert_eq!(problem(&cut.bytes), (VhdProblem::EndFooterMissing, end - 4096));
}

#[test]
fn footers_that_describe_different_disks_are_refused() {
    let built = VhdBuilder::default().dynamic(&content(900, 4));
    let mut other = built.clone();
    other.patch_footer_at(0, 48, &(512_u64 * 800).to_be_bytes());
    assert_eq!(problem(&other.bytes), (VhdProblem::FootersDiffer { field: "the length of the disk" }, 0));
    assert_eq!(
        damaged(&other.bytes).unwrap().disk_len(),
        900 * 512,
        "the footer at the end is the disk's own"
    );
    let mut stamp = built.clone();
    stamp.patch_footer_at(0, 24, &[0; 4]);
    strict(&stamp.bytes).expect("a time stamp decides nothing");
}

#[test]
fn t_ext_12_a_fixed_disk_whose_guest_wrote_a_dynamic_one_is_refused() {
    let mut inner = VhdBuilder::default().dynamic(&content(900, 5)).bytes;
    inner.resize(inner.len().next_multiple_of(512), 0);
    let built = VhdBuilder::default().fixed(&inner);
    let expected = VhdProblem::FooterKindsDiffer { front: "dynamic", end: "fixed" };
    assert_eq!(problem(&built.bytes), (expected.clone(), built.footer_at as u64));
    let error = damaged(&built.bytes).err().unwrap();
    assert_eq!(error.problem(), Some(&expected));
}

#[test]
fn a_differencing_disk_is_never_read_without_its_parent() {
    let below = VhdBuilder { unique_id: [3; 16], ..VhdBuilder::default() };
    let built = VhdBuilder { parent: Some(child_of(&below)), ..VhdBuilder::default() }
        .differencing(&content(3000, 6), &|sector| sector < 1000);
    assert_eq!(strict(&built.bytes).err().unwrap().code(), "reference.denied");

    let image = damaged(&built.bytes).unwrap();
    let facts = image.facts();
    let named = |name: &str| {
        // The bytes at the place are the name's: UTF-16, big-endian in the header, little-endian in locators.
        let at = facts.references.iter().find(|reference| reference.name == name).unwrap().at;
        let place = &built.bytes[usize::try_from(at.get()).unwrap()..];
        let first = name.as_bytes()[0];
        assert!(place.starts_with(&[0, first]) || place.starts_with(&[first, 0]), "{name} at {at}");
        ExternalRef { role: ExternalRole::Parent, name: name.to_owned(), format: Some("vhd".to_owned()), at }
    };
    assert_eq!(facts.variant, "differencing");
    assert_eq!(
        facts.references,
        [named("parent.vhd"), named("C:\\disks\\parent.vhd"), named(".\\parent.vhd")]
    );
    let detail =
        |name| facts.details.iter().find(|detail| detail.name == name).map(|detail| detail.value.clone());
    let codes = ["W2ku", "W2ru", "Mac "].map(str::to_owned).to_vec();
    assert_eq!(detail("parent_locators"), Some(DetailValue::List(codes)));
    assert_eq!(
        detail("parent_unique_id"),
        Some(DetailValue::Text("03030303-0303-0303-0303-030303030303".to_owned()))
    );
    assert_eq!(detail("parent_time_stamp"), Some(DetailValue::Number(946_684_800 + 600_000_000)));
    assert_eq!(detail("parent_open"), Some(DetailValue::Flag(false)));

    let mut buf = [0; 512];
    image.read_guest(GuestOffset::new(999 * 512), &mut buf).expect("a sector of its own");
    let error = image.read_guest(GuestOffset::new(1000 * 512), &mut buf).unwrap_err();
    assert_eq!(error.code(), "vhd.parent.absent");
    let error = image.extent_at(GuestOffset::new(1000 * 512), NonZeroU64::MIN).unwrap_err();
    assert_eq!(error.code(), "vhd.parent.absent");
}

#[test]
fn any_name_of_the_parent_leads_to_it_and_another_disk_is_refused() {
    let below = VhdBuilder { unique_id: [4; 16], ..VhdBuilder::default() };
    let parent = below.dynamic(&content(3000, 7));
    let built = VhdBuilder { parent: Some(child_of(&below)), ..VhdBuilder::default() }
        .differencing(&content(3000, 8), &|_| false);
    for name in ["parent.vhd", "C:\\disks\\parent.vhd", ".\\parent.vhd"] {
        let image = open(&built.bytes, &parent_context(&[(name, &parent)])).unwrap();
        check_disk(image.as_ref(), &content(3000, 7));
    }
    let stranger = VhdBuilder { unique_id: [5; 16], ..below }.dynamic(&content(3000, 7));
    let error = open(&built.bytes, &parent_context(&[("parent.vhd", &stranger)])).err().unwrap();
    assert_eq!(
        error.problem(),
        Some(&VhdProblem::WrongParent {
            wanted: "04040404-0404-0404-0404-040404040404".to_owned(),
            found: "05050505-0505-0505-0505-050505050505".to_owned(),
        })
    );
    assert_eq!(error.offset(), Some(FileOffset::new(512 + 40)));
}

#[test]
fn a_raw_file_cannot_be_a_parent_and_a_nameless_parent_cannot_be_asked_for() {
    let below = VhdBuilder { unique_id: [4; 16], ..VhdBuilder::default() };
    let builder = VhdBuilder { parent: Some(child_of(&below)), ..VhdBuilder::default() };
    let built = builder.differencing(&content(300, 8), &|_| false);
    let mut list = AllowList::default();
    let source = Arc::new(MemorySource::new(vec![0; 300 * 512]));
    list.allow("parent.vhd", Resolved { source, format: Some(&kiln_format::raw::FORMAT) });
    let context = OpenContext { resolver: Arc::new(list), ..OpenContext::new() };
    assert_eq!(open(&built.bytes, &context).err().unwrap().code(), "vhd.parent.format");

    let nameless = VhdBuilder { parent: Some(ParentName::default()), ..VhdBuilder::default() };
    let built = nameless.differencing(&content(300, 8), &|_| false);
    assert_eq!(problem(&built.bytes), (VhdProblem::NoParentName, 512));
}

#[test]
fn t_ext_08_chains_are_followed_four_files_deep_and_no_further() {
    let bytes = content(3000, 9);
    let name = |depth: usize| format!("level{depth}.vhd");
    // level0 is the base; each level owns every sector whose number leaves a remainder.
    let mut built = vec![VhdBuilder { unique_id: [0; 16], ..VhdBuilder::default() }.dynamic(&bytes)];
    for depth in 1..=5_usize {
        let parent = ParentName {
            unique_id: [depth as u8 - 1; 16],
            unicode_name: name(depth - 1),
            ..ParentName::default()
        };
        let builder =
            VhdBuilder { unique_id: [depth as u8; 16], parent: Some(parent), ..VhdBuilder::default() };
        built.push(builder.differencing(&bytes, &|sector| sector % 7 == depth));
    }
    let names: Vec<String> = (0..5).map(name).collect();
    let entries: Vec<_> = names.iter().map(String::as_str).zip(&built).collect();
    let context = parent_context(&entries);
    for level in &built[..=4] {
        check_disk(open(&level.bytes, &context).unwrap().as_ref(), &bytes);
    }
    let context = parent_context(&entries);
    assert_eq!(open(&built[5].bytes, &context).err().unwrap().code(), "budget.depth");
}

#[test]
fn t_ext_08_a_disk_that_is_its_own_parent_ends_at_the_depth_limit() {
    let own = VhdBuilder { unique_id: [6; 16], ..VhdBuilder::default() };
    let built = VhdBuilder { parent: Some(child_of(&own)), ..own }.differencing(&content(300, 1), &|_| false);
    let error = open(&built.bytes, &parent_context(&[("parent.vhd", &built)])).err().unwrap();
    assert_eq!(error.code(), "budget.depth");
}
