//! ASCII armour (RFC 9580, section 6), as far as keys need it: gpgv reads only binary ones.

const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
const END: &str = "-----END PGP PUBLIC KEY BLOCK-----";

/// Whether a text carries its own signature (section 7).
pub(super) fn is_clear_signed(bytes: &[u8]) -> bool {
    let start = bytes.get(..4096).unwrap_or(bytes);
    String::from_utf8_lossy(start).lines().any(|line| line.trim_end() == "-----BEGIN PGP SIGNED MESSAGE-----")
}

/// The keys of all blocks in a text, or the bytes themselves when they are no text; `None` for damaged armour.
pub(super) fn keys(bytes: &[u8]) -> Option<Vec<u8>> {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains(BEGIN)) else {
        return Some(bytes.to_vec());
    };
    let mut keys = Vec::new();
    let mut lines = text.lines().map(str::trim_end);
    while let Some(line) = lines.next() {
        if line != BEGIN {
            continue;
        }
        let mut digits = String::new();
        let mut in_headers = true;
        loop {
            let line = lines.next()?;
            if line == END {
                break;
            }
            if in_headers {
                // Headers end with an empty line; some writers leave both out.
                in_headers = line.contains(": ");
                if in_headers || line.is_empty() {
                    continue;
                }
            }
            // The checksum is optional, and no protection.
            if !line.starts_with('=') {
                digits.push_str(line);
            }
        }
        keys.extend(base64(&digits)?);
    }
    Some(keys)
}

/// RFC 4648, section 4; `None` for anything else.
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    if text.len() % 4 != 0 || text.len() - digits.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 3);
    for group in digits.chunks(4) {
        let mut word = 0_u32;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            word = word << 6 | u32::from(value);
        }
        let missing = 4 - group.len();
        word <<= 6 * missing;
        let [_, whole @ ..] = word.to_be_bytes();
        bytes.extend_from_slice(whole.get(..3 - missing)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648_is_read_and_nothing_else() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(base64(text).unwrap(), bytes.as_bytes());
        }
        for bad in ["Z", "Zg=", "Z===", "Zm9v!mFy", "====", "Zm=v"] {
            assert_eq!(base64(bad), None, "{bad}");
        }
    }

    #[test]
    fn armour_comes_off_with_or_without_headers_and_other_bytes_stay() {
        for headers in ["", "\n", "Version: 1\nComment: x\n\n"] {
            let text = format!("mail\n{BEGIN}\n{headers}Zm9v\nYmFy\n=abcd\n{END}\n{BEGIN}\n\nZg==\n{END}\n");
            assert_eq!(keys(text.as_bytes()).unwrap(), b"foobarf", "{headers:?}");
        }
        assert_eq!(keys(b"\x99\x01").unwrap(), b"\x99\x01");
        assert_eq!(keys(format!("{BEGIN}\nZm9v\n").as_bytes()), None);
        assert_eq!(keys(format!("{BEGIN}\n?\n{END}").as_bytes()), None);
    }
}
