//! The order of a file: pieces that a table places anywhere, met by position, and those that share bytes.

use std::num::NonZeroU64;

use kiln_disk::{Budget, Cost, Result};

/// What a walk meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// A piece, in order of file position; overlaps none met before.
    Piece {
        /// Its index in the table.
        index: u64,
        /// Where it starts.
        at: u64,
    },
    /// Two pieces that share bytes; the second is not met as a piece.
    Clash {
        /// Index of the one that counts.
        one: u64,
        /// Index of the other.
        other: u64,
    },
    /// An entry whose place is impossible, not met as a piece.
    Fault {
        /// Its index in the table.
        index: u64,
        /// What the table says.
        value: u64,
    },
}

/// Hands over every piece, in any order, the same in every pass: its index, and where it starts or, where that is
/// impossible, what the table says.
pub(crate) type Each<'a> = dyn Fn(&mut dyn FnMut(u64, Result<u64, u64>) -> Result<()>) -> Result<()> + 'a;

/// Where pieces are.
pub(crate) struct Space<'a> {
    pub(crate) budget: &'a Budget,
    /// Bytes so few that two pieces that start in one slot of this length always overlap.
    pub(crate) slot: u64,
    /// No piece starts here or later.
    pub(crate) end: u64,
    /// Length of a piece.
    pub(crate) len_of: &'a dyn Fn(u64) -> u64,
}

/// Slots examined at once: 16 MiB of memory.
const WINDOW: u64 = 1 << 21;
const FREE: (u32, u32) = (u32::MAX, 0);

impl Space<'_> {
    /// Meets every piece once, in the order of the file, and every fault once.
    ///
    /// The file is cut into slots; two pieces that start in one slot overlap for certain, and otherwise only
    /// neighbours can. Memory is bounded by working in windows of slots, one pass over the table each; stretches
    /// of the file without pieces cost nothing.
    ///
    /// # Errors
    /// What `each` and `met` say; [`kiln_disk::Error::Refused`] (`budget.memory`).
    pub(crate) fn walk(&self, each: &Each<'_>, met: &mut dyn FnMut(Met) -> Result<()>) -> Result<()> {
        let slots = self.end.div_ceil(self.slot.max(1));
        let room = slots.min(WINDOW);
        let memory = room.saturating_mul(8);
        self.budget.charge(Cost::Memory, memory)?;
        let done = self.windows(room, each, met);
        self.budget.release(memory);
        done
    }

    fn windows(&self, room: u64, each: &Each<'_>, met: &mut dyn FnMut(Met) -> Result<()>) -> Result<()> {
        let slot_len = NonZeroU64::new(self.slot).unwrap_or(NonZeroU64::MIN);
        let mut slots: Vec<(u32, u32)> = Vec::new();
        // The piece met last, and its end.
        let mut last: Option<(u64, u64)> = None;
        let mut first = 0_u64;
        let mut first_pass = true;
        loop {
            slots.clear();
            slots.resize(usize::try_from(room).unwrap_or(0), FREE);
            let mut next = None;
            each(&mut |index, place| {
                let at = match place {
                    Ok(at) => at,
                    Err(value) if first_pass => return met(Met::Fault { index, value }),
                    Err(_) => return Ok(()),
                };
                let Some(slot) = (at / slot_len).checked_sub(first) else { return Ok(()) };
                let Some(place) = usize::try_from(slot).ok().and_then(|slot| slots.get_mut(slot)) else {
                    let window = (at / slot_len).checked_div(room).unwrap_or(0).saturating_mul(room);
                    next = Some(next.map_or(window, |next: u64| next.min(window)));
                    return Ok(());
                };
                if *place != FREE {
                    return met(Met::Clash { one: place.0.into(), other: index });
                }
                if let (Ok(index), Ok(within)) = (u32::try_from(index), u32::try_from(at % slot_len)) {
                    *place = (index, within);
                }
                Ok(())
            })?;
            for (slot, (index, within)) in (first..).zip(&slots).filter(|(_, place)| **place != FREE) {
                let index = u64::from(*index);
                let at = slot.saturating_mul(slot_len.get()).saturating_add((*within).into());
                match last {
                    Some((one, end)) if at < end => met(Met::Clash { one, other: index })?,
                    _ => {
                        last = Some((index, at.saturating_add((self.len_of)(index))));
                        met(Met::Piece { index, at })?;
                    }
                }
            }
            match next {
                None => return Ok(()),
                Some(window) => (first, first_pass) = (window, false),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meet(slot: u64, lens: &[u64], places: &[u64]) -> (Vec<Met>, u32) {
        let mut seen = Vec::new();
        let passes = std::cell::Cell::new(0);
        let end = places.iter().max().map_or(0, |at| at + 1);
        let space = Space { budget: &Budget::default(), slot, end, len_of: &|index| lens[index as usize] };
        space
            .walk(
                &|visit| {
                    passes.set(passes.get() + 1);
                    visit(99, Err(7))?;
                    places.iter().enumerate().try_for_each(|(index, at)| visit(index as u64, Ok(*at)))
                },
                &mut |met| {
                    seen.push(met);
                    Ok(())
                },
            )
            .unwrap();
        assert_eq!(seen.remove(0), Met::Fault { index: 99, value: 7 });
        (seen, passes.get())
    }

    #[test]
    fn pieces_come_in_order_and_overlaps_of_any_kind_are_told() {
        let piece = |index, at| Met::Piece { index, at };
        let clash = |one, other| Met::Clash { one, other };
        assert_eq!(meet(10, &[10, 10, 10], &[40, 0, 20]).0, [piece(1, 0), piece(2, 20), piece(0, 40)]);
        assert_eq!(meet(10, &[10, 10], &[20, 20]).0, [clash(0, 1), piece(0, 20)]);
        assert_eq!(meet(10, &[10, 10], &[25, 19]).0, [piece(1, 19), clash(1, 0)]);
        // A long one over several short ones.
        assert_eq!(meet(10, &[40, 10, 10], &[0, 30, 40]).0, [piece(0, 0), clash(0, 1), piece(2, 40)]);
    }

    #[test]
    fn windows_without_pieces_are_skipped() {
        let far = 500 * WINDOW * 10;
        let (seen, passes) = meet(10, &[10, 10, 10], &[far, 5, far + 5]);
        assert_eq!(passes, 2);
        assert_eq!(
            seen,
            [
                Met::Piece { index: 1, at: 5 },
                Met::Clash { one: 0, other: 2 },
                Met::Piece { index: 0, at: far }
            ]
        );
    }
}
