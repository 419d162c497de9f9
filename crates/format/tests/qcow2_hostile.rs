//! Images made to hurt: every one is refused or reported by its exact code, and no other file is asked for.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kiln_disk::{Budget, Cost, Error, GuestOffset, Limits, MemorySource, Silent};
use kiln_format::qcow2::Qcow2Problem;
use kiln_format::{
    CheckScope, DenyAll, ExternalRef, Image, OpenContext, Resolved, Resolver, Tolerance, by_name,
};
use kiln_testkit::laws::Random;
use kiln_testkit::qcow2::{Built, Cell, Codec, SnapshotSpec, Spec, build};

#[path = "../fuzz/src/qcow2.rs"]
mod exercise;

/// Denies, and remembers what it was asked for.
#[derive(Default)]
struct Watch {
    names: Mutex<Vec<String>>,
    asked: AtomicUsize,
}

impl Resolver for Watch {
    fn resolve(&self, reference: &ExternalRef) -> kiln_disk::Result<Resolved> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.names.lock().unwrap().push(reference.name.clone());
        DenyAll.resolve(reference)
    }
}

fn open_as(
    bytes: &[u8],
    tolerance: Tolerance,
    limits: Limits,
) -> (kiln_disk::Result<Box<dyn Image>>, Arc<Watch>) {
    let watch = Arc::new(Watch::default());
    let context = OpenContext {
        resolver: Arc::clone(&watch) as _,
        budget: Arc::new(Budget::new(limits)),
        tolerance,
        ..OpenContext::new()
    };
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    ((by_name("qcow2").unwrap().open)(source, &context), watch)
}

/// The refusal of a strict open; no other file may have been asked for.
fn refusal(bytes: &[u8]) -> Error {
    let (answer, watch) = open_as(bytes, Tolerance::Strict, Limits::STANDARD);
    assert_eq!(watch.asked.load(Ordering::Relaxed), 0, "another file was asked for");
    answer.err().expect("a refusal")
}

/// The codes that a check of whatever can be opened finds.
fn findings(bytes: &[u8]) -> Vec<&'static str> {
    let (answer, watch) = open_as(bytes, Tolerance::Damaged, Limits::STANDARD);
    let findings = answer.unwrap().check(CheckScope::Data, &Silent).unwrap();
    assert_eq!(watch.asked.load(Ordering::Relaxed), 0, "another file was asked for");
    findings.counts().iter().map(|(id, _)| *id).collect()
}

fn sample() -> Built {
    let cells = vec![Cell::Data(1), Cell::Packed(2), Cell::Packed(3), Cell::Zero, Cell::Hole, Cell::Data(4)];
    build(&Spec::new(12, cells))
}

fn with_snapshots(count: usize) -> Built {
    let mut spec = Spec::new(12, vec![Cell::Data(1)]);
    spec.snapshots = (0..count)
        .map(|n| SnapshotSpec {
            id: format!("{n}"),
            name: format!("snap {n}"),
            disk_len: 4096,
            cells: vec![Cell::Data(n as u64)],
        })
        .collect();
    build(&spec)
}

