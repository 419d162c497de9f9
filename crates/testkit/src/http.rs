//! A HTTP/1.1 server on the loopback interface that does what a script says: whole files and parts, and all the ways
//! in which real servers and networks fail.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens to one request for a file. Faults are used up from the first to the last; then all goes well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed after this many bytes of the body.
    CutAt(u64),
    /// Content-Length says this, whatever comes.
    Length(u64),
    /// Nothing more comes after this many bytes, for this long.
    StallAt(u64, Duration),
    /// This status and no file.
    Status(u16),
    /// Status 302 to this place.
    Redirect(String),
    /// The byte at this place is another one.
    Altered(u64),
    /// The file has another ETag from now on.
    NewTag(String),
    /// A pause between bytes of the body.
    Slow(Duration),
}

/// A file on the server.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its ETag, quotes included.
    pub etag: Option<String>,
    /// Whether parts are sent.
    pub ranges: bool,
    /// Whether Content-Length is sent; otherwise the end of the connection is the end of the file.
    pub length: bool,
    /// What happens to the next requests.
    pub faults: Vec<Fault>,
}

impl Served {
    /// A file on a server as it should be.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, etag: Some("\"v1\"".to_owned()), ranges: true, length: true, faults: Vec::new() }
    }

    /// The same with faults.
    #[must_use]
    pub fn with(bytes: Vec<u8>, faults: impl IntoIterator<Item = Fault>) -> Self {
        Self { faults: faults.into_iter().collect(), ..Self::new(bytes) }
    }
}

/// A request as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// Path and query.
    pub path: String,
    /// Header Range.
    pub range: Option<String>,
    /// Header If-Range.
    pub if_range: Option<String>,
    /// Header Authorization.
    pub authorization: Option<String>,
    /// Bytes of the body that were sent.
    pub sent: u64,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Served>,
    asked: Vec<Asked>,
}

/// The server. It ends with the value.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    ended: Arc<AtomicBool>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// When there is no loopback interface.
    #[must_use]
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("the loopback interface");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(Mutex::new(State::default()));
        let ended = Arc::new(AtomicBool::new(false));
        let (theirs, over) = (Arc::clone(&state), Arc::clone(&ended));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                if let Ok(stream) = stream {
                    let state = Arc::clone(&theirs);
                    // A client that goes away is none of the server's business.
                    std::thread::spawn(move || drop(answer(stream, &state)));
                }
            }
        });
        Self { address, state, ended }
    }

    /// Puts a file at a path, which begins with a slash.
    pub fn put(&self, path: &str, file: Served) {
        lock(&self.state).files.insert(path.to_owned(), file);
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// All requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.state).asked.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // The listener looks up when somebody comes.
        drop(TcpStream::connect(self.address));
    }
}

fn answer(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let header = |name: &str| headers.get(name).cloned();
    let asked = Asked {
        path: path.clone(),
        range: header("range"),
        if_range: header("if-range"),
        authorization: header("authorization"),
        sent: 0,
    };
    let (number, file, fault) = {
        let mut state = lock(state);
        state.asked.push(asked.clone());
        let number = state.asked.len() - 1;
        let name = path.split('?').next().unwrap_or_default();
        let fault = state.files.get_mut(name).and_then(|file| {
            let fault = (!file.faults.is_empty()).then(|| file.faults.remove(0));
            if let Some(Fault::NewTag(tag)) = &fault {
                file.etag = Some(tag.clone());
            }
            fault
        });
        (number, state.files.get(name).cloned(), fault)
    };
    let Some(file) = file else { return stream.write_all(&status(404)) };
    match &fault {
        Some(Fault::Status(code)) => return stream.write_all(&status(*code)),
        Some(Fault::Redirect(place)) => {
            let head = format!(
                "HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            return stream.write_all(head.as_bytes());
        }
        _ => {}
    }
    let total = file.bytes.len();
    let wanted = asked.range.as_deref().and_then(|range| part(range, total));
    let same = asked.if_range.is_none() || asked.if_range == file.etag;
    let (from, to, head) = match wanted {
        Some((from, to)) if file.ranges && same => {
            if from >= total {
                return stream.write_all(&status(416));
            }
            (
                from,
                to,
                format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}\r\n", to - 1),
            )
        }
        _ => (0, total, "HTTP/1.1 200 OK\r\n".to_owned()),
    };
    let mut body = file.bytes.get(from..to).unwrap_or_default().to_vec();
    let mut length = body.len() as u64;
    if let Some(Fault::Length(other)) = fault {
        length = other;
    }
    let mut head = head;
    if file.length {
        head += &format!("Content-Length: {length}\r\n");
    }
    if let Some(etag) = &file.etag {
        head += &format!("ETag: {etag}\r\n");
    }
    head += "Connection: close\r\n\r\n";
    stream.write_all(head.as_bytes())?;
    if let Some(Fault::Altered(at)) = fault
        && let Some(byte) = usize::try_from(at).ok().and_then(|at| body.get_mut(at.checked_sub(from)?))
    {
        *byte ^= 1;
    }
    let stop = match fault {
        Some(Fault::CutAt(at) | Fault::StallAt(at, _)) => {
            usize::try_from(at).unwrap_or(usize::MAX).min(body.len())
        }
        _ => body.len(),
    };
    let step = if matches!(fault, Some(Fault::Slow(_))) { 1 } else { 64 << 10 };
    for chunk in body.get(..stop).unwrap_or_default().chunks(step) {
        stream.write_all(chunk)?;
        if let Some(asked) = lock(state).asked.get_mut(number) {
            asked.sent += chunk.len() as u64;
        }
        if let Some(Fault::Slow(pause)) = fault {
            std::thread::sleep(pause);
        }
    }
    if let Some(Fault::StallAt(_, pause)) = fault {
        std::thread::sleep(pause);
    }
    stream.flush()
}

fn status(code: u16) -> Vec<u8> {
    format!("HTTP/1.1 {code} As Told\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes()
}

/// First byte and the one behind the last of `bytes=5-`, `bytes=5-9`.
fn part(range: &str, total: usize) -> Option<(usize, usize)> {
    let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
    let from = from.parse().ok()?;
    let to = if to.is_empty() { total } else { to.parse::<usize>().ok()?.checked_add(1)?.min(total) };
    Some((from, to))
}
