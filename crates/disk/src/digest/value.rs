//! Digests as values: always with the name of their algorithm.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A hash function over the bytes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512: only to compare with what a vendor published.
    Sha512,
    /// SHA-1: only to compare with what a vendor published; proves nothing against an attacker.
    Sha1,
    /// MD5: only to compare with what a vendor published; proves nothing against an attacker.
    Md5,
}

impl Algorithm {
    const ALL: [Self; 4] = [Self::Sha256, Self::Sha512, Self::Sha1, Self::Md5];

    /// The name that stands before the colon.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Sha1 => "sha1",
            Self::Md5 => "md5",
        }
    }

    /// Length of the digest in bytes.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
            Self::Sha1 => 20,
            Self::Md5 => 16,
        }
    }
}

/// A digest of a file's bytes: `sha256:<hex>`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl Digest {
    /// A digest made elsewhere; `None` when the length is not the algorithm's.
    #[must_use]
    pub fn new(algorithm: Algorithm, bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() == algorithm.digest_len()).then_some(Self { algorithm, bytes })
    }

    /// The hash function.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digest's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The hex digits alone, as `sha256sum` prints them.
    #[must_use]
    pub fn hex(&self) -> String {
        to_hex(&self.bytes)
    }

    /// Reads bare hex digits, the algorithm told by their number, as in a vendor's checksum file.
    ///
    /// # Errors
    /// [`ParseDigestError`].
    pub fn parse_hex(hex: &str) -> Result<Self, ParseDigestError> {
        let bytes = from_hex(hex)?;
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.digest_len() == bytes.len())
            .map(|algorithm| Self { algorithm, bytes })
            .ok_or(ParseDigestError::Length)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    /// Reads `algorithm:hex`, or bare hex digits.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some((name, hex)) = text.split_once(':') else {
            return Self::parse_hex(text);
        };
        let algorithm = Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == name)
            .ok_or(ParseDigestError::Algorithm)?;
        Self::new(algorithm, from_hex(hex)?).ok_or(ParseDigestError::Length)
    }
}

/// The content digest of a disk: `fsverity-sha256-64k:<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentDigest([u8; 32]);

impl ContentDigest {
    /// The algorithm's name: fs-verity, SHA-256, 64 KiB blocks, no salt.
    pub const ALGORITHM: &'static str = "fsverity-sha256-64k";

    /// Wraps a digest made elsewhere.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest's bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The hex digits alone, as `fsverity digest` prints them.
    #[must_use]
    pub fn hex(&self) -> String {
        to_hex(&self.0)
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Self::ALGORITHM, self.hex())
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContentDigest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, hex) = text.split_once(':').ok_or(ParseDigestError::Algorithm)?;
        if name != Self::ALGORITHM {
            return Err(ParseDigestError::Algorithm);
        }
        from_hex(hex)?.try_into().map(Self).map_err(|_| ParseDigestError::Length)
    }
}

/// Why a text is no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// The name before the colon is unknown or missing.
    #[error("the name of the algorithm is missing or unknown")]
    Algorithm,
    /// Something that is not a hex digit.
    #[error("not a hex digit")]
    Hex,
    /// The number of digits fits no algorithm.
    #[error("the number of hex digits fits no known algorithm")]
    Length,
}

macro_rules! as_text {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
as_text!(Digest);
as_text!(ContentDigest);

pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len().saturating_mul(2)), |mut hex, byte| {
        for nibble in [byte >> 4, byte & 0xf] {
            hex.push(char::from_digit(nibble.into(), 16).unwrap_or('?'));
        }
        hex
    })
}

fn from_hex(hex: &str) -> Result<Vec<u8>, ParseDigestError> {
    let (pairs, rest) = hex.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return Err(ParseDigestError::Length);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs
        .iter()
        .map(|&[high, low]| Some((digit(high)? << 4) | digit(low)?))
        .collect::<Option<_>>()
        .ok_or(ParseDigestError::Hex)
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, ContentDigest, Digest, ParseDigestError};

    #[test]
    fn digests_are_read_back_as_they_are_printed() {
        let digest = Digest::new(Algorithm::Md5, (0..16).collect()).unwrap();
        assert_eq!(digest.to_string(), "md5:000102030405060708090a0b0c0d0e0f");
        assert_eq!(digest.to_string().parse(), Ok(digest.clone()));
        assert_eq!(Digest::parse_hex("000102030405060708090A0B0C0D0E0F"), Ok(digest));
        let content = ContentDigest::new([0xa5; 32]);
        assert_eq!(content.to_string().parse(), Ok(content));
        assert!(content.to_string().starts_with("fsverity-sha256-64k:a5a5"));
    }

    #[test]
    fn what_is_no_digest_says_why() {
        assert_eq!("sha3:00".parse::<Digest>(), Err(ParseDigestError::Algorithm));
        assert_eq!("sha256:00".parse::<Digest>(), Err(ParseDigestError::Length));
        assert_eq!("zz".parse::<Digest>(), Err(ParseDigestError::Hex));
        assert_eq!("abc".parse::<Digest>(), Err(ParseDigestError::Length));
        assert_eq!("sha256:00".parse::<ContentDigest>(), Err(ParseDigestError::Algorithm));
    }
}