#[test]
fn t_fmt_01_02_08_every_bad_header_field_has_its_code() {
    let built = sample();
    let cases: &[(&str, u64, &[u8], &str)] = &[
        ("magic", 0, b"QFI\xfa", "qcow2.header.magic"),
        ("version 1", 4, &1_u32.to_be_bytes(), "qcow2.version"),
        ("version 4", 4, &4_u32.to_be_bytes(), "qcow2.version"),
        ("cluster_bits 0", 20, &0_u32.to_be_bytes(), "qcow2.header.cluster-bits"),
        ("cluster_bits 8", 20, &8_u32.to_be_bytes(), "qcow2.header.cluster-bits"),
        ("cluster_bits 22", 20, &22_u32.to_be_bytes(), "qcow2.header.cluster-bits"),
        ("cluster_bits 63", 20, &63_u32.to_be_bytes(), "qcow2.header.cluster-bits"),
        ("cluster_bits 64", 20, &64_u32.to_be_bytes(), "qcow2.header.cluster-bits"),
        ("cluster_bits max", 20, &u32::MAX.to_be_bytes(), "qcow2.header.cluster-bits"),
        ("size max", 24, &u64::MAX.to_be_bytes(), "qcow2.l1.too-small"),
        ("AES", 32, &1_u32.to_be_bytes(), "qcow2.encryption-aes"),
        ("LUKS", 32, &2_u32.to_be_bytes(), "qcow2.encryption-luks"),
        ("crypt_method 3", 32, &3_u32.to_be_bytes(), "qcow2.header.crypt-method"),
        ("l1_size 0", 36, &0_u32.to_be_bytes(), "qcow2.l1.too-small"),
        ("l1_size max", 36, &u32::MAX.to_be_bytes(), "qcow2.l1.too-large"),
        ("l1_size i32::MAX", 36, &0x7fff_ffff_u32.to_be_bytes(), "qcow2.l1.too-large"),
        ("l1 offset far", 40, &0x7fff_ffff_ffff_0000_u64.to_be_bytes(), "qcow2.l1.past-end"),
        ("l1 offset max", 40, &(u64::MAX << 12).to_be_bytes(), "qcow2.l1.past-end"),
        ("l1 offset odd", 40, &0x1234_u64.to_be_bytes(), "qcow2.l1.unaligned"),
        (
            "refcount offset odd",
            48,
            &0x1234_5678_90ab_cdef_u64.to_be_bytes(),
            "qcow2.refcount-table.unaligned",
        ),
        (
            "refcount offset far",
            48,
            &0xffff_ffff_ffff_0000_u64.to_be_bytes(),
            "qcow2.refcount-table.past-end",
        ),
        ("refcount clusters max", 56, &u32::MAX.to_be_bytes(), "qcow2.refcount-table.too-large"),
        ("refcount clusters 0x20001", 56, &0x2_0001_u32.to_be_bytes(), "qcow2.refcount-table.too-large"),
        ("nb_snapshots max", 60, &u32::MAX.to_be_bytes(), "qcow2.snapshots.too-many"),
        ("nb_snapshots i32::MAX", 60, &0x7fff_ffff_u32.to_be_bytes(), "qcow2.snapshots.too-many"),
        ("nb_snapshots 65536", 60, &0x1_0000_u32.to_be_bytes(), "qcow2.snapshots.past-end"),
        ("refcount_order 7", 96, &7_u32.to_be_bytes(), "qcow2.header.refcount-order"),
        ("refcount_order 64", 96, &64_u32.to_be_bytes(), "qcow2.header.refcount-order"),
        ("refcount_order max", 96, &u32::MAX.to_be_bytes(), "qcow2.header.refcount-order"),
        ("header_length 0", 100, &0_u32.to_be_bytes(), "qcow2.header.length"),
        ("header_length 103", 100, &103_u32.to_be_bytes(), "qcow2.header.length"),
        ("header_length 105", 100, &105_u32.to_be_bytes(), "qcow2.header.length"),
        ("header_length max", 100, &u32::MAX.to_be_bytes(), "qcow2.header.length"),
        ("header_length i32::MAX", 100, &0x7fff_ffff_u32.to_be_bytes(), "qcow2.header.length"),
        ("compression without its bit", 104, &[1], "qcow2.header.compression-type"),
        ("compression bit without type", 72, &8_u64.to_be_bytes(), "qcow2.header.compression-type"),
        ("raw bit alone", 88, &2_u64.to_be_bytes(), "qcow2.data-file.raw-bit"),
        ("bitmaps bit alone", 88, &1_u64.to_be_bytes(), "qcow2.bitmaps.absent"),
        ("extended L2 in 4 KiB", 72, &16_u64.to_be_bytes(), "qcow2.header.cluster-bits"),
        ("extension too long", 112, &[1, 2, 3, 4, 0x7f, 0xff, 0xff, 0xff], "qcow2.extension.past-end"),
    ];
    for (name, at, bytes, code) in cases {
        assert_eq!(refusal(&built.patched(*at, bytes)).code(), *code, "{name}");
    }
}

