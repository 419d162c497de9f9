//! The serial console of a running instance, joined to a terminal.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use kiln_catalog::machine::CONSOLE_SOCKET;
use kiln_catalog::{InstanceRecord, Store};
use kiln_qemu::socket;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};

use crate::error::{Refusal, Result, io as failed};
use crate::process::title;

/// Ctrl-], as telnet and virsh have it.
pub const ESCAPE: u8 = 0x1d;

/// How a session at a console ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By the user.
    Escaped,
    /// The machine ended.
    HungUp,
    /// The input ended.
    EndOfInput,
}

/// Joins the console to input and output until [`ESCAPE`] is typed or one side ends. A terminal is put into raw mode
/// meanwhile. QEMU serves one at a time: a second one sees nothing until the first has left.
///
/// # Errors
/// [`Refusal::NotRunning`]; I/O.
pub fn attach(
    store: &Store,
    record: &InstanceRecord,
    mut input: impl Read + AsFd + Send + 'static,
    mut output: impl Write,
) -> Result<Left> {
    let dir = store.instance_dir(&record.id);
    let path = dir.join(CONSOLE_SOCKET);
    if !store.instance_running(&record.id)? {
        return Err(Refusal::NotRunning { name: title(record) }.into());
    }
    let mut stream = socket::connect(&dir, CONSOLE_SOCKET, Duration::from_secs(2))?;
    let writer = stream.try_clone().map_err(|source| failed("open", &path, source))?;
    let copy = input.as_fd().try_clone_to_owned().map_err(|source| failed("open", &path, source))?;
    let _raw = isatty(&copy).then(|| Raw::enter(copy));
    let (ended, end) = std::sync::mpsc::channel();
    // It blocks in a read of a terminal that nobody can interrupt: it goes with the process.
    std::thread::spawn(move || {
        let left = type_into(&mut input, writer);
        let _ = ended.send(left);
    });
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return Ok(end.try_recv().unwrap_or(Left::HungUp)),
            Ok(len) => {
                output
                    .write_all(buf.get(..len).unwrap_or_default())
                    .and_then(|()| output.flush())
                    .map_err(|source| failed("write", std::path::Path::new("the terminal"), source))?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(Left::HungUp),
        }
    }
}

/// Sends what is typed, and hangs up at its end.
fn type_into(input: &mut impl Read, mut writer: UnixStream) -> Left {
    let mut buf = [0; 1024];
    let left = loop {
        let len = match input.read(&mut buf) {
            Ok(0) => break Left::EndOfInput,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break Left::EndOfInput,
        };
        let typed = buf.get(..len).unwrap_or_default();
        let upto = typed.iter().position(|byte| *byte == ESCAPE);
        if writer.write_all(typed.get(..upto.unwrap_or(len)).unwrap_or_default()).is_err() {
            break Left::HungUp;
        }
        if upto.is_some() {
            break Left::Escaped;
        }
    };
    if left == Left::EndOfInput {
        // What was sent is still being answered: `echo command | kiln console` shows what comes within a moment.
        std::thread::sleep(Duration::from_millis(500));
    }
    let _ = writer.shutdown(Shutdown::Both);
    left
}

/// A terminal in raw mode, put back on drop.
struct Raw {
    terminal: std::os::fd::OwnedFd,
    before: Option<Termios>,
}

impl Raw {
    fn enter(terminal: std::os::fd::OwnedFd) -> Self {
        let before = tcgetattr(&terminal).ok();
        if let Some(mut raw) = before.clone() {
            raw.make_raw();
            let _ = tcsetattr(&terminal, OptionalActions::Now, &raw);
        }
        Self { terminal, before }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(&self.terminal, OptionalActions::Now, before);
        }
    }
}
