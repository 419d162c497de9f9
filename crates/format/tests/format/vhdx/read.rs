//! Reading VHDXs that the test kit built from the specification.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::{ExtentKind, FileOffset, GuestOffset, MemorySource};
use kiln_format::vhdx::VhdxProblem;
use kiln_format::{AllowList, ExternalRole, Image, OpenContext, Resolved, Tolerance, vhdx};
use kiln_testkit::laws::{Random, check_disk};
use kiln_testkit::vhdx::{BuiltVhdx, HEADERS, REGION_TABLES, State, VhdxBuilder, seal};
use proptest::prelude::*;

const MIB: usize = 1 << 20;

fn open(bytes: &[u8], context: &OpenContext) -> kiln_disk::Result<Box<dyn Image>> {
    (vhdx::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), context)
}

fn strict(bytes: &[u8]) -> kiln_disk::Result<Box<dyn Image>> {
    open(bytes, &OpenContext::new())
}

fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; len];
    let mut at = 0;
    while at < len {
        let end = len.min(at + 1 + random.below(2 << 20) as usize);
        if random.below(3) > 0 {
            bytes[at..end].iter_mut().for_each(|byte| *byte = random.number() as u8);
        }
        at = end;
    }
    bytes
}

fn with_parent(name: &str, built: &BuiltVhdx) -> OpenContext {
    let mut list = AllowList::default();
    list.allow(name, Resolved { source: Arc::new(MemorySource::new(built.bytes.clone())), format: None });
    OpenContext { resolver: Arc::new(list), ..OpenContext::new() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn laws_hold_for_disks_of_any_shape(
        sectors in 1_usize..1500, seed: u64, block_bits in 20_u32..24, large_sectors: bool, fixed: bool,
        shuffle: u64, gap_mib in 0_usize..2, log_mib in 1_usize..3,
    ) {
        let sector_size = if large_sectors { 4096 } else { 512 };
        let bytes = content(sectors * 4096, seed);
        let built = VhdxBuilder {
            block_size: 1 << block_bits, sector_size, fixed, shuffle, gap_mib, log_mib, ..VhdxBuilder::default()
        }.build(&bytes);
        check_disk(strict(&built.bytes).unwrap().as_ref(), &bytes);
    }

    #[test]
    fn laws_hold_for_differencing_disks_over_any_parent(
        sectors in 1_usize..1000, parent_sectors in 1_usize..1000, seed: u64, block_bits in 20_u32..22,
        large_sectors: bool, odds in 0_u64..5,
    ) {
        let sector_size = if large_sectors { 4096 } else { 512 };
        let (old, new) = (content(parent_sectors * 4096, seed), content(sectors * 4096, seed ^ 1));
        let below = VhdxBuilder { sector_size, ..VhdxBuilder::default() };
        let block_size = 1_usize << block_bits;
        let choices = [State::Full, State::Partial, State::Is(0), State::Is(2), State::Is(3), State::Is(1)];
        let state = |block: usize| choices[(block + seed as usize % 6) % 6];
        let owns = |sector: usize| Random(seed ^ (sector as u64 / 3) << 8).below(4) < odds;
        let child = VhdxBuilder {
            block_size: block_size as u32, sector_size, shuffle: seed, ..VhdxBuilder::child_of(&below, "parent.vhdx")
        }.build_with(&new, &state, &owns);
        let mut expected = new.clone();
        let unit = sector_size as usize;
        for (sector, bytes) in expected.chunks_mut(unit).enumerate() {
            let from_parent = match state(sector * unit / block_size) {
                State::Full => continue,
                State::Partial if owns(sector) => continue,
                State::Partial | State::Is(0) => true,
                State::Is(_) => false,
            };
            bytes.fill(0);
            if from_parent && let Some(old) = old.get(sector * unit..(sector + 1) * unit) {
                bytes.copy_from_slice(old);
            }
        }
        let context = with_parent("parent.vhdx", &below.build(&old));
        check_disk(open(&child.bytes, &context).unwrap().as_ref(), &expected);
    }
}

#[test]
fn absent_blocks_are_holes_zero_ones_zeros_and_data_is_verbatim() {
    let mut bytes = vec![0; 6 * MIB];
    bytes[3 * MIB + 5] = 7;
    let states = [State::Is(0), State::Is(0), State::Is(2), State::Full, State::Is(3), State::Is(1)];
    let built = VhdxBuilder::default().build_with(&bytes, &|block| states[block], &|_| true);
    let image = strict(&built.bytes).unwrap();
    let kinds: Vec<_> = kiln_disk::extents(image.as_ref(), NonZeroU64::MAX)
        .map(|extent| extent.map(|extent| (extent.len.get() as usize / MIB, extent.kind)).unwrap())
        .collect();
    let at = FileOffset::new(built.blocks[&3] as u64);
    let data = ExtentKind::Data { file: 0, at };
    assert_eq!(kinds, [(2, ExtentKind::Hole), (1, ExtentKind::Zero), (1, data), (2, ExtentKind::Zero)]);
    assert_eq!(image.facts().variant, "dynamic");
}

#[test]
fn the_newer_header_counts_and_one_of_each_copy_is_enough() {
    let bytes = content(3 * MIB, 1);
    let good = VhdxBuilder::default().build(&bytes);
    for (damaged, at) in [(0, HEADERS[0]), (1, HEADERS[1]), (2, REGION_TABLES[0]), (3, REGION_TABLES[1])] {
        let mut built = good.clone();
        built.patch(at + 100, &[1]);
        check_disk(strict(&built.bytes).unwrap_or_else(|e| panic!("{damaged}: {e}")).as_ref(), &bytes);
    }
    // The older header says that there is a log to replay; it does not count.
    let mut built = good.clone();
    built.patch(HEADERS[0] + 48, &[1; 16]);
    seal(&mut built.bytes, HEADERS[0], 4096);
    check_disk(strict(&built.bytes).unwrap().as_ref(), &bytes);

    for pair in [HEADERS, REGION_TABLES] {
        let mut built = good.clone();
        pair.iter().for_each(|at| built.bytes[at + 100] = 1);
        assert_eq!(strict(&built.bytes).err().unwrap().code(), "vhdx.checksum");
    }
}

#[test]
fn headers_of_one_number_are_twins_or_refused() {
    let bytes = content(MIB, 1);
    let mut built = VhdxBuilder::default().build(&bytes);
    built.patch_headers(8, &9_u64.to_le_bytes());
    check_disk(strict(&built.bytes).unwrap().as_ref(), &bytes);
    built.patch(HEADERS[1] + 16, &[1]);
    seal(&mut built.bytes, HEADERS[1], 4096);
    let error = strict(&built.bytes).err().unwrap();
    assert_eq!(error.problem(), Some(&VhdxProblem::HeaderTwins(9)));
    assert_eq!(error.offset(), Some(FileOffset::new(HEADERS[1] as u64)));
}

#[test]
fn a_child_is_never_read_without_its_parent_and_knows_it_by_its_data() {
    let below = VhdxBuilder::default();
    let child = VhdxBuilder::child_of(&below, "parent.vhdx");
    let states = [State::Full, State::Is(0)];
    let built = child.build_with(&vec![5; 2 * MIB], &|block| states[block], &|_| true);
    assert_eq!(strict(&built.bytes).err().unwrap().code(), "reference.denied");

    let image =
        open(&built.bytes, &OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() }).unwrap();
    let facts = image.facts();
    assert_eq!((facts.variant.as_str(), facts.references.len()), ("differencing", 2));
    let reference = &facts.references[0];
    assert_eq!((reference.role, reference.name.as_str()), (ExternalRole::Parent, "parent.vhdx"));
    assert_eq!(built.bytes[reference.at.get() as usize..][..4], *b"p\0a\0");
    let mut buf = [0; 512];
    image.read_guest(GuestOffset::new(1000), &mut buf).expect("a block of its own");
    let error = image.read_guest(GuestOffset::new(MIB as u64), &mut buf).unwrap_err();
    assert_eq!(error.code(), "vhdx.parent.absent");

    // Any of its names will do.
    let parent = below.build(&vec![9; 2 * MIB]);
    let image = open(&built.bytes, &with_parent("C:\\disks\\parent.vhdx", &parent)).unwrap();
    check_disk(image.as_ref(), &[vec![5; MIB], vec![9; MIB]].concat());

    let changed = VhdxBuilder { data_write_guid: [7; 16], ..below }.build(&vec![9; 2 * MIB]);
    let error = open(&built.bytes, &with_parent("parent.vhdx", &changed)).err().unwrap();
    match error.problem() {
        Some(VhdxProblem::WrongParent { found, .. }) => {
            assert_eq!(found, "07070707-0707-0707-0707-070707070707");
        }
        _ => panic!("{error}"),
    }
}

#[test]
fn a_chain_that_is_a_loop_ends_at_its_depth() {
    let mut own = VhdxBuilder::child_of(&VhdxBuilder::default(), "parent.vhdx");
    own.data_write_guid = VhdxBuilder::default().data_write_guid;
    let built = own.build_with(&vec![5; MIB], &|_| State::Is(0), &|_| true);
    let error = open(&built.bytes, &with_parent("parent.vhdx", &built)).err().unwrap();
    assert_eq!(error.code(), "budget.depth");
}
