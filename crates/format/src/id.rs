//! Unique ids of disks: their notation, and those that a writer derives.

use std::fmt;

/// A unique id in the usual notation; the bytes are in the order of the text (RFC 9562).
pub(crate) fn uuid_text(id: &[u8; 16]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in id.iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Reads 32 hexadecimal digits with or without dashes, in the order of the text.
pub(crate) fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| !matches!(c, '-' | '{' | '}')).collect();
    if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16).ok().map(u128::to_be_bytes)
}

/// A unique id as Windows and VirtualBox store it: the first three fields little-endian.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Guid(pub(crate) [u8; 16]);

impl Guid {
    /// All zeros: "none".
    pub(crate) const NIL: Self = Self([0; 16]);

    /// From the order of the text.
    pub(crate) const fn from_text_order(id: [u8; 16]) -> Self {
        Self(swapped(id))
    }

    pub(crate) fn is_nil(self) -> bool {
        self == Self::NIL
    }
}

const fn swapped(id: [u8; 16]) -> [u8; 16] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = id;
    let [i, j, k, l, m, n, o, p] = rest;
    [d, c, b, a, f, e, h, g, i, j, k, l, m, n, o, p]
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&uuid_text(&swapped(self.0)))
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// An id that depends on nothing but what it is given: FNV-1a of 128 bits, marked as a UUID of version 8 (made by
/// a rule of its own, RFC 9562), so that the same disk gives the same file.
pub(crate) struct DerivedId(u128);

impl DerivedId {
    pub(crate) const fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    pub(crate) fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    }

    /// The id, in the order of the text.
    pub(crate) const fn finish(self) -> [u8; 16] {
        let version = (self.0 & !(0xf << 76)) | (8 << 76);
        let variant = (version & !(0b11 << 62)) | (0b10 << 62);
        variant.to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guid_is_read_and_written_in_the_notation_and_stored_with_its_fields_swapped() {
        // The BAT's region GUID of MS-VHDX 2.2.3.2, as its text and as its bytes in a file.
        let text = "2dc27766-f623-4200-9d64-115e9bfd4a08";
        let guid = Guid::from_text_order(parse_uuid(text).unwrap());
        assert_eq!(guid.0, *b"\x66\x77\xc2\x2d\x23\xf6\x00\x42\x9d\x64\x11\x5e\x9b\xfd\x4a\x08");
        assert_eq!(guid.to_string(), text);
        assert_eq!(parse_uuid("{2DC27766-F623-4200-9D64-115E9BFD4A08}"), parse_uuid(text));
        assert_eq!(parse_uuid("2dc27766"), None);
        assert!(Guid::NIL.is_nil() && !guid.is_nil());
    }

    #[test]
    fn derived_ids_are_of_version_8_and_differ_with_what_they_are_given() {
        let of = |bytes: &[u8]| {
            let mut id = DerivedId::new();
            id.take(bytes);
            id.finish()
        };
        let text = uuid_text(&of(b"a"));
        assert!(text[14..].starts_with('8') && text[19..].starts_with(['8', '9', 'a', 'b']), "{text}");
        assert_ne!(of(b"a"), of(b"b"));
        assert_eq!(of(b"a"), of(b"a"));
    }
}
