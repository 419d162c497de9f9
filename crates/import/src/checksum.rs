//! Vendors' checksums: a digest on the command line, or a file that lists some.
//!
//! Three forms of line are understood: `<hex>  NAME` and `<hex> *NAME` (GNU coreutils, with its leading backslash
//! for names that it escapes), `SHA256 (NAME) = <hex>` (BSD, Fedora's CHECKSUM; OpenSSL's spelling without the
//! space too), and a file whose only line is one digest. Everything else in the file - comments, the armour of a
//! clear-signed message - is passed over. Names are compared by their last component.

use std::path::Path;

use kiln_catalog::Checksum;
use kiln_disk::digest::{Algorithm, Digest};
use kiln_disk::{ByteSource, FileOffset, FileSource};

use crate::error::{Refusal, Result};
use crate::fetch::{FetchError, FetchProblem, Url};

/// What the user knows about the file's digest.
#[derive(Debug, Clone, Default)]
pub enum Expect {
    /// Nothing.
    #[default]
    Nothing,
    /// This digest.
    Digest(Digest),
    /// What this checksum file lists.
    List(std::path::PathBuf),
    /// What the checksum file at this place lists.
    ListAt(crate::signature::Place),
    /// What a checksum file lists that was read already.
    Text {
        /// Its name in messages.
        list: String,
        /// What is in it.
        text: String,
    },
}

/// One line of a checksum file that speaks of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The line, counted from 1.
    pub line: u64,
    /// The digest.
    pub digest: Digest,
    /// The name as listed, with its folders; none in a file that is one digest alone.
    pub name: Option<String>,
}

/// A digest that the file must have, and where that is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// It.
    pub digest: Digest,
    /// Base name and line of the checksum file; none for the command line.
    pub listed: Option<(String, u64)>,
}

impl Expected {
    /// As the manifest records it once it is proved.
    #[must_use]
    pub fn record(&self) -> Checksum {
        match &self.listed {
            None => Checksum::Given { digest: self.digest.clone() },
            Some((file, line)) => {
                Checksum::Listed { digest: self.digest.clone(), file: file.clone(), line: *line }
            }
        }
    }
}

/// Checksum files of whole mirrors have some ten thousand lines.
pub(crate) const MAX_LIST: u64 = 16 << 20;

/// What `expect` says about the file of this name: strongest algorithm first, empty when nothing is expected.
///
/// # Errors
/// [`Refusal::NotListed`], [`Refusal::ListedTwice`], [`Refusal::ListTooLong`], [`Refusal::NoName`], I/O.
pub fn expected(expect: &Expect, file_name: Option<&str>) -> Result<Vec<Expected>> {
    match expect {
        Expect::Nothing => Ok(Vec::new()),
        Expect::Digest(digest) => Ok(vec![Expected { digest: digest.clone(), listed: None }]),
        Expect::List(path) => {
            let list = base_name(&path.display().to_string()).to_owned();
            let text = read_list(path)?;
            let file_name = file_name.ok_or_else(|| Refusal::NoName { list: list.clone() })?;
            lookup(&parse(&text), &list, file_name)
        }
        Expect::ListAt(place) => {
            let list = place.name();
            let text = place.read(&crate::fetch::FetchOptions::default(), MAX_LIST)?;
            let text = String::from_utf8_lossy(&text).into_owned();
            expected(&Expect::Text { list, text }, file_name)
        }
        Expect::Text { list, text } => {
            let file_name = file_name.ok_or_else(|| Refusal::NoName { list: list.clone() })?;
            lookup(&parse(text), list, file_name)
        }
    }
}

/// What the checksum file at `place` says about the file of this name. One on a server has to come by https: nothing
/// else proves it.
///
/// # Errors
/// As [`expected`]; [`crate::FetchProblem`].
pub fn expected_at(
    place: &crate::signature::Place,
    file_name: Option<&str>,
    options: &crate::fetch::FetchOptions,
) -> Result<Vec<Expected>> {
    let list = place.name();
    let text = match place {
        crate::signature::Place::File(path) => read_list(path)?,
        crate::signature::Place::Url(text) => {
            let url = Url::parse(text)?;
            if !url.is_https() {
                return Err(FetchError { url: url.shown(), problem: FetchProblem::Plain }.into());
            }
            String::from_utf8_lossy(&place.read(options, MAX_LIST)?).into_owned()
        }
    };
    expected(&Expect::Text { list, text }, file_name)
}

