//! Stands between a capture and the sockets of the machine that is captured, and does something at a chosen step.
//!
//! The machine protocol is passed on line by line and its commands are counted, over all conversations. When QEMU has
//! begun to serve the disks over NBD, that socket is replaced as well, before the capture hears of it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Nothing: the commands are counted.
    Watch,
    /// The conversation is cut before this command reaches QEMU.
    CutBefore(u64),
    /// The command is done, and the conversation is cut before its answer is heard.
    CutBehind(u64),
    /// QEMU is killed before this command reaches it.
    Kill(u64, u32),
    /// Every connection over which disks are read is cut when so many bytes have been read over them together.
    CutReading(u64),
}

/// Socket of the machine protocol, and of the disks.
const QMP: &str = "qmp.sock";
const DISKS: &str = "capture.sock";

/// A way through that watches; everything is as it was when the value goes.
pub struct Between {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    dir: File,
    path: PathBuf,
    deed: Deed,
    over: AtomicBool,
    commands: Mutex<Vec<String>>,
    read: AtomicU64,
    struck: AtomicBool,
    /// Both ends of every conversation about disks.
    reading: Mutex<Vec<UnixStream>>,
}

impl Between {
    /// Steps between. `dir` is where the machine's sockets are.
    ///
    /// # Errors
    /// The system's.
    pub fn step(dir: &Path, deed: Deed) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            dir: File::open(dir)?,
            path: dir.to_owned(),
            deed,
            over: AtomicBool::new(false),
            commands: Mutex::default(),
            read: AtomicU64::new(0),
            struck: AtomicBool::new(false),
            reading: Mutex::default(),
        });
        let listener = shared.replace(QMP)?;
        let copy = Arc::clone(&shared);
        let thread = std::thread::spawn(move || copy.serve(&listener, QMP, Shared::converse));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The commands that were given, in their order.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        self.shared.commands.lock().map(|commands| commands.clone()).unwrap_or_default()
    }

    /// Bytes that were read of the disks.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.shared.read.load(Ordering::SeqCst)
    }

    /// Whether the deed was done.
    #[must_use]
    pub fn has_struck(&self) -> bool {
        self.shared.struck.load(Ordering::SeqCst)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the listener.
        let _ = UnixStream::connect(self.shared.place(QMP));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        let _ = std::fs::rename(self.shared.path.join(format!("{QMP}.real")), self.shared.path.join(QMP));
        let _ = std::fs::remove_file(self.shared.path.join(format!("{DISKS}.real")));
    }
}

