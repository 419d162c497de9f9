//! The process of an instance: starting it, talking to it, ending it.
//!
//! QEMU is no child that is looked after: it leads its own session, its working directory is the instance's folder, and
//! its standard input is the file whose kernel lock says that it runs. So the lock lives exactly as long as QEMU
//! does, whatever becomes of us.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use kiln_catalog::machine::{
    AGENT_SOCKET, CAPTURE_SOCKET, CONSOLE_LOG, CONSOLE_SOCKET, MachineFirmware, Network, QMP_SOCKET,
};
use kiln_catalog::{InstanceRecord, Store};
use kiln_disk::{Observer, go_on, os};
use kiln_qemu::{Channel, Limits, qmp, socket};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::json;

use crate::arch;
use crate::command::{self, CONTROL_SOCKET};
use crate::error::{Failure, Refusal, Result, io};
use crate::host::Host;
use crate::log;
use crate::plan::is_free;

/// What QEMU itself says.
pub const QEMU_LOG: &str = "qemu.log";
/// How long a QEMU may take until it answers: fifty of them may be starting on two processors.
const GREETING: Duration = Duration::from_secs(120);
/// How often a guest is asked to power down: one that is not far enough in its boot misses the first wishes.
const ASK_AGAIN: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(25);

/// How an instance is called: its name, else its id.
#[must_use]
pub fn title(record: &InstanceRecord) -> String {
    record.name.as_ref().map_or_else(|| record.id.to_string(), ToString::to_string)
}

/// Starts an instance and waits until its QEMU answers. It runs on when we end.
///
/// # Errors
/// [`Refusal::Running`], [`Refusal::Port`]; [`Failure::NoProgram`], [`Failure::NoFirmware`], [`Failure::Exited`].
pub fn start(store: &Store, record: &InstanceRecord, host: &Host) -> Result<()> {
    let dir = store.instance_dir(&record.id);
    let lock = store.hold_instance(&record.id)?;
    let lock = lock.ok_or_else(|| Refusal::Running { name: title(record) })?;
    for nic in &record.machine.nics {
        if let Network::User { forwards } = &nic.network
            && let Some(taken) = forwards.iter().find(|forward| !is_free(forward.host))
        {
            return Err(Refusal::Port { port: taken.host, why: "is in use" }.into());
        }
    }
    let architecture = arch::find(Some(&record.machine.architecture))?;
    let uefi = match record.machine.firmware {
        MachineFirmware::Uefi => Some(architecture.uefi_files()?.0),
        MachineFirmware::Bios => None,
    };
    let program = architecture.emulator_in(host.path())?;
    let console = if host.keeper().is_empty() { CONSOLE_LOG } else { log::TO_KEEPER };
    let words =
        command::arguments(&record.machine, &title(record), architecture, host.accelerator(), uefi, console);
    // Nobody listens: we have the lock.
    for name in [CONTROL_SOCKET, QMP_SOCKET, AGENT_SOCKET, CONSOLE_SOCKET, CAPTURE_SOCKET] {
        remove(&dir.join(name))?;
    }
    log::begin_run(&dir)?;
    let said = log_file(&dir.join(QEMU_LOG))?;
    let other = said.try_clone().map_err(|source| io("open", &dir.join(QEMU_LOG), source))?;
    // Only shown; a store on a file system without times still works.
    let _ = lock.set_modified(SystemTime::now());
    let mut command = Command::new(&program);
    command
        .args(&words)
        .current_dir(&dir)
        .env_clear()
        .env("PATH", host.path().unwrap_or_default())
        .stdin(Stdio::from(lock))
        .stdout(match log::start_keeper(host.keeper(), &dir)? {
            Some(pipe) => Stdio::from(pipe),
            None => Stdio::from(other),
        })
        .stderr(Stdio::from(said));
    os::detach(&mut command);
    let child = command.spawn().map_err(|source| io("run", &program, source))?;
    // With the pipe's end: the keeper must see it end with QEMU.
    drop(command);
    greet(child, &dir)
}