#[test]
fn t_fmt_08_every_value_of_the_shift_fields_is_judged() {
    let built = sample();
    for value in 0..=255_u32 {
        for (at, good) in [(20, 9..=21), (96, 0..=6)] {
            let (answer, _) =
                open_as(&built.patched(at, &value.to_be_bytes()), Tolerance::Damaged, Limits::INSPECT);
            match answer {
                Ok(_) => assert!(good.contains(&value), "{value} at {at}"),
                Err(error) => assert!(!good.contains(&value) || at == 20, "{value} at {at}: {error}"),
            }
        }
    }
}

#[test]
fn an_error_says_where_and_what() {
    let built = sample();
    let error = refusal(&built.patched(40, &0x7fff_ffff_ffff_0000_u64.to_be_bytes()));
    assert_eq!(error.offset(), Some(kiln_disk::FileOffset::new(40)));
    let Some(Qcow2Problem::TablePastEnd { start, file_len, .. }) = error.problem() else {
        panic!("{error:?}")
    };
    assert_eq!((*start, *file_len), (0x7fff_ffff_ffff_0000, built.bytes.len() as u64));
    assert!(error.hint().unwrap().contains("checksum"));
}

#[test]
fn t_ext_01_hostile_backing_names_are_handed_to_the_resolver_and_refused() {
    let long = "x".repeat(1023);
    for name in [
        "/etc/shadow",
        "../../etc/shadow",
        "base",
        "file:/etc/shadow",
        "nbd://localhost/x",
        "/dev/sda",
        "json:{\"driver\":\"file\",\"filename\":\"/etc/shadow\"}",
        "/proc/self/environ",
        "a\0b",
        &long,
    ] {
        let mut spec = Spec::new(12, vec![Cell::Hole]);
        spec.backing = Some((name.to_owned(), Some("raw".to_owned())));
        let (answer, watch) = open_as(&build(&spec).bytes, Tolerance::Strict, Limits::STANDARD);
        assert_eq!(answer.err().unwrap().code(), "reference.denied");
        assert_eq!(*watch.names.lock().unwrap(), [name]);
    }
}

#[test]
fn t_ext_01_backing_names_in_impossible_places_are_malformed() {
    let mut spec = Spec::new(12, vec![Cell::Hole]);
    spec.backing = Some(("base".to_owned(), Some("raw".to_owned())));
    let built = build(&spec);
    for (at, bytes, code) in [
        (16, &0_u32.to_be_bytes()[..], "qcow2.backing.name-empty"),
        (16, &1024_u32.to_be_bytes(), "qcow2.backing.name-long"),
        (16, &u32::MAX.to_be_bytes(), "qcow2.backing.name-long"),
        (8, &8_u64.to_be_bytes(), "qcow2.backing.name-place"),
        (8, &4094_u64.to_be_bytes(), "qcow2.backing.name-place"),
        (8, &u64::MAX.to_be_bytes(), "qcow2.backing.name-place"),
    ] {
        assert_eq!(refusal(&built.patched(at, bytes)).code(), code);
    }
}

#[test]
fn t_ext_03_data_file_bits_never_open_anything() {
    for (name, raw_bit) in [("", 0), ("/etc/shadow", 0), ("", 2), ("/etc/shadow", 2)] {
        let mut spec = Spec::new(12, vec![Cell::Data(1)]);
        spec.data_file = Some(name.to_owned());
        spec.autoclear = raw_bit;
        let bytes = build(&spec).bytes;
        let (answer, watch) = open_as(&bytes, Tolerance::Strict, Limits::STANDARD);
        assert_eq!(answer.err().unwrap().code(), "reference.denied");
        assert_eq!(*watch.names.lock().unwrap(), [name]);
        let (answer, _) = open_as(&bytes, Tolerance::Damaged, Limits::STANDARD);
        let error = answer.unwrap().read_guest(GuestOffset::ZERO, &mut [0; 512]).unwrap_err();
        assert_eq!(error.code(), "reference.denied");
    }
}