impl Shared {
    /// A socket's path, however long that of the folder is.
    fn place(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.dir.as_raw_fd()))
    }

    /// Puts a listener of ours in the place of a socket.
    fn replace(&self, name: &str) -> io::Result<UnixListener> {
        std::fs::rename(self.path.join(name), self.path.join(format!("{name}.real")))?;
        UnixListener::bind(self.place(name))
    }

    fn serve(
        self: &Arc<Self>,
        listener: &UnixListener,
        name: &'static str,
        pass: fn(&Arc<Self>, &UnixStream, &UnixStream) -> io::Result<()>,
    ) {
        for client in listener.incoming() {
            let Ok(client) = client else { continue };
            if self.over.load(Ordering::SeqCst) {
                break;
            }
            // Nobody there: the client sees the end.
            let Ok(server) = UnixStream::connect(self.place(&format!("{name}.real"))) else { continue };
            let copy = Arc::clone(self);
            std::thread::spawn(move || pass(&copy, &client, &server));
        }
    }

    fn converse(self: &Arc<Self>, client: &UnixStream, server: &UnixStream) -> io::Result<()> {
        let pending = Arc::new(Mutex::new(Awaited::Nothing));
        let (shared, awaited) = (Arc::clone(self), Arc::clone(&pending));
        let (mut to_client, from_server) = (client.try_clone()?, BufReader::new(server.try_clone()?));
        std::thread::spawn(move || {
            for line in from_server.lines() {
                let Ok(line) = line else { break };
                let is_answer = line.contains("\"return\"") || line.contains("\"error\"");
                let awaited = awaited.lock().map(|awaited| *awaited).unwrap_or(Awaited::Nothing);
                match awaited {
                    Awaited::Cut if is_answer => break,
                    Awaited::Disks if is_answer => shared.read_between(),
                    _ => {}
                }
                if to_client.write_all(format!("{line}\r\n").as_bytes()).is_err() {
                    break;
                }
            }
            let _ = to_client.shutdown(Shutdown::Both);
        });
        let mut to_server = server.try_clone()?;
        for line in BufReader::new(client.try_clone()?).lines() {
            let Ok(line) = line else { break };
            let number = self.count(&line);
            let next = match self.deed {
                Deed::CutBefore(at) if at == number => {
                    self.struck.store(true, Ordering::SeqCst);
                    break;
                }
                Deed::Kill(at, pid) if at == number => {
                    self.struck.store(true, Ordering::SeqCst);
                    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap_or(0)), Signal::SIGKILL);
                    break;
                }
                Deed::CutBehind(at) if at == number => {
                    self.struck.store(true, Ordering::SeqCst);
                    Awaited::Cut
                }
                _ if line.contains("\"nbd-server-start\"") => Awaited::Disks,
                _ => Awaited::Nothing,
            };
            if let Ok(mut pending) = pending.lock() {
                *pending = next;
            }
            if to_server.write_all(format!("{line}\n").as_bytes()).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
        Ok(())
    }

    /// The number of a command; 0 for what is none.
    fn count(&self, line: &str) -> u64 {
        let message: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let Some(command) = message.get("execute").and_then(|command| command.as_str()) else { return 0 };
        let Ok(mut commands) = self.commands.lock() else { return 0 };
        commands.push(command.to_owned());
        u64::try_from(commands.len()).unwrap_or(0)
    }

    fn read_between(self: &Arc<Self>) {
        if !matches!(self.deed, Deed::CutReading(_) | Deed::Watch) {
            return;
        }
        if let Ok(listener) = self.replace(DISKS) {
            let copy = Arc::clone(self);
            // It ends with the process: nobody connects when the capture is over.
            std::thread::spawn(move || copy.serve(&listener, DISKS, Shared::read));
        }
    }

    fn read(self: &Arc<Self>, client: &UnixStream, server: &UnixStream) -> io::Result<()> {
        if let Ok(mut reading) = self.reading.lock() {
            reading.push(client.try_clone()?);
            reading.push(server.try_clone()?);
        }
        let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || {
            let mut buf = vec![0; 4096];
            while let Ok(len @ 1..) = from_client.read(&mut buf) {
                if to_server.write_all(buf.get(..len).unwrap_or_default()).is_err() {
                    break;
                }
            }
            let _ = to_server.shutdown(Shutdown::Both);
        });
        let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
        let mut buf = vec![0; 64 << 10];
        loop {
            let len = from_server.read(&mut buf)?;
            let before = self.read.fetch_add(u64::try_from(len).unwrap_or(0), Ordering::SeqCst);
            let limit = match self.deed {
                Deed::CutReading(limit) => limit,
                _ => u64::MAX,
            };
            let left = usize::try_from(limit.saturating_sub(before)).unwrap_or(usize::MAX);
            let passed = buf.get(..len.min(left)).unwrap_or_default();
            to_client.write_all(passed)?;
            if len == 0 {
                return to_client.shutdown(Shutdown::Both);
            }
            if left < len {
                self.struck.store(true, Ordering::SeqCst);
                let Ok(reading) = self.reading.lock() else { return Ok(()) };
                for stream in reading.iter() {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
        }
    }
}

/// What is done with the next answer.
#[derive(Clone, Copy)]
enum Awaited {
    Nothing,
    Cut,
    Disks,
}
