//! What the check finds: one damage at a time, each with its id, its place and the guest bytes that it costs.

use std::sync::Arc;

use kiln_disk::{Error, Findings, MemorySource, Severity, Silent};
use kiln_format::{CheckScope, Image, OpenContext, Tolerance, vhd};
use kiln_testkit::vhd::{BuiltVhd, ParentName, VhdBuilder};

use crate::finding::{assert_table, seen};

const BLOCK: usize = 64 * 1024;

fn open(bytes: &[u8]) -> Box<dyn Image> {
    let context = OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() };
    (vhd::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), &context).unwrap()
}

fn check(bytes: &[u8]) -> Findings {
    open(bytes).check(CheckScope::Data, &Silent).unwrap()
}

fn builder() -> VhdBuilder {
    VhdBuilder { block_size: BLOCK as u32, ..VhdBuilder::default() }
}

/// Eight blocks, all of them data.
fn disk() -> BuiltVhd {
    builder().dynamic(&vec![0xff; 8 * BLOCK])
}

fn strict_code(bytes: &[u8]) -> &'static str {
    let opened = (vhd::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), &OpenContext::new());
    opened.err().map_or("opened", |error: Error| error.code())
}

#[test]
fn a_good_disk_has_no_findings() {
    assert_eq!(seen(&check(&disk().bytes)), []);
    assert_eq!(seen(&check(&builder().fixed(&[1; 4096]).bytes)), []);
    assert_eq!(seen(&check(&VhdBuilder { shuffle: 9, ..builder() }.dynamic(&vec![1; 8 * BLOCK]).bytes)), []);
}

#[test]
fn ids_are_unique_and_every_row_says_what_to_do() {
    assert_table(vhd::CHECKS, "vhd.");
}

#[test]
fn broken_footers_are_named_one_by_one() {
    let good = disk();
    let end = good.footer_at as u64;
    let with = |change: &dyn Fn(&mut BuiltVhd)| {
        let mut built = good.clone();
        change(&mut built);
        seen(&check(&built.bytes))
    };
    assert_eq!(
        with(&|vhd| {
            vhd.patch(0, b"x");
        }),
        [("vhd.footer.front-missing", Some(0), None)]
    );
    assert_eq!(
        with(&|vhd| {
            vhd.patch(80, b"x");
        }),
        [("vhd.footer.front-damaged", Some(0), None)]
    );
    assert_eq!(
        with(&|vhd| {
            vhd.patch(63, b"\x07");
        }),
        [("vhd.footer.front-damaged", Some(0), None)]
    );
    let at = good.footer_at;
    assert_eq!(
        with(&|vhd| {
            vhd.patch(at, b"x");
        }),
        [("vhd.footer.end-missing", Some(end + 512), None)]
    );
    assert_eq!(
        with(&|vhd| {
            vhd.patch(at + 80, b"x");
        }),
        [("vhd.footer.end-damaged", Some(end), None)]
    );
    assert_eq!(
        with(&|vhd| {
            vhd.patch_footer_at(at, 68, &[1; 16]);
        }),
        [("vhd.footer.copies-differ", Some(end), None)]
    );
    assert_eq!(
        with(&|vhd| {
            vhd.patch_footers(84, &[1]);
        }),
        [("vhd.footer.saved-state", Some(end + 84), None)]
    );
    let odd = [("vhd.footer.reserved", Some(0), None), ("vhd.footer.reserved", Some(end), None)];
    assert_eq!(
        with(&|vhd| {
            vhd.patch_footers(200, &[1]);
        }),
        odd
    );
    assert_eq!(
        with(&|vhd| {
            vhd.patch_footers(8, &[0; 4]);
        }),
        odd
    );
    assert_eq!(
        with(&|vhd| vhd.bytes.extend([9; 1000])),
        [("vhd.footer.end-missing", Some(end + 1512), None), ("vhd.trailing", Some(end + 512), None)]
    );
    let short = VhdBuilder { short_footer: true, ..builder() }.fixed(&[1; 4096]);
    assert_eq!(seen(&check(&short.bytes)), [("vhd.footer.short", Some(4096), None)]);
}

