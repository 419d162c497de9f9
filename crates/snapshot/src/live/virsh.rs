//! A domain of libvirt, through `virsh qemu-monitor-command` and `virsh qemu-agent-command`.
//!
//! libvirt's own backup API is not used: its fleecing job gives the guest an error when the scratch file cannot be
//! written, and a capture must not.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kiln_qemu::agent::Freeze;
use kiln_qemu::{Error, Problem, Result};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use super::monitor::{Guest, Monitor};

/// The longest answer that is read.
const MAX_REPLY: u64 = 16 << 20;

/// A domain.
pub(crate) struct Domain {
    program: PathBuf,
    name: String,
    answer: Duration,
}

impl Domain {
    pub(crate) fn new(name: &str) -> Self {
        Self { program: "virsh".into(), name: name.to_owned(), answer: Duration::from_secs(20) }
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
        let mut command = Command::new(&self.program);
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
            // With whatever it starts, it ends as one.
            .process_group(0)
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
                        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
                        if let Some(group) = group {
                            let _ = kill_process_group(group, Signal::KILL);
                        }
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
        if u64::try_from(reply.len()).unwrap_or(u64::MAX) > MAX_REPLY {
            return Err(self.malformed(Problem::TooLong { allowed: MAX_REPLY }));
        }
        let Some(status) = status else {
            return Err(Error::TimedOut { peer: self.peer(), allowed: self.answer });
        };
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

    /// libvirt does.
    fn resync(&mut self) -> Result<()> {
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A `virsh` that answers as libvirt 9.0 with QEMU 7.2 did, by what it is asked; words of its own are on stderr.
    fn domain(dir: &std::path::Path) -> Domain {
        use std::os::unix::fs::PermissionsExt;
        let program = dir.join("virsh");
        let script = r#"#!/bin/sh
case "$*" in
*"-- gone "*) echo "error: failed to get domain 'gone'" >&2; exit 1 ;;
*"-- huge "*) head -c 20000000 /dev/zero ;;
*"-- odd "*) echo "no json" ;;
*"-- slow "*) sleep 30 ;;
*guest-fsfreeze-status*) echo '{"return":"thawed"}' ;;
*guest-fsfreeze-freeze*) echo '{"return":3}' ;;
*guest-get-osinfo*) echo '{"return":{"id":"mswindows","name":"Microsoft Windows"}}' ;;
*guest-info*) echo '{"return":{"version":"7.2.0","supported_commands":[{"enabled":true,"name":"guest-fsfreeze-freeze","success-response":true},{"enabled":true,"name":"guest-fsfreeze-thaw","success-response":true}]}}' ;;
*qemu-monitor-command*blockdev-del*) echo '{"id":"libvirt-31","error":{"class":"GenericError","desc":"Failed to find node"}}' ;;
*qemu-monitor-command*query-status*) echo '{"return":{"status":"running","singlestep":false,"running":true},"id":"libvirt-30"}' ;;
*) echo "error: unknown $*" >&2; exit 1 ;;
esac
"#;
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Domain { program, name: "db".to_owned(), answer: Duration::from_secs(20) }
    }

    #[test]
    fn recorded_answers_are_understood() {
        let dir = tempfile::tempdir().unwrap();
        let mut domain = domain(dir.path());
        let status = domain.execute("query-status", json!({})).unwrap();
        assert_eq!(status["running"], true);
        assert_eq!(domain.introduce().unwrap(), ("7.2.0".to_owned(), true));
        assert_eq!(domain.system().as_deref(), Some("mswindows"));
        assert_eq!((domain.status().unwrap(), Guest::freeze(&mut domain).unwrap()), (Freeze::Thawed, 3));
        let error = domain.execute("blockdev-del", json!({})).unwrap_err();
        assert!(matches!(&error, Error::Refused { class, .. } if class == "GenericError"), "{error}");
    }

    #[test]
    fn hostile_answers_are_bounded_errors() {
        let dir = tempfile::tempdir().unwrap();
        let mut domain = domain(dir.path());
        domain.answer = Duration::from_millis(300);
        for (name, code) in [
            ("gone", "qemu.refused"),
            ("odd", "qemu.protocol"),
            ("huge", "qemu.protocol"),
            ("slow", "qemu.timeout"),
        ] {
            domain.name = name.to_owned();
            let error = domain.execute("query-status", json!({})).unwrap_err();
            assert_eq!(error.code(), code, "{name}: {error}");
        }
    }
}
