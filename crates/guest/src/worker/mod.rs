//! The reader of a stranger's disk as a process of its own. It is given no file: it asks its parent for the bytes of
//! the disks and hands back a report, through two pipes. Whatever a parser in it does, it can open nothing, connect to
//! nothing and start nothing, and when it dies, that is an answer.

mod cage;
mod serve;
mod wire;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use kiln_disk::{Budget, Disk, Error, GuestOffset, Limits, Result};
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, Signal, kill_process};

pub use cage::{Cage, Confinement, Landlock};

use self::wire::{Heard, MAX_READ, Said, Task, receive, send, send_before};
use crate::cache::is_hole;
use crate::facts::{Depth, examine};
use crate::look::{Asked, Look, Question};
use crate::rules::Judgement;

/// The argument with which the program is started as a worker.
pub const ARGUMENT: &str = "guest-worker";

/// Bytes in the pipe to the worker; what an ordinary user may have.
const PIPE: usize = 1 << 20;

/// How much longer than its budget a look may take before its worker is ended.
const GRACE: Duration = Duration::from_secs(10);

/// Is the worker: takes one task from standard input and answers on standard output.
#[must_use]
pub fn run() -> ExitCode {
    let (input, output) = (io::stdin(), io::stdout());
    let own = input.as_fd().try_clone_to_owned().and_then(|input| {
        let output = output.as_fd().try_clone_to_owned()?;
        Ok((BufReader::new(File::from(input)), File::from(output)))
    });
    let Ok((from, to)) = own else { return ExitCode::FAILURE };
    match serve::serve(from, to, cage::enter()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// What a worker of this program cannot do here.
///
/// # Errors
/// One that cannot be started, or that ends without an answer.
pub fn probe(program: &Path) -> Result<Confinement> {
    match talk(program, &[], &Task::Probe, GRACE)? {
        Spoken::Said(Said::Probed(confinement)) => Ok(confinement),
        Spoken::Said(_) => Err(unheard("an answer to another question")),
        Spoken::Ended(why) => Err(unheard(&why)),
    }
}

fn unheard(why: &str) -> Error {
    Error::io("hear", "the reader of guests", io::Error::other(why.to_owned()))
}

/// Has a worker look.
pub(crate) fn look(program: &Path, disks: &[Arc<dyn Disk>], question: &Question) -> Result<Look> {
    let task = Task::Look { disks: disks.iter().map(Disk::disk_len).collect(), question: question.clone() };
    match talk(program, disks, &task, question.limits.time.saturating_add(GRACE))? {
        Spoken::Said(Said::Looked(look)) => Ok(*look),
        Spoken::Said(Said::Failed(error)) => Err(error.into()),
        Spoken::Said(_) => nothing(question, "it gave an answer to another question"),
        Spoken::Ended(why) => nothing(question, &why),
    }
}

/// The look of a worker that has not answered.
fn nothing(question: &Question, why: &str) -> Result<Look> {
    let why = format!("the reader of this disk was stopped by what is on it: {why}");
    let mut report = examine(&[], &Arc::new(Budget::new(Limits::INSPECT)), Depth::Quick)?.report;
    report.problems.push(why.clone());
    let unknown = |asked: &Asked| {
        asked.places.iter().map(|place| Judgement::unanswered(place, "os.root", why.clone())).collect()
    };
    let judgements = question.asked.iter().map(unknown).collect();
    Ok(Look { report, judgements, unanswered: Some(why) })
}

/// How a conversation ended.
enum Spoken {
    /// With an answer.
    Said(Said),
    /// Without; why.
    Ended(String),
}

/// Starts a worker, gives it the task and bytes of the disks, until it has answered.
fn talk(program: &Path, disks: &[Arc<dyn Disk>], task: &Task, time: Duration) -> Result<Spoken> {
    let mut child = Command::new(program)
        .arg(ARGUMENT)
        .env_clear()
        .current_dir("/")
        // What a terminal sends to us is not for it: it ends when its pipe does.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| {
            Error::io("start", format!("the reader of guests, {}", program.display()), source)
        })?;
    let late = AtomicBool::new(false);
    let spoken = std::thread::scope(|scope| {
        let (answered, over) = channel::<()>();
        let pid = Pid::from_child(&child);
        let late = &late;
        scope.spawn(move || {
            if over.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                late.store(true, Ordering::Relaxed);
                // It is not waited for before this thread has ended, so the number is still its own.
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let spoken = converse(&mut child, disks, task);
        drop(answered);
        spoken
    });
    // A dead process keeps the status that it died with.
    let _ = child.kill();
    let status = child.wait().map_err(|source| Error::io("wait for", "the reader of guests", source))?;
    Ok(match spoken {
        Ok(said) => Spoken::Said(said),
        Err(_) if late.load(Ordering::Relaxed) => {
            Spoken::Ended(format!("it had not ended after {} s", time.as_secs()))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Spoken::Ended(error.to_string()),
        Err(_) => Spoken::Ended(ended(status)),
    })
}

fn ended(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("it ended by signal {signal}"),
        (None, code) => format!("it ended with status {}", code.unwrap_or_default()),
    }
}

fn converse(child: &mut Child, disks: &[Arc<dyn Disk>], task: &Task) -> io::Result<Said> {
    let (to, from) = (child.stdin.take(), child.stdout.take());
    let (Some(mut to), Some(from)) = (to, from) else { return Err(io::ErrorKind::BrokenPipe.into()) };
    // A whole piece of the disk fits, so that neither side waits for the other within one; as wide as the kernel lets.
    let _ = fcntl_setpipe_size(&to, PIPE);
    answer(&mut BufReader::new(from), &mut to, disks, task)
}

/// Our side of the conversation. The other is not trusted: it may be under the command of the disk.
fn answer(
    from: &mut impl Read,
    to: &mut impl Write,
    disks: &[Arc<dyn Disk>],
    task: &Task,
) -> io::Result<Said> {
    send(to, task)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "it asked for what there is not");
    let of = |disk: u16| disks.get(usize::from(disk)).ok_or_else(wrong);
    let mut bytes = Vec::new();
    loop {
        match receive(from)? {
            Said::Read { disk, at, len } => {
                if len > MAX_READ {
                    return Err(wrong());
                }
                let disk = of(disk)?;
                if is_hole(disk.as_ref(), at, len.into()) {
                    send(to, &Heard::Zeros)?;
                    continue;
                }
                bytes.resize(usize::try_from(len).unwrap_or(0), 0);
                match disk.read_guest(GuestOffset::new(at), &mut bytes) {
                    Ok(()) => send_before(to, &Heard::Bytes, &bytes)?,
                    Err(error) => send(to, &Heard::Failed(error.into()))?,
                }
            }
            said => return Ok(said),
        }
    }
}
