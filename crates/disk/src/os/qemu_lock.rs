//! The locks by which QEMU processes tell each other what they do to a file (QEMU's `block/file-posix.c`).
//!
//! For each permission, byte 100 + n is locked by who uses it, byte 200 + n by who does not let others use it. They
//! are "open file description" locks (fcntl(2)), which `flock` neither sees nor touches, and a `qemu-img` that runs
//! for a moment takes them like a machine that runs for years.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// QEMU's `RAW_LOCK_PERM_BASE`.
const USED: i64 = 100;
/// QEMU's `RAW_LOCK_SHARED_BASE`.
const NOT_SHARED: i64 = 200;
/// QEMU's `BLK_PERM_CONSISTENT_READ`, `BLK_PERM_WRITE` and `BLK_PERM_RESIZE` as bit numbers.
const CONSISTENT_READ: i64 = 0;
const WRITE: i64 = 1;
const RESIZE: i64 = 3;

/// What other processes do to a file, by QEMU's locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QemuLock {
    /// Somebody writes to it or changes its length.
    pub writes: bool,
    /// Somebody reads it and does not let others write.
    pub forbids_writing: bool,
    /// Somebody does not let others read it, because what it holds is not consistent.
    pub forbids_reading: bool,
}

/// Asks what others do to `file`. What this process holds through `file` itself does not count.
///
/// # Errors
/// Whatever the system says; a file system without such locks says `EINVAL` or `ENOLCK`.
pub fn qemu_lock(file: &File) -> io::Result<QemuLock> {
    Ok(QemuLock {
        writes: is_locked(file, USED + WRITE)? || is_locked(file, USED + RESIZE)?,
        forbids_writing: is_locked(file, NOT_SHARED + WRITE)?,
        forbids_reading: is_locked(file, NOT_SHARED + CONSISTENT_READ)?,
    })
}

/// Tells QEMU processes that `file` is read here and must not be written, for as long as `file` is open. `false`
/// when somebody writes already.
///
/// # Errors
/// Whatever the system says.
pub fn claim_reading(file: &File) -> io::Result<bool> {
    for byte in [USED + CONSISTENT_READ, NOT_SHARED + WRITE, NOT_SHARED + RESIZE] {
        let mut lock = range(byte, libc::F_RDLCK);
        fcntl(file, libc::F_OFD_SETLK, &mut lock)?;
    }
    // QEMU too sets its own locks first and looks at the others' then, so that of two at least one sees the other.
    let others = qemu_lock(file)?;
    Ok(!others.writes && !others.forbids_reading)
}

fn is_locked(file: &File, byte: i64) -> io::Result<bool> {
    let mut lock = range(byte, libc::F_WRLCK);
    fcntl(file, libc::F_OFD_GETLK, &mut lock)?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn range(byte: i64, kind: i32) -> libc::flock {
    // The constants are 0, 1 and 2.
    let l_type = i16::try_from(kind).unwrap_or_default();
    libc::flock { l_type, l_whence: 0, l_start: byte, l_len: 1, l_pid: 0 }
}

#[allow(unsafe_code)]
fn fcntl(file: &File, command: i32, lock: &mut libc::flock) -> io::Result<()> {
    // SAFETY: `lock` is a whole `struct flock` that lives through the call, which is all that these commands take;
    // the descriptor is open for as long as `file` is borrowed.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, std::ptr::from_mut(lock)) };
    if answer == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The locks that `qemu-system` takes for a disk that its guest writes to.
    fn write_like_qemu(file: &File) {
        for byte in [USED + CONSISTENT_READ, USED + WRITE, NOT_SHARED + WRITE, NOT_SHARED + RESIZE] {
            fcntl(file, libc::F_OFD_SETLK, &mut range(byte, libc::F_RDLCK)).unwrap();
        }
    }

    #[test]
    fn writer_is_seen_by_others_and_not_by_itself() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mine = File::options().read(true).write(true).open(path.path()).unwrap();
        let other = File::open(path.path()).unwrap();
        assert_eq!(qemu_lock(&other).unwrap(), QemuLock::default());
        write_like_qemu(&mine);
        assert_eq!(qemu_lock(&mine).unwrap(), QemuLock::default());
        let seen = qemu_lock(&other).unwrap();
        assert_eq!(seen, QemuLock { writes: true, forbids_writing: true, forbids_reading: false });
        assert!(!claim_reading(&other).unwrap());
        drop(mine);
        assert_eq!(qemu_lock(&other).unwrap(), QemuLock::default());
        assert!(claim_reading(&other).unwrap());
    }

    #[test]
    fn readers_bear_each_other_and_keep_writers_out() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let (one, two) = (File::open(path.path()).unwrap(), File::open(path.path()).unwrap());
        assert!(claim_reading(&one).unwrap() && claim_reading(&two).unwrap());
        let third = File::open(path.path()).unwrap();
        assert!(qemu_lock(&third).unwrap().forbids_writing);
    }
}