#[test]
fn t_ext_03_every_unknown_incompatible_bit_is_refused_by_name() {
    for bit in 5..64_u32 {
        let mut spec = Spec::new(12, vec![Cell::Data(1)]);
        spec.incompatible = 1 << bit;
        let mut row = vec![0; 48];
        row[1] = bit as u8;
        row[2..2 + 9].copy_from_slice(b"time warp");
        spec.extensions = vec![(0x6803_f857, row)];
        let error = refusal(&build(&spec).bytes);
        assert_eq!(error.code(), "qcow2.feature-unknown");
        assert!(error.to_string().contains(&format!("bit {bit} (time warp)")), "{error}");
    }
}

#[test]
fn t_dos_08_snapshot_counts_around_the_real_one_are_read_or_refused() {
    let built = with_snapshots(3);
    for count in 0..=3_u32 {
        let (answer, _) =
            open_as(&built.patched(60, &count.to_be_bytes()), Tolerance::Strict, Limits::STANDARD);
        assert_eq!(answer.unwrap().facts().snapshots.len(), count as usize);
    }
    // The fourth entry is the zeros behind the third.
    assert_eq!(refusal(&built.patched(60, &4_u32.to_be_bytes())).code(), "qcow2.snapshots.extra-short");
    assert_eq!(refusal(&built.patched(60, &u32::MAX.to_be_bytes())).code(), "qcow2.snapshots.too-many");
}

#[test]
fn t_fmt_02_snapshot_tables_in_impossible_places_are_reported() {
    let built = with_snapshots(1);
    let entry = built.snapshot_table;
    for (at, bytes, code) in [
        (64, &0x1234_u64.to_be_bytes()[..], "qcow2.snapshots.unaligned"),
        (64, &(1_u64 << 62).to_be_bytes(), "qcow2.snapshots.past-end"),
        (entry, &0x40_0200_u64.to_be_bytes(), "qcow2.snapshot.l1-unaligned"),
        (entry, &(1_u64 << 40).to_be_bytes(), "qcow2.snapshot.l1-past-end"),
        (entry + 8, &0x1000_0000_u32.to_be_bytes(), "qcow2.snapshot.l1-too-large"),
        (entry + 8, &0_u32.to_be_bytes(), "qcow2.l1.too-small"),
        (entry + 36, &1025_u32.to_be_bytes(), "qcow2.snapshots.entry"),
        (entry + 36, &8_u32.to_be_bytes(), "qcow2.snapshots.extra-short"),
        (entry + 12, &[0xff; 4], "qcow2.snapshots.past-end"),
    ] {
        let codes = findings(&built.patched(at, bytes));
        assert!(codes.contains(&code), "{code} in {codes:?}");
    }
}