/// Finds a file in a list.
///
/// # Errors
/// [`Refusal::NotListed`], [`Refusal::ListedTwice`].
pub fn lookup(entries: &[Entry], list: &str, file_name: &str) -> Result<Vec<Expected>> {
    let wanted = base_name(file_name);
    let mut found: Vec<&Entry> = Vec::new();
    for entry in entries {
        if entry.name.as_deref().is_some_and(|name| base_name(name) != wanted) {
            continue;
        }
        match found.iter().find(|other| other.digest.algorithm() == entry.digest.algorithm()) {
            Some(other) if other.digest != entry.digest => {
                return Err(Refusal::ListedTwice {
                    list: list.to_owned(),
                    file: wanted.to_owned(),
                    algorithm: entry.digest.algorithm(),
                    first: other.line,
                    second: entry.line,
                }
                .into());
            }
            Some(_) => {}
            None => found.push(entry),
        }
    }
    if found.is_empty() {
        return Err(Refusal::NotListed { list: list.to_owned(), file: wanted.to_owned() }.into());
    }
    found.sort_by_key(|entry| std::cmp::Reverse(entry.digest.algorithm().digest_len()));
    Ok(found
        .into_iter()
        .map(|entry| Expected { digest: entry.digest.clone(), listed: Some((list.to_owned(), entry.line)) })
        .collect())
}

/// All lines of a checksum file that speak of a file.
#[must_use]
pub fn parse(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut bare = Vec::new();
    let mut other_lines = 0_usize;
    for (index, line) in text.lines().enumerate() {
        let number = u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1);
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((digest, name)) = gnu(line).or_else(|| bsd(line)) {
            entries.push(Entry { line: number, digest, name: Some(name) });
        } else if let Ok(digest) = Digest::parse_hex(line) {
            bare.push(Entry { line: number, digest, name: None });
        } else {
            other_lines += 1;
        }
    }
    if entries.is_empty() && bare.len() == 1 && other_lines == 0 {
        return bare;
    }
    entries
}

