//! GUIDs as they lie in a GPT: three little-endian fields and eight bytes (UEFI 2.10, appendix A).

use std::fmt;

use crate::wire::{bytes, le16, le32};

/// A GUID in the order of its bytes on disk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Guid(pub [u8; 16]);

impl Guid {
    /// The GUID whose text is `aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee`.
    #[must_use]
    pub const fn from_fields(a: u32, b: u16, c: u16, d: [u8; 8]) -> Self {
        let ([a0, a1, a2, a3], [b0, b1], [c0, c1]) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
        let [d0, d1, d2, d3, d4, d5, d6, d7] = d;
        Self([a0, a1, a2, a3, b0, b1, c0, c1, d0, d1, d2, d3, d4, d5, d6, d7])
    }

    /// Whether it is all zeros: an unused entry.
    #[must_use]
    pub fn is_nil(self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (a, b, c) = (le32(&self.0, 0), le16(&self.0, 4), le16(&self.0, 6));
        let d: [u8; 8] = bytes(&self.0, 8).unwrap_or_default();
        write!(f, "{:08x}-{:04x}-{:04x}-", a.unwrap_or(0), b.unwrap_or(0), c.unwrap_or(0))?;
        for (index, byte) in d.iter().enumerate() {
            write!(f, "{}{byte:02x}", if index == 2 { "-" } else { "" })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for Guid {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "a GUID is 32 hexadecimal digits with dashes: 8-4-4-4-12";
        let mut groups = text.split('-');
        let mut group = |len: usize| {
            let digits = groups.next().filter(|group| group.len() == len).ok_or(wrong)?;
            u64::from_str_radix(digits, 16).map_err(|_| wrong)
        };
        let (a, b, c, d, e) = (group(8)?, group(4)?, group(4)?, group(4)?, group(12)?);
        let [.., a0, a1, a2, a3] = a.to_be_bytes();
        let ([.., b0, b1], [.., c0, c1]) = (b.to_be_bytes(), c.to_be_bytes());
        let tail = ((d << 48) | e).to_be_bytes();
        let (a, b) = (u32::from_be_bytes([a0, a1, a2, a3]), u16::from_be_bytes([b0, b1]));
        let guid = Self::from_fields(a, b, u16::from_be_bytes([c0, c1]), tail);
        groups.next().is_none().then_some(guid).ok_or(wrong)
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Partition types that decide how a machine starts (UEFI 2.10, table 5.7; the Discoverable Partitions
/// Specification; GRUB manual, "BIOS installation").
pub mod types {
    use super::Guid;

    /// EFI system partition.
    pub const ESP: Guid =
        Guid::from_fields(0xc12a_7328, 0xf81f, 0x11d2, [0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b]);
    /// BIOS boot partition: GRUB's core image.
    pub const BIOS_BOOT: Guid =
        Guid::from_fields(0x2168_6148, 0x6449, 0x6e6f, [0x74, 0x4e, 0x65, 0x65, 0x64, 0x45, 0x46, 0x49]);
    /// Extended boot loader partition.
    pub const XBOOTLDR: Guid =
        Guid::from_fields(0xbc13_c2ff, 0x59e6, 0x4262, [0xa3, 0x52, 0xb2, 0x75, 0xfd, 0x6f, 0x71, 0x72]);
    /// Linux swap.
    pub const SWAP: Guid =
        Guid::from_fields(0x0657_fd6d, 0xa4ab, 0x43c4, [0x84, 0xe5, 0x09, 0x33, 0xc8, 0x4b, 0x4f, 0x4f]);
    /// Windows logical disk manager metadata: a dynamic disk.
    pub const LDM_METADATA: Guid =
        Guid::from_fields(0x5808_c8aa, 0x7e8f, 0x42e0, [0x85, 0xd2, 0xe1, 0xe9, 0x04, 0x34, 0xcf, 0xb3]);
}
