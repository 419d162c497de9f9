//! Ids of images and layers. Both are safe parts of a path by construction.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What every image id starts with.
pub(crate) const PREFIX: &str = "img-";

/// 32 letters: five bits a character, and none that looks like another in print.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {expected}")]
pub struct BadId {
    given: String,
    expected: &'static str,
}

/// The id of an image: `img-` and eight of `a-z2-7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id from eight random bytes.
    pub(crate) fn from_random(random: [u8; 8]) -> Self {
        Self(PREFIX.chars().chain(tail_of(random)).collect())
    }
}

impl FromStr for ImageId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        match text.strip_prefix(PREFIX).filter(|tail| is_tail(tail)) {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err(BadId { given: text.chars().take(80).collect(), expected: "an image id" }),
        }
    }
}

/// What every instance id starts with.
const INSTANCE_PREFIX: &str = "ins-";

/// The id of an instance: `ins-` and eight of `a-z2-7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

impl InstanceId {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// An id from eight random bytes.
    pub(crate) fn from_random(random: [u8; 8]) -> Self {
        Self(INSTANCE_PREFIX.chars().chain(tail_of(random)).collect())
    }
}

impl FromStr for InstanceId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        match text.strip_prefix(INSTANCE_PREFIX).filter(|tail| is_tail(tail)) {
            Some(_) => Ok(Self(text.to_owned())),
            None => Err(BadId { given: text.chars().take(80).collect(), expected: "an instance id" }),
        }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn tail_of(random: [u8; 8]) -> [char; 8] {
    random.map(|byte| char::from(ALPHABET[usize::from(byte % 32)]))
}

fn is_tail(tail: &str) -> bool {
    tail.len() == 8 && tail.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'))
}

/// The id of a layer: the SHA-256 of its file, written `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId {
    hex: String,
}

impl LayerId {
    /// The 64 digits, lower case.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl FromStr for LayerId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let hex = text.strip_prefix("sha256:").filter(|hex| {
            hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        match hex {
            Some(hex) => Ok(Self { hex: hex.to_owned() }),
            None => Err(BadId { given: text.chars().take(80).collect(), expected: "a SHA-256 digest" }),
        }
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

macro_rules! through_text {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }
        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    };
}
through_text!(ImageId);
through_text!(LayerId);
through_text!(InstanceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_random_byte_gives_a_valid_id() {
        for byte in 0..=255_u8 {
            let id = ImageId::from_random([byte; 8]);
            assert_eq!(id.as_str().parse::<ImageId>().unwrap(), id);
            assert_eq!(id.as_str().len(), 12);
        }
    }

    #[test]
    fn paths_are_no_ids() {
        for text in ["img-../../x", "img-abcdefg", "img-abcdefghi", "img-ABCDEFGH", "img-abcdefg/", ""] {
            assert!(text.parse::<ImageId>().is_err(), "{text:?}");
        }
        let hex = "a".repeat(64);
        assert_eq!(format!("sha256:{hex}").parse::<LayerId>().unwrap().hex(), hex);
        for text in [
            hex.clone(),
            format!("sha256:{}", "A".repeat(64)),
            format!("sha512:{hex}"),
            format!("sha256:{hex}0"),
        ] {
            assert!(text.parse::<LayerId>().is_err(), "{text:?}");
        }
    }
}
