//! The operating system's calls behind safe functions: holes, clones, durable directories, early write-out.
//!
//! The only module of the workspace where `unsafe` may live: for the calls that rustix does not have.

use std::fs::{File, Metadata};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

use crate::source::{Run, RunKind};

mod qemu_lock;

pub use qemu_lock::{QemuLock, claim_reading, qemu_lock};

/// Flags for opening what a stranger named: a FIFO must not block us.
pub(crate) fn open_flags_nonblock() -> i32 {
    // The two flag sets share the kernel's numbering.
    i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0)
}

pub(crate) fn is_block_device(metadata: &Metadata) -> bool {
    metadata.file_type().is_block_device()
}

/// Length of a block device in bytes. The cursor is ours to move: all reads are positional.
pub(crate) fn device_len(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, SeekFrom::End(0))?)
}

/// Whether SEEK_HOLE tells the truth about a file that somebody else may just have written.
///
/// OpenZFS reported holes over dirty data (openzfs/zfs#15526), and network or FUSE file systems answer for a
/// server we do not know. Those are read in full; the local file systems below keep their map under the same
/// lock as their pages.
pub(crate) fn holes_are_trustworthy(file: &File) -> bool {
    const EXT: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    const TMPFS: u64 = 0x0102_1994;
    const F2FS: u64 = 0xf2f5_2010;
    rustix::fs::fstatfs(file).is_ok_and(|stat| {
        u64::try_from(stat.f_type).is_ok_and(|magic| [EXT, XFS, BTRFS, TMPFS, F2FS].contains(&magic))
    })
}

/// The run of data or hole at `at`, at most `rest` bytes (the rest of the file).
pub(crate) fn run_at(file: &File, at: u64, rest: NonZeroU64) -> io::Result<Run> {
    let data_start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(Run { kind: RunKind::Hole, len: rest }),
        // No hole map on this file system.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Run { kind: RunKind::Data, len: rest }),
        Err(errno) => return Err(errno.into()),
    };
    if let Some(len) = data_start.checked_sub(at).and_then(NonZeroU64::new) {
        return Ok(Run { kind: RunKind::Hole, len: len.min(rest) });
    }
    let data_end = rustix::fs::seek(file, SeekFrom::Hole(at))?;
    let len = data_end.checked_sub(at).and_then(NonZeroU64::new).unwrap_or(rest);
    Ok(Run { kind: RunKind::Data, len: len.min(rest) })
}

/// Makes `target` share all blocks of `source` (FICLONE); `false` where the file systems cannot.
///
/// Only for a `source` that Kiln wrote and finished itself.
///
/// # Errors
/// Any error but "not supported" and "not on one file system".
pub fn clone_file(source: &File, target: &File) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(target, source) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::NOTTY) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Lets the kernel copy up to `len` bytes; returns how many it did, 0 where it cannot.
///
/// Only for a `source` that Kiln wrote and finished itself: the call may copy a hole where data is in flight.
///
/// # Errors
/// Any error but "not supported" and "not on one file system".
pub fn copy_range(source: &File, from: u64, target: &File, to: u64, len: u64) -> io::Result<u64> {
    let (mut from, mut to) = (from, to);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), len) {
        Ok(copied) => Ok(u64::try_from(copied).unwrap_or(u64::MAX)),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOSYS) => Ok(0),
        Err(errno) => Err(errno.into()),
    }
}

/// Starts bringing a range of a file to the device, and does not wait. Advice: failure is no error, for the sync
/// that must follow tells.
#[allow(unsafe_code)]
pub(crate) fn start_write_out(file: &File, at: u64, len: u64) {
    use std::os::fd::AsRawFd;
    let (Ok(at), Ok(len)) = (i64::try_from(at), i64::try_from(len)) else { return };
    // SAFETY: takes numbers only; the descriptor is open for as long as `file` is borrowed.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// The kind of file system that a path is on, as `mount` calls it; "unknown" for one that is not in the list.
///
/// # Errors
/// Whatever the system says.
pub fn file_system_name(path: &Path) -> io::Result<&'static str> {
    // Magic numbers: linux/magic.h, and the sources of those that are not in it.
    const NAMES: [(u64, &str); 16] = [
        (0xef53, "ext4"),
        (0x5846_5342, "xfs"),
        (0x9123_683e, "btrfs"),
        (0xf2f5_2010, "f2fs"),
        (0xca45_1a4e, "bcachefs"),
        (0x2fc1_2fc1, "zfs"),
        (0x0102_1994, "tmpfs"),
        (0x794c_7630, "overlay"),
        (0x6969, "nfs"),
        (0xff53_4d42, "cifs"),
        (0xfe53_4d42, "smb"),
        (0x6573_5546, "fuse"),
        (0x0102_1997, "9p"),
        (0x00c3_6400, "ceph"),
        (0x4d44, "vfat"),
        (0x2011_bab0, "exfat"),
    ];
    let magic = u64::try_from(rustix::fs::statfs(path)?.f_type).unwrap_or(0) & 0xffff_ffff;
    Ok(NAMES.iter().find(|(number, _)| *number == magic).map_or("unknown", |(_, name)| name))
}

/// Bytes of the file system at a path: free for this user, and in all.
///
/// # Errors
/// Whatever the system says.
pub fn free_space(path: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

/// A file in `dir` that never has a name, or loses it before anybody could look.
///
/// # Errors
/// Whatever the system says.
pub fn unnamed(dir: &Path) -> io::Result<File> {
    match unnamed_file(dir)? {
        Some(file) => Ok(file),
        None => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// An unnamed file in `dir`, which vanishes with its last descriptor; `None` where the file system cannot.
pub(crate) fn unnamed_file(dir: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(dir, flags, Mode::from_raw_mode(0o666)) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Gives an unnamed file a name that is not taken.
pub(crate) fn link_unnamed(file: &File, path: &Path) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // AT_EMPTY_PATH wants a capability; the /proc way is open to everybody.
    let proc = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(rustix::fs::CWD, proc, rustix::fs::CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Renames without replacing: `AlreadyExists` when `to` is there.
pub(crate) fn rename_no_replace(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(rustix::fs::CWD, from, rustix::fs::CWD, to, RenameFlags::NOREPLACE) {
        // File systems without renameat2 flags: a hard link refuses an existing name just as well.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        other => Ok(other?),
    }
}

/// A directory to open names in, for which the right to search it is enough.
///
/// # Errors
/// Whatever opening says.
pub fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Opens the file `name` of `dir` for reading; `None` when it is a symbolic link. Never waits for a FIFO. That
/// `name` is a single component is the caller's to see to.
///
/// # Errors
/// Whatever opening says.
pub fn open_in(dir: &OwnedFd, name: &str) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes names in `dir` durable.
///
/// # Errors
/// Whatever fsync answers; the names may then be lost by a power cut.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Lets a program that will be started lead a session of its own: it outlives the terminal and the shell that we were
/// started from, and their signals do not reach it.
pub fn detach(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    #[allow(unsafe_code)]
    // SAFETY: between fork and exec only setsid(2) is called, which is safe after a signal.
    unsafe {
        command.pre_exec(|| match rustix::process::setsid() {
            Ok(_) => Ok(()),
            Err(errno) => Err(errno.into()),
        });
    }
}
