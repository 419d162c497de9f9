//! A domain of libvirt, through `virsh qemu-monitor-command` and `virsh qemu-agent-command`.
//!
//! libvirt's own backup API is not used: its fleecing job gives the guest an error when the scratch file cannot be
//! written, and a capture must not.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_qemu::agent::Freeze;
use kiln_qemu::{Error, Problem, Result};
use serde_json::{Value, json};

use super::monitor::{Guest, Monitor};

/// The longest answer that is read.
const MAX_REPLY: u64 = 16 << 20;

/// A domain.
pub(crate) struct Domain {
    name: String,
    answer: Duration,
}

impl Domain {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), answer: Duration::from_secs(20) }
    }

    fn peer(&self) -> String {
        format!("the domain {}", self.name)
    }

    fn malformed(&self, problem: Problem) -> Error {
        Error::Malformed { peer: self.peer(), at: 0, problem }
    }

    /// Runs one command and reads its answer, bounded in length and time. Names go behind `--`.
    fn run(&self, kind: &str, message: &Value) -> Result<Value> {
        let io = |source| Error::Io { operation: "run virsh for", peer: self.peer(), source };
        let seconds = self.answer.as_secs().max(1).to_string();
        let mut command = Command::new("virsh");
        command.args(["--quiet", kind]);
        if kind == "qemu-agent-command" {
            command.args(["--timeout", &seconds]);
        }
        command.args(["--", &self.name, &message.to_string()]);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("LC_ALL", "C")
            .spawn()
            .map_err(io)?;
        let mut pipes = (child.stdout.take(), child.stderr.take());
        let read = |pipe: Option<&mut dyn Read>| {
            let mut bytes = Vec::new();
            if let Some(pipe) = pipe {
                let _ = pipe.take(MAX_REPLY + 1).read_to_end(&mut bytes);
            }
            bytes
        };
        let (reply, words, status) = std::thread::scope(|scope| {
            let reply = pipes.0.as_mut().map(|pipe| scope.spawn(|| read(Some(pipe))));
            let words = pipes.1.as_mut().map(|pipe| scope.spawn(|| read(Some(pipe))));
            let began = Instant::now();
            let status = loop {
                match child.try_wait() {
                    Ok(Some(status)) => break Some(status),
                    Ok(None) if began.elapsed() < self.answer + Duration::from_secs(2) => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    _ => {
                        let _ = child.kill();
                        let _ = child.wait();
                        break None;
                    }
                }
            };
            let join = |thread: Option<std::thread::ScopedJoinHandle<'_, Vec<u8>>>| {
                thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
            };
            (join(reply), join(words), status)
        });
        let Some(status) = status else {
            return Err(Error::TimedOut { peer: self.peer(), allowed: self.answer });
        };
        if u64::try_from(reply.len()).unwrap_or(u64::MAX) > MAX_REPLY {
            return Err(self.malformed(Problem::TooLong { allowed: MAX_REPLY }));
        }
        if !status.success() {
            let text = String::from_utf8_lossy(&words).trim().trim_start_matches("error: ").to_owned();
            return Err(self.refused(message, "virsh", &text));
        }
        let reply: Value = serde_json::from_slice(&reply).map_err(|_| self.malformed(Problem::NotJson))?;
        if let Some(error) = reply.get("error") {
            let text = |field| error.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            return Err(self.refused(message, &text("class"), &text("desc")));
        }
        reply.get("return").cloned().ok_or_else(|| self.malformed(Problem::Field { field: "return" }))
    }

    fn refused(&self, message: &Value, class: &str, words: &str) -> Error {
        let command = message.get("execute").and_then(Value::as_str).unwrap_or_default().to_owned();
        Error::Refused { peer: self.peer(), command, class: class.to_owned(), description: words.to_owned() }
    }

    fn ask(&self, command: &str) -> Result<Value> {
        self.run("qemu-agent-command", &json!({ "execute": command }))
    }

    fn count(&self, command: &str) -> Result<u64> {
        self.ask(command)?.as_u64().ok_or_else(|| self.malformed(Problem::Field { field: "return" }))
    }
}

impl Monitor for Domain {
    fn execute(&mut self, command: &str, arguments: Value) -> Result<Value> {
        self.run("qemu-monitor-command", &json!({ "execute": command, "arguments": arguments }))
    }

    fn limit(&mut self, answer: Duration) {
        self.answer = answer;
    }
}

impl Guest for Domain {
    fn introduce(&mut self) -> Result<(String, bool)> {
        let info = self.ask("guest-info")?;
        let version = info.get("version").and_then(Value::as_str);
        let version = version.ok_or_else(|| self.malformed(Problem::Field { field: "version" }))?;
        let version = version.chars().filter(|char| !char.is_control()).take(64).collect();
        let has = |wanted: &str| {
            let list = info.get("supported_commands").and_then(Value::as_array);
            list.into_iter().flatten().any(|one| {
                one.get("name").and_then(Value::as_str) == Some(wanted)
                    && one.get("enabled").and_then(Value::as_bool) == Some(true)
            })
        };
        Ok((version, has("guest-fsfreeze-freeze") && has("guest-fsfreeze-thaw")))
    }

    fn system(&mut self) -> Option<String> {
        Some(self.ask("guest-get-osinfo").ok()?.get("id")?.as_str()?.chars().take(64).collect())
    }

    fn status(&mut self) -> Result<Freeze> {
        match self.ask("guest-fsfreeze-status")?.as_str() {
            Some("thawed") => Ok(Freeze::Thawed),
            Some("frozen") => Ok(Freeze::Frozen),
            _ => Err(self.malformed(Problem::Field { field: "return" })),
        }
    }

    fn freeze(&mut self) -> Result<u64> {
        self.count("guest-fsfreeze-freeze")
    }

    fn thaw(&mut self) -> Result<u64> {
        self.count("guest-fsfreeze-thaw")
    }

    fn limit(&mut self, answer: Duration) {
        self.answer = answer;
    }
}
