//! The watchdog: a process that outlives the capture, thaws the guest and takes away what was put into QEMU.
//!
//! It is the same program, started with a word of its own. It is told over its standard input what there is to do and
//! how far the capture is; when that ends without the word `done`, the capture has died. A capture that holds the
//! guest frozen for much longer than allowed, because it was stopped by a signal or hangs, is killed: a guest that
//! stands still is worse than a capture that is lost.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::freeze::thaw;
use super::monitor::Address;
use super::point::{Rig, running};
use crate::error::{Error, Refusal, Result};

/// How much longer than allowed a guest may stand still before the capture is killed: it thaws by itself meanwhile,
/// over several connections if it has to.
const GRACE: Duration = Duration::from_secs(15);
/// How long a rescue tries.
const RESCUE: Duration = Duration::from_secs(120);

/// What a watchdog has to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orders {
    pub(crate) qmp: Address,
    pub(crate) agent: Option<Address>,
    pub(crate) rig: Rig,
    /// Bitmaps that stay.
    pub(crate) keep: Vec<String>,
    /// How long the guest may stand still.
    pub(crate) limit_ms: u64,
    /// The capture's process.
    pub(crate) parent: u32,
    /// Folders that go in the end.
    pub(crate) scratch: Vec<PathBuf>,
}

/// How far the capture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// The order to freeze goes out now.
    Freezing,
    /// The guest goes on.
    Thawed,
    /// The machine is paused for the point in time now.
    Pausing,
    /// It goes on.
    Resumed,
    /// The images are there: their bitmaps are the ones that stay.
    Published,
    /// Everything is as it was.
    Done,
}

/// A running watchdog, as the capture sees it.
pub(crate) struct Watchdog {
    child: Option<(Child, ChildStdin)>,
}

impl Watchdog {
    /// Starts one. Without a command there is none.
    pub(crate) fn start(command: Option<&[String]>, orders: &Orders) -> Result<Self> {
        let Some((program, words)) = command.and_then(|command| command.split_first()) else {
            return Ok(Self { child: None });
        };
        let failed = |error: std::io::Error| {
            Error::from(Refusal::Program { program: "the watchdog", words: error.to_string() })
        };
        use std::os::unix::process::CommandExt;
        let mut child = Command::new(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A signal to the capture's whole group is not for it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let mut pipe = child.stdin.take().ok_or_else(|| failed(std::io::ErrorKind::BrokenPipe.into()))?;
        let line = serde_json::to_string(orders).unwrap_or_default();
        pipe.write_all(format!("{line}\n").as_bytes()).map_err(failed)?;
        Ok(Self { child: Some((child, pipe)) })
    }

    /// Nobody watches.
    pub(crate) fn none() -> Self {
        Self { child: None }
    }

    /// Says how far the capture is.
    ///
    /// # Errors
    /// [`Refusal::Program`] when the watchdog is not there any more: then nothing may be frozen.
    pub(crate) fn tell(&mut self, state: State) -> Result<()> {
        let Some((child, pipe)) = &mut self.child else { return Ok(()) };
        let line = serde_json::to_string(&state).unwrap_or_default();
        let written = pipe.write_all(format!("{line}\n").as_bytes());
        let ended = matches!(child.try_wait(), Ok(Some(_)));
        if written.is_ok() && !ended {
            return Ok(());
        }
        Err(Refusal::Program { program: "the watchdog", words: "it ended early".to_owned() }.into())
    }

    /// Everything is as it was.
    pub(crate) fn done(mut self) {
        let _ = self.tell(State::Done);
        if let Some((mut child, pipe)) = self.child.take() {
            drop(pipe);
            let _ = child.wait();
        }
    }
}

/// Watches over a capture, as its orders on `input` say. Returns when there is nothing left to do.
///
/// # Errors
/// Orders that are none; a machine that could not be put in order.
pub fn watch(input: impl Read + Send + 'static) -> Result<()> {
    let (send, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(input).lines() {
            let Ok(line) = line else { break };
            if send.send(line).is_err() {
                break;
            }
        }
    });
    let bad = |words: String| Error::from(Refusal::Program { program: "the watchdog", words });
    let first = lines.recv().map_err(|error| bad(error.to_string()))?;
    let mut orders: Orders = serde_json::from_str(&first).map_err(|error| bad(error.to_string()))?;
    let allowed = Duration::from_millis(orders.limit_ms).saturating_add(GRACE);
    let (mut frozen, mut paused): (Option<Instant>, bool) = (None, false);
    loop {
        let wait =
            frozen.map_or(Duration::from_secs(86_400), |since| allowed.saturating_sub(since.elapsed()));
        match lines.recv_timeout(wait) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(State::Freezing) => frozen = Some(Instant::now()),
                Ok(State::Thawed) => frozen = None,
                Ok(State::Pausing) => paused = true,
                Ok(State::Resumed) => paused = false,
                Ok(State::Published) => orders.keep = orders.rig.since(),
                Ok(State::Done) => return Ok(()),
                Err(_) => {}
            },
            Err(RecvTimeoutError::Timeout) if frozen.is_none() => {}
            Err(RecvTimeoutError::Timeout) => {
                kill(orders.parent);
                break;
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    rescue(&orders, frozen.is_some(), paused)
}

/// Ends the capture, if it is still our parent.
fn kill(parent: u32) {
    use rustix::process::{Pid, Signal, getppid, kill_process};
    let pid = i32::try_from(parent).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid.filter(|pid| getppid() == Some(*pid)) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

fn rescue(orders: &Orders, frozen: bool, paused: bool) -> Result<()> {
    if let Some(agent) = orders.agent.as_ref().filter(|_| frozen) {
        thaw(agent, None, RESCUE);
    }
    let began = Instant::now();
    let put_right = loop {
        let tried = (|| {
            let mut qmp = orders.qmp.monitor()?;
            // Nothing of a capture that began meanwhile.
            let undone = orders.rig.undo(qmp.as_mut(), &orders.keep, false);
            if paused && !running(qmp.as_mut())? {
                qmp.execute("cont", json!({}))?;
            }
            Ok(undone?)
        })();
        match tried {
            Err(Error::Qemu(error)) if error.is_gone() => break Ok(()),
            Err(error) if began.elapsed() >= RESCUE => break Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(500)),
            Ok(()) => break Ok(()),
        }
    };
    for dir in &orders.scratch {
        let _ = std::fs::remove_dir_all(dir);
    }
    put_right
}
