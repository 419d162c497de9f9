//! Waiting for a guest: until it has booted, lets one log in, is set up.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use kiln_catalog::machine::{AGENT_SOCKET, CONSOLE_LOG, Network};
use kiln_catalog::{InstanceRecord, Store};
use kiln_disk::{Observer, go_on};
use kiln_qemu::agent::Agent;
use kiln_qemu::{Channel, Limits, socket};
use serde_json::{Value, json};

use crate::error::{Failure, Refusal, Result};
use crate::process::{tail, title};

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// Its console asks for a login, or its agent answers.
    Boot,
    /// Its ssh server greets at the port that leads there.
    Ssh,
    /// cloud-init has finished.
    CloudInit,
}

impl Event {
    const fn words(self) -> &'static str {
        match self {
            Self::Boot => "a login prompt or the guest agent",
            Self::Ssh => "the ssh server's greeting",
            Self::CloudInit => "the end of cloud-init",
        }
    }
}

/// By what an event was known.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Seen {
    /// "console", "agent" or "ssh".
    pub by: &'static str,
    /// From the beginning of the wait.
    #[serde(skip)]
    pub after: Duration,
}

/// The end of the console that is looked at. More is only printed by a guest that floods it.
const CONSOLE_TAIL: u64 = 4 << 20;
const LOOK: Duration = Duration::from_millis(250);
/// How long the agent may take with one answer, and how rarely it is asked: each try waits when there is none.
const AGENT_TIME: Duration = Duration::from_millis(700);
const ASK_AGENT: Duration = Duration::from_secs(3);
/// The file that cloud-init leaves when it is done.
const CLOUD_INIT_RESULT: &str = "/run/cloud-init/result.json";

/// The port of this host that leads to the guest's ssh server.
#[must_use]
pub fn ssh_port(record: &InstanceRecord) -> Option<u16> {
    record.machine.nics.iter().find_map(|nic| match &nic.network {
        Network::User { forwards } => {
            forwards.iter().find(|forward| forward.guest == 22).map(|forward| forward.host)
        }
        _ => None,
    })
}

/// Waits for an event of a running instance. A disk that a rebuild put aside goes when its machine has booted.
///
/// # Errors
/// [`Refusal::NotRunning`], [`Refusal::NoSshPort`]; [`Failure::Ended`] when the machine ends meanwhile,
/// [`Failure::TimedOut`], [`Failure::CloudInit`]; `Cancelled`.
pub fn wait(
    store: &Store,
    record: &InstanceRecord,
    event: Event,
    patience: Duration,
    observer: &dyn Observer,
) -> Result<Seen> {
    let dir = store.instance_dir(&record.id);
    let began = Instant::now();
    let port = match (event, ssh_port(record)) {
        (Event::Ssh, None) => return Err(Refusal::NoSshPort { name: title(record) }.into()),
        (_, port) => port,
    };
    if !store.instance_running(&record.id)? {
        return Err(Refusal::NotRunning { name: title(record) }.into());
    }
    let mut asked: Option<Instant> = None;
    loop {
        go_on(observer)?;
        let mut ask = || {
            let due = asked.is_none_or(|at| at.elapsed() >= ASK_AGENT);
            if due {
                asked = Some(Instant::now());
            }
            due
        };
        let by = match event {
            Event::Boot if prompt_in(&console(&dir)) => Some("console"),
            Event::Boot if ask() && agent(&dir).is_some() => Some("agent"),
            Event::Ssh if port.is_some_and(greets) => Some("ssh"),
            Event::CloudInit if finished_in(&console(&dir)) => {
                // The agent knows more; a guest without one is believed.
                if let Some(result) = agent(&dir).and_then(|mut agent| result_of(&mut agent)) {
                    judged(&result)?;
                }
                Some("console")
            }
            Event::CloudInit if ask() => match agent(&dir).and_then(|mut agent| result_of(&mut agent)) {
                Some(result) => judged(&result).map(|()| Some("agent"))?,
                None => None,
            },
            _ => None,
        };
        if let Some(by) = by {
            crate::rebuild::let_go(store, record)?;
            return Ok(Seen { by, after: began.elapsed() });
        }
        if !store.instance_running(&record.id)? {
            return Err(Failure::Ended { name: title(record), what: event.words() }.into());
        }
        if began.elapsed() > patience {
            return Err(Failure::TimedOut { what: event.words(), after: patience }.into());
        }
        std::thread::sleep(LOOK);
    }
}

