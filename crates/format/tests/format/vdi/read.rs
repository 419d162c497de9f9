//! Reading VDIs that the test kit built from VirtualBox's header file.

use std::num::NonZeroU64;
use std::process::Command;
use std::sync::Arc;

use kiln_disk::{ExtentKind, FileOffset, FileSource, GuestOffset, MemorySource};
use kiln_format::vdi::VdiProblem;
use kiln_format::{AllowList, DetailValue, ExternalRole, Image, OpenContext, Resolved, Tolerance, vdi};
use kiln_testkit::laws::{Random, check_disk};
use kiln_testkit::oracle::text;
use kiln_testkit::vdi::{BuiltVdi, FREE, VdiBuilder, ZERO};
use proptest::prelude::*;

fn open(bytes: &[u8], context: &OpenContext) -> kiln_disk::Result<Box<dyn Image>> {
    (vdi::FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), context)
}

fn strict(bytes: &[u8]) -> kiln_disk::Result<Box<dyn Image>> {
    open(bytes, &OpenContext::new())
}

fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; len];
    let mut at = 0;
    while at < len {
        let end = len.min(at + 1 + random.below(150_000) as usize);
        if random.below(3) > 0 {
            bytes[at..end].iter_mut().for_each(|byte| *byte = random.number() as u8);
        }
        at = end;
    }
    bytes
}

/// The name of the parent that [`VdiBuilder::child_of`] a default builder has: "created-by-tests" as an id.
const PARENT: &str = "61657263-6574-2d64-6279-2d7465737473";

fn with_parent(name: &str, built: &BuiltVdi) -> OpenContext {
    let mut list = AllowList::default();
    list.allow(name, Resolved { source: Arc::new(MemorySource::new(built.bytes.clone())), format: None });
    OpenContext { resolver: Arc::new(list), ..OpenContext::new() }
}

/// xmount shows a disk as a VDI and as a VHD of its own making. Its VDI has the data at an odd offset, which QEMU refuses.
#[test]
fn oracle_xmount_makes_what_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let plain = content(5 << 20, 77);
    std::fs::write(dir.path().join("disk.raw"), &plain).unwrap();
    let shown = dir.path().join("shown");
    std::fs::create_dir(&shown).unwrap();
    let run = |program: &str, words: &[&str]| {
        let done =
            Command::new(program).args(words).arg(&shown).output().expect("`make setup` installs xmount");
        assert!(done.status.success(), "{program} {words:?}: {}", String::from_utf8_lossy(&done.stderr));
    };
    for (kind, format) in [("vdi", &vdi::FORMAT), ("vhd", &kiln_format::vhd::FORMAT)] {
        run("xmount", &["--in", "raw", text(&dir.path().join("disk.raw")), "--out", kind]);
        let read = FileSource::open(&shown.join(format!("disk.{kind}")))
            .and_then(|source| (format.open)(Arc::new(source), &OpenContext::new()))
            .and_then(|image| {
                let mut bytes = vec![0; usize::try_from(image.disk_len()).unwrap()];
                image.read_guest(GuestOffset::ZERO, &mut bytes).map(|()| bytes)
            });
        run("fusermount", &["-u", "-z"]);
        let read = read.unwrap();
        assert_eq!(read.len(), plain.len(), "{kind}");
        assert!(read == plain, "{kind}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn laws_hold_for_disks_of_any_shape(
        len in 1_usize..2_000_000, seed: u64, block_bits in 9_u32..22, extra_bits in 0_u32..14, is_static: bool,
        shuffle: u64, leaks in 0_u32..3, spare_entries in 0_u32..200, mark_zeros: bool, short: bool,
        align in prop::sample::select(vec![1_u32, 512, 4096, 1 << 20]),
    ) {
        let bytes = content(len, seed);
        let built = VdiBuilder {
            image_type: if is_static { 2 } else { 1 },
            header_size: if short { 384 } else { 400 },
            block_size: 1 << block_bits,
            // Extra bytes of none, or a power of two from 2 on.
            block_extra: if extra_bits == 0 { 0 } else { 1 << extra_bits },
            shuffle, leaks, spare_entries, mark_zeros, align,
            ..VdiBuilder::default()
        }.build(&bytes);
        check_disk(strict(&built.bytes).unwrap().as_ref(), &bytes);
    }

    #[test]
    fn laws_hold_for_differencing_disks_over_any_parent(
        len in 1_usize..1_000_000, parent_len in 1_usize..1_000_000, seed: u64, block_bits in 9_u32..20,
        undo: bool,
    ) {
        let (old, new) = (content(parent_len, seed), content(len, seed ^ 1));
        let below = VdiBuilder::default();
        let block_size = 1_usize << block_bits;
        // Of each three blocks one is the parent's, one is zeros, one is the child's own.
        let entry = |block: usize| [Some(FREE), Some(ZERO), None][(block + seed as usize % 3) % 3];
        let child = VdiBuilder {
            image_type: if undo { 3 } else { 4 },
            block_size: block_size as u32,
            shuffle: seed,
            ..VdiBuilder::child_of(&below)
        }.build_with(&new, &entry);
        let mut expected = new.clone();
        for (block, bytes) in expected.chunks_mut(block_size).enumerate() {
            if entry(block).is_some() {
                bytes.fill(0);
            }
            if entry(block) == Some(FREE) {
                let from = old.get(block * block_size..).unwrap_or_default();
                let have = from.len().min(bytes.len());
                bytes[..have].copy_from_slice(&from[..have]);
            }
        }
        let image = open(&child.bytes, &with_parent(PARENT, &below.build(&old))).unwrap();
        check_disk(image.as_ref(), &expected);
    }
}

