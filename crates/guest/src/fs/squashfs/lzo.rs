//! LZO1X, unpacked. The stream is described in Linux `Documentation/staging/lzo.rst`.

/// Unpacks a block; `None` when it is none, or longer than `limit`.
pub(super) fn unpack(packed: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut stream = Stream { rest: packed, out: Vec::new(), limit };
    // Literals that the instruction before this one ended with: 0 to 3, or 4 for a run of its own.
    let mut state = 0_usize;
    let first = *packed.first()?;
    if first > 17 {
        stream.byte()?;
        let len = usize::from(first).checked_sub(17)?;
        stream.literals(len)?;
        state = len.min(4);
    }
    loop {
        let word = usize::from(stream.byte()?);
        let (distance, len, trailing) = match word {
            0..=15 if state == 0 => {
                let len = if word == 0 { stream.long(15)? } else { word };
                stream.literals(len.checked_add(3)?)?;
                state = 4;
                continue;
            }
            0..=15 => {
                let high = usize::from(stream.byte()?).checked_shl(2)?;
                let distance = high.checked_add(word >> 2)?;
                // Behind a run of literals: three bytes from further away.
                let (base, len) = if state == 4 { (2049, 3) } else { (1, 2) };
                (distance.checked_add(base)?, len, word & 3)
            }
            16..=31 => {
                let len = if word & 7 == 0 { stream.long(7)? } else { word & 7 };
                let low = stream.pair()?;
                let distance = ((word & 8) << 11).checked_add(low >> 2)?;
                if distance == 0 {
                    // The end: what follows it is no part of the block.
                    return (len == 1 && stream.rest.is_empty()).then_some(stream.out);
                }
                (distance.checked_add(16384)?, len.checked_add(2)?, low & 3)
            }
            32..=63 => {
                let len = if word & 31 == 0 { stream.long(31)? } else { word & 31 };
                let low = stream.pair()?;
                ((low >> 2).checked_add(1)?, len.checked_add(2)?, low & 3)
            }
            64..=127 => {
                let high = usize::from(stream.byte()?).checked_shl(3)?;
                (
                    high.checked_add(word >> 2 & 7)?.checked_add(1)?,
                    3_usize.checked_add(word >> 5 & 1)?,
                    word & 3,
                )
            }
            _ => {
                let high = usize::from(stream.byte()?).checked_shl(3)?;
                (
                    high.checked_add(word >> 2 & 7)?.checked_add(1)?,
                    5_usize.checked_add(word >> 5 & 3)?,
                    word & 3,
                )
            }
        };
        stream.copy(distance, len)?;
        stream.literals(trailing)?;
        state = trailing;
    }
}

struct Stream<'a> {
    rest: &'a [u8],
    out: Vec<u8>,
    limit: usize,
}

impl Stream<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn pair(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes([self.byte()?, self.byte()?])))
    }

    /// A length that goes on: 255 for each zero byte, and the byte behind them.
    fn long(&mut self, base: usize) -> Option<usize> {
        let mut len = base;
        loop {
            match self.byte()? {
                0 => len = len.checked_add(255).filter(|len| *len <= self.limit)?,
                last => return len.checked_add(last.into()),
            }
        }
    }

    fn room(&self, len: usize) -> Option<()> {
        (self.out.len().checked_add(len)? <= self.limit).then_some(())
    }

    fn literals(&mut self, len: usize) -> Option<()> {
        self.room(len)?;
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.out.extend_from_slice(bytes);
        self.rest = rest;
        Some(())
    }

    /// Repeats `len` bytes from `distance` back; they may be among those that it makes.
    fn copy(&mut self, distance: usize, len: usize) -> Option<()> {
        self.room(len)?;
        let from = self.out.len().checked_sub(distance)?;
        for at in from..from.checked_add(len)? {
            let byte = *self.out.get(at)?;
            self.out.push(byte);
        }
        Some(())
    }
}
