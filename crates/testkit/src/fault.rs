//! A program that dies, or whose system fails it, at a chosen I/O system call.
//!
//! The program runs under ptrace. Every system call that opens, writes, names, removes or syncs counts, whichever
//! thread or child makes it: one counter, so that "the 17th" means the same in each run of a program that does the
//! same. At the chosen call everything is killed before the call is made, or the call is not made and answers an
//! error.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::power::Ledger;

/// What happens, and when. Calls are counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the calls are counted.
    None,
    /// The whole program is killed at this call.
    KillAt(u64),
    /// This call fails with an error number; the next ones do not.
    FailAt(u64, i32),
    /// This call and all that write or sync after it fail.
    FailFrom(u64, i32),
}

/// How a program under a fault ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// I/O system calls that it made, or was about to.
    pub calls: u64,
    /// Its exit code; none when it was killed.
    pub code: Option<i32>,
    /// Name of the call at which the fault struck.
    pub struck: Option<&'static str>,
}

/// The calls that count, and whether an error of them is one that a disk may give.
#[rustfmt::skip]
const CALLS: [(i64, &str, bool); 29] = [
    (libc::SYS_write, "write", true),
    (libc::SYS_pwrite64, "pwrite64", true),
    (libc::SYS_writev, "writev", true),
    (libc::SYS_pwritev, "pwritev", true),
    (libc::SYS_open, "open", false),
    (libc::SYS_openat, "openat", false),
    (libc::SYS_close, "close", false),
    (libc::SYS_fsync, "fsync", true),
    (libc::SYS_fdatasync, "fdatasync", true),
    (libc::SYS_rename, "rename", true),
    (libc::SYS_renameat, "renameat", true),
    (libc::SYS_renameat2, "renameat2", true),
    (libc::SYS_link, "link", true),
    (libc::SYS_linkat, "linkat", true),
    (libc::SYS_unlink, "unlink", false),
    (libc::SYS_unlinkat, "unlinkat", false),
    (libc::SYS_mkdir, "mkdir", true),
    (libc::SYS_mkdirat, "mkdirat", true),
    (libc::SYS_rmdir, "rmdir", false),
    (libc::SYS_ftruncate, "ftruncate", true),
    (libc::SYS_fallocate, "fallocate", true),
    (libc::SYS_copy_file_range, "copy_file_range", true),
    (libc::SYS_sendfile, "sendfile", true),
    (libc::SYS_ioctl, "ioctl", false),
    (libc::SYS_flock, "flock", false),
    (libc::SYS_sync_file_range, "sync_file_range", false),
    (libc::SYS_connect, "connect", false),
    (libc::SYS_sendto, "sendto", false),
    (libc::SYS_sendmsg, "sendmsg", false),
];

/// Whose calls count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Children {
    /// Theirs as well.
    Count,
    /// Other programs that it starts live and go on when it is killed.
    Free,
}

/// Runs a program under a fault, and what it starts as a part of it. As [`run_with`].
pub fn run(shell: Command, program: &OsStr, words: &[&OsStr], fault: Fault) -> Ended {
    run_with(shell, program, words, fault, Children::Count)
}

/// Runs a program under a fault. `shell` is `/bin/sh` with the directory and environment that the program gets. Its
/// output goes nowhere.
///
/// # Panics
/// When the program cannot be run or traced: tests cannot go on then.
pub fn run_with(
    shell: Command,
    program: &OsStr,
    words: &[&OsStr],
    fault: Fault,
    children: Children,
) -> Ended {
    alone(shell, program, words, Tracer::new(fault, children, None))
}

/// As [`run`], and writes into the ledger what the program has synced.
///
/// # Panics
/// As [`run_with`].
pub fn run_on(shell: Command, program: &OsStr, words: &[&OsStr], fault: Fault, ledger: &mut Ledger) -> Ended {
    alone(shell, program, words, Tracer::new(fault, Children::Count, Some(ledger)))
}

/// A tracer waits for all children of its thread: it gets one that has no others.
fn alone(shell: Command, program: &OsStr, words: &[&OsStr], tracer: Tracer<'_>) -> Ended {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| traced(shell, program, words, tracer));
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn traced(mut shell: Command, program: &OsStr, words: &[&OsStr], tracer: Tracer<'_>) -> Ended {
    // The shell waits for a line, so that nothing has happened when the tracer arrives.
    let command = shell.args(["-c", "read _ && exec \"$0\" \"$@\""]).arg(program).args(words);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let options = Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC;
    ptrace::seize(pid, options).unwrap();
    ptrace::interrupt(pid).unwrap();
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    let ended = tracer.follow(pid);
    // Reaped already; this only closes what is left of the handle.
    let _ = child.try_wait();
    ended
}

/// The system call that a thread is in.
#[derive(Debug, Clone, Copy)]
enum Inside {
    /// One that goes its way.
    Call,
    /// One that is not made, and answers this error.
    Refused(i32),
    /// A sync of this descriptor.
    Sync(u64),
}

struct Tracer<'a> {
    fault: Fault,
    children: Children,
    ledger: Option<&'a mut Ledger>,
    calls: u64,
    struck: Option<&'static str>,
    /// Whether the shell has become the program.
    begun: bool,
    /// Threads in a system call.
    inside: BTreeMap<i32, Inside>,
}

