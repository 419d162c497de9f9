//! The worker's side: it hears one task, asks for bytes, and says what it found.

use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_disk::{Disk, Error, Extent, ExtentKind, GuestOffset, Result, check_range};

use super::cage::{Cage, Confinement};
use super::wire::{Heard, MAX_READ, Said, Task, receive, send};
use crate::look::look;

/// The way to the one who has the disks.
struct Line<R, W> {
    from: R,
    to: W,
}

/// A disk of the other process.
struct Remote<R, W> {
    line: Arc<Mutex<Line<R, W>>>,
    index: u16,
    len: u64,
}

impl<R: Read, W: Write> Remote<R, W> {
    /// One piece, of at most [`MAX_READ`] bytes.
    fn piece(&self, at: u64, piece: &mut [u8]) -> Result<()> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = |source| Error::io("read", "a disk of the process that asks", source);
        let len = u32::try_from(piece.len()).unwrap_or(MAX_READ);
        send(&mut line.to, &Said::Read { disk: self.index, at, len }).map_err(broken)?;
        match receive(&mut line.from).map_err(broken)? {
            Heard::Bytes => line.from.read_exact(piece).map_err(broken),
            Heard::Zeros => {
                piece.fill(0);
                Ok(())
            }
            Heard::Failed(error) => Err(error.into()),
        }
    }
}

impl<R: Read + Send, W: Write + Send> Disk for Remote<R, W> {
    fn disk_len(&self) -> u64 {
        self.len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.len)?;
        let mut at = at.get();
        for piece in buf.chunks_mut(usize::try_from(MAX_READ).unwrap_or(usize::MAX)) {
            self.piece(at, piece)?;
            at = at.saturating_add(MAX_READ.into());
        }
        Ok(())
    }

    /// How the bytes are stored is known at the other end, which sends no zeros: all of them must be read to be known.
    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.len)?;
        let len = limit.min(NonZeroU64::new(self.len.saturating_sub(at.get())).unwrap_or(limit));
        Ok(Extent { start: at, len, kind: ExtentKind::Encoded })
    }
}

/// Does the one task that comes in.
pub(super) fn serve(
    mut from: impl Read + Send + 'static,
    to: impl Write + Send + 'static,
    cage: Cage,
) -> io::Result<()> {
    let task = receive(&mut from)?;
    let line = Arc::new(Mutex::new(Line { from, to }));
    let said = match task {
        Task::Probe => Said::Probed(Confinement::probe(cage)),
        Task::Look { disks, question } => {
            let remote =
                |(index, len)| -> Arc<dyn Disk> { Arc::new(Remote { line: Arc::clone(&line), index, len }) };
            let disks: Vec<_> = (0_u16..).zip(disks).map(remote).collect();
            match look(&disks, &question) {
                Ok(look) => Said::Looked(Box::new(look)),
                Err(error) => Said::Failed(error.into()),
            }
        }
    };
    let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
    send(&mut line.to, &said)
}
