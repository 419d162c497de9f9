//! Everything that is done with the partition table of a disk from a stranger. Shared by the fuzz target and the
//! test suite.

use std::sync::Arc;

use kiln_disk::{Disk, GuestOffset, MemorySource};
use kiln_format::layout::{Gpt, Layout};
use kiln_format::{Choice, OpenContext, open};

/// Looks at the bytes as a disk and moves its table, when it has a whole one. Answers whether it had.
pub(crate) fn gpt(bytes: &[u8]) -> bool {
    let source = Arc::new(MemorySource::new(bytes.to_vec()));
    let Ok(image) = open(source, Choice::AsRaw, &OpenContext::new()) else { return false };
    let _ = Layout::read(image.as_ref()).expect("memory is readable");
    let Ok(Some(table)) = Gpt::read(image.as_ref()) else { return false };
    let least = table.least_len().max(image.disk_len());
    assert!(least <= image.disk_len() + (64 << 20), "a table that needs {least} bytes");
    let len = (least + (1 << 20)).next_multiple_of(table.sector_bytes());
    let grown = table.grown(image.as_ref(), len).expect("there is room");
    // The result is a whole table itself, with its backup at the end.
    let again = Gpt::read(&grown).expect("what was moved is whole").expect("and is a table");
    assert_eq!(again.alternate_lba(), len / table.sector_bytes() - 1);
    let mut last = [0; 8];
    grown
        .read_guest(GuestOffset::new(again.alternate_lba() * table.sector_bytes()), &mut last)
        .expect("it is there");
    assert_eq!(&last, b"EFI PART");
    true
}

/// Puts the checksum of a header right, and with it those of the entries, so that changes get past them.
pub(crate) fn reseal(bytes: &mut [u8]) {
    let Some(header) = bytes.get(512..604) else { return };
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
    let (at, count, size) = (word(72) as usize * 512, word(80) as usize, word(84) as usize);
    let entries = count.checked_mul(size).and_then(|len| bytes.get(at..at.checked_add(len)?)).map(crc);
    if let Some(sum) = entries {
        bytes[600..604].copy_from_slice(&sum.to_le_bytes());
    }
    bytes[512..520].copy_from_slice(b"EFI PART");
    bytes[524..528].copy_from_slice(&92_u32.to_le_bytes());
    bytes[528..532].fill(0);
    let sum = crc(&bytes[512..604]);
    bytes[528..532].copy_from_slice(&sum.to_le_bytes());
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes.iter().take(1 << 20) {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1));
        }
    }
    !crc
}
