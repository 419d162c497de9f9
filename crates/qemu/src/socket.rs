//! Sockets in folders with long names.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, Result};

/// Connects to the socket `name` in the folder `dir`, however long its path is: the kernel's limit of 107 bytes
/// holds for the text that is given to it, and `/proc/self/fd/N/name` is short.
///
/// A socket whose listener's queue is full, or that is not there yet, is tried again until `patience` is over.
///
/// # Errors
/// [`Error::Io`].
pub fn connect(dir: &Path, name: &str, patience: Duration) -> Result<UnixStream> {
    let peer = || dir.join(name).display().to_string();
    let failed = |source: io::Error| Error::Io { operation: "connect to", peer: peer(), source };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(dir, flags, Mode::empty()).map_err(|errno| failed(errno.into()))?;
    let short = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    let began = Instant::now();
    loop {
        match at_once(&short) {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                let may_come = matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
                );
                if !may_come || began.elapsed() >= patience {
                    return Err(failed(error));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

/// Connects or fails at once: a blocking connect to a listener whose queue is full, as that of a stopped process is
/// soon, would wait for ever.
fn at_once(path: &str) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    Ok(stream)
}
