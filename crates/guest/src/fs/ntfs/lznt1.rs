//! LZNT1, the compression of NTFS. Source: Microsoft MS-XCA, 2.5.

use kiln_disk::wire::le16;

/// Bytes that a chunk unpacks to.
const CHUNK: usize = 4096;

/// Unpacks chunks into `target`, each at its place; what none fills is zeros. `None` when the input is damaged.
pub(super) fn unpack(packed: &[u8], target: &mut [u8]) -> Option<()> {
    target.fill(0);
    let mut at = 0_usize;
    for out in target.chunks_mut(CHUNK) {
        // Zeros follow the last chunk.
        let Some(head) = le16(packed, at).filter(|head| *head != 0) else { break };
        let (start, len) = (at.checked_add(2)?, usize::from(head & 0xfff).checked_add(1)?);
        at = start.checked_add(len)?;
        let body = packed.get(start..at)?;
        if head & 0x8000 == 0 {
            out.get_mut(..len)?.copy_from_slice(body);
        } else {
            chunk(body, out)?;
        }
    }
    Some(())
}

/// Eight items a flag byte: a letter, or a distance and a length that share 16 bits by the place reached.
fn chunk(body: &[u8], out: &mut [u8]) -> Option<()> {
    let (mut at, mut done) = (0_usize, 0_usize);
    while let Some(flags) = body.get(at) {
        at = at.checked_add(1)?;
        for bit in 0..8_u32 {
            let Some(letter) = body.get(at) else { return Some(()) };
            if flags & (1 << bit) == 0 {
                *out.get_mut(done)? = *letter;
                (at, done) = (at.checked_add(1)?, done.checked_add(1)?);
                continue;
            }
            let pair = le16(body, at)?;
            at = at.checked_add(2)?;
            // Bits of the distance: 4, and one more for each doubling of the place behind 16.
            let bits = done.checked_sub(1)?.checked_ilog2().map_or(4, |log| log.saturating_add(1).max(4));
            let shift = 16_u32.checked_sub(bits)?;
            let distance = usize::from(pair.checked_shr(shift)?).checked_add(1)?;
            let mask = 1_u16.checked_shl(shift)?.checked_sub(1)?;
            let len = usize::from(pair & mask).checked_add(3)?;
            // It may overlap what it makes.
            for _ in 0..len {
                let letter = *out.get(done.checked_sub(distance)?)?;
                *out.get_mut(done)? = letter;
                done = done.checked_add(1)?;
            }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::unpack;

    #[test]
    fn example_of_the_documentation_is_unpacked() {
        // MS-XCA 3.2: a text with repetitions, its terminating NUL included.
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01,
            0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24,
            0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48,
            0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let text = "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        let mut out = vec![1; 4096];
        unpack(&packed, &mut out).unwrap();
        assert_eq!(&out[..text.len()], text.as_bytes());
        assert!(out[text.len()..].iter().all(|byte| *byte == 0));
        // Cut, and leading before the beginning.
        assert!(unpack(&packed[..20], &mut out).is_none());
        assert!(unpack(&[0x02, 0xb0, 0x01, 0xff, 0xff], &mut out).is_none());
        assert!(unpack(&[0x03, 0xb0, 0x02, b'a', 0xff, 0xff], &mut out).is_none());
    }

    #[test]
    fn every_mutant_is_an_answer() {
        let mut state = 1_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) as u8
        };
        for _ in 0..2000 {
            let mut packed: Vec<u8> = (0..64).map(|_| next()).collect();
            (packed[0], packed[1]) = (0x3d, 0xb0);
            let _ = unpack(&packed, &mut [0; 8192]);
        }
    }
}