/// `<hex>  NAME`, `<hex> *NAME`, `\<hex>  ESCAPED`.
fn gnu(line: &str) -> Option<(Digest, String)> {
    let (escaped, line) = match line.strip_prefix('\\') {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (hex, rest) = line.split_once(' ')?;
    let name = rest.strip_prefix([' ', '*']).unwrap_or(rest);
    let digest = Digest::parse_hex(hex).ok()?;
    if name.is_empty() {
        return None;
    }
    let name = if escaped { unescape(name) } else { name.to_owned() };
    Some((digest, name))
}

/// `SHA256 (NAME) = <hex>`, `SHA2-256(NAME)= <hex>`.
fn bsd(line: &str) -> Option<(Digest, String)> {
    let (word, rest) = line.split_once('(')?;
    // A name may hold parentheses: the last one that fits ends it.
    let (name, hex) = rest.rsplit_once(')')?;
    let hex = hex.trim_start().strip_prefix('=')?.trim();
    let algorithm = match word.trim_end().to_ascii_uppercase().as_str() {
        "SHA256" | "SHA2-256" => Algorithm::Sha256,
        "SHA512" | "SHA2-512" => Algorithm::Sha512,
        "SHA1" => Algorithm::Sha1,
        "MD5" => Algorithm::Md5,
        _ => return None,
    };
    let digest = Digest::parse_hex(hex).ok().filter(|digest| digest.algorithm() == algorithm)?;
    (!name.is_empty()).then(|| (digest, name.to_owned()))
}

fn unescape(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut signs = name.chars();
    while let Some(sign) = signs.next() {
        match (sign, sign == '\\') {
            (_, true) => match signs.next() {
                Some('n') => plain.push('\n'),
                Some('r') => plain.push('\r'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            (sign, false) => plain.push(sign),
        }
    }
    plain
}

/// The part behind the last slash.
#[must_use]
pub fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

pub(crate) fn read_list(path: &Path) -> Result<String> {
    let source = FileSource::open(path)?;
    let len = source.byte_len();
    if len > MAX_LIST {
        let list = path.display().to_string();
        return Err(Refusal::ListTooLong { list, len, allowed: MAX_LIST }.into());
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    source.read_bytes(FileOffset::ZERO, &mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn found(text: &str, name: &str) -> Result<Vec<(String, u64)>> {
        let expected = lookup(&parse(text), "SUMS", name)?;
        Ok(expected.into_iter().map(|e| (e.digest.to_string(), e.listed.unwrap().1)).collect())
    }

    fn refusal(text: &str, name: &str) -> Refusal {
        match found(text, name) {
            Err(Error::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn gnu_lines_in_text_and_binary_mode_are_found_by_base_name() {
        let text = format!("{A}  a.raw\n{B} *images/b.raw\n");
        assert_eq!(found(&text, "/tmp/a.raw").unwrap(), [(format!("sha256:{A}"), 1)]);
        assert_eq!(found(&text, "b.raw").unwrap(), [(format!("sha256:{B}"), 2)]);
    }

    #[test]
    fn bsd_and_openssl_lines_name_their_algorithm() {
        let sha512 = "c".repeat(128);
        let md5 = "d".repeat(32);
        let text = format!(
            "# disk.qcow2: 5 bytes\nSHA256 (disk.qcow2) = {A}\nSHA2-512(disk.qcow2)= {sha512}\nMD5 (disk.qcow2) = {md5}\n"
        );
        assert_eq!(
            found(&text, "disk.qcow2").unwrap(),
            [(format!("sha512:{sha512}"), 3), (format!("sha256:{A}"), 2), (format!("md5:{md5}"), 4)]
        );
    }

    #[test]
    fn a_digest_of_the_wrong_length_for_its_word_is_no_entry() {
        assert_eq!(parse(&format!("SHA512 (x) = {A}\n")), []);
        assert_eq!(parse(&format!("SHA256 () = {A}\n")), []);
    }

    #[test]
    fn names_with_parentheses_spaces_and_escapes_are_kept() {
        assert_eq!(found(&format!("SHA256 (a (1).raw) = {A}"), "a (1).raw").unwrap()[0].1, 1);
        assert_eq!(found(&format!("{A}  a b.raw"), "a b.raw").unwrap()[0].1, 1);
        assert_eq!(found(&format!("\\{A}  a\\nb.raw"), "a\nb.raw").unwrap()[0].1, 1);
    }

    #[test]
    fn clear_signed_lists_and_windows_line_ends_are_read() {
        let text = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA256\r\n\r\n{A}  a.raw\r\n-----BEGIN PGP SIGNATURE-----\r\n\r\niQIz\r\n-----END PGP SIGNATURE-----\r\n"
        );
        assert_eq!(found(&text, "a.raw").unwrap(), [(format!("sha256:{A}"), 4)]);
    }

    #[test]
    fn a_file_of_one_digest_is_for_any_name_but_two_are_for_none() {
        assert_eq!(found(&format!("{A}\n"), "any").unwrap(), [(format!("sha256:{A}"), 1)]);
        assert_eq!(
            refusal(&format!("{A}\n{B}\n"), "any"),
            Refusal::NotListed { list: "SUMS".to_owned(), file: "any".to_owned() }
        );
        assert_eq!(refusal(&format!("{A}\nnot a digest\n"), "any").code(), "checksum.not-listed");
    }

    #[test]
    fn a_file_that_is_not_listed_is_refused_even_when_its_name_is_part_of_another() {
        let text = format!("{A}  my-a.raw\n{B}  a.raw.xz\n");
        assert_eq!(
            refusal(&text, "a.raw"),
            Refusal::NotListed { list: "SUMS".to_owned(), file: "a.raw".to_owned() }
        );
    }

    #[test]
    fn two_different_digests_for_one_name_are_refused_with_both_lines() {
        let text = format!("{A}  x/a.raw\n\n{B}  y/a.raw\n");
        assert_eq!(
            refusal(&text, "a.raw"),
            Refusal::ListedTwice {
                list: "SUMS".to_owned(),
                file: "a.raw".to_owned(),
                algorithm: Algorithm::Sha256,
                first: 1,
                second: 3
            }
        );
        assert_eq!(found(&format!("{A}  x/a.raw\n{A}  y/a.raw\n"), "a.raw").unwrap().len(), 1);
    }

    #[test]
    fn a_pipe_has_no_name_to_look_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("SHA256SUMS");
        std::fs::write(&path, format!("{A}  a\n")).unwrap();
        let error = expected(&Expect::List(path), None).unwrap_err();
        assert_eq!(error.code(), "checksum.no-name");
    }
}
