//! Zero detection.

/// Whether all bytes are zero. Runs at memory speed: words are OR-ed over blocks of 4 KiB, with an exit after each.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|block| {
        let (words, rest) = block.as_chunks::<16>();
        words.iter().fold(0_u128, |acc, word| acc | u128::from_ne_bytes(*word)) == 0
            && rest.iter().all(|byte| *byte == 0)
    })
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn one_set_bit_anywhere_is_seen_at_every_length() {
        for len in [1, 15, 16, 17, 511, 4095, 4096, 4097, 65_536] {
            let mut bytes = vec![0_u8; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len - 1] {
                bytes[at] = 0x80;
                assert!(!is_zero(&bytes), "byte {at} of {len}");
                bytes[at] = 0;
            }
        }
        assert!(is_zero(&[]));
    }
}
