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
    /// Asks, and hands the answer and the line on for what follows.
    fn ask<T>(&self, said: &Said, then: impl FnOnce(&mut R, Heard) -> io::Result<T>) -> Result<T> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = |source| Error::io("read", "a disk of the process that asks", source);
        send(&mut line.to, said).map_err(broken)?;
        match receive(&mut line.from).map_err(broken)? {
            Heard::Failed(error) => Err(error.into()),
            heard => then(&mut line.from, heard).map_err(broken),
        }
    }
}

fn another() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "another answer than was asked for")
}

impl<R: Read + Send, W: Write + Send> Disk for Remote<R, W> {
    fn disk_len(&self) -> u64 {
        self.len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> Result<()> {
        check_range(at, buf.len(), self.len)?;
        let mut at = at.get();
        for piece in buf.chunks_mut(usize::try_from(MAX_READ).unwrap_or(usize::MAX)) {
            let len = u32::try_from(piece.len()).unwrap_or(MAX_READ);
            self.ask(&Said::Read { disk: self.index, at, len }, |from, heard| match heard {
                Heard::Bytes => from.read_exact(piece),
                _ => Err(another()),
            })?;
            at = at.saturating_add(len.into());
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> Result<Extent> {
        check_range(at, 1, self.len)?;
        let said = Said::Extent { disk: self.index, at: at.get(), limit };
        self.ask(&said, |_, heard| match heard {
            Heard::Extent(len, kept) => Ok(Extent { start: at, len, kind: ExtentKind::from(kept) }),
            _ => Err(another()),
        })
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
