//! Appliances whose disks are compressed by themselves (`ovf:compression`): read through the wrapper, the manifest
//! compared with what is stored, and no more unpacked than the disk can be.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use kiln_disk::{ByteSource, Findings, MemorySource, Result, Silent};
use kiln_format::{CheckScope, Choice, Image, OpenContext, Scratch, check, open};
use kiln_testkit::laws::check_disk;
use kiln_testkit::ova::{OvaBuilder, manifest_line, pack};
use kiln_testkit::vhd::VhdBuilder;
use kiln_testkit::wrap::packed;

const BLOCK: usize = 64 * 1024;

fn content() -> Vec<u8> {
    let mut bytes = vec![0; 6 * BLOCK];
    for block in [0, 2, 3] {
        bytes[block * BLOCK + 600..][..5000]
            .iter_mut()
            .enumerate()
            .for_each(|(n, byte)| *byte = (n % 250) as u8);
    }
    bytes
}

fn vhd() -> Vec<u8> {
    VhdBuilder { block_size: BLOCK as u32, ..VhdBuilder::default() }.dynamic(&content()).bytes
}

/// An appliance with this file as its disk.
fn appliance(name: &str, file: Vec<u8>, attributes: &str) -> OvaBuilder {
    let mut builder = OvaBuilder::default().disk(name, file, content().len() as u64);
    builder.disks[0].file_attributes += attributes;
    builder
}

fn gzipped() -> OvaBuilder {
    appliance("box-disk1.vhd.gz", packed("gzip", &vhd()), " ovf:compression=\"gzip\"")
}

/// Room for parts; the directory lives as long as the value.
struct Room(tempfile::TempDir, Arc<Scratch>);

impl Room {
    fn new(max_len: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(dir.path().to_owned(), max_len, 1, Arc::new(AtomicBool::new(false)));
        Self(dir, Arc::new(scratch))
    }

    fn context(&self) -> OpenContext {
        OpenContext { scratch: Some(Arc::clone(&self.1)), ..OpenContext::new() }
    }
}

fn source(bytes: &[u8]) -> Arc<dyn ByteSource> {
    Arc::new(MemorySource::new(bytes.to_vec()))
}

fn opened(bytes: &[u8], room: &Room) -> Result<Box<dyn Image>> {
    open(source(bytes), Choice::Detect, &room.context())
}

fn findings(bytes: &[u8]) -> Findings {
    let room = Room::new(1 << 30);
    check(source(bytes), Choice::Detect, &room.context(), CheckScope::Data, &Silent).unwrap().findings
}

#[track_caller]
fn code(bytes: &[u8]) -> &'static str {
    let error = opened(bytes, &Room::new(1 << 30)).err().expect("a refusal");
    assert!(error.hint().is_some(), "{error} has no hint");
    error.code()
}

#[test]
fn a_gzipped_disk_is_the_disk_and_its_manifest_is_of_what_is_stored() {
    let bytes = gzipped().build();
    let room = Room::new(1 << 30);
    let image = opened(&bytes, &room).unwrap();
    check_disk(image.as_ref(), &content());
    let words = format!("{:?}", image.facts().details);
    assert!(words.contains("gzip > vhd, dynamic"), "{words}");
    assert_eq!(findings(&bytes).counts(), []);
    // A second look at the same file unpacks nothing again.
    let before = room.1.bytes();
    assert_eq!(before, vhd().len() as u64);
    opened(&bytes, &room).unwrap();
    assert_eq!(room.1.bytes(), before);
    assert_eq!(std::fs::read_dir(room.0.path()).unwrap().count(), 0, "no name is left");
}

#[test]
fn what_a_disk_is_in_is_found_by_its_content() {
    for id in ["xz", "zstd", "bzip2"] {
        let bytes = appliance("d.vhd", packed(id, &vhd()), " ovf:compression=\"gzip\"").build();
        check_disk(opened(&bytes, &Room::new(1 << 30)).unwrap().as_ref(), &content());
    }
    let undeclared = appliance("d.vhd", packed("gzip", &vhd()), "").build();
    check_disk(opened(&undeclared, &Room::new(1 << 30)).unwrap().as_ref(), &content());
    // Said to be compressed and not: somebody else would read another disk.
    assert_eq!(code(&appliance("d.vhd", vhd(), " ovf:compression=\"gzip\"").build()), "ova.compression");
    // Nowhere to unpack it.
    let error = open(source(&gzipped().build()), Choice::Detect, &OpenContext::new()).err().unwrap();
    assert_eq!(error.code(), "ova.compression");
}

