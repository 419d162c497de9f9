//! Kernel locks. The kernel drops them with the process, so none is ever stale and none needs a pid.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{Refusal, Result, io};
use crate::layout::FILE_MODE;

/// How long a command waits for others. Critical sections are a few milliseconds of metadata.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    Exclusive,
    Shared,
}

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// The locked file: the lock is held until its last descriptor is closed, in whatever process.
    pub(crate) fn into_file(self) -> File {
        self.file
    }
}

/// Waits for a lock on a file, which is made when missing.
pub(crate) fn wait_for(path: &Path, share: Share) -> Result<Lock> {
    let mut file = open(path)?;
    let started = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        match attempt(&file, share) {
            Ok(()) if is_at(&file, path) => return Ok(Lock { file }),
            // The file was replaced while we waited: the lock that counts is the new one's.
            Ok(()) => {
                file = open(path)?;
                continue;
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => return Err(io("lock", path, source)),
        }
        if started.elapsed() >= PATIENCE {
            let path = path.parent().unwrap_or(path).to_owned();
            return Err(Refusal::Busy { path, seconds: PATIENCE.as_secs() }.into());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Takes a lock if it is free at once.
pub(crate) fn try_now(path: &Path, share: Share) -> Result<Option<Lock>> {
    let file = open(path)?;
    match attempt(&file, share) {
        Ok(()) if is_at(&file, path) => Ok(Some(Lock { file })),
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(io("lock", path, source)),
    }
}

fn attempt(file: &File, share: Share) -> Result<(), TryLockError> {
    match share {
        Share::Exclusive => file.try_lock(),
        Share::Shared => file.try_lock_shared(),
    }
}

/// Whether the open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(held), Ok(there)) => held.ino() == there.ino() && held.dev() == there.dev(),
        _ => false,
    }
}

fn open(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
        .map_err(|source| io("open", path, source))
}
