//! A streamOptimized VMDK read front to back: the same disk as by its tables, or an error.

use std::num::NonZeroU64;
use std::sync::Arc;

use kiln_disk::digest::{ContentDigest, HashJob, hash_disk};
use kiln_disk::{Disk, Error, ExtentKind, GuestOffset, MemorySource, Result, Silent};
use kiln_format::OpenContext;
use kiln_format::vmdk::{FORMAT, VmdkProblem};
use kiln_format::wrap::{Arriving, ByteStream, Wrapped};
use kiln_testkit::laws::Random;
use kiln_testkit::vmdk::VmdkBuilder;

/// Bytes that come in pieces of at most `step`.
struct Pieces {
    bytes: Vec<u8>,
    at: usize,
    step: usize,
}

impl ByteStream for Pieces {
    fn read_some(&mut self, buf: &mut [u8]) -> Result<usize> {
        let len = self.step.min(buf.len()).min(self.bytes.len() - self.at);
        buf[..len].copy_from_slice(&self.bytes[self.at..self.at + len]);
        self.at += len;
        Ok(len)
    }
}

fn arriving(bytes: &[u8], step: usize) -> Result<Option<(Wrapped, u64)>> {
    let stream = Box::new(Pieces { bytes: bytes.to_vec(), at: 0, step });
    let file = Arriving { stream, label: "x".to_owned(), byte_len: None, ends: None };
    let wrapped = Wrapped::arriving(file, 1)?;
    Ok(wrapped.streamed().map(|facts| facts.disk_bytes).map(|len| (wrapped, len)))
}

/// The disk by its markers; `None` when it is not read in this way.
fn streamed(bytes: &[u8], step: usize) -> Result<Option<ContentDigest>> {
    let Some((wrapped, len)) = arriving(bytes, step)? else { return Ok(None) };
    let disk = wrapped.into_disk(len)?;
    let digests = hash_disk(&disk, HashJob { threads: 2, ..HashJob::default() }, &Silent);
    // Only at the end are markers and tables compared.
    disk.finish()?;
    Ok(Some(digests?.content))
}

/// The disk by its tables.
fn tabled(bytes: &[u8]) -> Result<ContentDigest> {
    let image = (FORMAT.open)(Arc::new(MemorySource::new(bytes.to_vec())), &OpenContext::new())?;
    let disk: &dyn Disk = image.as_ref();
    Ok(hash_disk(disk, HashJob { threads: 1, ..HashJob::default() }, &Silent)?.content)
}

/// 5 MiB and a bit, with zeros between.
fn content() -> Vec<u8> {
    let mut bytes = vec![0; (5 << 20) + 1536];
    let mut random = Random(7);
    for start in [0, 70_000, 1 << 20, (3 << 20) - 100, (5 << 20) + 512] {
        for byte in &mut bytes[start..start + 1000] {
            *byte = random.below(256) as u8;
        }
    }
    bytes
}

fn problem(error: &Error) -> &VmdkProblem {
    error.problem().unwrap_or_else(|| panic!("{error:?}"))
}

#[test]
fn a_stream_gives_the_disk_that_its_tables_give() {
    for builder in [
        VmdkBuilder::stream(),
        VmdkBuilder { short_last: true, ..VmdkBuilder::stream() },
        VmdkBuilder { entries: 8, ..VmdkBuilder::stream() },
        VmdkBuilder { grain: 16, zeroed: true, ..VmdkBuilder::stream() },
    ] {
        let built = builder.build(&content());
        let expected = tabled(&built.bytes).unwrap();
        for step in [1 << 20, 4096, 777] {
            assert_eq!(streamed(&built.bytes, step).unwrap(), Some(expected));
        }
        let mut padded = built.bytes;
        padded.resize(padded.len() + 100_000, 0);
        assert_eq!(streamed(&padded, 65_536).unwrap(), Some(expected));
    }
}

#[test]
fn what_is_better_read_by_its_tables_is_not_taken_for_a_stream() {
    for builder in [
        VmdkBuilder::default(),
        VmdkBuilder { directory: kiln_testkit::vmdk::Directory::InFront, ..VmdkBuilder::stream() },
        VmdkBuilder { markers: false, ..VmdkBuilder::stream() },
        VmdkBuilder { descriptor: None, ..VmdkBuilder::stream() },
        VmdkBuilder {
            descriptor: Some("# Disk DescriptorFile\nversion=1\n".to_owned()),
            ..VmdkBuilder::stream()
        },
    ] {
        assert!(arriving(&builder.build(&content()).bytes, 4096).unwrap().is_none());
    }
}