#[test]
fn pieces_of_a_compressed_file_are_put_together_first() {
    let whole = packed("gzip", &vhd());
    let chunk = 1000;
    let mut builder = gzipped();
    builder.disks[0].file_attributes =
        format!("ovf:size=\"{}\" ovf:chunkSize=\"{chunk}\" ovf:compression=\"gzip\"", whole.len());
    let mut files = builder.files();
    files.truncate(2);
    files.extend(
        whole.chunks(chunk).enumerate().map(|(n, part)| (format!("box-disk1.vhd.gz.{n:09}"), part.to_vec())),
    );
    let sums: String = files
        .iter()
        .filter(|(name, _)| name != "box.mf")
        .map(|(name, bytes)| manifest_line(name, bytes))
        .collect();
    files[1].1 = sums.into_bytes();
    let bytes = pack(&files);
    check_disk(opened(&bytes, &Room::new(1 << 30)).unwrap().as_ref(), &content());
    assert_eq!(findings(&bytes).counts(), []);
}

#[test]
fn a_manifest_that_is_of_the_unpacked_disk_differs() {
    let mut files = gzipped().files();
    let wrong = manifest_line("box-disk1.vhd.gz", &vhd());
    files[1].1 = (manifest_line("box.ovf", &files[0].1) + &wrong).into_bytes();
    assert_eq!(findings(&pack(&files)).counts(), [("ova.mf.differs", 1)]);
}

#[test]
fn a_bomb_is_stopped_a_little_behind_the_capacity_of_its_disk() {
    let mut large = vhd();
    large.resize(80 << 20, 7);
    let bytes = appliance("d.vhd.gz", packed("gzip", &large), " ovf:compression=\"gzip\"").build();
    assert!(bytes.len() < 1 << 20, "{}", bytes.len());
    assert_eq!(code(&bytes), "wrap.too-long");
    // Who allows less gets less.
    let error = opened(&gzipped().build(), &Room::new(1000)).err().unwrap();
    assert_eq!(error.code(), "wrap.too-long");
}

#[test]
fn damage_in_the_wrapper_is_told_at_its_place() {
    let good = packed("gzip", &vhd());
    let cut = good[..good.len() / 2].to_vec();
    let mut flipped = good.clone();
    let end = flipped.len();
    flipped[end - 6] ^= 1;
    for bad in [cut, flipped] {
        let bytes = appliance("d.vhd.gz", bad, " ovf:compression=\"gzip\"").build();
        let code = code(&bytes);
        assert!(code.starts_with("wrap."), "{code}");
        let found = findings(&bytes);
        assert!(found.fails(), "{found:?}");
    }
}

#[test]
fn wrappers_and_appliances_inside_are_refused() {
    let mut packed_four = vhd();
    for _ in 0..4 {
        packed_four = packed("gzip", &packed_four);
    }
    assert_eq!(code(&appliance("d.gz", packed_four, " ovf:compression=\"gzip\"").build()), "wrap.depth");
    let inner = gzipped().build();
    let code = code(&appliance("d.gz", packed("gzip", &inner), " ovf:compression=\"gzip\"").build());
    assert_eq!(code, "ova.nested");
}

#[test]
fn a_wish_to_stop_is_heard_while_a_disk_is_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Scratch::new(dir.path().to_owned(), 1 << 30, 1, Arc::new(AtomicBool::new(true)));
    let context = OpenContext { scratch: Some(Arc::new(scratch)), ..OpenContext::new() };
    let error = open(source(&gzipped().build()), Choice::Detect, &context).err().unwrap();
    assert_eq!(error.code(), "cancelled");
}

#[test]
fn mutants_are_the_same_disk_or_an_error() {
    let good = gzipped().build();
    let mut random = kiln_testkit::laws::Random(0x9a_0f);
    let mut opens = 0;
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(2) {
            let at = random.below(bytes.len() as u64) as usize;
            bytes[at] ^= 1 << random.below(8);
        }
        let Ok(image) = opened(&bytes, &Room::new(1 << 24)) else { continue };
        let mut read = vec![0; image.disk_len() as usize];
        // Other bytes can only come from a change outside the checksum of gzip.
        if image.read_guest(kiln_disk::GuestOffset::ZERO, &mut read).is_ok() {
            assert_eq!(read, content());
            opens += 1;
        }
    }
    assert!(opens > 0);
}