impl<'a> Tracer<'a> {
    fn new(fault: Fault, children: Children, ledger: Option<&'a mut Ledger>) -> Self {
        Self { fault, children, ledger, calls: 0, struck: None, begun: false, inside: BTreeMap::new() }
    }

    fn follow(mut self, root: Pid) -> Ended {
        let mut code = None;
        loop {
            // Of this thread's own tracees only: other tests of the process have children too.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            match waitpid(Pid::from_raw(-1), Some(flags)) {
                Ok(WaitStatus::Exited(pid, status)) => {
                    if pid == root {
                        code = Some(status);
                    }
                    self.inside.remove(&pid.as_raw());
                }
                Ok(WaitStatus::Signaled(pid, ..)) => {
                    self.inside.remove(&pid.as_raw());
                }
                Ok(WaitStatus::PtraceSyscall(pid)) => {
                    if self.at_call(pid) {
                        let _ = kill(root, Signal::SIGKILL);
                    }
                    // A thread that was killed does not make its call any more; a child that was not goes on.
                    let _ = ptrace::syscall(pid, None);
                }
                Ok(WaitStatus::PtraceEvent(pid, _, event)) => {
                    if event == libc::PTRACE_EVENT_EXEC {
                        if pid != root && self.children == Children::Free {
                            self.inside.remove(&pid.as_raw());
                            let _ = ptrace::detach(pid, None);
                            continue;
                        }
                        self.begun = true;
                        self.inside.insert(pid.as_raw(), Inside::Call);
                    }
                    let _ = ptrace::syscall(pid, None);
                }
                Ok(WaitStatus::Stopped(pid, signal)) => {
                    // A stop of the tracer's own making carries SIGTRAP; others are the program's business.
                    let signal = Some(signal).filter(|signal| *signal != Signal::SIGTRAP);
                    let _ = ptrace::syscall(pid, signal);
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        Ended { calls: self.calls, code, struck: self.struck }
    }

    /// A thread goes into a system call or comes out of it; answers whether everything is to be killed.
    fn at_call(&mut self, pid: Pid) -> bool {
        if let Some(inside) = self.inside.remove(&pid.as_raw()) {
            self.out_of_call(pid, inside);
            return false;
        }
        self.inside.insert(pid.as_raw(), Inside::Call);
        let Ok(mut registers) = ptrace::getregs(pid) else { return false };
        let number = i64::from_ne_bytes(registers.orig_rax.to_ne_bytes());
        let Some((_, name, fails)) = CALLS.iter().find(|(call, ..)| *call == number) else { return false };
        if !self.begun {
            return false;
        }
        self.calls += 1;
        if matches!(*name, "fsync" | "fdatasync") {
            self.inside.insert(pid.as_raw(), Inside::Sync(registers.rdi));
        }
        let error = match self.fault {
            Fault::None => return false,
            Fault::KillAt(at) => {
                if self.calls == at {
                    self.struck = Some(name);
                }
                return self.calls == at;
            }
            Fault::FailAt(at, error) => (self.calls == at).then_some(error),
            Fault::FailFrom(at, error) => (self.calls >= at).then_some(error),
        };
        // What a full or broken disk does not refuse, or what would only stop the program from talking, goes on.
        let talk = name.starts_with("write") && (registers.rdi <= 2 || !is_file(pid, registers.rdi));
        if let Some(error) = error.filter(|_| *fails && !talk) {
            self.struck = self.struck.or(Some(name));
            registers.orig_rax = u64::MAX;
            let _ = ptrace::setregs(pid, registers);
            self.inside.insert(pid.as_raw(), Inside::Refused(error));
        }
        false
    }

    fn out_of_call(&mut self, pid: Pid, inside: Inside) {
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        match (inside, &mut self.ledger) {
            (Inside::Refused(error), _) => {
                registers.rax = u64::from_ne_bytes(i64::from(-error).to_ne_bytes());
                let _ = ptrace::setregs(pid, registers);
            }
            (Inside::Sync(descriptor), Some(ledger)) if registers.rax == 0 => {
                let handle = PathBuf::from(format!("/proc/{pid}/fd/{descriptor}"));
                if let Ok(path) = std::fs::read_link(&handle) {
                    ledger.synced(&path, &handle);
                }
            }
            _ => {}
        }
    }
}

/// Whether a descriptor is that of a file, and not of a pipe or a socket.
fn is_file(pid: Pid, descriptor: u64) -> bool {
    let target = std::fs::read_link(format!("/proc/{pid}/fd/{descriptor}"));
    target.is_ok_and(|target| target.starts_with("/"))
}
