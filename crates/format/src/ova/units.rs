//! Allocation units: DSP0004 "Programmatic Units" as far as they are bytes, and the words that programs wrote
//! before OVF 1.0 asked for those.

/// How many bytes one unit is; `None` for what is no number of bytes.
///
/// `byte * 2^30`, `byte*1024*1024`, `bytes * 10^6`; `MegaBytes` and its like are powers of 1024, as VMware and
/// VirtualBox mean them.
pub(super) fn bytes_of(units: &str) -> Option<u64> {
    let plain: String = units.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_lowercase();
    let mut factors = plain.split('*');
    let base: u64 = match factors.next()? {
        "byte" | "bytes" | "b" => 1,
        "kilobyte" | "kilobytes" | "kibibyte" | "kibibytes" | "kb" | "kib" => 1 << 10,
        "megabyte" | "megabytes" | "mebibyte" | "mebibytes" | "mb" | "mib" => 1 << 20,
        "gigabyte" | "gigabytes" | "gibibyte" | "gibibytes" | "gb" | "gib" => 1 << 30,
        "terabyte" | "terabytes" | "tebibyte" | "tebibytes" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    factors.try_fold(base, |bytes, factor| {
        let factor = match factor.split_once('^') {
            Some((base, exponent)) => digits(base)?.checked_pow(u32::try_from(digits(exponent)?).ok()?)?,
            None => digits(factor)?,
        };
        bytes.checked_mul(factor).filter(|bytes| *bytes > 0)
    })
}

/// Digits and nothing else.
pub(super) fn digits(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::bytes_of;

    #[test]
    fn units_of_all_kinds_are_bytes_or_nothing() {
        for (units, bytes) in [
            ("byte", Some(1)),
            ("byte * 2^30", Some(1 << 30)),
            ("byte*2^20", Some(1 << 20)),
            (" bytes * 2 ^ 10 ", Some(1 << 10)),
            ("byte * 10^9", Some(1_000_000_000)),
            ("byte * 1024 * 1024", Some(1 << 20)),
            ("MegaBytes", Some(1 << 20)),
            ("GB", Some(1 << 30)),
            ("byte * 2^63", Some(1 << 63)),
            ("byte * 2^64", None),
            ("byte * 2^99999999999", None),
            ("byte * 0", None),
            ("byte * -1", None),
            ("byte / 2", None),
            ("byte *", None),
            ("hertz * 10^6", None),
            ("", None),
            ("2^30", None),
        ] {
            assert_eq!(bytes_of(units), bytes, "{units:?}");
        }
    }
}
