//! Other sides that lie, stall, shout and hang up.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use kiln_qemu::agent::{Agent, Freeze};
use kiln_qemu::qmp::Client;
use kiln_qemu::{Channel, Error, Limits, Problem, Stream, nbd};
use serde_json::json;

/// Says what it was told to, whatever it hears; then stalls.
struct Script {
    says: VecDeque<u8>,
    /// Bytes that a read gets at most.
    piece: usize,
    hangs_up: bool,
}

impl Read for Script {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = buf.len().min(self.piece).min(self.says.len());
        if len == 0 {
            return if self.hangs_up { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        for (slot, byte) in buf.iter_mut().zip(self.says.drain(..len)) {
            *slot = byte;
        }
        Ok(len)
    }
}

impl Write for Script {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Script {
    fn limit_blocking(&mut self, _at_most: Duration) -> io::Result<()> {
        Ok(())
    }
}

fn channel(says: impl AsRef<[u8]>) -> Channel {
    let says = says.as_ref().iter().copied().collect();
    Channel::new(Script { says, piece: usize::MAX, hangs_up: false }, "the machine")
}

/// Never ends: the same byte for ever.
struct Endless(u8);

impl Read for Endless {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        buf.fill(self.0);
        Ok(buf.len())
    }
}

impl Write for Endless {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Endless {
    fn limit_blocking(&mut self, _at_most: Duration) -> io::Result<()> {
        Ok(())
    }
}

const GREETING: &str = "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 2, \"minor\": 0, \"major\": 10}}, \"capabilities\": []}}\r\n";

fn qmp(lines: &str) -> Client {
    let text = format!("{GREETING}{{\"return\": {{}}, \"id\": 1}}\n{lines}");
    Client::connect(channel(text), Limits::default()).unwrap()
}

fn problem(error: &Error) -> &Problem {
    let Error::Malformed { problem, .. } = error else { panic!("{error:?}") };
    problem
}

#[test]
fn qmp_answers_belong_to_their_commands_and_events_wait() {
    let mut client = qmp("{\"event\": \"STOP\", \"data\": {}}\n\
         {\"return\": \"of an earlier command\", \"id\": 1}\n\
         {\"return\": [1], \"id\": 2}\n\
         {\"error\": {\"class\": \"DeviceNotFound\", \"desc\": \"no\\u001b[2Jnode\"}, \"id\": 3}\n");
    assert_eq!((client.version().major, client.version().micro), (10, 2));
    assert_eq!(client.execute("query-x", json!({})).unwrap(), json!([1]));
    assert_eq!(client.next_event(Duration::ZERO).unwrap().unwrap().name, "STOP");
    let error = client.execute("query-y", json!({})).unwrap_err();
    assert_eq!(error.code(), "qemu.refused");
    assert_eq!(error.to_string(), "the machine refuses query-y: no [2Jnode");
    assert_eq!(client.next_event(Duration::ZERO).unwrap(), None);
}

#[test]
fn qmp_that_is_none_is_named() {
    for (says, wanted) in [
        ("HTTP/1.1 400 Bad Request\r\n\r\n", Problem::NotJson),
        ("{}\n", Problem::NoGreeting),
        ("{\"QMP\": {\"version\": {\"qemu\": {\"major\": -1}}}}\n", Problem::NoGreeting),
        ("[1]\n", Problem::NotJson),
        ("\u{0}\n", Problem::NotJson),
    ] {
        let error = Client::connect(channel(says), Limits::default()).unwrap_err();
        assert_eq!(problem(&error), &wanted, "{says}");
    }
    let deep = format!("{}1{}\n", "{\"a\":".repeat(1000), "}".repeat(1000));
    let error = Client::connect(channel(deep), Limits::default()).unwrap_err();
    assert_eq!(problem(&error), &Problem::NotJson);
    let odd = qmp("{\"id\": 2}\n").execute("x", json!({})).unwrap_err();
    assert_eq!(problem(&odd), &Problem::Field { field: "error" });
}

#[test]
fn a_line_without_end_costs_no_more_than_the_limit() {
    let limits = Limits { reply_bytes: 1 << 20, ..Limits::default() };
    let error = Client::connect(Channel::new(Endless(b' '), "it"), limits).unwrap_err();
    assert_eq!(problem(&error), &Problem::TooLong { allowed: 1 << 20 });
    let error = Agent::connect(Channel::new(Endless(b'x'), "it"), limits).unwrap_err();
    assert_eq!(problem(&error), &Problem::TooLong { allowed: 1 << 20 });
    // A line of marks is no end of marks either: after one, a line is read.
    let error = Agent::connect(Channel::new(Endless(0xff), "it"), limits).unwrap_err();
    assert_eq!(problem(&error), &Problem::TooLong { allowed: 1 << 20 });
}

#[test]
fn blank_lines_for_ever_end_with_the_time() {
    let limits = Limits { reply_time: Duration::from_millis(200), ..Limits::default() };
    let began = Instant::now();
    let error = Client::connect(Channel::new(Endless(b'\n'), "it"), limits).unwrap_err();
    assert_eq!(error.code(), "qemu.timeout");
    assert!(began.elapsed() < Duration::from_secs(20));
}

#[test]
fn silence_and_hanging_up_differ() {
    let silent = Client::connect(channel(""), Limits::default()).unwrap_err();
    assert_eq!((silent.code(), silent.is_gone()), ("qemu.timeout", false));
    let gone = Script { says: VecDeque::new(), piece: 1, hangs_up: true };
    let gone = Client::connect(Channel::new(gone, "it"), Limits::default()).unwrap_err();
    assert_eq!((gone.code(), gone.is_gone()), ("qemu.hung-up", true));
}

#[test]
fn flood_of_events_loses_the_oldest_and_says_so() {
    let mut lines: String = (0..5000).map(|_| "{\"event\": \"BLOCK_IO_ERROR\"}\n").collect();
    lines.push_str("{\"return\": true, \"id\": 2}\n");
    let mut client = qmp(&lines);
    assert_eq!(client.execute("x", json!({})).unwrap(), json!(true));
    assert_eq!(client.lost_events(), 5000 - 1024);
}

#[test]
fn agent_is_found_behind_what_others_left_in_the_line() {
    // The id is the caller's, so a real agent is played over a pair of sockets.
    let (mine, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let guest = std::thread::spawn(move || {
        let mut heard = io::BufReader::new(theirs.try_clone().unwrap());
        let mut line = Vec::new();
        io::BufRead::read_until(&mut heard, b'\n', &mut line).unwrap();
        assert_eq!(line[0], 0xff);
        let asked: serde_json::Value = serde_json::from_slice(&line[1..]).unwrap();
        let id = &asked["arguments"]["id"];
        let mut out = &theirs;
        writeln!(out, "half an answer\n{{\"return\": 7}}").unwrap();
        out.write_all(&[0xff]).unwrap();
        writeln!(out, "{{\"return\": 1}}").unwrap();
        out.write_all(&[0xff]).unwrap();
        writeln!(out, "{{\"return\": {id}}}").unwrap();
        for answer in [
            "{\"return\": \"thawed\"}",
            "{\"return\": \"asleep\"}",
            "{\"return\": -1}",
            "{\"error\": {\"class\": \"CommandDisabled\", \"desc\": \"disabled\"}}",
            "{\"return\": {\"version\": \"8.2\", \"supported_commands\": [{\"name\": \"guest-fsfreeze-freeze\", \"enabled\": true}, 7]}}",
        ] {
            let mut line = String::new();
            io::BufRead::read_line(&mut heard, &mut line).unwrap();
            writeln!(out, "{answer}").unwrap();
        }
    });
    let mut agent = Agent::connect(Channel::new(mine, "the agent"), Limits::default()).unwrap();
    assert_eq!(agent.freeze_status().unwrap(), Freeze::Thawed);
    assert_eq!(problem(&agent.freeze_status().unwrap_err()), &Problem::Field { field: "return" });
    assert_eq!(problem(&agent.freeze().unwrap_err()), &Problem::Field { field: "return" });
    assert_eq!(agent.thaw().unwrap_err().code(), "qemu.refused");
    let info = agent.info().unwrap();
    assert_eq!((info.version.as_str(), info.commands.len()), ("8.2", 1));
    assert!(info.has("guest-fsfreeze-freeze") && !info.has("guest-exec"));
    guest.join().unwrap();
}

/// A server's half of a good conversation: greeting, structured replies, one context, an export of `len` bytes.
fn greeting(len: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend(b"NBDMAGICIHAVEOPT");
    out.extend(3_u16.to_be_bytes());
    let mut reply = |option: u32, kind: u32, data: &[u8]| {
        out.extend(0x0003_e889_0455_65a9_u64.to_be_bytes());
        out.extend(option.to_be_bytes());
        out.extend(kind.to_be_bytes());
        out.extend(u32::try_from(data.len()).unwrap().to_be_bytes());
        out.extend(data);
    };
    reply(8, 1, &[]);
    reply(10, 4, &[&7_u32.to_be_bytes()[..], b"base:allocation"].concat());
    reply(10, 1, &[]);
    reply(7, 3, &[&0_u16.to_be_bytes()[..], &len.to_be_bytes(), &1_u16.to_be_bytes()].concat());
    reply(7, 1, &[]);
    out
}

fn chunk(flags: u16, kind: u16, handle: u64, data: &[u8]) -> Vec<u8> {
    let len = u32::try_from(data.len()).unwrap();
    let mut out = 0x668e_33ef_u32.to_be_bytes().to_vec();
    out.extend(flags.to_be_bytes());
    out.extend(kind.to_be_bytes());
    out.extend(handle.to_be_bytes());
    out.extend(len.to_be_bytes());
    out.extend(data);
    out
}

fn nbd(len: u64, says: &[u8]) -> nbd::Client {
    let all = [&greeting(len)[..], says].concat();
    nbd::Client::connect(channel(all), Limits::default(), "e", &[nbd::BASE_ALLOCATION]).unwrap()
}

#[test]
fn nbd_read_is_put_together_from_pieces() {
    let hole = [&6_u64.to_be_bytes()[..], &2_u32.to_be_bytes()].concat();
    let data = [&2_u64.to_be_bytes()[..], b"abcd"].concat();
    let says = [chunk(0, 2, 1, &hole), chunk(0, 1, 1, &data), chunk(1, 0, 1, &[])].concat();
    let mut buf = [1; 6];
    nbd(64, &says).read(2, &mut buf).unwrap();
    assert_eq!(&buf, b"abcd\0\0");
}

#[test]
fn nbd_pieces_that_do_not_fit_are_refused() {
    let piece = |at: u64, bytes: &[u8]| [&at.to_be_bytes()[..], bytes].concat();
    let range = |found, allowed| Problem::Range { field: "a piece of a read", found, allowed };
    for (says, wanted) in [
        (chunk(1, 1, 1, &piece(1, b"abcd")), range(4, 4)),
        (chunk(1, 1, 1, &piece(4, b"abcd")), range(4, 4)),
        (chunk(1, 1, 1, &piece(u64::MAX, b"abcd")), range(4, 4)),
        (chunk(1, 1, 1, &piece(2, b"")), range(0, 4)),
        (chunk(1, 1, 1, &[0; 7]), range(7, 4)),
        (chunk(1, 2, 1, &[0; 13]), range(13, 4)),
        ([chunk(0, 1, 1, &piece(2, b"abcd")), chunk(1, 1, 1, &piece(2, b"abcd"))].concat(), range(4, 4)),
        (
            chunk(1, 1, 1, &piece(2, b"abc")),
            Problem::Range { field: "the pieces of a read", found: 1, allowed: 0 },
        ),
        (chunk(1, 5, 1, &piece(2, b"abcd")), Problem::Field { field: "kind of a reply to a read" }),
        (
            chunk(1, 1, 9, &piece(2, b"abcd")),
            Problem::Value { field: "the handle of a reply", found: 9, expected: 1 },
        ),
        (vec![0; 64], Problem::Value { field: "the magic of a reply", found: 0, expected: 0x668e_33ef }),
    ] {
        let error = nbd(64, &says).read(2, &mut [0; 4]).unwrap_err();
        assert_eq!(problem(&error), &wanted);
    }
}

#[test]
fn nbd_errors_are_the_servers_words() {
    let error = [&5_u32.to_be_bytes()[..], &4_u16.to_be_bytes(), b"gone"].concat();
    let error = nbd(64, &chunk(1, 0x8001, 1, &error)).read(0, &mut [0; 4]).unwrap_err();
    let Error::Refused { class, description, .. } = &error else { panic!("{error:?}") };
    assert_eq!((class.as_str(), description.as_str()), ("EIO", "gone"));
    assert_eq!(nbd(64, &[]).read(61, &mut [0; 4]).unwrap_err().code(), "qemu.refused");
    assert_eq!(nbd(64, &[]).read(u64::MAX, &mut [0; 4]).unwrap_err().code(), "qemu.refused");
}

#[test]
fn nbd_block_status_is_cut_to_what_was_asked() {
    let runs = |id: u32, pairs: &[(u32, u32)]| {
        let mut out = id.to_be_bytes().to_vec();
        out.extend(pairs.iter().flat_map(|(len, flags)| [len.to_be_bytes(), flags.to_be_bytes()].concat()));
        out
    };
    let says = chunk(1, 5, 1, &runs(7, &[(16, 0), (16, 0), (u32::MAX, 3), (1, 0)]));
    let spans = nbd(64, &says).block_status(0, 8, u64::MAX).unwrap();
    let wanted = [nbd::Span { start: 8, len: 32, flags: 0 }, nbd::Span { start: 40, len: 24, flags: 3 }];
    assert_eq!(spans, wanted);
    for says in [runs(7, &[(0, 0)]), runs(7, &[]), vec![0; 13]] {
        let error = nbd(64, &chunk(1, 5, 1, &says)).block_status(0, 8, 16).unwrap_err();
        assert_eq!(error.code(), "qemu.protocol");
    }
    // Another context's runs are none of ours.
    let error = nbd(64, &chunk(1, 5, 1, &runs(8, &[(16, 0)]))).block_status(0, 8, 16).unwrap_err();
    assert_eq!(problem(&error), &Problem::Field { field: "block status" });
}

/// Random bytes for a number.
fn noise(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn altered_conversations_end_with_an_answer_or_an_error() {
    let data = [&0_u64.to_be_bytes()[..], &[9; 32]].concat();
    let good_nbd = [greeting(1 << 20), chunk(1, 1, 1, &data)].concat();
    let good_qmp = format!("{GREETING}{{\"return\": {{}}, \"id\": 1}}\n{{\"return\": {{}}, \"id\": 2}}\n");
    let (mut seed, mut answered, mut refused) = (0x6b69_6c6e, 0, 0);
    for round in 0..5000 {
        let mut bytes = if round % 2 == 0 { good_nbd.clone() } else { good_qmp.clone().into_bytes() };
        for _ in 0..=noise(&mut seed) % 4 {
            let place = usize::try_from(noise(&mut seed)).unwrap() % bytes.len();
            bytes[place] = noise(&mut seed).to_le_bytes()[0];
        }
        let fine = if round % 2 == 0 {
            nbd::Client::connect(channel(bytes), Limits::default(), "e", &[nbd::BASE_ALLOCATION])
                .and_then(|mut client| client.read(0, &mut [0; 32]))
                .is_ok()
        } else {
            Client::connect(channel(bytes), Limits::default())
                .and_then(|mut client| client.execute("x", json!({})))
                .is_ok()
        };
        *if fine { &mut answered } else { &mut refused } += 1;
    }
    assert!(answered > 100 && refused > 1000, "{answered} answered, {refused} refused");
}
