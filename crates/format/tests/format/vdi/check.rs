//! What the check finds: one damage at a time, each with its id, its place and the guest bytes that it costs.

use std::sync::Arc;

use kiln_disk::{Findings, MemorySource, Severity, Silent};
use kiln_format::{AllowList, CheckScope, Image, OpenContext, Resolved, Tolerance, vdi};
use kiln_testkit::vdi::{BuiltVdi, FREE, VdiBuilder};

use crate::finding::{Seen, assert_table, seen};

const BLOCK: usize = 64 * 1024;

fn open_with(bytes: &[u8], list: AllowList) -> Box<dyn Image> {
    let context =
        OpenContext { tolerance: Tolerance::Damaged, resolver: Arc::new(list), ..OpenContext::new() };
    (vdi::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), &context).unwrap()
}

fn check(bytes: &[u8]) -> Findings {
    open_with(bytes, AllowList::default()).check(CheckScope::Data, &Silent).unwrap()
}

/// Eight blocks, all of them data.
fn disk() -> BuiltVdi {
    VdiBuilder::default().build(&vec![0xff; 8 * BLOCK])
}

fn after(change: &dyn Fn(&mut BuiltVdi)) -> Vec<Seen> {
    let mut built = disk();
    change(&mut built);
    seen(&check(&built.bytes))
}

fn entry(id: &'static str, block: u64) -> Seen {
    (id, Some(512 + 4 * block), Some((block * BLOCK as u64, BLOCK as u64)))
}

const COUNT: Seen = ("vdi.blocks.count", Some(0x184), None);

#[test]
fn a_good_disk_has_no_findings() {
    assert_eq!(after(&|_| {}), []);
    for builder in [
        VdiBuilder { image_type: 2, ..VdiBuilder::default() },
        VdiBuilder { shuffle: 9, align: 1 << 20, block_extra: 512, ..VdiBuilder::default() },
        VdiBuilder { mark_zeros: true, header_size: 384, ..VdiBuilder::default() },
    ] {
        let mut content = vec![1; 5 * BLOCK + 512];
        content[BLOCK..2 * BLOCK].fill(0);
        // Aligned data leaves a gap behind the map, which is no leak.
        assert_eq!(seen(&check(&builder.build(&content).bytes)), [], "{builder:?}");
    }
}

#[test]
fn ids_are_unique_and_every_row_says_what_to_do() {
    assert_table(vdi::CHECKS, "vdi.");
}

#[test]
fn a_cut_file_names_the_blocks_that_are_lost() {
    let cut = |vdi: &mut BuiltVdi| {
        let len = vdi.bytes.len() - 2 * BLOCK - 100;
        vdi.bytes.truncate(len);
    };
    let lost = [5, 6, 7].map(|block| entry("vdi.block.past-end", block));
    assert_eq!(after(&cut), lost);
}

#[test]
fn entries_that_lead_astray_are_named_with_their_guest_range() {
    let data_at = disk().data_at as u64;
    let left = |block: u64| ("vdi.leak", Some(data_at + block * BLOCK as u64), None);
    assert_eq!(
        after(&|vdi| {
            vdi.patch_entry(2, 1 << 30);
        }),
        [entry("vdi.block.past-end", 2), left(2)]
    );
    assert_eq!(
        after(&|vdi| {
            vdi.patch_entry(5, 1);
        }),
        [entry("vdi.block.aliased", 5), left(5)]
    );
    // Blocks from the header on: the first two lie on it and on the map.
    let over = after(&|vdi| {
        vdi.patch_u32(0x158, 0);
    });
    assert_eq!(over[0], ("vdi.layout.overlap", Some(0x158), None));
    assert_eq!(over[1], entry("vdi.block.on-metadata", 0));
}

#[test]
fn a_count_that_is_not_the_maps_is_found() {
    assert_eq!(
        after(&|vdi| {
            vdi.patch_entry(7, FREE);
        }),
        [COUNT, ("vdi.leak", Some(disk().data_at as u64 + 7 * BLOCK as u64), None)]
    );
    let few = after(&|vdi| {
        vdi.patch_u32(0x184, 5);
    });
    assert_eq!(few, [COUNT]);
}