#[test]
fn a_cut_file_names_the_blocks_that_are_lost() {
    let mut built = disk();
    let whole = built.bytes.len();
    built.bytes.truncate(whole - 512 - BLOCK - 100);
    let len = built.bytes.len() as u64;
    let last = 7 * BLOCK as u64;
    let entries = built.table_at as u64;
    assert_eq!(
        seen(&check(&built.bytes)),
        [
            ("vhd.footer.end-missing", Some(len), None),
            ("vhd.block.past-end", Some(entries + 28), Some((last, BLOCK as u64))),
        ]
    );
    assert_eq!(strict_code(&built.bytes), "vhd.footer.end-missing");
}

#[test]
fn entries_that_lead_astray_are_named_with_their_guest_range() {
    let good = disk();
    let table = good.table_at as u64;
    let block = BLOCK as u64;
    let sector = |at: usize| (at / 512) as u32;
    let fault = |index: usize, entry: u32| {
        let mut built = good.clone();
        built.patch_entry(index, entry);
        (seen(&check(&built.bytes)), strict_code(&built.bytes))
    };
    // The place of the block that moved away belongs to nothing.
    let leak = |index: usize| ("vhd.leak", Some(good.blocks[&index] as u64), None);
    let at = |index: u64| (Some(table + 4 * index), Some((index * block, block)));
    let named = |id, index| (id, at(index).0, at(index).1);

    let (found, code) = fault(2, u32::MAX - 1);
    assert_eq!(found, [named("vhd.block.past-end", 2), leak(2)]);
    assert_eq!(code, "vhd.block.past-end");
    for inside in [0, 1, 2, 3] {
        let (found, code) = fault(2, inside);
        assert_eq!(found, [named("vhd.block.on-metadata", 2), leak(2)], "sector {inside}");
        assert_eq!(code, "vhd.block.on-metadata");
    }
    let (found, code) = fault(7, sector(good.footer_at) - 1);
    assert_eq!(found, [named("vhd.block.past-end", 7), leak(7)]);
    assert_eq!(code, "vhd.block.past-end");
    let (found, code) = fault(5, sector(good.blocks[&1]));
    assert_eq!(found, [named("vhd.block.aliased", 5), leak(5)]);
    assert_eq!(code, "vhd.block.aliased");
    // One sector into the next block.
    let (found, code) = fault(5, sector(good.blocks[&5]) + 1);
    let behind = (good.blocks[&5] + 512 + 512 + BLOCK) as u64;
    assert_eq!(found, [named("vhd.block.aliased", 6), ("vhd.leak", Some(behind), None)]);
    assert_eq!(code, "vhd.block.aliased");
}

#[test]
fn t_dos_06_an_aliasing_bomb_is_refused_and_its_check_is_bounded() {
    let blocks = 50_000;
    let mut built = VhdBuilder { spare_entries: blocks as u32 - 1, ..builder() }.dynamic(&vec![1; BLOCK]);
    built.patch_footers(48, &((blocks * BLOCK) as u64).to_be_bytes());
    let first = (built.blocks[&0] / 512) as u32;
    for block in 1..blocks {
        built.patch_entry(block, first);
    }
    assert_eq!(strict_code(&built.bytes), "vhd.block.aliased");
    let start = std::time::Instant::now();
    let findings = check(&built.bytes);
    assert_eq!(findings.count_of("vhd.block.aliased"), blocks as u64 - 1);
    assert_eq!(findings.list().len(), Findings::PER_ID as usize);
    assert!(start.elapsed().as_secs() < 5, "{:?}", start.elapsed());
}

#[test]
fn a_damaged_header_is_named_and_still_read() {
    let mut built = disk();
    built.patch(built.header_at + 800, &[1]);
    let header = built.header_at as u64;
    assert_eq!(
        seen(&check(&built.bytes)),
        [("vhd.header.damaged", Some(header + 36), None), ("vhd.header.reserved", Some(header), None)]
    );
    assert_eq!(strict_code(&built.bytes), "vhd.header.checksum");
}

#[test]
fn tables_longer_than_the_disk_and_blocks_behind_its_end_are_waste() {
    let mut built = VhdBuilder { spare_entries: 3, ..builder() }.dynamic(&vec![1; 2 * BLOCK]);
    let header = built.header_at as u64;
    assert_eq!(seen(&check(&built.bytes)), [("vhd.bat.spare", Some(header + 28), None)]);
    // The second block's place is given to the fourth entry.
    let place = (built.blocks[&1] / 512) as u32;
    built.patch_entry(1, u32::MAX).patch_entry(3, place);
    assert_eq!(
        seen(&check(&built.bytes)),
        [
            ("vhd.bat.spare", Some(header + 28), None),
            ("vhd.bat.beyond-disk", Some(built.table_at as u64 + 12), None)
        ]
    );
    assert_eq!(check(&built.bytes).worst(), Some(Severity::Waste));
    assert_eq!(strict_code(&built.bytes), "opened");
}