fn console(dir: &Path) -> String {
    tail(&dir.join(CONSOLE_LOG), CONSOLE_TAIL)
}

/// What getty prints behind the host name.
fn prompt_in(console: &str) -> bool {
    console.lines().any(|line| {
        let host = line.split_once(" login: ").map(|(host, _)| host.trim());
        // One word, and not that of "Last login: ".
        host.is_some_and(|host| !host.is_empty() && host != "Last" && !host.contains(' '))
    })
}

/// cloud-init's final message: `Cloud-init v. 22.4.2 finished at ...`.
fn finished_in(console: &str) -> bool {
    console.lines().any(|line| {
        line.find("Cloud-init v.")
            .is_some_and(|at| line.get(at..).is_some_and(|line| line.contains(" finished at ")))
    })
}

fn agent(dir: &Path) -> Option<Agent> {
    let stream = socket::connect(dir, AGENT_SOCKET, Duration::ZERO).ok()?;
    let limits = Limits { reply_bytes: 1 << 20, reply_time: AGENT_TIME };
    Agent::connect(Channel::new(stream, "the guest agent"), limits).ok()
}

/// The text of cloud-init's result, when there is one. A guest decides what its agent says: it is bounded and only
/// looked at.
fn result_of(agent: &mut Agent) -> Option<Value> {
    let handle = agent.execute("guest-file-open", json!({ "path": CLOUD_INIT_RESULT, "mode": "r" })).ok()?;
    let read = agent.execute("guest-file-read", json!({ "handle": handle, "count": 65536 }));
    let _ = agent.execute("guest-file-close", json!({ "handle": handle }));
    let text = decode(read.ok()?.get("buf-b64")?.as_str()?)?;
    serde_json::from_slice(&text).ok()
}

/// `{"v1": {"datasource": ..., "errors": []}}`.
fn judged(result: &Value) -> Result<()> {
    let errors = result.get("v1").and_then(|v1| v1.get("errors")).and_then(Value::as_array);
    match errors.map_or(0, Vec::len) {
        0 => Ok(()),
        count => Err(Failure::CloudInit { count }.into()),
    }
}

/// Whether an ssh server greets. QEMU's own network takes every connection, so one proves nothing.
fn greets(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let talk = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        let mut greeting = [0; 4];
        stream.read_exact(&mut greeting)?;
        Ok(&greeting == b"SSH-")
    };
    talk().unwrap_or(false)
}

/// Base 64 (RFC 4648, section 4); `None` for anything else.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut len) = (0_u32, 0_u32);
    for char in text.trim_end_matches('=').bytes() {
        let value = match char {
            b'A'..=b'Z' => char - b'A',
            b'a'..=b'z' => char - b'a' + 26,
            b'0'..=b'9' => char - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        len += 6;
        if len >= 8 {
            len -= 8;
            bytes.push(u8::try_from((bits >> len) & 0xff).ok()?);
            bits &= (1 << len) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_64_is_decoded_and_nothing_else() {
        assert_eq!(decode("eyJ2MSI6IHt9fQ==").unwrap(), b"{\"v1\": {}}");
        assert_eq!(decode("").unwrap(), b"");
        assert_eq!(decode("a b"), None);
    }

    #[test]
    fn the_console_tells_a_prompt_and_the_end_of_cloud_init() {
        assert!(prompt_in("Debian GNU/Linux 12 web-1 ttyS0\n\nweb-1 login: "));
        assert!(!prompt_in("Last login: yesterday"));
        let line =
            "[   41.2] cloud-init[601]: Cloud-init v. 22.4.2 finished at Fri, 27 Nov 2026. Datasource X.";
        assert!(finished_in(line));
        assert!(!finished_in("Cloud-init v. 22.4.2 running 'init'\nit finished at last"));
    }

    #[test]
    fn errors_that_cloud_init_reports_are_counted() {
        assert!(judged(&json!({ "v1": { "errors": [] } })).is_ok());
        let error = judged(&json!({ "v1": { "errors": ["a", "b"] } })).unwrap_err();
        assert!(matches!(error, crate::Error::Failed(Failure::CloudInit { count: 2 })), "{error:?}");
    }
}
