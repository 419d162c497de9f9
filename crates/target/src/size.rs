//! Sizes as people write them.

use std::fmt;

use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A number of bytes, above zero. In a file: a number, or digits and `K`, `M`, `G`, `T` (1024-based), `KB`, `MB`,
/// `GB`, `TB` (1000-based).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

impl ByteSize {
    /// Bytes.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Reads a size; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at_checked(split)?;
        let factor: u64 = match unit {
            "" | "B" => 1,
            "K" | "KiB" => 1 << 10,
            "M" | "MiB" => 1 << 20,
            "G" | "GiB" => 1 << 30,
            "T" | "TiB" => 1 << 40,
            "KB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            _ => return None,
        };
        digits.parse::<u64>().ok()?.checked_mul(factor).filter(|bytes| *bytes > 0).map(Self)
    }
}

struct Reader;

impl Visitor<'_> for Reader {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size above zero: \"20G\" (1024-based), \"500GB\" (1000-based) or a number of bytes")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<ByteSize, E> {
        ByteSize::parse(text).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<ByteSize, E> {
        let bytes = u64::try_from(number).ok().filter(|bytes| *bytes > 0);
        bytes.map(ByteSize).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::ByteSize;

    #[test]
    fn units_are_what_they_say() {
        for (text, bytes) in [("1", 1), ("20G", 20 << 30), ("500GB", 500_000_000_000), ("1M", 1 << 20)] {
            assert_eq!(ByteSize::parse(text).map(ByteSize::get), Some(bytes), "{text}");
        }
        for bad in ["", "0", "0G", "G", "1.5G", "-1", "1X", "99999999T"] {
            assert_eq!(ByteSize::parse(bad), None, "{bad}");
        }
    }
}
