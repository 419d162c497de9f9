//! What the process that reads a stranger's disk is kept from: resource limits, Landlock (no file, no connection) and
//! a seccomp filter (memory, its two pipes, and the end).

use std::collections::BTreeMap;
use std::fs::File;
use std::net::UdpSocket;
use std::process::{Command, Stdio};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError,
    RulesetStatus, Scope,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde::{Deserialize, Serialize};

/// Address space: the budget of a look (128 MiB), its report, the program itself, and as much again.
const MEMORY: u64 = 1 << 30;

/// Processor time in seconds; the parent ends a look before.
const PROCESSOR_TIME: u64 = 600;

/// What holds a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cage {
    /// How much of Landlock this kernel has.
    pub landlock: Landlock,
    /// Whether the filter of system calls is in force.
    pub seccomp: bool,
    /// Whether all resource limits are.
    pub limits: bool,
}

/// How much of Landlock is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Landlock {
    /// Files, connections and signals.
    Full,
    /// What an older kernel knows.
    Partial,
    /// The kernel has none.
    None,
}

/// What a worker found that it can and cannot do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// What was put in force.
    pub cage: Cage,
    /// What it could do all the same; nothing where the cage holds.
    pub could: Vec<String>,
}

impl Confinement {
    /// Tries it, in a process that is in its cage.
    pub(super) fn probe(cage: Cage) -> Self {
        // Where the cage does not hold, all of it happens, and must leave nothing behind and say nothing on our pipe.
        let mut version = Command::new("/proc/self/exe");
        version.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let tried = [
            ("open a file", File::open("/proc/self/status").is_ok()),
            ("write a file", File::options().write(true).open("/dev/null").is_ok()),
            ("open a socket", UdpSocket::bind("127.0.0.1:0").is_ok()),
            ("start a program", version.status().is_ok()),
        ];
        let could = tried.iter().filter(|(_, done)| *done).map(|(what, _)| (*what).to_owned()).collect();
        Self { cage, could }
    }
}

/// Goes into the cage, as far as this kernel has one. There is no way back.
pub(super) fn enter() -> Cage {
    let limits = [
        (Resource::As, MEMORY),
        (Resource::Cpu, PROCESSOR_TIME),
        (Resource::Fsize, 0),
        (Resource::Core, 0),
        (Resource::Nproc, 0),
    ];
    let set = |(resource, most)| setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    let limits = limits.map(set).iter().all(Result::is_ok);
    // Landlock goes first: its own calls are none that the filter lets through.
    let landlock = match lock() {
        Ok(RulesetStatus::FullyEnforced) => Landlock::Full,
        Ok(RulesetStatus::PartiallyEnforced) => Landlock::Partial,
        Ok(RulesetStatus::NotEnforced) | Err(_) => Landlock::None,
    };
    let seccomp = filter().is_some_and(|program| seccompiler::apply_filter(&program).is_ok());
    Cage { landlock, seccomp, limits }
}

fn lock() -> Result<RulesetStatus, RulesetError> {
    // The newest that this program knows; an older kernel gives what it has.
    let abi = ABI::V6;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?;
    Ok(ruleset.create()?.restrict_self()?.ruleset)
}

/// The calls of a process that computes, allocates, and talks through pipes that are open. All others fail with EPERM.
fn filter() -> Option<BpfProgram> {
    let allowed = [
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_getrandom,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_restart_syscall,
        // A panic that becomes an abort.
        libc::SYS_tgkill,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ];
    let rules: BTreeMap<i64, Vec<_>> = allowed.into_iter().map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(u32::try_from(libc::EPERM).ok()?);
    let machine = TargetArch::try_from(std::env::consts::ARCH).ok()?;
    SeccompFilter::new(rules, refuse, SeccompAction::Allow, machine).ok()?.try_into().ok()
}
