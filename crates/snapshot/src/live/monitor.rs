//! The ways to a running machine: its machine protocol and its guest's agent, by a socket or through libvirt.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_qemu::agent::{Agent, Freeze};
use kiln_qemu::{Channel, Limits, qmp, socket};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::virsh;
use crate::error::Result;

/// How long a machine may take to answer.
const ANSWER: Duration = Duration::from_secs(20);
/// How long to wait for another client to hang up.
const TURN: Duration = Duration::from_secs(10);
/// How long an agent may take to say that it is there: it lives in a guest that may be busy or emulated.
const AGENT_ANSWER: Duration = Duration::from_secs(5);

/// How a machine is spoken to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Address {
    /// A socket.
    Socket {
        /// The folder that it is in.
        dir: PathBuf,
        /// Its name there.
        name: String,
    },
    /// A domain, through `virsh`.
    Domain {
        /// The domain.
        name: String,
    },
}

impl Address {
    /// The socket at a path.
    pub(crate) fn of(path: &Path) -> Self {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self::Socket { dir: std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()), name }
    }

    /// Opens the machine protocol.
    pub(crate) fn monitor(&self) -> Result<Box<dyn Monitor>> {
        match self {
            Self::Socket { dir, name } => {
                let stream = socket::connect(dir, name, Duration::ZERO)?;
                let limits = Limits { reply_time: TURN, ..Limits::default() };
                let mut client =
                    qmp::Client::connect(Channel::new(stream, dir.join(name).display().to_string()), limits)?;
                client.set_reply_time(ANSWER);
                Ok(Box::new(client))
            }
            Self::Domain { name } => Ok(Box::new(virsh::Domain::new(name))),
        }
    }

    /// Opens a conversation with the guest's agent.
    pub(crate) fn agent(&self) -> Result<Box<dyn Guest>> {
        match self {
            Self::Socket { dir, name } => {
                let stream = socket::connect(dir, name, Duration::ZERO)?;
                let limits = Limits { reply_time: AGENT_ANSWER, ..Limits::default() };
                Ok(Box::new(Agent::connect(Channel::new(stream, "the guest's agent"), limits)?))
            }
            Self::Domain { name } => Ok(Box::new(virsh::Domain::new(name))),
        }
    }
}

/// Runs commands of the machine protocol.
pub(crate) trait Monitor: Send {
    /// Runs a command.
    fn execute(&mut self, command: &str, arguments: Value) -> kiln_qemu::Result<Value>;
    /// How long an answer may take from now on.
    fn limit(&mut self, answer: Duration);
}

impl Monitor for qmp::Client {
    fn execute(&mut self, command: &str, arguments: Value) -> kiln_qemu::Result<Value> {
        Self::execute(self, command, arguments)
    }

    fn limit(&mut self, answer: Duration) {
        self.set_reply_time(answer);
    }
}

/// The agent in the guest.
pub(crate) trait Guest: Send {
    /// Its version, and whether it can freeze.
    fn introduce(&mut self) -> kiln_qemu::Result<(String, bool)>;
    /// The id of the guest's system: `debian`, `mswindows`; none when it does not say.
    fn system(&mut self) -> Option<String>;
    /// Finds the beginning of a conversation again, past answers that came late.
    fn resync(&mut self) -> kiln_qemu::Result<()>;
    /// Whether the file systems stand still.
    fn status(&mut self) -> kiln_qemu::Result<Freeze>;
    /// Freezes; how many.
    fn freeze(&mut self) -> kiln_qemu::Result<u64>;
    /// Thaws; how many.
    fn thaw(&mut self) -> kiln_qemu::Result<u64>;
    /// How long an answer may take from now on.
    fn limit(&mut self, answer: Duration);
}

impl Guest for Agent {
    fn introduce(&mut self) -> kiln_qemu::Result<(String, bool)> {
        let info = self.info()?;
        let can = info.has("guest-fsfreeze-freeze") && info.has("guest-fsfreeze-thaw");
        Ok((info.version, can))
    }

    fn system(&mut self) -> Option<String> {
        let reply = self.execute("guest-get-osinfo", json!({})).ok()?;
        Some(reply.get("id")?.as_str()?.chars().take(64).collect())
    }

    fn resync(&mut self) -> kiln_qemu::Result<()> {
        self.sync()
    }

    fn status(&mut self) -> kiln_qemu::Result<Freeze> {
        self.freeze_status()
    }

    fn freeze(&mut self) -> kiln_qemu::Result<u64> {
        Self::freeze(self)
    }

    fn thaw(&mut self) -> kiln_qemu::Result<u64> {
        Self::thaw(self)
    }

    fn limit(&mut self, answer: Duration) {
        self.set_reply_time(answer);
    }
}