#[test]
fn a_writer_that_was_stopped_leaves_data_behind_the_last_block() {
    // QEMU and VirtualBox write the block, then its entry and the count.
    let end = disk().bytes.len() as u64;
    let unfinished = after(&|vdi| vdi.bytes.extend(vec![7; 5000]));
    assert_eq!(unfinished, [("vdi.unfinished", Some(end), None)]);
    let preallocated = after(&|vdi| vdi.bytes.extend(vec![0; 5000]));
    assert_eq!(preallocated, [("vdi.leak", Some(end), None)]);
    // Nothing in the map, the block half written.
    let mut empty = VdiBuilder::default().build(&vec![0; 8 * BLOCK]);
    empty.bytes.extend(vec![9; 3000]);
    let at = empty.data_at as u64;
    assert_eq!(seen(&check(&empty.bytes)), [("vdi.unfinished", Some(at), None)]);
}

#[test]
fn discarded_blocks_and_blocks_behind_the_disk_are_waste() {
    let leaky = VdiBuilder { leaks: 3, ..VdiBuilder::default() }
        .build(&[vec![1; 2 * BLOCK], vec![0; 6 * BLOCK]].concat());
    let findings = check(&leaky.bytes);
    let at = leaky.data_at as u64 + 2 * BLOCK as u64;
    // QEMU's check calls a count that is not the map's a corruption as well.
    assert_eq!(seen(&findings), [COUNT, ("vdi.leak", Some(at), None)]);

    let mut spare = VdiBuilder { spare_entries: 2, ..VdiBuilder::default() }.build(&vec![1; 2 * BLOCK]);
    assert_eq!(seen(&check(&spare.bytes)), [("vdi.map.spare", Some(0x180), None)]);
    spare.patch_entry(1, FREE).patch_entry(3, 1);
    let beyond = ("vdi.map.beyond-disk", Some(512 + 12), None);
    let findings = check(&spare.bytes);
    assert_eq!(seen(&findings), [("vdi.map.spare", Some(0x180), None), beyond]);
    assert_eq!(findings.worst(), Some(Severity::Waste));
}

#[test]
fn oddities_of_the_header_are_advice() {
    let odd = |at| ("vdi.header.odd", Some(at), None);
    assert_eq!(
        after(&|vdi| {
            vdi.patch(0x188, &[0; 16]);
        }),
        [odd(0x188)]
    );
    assert_eq!(
        after(&|vdi| {
            vdi.patch_u32(0x168, 4096);
        }),
        [odd(0x168)]
    );
    let bytes = VdiBuilder::default().build(&[1; 1000]).bytes;
    assert_eq!(seen(&check(&bytes)), [("vdi.size.sectors", Some(0x170), None)]);
    // The last block may end with the disk.
    let mut short = VdiBuilder::default().build(&[1; 1024]);
    short.bytes.truncate(short.data_at + 1024);
    let end = short.bytes.len() as u64;
    assert_eq!(seen(&check(&short.bytes)), [("vdi.block.short-last", Some(end), None)]);
}

#[test]
fn a_child_is_checked_with_and_without_its_parent() {
    let below = VdiBuilder::default();
    let child =
        VdiBuilder::child_of(&below).build_with(&vec![1; 2 * BLOCK], &|block| (block == 1).then_some(FREE));
    let found = |parent: Option<VdiBuilder>| {
        let mut list = AllowList::default();
        if let Some(parent) = parent {
            let source = Arc::new(MemorySource::new(parent.build(&[1; BLOCK]).bytes));
            list.allow("61657263-6574-2d64-6279-2d7465737473", Resolved { source, format: None });
        }
        seen(&open_with(&child.bytes, list).check(CheckScope::Data, &Silent).unwrap())
    };
    assert_eq!(found(None), [("vdi.parent.absent", Some(0x1a8), None)]);
    assert_eq!(found(Some(below.clone())), []);
    let with_id = |n: usize| {
        let mut other = below.clone();
        other.ids[n] = [1; 16];
        Some(other)
    };
    assert_eq!(found(with_id(0)), [("vdi.parent.wrong", Some(0x1a8), None)]);
    assert_eq!(found(with_id(1)), [("vdi.parent.modified", Some(0x1b8), None)]);

    let mut base = VdiBuilder::default();
    base.ids[2] = [3; 16];
    assert_eq!(seen(&check(&base.build(&[1; BLOCK]).bytes)), [("vdi.header.linked-base", Some(0x1a8), None)]);
}