#[test]
fn space_between_blocks_is_a_leak_from_a_page_on() {
    let small = VhdBuilder { gap: 3584, ..builder() }.dynamic(&vec![1; 2 * BLOCK]);
    assert_eq!(seen(&check(&small.bytes)), []);
    let large = VhdBuilder { gap: 4096, ..builder() }.dynamic(&vec![1; 2 * BLOCK]);
    let gaps: Vec<_> =
        [0, 1].map(|block| ("vhd.leak", Some(large.blocks[&block] as u64 - 4096), None)).into();
    assert_eq!(seen(&check(&large.bytes)), gaps);
}

#[test]
fn sectors_that_the_bitmap_denies_but_the_block_holds_are_found_in_a_check_of_data() {
    let mut built = disk();
    let bitmap = built.blocks[&3];
    // Sectors 8 to 15 of block 3.
    built.patch(bitmap + 1, &[0]);
    let guest = (3 * BLOCK + 8 * 512) as u64;
    let at = (bitmap + 512 + 8 * 512) as u64;
    assert_eq!(seen(&check(&built.bytes)), [("vhd.bitmap.unwritten-data", Some(at), Some((guest, 8 * 512)))]);
    assert_eq!(seen(&open(&built.bytes).check(CheckScope::Metadata, &Silent).unwrap()), []);
    built.patch(bitmap + 512 + 8 * 512, &[0; 8 * 512]);
    assert_eq!(seen(&check(&built.bytes)), []);
}

#[test]
fn geometry_and_size_that_disagree_are_told() {
    let built = VhdBuilder { creator: *b"vpc ", geometry: (1, 4, 17), ..builder() }.fixed(&[1; 100 * 512]);
    assert_eq!(seen(&check(&built.bytes)), [("vhd.size.geometry", Some(built.footer_at as u64 + 48), None)]);
}

#[test]
fn fixed_disks_with_too_little_or_too_much_are_told() {
    let mut short = builder().fixed(&[1; 8192]);
    short.patch_footers(48, &16_384_u64.to_be_bytes());
    assert_eq!(seen(&check(&short.bytes)), [("vhd.fixed.truncated", Some(8192), Some((8192, 8192)))]);
    assert_eq!(strict_code(&short.bytes), "vhd.fixed.truncated");
    let mut long = builder().fixed(&[1; 8192]);
    long.patch_footers(48, &4096_u64.to_be_bytes());
    assert_eq!(seen(&check(&long.bytes)), [("vhd.fixed.slack", Some(4096), None)]);
}

#[test]
fn a_child_is_checked_without_its_parent_and_bad_locators_are_found() {
    let parent = ParentName {
        unique_id: [1; 16],
        unicode_name: "p.vhd".to_owned(),
        locators: vec![(*b"W2ku", b"p\0.\0".to_vec())],
        ..ParentName::default()
    };
    let mut built = VhdBuilder { parent: Some(parent), ..builder() }
        .differencing(&vec![1; 2 * BLOCK], &|sector| sector == 5);
    let absent = ("vhd.parent.absent", Some(built.header_at as u64 + 40), None);
    let findings = check(&built.bytes);
    assert_eq!(seen(&findings), [absent]);
    assert!(!findings.fails());
    let locator = 576;
    for (field, value) in [(8, &u32::MAX.to_be_bytes()[..]), (16, &u64::MAX.to_be_bytes())] {
        let mut broken = built.clone();
        broken.patch_header(locator + field, value);
        let found = seen(&check(&broken.bytes));
        assert_eq!(
            found[..2],
            [absent, ("vhd.locator.past-end", Some((built.header_at + locator) as u64), None)]
        );
    }
    built.patch_header(locator, b"Mac ");
    assert_eq!(seen(&check(&built.bytes)), [absent]);
}

#[test]
fn tables_on_top_of_each_other_are_refused_and_found() {
    let good = disk();
    // Table over the header; its entries are then nonsense, which is found as well.
    let mut built = good.clone();
    built.patch_header(16, &1024_u64.to_be_bytes());
    assert_eq!(strict_code(&built.bytes), "vhd.layout.overlap");
    assert_eq!(check(&built.bytes).count_of("vhd.layout.overlap"), 1);
}
