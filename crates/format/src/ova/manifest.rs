//! The manifest of an appliance: DSP0243 (OVF 1.1) section 5.1, and the dialects that programs write.

use kiln_disk::digest::{Algorithm, Digest};

/// The longest manifest, in bytes.
pub(super) const MAX_LEN: u64 = 1 << 20;

/// One line of a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestLine {
    /// The name as written, without a leading `./`.
    pub name: String,
    /// The digest.
    pub digest: Digest,
    /// Counted from 1.
    pub line: u64,
    /// First byte of the line in the manifest.
    pub at: u64,
    /// Whether it is spelled as all programs read it: `SHA256(name)= hex`.
    pub usual: bool,
}

/// A manifest as read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Its lines.
    pub lines: Vec<ManifestLine>,
    /// Number and first byte of lines that are none.
    pub odd: Vec<(u64, u64)>,
}

impl Manifest {
    /// Reads a manifest. What is no line of one is counted, not refused: the check tells.
    ///
    /// Taken are `SHA256(name)= hex` with any spaces, upper or lower case, `SHA2-256`, and the lines of `sha256sum`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut manifest = Self::default();
        let mut at = 0_u64;
        let bytes = match bytes.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) => {
                at = 3;
                rest
            }
            None => bytes,
        };
        for (index, raw) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let line = u64::try_from(index).unwrap_or(u64::MAX).saturating_add(1);
            let start = at;
            at = at.saturating_add(u64::try_from(raw.len()).unwrap_or(0));
            let text = std::str::from_utf8(raw).map(|text| text.trim_end_matches(['\r', '\n', '\0', ' ']));
            match text {
                Ok("") => {}
                Ok(text) => match named(text).or_else(|| summed(text)) {
                    Some((name, digest, usual)) => {
                        let name = name.strip_prefix("./").unwrap_or(name).to_owned();
                        manifest.lines.push(ManifestLine { name, digest, line, at: start, usual });
                    }
                    None => manifest.odd.push((line, start)),
                },
                Err(_) => manifest.odd.push((line, start)),
            }
        }
        manifest
    }

    /// The hash functions used, each once, in order of first use.
    #[must_use]
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let mut all = Vec::new();
        for line in &self.lines {
            if !all.contains(&line.digest.algorithm()) {
                all.push(line.digest.algorithm());
            }
        }
        all
    }

    /// The lines for a file.
    pub fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ManifestLine> {
        self.lines.iter().filter(move |line| line.name == name)
    }
}

/// `SHA256(name)= hex`.
fn named(line: &str) -> Option<(&str, Digest, bool)> {
    let (word, rest) = line.split_once('(')?;
    // A name may hold parentheses: the last one ends it.
    let (name, hex) = rest.rsplit_once(')')?;
    let digits = hex.trim_start().strip_prefix('=')?.trim();
    let algorithm = match word.trim().to_ascii_uppercase().as_str() {
        "SHA1" | "SHA-1" => Algorithm::Sha1,
        "SHA256" | "SHA-256" | "SHA2-256" => Algorithm::Sha256,
        "SHA512" | "SHA-512" | "SHA2-512" => Algorithm::Sha512,
        "MD5" => Algorithm::Md5,
        _ => return None,
    };
    let digest = Digest::parse_hex(digits).ok().filter(|digest| digest.algorithm() == algorithm)?;
    let usual = matches!(word, "SHA1" | "SHA256" | "SHA512") && hex == format!("= {}", digest.hex());
    (!name.is_empty()).then_some((name, digest, usual))
}

/// `hex  name`, as `sha256sum` writes it.
fn summed(line: &str) -> Option<(&str, Digest, bool)> {
    let (hex, name) = line.split_once(' ')?;
    let digest = Digest::parse_hex(hex).ok()?;
    let name = name.strip_prefix([' ', '*']).unwrap_or(name);
    (!name.is_empty()).then_some((name, digest, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_every_dialect_are_read() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for (line, usual) in [
            (format!("SHA256(a (1).ovf)= {hex}"), true),
            (format!("SHA256(a (1).ovf)= {hex}\r"), true),
            (format!("SHA256 (a (1).ovf) = {hex}"), false),
            (format!("SHA256 (a (1).ovf)= {hex}"), false),
            (format!("SHA256(a (1).ovf)={hex}"), false),
            (format!("SHA2-256(a (1).ovf)= {hex}"), false),
            (format!("sha256(./a (1).ovf)= {}", hex.to_uppercase()), false),
            (format!("{hex}  a (1).ovf"), false),
            (format!("{hex} *a (1).ovf"), false),
        ] {
            let manifest = Manifest::parse(line.as_bytes());
            assert_eq!(manifest.lines.len(), 1, "{line}");
            let read = &manifest.lines[0];
            assert_eq!((read.name.as_str(), read.usual), ("a (1).ovf", usual), "{line}");
            assert_eq!(read.digest.hex(), hex);
        }
    }

    #[test]
    fn what_is_no_line_is_counted_with_its_place() {
        let text = "\u{feff}\nSHA256(a)= 00\nSHA3(a)= 00\n\r\nhello\nSHA1(b)= a9993e364706816aba3e25717850c26c9cd0d89d\n";
        let manifest = Manifest::parse(text.as_bytes());
        assert_eq!(manifest.odd, [(2, 4), (3, 18), (5, 32)]);
        assert_eq!((manifest.lines[0].line, manifest.lines[0].at), (6, 38));
        assert_eq!(manifest.algorithms(), [Algorithm::Sha1]);
        assert_eq!(Manifest::parse(b"\xff\n").odd, [(1, 0)]);
        assert_eq!(Manifest::parse(b""), Manifest::default());
    }
}
