//! Pax extended headers: POSIX.1-2017 `pax` "pax Extended Header", and GNU tar's sparse keywords (its manual,
//! "Storing Sparse Files").

use kiln_disk::{Error, FileOffset, Result};

use super::problem::TarProblem;
use super::sparse::Entry;

/// What a pax header says about the member behind it. Keywords that do not decide what is where are passed over.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) sparse: Option<PaxSparse>,
}

/// GNU tar's sparse keywords, all three versions.
#[derive(Debug, Clone, Default)]
pub(super) struct PaxSparse {
    /// Version 1.0 keeps its map in the member's data.
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    /// `GNU.sparse.size` of 0.0 and 0.1, `GNU.sparse.realsize` of 1.0.
    pub(super) real_size: Option<u64>,
    pub(super) numblocks: Option<u64>,
    /// The map of 0.0 and 0.1.
    pub(super) map: Vec<Entry>,
    /// An offset of 0.0 that waits for its length.
    pending: Option<u64>,
}

/// A decimal number as the standard has it: digits.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    i64::try_from(value).is_ok().then_some(value)
}

/// One record, `length SP keyword=value LF`, cut off the front of `rest`.
fn record<'a>(rest: &mut &'a [u8]) -> std::result::Result<(&'a [u8], &'a [u8]), &'static str> {
    const LENGTH: &str = "has a length that is no number or does not end at a line feed";
    let space = rest.iter().take(20).position(|byte| *byte == b' ').ok_or(LENGTH)?;
    let len = rest.get(..space).and_then(decimal).and_then(|len| usize::try_from(len).ok()).ok_or(LENGTH)?;
    let whole = rest.get(..len).ok_or(LENGTH)?;
    let body = space.checked_add(1).and_then(|start| whole.get(start..)).ok_or(LENGTH)?;
    let body = body.strip_suffix(b"\n").ok_or(LENGTH)?;
    *rest = rest.get(len..).unwrap_or_default();
    let equals = body.iter().position(|byte| *byte == b'=').ok_or("has no equals sign")?;
    let (key, value) = body.split_at_checked(equals).ok_or(LENGTH)?;
    if key.is_empty() {
        return Err("has no keyword");
    }
    Ok((key, value.get(1..).unwrap_or_default()))
}

/// Puts a value where none is yet.
fn once<T>(slot: &mut Option<T>, value: Option<T>) -> std::result::Result<(), &'static str> {
    match (slot.is_some(), value) {
        (true, _) => Err("gives a value for the second time"),
        (false, None) => Err("has a value that cannot be used"),
        (false, value) => {
            *slot = value;
            Ok(())
        }
    }
}

/// A file name: neither empty nor with a NUL, at which C programs end it and others do not.
fn name(value: &[u8]) -> Option<Vec<u8>> {
    (!value.is_empty() && !value.contains(&0)).then(|| value.to_vec())
}

impl PaxSparse {
    fn take(&mut self, key: &[u8], value: &[u8]) -> std::result::Result<(), &'static str> {
        match key {
            b"GNU.sparse.major" => once(&mut self.major, decimal(value)),
            b"GNU.sparse.minor" => once(&mut self.minor, decimal(value)),
            b"GNU.sparse.name" => once(&mut self.name, name(value)),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => once(&mut self.real_size, decimal(value)),
            b"GNU.sparse.numblocks" => once(&mut self.numblocks, decimal(value)),
            b"GNU.sparse.offset" => once(&mut self.pending, decimal(value)),
            b"GNU.sparse.numbytes" => {
                let offset = self.pending.take().ok_or("has a sparse length without an offset")?;
                let len = decimal(value).ok_or("has a value that cannot be used")?;
                self.map.push(Entry { offset, len });
                Ok(())
            }
            b"GNU.sparse.map" => {
                if !self.map.is_empty() {
                    return Err("gives a value for the second time");
                }
                let mut numbers = value.split(|byte| *byte == b',').map(decimal);
                while let Some(offset) = numbers.next() {
                    match (offset, numbers.next().flatten()) {
                        (Some(offset), Some(len)) => self.map.push(Entry { offset, len }),
                        _ => return Err("has a sparse map that is no list of pairs of numbers"),
                    }
                }
                Ok(())
            }
            _ => Err("has a sparse keyword that is not known"),
        }
    }
}

