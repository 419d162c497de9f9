//! Values of a hive: numbers, texts, lists of texts.

use kiln_disk::wire::{le16, le32};

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// `REG_SZ` 1, `REG_EXPAND_SZ` 2, `REG_BINARY` 3, `REG_DWORD` 4, `REG_MULTI_SZ` 7, ...
    pub kind: u32,
    /// Its bytes.
    pub data: Vec<u8>,
}

impl Value {
    /// The number of a `REG_DWORD`.
    #[must_use]
    pub fn number(&self) -> Option<u32> {
        le32(&self.data, 0).filter(|_| self.kind == 4)
    }

    /// The text of a `REG_SZ` or `REG_EXPAND_SZ`, up to its first NUL.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        matches!(self.kind, 1 | 2).then(|| {
            let units = units(&self.data);
            String::from_utf16_lossy(units.split(|unit| *unit == 0).next().unwrap_or_default())
        })
    }

    /// The texts of a `REG_MULTI_SZ`, or the one of a `REG_SZ`.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        if self.kind != 7 {
            return self.text().filter(|text| !text.is_empty()).into_iter().collect();
        }
        let units = units(&self.data);
        let texts = units.split(|unit| *unit == 0).filter(|text| !text.is_empty());
        texts.map(String::from_utf16_lossy).collect()
    }
}

fn units(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|unit| le16(unit, 0).unwrap_or(0)).collect()
}

/// A name: one byte a letter, or UTF-16.
pub(super) fn text(bytes: &[u8], latin: bool) -> String {
    match latin {
        true => bytes.iter().map(|byte| char::from(*byte)).collect(),
        false => String::from_utf16_lossy(&units(bytes)),
    }
}