/// Waits until QEMU answers, or is gone.
fn greet(mut child: Child, dir: &Path) -> Result<()> {
    let began = Instant::now();
    loop {
        if let Some(status) =
            child.try_wait().map_err(|source| io("wait for", &dir.join(QEMU_LOG), source))?
        {
            let said = tail(&dir.join(QEMU_LOG), 2000);
            let said = said.trim().replace('\n', "; ");
            return Err(Failure::Exited { status: status.to_string(), said }.into());
        }
        match control(dir, Duration::from_millis(50)) {
            Ok(_) => return Ok(()),
            // Not there yet, or too busy to listen; only who says something else is something else.
            Err(error) if error.code() != "qemu.protocol" => {
                if began.elapsed() > GREETING {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(Failure::TimedOut { what: "QEMU's greeting", after: GREETING }.into());
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A conversation over our own QMP socket.
pub(crate) fn control(dir: &Path, patience: Duration) -> Result<qmp::Client, kiln_qemu::Error> {
    let stream = socket::connect(dir, CONTROL_SOCKET, patience)?;
    let limits = Limits { reply_time: Duration::from_secs(10), ..Limits::default() };
    qmp::Client::connect(Channel::new(stream, "QEMU"), limits)
}

/// How a machine came to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stopped {
    /// It did not run.
    WasNotRunning,
    /// The guest powered itself down.
    PoweredDown,
    /// QEMU was told to end: the guest found its disk as after a power cut.
    Quit,
    /// QEMU did not listen and was killed.
    Killed,
}

/// Brings an instance to rest: asks the guest to power down, as with the button of a machine; when `patience` is over,
/// ends it. A patience of zero pulls the plug.
///
/// # Errors
/// `Cancelled`; I/O.
pub fn stop(
    store: &Store,
    record: &InstanceRecord,
    patience: Duration,
    observer: &dyn Observer,
) -> Result<Stopped> {
    let dir = store.instance_dir(&record.id);
    let began = Instant::now();
    let mut asked: Option<Instant> = None;
    if !store.instance_running(&record.id)? {
        return Ok(Stopped::WasNotRunning);
    }
    while began.elapsed() < patience {
        go_on(observer)?;
        if asked.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
            // A QEMU that does not answer is dealt with below.
            let _ = control(&dir, LOOK).and_then(|mut qmp| qmp.execute("system_powerdown", json!({})));
            asked = Some(Instant::now());
        }
        if !store.instance_running(&record.id)? {
            return Ok(Stopped::PoweredDown);
        }
        std::thread::sleep(LOOK);
    }
    let told = control(&dir, Duration::from_millis(500)).and_then(|mut qmp| qmp.execute("quit", json!({})));
    if ended_within(store, record, Duration::from_secs(if told.is_ok() { 10 } else { 1 }))? {
        return Ok(Stopped::Quit);
    }
    kill(&dir)?;
    if ended_within(store, record, Duration::from_secs(10))? {
        return Ok(Stopped::Killed);
    }
    Err(Failure::TimedOut { what: "the end of QEMU", after: Duration::from_secs(10) }.into())
}

/// Ends an instance and removes it with its disks.
///
/// # Errors
/// [`Refusal::Running`] when it runs and may not be ended; I/O.
pub fn destroy(
    store: &Store,
    record: &InstanceRecord,
    even_running: bool,
    observer: &dyn Observer,
) -> Result<InstanceRecord> {
    if even_running {
        stop(store, record, Duration::ZERO, observer)?;
    }
    // Held until the folder is gone, so that nobody starts it meanwhile.
    let lock = store.hold_instance(&record.id)?;
    let _lock = lock.ok_or_else(|| Refusal::Running { name: title(record) })?;
    Ok(store.drop_instance(&record.id)?)
}

fn ended_within(store: &Store, record: &InstanceRecord, patience: Duration) -> Result<bool> {
    let began = Instant::now();
    loop {
        if !store.instance_running(&record.id)? {
            return Ok(true);
        }
        if began.elapsed() > patience {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
}

/// The process of a running instance: the one whose standard input is the locked file. Asking its sockets would not do,
/// as a process that hangs lets nobody connect.
#[must_use]
pub fn pid(dir: &Path) -> Option<u32> {
    let lock = std::fs::metadata(dir.join(kiln_catalog::RUNNING)).ok()?;
    let processes = std::fs::read_dir("/proc").ok()?;
    let mut ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|id| has_lock(*id, &lock))
}

fn has_lock(id: u32, lock: &Metadata) -> bool {
    // Of processes of other users, and of those that end just now, nothing can be told.
    std::fs::metadata(format!("/proc/{id}/fd/0"))
        .is_ok_and(|input| (input.dev(), input.ino()) == (lock.dev(), lock.ino()))
}

/// Kills the process of an instance.
fn kill(dir: &Path) -> Result<()> {
    let path = dir.join(kiln_catalog::RUNNING);
    let lock = std::fs::metadata(&path).map_err(|source| io("stat", &path, source))?;
    let failed = |errno: rustix::io::Errno| io("end the process of", &path, errno);
    let Some(id) = pid(dir) else { return Ok(()) };
    let Some(raw) = i32::try_from(id).ok().and_then(Pid::from_raw) else { return Ok(()) };
    let process = pidfd_open(raw, PidfdFlags::empty()).map_err(failed)?;
    // The number could have become another process's meanwhile; from here on it cannot.
    if has_lock(id, &lock) {
        pidfd_send_signal(process, Signal::KILL).map_err(failed)?;
    }
    Ok(())
}

fn log_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(path);
    file.map_err(|source| io("create", path, source))
}

pub(crate) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path, source)),
        _ => Ok(()),
    }
}

/// The end of a text file, at most so many bytes; empty when there is none.
#[must_use]
pub fn tail(path: &Path, bytes: u64) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let len = file.metadata()?.len();
        file.seek(SeekFrom::Start(len.saturating_sub(bytes)))?;
        let mut text = Vec::new();
        file.take(bytes).read_to_end(&mut text)?;
        Ok(text)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

/// When the instance was last started.
#[must_use]
pub fn started_at(dir: &Path) -> Option<SystemTime> {
    std::fs::metadata(dir.join(kiln_catalog::RUNNING)).ok()?.modified().ok()
}