impl Pax {
    /// Reads the payload of a header of type `x`, which stands at byte `at`.
    pub(super) fn parse(payload: &[u8], at: FileOffset) -> Result<Self> {
        let mut pax = Self::default();
        each(payload, at, |key, value| match key {
            b"path" => once(&mut pax.path, name(value)),
            b"linkpath" => once(&mut pax.link, name(value)),
            b"size" => once(&mut pax.size, decimal(value)),
            _ if key.starts_with(b"GNU.sparse.") => pax.sparse.get_or_insert_default().take(key, value),
            _ => Ok(()),
        })?;
        Ok(pax)
    }
}

/// Looks through the payload of a global header (type `g`) at byte `at`, which must not decide what is where.
pub(super) fn check_global(payload: &[u8], at: FileOffset) -> Result<()> {
    let mut bad = None;
    each(payload, at, |key, _| {
        if matches!(key, b"path" | b"linkpath" | b"size") || key.starts_with(b"GNU.sparse.") {
            bad.get_or_insert_with(|| String::from_utf8_lossy(key).into_owned());
        }
        Ok(())
    })?;
    match bad {
        None => Ok(()),
        Some(key) => Err(Error::malformed("global pax header", at, TarProblem::GlobalKey { key })),
    }
}

fn each(
    payload: &[u8],
    at: FileOffset,
    mut take: impl FnMut(&[u8], &[u8]) -> std::result::Result<(), &'static str>,
) -> Result<()> {
    let mut rest = payload;
    let mut count = 0_u64;
    while !rest.is_empty() {
        count = count.saturating_add(1);
        let read = payload.len().saturating_sub(rest.len());
        record(&mut rest).and_then(|(key, value)| take(key, value)).map_err(|what| {
            let place = at.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
            Error::malformed("pax header", place, TarProblem::Pax { record: count, what })
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(payload: &[u8]) -> (TarProblem, u64) {
        let error = Pax::parse(payload, FileOffset::new(512)).unwrap_err();
        (error.problem::<TarProblem>().unwrap().clone(), error.offset().unwrap().get())
    }

    #[test]
    fn records_are_read_with_their_line_feeds() {
        let pax = Pax::parse(b"12 path=a\nb\n10 size=9\n17 comment=x=y\nz\n", FileOffset::ZERO).unwrap();
        assert_eq!((pax.path.as_deref(), pax.size, pax.link), (Some(&b"a\nb"[..]), Some(9), None));
    }

    #[test]
    fn whatever_is_no_record_is_refused_at_its_place() {
        for payload in [
            &b"12 path=a"[..],
            b"99 path=a\n",
            b"x path=a\n",
            b"9 path=aa\n",
            b"9 path a\n",
            b"5 =a\n",
            b" path=a\n",
            b"\0\0\0",
            b"10 size=-\n\n",
            b"8 path=\n",
            b"11 path=\0a\n",
            b"29 size=99999999999999999999\n",
            b"00000000000000000000000010 size=9\n",
        ] {
            let (problem, at) = problem(payload);
            assert!(matches!(problem, TarProblem::Pax { record: 1, .. }), "{payload:?}: {problem}");
            assert_eq!(at, 512);
        }
        assert!(matches!(problem(b"10 size=9\n10 size=9\n"), (TarProblem::Pax { record: 2, .. }, 522)));
    }

    #[test]
    fn sparse_keywords_of_all_versions_are_read() {
        let lines = b"22 GNU.sparse.size=100\n23 GNU.sparse.offset=10\n24 GNU.sparse.numbytes=5\n";
        let sparse = Pax::parse(lines, FileOffset::ZERO);
        // Lengths that are off by one are no records.
        assert!(sparse.is_err());
        let lines = b"23 GNU.sparse.size=100\n24 GNU.sparse.offset=10\n25 GNU.sparse.numbytes=5\n";
        let sparse = Pax::parse(lines, FileOffset::ZERO).unwrap().sparse.unwrap();
        assert_eq!((sparse.real_size, sparse.map), (Some(100), vec![Entry { offset: 10, len: 5 }]));
        let sparse = Pax::parse(b"29 GNU.sparse.map=10,5,20,10\n", FileOffset::ZERO).unwrap().sparse.unwrap();
        assert_eq!(sparse.map, [Entry { offset: 10, len: 5 }, Entry { offset: 20, len: 10 }]);
        for bad in [&b"25 GNU.sparse.numbytes=5\n"[..], b"24 GNU.sparse.map=1,2,3\n", b"18 GNU.sparse.x=1\n"]
        {
            assert!(Pax::parse(bad, FileOffset::ZERO).is_err());
        }
    }
}