#[test]
fn free_and_zero_blocks_are_runs_and_data_is_verbatim_behind_its_extra_bytes() {
    let size = 64 * 1024;
    let mut bytes = vec![0; 6 * size];
    bytes[3 * size + 5] = 7;
    let built = VdiBuilder { block_extra: 512, ..VdiBuilder::default() }.build_with(&bytes, &|block| {
        [Some(FREE), Some(FREE), Some(FREE), None, Some(ZERO), Some(ZERO)][block]
    });
    let image = strict(&built.bytes).unwrap();
    let kinds: Vec<_> = kiln_disk::extents(image.as_ref(), NonZeroU64::MAX)
        .map(|extent| extent.map(|extent| (extent.len.get(), extent.kind)).unwrap())
        .collect();
    let at = FileOffset::new(built.data_at as u64 + 512);
    let size = size as u64;
    assert_eq!(
        kinds,
        [
            (3 * size, ExtentKind::Hole),
            (size, ExtentKind::Data { file: 0, at }),
            (2 * size, ExtentKind::Zero)
        ]
    );
}

#[test]
fn a_child_is_never_read_without_its_parent_and_asks_for_it_by_its_id() {
    let below = VdiBuilder::default();
    let built = VdiBuilder::child_of(&below)
        .build_with(&[5; 3 * 65_536], &|block| [None, Some(FREE), Some(ZERO)][block]);
    assert_eq!(strict(&built.bytes).err().unwrap().code(), "reference.denied");

    let image =
        open(&built.bytes, &OpenContext { tolerance: Tolerance::Damaged, ..OpenContext::new() }).unwrap();
    let facts = image.facts();
    assert_eq!(
        (facts.format, facts.variant.as_str(), facts.unit_bytes),
        ("vdi", "differencing", Some(65_536))
    );
    let reference = &facts.references[0];
    assert_eq!((reference.role, reference.name.as_str()), (ExternalRole::Parent, PARENT));
    assert_eq!(reference.at, FileOffset::new(0x1a8));
    let detail = |name| facts.details.iter().find(|detail| detail.name == name).map(|detail| &detail.value);
    assert_eq!(detail("uuid_linkage"), Some(&DetailValue::Text(PARENT.to_owned())));
    assert_eq!(detail("comment"), Some(&DetailValue::Text("a comment".to_owned())));
    let mut buf = [0; 512];
    image.read_guest(GuestOffset::new(65_536 - 512), &mut buf).expect("a block of its own");
    image.read_guest(GuestOffset::new(2 * 65_536), &mut buf).expect("a block of zeros");
    assert_eq!(image.read_guest(GuestOffset::new(65_536), &mut buf).unwrap_err().code(), "vdi.parent.absent");
    assert_eq!(
        image.extent_at(GuestOffset::new(65_536), NonZeroU64::MIN).unwrap_err().code(),
        "vdi.parent.absent"
    );
}