#[test]
fn grains_out_of_order_are_left_to_a_reader_of_tables() {
    let built = VmdkBuilder { shuffle: 3, ..VmdkBuilder::stream() }.build(&content());
    tabled(&built.bytes).unwrap();
    assert_eq!(streamed(&built.bytes, 4096).unwrap_err().code(), "stream.layout");
}

#[test]
fn tables_that_tell_of_another_disk_are_refused() {
    let built = VmdkBuilder::stream().build(&content());
    let sector = |at: usize| u32::try_from(at / 512).unwrap();
    let mut grains: Vec<usize> = built.grains.keys().copied().collect();
    grains.sort_unstable();
    let (first, second) = (grains[0], grains[1]);
    // A grain that the tables leave out, one that they give another place, a table that is not there.
    let mut hidden = built.clone();
    hidden.patch_entry(first, 0);
    let mut swapped = built.clone();
    swapped
        .patch_entry(first, sector(built.grains[&second]))
        .patch_entry(second, sector(built.grains[&first]));
    let mut lost = built.clone();
    lost.patch_table(0, 0);
    for (forged, grain) in [(hidden, first), (swapped, first), (lost, first)] {
        let error = streamed(&forged.bytes, 4096).unwrap_err();
        assert_eq!(problem(&error), &VmdkProblem::StreamDiffers { grain: grain as u64 });
        assert_eq!(error.code(), "vmdk.stream.differs");
        assert!(error.hint().is_some());
    }
    let mut other = built.clone();
    other.patch(built.footer_at + 12, &9_u64.to_le_bytes());
    assert_eq!(streamed(&other.bytes, 4096).unwrap_err().code(), "vmdk.footer.differs");
    let mut behind = built;
    behind.bytes.extend(vec![1; 512]);
    assert_eq!(streamed(&behind.bytes, 4096).unwrap_err().code(), "vmdk.footer.missing");
}

#[test]
fn a_cut_anywhere_is_an_error() {
    let built = VmdkBuilder::stream().build(&content());
    // The last sector is the end-of-stream marker.
    for len in
        (70_000..built.bytes.len()).step_by(997).chain([built.bytes.len() - 1, built.bytes.len() - 512])
    {
        let error = streamed(&built.bytes[..len], 4096).unwrap_err();
        assert_eq!(error.code(), "vmdk.footer.missing", "{len}: {error:?}");
    }
}

#[test]
fn mutants_give_the_same_disk_as_by_their_tables_or_an_error() {
    let built = VmdkBuilder { entries: 8, ..VmdkBuilder::stream() }.build(&content());
    let mut random = Random(11);
    let (mut refused, mut same) = (0, 0);
    for _ in 0..3000 {
        let mut bytes = built.bytes.clone();
        for _ in 0..=random.below(2) {
            let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
            // Half of them where the structures are.
            let at = if random.below(2) == 0 { at } else { at / 512 * 512 + at % 20 };
            bytes[at] ^= 1 << random.below(8);
        }
        match (streamed(&bytes, 65_536), tabled(&bytes)) {
            (Ok(Some(one)), Ok(other)) => {
                assert_eq!(one, other);
                same += 1;
            }
            // A flipped bit in padding may matter to one reader only; two answers never differ.
            (Err(_) | Ok(_), _) => refused += 1,
        }
    }
    assert!(refused > 100 && same > 100, "{refused} {same}");
}

#[test]
fn half_a_terabyte_of_nothing_is_passed_over() {
    // Capacity of header, footer and descriptor set to 512 GiB: 8 Mi grains, a directory of 16 Ki entries.
    let sectors = 1_u64 << 30;
    let text = kiln_testkit::vmdk::descriptor(
        "streamOptimized",
        1,
        None,
        &[format!("RW {sectors} SPARSE \"disk.vmdk\"")],
    );
    let mut built = VmdkBuilder { descriptor: Some(text), ..VmdkBuilder::stream() }.build(&[0; 512]);
    built.patch_headers(12, &sectors.to_le_bytes());
    let (wrapped, len) = arriving(&built.bytes, 4096).unwrap().unwrap();
    assert_eq!(len, sectors * 512);
    let disk = wrapped.into_disk(len).unwrap();
    // The directory of one entry is no directory of such a disk.
    let extent = disk.extent_at(GuestOffset::ZERO, NonZeroU64::MAX);
    assert!(matches!(extent, Err(ref error) if error.code() == "stream.layout"), "{extent:?}");
    drop(disk);
    let built = VmdkBuilder::stream().build(&vec![0; 300 << 20]);
    let (wrapped, len) = arriving(&built.bytes, 4096).unwrap().unwrap();
    let disk = wrapped.into_disk(len).unwrap();
    let extent = disk.extent_at(GuestOffset::ZERO, NonZeroU64::MAX).unwrap();
    disk.finish().unwrap();
    assert_eq!(extent.kind, ExtentKind::Zero);
}
