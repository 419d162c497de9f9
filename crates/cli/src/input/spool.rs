//! Reading a pipe without being deaf meanwhile.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

/// Unit in which the pipe is read.
const CHUNK: usize = 1 << 18;

/// Where spool files go when there is no better place: `$TMPDIR`, else `/var/tmp`, which is on a disk where `/tmp`
/// may be memory.
pub(crate) fn default_dir() -> PathBuf {
    std::env::var_os("TMPDIR").filter(|dir| !dir.is_empty()).map_or_else(|| "/var/tmp".into(), PathBuf::from)
}

/// A pipe whose reads come back with `Interrupted` now and then while nothing arrives. A read of a silent pipe
/// blocks for ever, so it has a thread of its own, and whoever reads from here hears a wish to stop.
pub(super) struct PatientPipe {
    chunks: Receiver<io::Result<Vec<u8>>>,
    current: Vec<u8>,
    taken: usize,
}

impl PatientPipe {
    pub(super) fn new(mut pipe: impl Read + Send + 'static) -> Self {
        let (sender, chunks) = sync_channel(8);
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK];
                let read = loop {
                    match pipe.read(&mut chunk) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        other => break other,
                    }
                };
                let last = !matches!(read, Ok(len) if len > 0);
                let chunk = read.map(|len| {
                    chunk.truncate(len);
                    chunk
                });
                if sender.send(chunk).is_err() || last {
                    return;
                }
            }
        });
        Self { chunks, current: Vec::new(), taken: 0 }
    }
}

impl Read for PatientPipe {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.current.len() {
            match self.chunks.recv_timeout(Duration::from_millis(100)) {
                Ok(chunk) => {
                    self.current = chunk?;
                    self.taken = 0;
                }
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::Interrupted.into()),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let rest = self.current.get(self.taken..).unwrap_or_default();
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.taken += len;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_comes_through_in_order_and_the_end_stays_the_end() {
        let bytes: Vec<u8> = (0..1_000_003_u32).map(|n| (n % 251) as u8).collect();
        let mut pipe = PatientPipe::new(io::Cursor::new(bytes.clone()));
        let mut got = Vec::new();
        pipe.read_to_end(&mut got).unwrap();
        assert_eq!(got, bytes);
        assert_eq!(pipe.read(&mut [0; 8]).unwrap(), 0);
    }

    #[test]
    fn silence_is_an_interruption_not_a_hang() {
        let (reader, writer) = io::pipe().unwrap();
        let mut pipe = PatientPipe::new(reader);
        assert_eq!(pipe.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::Interrupted);
        drop(writer);
        assert_eq!(pipe.read(&mut [0; 8]).unwrap(), 0);
    }
}