#[test]
fn another_disk_a_changed_one_and_another_format_are_no_parent() {
    let below = VdiBuilder::default();
    let built = VdiBuilder::child_of(&below).build_with(&[5; 65_536], &|_| Some(FREE));
    let attempt = |parent: &VdiBuilder| {
        let context = with_parent(PARENT, &parent.build(&[9; 65_536]));
        open(&built.bytes, &context).err().unwrap()
    };
    let mut stranger = below.clone();
    stranger.ids[0] = [7; 16];
    let error = attempt(&stranger);
    assert_eq!(
        error.problem(),
        Some(&VdiProblem::WrongParent {
            wanted: PARENT.to_owned(),
            found: "07070707-0707-0707-0707-070707070707".to_owned()
        })
    );
    assert_eq!(error.offset(), Some(FileOffset::new(0x1a8)));
    let mut changed = below.clone();
    changed.ids[1] = [8; 16];
    let error = attempt(&changed);
    assert_eq!((error.code(), error.offset()), ("vdi.parent.modified", Some(FileOffset::new(0x1b8))));

    let mut list = AllowList::default();
    let source = Arc::new(MemorySource::new(vec![0; 65_536]));
    list.allow(PARENT, Resolved { source, format: Some(&kiln_format::raw::FORMAT) });
    let context = OpenContext { resolver: Arc::new(list), ..OpenContext::new() };
    assert_eq!(open(&built.bytes, &context).err().unwrap().code(), "vdi.parent.format");

    // A state that was not recorded is not compared.
    let mut unrecorded = VdiBuilder::child_of(&below);
    unrecorded.ids[3] = [0; 16];
    let built = unrecorded.build_with(&[5; 65_536], &|_| Some(FREE));
    let image = open(&built.bytes, &with_parent(PARENT, &changed.build(&[9; 65_536]))).unwrap();
    check_disk(image.as_ref(), &[9; 65_536]);
}

#[test]
fn a_chain_that_is_a_loop_ends_at_its_depth() {
    let mut own = VdiBuilder::child_of(&VdiBuilder::default());
    own.ids = [*b"created-by-tests", [0; 16], *b"created-by-tests", [0; 16]];
    let built = own.build_with(&[5; 65_536], &|_| Some(FREE));
    assert_eq!(open(&built.bytes, &with_parent(PARENT, &built)).err().unwrap().code(), "budget.depth");
}

#[test]
fn a_base_disk_that_names_a_parent_and_a_child_that_names_none_are_refused() {
    let mut base = VdiBuilder::default();
    base.ids[2] = [3; 16];
    let error = strict(&base.build(&[1; 4096]).bytes).err().unwrap();
    assert_eq!((error.code(), error.offset()), ("vdi.header.linked-base", Some(FileOffset::new(0x1a8))));
    let orphan = VdiBuilder { image_type: 4, ..VdiBuilder::default() };
    assert_eq!(strict(&orphan.build(&[1; 4096]).bytes).err().unwrap().code(), "vdi.parent.unnamed");
}

#[test]
fn the_version_before_1_1_is_named() {
    let mut built = VdiBuilder::default().build(&[1; 4096]);
    built.patch_u32(0x44, 2);
    let error = strict(&built.bytes).err().unwrap();
    assert_eq!(error.code(), "vdi.version");
    assert_eq!(error.to_string(), "VDI version 0.2 is not supported");
}
