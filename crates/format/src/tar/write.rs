//! Headers of new archives.

use kiln_disk::{Error, Result};

use super::header::{BLOCK, Block};

/// A numeric field of twelve bytes: eleven octal digits, or base 256 where those do not do.
fn number(value: u64) -> [u8; 12] {
    const LARGEST_OCTAL: u64 = 0o77_777_777_777;
    let mut field = [0; 12];
    if value > LARGEST_OCTAL {
        if let Some((flag, digits)) = field.split_first_mut() {
            *flag = 0x80;
            if let Some(low) = digits.last_chunk_mut::<8>() {
                *low = value.to_be_bytes();
            }
        }
    } else if let Some(digits) = field.first_chunk_mut::<11>() {
        put(digits, 0, format!("{value:011o}").as_bytes());
    }
    field
}

/// Puts bytes at a place inside.
fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    let end = at.saturating_add(bytes.len());
    if let Some(field) = block.get_mut(at..end) {
        field.copy_from_slice(bytes);
    }
}

/// The header of a file in POSIX form: owned by root, readable by all, of no time, so that the same files give the
/// same archive.
///
/// # Errors
/// [`Error::Refused`] (`tar.create.name`) for a name of more than 100 bytes.
pub fn file_header(name: &str, size: u64) -> Result<Block> {
    if name.len() > 100 {
        return Err(Error::Refused {
            code: "tar.create.name",
            what: "bytes in the name of a member".to_owned(),
            asked: u64::try_from(name.len()).unwrap_or(u64::MAX),
            allowed: 100,
            hint: "choose a shorter name",
        });
    }
    let mut block = [0; BLOCK];
    put(&mut block, 0, name.as_bytes());
    put(&mut block, 100, b"0000644\0");
    put(&mut block, 108, b"0000000\0");
    put(&mut block, 116, b"0000000\0");
    put(&mut block, 124, &number(size));
    put(&mut block, 136, b"00000000000\0");
    put(&mut block, 156, b"0");
    put(&mut block, 257, b"ustar\x0000");
    put(&mut block, 329, b"0000000\0");
    put(&mut block, 337, b"0000000\0");
    seal(&mut block);
    Ok(block)
}

/// Puts the checksum in.
fn seal(block: &mut Block) {
    put(block, 148, b"        ");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).fold(0, u32::saturating_add);
    put(block, 148, format!("{sum:06o}\0 ").as_bytes());
}

/// A run of stored bytes of a sparse file: where it begins, and its length.
pub(super) type Run = (u64, u64);

/// The blocks before the data of a sparse file of `len` bytes in GNU's old form (GNU tar manual, "Storing Sparse
/// Files", `struct oldgnu_header`): four runs in the header, 21 in each block behind it. The last run of a file
/// that ends with a hole is empty and at its end, as GNU tar has it.
///
/// # Errors
/// As [`file_header`].
pub(super) fn sparse_header(name: &str, len: u64, runs: &[Run]) -> Result<Vec<u8>> {
    const IN_HEADER: usize = 4;
    const IN_BLOCK: usize = 21;
    let stored = runs.iter().map(|(_, len)| *len).fold(0, u64::saturating_add);
    let ends_in_hole = runs.last().is_none_or(|(start, run)| start.saturating_add(*run) < len);
    let mut runs = runs.to_vec();
    runs.extend(ends_in_hole.then_some((len, 0)));
    let mut block = file_header(name, stored)?;
    put(&mut block, 156, b"S");
    put(&mut block, 257, b"ustar  \0");
    put(&mut block, 329, &[0; 16]);
    let (first, rest) = runs.split_at_checked(IN_HEADER).unwrap_or((&runs, &[]));
    put(&mut block, 386, &entries(first));
    put(&mut block, 482, &[u8::from(!rest.is_empty())]);
    put(&mut block, 483, &number(len));
    seal(&mut block);
    let mut bytes = block.to_vec();
    let mut blocks = rest.chunks(IN_BLOCK).peekable();
    while let Some(runs) = blocks.next() {
        let mut block = [0; BLOCK];
        put(&mut block, 0, &entries(runs));
        put(&mut block, 504, &[u8::from(blocks.peek().is_some())]);
        bytes.extend(block);
    }
    Ok(bytes)
}

fn entries(runs: &[Run]) -> Vec<u8> {
    runs.iter().flat_map(|(start, len)| [number(*start), number(*len)].concat()).collect()
}
