//! The archive format "newc": a header of 110 hexadecimal characters, the name, the bytes, all padded to four
//! (Linux `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::io::{BufRead, Read};

/// A name is shorter than this (`PATH_MAX`).
const MAX_NAME: u64 = 4096;

/// A file of an archive. Given once without its bytes, and once more with them when they are wanted.
#[derive(Debug)]
pub struct Member<'a> {
    /// Its name, as written.
    pub name: &'a str,
    /// Its length.
    pub len: u64,
    /// Its bytes, the second time.
    pub text: Option<Vec<u8>>,
}

/// What may still be read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) bytes: u64,
    pub(super) members: u64,
    pub(super) texts: u64,
}

/// What is wrong with an archive; places count from its first byte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpioFault {
    /// No "070701" or "070702" where a header belongs.
    #[error("no cpio header after {members} files")]
    Magic {
        /// Files before it.
        members: u64,
    },
    /// A field is not hexadecimal.
    #[error("a cpio header whose fields are no numbers")]
    Field,
    /// A name longer than a path may be, or of no length.
    #[error("a cpio name of {len} bytes")]
    Name {
        /// The field.
        len: u64,
    },
    /// The limits are reached.
    #[error("more files or bytes than an initramfs has")]
    TooMuch,
    /// The data end before the trailer.
    #[error("it ends after {members} files, without its trailer")]
    Cut {
        /// Files before the end.
        members: u64,
    },
}

/// Reads one archive up to its trailer.
pub(super) fn read(
    input: &mut impl BufRead,
    limits: &mut Limits,
    take: &mut dyn FnMut(&Member<'_>) -> bool,
) -> Result<(), String> {
    let mut members = 0_u64;
    loop {
        let mut header = [0_u8; 110];
        exactly(input, &mut header, members)?;
        if !header.starts_with(b"070701") && !header.starts_with(b"070702") {
            return Err(CpioFault::Magic { members }.to_string());
        }
        let field = |index: usize| -> Result<u64, String> {
            let at = index.saturating_mul(8).saturating_add(6);
            let digits =
                header.get(at..at.saturating_add(8)).and_then(|digits| std::str::from_utf8(digits).ok());
            let number = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
            number.ok_or_else(|| CpioFault::Field.to_string())
        };
        let (len, name_len) = (field(6)?, field(11)?);
        if name_len == 0 || name_len > MAX_NAME {
            return Err(CpioFault::Name { len: name_len }.to_string());
        }
        let left = limits.bytes.checked_sub(len.saturating_add(name_len));
        limits.bytes = left.ok_or_else(|| CpioFault::TooMuch.to_string())?;
        let mut name = vec![0; usize::try_from(name_len).unwrap_or(0)];
        exactly(input, &mut name, members)?;
        // 110 and the name together end on a multiple of four.
        skip(input, padding(name_len.saturating_add(110)), members)?;
        let name = crate::text::label(&name);
        if name == "TRAILER!!!" {
            skip(input, len, members)?;
            return Ok(());
        }
        members = members.saturating_add(1);
        limits.members = limits.members.checked_sub(1).ok_or_else(|| CpioFault::TooMuch.to_string())?;
        let wanted = take(&Member { name: &name, len, text: None });
        if let Some(texts) = limits.texts.checked_sub(len).filter(|_| wanted) {
            limits.texts = texts;
            let mut text = vec![0; usize::try_from(len).unwrap_or(0)];
            exactly(input, &mut text, members)?;
            take(&Member { name: &name, len, text: Some(text) });
        } else {
            skip(input, len, members)?;
        }
        skip(input, padding(len), members)?;
    }
}

/// Bytes from `len` to the next multiple of four.
fn padding(len: u64) -> u64 {
    len.wrapping_neg() & 3
}

fn exactly(input: &mut impl Read, buf: &mut [u8], members: u64) -> Result<(), String> {
    input.read_exact(buf).map_err(|error| end(&error, members))
}

fn skip(input: &mut impl BufRead, len: u64, members: u64) -> Result<(), String> {
    let mut left = len;
    while left > 0 {
        let held = input.fill_buf().map_err(|error| end(&error, members))?;
        if held.is_empty() {
            return Err(CpioFault::Cut { members }.to_string());
        }
        let step = held.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        input.consume(step);
        left = left.saturating_sub(u64::try_from(step).unwrap_or(left));
    }
    Ok(())
}

fn end(error: &std::io::Error, members: u64) -> String {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => CpioFault::Cut { members }.to_string(),
        _ => format!("{error} (after {members} files)"),
    }
}
