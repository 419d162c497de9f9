//! Text that a guest wrote for its own programs: lines, words, keys, uuids.

/// Bytes as text; what is not UTF-8 is replaced.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Lines with their numbers from 1, without comments of `#` at their start and without empty ones.
pub(crate) fn lines(text: &str) -> impl Iterator<Item = (u32, &str)> {
    (1_u32..)
        .zip(text.lines())
        .map(|(number, line)| (number, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

/// The value of `key=value` in a file of assignments, without quotes around it; the last one counts.
pub(crate) fn assigned(text: &str, key: &str) -> Option<String> {
    let values = lines(text).filter_map(|(_, line)| {
        let line = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| unquoted(value.trim()).to_owned())
    });
    values.last()
}

/// Without one pair of quotes around it.
pub(crate) fn unquoted(word: &str) -> &str {
    ['"', '\''].iter().find_map(|quote| word.strip_prefix(*quote)?.strip_suffix(*quote)).unwrap_or(word)
}

/// A uuid of 16 bytes as `blkid` spells it.
pub(crate) fn uuid(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(36);
    for (index, byte) in bytes.iter().take(16).enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// Bytes up to the first NUL, as text.
pub(crate) fn label(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    lossy(bytes.get(..end).unwrap_or_default()).trim_end().to_owned()
}

/// The same of UTF-16 in little-endian order.
pub(crate) fn utf16_label(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes
        .chunks_exact(2)
        .map(|pair| pair.iter().rev().fold(0, |unit, byte| unit << 8 | u16::from(*byte)))
        .take_while(|unit| *unit != 0)
        .collect();
    String::from_utf16_lossy(&units).trim_end().to_owned()
}
