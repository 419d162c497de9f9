//! Sizes as people type them.

/// Reads `20G`, `20GiB` (1024-based), `20GB` (1000-based) or plain bytes.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let factor = match unit {
        "" | "B" => 1,
        "k" | "K" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "T" | "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => {
            return Err(format!(
                "{unit:?} is no unit: use K, M, G, T (1024-based) or KB, MB, GB, TB (1000-based)"
            ));
        }
    };
    let number: u64 =
        digits.parse().map_err(|_| "a size is digits and a unit, for example 20G".to_owned())?;
    number.checked_mul(factor).ok_or_else(|| "more than 2^64 bytes".to_owned())
}

/// Part N of M, as `N/M`.
pub(crate) fn parse_part(text: &str) -> Result<kiln_disk::digest::Part, String> {
    let part = text
        .split_once('/')
        .and_then(|(number, of)| kiln_disk::digest::Part::new(number.parse().ok()?, of.parse().ok()?));
    part.ok_or_else(|| format!("{text:?} is no part: 1/7 to 7/7 are"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn units_are_what_they_say() {
        assert_eq!(parse("20G"), Ok(20 << 30));
        assert_eq!(parse("20GiB"), Ok(20 << 30));
        assert_eq!(parse("20GB"), Ok(20_000_000_000));
        assert_eq!(parse("512"), Ok(512));
        assert_eq!(parse("0"), Ok(0));
        for bad in ["", "G", "1.5G", "-1", "1X", "99999999T"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
