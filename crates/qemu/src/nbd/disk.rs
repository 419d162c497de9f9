//! An export as a disk.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};

use kiln_disk::{Disk, Extent, ExtentKind, GuestOffset, check_range};

use crate::error::Result;

use super::client::{BASE_ALLOCATION, Client, Span};

/// Reads are cut to this length, so that the pieces of a long one can come over several connections.
const READ: usize = 1 << 20;
/// How much block status is asked about at once.
const STATUS: u64 = 1 << 30;

/// An export as a disk, read over one or several connections. A run that the server calls a hole that reads as
/// zeros is [`ExtentKind::Zero`]: what lies below a running machine's disk is part of what it shows.
pub struct NbdDisk {
    connections: Vec<Mutex<Client>>,
    /// What was last learnt about the layout.
    spans: Mutex<Vec<Span>>,
    len: u64,
}

impl NbdDisk {
    /// A disk over connections to the same export, each with [`BASE_ALLOCATION`] as context 0. `connect` makes them;
    /// it is called `count` times, at least once.
    ///
    /// # Errors
    /// What `connect` says.
    pub fn new(count: usize, mut connect: impl FnMut(&[&str]) -> Result<Client>) -> Result<Self> {
        let connections: Vec<Mutex<Client>> =
            (0..count.max(1)).map(|_| connect(&[BASE_ALLOCATION]).map(Mutex::new)).collect::<Result<_>>()?;
        let lens = connections.iter().map(|one| lock(one).byte_len());
        let len = lens.min().unwrap_or_default();
        Ok(Self { connections, spans: Mutex::new(Vec::new()), len })
    }

    /// Runs with a connection that is free, or waits for the first.
    fn with<T>(&self, run: impl FnOnce(&mut Client) -> Result<T>) -> kiln_disk::Result<T> {
        let free = self.connections.iter().find_map(|one| one.try_lock().ok());
        let mut client = match (free, self.connections.first()) {
            (Some(client), _) => client,
            (None, Some(first)) => lock(first),
            // `new` makes at least one.
            (None, None) => return Err(kiln_disk::Error::Cancelled),
        };
        Ok(run(&mut client)?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Disk for NbdDisk {
    fn disk_len(&self) -> u64 {
        self.len
    }

    fn read_guest(&self, at: GuestOffset, buf: &mut [u8]) -> kiln_disk::Result<()> {
        check_range(at, buf.len(), self.len)?;
        let mut at = at.get();
        for piece in buf.chunks_mut(READ) {
            let len = u64::try_from(piece.len()).unwrap_or_default();
            self.with(|client| client.read(at, piece))?;
            at = at.saturating_add(len);
        }
        Ok(())
    }

    fn extent_at(&self, at: GuestOffset, limit: NonZeroU64) -> kiln_disk::Result<Extent> {
        check_range(at, 1, self.len)?;
        let mut spans = lock(&self.spans);
        let known = |spans: &[Span]| {
            spans.iter().find(|span| span.start <= at.get() && at.get() < span.end()).copied()
        };
        let span = match known(&spans) {
            Some(span) => span,
            None => {
                *spans = self.with(|client| client.block_status(0, at.get(), STATUS))?;
                let first = known(&spans);
                first.ok_or_else(|| {
                    let source = std::io::Error::from(std::io::ErrorKind::InvalidData);
                    kiln_disk::Error::io("map", "the running machine's disk", source)
                })?
            }
        };
        let len = span.end().min(self.len).saturating_sub(at.get()).min(limit.get());
        let len = NonZeroU64::new(len).unwrap_or(NonZeroU64::MIN);
        let kind = if span.flags & Span::ZERO != 0 { ExtentKind::Zero } else { ExtentKind::Encoded };
        Ok(Extent { start: at, len, kind })
    }
}
