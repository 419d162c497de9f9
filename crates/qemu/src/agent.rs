//! The protocol of qemu-guest-agent (docs/interop/qemu-ga-ref): what a guest answers, and a guest is a stranger.
//!
//! The channel is a serial line: whoever connects may find the rest of an answer to somebody else, and whoever
//! speaks may find nobody. So each conversation begins with `guest-sync-delimited`, whose answer begins with a byte
//! that no JSON text has.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::channel::{Channel, Limits};
use crate::error::{Problem, Result};
use crate::lines::Lines;

/// Begins the answer to `guest-sync-delimited`, and makes the agent forget half a command.
const MARK: u8 = 0xff;

/// The longest answer of an agent: no command that we send has a long one.
const MAX_REPLY: u64 = 1 << 20;

/// Whether the guest's file systems stand still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freeze {
    /// They run.
    Thawed,
    /// They stand still.
    Frozen,
}

/// What an agent says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its version, at most 64 printable characters.
    pub version: String,
    /// The commands that it takes.
    pub commands: Vec<String>,
}

impl AgentInfo {
    /// Whether it takes a command.
    #[must_use]
    pub fn has(&self, command: &str) -> bool {
        self.commands.iter().any(|one| one == command)
    }
}

/// A conversation with the agent of a guest.
#[derive(Debug)]
pub struct Agent {
    lines: Lines,
    reply_time: Duration,
}

impl Agent {
    /// Begins a conversation: an agent that lives has answered when this returns.
    ///
    /// # Errors
    /// [`crate::Error::TimedOut`] when nobody answers; [`crate::Error::Malformed`] when what answers is no agent.
    pub fn connect(channel: Channel, limits: Limits) -> Result<Self> {
        let lines = Lines::new(channel, limits.reply_bytes.min(MAX_REPLY));
        let mut agent = Self { lines, reply_time: limits.reply_time };
        agent.sync()?;
        Ok(agent)
    }

    /// Changes how long one answer may take.
    pub fn set_reply_time(&mut self, reply_time: Duration) {
        self.reply_time = reply_time;
    }

    /// Finds the beginning of a conversation again.
    ///
    /// # Errors
    /// As [`Agent::connect`].
    pub fn sync(&mut self) -> Result<()> {
        // Only has to differ from what an earlier conversation on the same line used.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let id = u64::from(since.subsec_nanos()) | ((since.as_secs() & 0x3f_ffff) << 30);
        self.lines.channel.allow(self.reply_time);
        self.lines.channel.send(&[MARK])?;
        self.lines.send(&json!({ "execute": "guest-sync-delimited", "arguments": { "id": id } }))?;
        loop {
            self.lines.skip_past(MARK)?;
            let reply = self.lines.next_object()?;
            if reply.get("return").and_then(Value::as_u64) == Some(id) {
                return Ok(());
            }
        }
    }

    /// Runs a command; `arguments` is an object.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] with the agent's words; anything that makes the conversation useless.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.lines.channel.allow(self.reply_time);
        let mut message = Map::new();
        message.insert("execute".to_owned(), command.into());
        message.insert("arguments".to_owned(), arguments);
        self.lines.send(&Value::Object(message))?;
        let reply = self.lines.next_object()?;
        self.lines.outcome(command, reply)
    }

    /// What it says about itself.
    ///
    /// # Errors
    /// As [`Agent::execute`].
    pub fn info(&mut self) -> Result<AgentInfo> {
        let reply = self.execute("guest-info", json!({}))?;
        let version = reply.get("version").and_then(Value::as_str);
        let version =
            version.ok_or_else(|| self.lines.channel.malformed(Problem::Field { field: "version" }))?;
        let version = version.chars().filter(|char| !char.is_control()).take(64).collect();
        let listed = reply.get("supported_commands").and_then(Value::as_array);
        let commands = listed
            .into_iter()
            .flatten()
            .filter(|one| one.get("enabled").and_then(Value::as_bool) == Some(true))
            .filter_map(|one| Some(one.get("name")?.as_str()?.to_owned()))
            .collect();
        Ok(AgentInfo { version, commands })
    }

    /// Whether the file systems stand still.
    ///
    /// # Errors
    /// As [`Agent::execute`].
    pub fn freeze_status(&mut self) -> Result<Freeze> {
        match self.execute("guest-fsfreeze-status", json!({}))?.as_str() {
            Some("thawed") => Ok(Freeze::Thawed),
            Some("frozen") => Ok(Freeze::Frozen),
            _ => Err(self.lines.channel.malformed(Problem::Field { field: "return" })),
        }
    }

    /// Freezes all file systems; how many. The agent takes only the fsfreeze commands until they are thawed.
    ///
    /// # Errors
    /// As [`Agent::execute`]. After any error the file systems may stand still: thaw them.
    pub fn freeze(&mut self) -> Result<u64> {
        self.count("guest-fsfreeze-freeze")
    }

    /// Thaws all file systems; how many of them stood still.
    ///
    /// # Errors
    /// As [`Agent::execute`].
    pub fn thaw(&mut self) -> Result<u64> {
        self.count("guest-fsfreeze-thaw")
    }

    fn count(&mut self, command: &str) -> Result<u64> {
        let reply = self.execute(command, json!({}))?;
        reply.as_u64().ok_or_else(|| self.lines.channel.malformed(Problem::Field { field: "return" }))
    }
}