#[test]
fn t_fmt_02_bad_table_entries_are_refused_on_reading_and_reported_with_their_guest_bytes() {
    let built = sample();
    let l2 = built.l2[0];
    for (at, entry, code) in [
        (built.l1, 0x7fff_ffff_ffff_0000_u64, "qcow2.l1.reserved-bits"),
        (built.l1, 0x00ff_ffff_ffff_0000, "qcow2.l2.past-end"),
        (built.l1, 0x200, "qcow2.l2.unaligned"),
        (l2, 0xbfff_ffff_ffff_0000, "qcow2.l2.reserved-bits"),
        (l2, 0x80ff_ffff_ffff_0000, "qcow2.data.past-end"),
        (l2, 1 << 63 | 0x1200, "qcow2.data.unaligned"),
        (l2, 1 << 63, "qcow2.data.at-zero"),
        (l2, 1 << 62 | 1 << 55, "qcow2.data.past-end"),
    ] {
        let bytes = built.patched(at, &entry.to_be_bytes());
        let (answer, _) = open_as(&bytes, Tolerance::Strict, Limits::STANDARD);
        let error = answer.and_then(|image| image.read_guest(GuestOffset::ZERO, &mut [0; 512])).unwrap_err();
        assert_eq!(error.code(), code, "{entry:#x}");
        let (answer, _) = open_as(&bytes, Tolerance::Damaged, Limits::STANDARD);
        let found = answer.unwrap().check(CheckScope::Data, &Silent).unwrap();
        let finding = found.list().iter().find(|finding| finding.check.id == code).unwrap();
        assert_eq!(finding.guest.unwrap().start, GuestOffset::ZERO, "{code}");
        assert!(finding.file_at.is_some() && found.fails());
    }
}

#[test]
fn every_truncation_is_noticed() {
    let built = sample();
    for len in (0..built.bytes.len()).step_by(509) {
        let bytes = &built.bytes[..len];
        let (answer, _) = open_as(bytes, Tolerance::Damaged, Limits::INSPECT);
        match answer {
            Err(error) => assert!(error.code().starts_with("qcow2."), "{error}"),
            Ok(image) => assert!(image.check(CheckScope::Data, &Silent).unwrap().fails(), "cut to {len}"),
        }
    }
}

#[test]
fn t_fmt_07_every_pair_of_structures_on_one_place_is_an_overlap() {
    let mut spec = Spec::new(12, vec![Cell::Data(1), Cell::Packed(2), Cell::Data(3)]);
    spec.snapshots = vec![SnapshotSpec {
        id: "1".to_owned(),
        name: "one".to_owned(),
        disk_len: 4096,
        cells: vec![Cell::Data(9)],
    }];
    let built = build(&spec);
    let snapshot_l1 =
        u64::from_be_bytes(built.bytes[built.snapshot_table as usize..][..8].try_into().unwrap());
    // Where each structure's place is written, and where it is.
    let structures = [
        ("L1", 40, built.l1, 0),
        ("refcount table", 48, built.refcount_table, 0),
        ("snapshot table", 64, built.snapshot_table, 0),
        ("snapshot L1", built.snapshot_table, snapshot_l1, 0),
        ("refcount block", built.refcount_table, built.refcount_blocks[0], 0),
        ("L2", built.l1, built.l2[0], 1 << 63),
        ("data", built.l2[0], built.data[0], 1 << 63),
    ];
    for (name, field, place, flag) in structures {
        for (other_name, _, other, _) in structures {
            if place == other {
                continue;
            }
            let bytes = built.patched(field, &(other | flag).to_be_bytes());
            let codes = findings(&bytes);
            assert!(!codes.is_empty(), "{name} on {other_name}");
            // A structure read from another's bytes is mostly wrong in other ways too.
            let (answer, _) = open_as(&bytes, Tolerance::Damaged, Limits::INSPECT);
            let found = answer.unwrap().check(CheckScope::Data, &Silent).unwrap();
            assert!(found.fails(), "{name} on {other_name}: {codes:?}");
        }
    }
    let data_on_l2 = built.patched(built.l2[0], &(built.l2[0] | 1 << 63).to_be_bytes());
    assert!(findings(&data_on_l2).contains(&"qcow2.overlap"));
    let block_on_header = built.patched(built.refcount_table, &(built.l1).to_be_bytes());
    assert!(findings(&block_on_header).contains(&"qcow2.overlap"));
}

