//! Sizes for people: `8 GiB (8589934592 bytes)`.

use std::fmt;

const UNITS: [&str; 7] = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A number of bytes with its exact value beside the round one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size(pub(crate) u64);

/// A number of bytes in a table: `8 GiB`, `1.5 MiB`, `513 bytes`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShortSize(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1024 {
            write!(f, "{} bytes", self.0)
        } else {
            write!(f, "{} ({} bytes)", ShortSize(self.0), self.0)
        }
    }
}

impl fmt::Display for ShortSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = self.0.checked_ilog2().map_or(0, |bits| (bits / 10) as usize).min(UNITS.len() - 1);
        let shift = 10 * unit as u32;
        let whole = self.0 >> shift;
        let rest = self.0 - (whole << shift);
        // Tenths, rounded down: nothing is shown as larger than it is.
        let tenths = (u128::from(rest) * 10) >> shift;
        let name = UNITS.get(unit).copied().unwrap_or("bytes");
        let text = if tenths == 0 { format!("{whole} {name}") } else { format!("{whole}.{tenths} {name}") };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact_in_brackets_and_rounded_down_in_front() {
        assert_eq!(Size(0).to_string(), "0 bytes");
        assert_eq!(Size(1023).to_string(), "1023 bytes");
        assert_eq!(Size(1024).to_string(), "1 KiB (1024 bytes)");
        assert_eq!(Size(8 << 30).to_string(), "8 GiB (8589934592 bytes)");
        assert_eq!(Size((8 << 30) - 1).to_string(), "7.9 GiB (8589934591 bytes)");
        assert_eq!(Size(1536).to_string(), "1.5 KiB (1536 bytes)");
        assert_eq!(Size(u64::MAX).to_string(), "15.9 EiB (18446744073709551615 bytes)");
        assert_eq!(format!("[{:>10}]", ShortSize(1 << 20)), "[     1 MiB]");
    }
}
