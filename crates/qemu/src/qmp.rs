//! QEMU's machine protocol (docs/interop/qmp-spec.rst).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::channel::{Channel, Limits};
use crate::error::{Error, Problem, Result};
use crate::lines::Lines;

/// The most events that wait to be asked for. A machine that reports an error for every write sends thousands; the
/// oldest go.
const MAX_EVENTS: usize = 1024;

/// Something that happened in the machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its name: `SHUTDOWN`, `BLOCK_JOB_COMPLETED`, ...
    pub name: String,
    /// What it tells.
    pub data: Map<String, Value>,
}

/// QEMU's version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Version {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Micro.
    pub micro: u32,
}

/// A connection in command mode.
#[derive(Debug)]
pub struct Client {
    lines: Lines,
    limits: Limits,
    version: Version,
    next_id: u64,
    events: VecDeque<Event>,
    lost_events: u64,
}

impl Client {
    /// Takes the greeting and enters command mode.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the other side does not speak QMP; [`Error::TimedOut`], also when another client
    /// has the socket, as QEMU serves one at a time.
    pub fn connect(channel: Channel, limits: Limits) -> Result<Self> {
        let mut lines = Lines::new(channel, limits.reply_bytes);
        lines.channel.allow(limits.reply_time);
        let greeting = lines.next_object()?;
        let version = greeting
            .get("QMP")
            .and_then(|qmp| Version::deserialize(qmp.get("version")?.get("qemu")?).ok())
            .ok_or_else(|| lines.channel.malformed(Problem::NoGreeting))?;
        let mut client = Self { lines, limits, version, next_id: 1, events: VecDeque::new(), lost_events: 0 };
        client.execute("qmp_capabilities", json!({}))?;
        Ok(client)
    }

    /// QEMU's version, as it says.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Changes how long one answer may take.
    pub fn set_reply_time(&mut self, reply_time: Duration) {
        self.limits.reply_time = reply_time;
    }

    /// Runs a command; `arguments` is an object. Events that come meanwhile wait for [`Client::next_event`].
    ///
    /// # Errors
    /// [`Error::Refused`] with QEMU's words; anything that makes the connection useless.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.lines.channel.allow(self.limits.reply_time);
        let mut message = Map::new();
        message.insert("execute".to_owned(), command.into());
        message.insert("arguments".to_owned(), arguments);
        message.insert("id".to_owned(), id.into());
        self.lines.send(&Value::Object(message))?;
        loop {
            let reply = self.lines.next_object()?;
            if reply.contains_key("event") {
                self.remember(reply);
                continue;
            }
            // An answer to a command that was given up on.
            if reply.get("id").and_then(Value::as_u64) != Some(id) {
                continue;
            }
            return self.lines.outcome(command, reply);
        }
    }

    fn remember(&mut self, mut message: Map<String, Value>) {
        let Some(Value::String(name)) = message.remove("event") else { return };
        let data = match message.remove("data") {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        };
        if self.events.len() >= MAX_EVENTS {
            self.events.pop_front();
            self.lost_events = self.lost_events.saturating_add(1);
        }
        self.events.push_back(Event { name, data });
    }

    /// Events that were thrown away because nobody asked for them.
    #[must_use]
    pub fn lost_events(&self) -> u64 {
        self.lost_events
    }

    /// The next event, oldest first; `None` when none comes within `patience`.
    ///
    /// # Errors
    /// Anything that makes the connection useless.
    pub fn next_event(&mut self, patience: Duration) -> Result<Option<Event>> {
        self.lines.channel.allow(patience.max(Duration::from_millis(1)));
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.lines.next_object() {
                Ok(message) => self.remember(message),
                Err(Error::TimedOut { .. }) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for an event that `wanted` accepts; others are passed over.
    ///
    /// # Errors
    /// [`Error::TimedOut`]; anything that makes the connection useless.
    pub fn wait_event(&mut self, wanted: impl Fn(&Event) -> bool, patience: Duration) -> Result<Event> {
        let began = Instant::now();
        loop {
            let rest = patience.saturating_sub(began.elapsed());
            match self.next_event(rest)? {
                Some(event) if wanted(&event) => return Ok(event),
                Some(_) => {}
                None if began.elapsed() >= patience => {
                    let peer = self.lines.channel.peer().to_owned();
                    return Err(Error::TimedOut { peer, allowed: patience });
                }
                None => {}
            }
        }
    }
}