/// A 12 MiB file: `tables` L2 tables shared by all L1 entries, every entry at one data cluster.
fn aliasing_bomb(share_tables: bool, packed: bool) -> Vec<u8> {
    let cell = if packed { Cell::Packed(7) } else { Cell::Data(7) };
    let built = build(&Spec::new(16, vec![cell]));
    let mut bytes = built.bytes.clone();
    let l2 = built.l2[0] as usize;
    let entry: [u8; 8] = bytes[l2..l2 + 8].try_into().unwrap();
    for slot in bytes[l2..l2 + 65_536].as_chunks_mut::<8>().0 {
        *slot = entry;
    }
    // 64 TiB: 131072 L1 entries of 1 MiB at the end; L2 tables behind, up to 12 MiB.
    let l1_at = bytes.len().next_multiple_of(65_536);
    bytes.resize(l1_at + (1 << 20), 0);
    let tables: Vec<u64> = if share_tables {
        vec![built.l2[0]]
    } else {
        (0..150)
            .map(|_| {
                let at = bytes.len();
                bytes.extend_from_within(l2..l2 + 65_536);
                at as u64
            })
            .collect()
    };
    bytes.resize(12 << 20, 0);
    let entries = if share_tables { 131_072 } else { tables.len() };
    for index in 0..entries {
        let entry = tables[index % tables.len()] | 1 << 63;
        bytes[l1_at + index * 8..][..8].copy_from_slice(&entry.to_be_bytes());
    }
    bytes[24..32].copy_from_slice(&(64_u64 << 40).to_be_bytes());
    bytes[36..40].copy_from_slice(&131_072_u32.to_be_bytes());
    bytes[40..48].copy_from_slice(&(l1_at as u64).to_be_bytes());
    bytes
}

#[test]
fn t_dos_06_an_aliasing_bomb_is_refused_at_once_and_reported_within_two_seconds() {
    for (share_tables, packed, strict, found) in [
        (true, false, "qcow2.l2.aliased", "qcow2.l2.aliased"),
        (true, true, "qcow2.l2.aliased", "qcow2.l2.aliased"),
        (false, false, "qcow2.data.aliased", "qcow2.data.aliased"),
        (false, true, "qcow2.data.aliased", "qcow2.data.aliased"),
    ] {
        let bytes = aliasing_bomb(share_tables, packed);
        let started = Instant::now();
        let (answer, _) = open_as(&bytes, Tolerance::Strict, Limits::STANDARD);
        let error = answer.and_then(|image| image.read_guest(GuestOffset::ZERO, &mut [0; 512])).unwrap_err();
        assert_eq!(error.code(), strict, "tables shared: {share_tables}, packed: {packed}");
        let codes = findings(&bytes);
        assert!(codes.contains(&found), "{codes:?}");
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    }
}

#[test]
fn t_dos_07_a_64_tib_disk_is_opened_and_walked_under_the_limits_of_inspect() {
    let mut bytes = build(&Spec::new(16, vec![Cell::Data(1)])).bytes;
    let l1_at = bytes.len().next_multiple_of(65_536);
    bytes.resize(l1_at + (1 << 20), 0);
    bytes[24..32].copy_from_slice(&(64_u64 << 40).to_be_bytes());
    bytes[36..40].copy_from_slice(&131_072_u32.to_be_bytes());
    bytes[40..48].copy_from_slice(&(l1_at as u64).to_be_bytes());
    let started = Instant::now();
    let (answer, _) = open_as(&bytes, Tolerance::Strict, Limits::INSPECT);
    let image = answer.unwrap();
    assert_eq!(kiln_disk::extents(image.as_ref(), std::num::NonZeroU64::MAX).count(), 1);
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn damaged_compressed_data_is_named_with_its_guest_cluster() {
    let built = sample();
    let bytes = built.patched(built.data[1], &[0xff; 16]);
    let (answer, _) = open_as(&bytes, Tolerance::Strict, Limits::STANDARD);
    let image = answer.unwrap();
    let error = image.read_guest(GuestOffset::new(4096), &mut [0; 100]).unwrap_err();
    assert_eq!(error.code(), "qcow2.compressed.bad");
    let found = image.check(CheckScope::Data, &Silent).unwrap();
    assert_eq!(found.counts(), [("qcow2.compressed.bad", 1)]);
    assert_eq!(found.list()[0].guest.unwrap().start, GuestOffset::new(4096));
    assert_eq!(image.check(CheckScope::Metadata, &Silent).unwrap().counts(), []);
}

#[test]
fn wrong_refcounts_and_flags_are_told_apart() {
    let built = sample();
    let block = built.refcount_blocks[0];
    let cluster = built.data[0] / 4096;
    let low = built.patched(block + cluster * 2, &0_u16.to_be_bytes());
    assert_eq!(findings(&low), ["qcow2.refcount.low"]);
    let high = built.patched(block + cluster * 2, &2_u16.to_be_bytes());
    assert_eq!(findings(&high), ["qcow2.refcount.high"]);
    let unused = build(&Spec::new(12, vec![Cell::Data(1), Cell::Hole]));
    let leak = unused.patched(unused.l2[0], &0_u64.to_be_bytes());
    assert_eq!(findings(&leak), ["qcow2.refcount.leak"]);
    let flag = built.patched(built.l2[0], &built.data[0].to_be_bytes());
    assert_eq!(findings(&flag), ["qcow2.l2.copied-flag"]);
    let flag = built.patched(built.l1, &built.l2[0].to_be_bytes());
    assert_eq!(findings(&flag), ["qcow2.l1.copied-flag"]);
}

/// A source that fails from its n-th read on.
struct Failing {
    inner: MemorySource,
    left: AtomicUsize,
}

impl kiln_disk::ByteSource for Failing {
    fn byte_len(&self) -> u64 {
        self.inner.byte_len()
    }

    fn read_bytes(&self, at: kiln_disk::FileOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
        let spent = self.left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match spent {
            Ok(_) => self.inner.read_bytes(at, buf),
            Err(_) => Err(Error::io("read", "planted fault", std::io::Error::other("EIO"))),
        }
    }

    fn label(&self) -> &str {
        "failing"
    }
}

#[test]
fn t_fmt_03_a_read_error_at_any_step_is_that_error_and_gives_back_all_memory() {
    let built = with_snapshots(2);
    let mut finished = false;
    for reads in 0..200 {
        let budget = Arc::new(Budget::new(Limits { memory: 16 << 20, ..Limits::STANDARD }));
        let context = OpenContext { budget: Arc::clone(&budget), ..OpenContext::new() };
        let source = Arc::new(Failing {
            inner: MemorySource::new(built.bytes.clone()),
            left: AtomicUsize::new(reads),
        });
        let answer = (by_name("qcow2").unwrap().open)(source, &context).and_then(|image| {
            image.read_guest(GuestOffset::ZERO, &mut [0; 4096])?;
            image.check(CheckScope::Data, &Silent)
        });
        drop(context);
        assert!(budget.charge(Cost::Memory, 16 << 20).is_ok(), "memory is held after read {reads}");
        match answer {
            Ok(findings) => {
                assert_eq!(findings.counts(), []);
                finished = true;
                break;
            }
            Err(error) => assert_eq!(error.code(), "io.failed", "read {reads}"),
        }
    }
    assert!(finished, "200 reads are enough for a small image");
}

#[test]
fn five_thousand_mutants_neither_panic_nor_hang_nor_hoard() {
    let mut extended = Spec::new(14, vec![Cell::Mixed(0xff, 0xff00, 1), Cell::Packed(2), Cell::Data(3)]);
    extended.extended = true;
    extended.codec = Codec::Zstd;
    let mut narrow = Spec::new(9, (0..80).map(Cell::Packed).collect());
    narrow.refcount_order = 1;
    let seeds = [sample(), with_snapshots(2), build(&extended), build(&narrow)];
    let interesting =
        [0_u64, 1, 0x7f, 0x80, 0xff, 0x1000, u64::MAX, 1 << 62, 1 << 63, u64::MAX >> 1, 0x2_0000];
    let mut random = Random(0x51c0_0002);
    let (mut slowest, mut opened) = (Duration::ZERO, 0);
    for case in 0..5000_u64 {
        let seed = &seeds[(case % 4) as usize];
        let mut bytes = seed.bytes.clone();
        for _ in 0..=random.below(4) {
            // Metadata is where a changed byte means something.
            let base = match random.below(8) {
                0..=2 => 0,
                3 => seed.l1,
                4 => seed.l2[0],
                5 => seed.refcount_table,
                6 => seed.refcount_blocks[0],
                _ => seed.snapshot_table,
            };
            let span = if base == 0 { 200 } else { 64 };
            let at = (base + random.below(span)) as usize;
            let width = 1 << random.below(4);
            let value = interesting[random.below(interesting.len() as u64) as usize] ^ random.below(2);
            let end = (at + width).min(bytes.len());
            let value = value.to_be_bytes();
            bytes[at..end].copy_from_slice(&value[8 - (end - at)..]);
        }
        if random.below(10) == 0 {
            bytes.truncate(random.below(bytes.len() as u64) as usize);
        }
        let started = Instant::now();
        opened += u64::from(exercise::qcow2(&bytes));
        slowest = slowest.max(started.elapsed());
        assert!(slowest < Duration::from_secs(5), "case {case} took {slowest:?}");
    }
    // The mutations must get past the front door often enough to mean something.
    assert!((500..5000).contains(&opened), "{opened} of 5000 could be opened");
    let peak = kiln_testkit::oracle::peak_memory();
    assert!(peak < 256 << 20, "peak memory {peak}");
}

/// Small images for the fuzzer to start from, by name.
fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let cells = || vec![Cell::Data(1), Cell::Packed(2), Cell::Zero, Cell::Hole, Cell::ZeroAllocated];
    let mut old = Spec::new(9, cells());
    old.version = 2;
    let mut narrow = Spec::new(9, cells());
    narrow.refcount_order = 0;
    narrow.codec = Codec::Zstd;
    let mut backed = Spec::new(9, cells());
    // As qcow2 it would be its own backing file for ever, which no open survives.
    backed.backing = Some(("base".to_owned(), Some("raw".to_owned())));
    let mut external = Spec::new(9, vec![Cell::Data(1), Cell::Zero]);
    external.data_file = Some("base".to_owned());
    let mut snapshot = Spec::new(9, cells());
    snapshot.snapshots = vec![SnapshotSpec {
        id: "1".to_owned(),
        name: "one".to_owned(),
        disk_len: 1024,
        cells: vec![Cell::Packed(3), Cell::Data(4)],
    }];
    let mut extended = Spec::new(14, vec![Cell::Mixed(5, 10, 1)]);
    extended.extended = true;
    [
        ("v2", old),
        ("zstd", narrow),
        ("backing", backed),
        ("data-file", external),
        ("snapshot", snapshot),
        ("subclusters", extended),
    ]
    .map(|(name, spec)| (name, build(&spec).bytes))
    .into()
}

fn corpus_dir() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/qcow2")
}

#[test]
#[ignore = "writes the seed corpus of the fuzz target"]
fn write_the_seed_corpus() {
    std::fs::create_dir_all(corpus_dir()).unwrap();
    for (name, bytes) in corpus() {
        std::fs::write(corpus_dir().join(name), bytes).unwrap();
    }
}

#[test]
fn the_seed_corpus_of_the_fuzz_target_opens_and_is_harmless() {
    // Bytes of compressed data change with the library that made them, so only what they open as is compared.
    for (name, _) in corpus() {
        let bytes = std::fs::read(corpus_dir().join(name)).unwrap();
        assert!(exercise::qcow2(&bytes), "{name}");
    }
    for entry in std::fs::read_dir(corpus_dir()).unwrap() {
        exercise::qcow2(&std::fs::read(entry.unwrap().path()).unwrap());
    }
}
